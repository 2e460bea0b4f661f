--- znl.security.network: who is within which network. SPDX-License-Identifier: MIT
local network = require("znl.security.network")

local function bytes(text)
  local list = network.address(text)
  return list and table.concat(list, ".")
end

describe("znl.security.network", function()
  it("reads addresses", function()
    for text, expected in pairs {
      ["10.0.0.1"] = "10.0.0.1", ["255.255.255.255"] = "255.255.255.255", ["::ffff:10.0.0.1"] = "10.0.0.1",
      ["::FFFF:a00:1"] = "10.0.0.1", ["[::1]"] = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1",
      ["::"] = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0", ["fe80::1%eth0"] = "254.128.0.0.0.0.0.0.0.0.0.0.0.0.0.1",
      ["1:2:3:4:5:6:7:8"] = "0.1.0.2.0.3.0.4.0.5.0.6.0.7.0.8", ["1:2:3:4:5:6:7::"] = "0.1.0.2.0.3.0.4.0.5.0.6.0.7.0.0",
      ["64:ff9b::192.0.2.33"] = "0.100.255.155.0.0.0.0.0.0.0.0.192.0.2.33",
    } do
      assert.equal(expected, bytes(text), text)
    end
    for _, text in ipairs {
      "", "10.0.0", "10.0.0.256", "10.0.0.0.1", "a.b.c.d", "localhost", ":", ":::", "1::2::3", "1:2:3:4:5:6:7",
      "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::12345", "::g", "1.2.3.4::", " 10.0.0.1", "[10.0.0.1", "::1.2.3.999",
    } do
      assert.is_nil(network.address(text), text)
    end
  end)

  it("tells who is inside", function()
    for _, case in ipairs {
      { "10.0.0.0/8", "10.255.1.2", true }, { "10.0.0.0/8", "11.0.0.0", false }, { "10.1.2.3", "10.1.2.3", true },
      { "10.1.2.3", "10.1.2.4", false }, { "192.168.4.0/22", "192.168.7.255", true },
      { "192.168.4.0/22", "192.168.8.0", false }, { "0.0.0.0/0", "1.2.3.4", true }, { "0.0.0.0/0", "::1", false },
      { "fd00::/8", "fdff::1", true }, { "fd00::/8", "fe00::1", false }, { "::1", "::1", true },
      { "10.0.0.0/8", "::ffff:10.9.9.9", true }, { "10.0.0.0/9", "10.128.0.0", false },
    } do
      local found = network.contains(assert(network.parse(case[1])), assert(network.address(case[2])))
      assert.equal(case[3], found, case[1] .. " " .. case[2])
    end
  end)

  it("refuses what is no network", function()
    for _, text in ipairs { "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10/8", "host/8", "/8" } do
      local parsed, problem = network.parse(text)
      assert.is_nil(parsed, text)
      assert.is_string(problem)
    end
  end)

  it("takes the host out of a socket's name", function()
    assert.equal("10.0.0.1", network.host_of("10.0.0.1:5000"))
    assert.equal("::1", network.host_of("[::1]:5000"))
    assert.is_true(network.equal(network.address("[::1]"), network.address("0:0::1")))
    assert.is_false(network.equal(network.address("10.0.0.1"), network.address("::1")))
  end)
end)
