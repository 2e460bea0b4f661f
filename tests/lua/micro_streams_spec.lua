--- Streams of znl.core.micro: chunks in order, their end, who is faster, who gives up. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl.core.micro")

describe("a stream of znl.core.micro", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local json = require("znl.json")
  local scenes = require("tests.lua.support.micro_scene")
  local sched = require("znl.core.sched")
  local token = require("znl.core.token")
  local znl = require("znl")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  --- All chunks, and what came after them.
  local function drain(stream)
    local chunks = {}
    while true do
      local result = { stream:read(5000) }
      if not result[1] then return chunks, unpack(result, 1, 4) end
      chunks[#chunks + 1] = result[2]
    end
  end

  it("has the chunks in order, then its end", function()
    local conn = scene:pair(function(req)
      assert(req.is_stream)
      for i = 1, req.data do assert(req:write(i)) end
    end)
    for _, count in ipairs { 0, 1, 3, 5000 } do
      local stream = assert(conn:stream("/", count))
      local chunks, ended, message = drain(stream)
      assert.equal(count, #chunks)
      for i = 1, count do assert(chunks[i] == i) end
      assert.is_false(ended)
      assert.is_nil(message)
      assert.is_false((stream:read()))
      assert.is_true(stream:is_over())
    end
    assert.equal(0, conn:pending())
    assert.equal(0, scene.server:counters().handlers)
    assert.equal(0, scene.client:counters().streams)
  end)

  it("carries null and nothing between peers of ours", function()
    local conn = scene:pair(function(req)
      assert(req:write(nil))
      assert(req:write(json.null))
      assert(req:write({}))
    end)
    local stream = assert(conn:stream("/"))
    assert.same({ true }, { stream:read() })
    assert.same({ true, json.null }, { stream:read() })
    assert.same({ true, {} }, { stream:read() })
    assert.same({ false }, { stream:read() })
  end)

  it("carries nothing also when it had to wait", function()
    local conn = scene:pair(function(req)
      for i = 1, 6 do assert(req:write(i % 2 == 0 and i or nil)) end
    end)
    local stream = assert(conn:stream("/", nil, nil, 1))
    for i = 1, 6 do assert.same({ true, i % 2 == 0 and i or nil }, { stream:read(5000) }) end
    assert.same({ false }, { stream:read() })
  end)

  it("comes from an iterator, too", function()
    local conn = scene:pair(function(req)
      if req.data == "stateful" then return ipairs({ "a", "b" }) end
      local i = 0
      local function step()
        i = i + 1
        if req.data == "waits" then sched.sleep(1) end
        if req.data == "fails" and i == 3 then error("third") end
        if i <= 3 then return i end
      end
      if req.data == "callable" then return setmetatable({}, { __call = step }) end
      return step
    end)
    for _, kind in ipairs { "plain", "waits", "callable" } do
      local chunks, ended = drain(conn:stream("/", kind))
      assert.same({ 1, 2, 3 }, chunks)
      assert.is_false(ended)
    end
    assert.same({ 1, 2 }, (drain(conn:stream("/", "stateful"))))
    assert.same({ { 1, 2 }, nil, "third", 500, true }, { drain(conn:stream("/", "fails")) })
    assert.equal(0, scene.server:counters().handlers)
  end)

  it("ends with what the handler says", function()
    local outcomes = {
      function() return 5 end,
      function() return {} end,
      function() return nil, "enough", "FULL" end,
      function() error("boom") end,
      function() error { status = 418, message = "teapot" } end,
      function(req) req:write(print) end,
    }
    local conn = scene:pair(function(req)
      assert(req:write("first"))
      return outcomes[req.data](req)
    end)
    local function outcome(index)
      local chunks, ended, message, code, is_remote = drain(assert(conn:stream("/", index)))
      assert.same({ "first" }, chunks)
      assert.is_nil(ended)
      assert.is_true(is_remote)
      return { code, message }
    end
    assert.same({ 500, "Invalid async iterable" }, outcome(1))
    assert.same({ 500, "Invalid async iterable" }, outcome(2))
    assert.same({ "FULL", "enough" }, outcome(3))
    assert.same({ 500, "boom" }, outcome(4))
    assert.same({ 418, "teapot" }, outcome(5))
    assert.same({ 500, "write: JSON cannot carry a function" }, outcome(6))
    scene.server:set_handler(nil)
    assert.same({ {}, nil, "/", "NOT_FOUND", true }, { drain(conn:stream("/")) })
    local stream = assert(conn:stream("/"))
    stream:read()
    assert.same({ nil, "/", "NOT_FOUND", true }, { stream:read() }) -- again
  end)

  it("is the only thing that can be written to", function()
    local results = {}
    local conn = scene:pair(function(req)
      results[#results + 1] = { pcall(req.write, req, 1) }
    end)
    conn:request("/")
    conn:push("/")
    eventually(function() return #results == 2 end)
    for _, result in ipairs(results) do
      assert.is_false(result[1])
      assert.truthy(result[2]:find("no stream was asked for", 1, true))
    end
  end)

  it("that is closed stops its producer", function()
    local last
    local conn = scene:pair(function(req)
      while true do
        local ok, message, code = req:write("x")
        if not ok then
          last = { message, code, req:cancelled() }
          return
        end
      end
    end)
    local stream = assert(conn:stream("/"))
    assert.same({ true, "x" }, { stream:read() })
    stream:close()
    stream:close()
    eventually(function() return last end)
    assert.equal("CANCELLED", last[2])
    assert.is_true(last[3])
    assert.equal("CLOSED", (select(3, stream:read())))
    assert.equal(0, conn:pending())
    assert.equal(0, scene.server:counters().handlers)
    assert.equal(1, scene.server:counters().aborts)
  end)

  it("that is forgotten stops its producer", function()
    local conn = scene:pair(function(req)
      while req:write("x") do end
    end)
    assert(conn:stream("/"):read())
    eventually(function()
      collectgarbage()
      return scene.server:counters().handlers == 0
    end)
    assert.equal(0, conn:pending())
    assert.equal(0, scene.client:counters().streams)
  end)

  it("that is being read is not forgotten", function()
    local conn = scene:pair(function(req)
      sched.sleep(30)
      req:write("late")
    end)
    local got
    local function read() return conn:stream("/"):read() end
    sched.spawn(function() got = { read() } end)
    eventually(function()
      collectgarbage()
      collectgarbage()
      return got
    end)
    assert.same({ true, "late" }, got)
  end)

  it("may be read with a timeout, and goes on", function()
    local go = sched.event()
    local conn = scene:pair(function(req)
      go:wait()
      req:write(1)
    end)
    local stream = assert(conn:stream("/"))
    local ok, message, code = stream:read(10)
    assert.is_nil(ok)
    assert.equal("read: no answer in time", message)
    assert.equal("TIMEOUT", code)
    local task = znl.spawn(function() return stream:read() end)
    assert.has_error(function() stream:read() end) -- two at once
    task:cancel("enough")
    assert.equal("CANCELLED", (select(3, task:wait())))
    go:set()
    assert.same({ true, 1 }, { stream:read() })
    assert.same({ false }, { stream:read() })
  end)

  it("ends with its connection, on both sides", function()
    for _, how in ipairs { "drop", "close", "server drop", "stop" } do
      local ended
      scene.client = nil
      local conn = scene:pair(function(req)
        repeat
          local ok, _, code = req:write("x")
          ended = code
        until not ok
      end)
      local stream = assert(conn:stream("/"))
      assert(stream:read())
      local result
      sched.spawn(function()
        repeat result = { stream:read() } until not result[1]
      end)
      if how == "stop" then
        scene.client:stop()
      elseif how == "server drop" then
        scene:inbound():drop()
      else
        conn[how](conn)
      end
      eventually(function() return ended and not result[1] end)
      assert.equal("CANCELLED", ended)
      assert.is_nil(result[1])
      assert.equal(how == "stop" and "STOPPED" or "CLOSED", result[3])
      assert.is_nil(result[4])
      eventually(function() return scene.server:counters().handlers == 0 end)
      scene.server:stop()
    end
  end)

  it("has no longer than its timeout, or its task", function()
    local conn = scene:pair(function(req)
      while req:write("x") do sched.sleep(1) end
    end)
    local _, ended, message, code = drain(assert(conn:stream("/", nil, 30)))
    assert.is_nil(ended)
    assert.equal("read: no answer in time", message)
    assert.equal("TIMEOUT", code)
    local before = token.enter(assert(token.new(nil, 30)))
    local stream = assert(conn:stream("/"))
    repeat until not stream:read()
    token.enter(before)
    eventually(function() return scene.server:counters().handlers == 0 end)
    assert.equal(0, conn:pending())
  end)

  it("is produced no faster than it is read", function()
    local written = 0
    local conn = scene:pair(function(req)
      while req:write(("x"):rep(100)) do written = written + 1 end
    end)
    local stream = assert(conn:stream("/", nil, nil, 20))
    eventually(function() return written == 20 end)
    sched.sleep(10)
    assert.equal(20, written)
    for _ = 1, 100 do assert(stream:read()) end
    eventually(function() return written >= 110 end)
    sched.sleep(10)
    assert.is_true(written <= 120, written)
    stream:close()
  end)

  it("does not hold up the others while it is produced", function()
    local conn = scene:pair(function(req)
      if req.route == "/echo" then return req.data end
      for i = 1, 100000 do
        if not req:write(i) then return end
      end
    end)
    local stream = assert(conn:stream("/", nil, nil, 10000))
    sched.spawn(function() drain(stream) end)
    for i = 1, 10 do assert.equal(i, conn:request("/echo", i, 5000)) end
    assert.is_false(stream:is_over())
    stream:close()
  end)

  it("ends when its handler returns, whoever still writes", function()
    local outcome
    local conn = scene:pair(function(req)
      sched.spawn(function()
        repeat
          local ok, _, code = req:write("x")
          outcome = code
        until not ok
      end)
    end)
    local stream = assert(conn:stream("/", nil, nil, 4))
    eventually(function() return outcome end)
    assert.equal("CANCELLED", outcome)
    drain(stream)
    assert.equal(0, scene.server:counters().handlers)
  end)

  it("has one writer at a time", function()
    local second
    local conn = scene:pair(function(req)
      sched.spawn(function()
        while req:write("x") do end
      end)
      second = { pcall(req.write, req, "y") }
    end)
    local stream = assert(conn:stream("/", nil, nil, 2))
    eventually(function() return second end)
    assert.is_false(second[1])
    assert.truthy(second[2]:find("another task writes", 1, true))
    stream:close()
  end)

  it("is one of max_streams", function()
    local conn = scene:pair(function(req)
      while req:write("x") do end
    end, nil, { max_streams = 2 })
    local first, second = assert(conn:stream("/")), assert(conn:stream("/"))
    assert.equal("LIMIT", (select(3, conn:stream("/"))))
    first:close()
    local third = assert(conn:stream("/"))
    assert.is_true((third:read()))
    second:close()
    third:close()
    assert.equal(0, scene.client:counters().streams)
  end)

  it("outlasts a thousand others at once", function()
    local conn = scene:pair(function(req)
      for i = 1, 5 do assert(req:write(i)) end
    end)
    local sum, done = 0, 0
    for _ = 1, 900 do
      sched.spawn(function()
        for _, chunk in ipairs((drain(assert(conn:stream("/"))))) do sum = sum + chunk end
        done = done + 1
      end)
    end
    eventually(function() return done == 900 end)
    assert.equal(900 * 15, sum)
    assert.equal(0, seen(scene.server_events, "error"))
  end)
end)
