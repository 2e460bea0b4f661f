-- SPDX-License-Identifier: MIT
local znl = require("znl")
local eventually = require("tests.lua.support.eventually")
local log_lines = require("tests.lua.support.log_lines")

describe("channel", function()
  it("hands values over in order, and holds as many as it may", function()
    local channel = znl.channel(2)
    assert.is_true(channel:send(1))
    assert.is_true(channel:send(false))
    assert.equal(2, channel:len())
    local sent
    znl.spawn(function() sent = channel:send(3) end)
    assert.is_nil(sent)
    assert.equal(1, channel:recv())
    eventually(function() return sent end)
    assert.is_false(channel:recv())
    assert.equal(3, channel:recv())
    assert.equal(0, channel:len())
  end)

  it("without capacity lets sender and receiver meet", function()
    local channel, got = znl.channel(), {}
    local receiver = znl.spawn(function()
      for value in channel:each() do got[#got + 1] = value end
      return "ended"
    end)
    for value = 1, 5 do assert.is_true(channel:send(value)) end
    channel:close()
    assert.equal("ended", receiver:wait(30000))
    assert.same({ 1, 2, 3, 4, 5 }, got)
  end)

  it("serves those who wait in the order they came", function()
    local channel, got = znl.channel(), {}
    for index = 1, 3 do znl.spawn(function() got[index] = channel:recv() end) end
    for value = 1, 3 do channel:send(value) end
    eventually(function() return #got == 3 end)
    assert.same({ 1, 2, 3 }, got)
    for value = 1, 3 do znl.spawn(function() channel:send(value) end) end
    assert.same({ 1, 2, 3 }, { channel:recv(), channel:recv(), channel:recv() })
  end)

  it("gives up in time, and the value stays with the sender", function()
    local channel = znl.channel()
    assert.same({ nil, "channel: no answer in time", "TIMEOUT" }, { channel:recv(1) })
    assert.same({ nil, "channel: no answer in time", "TIMEOUT" }, { channel:send("lost", 1) })
    znl.spawn(function() channel:send("found") end)
    assert.equal("found", channel:recv(1000))
  end)

  it("goes past those who waited and are gone", function()
    local channel = znl.channel()
    local cancelled = znl.spawn(function() return select(3, channel:recv()) end)
    local waiting = znl.spawn(function() return channel:recv() end)
    cancelled:cancel()
    assert.equal("CANCELLED", cancelled:wait(30000))
    assert.is_true(channel:send("x"))
    assert.equal("x", waiting:wait(30000))
    local owner = znl.core.sched.owner()
    require("znl.tasks.task").background(owner, function() channel:recv() end)
    waiting = znl.spawn(function() return channel:recv() end)
    owner:cut()
    assert.is_true(channel:send("y"))
    assert.equal("y", waiting:wait(30000))
  end)

  it("once closed refuses senders and empties for receivers", function()
    local channel = znl.channel(1)
    channel:send("kept")
    local refused = znl.spawn(function() return channel:send("refused") end)
    channel:close()
    channel:close()
    assert.is_true(channel:is_closed())
    assert.same({ nil, "channel: closed", "CLOSED" }, { refused:wait(30000) })
    assert.same({ nil, "channel: closed", "CLOSED" }, { channel:send("late") })
    assert.same({ nil, "channel: closed", "CLOSED" }, { channel:try_send("late") })
    assert.equal("kept", channel:recv())
    assert.same({ nil, "channel: closed", "CLOSED" }, { channel:recv() })
    assert.same({ nil, "channel: closed", "CLOSED" }, { channel:try_recv() })
    local waiting = znl.channel()
    local receiver = znl.spawn(function() return waiting:recv() end)
    waiting:close()
    assert.same({ nil, "channel: closed", "CLOSED" }, { receiver:wait(30000) })
  end)

  it("can be tried without waiting", function()
    local channel = znl.channel(1)
    assert.equal(1, select("#", channel:try_recv()))
    assert.is_nil((channel:try_recv()))
    assert.is_true(channel:try_send("a"))
    assert.same({ nil, "channel: full", "BUSY" }, { channel:try_send("b") })
    local sender = znl.spawn(function() return channel:send("c") end)
    assert.equal("a", channel:try_recv())
    assert.equal("c", channel:try_recv()) -- moved up from who waited
    assert.is_true(sender:wait(30000))
    local receiver = znl.spawn(function() return channel:recv() end)
    assert.is_true(channel:try_send("d"))
    assert.equal("d", receiver:wait(30000))
  end)

  it("keeps no trace of those who gave up", function()
    local channel = znl.channel()
    for _ = 1, 3 do channel:recv(0) end
    assert.is_nil(channel.receivers.first)
    assert.is_nil(channel.receivers.last)
    for value = 1, 100 do -- nor of values that went through
      local through = znl.channel(3)
      through:send(value)
      through:recv()
      assert.same({}, through.held)
    end
  end)

  it("refuses nil, wrong capacities and wrong timeouts", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() znl.channel(1):send(nil) end)
    assert.is_false(ok)
    assert.matches("channel_spec.lua:" .. line .. ": channel:send: the value must not be nil", message, 1, true)
    assert.has_error(function() znl.channel(-1) end)
    assert.has_error(function() znl.channel(0.5) end)
    assert.has_error(function() znl.channel():recv("soon") end,
      "channel:recv: timeout_ms must be a whole number in 0..86400000")
  end)
end)

describe("wait group", function()
  it("waits for all it was told of, and counts what failed", function()
    log_lines.during(function()
      local group, ended = znl.wait_group(), 0
      for ms = 1, 3 do
        group:go(function(add)
          znl.sleep(ms)
          ended = ended + add
        end, 1)
      end
      group:go(error, "broken")
      group:add(2)
      znl.timer(1, function() group:done() end)
      znl.timer(2, function() group:done() end)
      assert.same({ true, 1 }, { group:wait(30000) })
      assert.equal(3, ended)
      assert.same({ true, 1 }, { group:wait() }) -- nothing is left
    end)
  end)

  it("gives up in time, and wakes all who wait", function()
    local group = znl.wait_group()
    group:add()
    assert.same({ nil, "wait_group: no answer in time", "TIMEOUT" }, { group:wait(1) })
    local one, two = znl.spawn(function() return group:wait() end), znl.spawn(function() return group:wait() end)
    group:done()
    assert.is_true(one:wait(30000))
    assert.is_true(two:wait(30000))
  end)

  it("hears of tasks that are dropped", function()
    local group, owner = znl.wait_group(), znl.core.sched.owner()
    local inside = require("znl.tasks.task").background(owner, function()
      group:go(function() znl.sleep(60000) end)
      znl.sleep(60000)
    end)
    assert.is_false(inside:is_done())
    owner:cut()
    assert.same({ true, 1 }, { group:wait(30000) })
  end)

  it("refuses to be done more often than there is work", function()
    assert.has_error(function() znl.wait_group():done() end,
      "wait_group:done: called more often than add() announced")
    assert.has_error(function() znl.wait_group():add(0) end)
    assert.has_error(function() znl.wait_group():go(1) end)
  end)
end)

describe("semaphore", function()
  it("lets so many in at a time, in order", function()
    local slots, inside, most, order = znl.semaphore(2), 0, 0, {}
    local group = znl.wait_group()
    for index = 1, 6 do
      group:go(function()
        assert(slots:acquire())
        order[#order + 1] = index
        inside = inside + 1
        most = math.max(most, inside)
        znl.sleep(1)
        inside = inside - 1
        slots:release()
      end)
    end
    assert.same({ true, 0 }, { group:wait(30000) })
    assert.equal(2, most)
    assert.same({ 1, 2, 3, 4, 5, 6 }, order)
  end)

  it("gives up in time, and its place goes to nobody else", function()
    local slot = znl.semaphore(1)
    assert.is_true(slot:acquire())
    assert.is_false(slot:try_acquire())
    assert.same({ nil, "semaphore: no answer in time", "TIMEOUT" }, { slot:acquire(1) })
    slot:release()
    assert.is_true(slot:try_acquire())
    slot:release()
    assert.has_error(function() slot:release() end, "semaphore:release: called more often than acquire()")
    assert.has_error(function() znl.semaphore(0) end)
  end)
end)
