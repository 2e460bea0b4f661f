-- SPDX-License-Identifier: MIT
local znl = require("znl")
local eventually = require("tests.lua.support.eventually")
local core = require("znl.core.token")
local log_lines = require("tests.lua.support.log_lines")

describe("token", function()
  it("cancels what runs under it, with the reason, for good", function()
    local token = znl.token()
    assert.is_false(token:cancelled())
    assert.is_nil(token:reason())
    local task = znl.spawn(function()
      return znl.with(token, function()
        local one = { znl.sleep(60000) }
        local two = { znl.sleep(60000) }
        return one, two
      end)
    end)
    assert.is_true(token:cancel("user went away"))
    assert.is_false(token:cancel("again"))
    local one, two = task:wait(30000)
    assert.same({ nil, "sleep: user went away", "CANCELLED" }, one)
    assert.same(one, two)
    assert.same({ "user went away", "CANCELLED" }, { token:reason() })
    assert.is_true(token:cancelled())
  end)

  it("that lives long can be watched any number of times", function()
    local token, heard = znl.token(), {}
    local function nothing() end
    token:on_cancel(function() heard[#heard + 1] = "first" end)
    local offs = {}
    local function watch(times)
      for i = 1, times do
        offs[i % 7 + 1] = token:on_cancel(nothing)
        local off = offs[(i * 3) % 7 + 1]
        if off then
          off()
          off() -- taken back already: not somebody else's
        end
      end
      collectgarbage()
      collectgarbage()
      return collectgarbage("count")
    end
    local before = watch(1000)
    assert.is_true(watch(100000) - before < 100)
    token:on_cancel(function() heard[#heard + 1] = "last" end)
    token:cancel()
    eventually(function() return #heard == 2 end)
    table.sort(heard)
    assert.same({ "first", "last" }, heard)
  end)

  it("reaches every kind of wait", function()
    local token = znl.token()
    local group = znl.wait_group()
    group:add()
    local slot = znl.semaphore(1)
    slot:acquire()
    local waits = {
      function() return znl.sleep(60000) end,
      function() return znl.event():wait() end,
      function() return znl.channel():recv() end,
      function() return znl.channel():send(1) end,
      function() return group:wait() end,
      function() return slot:acquire() end,
      function() return znl.spawn(function() znl.shield(znl.sleep, 20) end):wait() end,
    }
    local tasks = {}
    for index, fn in ipairs(waits) do
      tasks[index] = znl.spawn(function() return znl.with(token, fn) end)
    end
    token:cancel("stop")
    local heard = {}
    for index, task in ipairs(tasks) do
      local _, message, code = task:wait(30000)
      assert.equal("CANCELLED", code)
      heard[index] = message
    end
    assert.same({ "sleep: stop", "event: stop", "channel: stop", "channel: stop", "wait_group: stop",
      "semaphore: stop", "task: stop" }, heard)
  end)

  it("is inherited by what a task spawns", function()
    local token, inner = znl.token(), nil
    znl.with(token, function()
      inner = znl.spawn(function()
        assert.equal(token, znl.current_token())
        return select(3, znl.sleep(60000))
      end)
    end)
    assert.is_nil(znl.current_token())
    token:cancel()
    assert.equal("CANCELLED", inner:wait(30000))
  end)

  it("gives its children its deadline, and they may have an earlier one", function()
    local token = znl.token { timeout_ms = 50000 }
    local later = znl.token { timeout_ms = 90000, parent = token }
    local sooner = znl.token { timeout_ms = 10000, parent = token }
    assert.equal(token:deadline_ms(), later:deadline_ms())
    assert.is_true(sooner:deadline_ms() < token:deadline_ms())
    assert.is_true(token:remaining_ms() <= 50000 and token:remaining_ms() > 10000)
    assert.is_nil(znl.token():deadline_ms())
    assert.is_nil(znl.token():remaining_ms())
    token:cancel("above")
    assert.same({ "above", "CANCELLED" }, { later:reason() })
    assert.is_true(sooner:cancelled())
    assert.is_true(znl.token { parent = sooner }:cancelled())
  end)

  it("made under another is below it", function()
    local outer, inner = znl.token(), nil
    znl.with(outer, function() inner = znl.token() end)
    outer:cancel()
    assert.is_true(inner:cancelled())
  end)

  it("ends with its deadline, also for one who never waits", function()
    local token = znl.token { timeout_ms = 2 }
    local until_ms = znl.now_ms() + 20000
    repeat until token:cancelled() or znl.now_ms() > until_ms
    assert.same({ "the deadline has passed", "DEADLINE" }, { token:reason() })
    assert.equal(0, token:remaining_ms())
  end)

  it("calls functions when it is cancelled, once each, unless taken back", function()
    local token, heard = znl.token(), {}
    local off = token:on_cancel(function() heard[#heard + 1] = "taken back" end)
    token:on_cancel(function()
      znl.sleep(1) -- may wait: it runs under no token
      heard[#heard + 1] = "first"
    end)
    token:on_cancel(function() heard[#heard + 1] = "second" end)
    off()
    off()
    token:cancel()
    eventually(function() return #heard == 2 end)
    assert.same({ "second", "first" }, heard)
    token:on_cancel(function() heard[#heard + 1] = "late" end)
    assert.equal("late", heard[3])
    assert.has_error(function() token:on_cancel("x") end)
  end)

  it("calls functions of children that nobody else knows", function()
    local token, heard = znl.token(), 0
    do
      local child = znl.token { parent = znl.token { parent = token } }
      child:on_cancel(function() heard = heard + 1 end)
    end
    collectgarbage()
    collectgarbage()
    token:cancel()
    collectgarbage()
    collectgarbage()
    eventually(function() return heard == 1 end)
    znl.sleep(2)
    assert.equal(1, heard)
  end)

  it("calls functions at its deadline though nobody kept it", function()
    local heard = 0
    znl.token { timeout_ms = 3 }:on_cancel(function() heard = heard + 1 end)
    collectgarbage()
    collectgarbage()
    eventually(function() return heard == 1 end)
  end)

  it("goes with its functions when nobody can cancel it", function()
    local gone = setmetatable({}, { __mode = "k" })
    for _ = 1, 10 do
      local token = znl.token()
      gone[token] = true
      token:on_cancel(function() return token:reason() end) -- a cycle
      local child = znl.token { parent = token }
      gone[child] = true
      child:on_cancel(function() return child, token end)
    end
    collectgarbage()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(gone))
  end)

  it("keeps its functions while a task runs under it", function()
    local heard, gate = 0, znl.event()
    local task = znl.spawn(function()
      znl.with(znl.token(), function()
        znl.current_token():on_cancel(function() heard = heard + 1 end)
        gate:wait()
        znl.current_token():cancel()
      end)
    end)
    collectgarbage()
    collectgarbage()
    gate:set()
    task:wait()
    eventually(function() return heard == 1 end)
  end)

  it("refuses wrong use", function()
    assert.has_error(function() znl.token { timeout_ms = -1 } end)
    assert.has_error(function() znl.token { parent = 1 } end,
      "znl.token: option parent is 1; it must be a token")
    assert.has_error(function() znl.with(1, print) end, "znl.with: the first argument must be a token, not a number")
    assert.has_error(function() znl.with(znl.token(), 1) end)
    assert.is_false(core.is(io.stdout))
    assert.is_false(core.is(nil))
  end)
end)

describe("with", function()
  it("runs in this coroutine and hands through values and errors", function()
    local token, running = znl.token(), coroutine.running()
    assert.same({ running, "a", nil, 3 }, { znl.with(token, function(...)
      assert.equal(token, znl.current_token())
      return coroutine.running(), ...
    end, "a", nil, 3) })
    local problem = {}
    local ok, err = pcall(znl.with, token, function() error(problem) end)
    assert.is_false(ok)
    assert.equal(problem, err)
    assert.is_nil(znl.current_token())
    ok, err = pcall(znl.with_timeout, 1000, error, "text", 0)
    assert.same({ false, "text" }, { ok, err })
    assert.is_nil(znl.current_token())
  end)

  it("obeys the token around it as well", function()
    for _, which in ipairs { "outer", "inner" } do
      local tokens = { outer = znl.token(), inner = znl.token() }
      local task = znl.spawn(function()
        return znl.with(tokens.outer, znl.with, tokens.inner, function()
          return select(2, znl.sleep(60000))
        end)
      end)
      tokens[which]:cancel(which)
      assert.equal("sleep: " .. which, task:wait(30000))
    end
  end)
end)

describe("with_timeout", function()
  it("ends waits in time and leaves later code alone", function()
    local began = znl.now_ms()
    local ok, message, code = znl.with_timeout(3, function()
      assert.is_true(znl.current_token():remaining_ms() <= 3)
      return znl.sleep(60000)
    end)
    assert.same({ nil, "sleep: the deadline has passed", "DEADLINE" }, { ok, message, code })
    assert.is_true(znl.now_ms() - began < 30000)
    assert.is_true(znl.sleep(1))
  end)

  it("never lengthens a deadline", function()
    znl.with_timeout(30000, function()
      local outer = znl.current_token():deadline_ms()
      znl.with_timeout(60000, function() assert.equal(outer, znl.current_token():deadline_ms()) end)
      znl.with_timeout(1, function() assert.is_true(znl.current_token():deadline_ms() < outer) end)
    end)
  end)

  it("leaves no timer behind", function()
    local timers = znl.core.runtime.counters().timers
    znl.with_timeout(60000, function()
      znl.sleep(0)
      znl.current_token():on_cancel(function() end)
    end)
    assert.equal(timers, znl.core.runtime.counters().timers)
    assert.has_error(function() znl.with_timeout("soon", print) end)
  end)
end)

describe("shield", function()
  it("lets clean-up wait", function()
    local task = znl.spawn(function()
      return znl.with_timeout(1, function()
        local _, _, code = znl.sleep(60000)
        local cleaned = znl.shield(function()
          assert.is_nil(znl.current_token())
          return znl.sleep(1)
        end)
        return code, cleaned, select(3, znl.sleep(60000))
      end)
    end)
    task:cancel() -- also when this task itself was cancelled
    assert.same({ "CANCELLED", true, "CANCELLED" }, { task:wait(30000) })
  end)

  it("raises what the function raises and is over then", function()
    log_lines.during(function()
      local token = znl.token()
      znl.with(token, function()
        assert.is_false(pcall(znl.shield, error, "x"))
        assert.equal(token, znl.current_token())
      end)
    end)
  end)
end)
