--- Slaves with several endpoints. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")

describe("a slave with several endpoints", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, level

  local function made(kind, opts)
    local node = znl[kind](opts)
    nodes[#nodes + 1] = node
    return node
  end

  local function master(id, opts)
    opts = opts or {}
    opts.id, opts.endpoint = id, opts.endpoint or "tcp://127.0.0.1:*"
    local node = made("master", opts)
    node:handle(function(req) return id .. " answers " .. req.payload end)
    assert(node:start())
    return node
  end

  before_each(function()
    nodes, level = {}, znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, node in ipairs(nodes) do node:stop() end
  end)

  for _, key in ipairs { false, "a key of this test" } do
    it("goes to the next master when one ends, " .. (key and "encrypted" or "plain"), function()
      local with = { encrypted = key and true or false, auth_key = key or nil }
      local function options(more)
        for name, value in pairs(with) do more[name] = value end
        return more
      end
      local first, second = master("m1", options {}), master("m2", options {})
      local slave = made("slave", options { id = "s", endpoints = { first:endpoint(), second:endpoint() } })
      local ids, reasons = {}, {}
      slave:on("master_online", function(id) ids[#ids + 1] = id end)
      slave:on("master_offline", function(_, reason) reasons[#reasons + 1] = reason end)
      assert(slave:start())
      assert.equal("m1 answers x", slave:request("x"))
      assert.equal(first:endpoint(), slave:endpoint())
      first:handle(function() znl.sleep(60000) end)
      local code
      local under_way = znl.spawn(function() code = select(3, slave:request("y", { timeout_ms = 30000 })) end)
      eventually(function() return first:counters().handlers == 1 end)
      first:stop()
      eventually(function() return second:is_online("s") end)
      under_way:wait()
      -- A stopping master tells whom it refuses, if that is still read.
      assert.is_true(code == "REBUILT" or code == "STOPPED" or code == "CANCELLED", code)
      assert.equal("m2 answers z", slave:request("z"))
      assert.equal(second:endpoint(), slave:endpoint())
      assert.same({ "connection lost" }, reasons)
      assert.same({ key and "m1" or "", key and "m2" or "" }, ids)
      assert.equal(1, slave:counters().failovers)
    end)
  end

  it("believes only the masters it was told", function()
    local key = "a key of this test"
    local first, second = master("m1", { encrypted = true, auth_key = key }),
      master("m2", { encrypted = true, auth_key = key })
    local slave = made("slave", {
      id = "s", encrypted = true, auth_key = key, master_ids = { "m2", "m3" },
      endpoints = { first:endpoint(), second:endpoint() },
    })
    assert(slave:start())
    eventually(function() return slave:master_id() end)
    assert.equal("m2", slave:master_id())
    assert.is_true(slave:counters().auth_failed > 0)
  end)

  it("begins anywhere when it is told so", function()
    local seen, count, endpoints = {}, 0, {}
    for index = 1, 4 do endpoints[index] = "sim://failover-" .. index end
    for index = 1, 200 do
      local slave = made("slave", { id = "s" .. index, endpoints = endpoints, endpoint_order = "random" })
      assert(slave:start())
      if not seen[slave:endpoint()] then count = count + 1 end
      seen[slave:endpoint()] = true
      slave:stop()
      if count == 4 then break end
    end
    assert.equal(4, count)
    assert.equal("sim://failover-1", endpoints[1]) -- the script's own list stays as it was
  end)

  it("refuses options that cannot work", function()
    for expected, opts in pairs {
      ["options endpoint and endpoints exclude each other"] = { endpoint = "sim://a", endpoints = { "sim://b" } },
      ["options master_id and master_ids exclude each other"] = { master_id = "a", master_ids = { "b" } },
      ["several endpoints need heartbeats"] = { endpoints = { "sim://a", "sim://b" }, heartbeat_ms = 0 },
      ["option endpoints"] = { endpoints = {} },
      ["option master_ids"] = { master_ids = { "" } },
      ["option endpoint_order"] = { endpoint_order = "first" },
    } do
      opts.id = "s"
      local ok, message = pcall(znl.slave, opts)
      assert.is_false(ok)
      assert.is_truthy(message:find(expected, 1, true), message)
    end
    for _, list in ipairs { { "x" }, { "sim://a", "sim://a" }, { "sim://a", 2 }, { [2] = "sim://a" } } do
      assert.is_false((pcall(znl.slave, { id = "s", endpoints = list })))
    end
    local slave = made("slave", { id = "s", endpoints = { "sim://a", "tcp://nowhere" } })
    local ok, message, code = slave:start()
    assert.is_nil(ok)
    assert.equal("ADDRESS", code)
    assert.is_truthy(message:find("tcp://nowhere", 1, true), message)
  end)
end)
