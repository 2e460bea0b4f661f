-- SPDX-License-Identifier: MIT
local znl = require("znl")
local eventually = require("tests.lua.support.eventually")
local events = require("znl.events")
local scope = require("znl.versions.scope")
local sched = require("znl.core.sched")
local log_lines = require("tests.lua.support.log_lines")

describe("scope", function()
  local steps, made

  local function step(name) steps[#steps + 1] = name end

  local function register(name)
    return scope.register(function()
      step("start " .. name)
      return function() step("undo " .. name) end
    end)
  end

  before_each(function()
    steps = {}
    made = assert(scope.new { name = "v1" })
  end)

  after_each(function()
    if made.state == "staged" then made:abandon() end
    made:finish()
    assert.equal(0, scope.count())
  end)

  it("notes what is registered, starts it at commit, undoes it newest first", function()
    made:run(function()
      register("a")
      register("b")
      register("c")
    end)
    assert.same({}, steps)
    assert.equal("staged", made.state)
    assert.is_true(made:commit())
    assert.same({ "start a", "start b", "start c" }, steps)
    made:run(register, "d") -- live: at once
    assert.equal("start d", steps[4])
    steps = {}
    made:halt()
    made:halt()
    assert.same({ "undo d", "undo c", "undo b", "undo a" }, steps)
    assert.equal("retiring", made.state)
    made:finish()
    made:finish()
    assert.equal("ended", made.state)
    assert.equal(4, #steps)
  end)

  it("is that of the running code, also where tasks spawn tasks", function()
    assert.is_nil(scope.current())
    local inner
    made:run(function()
      assert.equal(made, scope.current())
      znl.spawn(function() inner = scope.current() end)
      sched.become(nil)
      assert.is_nil(scope.current())
    end)
    assert.equal(made, inner)
    assert.is_nil(scope.current())
  end)

  it("lets a registration be taken back once, at any time", function()
    local stops = {}
    made:run(function()
      stops.never = register("never")
      stops.live = register("live")
    end)
    stops.never()
    made:commit()
    stops.never()
    stops.live()
    stops.live()
    made:halt()
    stops.live()
    assert.same({ "start live", "undo live" }, steps)
  end)

  it("outside of any starts at once", function()
    local stop = register("x")
    assert.same({ "start x" }, steps)
    stop()
    stop()
    assert.same({ "start x", "undo x" }, steps)
    scope.register(function() end)() -- nothing to undo
  end)

  it("that cannot start everything starts nothing", function()
    made:run(function()
      register("a")
      scope.register(function() error("no port") end)
      register("never")
    end)
    local line = debug.getinfo(1, "l").currentline - 3
    local ok, message = made:commit()
    assert.is_nil(ok)
    assert.matches("scope_spec.lua:" .. line .. ": no port", message, 1, true)
    assert.same({ "start a", "undo a" }, steps)
    assert.equal("staged", made.state)
    made:abandon()
    assert.equal("ended", made.state)
    assert.equal(2, #steps)
  end)

  it("does not wait while it commits", function()
    made:run(function()
      register("a")
      scope.register(function() znl.sleep(1) end)
    end)
    local ok, message = made:commit()
    assert.is_nil(ok)
    assert.matches("scope_spec.lua:%d+: this waits", message)
    local other = scope.new { name = "v2" }
    other:run(function() scope.register(function() coroutine.yield() end) end)
    ok, message = other:commit()
    assert.is_nil(ok)
    assert.matches("v2: waited where that is not possible", message, 1, true)
    other:abandon()
  end)

  it("owns what its functions register while it commits", function()
    local stop
    made:run(function()
      scope.register(function() register("inside") end)
      stop = scope.register(function() stop() step("took itself back") end)
      register("last")
    end)
    assert.is_true(made:commit())
    assert.same({ "took itself back", "start last", "start inside" }, steps)
    steps = {}
    made:halt()
    assert.same({ "undo inside", "undo last" }, steps)
  end)

  it("undoes all though one undo raises", function()
    log_lines.during(function(lines)
      made:run(function()
        register("a")
        scope.register(function() return function() error("stuck") end end)
        register("c")
      end)
      made:commit()
      made:halt()
      assert.same({ "start a", "start c", "undo c", "undo a" }, steps)
      assert.equal(1, #lines)
      assert.matches("stuck", lines[1].fields.error)
    end)
  end)

  it("ignores what a replaced version registers, and says so", function()
    log_lines.during(function(lines)
      local stop
      made:commit()
      local task = require("znl.tasks.task").background(made.owner, function()
        sched.become(made.owner)
        znl.sleep(2)
        stop = register("late")
        return "served"
      end)
      made:halt()
      assert.equal("served", task:wait(30000))
      stop()
      assert.same({}, steps)
      assert.equal(1, #lines)
    end)
  end)

  it("runs functions and says what they came to", function()
    assert.same({ true, 3, nil, "x" }, { made:run(function(a, b) znl.sleep(1) return a + b, nil, "x" end, 1, 2) })
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = made:run(function() error("broken") end)
    assert.is_false(ok)
    assert.matches("scope_spec.lua:" .. line .. ": broken$", message)
    made:abandon()
    assert.same({ false, "spawn: stopped" }, { made:run(function() end) })
  end)

  it("that is abandoned drops what it was doing, and who waits hears of it", function()
    local result
    local waiter = znl.spawn(function() result = { made:run(function() znl.sleep(60000) step("woken") end) } end)
    made:abandon()
    waiter:wait(30000)
    assert.same({ false, "v1: abandoned before it went into service" }, result)
    assert.same({}, steps)
    assert.has_error(function() made:abandon() end, "znl.scope: only a staged scope is abandoned; v1 is ended")
    assert.has_error(function() made:commit() end, "znl.scope: only a staged scope commits; v1 is ended")
  end)

  it("finishes its background and lets requests end", function()
    local served
    made:run(function() znl.spawn(function() znl.sleep(60000) end) end)
    made:commit()
    sched.spawn_owned(made.owner, function() znl.sleep(2) served = true end)
    assert.equal(1, made.owner:active())
    made:finish()
    local idle = znl.event()
    made.owner:on_idle(function() idle:set(true) end)
    assert.is_true(idle:wait(30000))
    assert.is_true(served)
    assert.equal(0, made.owner:background())
  end)

  it("binds functions for others to call", function()
    local bound, seen
    made:run(function()
      bound = scope.bind(function(value)
        seen = scope.current()
        if value == nil then error("no value") end
        return value, 2
      end)
    end)
    assert.same({ 1, 2 }, { bound(1) })
    assert.equal(made, seen)
    local ok, message = pcall(bound)
    assert.is_false(ok)
    assert.matches("scope_spec.lua:%d+: no value$", message)
    assert.equal(print, scope.bind(print)) -- no scope here
  end)

  it("has its listeners called in its own tasks, while it is live", function()
    local seen, failures = {}, {}
    local emitter = events.new {
      names = { "e" }, what = "test", on_error = function(message) failures[#failures + 1] = message end,
    }
    local function staged() end
    made:run(function()
      emitter:on("e", function(value)
        znl.sleep(1)
        seen[#seen + 1] = { value, scope.current() }
        if value == 3 then error("listener broke") end
      end)
      emitter:once("e", function(value) seen[#seen + 1] = { "once", value } end)
      emitter:on("e", staged)
    end)
    emitter:off("e", staged) -- found though it is not in place yet
    emitter:emit("e", 1)
    assert.same({}, seen)
    made:commit()
    assert.is_true(emitter:wanted("e"))
    emitter:emit("e", 2)
    emitter:emit("e", 3)
    assert.equal(3, #seen)
    assert.equal(2, seen[1][1])
    assert.equal(made, seen[1][2])
    assert.same({ "once", 2 }, seen[2])
    assert.equal(3, seen[3][1])
    assert.matches("scope_spec.lua:%d+: listener broke", failures[1])
    made:halt()
    assert.is_false(emitter:wanted("e"))
    emitter:emit("e", 4)
    assert.equal(3, #seen)
  end)

  it("takes on_stop functions back", function()
    local ran = false
    made:run(function() znl.on_stop(function() ran = true end) end)
    made:commit()
    made:finish()
    local forget = znl.on_stop(function() end)
    forget()
    assert.is_false(ran)
    assert.has_error(function() znl.on_stop(1) end, "znl.on_stop: the argument must be a function, not a number")
  end)

  it("frees versions that ended", function()
    local gone = setmetatable({}, { __mode = "k" })
    local previous, tasks = nil, sched.counters().tasks
    for number = 1, 20 do
      local version = scope.new { name = "v" .. number, previous = previous }
      gone[version] = true
      version:run(function()
        local big = ("x"):rep(1000)
        znl.every(60000, function() return big end, { name = "tick" })
        znl.spawn(function() znl.sleep(60000) return big end)
      end)
      assert.is_true(version:commit())
      if previous then previous:finish() end
      previous = version
    end
    previous:finish()
    previous = nil -- luacheck: ignore 311
    eventually(function() return sched.counters().tasks <= tasks end, "dropping their tasks")
    for _ = 1, 3 do collectgarbage() end
    local count = 0
    for _ in pairs(gone) do count = count + 1 end
    assert.is_true(count <= 1, count .. " versions are left") -- one may be on this stack
  end)
end)
