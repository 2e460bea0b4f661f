--- Latencies in steps. SPDX-License-Identifier: MIT

local histogram = require("znl.console.histogram")

describe("znl.console.histogram", function()
  it("is empty at first", function()
    local h = histogram.new()
    assert.equal(0, h:percentile_us(0.5))
    assert.equal(0, h:mean_us())
  end)

  it("gives percentiles within 1.6 % and never above the most", function()
    local h, state, values = histogram.new(), 1, {}
    for index = 1, 20000 do
      state = (state * 16807) % 2147483647
      values[index] = math.exp(state / 2147483647 * 20) -- 1 µs to 8 minutes
      h:add(values[index])
    end
    table.sort(values)
    assert.equal(values[#values], h.max_us)
    for _, share in ipairs { 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1 } do
      local exact = values[math.ceil(share * #values)]
      local got = h:percentile_us(share)
      assert.is_true(got >= math.floor(exact), ("%g: %g for %g"):format(share, got, exact))
      assert.is_true(got <= exact * 1.016 + 1, ("%g: %g for %g"):format(share, got, exact))
      assert.is_true(got <= h.max_us)
    end
  end)

  it("keeps steps in order at the edges", function()
    local last = 0
    for _, us in ipairs { 0, 1, 127, 128, 129, 255, 256, 4095, 4096, 65536 } do
      local h = histogram.new()
      h:add(us)
      h:add(1e9)
      local got = h:percentile_us(0.5)
      assert.is_true(got > us and got <= us * 1.016 + 2 and got >= last, us .. ": " .. got)
      last = got
    end
  end)
end)
