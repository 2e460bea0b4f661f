-- SPDX-License-Identifier: MIT
local znl = require("znl")
local eventually = require("tests.lua.support.eventually")
local sched = require("znl.core.sched")
local log_lines = require("tests.lua.support.log_lines")

describe("tasks", function()
  it("give their results to whoever waits, before and after the end", function()
    local task = znl.spawn(function(a, b)
      znl.sleep(2)
      return a + b, nil, "three"
    end, 1, 2)
    assert.is_false(task:is_done())
    local heard = {}
    for index = 1, 3 do
      znl.spawn(function() heard[index] = { n = select("#", task:wait()), task:wait() } end)
    end
    assert.same({ 3, nil, "three" }, { task:wait() })
    eventually(function() return heard[1] and heard[2] and heard[3] end)
    for index = 1, 3 do assert.same({ n = 3, 3, nil, "three" }, heard[index]) end
    assert.is_true(task:is_done())
    assert.equal(0, select("#", znl.spawn(function() end):wait()))
  end)

  it("run at once until they wait", function()
    local steps = {}
    local task = znl.spawn(function()
      steps[1] = "inside"
      znl.sleep(0)
      steps[3] = "later"
    end)
    steps[2] = "outside"
    task:wait()
    assert.same({ "inside", "outside", "later" }, steps)
  end)

  it("that raise are logged once with traceback, counted, and reported to who waits", function()
    log_lines.during(function(lines)
      local failed = sched.counters().failed
      local line = debug.getinfo(1, "l").currentline + 2
      local task = znl.spawn(function()
        local function inner() error("broken") end
        znl.sleep(1)
        inner()
      end)
      local result, message, code = task:wait()
      assert.is_nil(result)
      assert.equal("FAILED", code)
      assert.matches("task_spec.lua:" .. line .. ": broken\nstack traceback:", message, 1, true)
      assert.matches("task_spec.lua:" .. line + 2, message, 1, true)
      assert.same({ nil, message, "FAILED" }, { task:wait() })
      assert.equal(failed + 1, sched.counters().failed)
      assert.equal(1, #lines)
      assert.equal("error", lines[1].level)
      assert.equal(message, lines[1].fields.error)
      znl.spawn(function() error({}) end) -- nobody waits, and it is no text
      assert.equal(2, #lines)
      assert.matches("error object is a table value", lines[2].fields.error, 1, true)
    end)
  end)

  it("can be waited for in vain", function()
    local task = znl.spawn(function() znl.sleep(20) return "late" end)
    local value, message, code = task:wait(1)
    assert.same({ nil, "task: no answer in time", "TIMEOUT" }, { value, message, code })
    assert.equal("late", task:wait(30000))
  end)

  it("are cancelled where they wait, with the reason, and what they spawned is not", function()
    local inner
    local task = znl.spawn(function()
      inner = znl.spawn(function() return znl.sleep(5) end)
      local ok, message, code = znl.sleep(60000)
      return ok, message, code, select(3, znl.sleep(60000))
    end)
    assert.is_true(task:cancel("not needed"))
    assert.is_false(task:is_done()) -- it says itself when it is done
    assert.same({ nil, "sleep: not needed", "CANCELLED", "CANCELLED" }, { task:wait(30000) })
    assert.is_false(task:cancel())
    assert.is_true(inner:wait(30000))
  end)

  it("cancelled while nothing waits for them see it at their next wait", function()
    local gate = znl.event()
    local task = znl.spawn(function()
      gate:wait()
      return select(3, znl.sleep(1))
    end)
    gate:set()
    task:cancel()
    assert.equal("CANCELLED", task:wait(30000))
  end)

  it("dropped with their owner tell who waits", function()
    log_lines.during(function(lines)
      local owner = sched.owner()
      local task = require("znl.tasks.task").background(owner, function() znl.sleep(60000) end)
      owner:cut("replaced")
      assert.same({ nil, "replaced", "STOPPED" }, { task:wait(30000) })
      assert.same({}, lines) -- no failure of the script
      assert.same({ nil, "spawn: stopped", "STOPPED" },
        { require("znl.tasks.task").background(owner, function() end) })
    end)
  end)

  it("blame wrong use on its line", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() znl.spawn("x") end)
    assert.is_false(ok)
    assert.matches("task_spec.lua:" .. line .. ": znl.spawn: the first argument must be a function", message, 1, true)
    local task = znl.spawn(function() znl.sleep(1) end)
    assert.has_error(function() task:wait(-1) end)
    ok, message = pcall(coroutine.wrap(function() task:wait() end))
    assert.is_false(ok)
    assert.matches("task:wait waits, so it must be called from a coroutine made by znl", message, 1, true)
    task:wait()
  end)

  it("that wait cost little beside their coroutine", function()
    collectgarbage()
    local before, tasks = collectgarbage("count"), {}
    for i = 1, 1000 do tasks[i] = znl.spawn(znl.sleep, 20) end
    local each = (collectgarbage("count") - before) * 1024 / 1000
    for _, task in ipairs(tasks) do assert.is_true(task:wait()) end
    assert.is_true(each < 2048, "a sleeping task takes " .. each .. " bytes")
  end)
end)

describe("all", function()
  it("returns the first result of each by its key", function()
    local started = znl.spawn(function() znl.sleep(2) return "task" end)
    local results = znl.all {
      function() return 1, "ignored" end, started, name = function() znl.sleep(1) return false end,
    }
    assert.same({ 1, "task", name = false }, results)
    assert.same({}, znl.all {})
  end)

  it("fails with the first that fails, and cancels the others", function()
    local codes = {}
    local function sleeper()
      local _, _, code = znl.sleep(60000)
      codes[#codes + 1] = code
    end
    local result, message, code = znl.all {
      sleeper, function() znl.sleep(1) return nil, "no such thing", "NOT_FOUND" end, sleeper,
    }
    assert.same({ nil, "no such thing", "NOT_FOUND" }, { result, message, code })
    eventually(function() return #codes == 2 end)
    assert.same({ "CANCELLED", "CANCELLED" }, codes)
    log_lines.during(function(lines)
      result, message, code = znl.all { sleeper, function() error("raised") end }
      assert.is_nil(result)
      assert.matches("task_spec.lua:%d+: raised\nstack traceback", message)
      assert.equal("FAILED", code)
      assert.equal(1, #lines)
    end)
  end)

  it("cancels them when the one who waits is cancelled", function()
    local code
    local task = znl.spawn(function()
      return znl.all { function() code = select(3, znl.sleep(60000)) end }
    end)
    task:cancel("no")
    assert.same({ nil, "task: no", "CANCELLED" }, { task:wait(30000) })
    eventually(function() return code end)
    assert.equal("CANCELLED", code)
  end)

  it("refuses what is neither function nor task", function()
    assert.has_error(function() znl.all { 1 } end, "znl.all: entry 1 must be a function or a task, not a number")
    assert.has_error(function() znl.all() end)
    assert.has_error(function() znl.race {} end, "znl.race: there must be one to wait for")
  end)
end)

describe("race", function()
  it("returns what the first comes to, and cancels the others", function()
    local message, code
    local slow = znl.spawn(function() message, code = select(2, znl.sleep(60000)) end)
    assert.same({ "fast", 2 }, { znl.race {
      slow, function() znl.sleep(1) return "fast", 2 end, function() return (znl.sleep(60000)) end,
    } })
    slow:wait(30000)
    assert.same({ "sleep: another one was first", "CANCELLED" }, { message, code })
    assert.same({ nil, "failed first", "X" }, { znl.race {
      function() znl.sleep(60000) end, function() return nil, "failed first", "X" end,
    } })
  end)

  it("does not start what comes after one that ends at once", function()
    local started = false
    assert.equal(1, znl.race { function() return 1 end, function() started = true end })
    assert.is_false(started)
  end)

  it("within a deadline ends with it", function()
    local code
    assert.same({ nil, "task: the deadline has passed", "DEADLINE" }, {
      znl.with_timeout(2, znl.race, { function() code = select(3, znl.sleep(60000)) end }),
    })
    assert.equal("DEADLINE", code)
  end)
end)

describe("a cancelled task", function()
  it("that takes no notice is told at once, and then with pauses", function()
    local told, goes_on = 0, true
    local task = znl.spawn(function()
      while goes_on do
        if select(3, znl.sleep(60000)) == "CANCELLED" then told = told + 1 end
      end
    end)
    task:cancel("no")
    local turns, began_ms = 0, znl.now_ms()
    repeat
      znl.sleep(0)
      turns = turns + 1
    until turns >= 2000 and told > 100
    -- 100 at once, the others at least 10 ms apart.
    assert.is_true(told <= 102 + (znl.now_ms() - began_ms) / 9, told .. " times")
    goes_on = false
    local _, _, code = task:wait(30000)
    assert.not_equal("TIMEOUT", code)
  end)

  it("that takes no notice ends with its owner", function()
    local owner, told = sched.owner(), 0
    local own = znl.token()
    own:cancel("no")
    sched.spawn_owned(owner, function()
      znl.with(own, function()
        while true do told = told + (znl.sleep(60000) == nil and 1 or 0) end
      end)
    end)
    eventually(function() return told > 100 end)
    owner:cut("over")
    eventually(function() return owner:active() == 0 end)
    local before = told
    for _ = 1, 100 do znl.sleep(0) end
    assert.equal(before, told)
  end)
end)
