--- How long requests took, lately and ever. SPDX-License-Identifier: MIT

local has_core, latency = pcall(require, "znl.console.latency")

describe("znl.console.latency", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local now, l

  before_each(function()
    now = 1000
    l = latency.new(function() return now end)
  end)

  it("has zeros without requests", function()
    local report = l:report()
    assert.equal(0, report.total.count)
    assert.equal(0, report.recent.p99_ms)
  end)

  it("forgets the recent ones after 5 to 10 seconds, the others never", function()
    l:add(2000)
    now = now + 4999
    assert.equal(1, l:report().recent.count)
    now = now + 1
    l:add(4000)
    local report = l:report()
    assert.equal(2, report.recent.count)
    assert.equal(4, report.recent.max_ms)
    assert.equal(3, report.recent.mean_ms)
    now = now + 5000
    report = l:report()
    assert.equal(1, report.recent.count)
    assert.equal(2, report.total.count)
    now = now + 100000
    report = l:report()
    assert.equal(0, report.recent.count)
    assert.equal(4, report.total.max_ms)
    l:add(1000)
    assert.equal(1, l:report().recent.max_ms)
  end)
end)
