-- SPDX-License-Identifier: MIT
local znl = require("znl")
local eventually = require("tests.lua.support.eventually")
local core = require("znl.core.timer")
local scope = require("znl.versions.scope")

--- A stand-in for a version of a handler file.
local function version(name, previous)
  local made = assert(scope.new { name = name, previous = previous })
  return made, function(fn)
    local ok, result = made:run(fn)
    assert(ok, result)
    return result
  end
end

describe("timer", function()
  it("runs once, in a coroutine, without arguments", function()
    local heard = {}
    znl.timer(2, function(...)
      heard[1] = select("#", ...)
      heard[2] = znl.sleep(1)
    end)
    assert.equal(1, core.count())
    eventually(function() return heard[2] end)
    assert.same({ 0, true }, heard)
    assert.equal(0, core.count())
  end)

  it("can be stopped, before and after", function()
    local ran = 0
    local timer = znl.timer(1, function() ran = ran + 1 end)
    timer:stop()
    timer:stop()
    local other = znl.timer(1, function() ran = ran + 1 end) -- in the same slot
    timer:stop()
    eventually(function() return ran > 0 end)
    znl.sleep(3)
    assert.equal(1, ran)
    other:stop()
    assert.equal(0, core.count())
  end)

  it("repeats, skips times while its function runs, and goes on after an error", function()
    local runs, running, most = 0, 0, 0
    local level = znl.log.level()
    znl.log.set_level("off")
    local failed = znl.core.sched.counters().failed
    local timer = znl.every(2, function()
      runs, running = runs + 1, running + 1
      most = math.max(most, running)
      if runs == 2 then
        running = running - 1
        error("once")
      end
      znl.sleep(5)
      running = running - 1
    end)
    while runs < 4 do znl.sleep(1) end
    timer:stop()
    local after = runs
    znl.sleep(12)
    znl.log.set_level(level)
    assert.equal(after, runs)
    assert.equal(1, most)
    assert.equal(failed + 1, znl.core.sched.counters().failed)
    assert.equal(0, core.count())
  end)

  it("may stop itself", function()
    local runs, timer = 0, nil
    timer = znl.every(1, function()
      runs = runs + 1
      timer:stop()
      znl.sleep(3)
    end)
    eventually(function() return core.count() == 0 end)
    znl.sleep(3)
    assert.equal(1, runs)
    assert.equal(0, core.count())
  end)

  it("runs under no token", function()
    local seen = {}
    znl.with_timeout(1, function()
      znl.timer(3, function() seen = { token = znl.current_token(), slept = znl.sleep(1) } end)
    end)
    eventually(function() return seen.slept end)
    assert.same({ slept = true }, seen)
  end)

  it("refuses wrong use", function()
    assert.has_error(function() znl.timer(-1, print) end, "znl.timer: ms must be a whole number in 0..2592000000")
    assert.has_error(function() znl.every(0, print) end)
    assert.has_error(function() znl.every(1.5, print) end)
    assert.has_error(function() znl.every(1) end, "znl.every: the second argument must be a function, not a nil")
    assert.has_error(function() znl.every(1, print, { nmae = "x" }) end)
    assert.is_false(core.stop(123456789))
    assert.is_false(core.stop(-1))
    assert.is_nil(core.due_ms(0 / 0))
  end)

  it("survives thousands, with numbers that are not reused", function()
    local ran, timers = 0, {}
    for i = 1, 3000 do timers[i] = znl.timer(i % 7, function() ran = ran + 1 end) end
    assert.equal(3000, core.count())
    for i = 1, 3000, 3 do timers[i]:stop() end
    eventually(function() return core.count() == 0 end)
    assert.equal(2000, ran)
    assert.equal(0, core.count())
  end)
end)

describe("timers of a version", function()
  it("start with it and end with it", function()
    local heard = {}
    local made, run = version("v1")
    run(function()
      znl.every(1, function()
        heard.every = (heard.every or 0) + 1
        heard.scope = scope.current()
      end)
      znl.timer(1, function() heard.once = (heard.once or 0) + 1 end)
      znl.timer(60000, function() end):stop()
    end)
    znl.sleep(5)
    assert.same({}, heard)
    assert.equal(0, core.count())
    assert.is_true(made:commit())
    eventually(function() return heard.once and heard.every and heard.every > 1 end)
    assert.equal(1, heard.once)
    assert.equal(made, heard.scope)
    assert.is_not_nil(made.first) -- the repeating one; the other has left
    assert.equal(made.first, made.last)
    made:halt()
    local after = heard.every
    znl.sleep(5)
    assert.equal(after, heard.every)
    assert.equal(0, core.count())
    made:finish()
  end)

  it("with a name keep their phase", function()
    local one, run_one = version("v1")
    run_one(function() znl.every(40, function() end, { name = "tick" }) end)
    one:commit()
    local due = core.due_ms(one.named.tick[1])
    local function assert_in_phase(made)
      local phase = (core.due_ms(made.named.tick[1]) - due) % 40
      assert.is_true(phase <= 2 or phase >= 38, "phase is " .. phase)
    end
    znl.sleep(5)
    local two, run_two = version("v2", one)
    run_two(function() znl.every(40, function() end, { name = "tick" }) end)
    assert.is_true(two:commit())
    one:halt()
    one:finish()
    assert_in_phase(two)
    assert.is_nil(two.previous)
    -- Also when the old version was halted first, and long ago.
    two:halt()
    znl.sleep(50) -- more than one turn
    local three, run_three = version("v3", two)
    run_three(function() znl.every(40, function() end, { name = "tick" }) end)
    three:commit()
    assert_in_phase(three)
    -- Another length starts anew.
    local before_ms = znl.now_ms()
    local four, run_four = version("v4", three)
    run_four(function() znl.every(60, function() end, { name = "tick" }) end)
    four:commit()
    local due_ms = core.due_ms(four.named.tick[1])
    assert.is_true(due_ms >= before_ms + 59 and due_ms <= znl.now_ms() + 60)
    for _, made in ipairs { two, three, four } do made:finish() end
    assert.equal(0, core.count())
  end)

  it("with the same name twice are one, the last", function()
    local heard = {}
    local made, run = version("v1")
    run(function()
      znl.timer(2, function() heard[#heard + 1] = "first" end, { name = "x" })
      znl.timer(2, function() heard[#heard + 1] = "second" end, { name = "x" })
    end)
    made:commit()
    eventually(function() return #heard > 0 end)
    znl.sleep(3)
    assert.same({ "second" }, heard)
    made:finish()
  end)
end)
