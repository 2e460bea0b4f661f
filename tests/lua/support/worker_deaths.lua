--- Worker threads that die, for workers_spec.lua, which runs this in a process of its own.
--- SPDX-License-Identifier: MIT

local znl = require("znl")
local eventually = require("tests.lua.support.eventually")

local shared = znl.shared("workers-spec")

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path) == 0)
  return path
end

local function together(functions)
  local group = znl.wait_group()
  for _, fn in ipairs(functions) do group:go(fn) end
  group:wait()
end

describe("when a worker dies", function()
  local pool

  before_each(function() shared:flush() end)

  after_each(function()
    if pool then pool:close(1000) end
    pool = nil
  end)

  local function open(opts, text)
    opts.name = "spec"
    pool = znl.workers(opts)
    if text then assert(pool:stage { id = "v", path = "spec.lua", text = text }) end
  end

  local DIES = [[
    local shared = require("znl").shared("workers-spec")
    return {
      handle = function(req)
        if req.payload == "die" then require("znl.core.testing").end_thread() end
        shared:incr("begun", 1, 0)
        while req.payload == "wait" and not shared:get("go") do require("znl").sleep(5) end
        return require("lib_of_spec").text
      end,
      on_load = function() shared:incr("loads", 1, 0) end,
    }]]

  it("says so to its requests, and starts another with what is in service", function()
    local root = folder()
    write(root .. "/lib_of_spec.lua", "return { text = 'library' }")
    open { count = 2, root = root }
    -- Required while it loads, so that its text is what later workers get, too.
    assert(pool:stage { id = "v", path = "dies.lua", text = "require('lib_of_spec') " .. DIES })
    os.execute("rm -r " .. root)
    assert.equal(2, shared:get("loads"))
    local results, codes, messages = {}, {}, {}
    local functions = {}
    for index = 1, 4 do
      functions[index] = function()
        results[index], messages[index], codes[index] = pool:call("v", { payload = "wait" })
      end
    end
    functions[5] = function()
      eventually(function() return shared:get("begun") == 4 end, "all begin")
      local result, _, code = pool:call("v", { payload = "die" })
      assert.is_nil(result)
      assert.equal("WORKER_DIED", code)
      shared:set("go", true)
    end
    together(functions)
    local died, answered = 0, 0
    for index = 1, 4 do
      if codes[index] == "WORKER_DIED" then
        died = died + 1
        assert.truthy(messages[index]:find("^spec: worker %d died"))
      else
        assert.equal("library", results[index])
        answered = answered + 1
      end
    end
    assert.equal(2, died)
    assert.equal(2, answered)
    eventually(function() return pool:counters().up == 2 end, "another takes its place")
    local counters = pool:counters()
    assert.equal(1, counters.died)
    assert.equal(1, counters.restarts)
    assert.equal(3, counters.died_requests)
    assert.equal(0, counters.at_work)
    assert.equal(3, shared:get("loads"))
    -- Both answer: each waits for the other.
    shared:delete("begun")
    assert(pool:stage { id = "meet", path = "meet.lua", text = [[
      local shared = require("znl").shared("workers-spec")
      return function()
        shared:incr("begun", 1, 0)
        local spins = 0
        while shared:get("begun") < 2 and spins < 2e7 do spins = spins + 1 end
        return spins < 2e7
      end]] })
    together {
      function() results[1] = pool:call("meet", {}) end,
      function() results[2] = pool:call("meet", {}) end,
    }
    assert.is_true(results[1])
    assert.is_true(results[2])
  end)

  it("lets requests wait for the next one when there is no other", function()
    open({ count = 1, root = folder() }, "package.loaded.lib_of_spec = { text = 'here' } " .. DIES)
    assert.equal("WORKER_DIED", select(3, pool:call("v", { payload = "die" })))
    assert.equal("here", (pool:call("v", { payload = "now" })))
  end)

  it("answers the requests of nodes, too", function()
    local root = folder()
    write(root .. "/dies.lua", [[
      return function(req)
        if req.payload == "die" then require("znl.core.testing").end_thread() end
        return "done"
      end]])
    local handlers = znl.handlers(root .. "/dies.lua", { workers = 2 })
    local master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
    master:handle(handlers)
    assert(master:start())
    local slave = znl.slave { id = "s", endpoint = master:endpoint() }
    assert(slave:start())
    assert.equal("done", slave:request("x"))
    assert.equal("WORKER_DIED", select(3, slave:request("die")))
    for _ = 1, 4 do assert.equal("done", slave:request("x")) end
    slave:stop()
    master:stop()
    handlers:close()
    handlers.pool:wait_stopped()
    os.execute("rm -r " .. root)
  end)
end)
