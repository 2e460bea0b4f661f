--- A master with several endpoints. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")

local LONG = { timeout_ms = 60000 }

describe("a master with several endpoints", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, folder

  local function made(kind, opts)
    local node = znl[kind](opts)
    nodes[#nodes + 1] = node
    return node
  end

  local function path(name) return "ipc://" .. folder .. "/" .. name end

  before_each(function()
    nodes, folder = {}, os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder) == 0)
  end)

  after_each(function()
    for _, node in ipairs(nodes) do node:stop() end
    os.execute("rm -r " .. folder)
  end)

  for _, engine in ipairs { "libzmq", "zmtp", "auto" } do
    it("serves on each of them, with engine " .. engine, function()
      local given = { "tcp://127.0.0.1:*", path("a"), "tcp://[::1]:*" }
      local master = made("master", { id = "m", endpoints = given, engine = engine })
      assert.same(given, master:endpoints())
      assert.equal(given[1], master:endpoint())
      master:handle(function(req) return req.from .. " asked " .. req.payload end)
      assert(master:start())
      local places = master:endpoints()
      assert.equal(3, #places)
      assert.equal(places[1], master:endpoint())
      assert.equal(path("a"), places[2])
      assert.truthy(places[1]:find("^tcp://127%.0%.0%.1:%d+$"), places[1])
      assert.truthy(places[3]:find("^tcp://%[::1%]:%d+$"), places[3])
      for index, place in ipairs(places) do
        local id = "s" .. index
        local slave = made("slave", { id = id, endpoint = place, engine = engine })
        assert(slave:start())
        assert.equal(id .. " asked x", slave:request("x", LONG))
      end
      assert.equal(3, #master:slaves())
      assert.equal(3, (master:publish("t", "x")))
    end)

    it("binds all or none, and names the one, with engine " .. engine, function()
      local taken = made("master", { id = "taken", endpoint = "tcp://127.0.0.1:*" })
      assert(taken:start())
      local master = made("master", {
        id = "m", endpoints = { path("a"), path("b"), taken:endpoint() }, engine = engine,
      })
      local ok, message, code = master:start()
      assert.is_nil(ok)
      assert.equal("ADDRESS_IN_USE", code)
      assert.truthy(message:find("start: " .. taken:endpoint() .. ": ", 1, true), message)
      assert.is_false(master:running())
      local other = made("master", { id = "other", endpoints = { path("b"), path("a") }, engine = engine })
      assert(other:start())
      local slave = made("slave", { id = "s", endpoint = path("a"), engine = engine })
      assert(slave:start())
      eventually(function() return other:is_online("s") end)
    end)
  end

  it("may have one inside the process among them", function()
    local master = made("master", { id = "m", endpoints = { "tcp://127.0.0.1:*", "inproc://endpoints" } })
    master:handle(function(req) return "got " .. req.payload end)
    assert(master:start())
    for index, place in ipairs(master:endpoints()) do
      local slave = made("slave", { id = "s" .. index, endpoint = place })
      assert(slave:start())
      assert.equal("got x", slave:request("x", LONG))
    end
  end)

  it("is refused when they make no sense", function()
    local function wrong(opts, want)
      opts.id = "m"
      local ok, message = pcall(znl.master, opts)
      assert.is_false(ok)
      assert.truthy(message:find(want, 1, true), message)
    end
    local many = {}
    for index = 1, 33 do many[index] = "tcp://127.0.0.1:" .. index end
    wrong({ endpoints = {} }, "an array of 1 to 32 different endpoints")
    wrong({ endpoints = many }, "an array of 1 to 32 different endpoints")
    wrong({ endpoints = { "tcp://127.0.0.1:1", "here" } }, "an array of 1 to 32 different endpoints")
    wrong({ endpoints = { path("a"), path("a") } }, "an array of 1 to 32 different endpoints")
    wrong({ endpoints = { "tcp://127.0.0.1:1" }, endpoint = "tcp://127.0.0.1:2" }, "exclude each other")
    wrong({ endpoints = { "sim://x", "tcp://127.0.0.1:2" } }, "sim://x does not go together with other endpoints")
    wrong({ endpoints = { "tcp://127.0.0.1:2", "inproc://x" }, engine = "zmtp" }, "does not speak inproc://x")
    wrong({ endpoint = { "tcp://127.0.0.1:1" } }, "several go into endpoints")
  end)
end)
