--- Everything that ends in znl.core.micro, at the worst moment: connections, cores, handlers, tasks. Inside
--- znlrun only. SPDX-License-Identifier: MIT

local has_core, micro = pcall(require, "znl.core.micro")

describe("znl.core.micro, when something ends:", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local runtime = require("znl.core.runtime")
  local scenes = require("tests.lua.support.micro_scene")
  local sched = require("znl.core.sched")
  local token = require("znl.core.token")
  local znl = require("znl")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  --- Asks in a task; the results are in the table that comes back, once they are there.
  local function ask(conn, ...)
    local results = {}
    local arguments = { n = select("#", ...), ... }
    sched.spawn(function()
      local value, message, code, is_remote = conn:request(unpack(arguments, 1, arguments.n))
      results.value, results.message, results.code, results.is_remote = value, message, code, is_remote
      results.is_there = true
    end)
    return results
  end

  local function idle()
    eventually(function()
      local counters = scene.server:counters()
      return counters.handlers == 0 and counters.queued == 0
    end)
  end

  describe("a connection", function()
    it("that closes cancels the handlers that work for it, and no other", function()
      local ended = {}
      local conn = scene:pair(function(req)
        local ok, message, code = sched.sleep(req.data)
        ended[req.route] = { ok, message, code, req:cancelled() }
        return "nobody hears"
      end)
      local other = scene:connect()
      ask(conn, "/gone", 5000)
      local kept = ask(other, "/kept", 50)
      eventually(function() return scene.server:counters().handlers == 2 end)
      conn:close()
      eventually(function() return ended["/gone"] end)
      assert.same({ nil, "sleep: the asker gave it up", "CANCELLED", true }, ended["/gone"])
      eventually(function() return kept.is_there end)
      assert.equal("nobody hears", kept.value)
      idle()
    end)

    it("ends everything that waits for it before it is reported", function()
      local order = {}
      scene.client = scene:core(nil, { on_event = function(name) order[#order + 1] = name end })
      local conn = scene:pair(function() sched.sleep(5000) end)
      for i = 1, 3 do
        sched.spawn(function() table.insert(order, (select(3, conn:request("/", i)))) end)
      end
      local stream = assert(conn:stream("/"))
      sched.spawn(function() table.insert(order, (select(3, stream:read()))) end)
      assert.equal(4, conn:pending())
      scene:inbound():close()
      eventually(function() return #order == 5 end)
      assert.same({ "CLOSED", "CLOSED", "CLOSED", "CLOSED", "closed" }, order)
    end)

    it("that goes while a request of it is queued is forgotten by the queue", function()
      local go = sched.event()
      local conn = scene:pair(function(req)
        if req.data == 1 then go:wait() end
        return req.data
      end, { max_concurrency = 1 })
      local first = ask(conn, "/", 1)
      eventually(function() return scene.server:counters().handlers == 1 end)
      for _ = 1, 20 do
        local other = scene:connect()
        ask(other, "/", 2)
        eventually(function() return scene.server:counters().queued == 1 end)
        other:drop()
        eventually(function() return scene.server:counters().queued == 0 end)
        for i = #scene.server_events, 1, -1 do scene.server_events[i] = nil end
        sched.sleep(1)
        collectgarbage()
        collectgarbage()
      end
      local second, third = ask(conn, "/", 2), ask(scene:connect(), "/", 3)
      go:set()
      eventually(function() return first.is_there and second.is_there and third.is_there end)
      assert.same({ 1, 2, 3 }, { first.value, second.value, third.value })
      idle()
    end)

    it("may be closed by the handler of a request of it", function()
      for _, how in ipairs { "close", "drop" } do
        local conn = scene:pair(function(req)
          req.client[how](req.client)
          req.client[how](req.client)
          assert(req:cancelled())
          assert(req.client:is_open() == false)
          return "too late"
        end)
        local results = { conn:request("/") }
        assert.is_nil(results[1])
        assert.equal("CLOSED", results[3])
        idle()
        scene.client:stop()
        scene.server:stop()
        scene.client = nil
      end
    end)

    it("may be closed by whoever just got an answer", function()
      local conn = scene:pair(function(req) return req.data end)
      local codes = {}
      for i = 1, 50 do
        sched.spawn(function()
          local value, _, code = conn:request("/", i)
          codes[#codes + 1] = value or code
          conn:drop()
          collectgarbage()
        end)
      end
      eventually(function() return #codes == 50 end)
      assert.equal(1, codes[1])
      assert.equal("CLOSED", codes[50])
    end)

    it("may be closed by on_event, as it comes", function()
      scene:serve(function() return 1 end, {
        on_event = function(name, conn)
          scene.server_events[#scene.server_events + 1] = { name, conn }
          if name == "connection" then conn:close() end
        end,
      })
      local conn = assert(scene:connect())
      local _, _, code = conn:request("/")
      assert.equal("CLOSED", code)
      eventually(function() return seen(scene.server_events, "closed") == 1 end)
      assert.equal(0, scene.server:counters().requests)
    end)

    it("that on_event fails to take is closed", function()
      local closed
      scene:serve(function() return 1 end, {
        on_event = function(name, _, reason)
          if name == "connection" then error("on purpose") end
          closed = reason
        end,
      })
      local conn = assert(scene:connect())
      assert.equal("CLOSED", (select(3, conn:request("/"))))
      eventually(function() return closed end)
      assert.equal("on_event failed", closed)
    end)

    it("is closed when the peer is silent", function()
      scene.client = scene:core(scene.client_events, { heartbeat_ms = 0 })
      scene:pair(function() end, {
        heartbeat_ms = 10, heartbeat_timeout_ms = 40, heartbeat_check_ms = 10, strict_heartbeat = true,
      })
      eventually(function() return seen(scene.server_events, "closed") == 1 end)
      local _, event = seen(scene.server_events, "closed")
      assert.equal("no heartbeat in time", event[3])
      assert.equal("TIMEOUT", event[4])
      eventually(function() return seen(scene.client_events, "closed") == 1 end)
    end)

    it("with heartbeats stays", function()
      local options = { heartbeat_ms = 10, heartbeat_timeout_ms = 200, heartbeat_check_ms = 10 }
      scene.client = scene:core(scene.client_events, options)
      local conn = scene:pair(function(req) return req.data end, {
        heartbeat_ms = 10, heartbeat_timeout_ms = 200, heartbeat_check_ms = 10,
      })
      eventually(function() return scene.server:counters().heartbeats > 20 end)
      assert.equal(1, conn:request("/", 1))
      assert.equal(0, seen(scene.server_events, "closed") + seen(scene.client_events, "closed"))
    end)
  end)

  describe("an upgrade", function()
    it("outside a task is misuse, and leaves nothing behind", function()
      scene:serve(function() end)
      local options = { host = "127.0.0.1", port = scene.server:port() }
      local core = micro.new({})
      local known = setmetatable({ core = core }, { __mode = "v" })
      local ok, message
      assert(coroutine.resume(coroutine.create(function() ok, message = pcall(core.connect, core, options) end)))
      assert.is_false(ok)
      assert.truthy(message:find("must be called from a coroutine made by znl", 1, true))
      core = nil
      for _ = 1, 3 do
        collectgarbage()
        sched.sleep(1)
      end
      assert.is_nil(known.core)
    end)

    it("may be refused before it is answered", function()
      local asked = {}
      scene:serve(function() return 1 end, {
        on_event = function(name, ...)
          if name ~= "upgrade" then return end
          asked[#asked + 1] = { ... }
          local path = ...
          if path == "/no" then return 401, "who are you" end
          if path == "/odd" then return 9999 end
          if path == "/zero" then return 0 end
          if path == "/false" then return false end
          if path == "/text" then return "not you" end
          if path == "/fails" then error("on purpose") end
        end,
      })
      scene.server:check_upgrades(true)
      assert(scene:connect { path = "/yes", headers = { ["X-Who"] = "me" } })
      assert.equal("/yes", asked[1][1])
      assert.equal("me", asked[1][2]["x-who"])
      assert.truthy(asked[1][3]:find("127.0.0.1:", 1, true))
      for _, path in ipairs { "/no", "/odd", "/zero", "/false", "/text", "/fails" } do
        local conn, message, code = scene:connect { path = path }
        assert.is_nil(conn)
        assert.equal("REFUSED", code)
        if path == "/no" then assert.truthy(message:find("401", 1, true)) end
      end
      assert.equal(6, scene.server:counters().turned_away)
      assert.equal(1, scene.server:counters().accepted)
      scene.server:check_upgrades(false)
      assert(scene:connect { path = "/no" })
    end)

    it("is asked for by requests that are none", function()
      local uv = require("luv")
      scene:serve(function() return 1 end)
      local answer = ""
      local socket = uv.new_tcp()
      socket:connect("127.0.0.1", scene.server:port(), function()
        socket:write("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        socket:read_start(function(_, piece) answer = answer .. (piece or "") end)
      end)
      eventually(function() return answer:find("\r\n\r\n", 1, true) end)
      assert.truthy(answer:find("^HTTP/1.1 426 "))
      socket:close()
      assert.equal(0, scene.server:counters().connections)
    end)

    it("does not wait for a task that has gone", function()
      local uv = require("luv")
      local accepted
      local listener = uv.new_tcp()
      listener:bind("127.0.0.1", 0)
      listener:listen(8, function()
        accepted = uv.new_tcp()
        listener:accept(accepted)
      end)
      scene.client = scene:core(scene.client_events)
      local task = znl.spawn(function()
        return scene.client:connect { host = "127.0.0.1", port = listener:getsockname().port }
      end)
      eventually(function() return accepted end)
      task:cancel("enough")
      assert.equal("CANCELLED", (select(3, task:wait())))
      task = znl.spawn(function()
        return scene.client:connect { host = "127.0.0.1", port = listener:getsockname().port }
      end)
      sched.sleep(5)
      scene.client:stop()
      assert.equal("STOPPED", (select(3, task:wait())))
      listener:close()
      accepted:close()
      assert.equal(0, #scene.client_events)
    end)
  end)

  describe("a core", function()
    it("may be stopped by its handler", function()
      local conn = scene:pair(function(req)
        scene.server:stop()
        scene.server:stop()
        assert(req:cancelled())
        assert(scene.server:running() == false)
        return "too late"
      end)
      local results = { conn:request("/") }
      assert.is_nil(results[1])
      assert.equal("STOPPED", results[3])
      assert.is_true(results[4])
      idle()
      eventually(function() return seen(scene.client_events, "closed") == 1 end)
      assert.equal(1, seen(scene.server_events, "closed"))
    end)

    it("may be stopped by on_event", function()
      for _, at in ipairs { "upgrade", "connection", "closed" } do
        local core
        core = scene:serve(function() return 1 end, {
          on_event = function(name)
            if name == at then core:stop() end
          end,
        })
        core:check_upgrades(true)
        local conn = scene:connect()
        if conn then conn:close() end
        eventually(function() return not core:running() end)
        eventually(function() return core:counters().connections == 0 end)
        scene.client:stop()
        scene.client = nil
      end
    end)

    it("that stops ends what it asked, and what it was asked", function()
      local conn = scene:pair(function() sched.sleep(5000) end, { max_concurrency = 1 })
      scene.client:set_handler(function() sched.sleep(5000) end)
      local asked, queued, back = ask(conn, "/"), ask(conn, "/"), ask(scene:inbound(), "/")
      eventually(function() return scene.server:counters().queued == 1 end)
      eventually(function() return scene.client:counters().handlers == 1 end)
      scene.server:stop()
      eventually(function() return asked.is_there and queued.is_there and back.is_there end)
      assert.same({ "STOPPED", true }, { asked.code, asked.is_remote })
      assert.same({ "STOPPED", true }, { queued.code, queued.is_remote })
      assert.same({ "STOPPED" }, { back.code, back.is_remote })
      idle()
      eventually(function() return scene.client:counters().handlers == 0 end)
      eventually(function() return not conn:is_open() end)
      local _, event = seen(scene.server_events, "closed")
      assert.equal("STOPPED", event[4])
    end)

    it("can be started again", function()
      scene:serve(function(req) return req.data end)
      for i = 1, 3 do
        local conn = assert(scene:connect())
        assert.equal(i, conn:request("/", i))
        scene.server:stop()
        assert.is_false(scene.server:running())
        assert.is_true(scene.server:start())
        assert.is_true(scene.server:start())
        assert.is_true(scene.server:running())
      end
    end)

    it("says when it cannot listen", function()
      scene:serve(function() end)
      local second = scene:core({}, { listen_host = "127.0.0.1", listen_port = scene.server:port() })
      local ok, message, code = second:start()
      assert.is_nil(ok)
      assert.equal("ADDRESS_IN_USE", code)
      assert.truthy(message:find("start: 127.0.0.1:" .. scene.server:port(), 1, true))
      assert.is_false(second:running())
      second:stop()
      assert.is_nil(micro.new({}):port())
      assert.is_nil(micro.new({}):endpoint())
    end)

    it("that drains answers what it has and refuses the rest", function()
      local go = sched.event()
      local conn = scene:pair(function(req)
        go:wait()
        return req.data
      end)
      local first = ask(conn, "/", 1)
      eventually(function() return scene.server:counters().handlers == 1 end)
      assert.equal(1, scene.server:drain())
      local value, _, code, is_remote = conn:request("/", 2)
      assert.is_nil(value)
      assert.same({ "STOPPED", true }, { code, is_remote })
      go:set()
      eventually(function() return first.is_there end)
      assert.equal(1, first.value)
      assert.equal(0, scene.server:drain())
      assert(scene.server:start())
      assert.equal(3, conn:request("/", 3))
    end)
  end)

  describe("the queue", function()
    it("holds what max_concurrency leaves, and refuses the rest", function()
      local go = sched.event()
      local conn = scene:pair(function(req)
        go:wait()
        return req.data
      end, { max_concurrency = 2, max_queue = 3 })
      local list = {}
      for i = 1, 7 do list[i] = ask(conn, "/", i) end
      eventually(function() return list[7].is_there end)
      assert.same({ "OVERLOADED", true }, { list[6].code, list[6].is_remote })
      assert.equal("OVERLOADED", list[7].code)
      assert.equal(3, scene.server:counters().queued)
      assert.equal(5, scene:inbound():jobs())
      go:set()
      eventually(function() return list[5].is_there end)
      for i = 1, 5 do assert.equal(i, list[i].value) end
      assert.equal(2, scene.server:counters().overloaded)
      idle()
    end)

    it("gives connections their turns", function()
      local order = {}
      local go = sched.event()
      local conn = scene:pair(function(req)
        go:wait()
        order[#order + 1] = req.data
      end, { max_concurrency = 1 })
      local other = assert(scene:connect())
      for i = 1, 6 do ask(conn, "/", "a" .. i) end
      eventually(function() return scene.server:counters().queued == 5 end)
      for i = 1, 2 do ask(other, "/", "b" .. i) end
      eventually(function() return scene.server:counters().queued == 7 end)
      go:set()
      eventually(function() return #order == 8 end)
      assert.same({ "a1", "a2", "b1", "a3", "b2", "a4", "a5", "a6" }, order)
    end)

    it("drops what nobody waits for any more", function()
      local ran = {}
      local go = sched.event()
      local conn = scene:pair(function(req)
        go:wait()
        ran[#ran + 1] = req.data
      end, { max_concurrency = 1 })
      local other = assert(scene:connect())
      ask(conn, "/", "at work")
      eventually(function() return scene.server:counters().handlers == 1 end)
      local task = znl.spawn(function() conn:request("/", "given up") end)
      ask(other, "/", "of a closed connection")
      other:push("/", "pushed before it closed")
      ask(conn, "/", "waits")
      eventually(function() return scene.server:counters().queued == 4 end)
      task:cancel()
      other:close()
      eventually(function() return scene.server:counters().queued == 2 end)
      go:set()
      eventually(function() return #ran == 3 end)
      table.sort(ran)
      assert.same({ "at work", "pushed before it closed", "waits" }, ran)
      idle()
    end)
  end)

  describe("a handler", function()
    it("has handler_timeout_ms", function()
      local ended
      local conn = scene:pair(function(req)
        local _, _, code = sched.sleep(5000)
        ended = { code, req:cancelled(), req:remaining_ms() }
      end, { handler_timeout_ms = 30 })
      local value, message, code, is_remote = conn:request("/")
      assert.is_nil(value)
      assert.equal("the handler took longer than handler_timeout_ms", message)
      assert.same({ "HANDLER_TIMEOUT", true }, { code, is_remote })
      eventually(function() return ended end)
      assert.same({ "DEADLINE", true, 0 }, ended)
      assert.equal(1, scene.server:counters().handler_timeouts)
      local stream = assert(conn:stream("/"))
      assert.equal("HANDLER_TIMEOUT", (select(3, stream:read())))
      idle()
    end)

    it("has no longer than the task that asked", function()
      local ended
      local conn = scene:pair(function(req)
        local left = req:remaining_ms()
        sched.sleep(5000)
        ended = { left, req:cancelled(), req:deadline_ms() ~= nil }
      end)
      local before = token.enter(assert(token.new(nil, 50)))
      local value, _, code = conn:request("/", nil, 5000)
      token.enter(before)
      assert.is_nil(value)
      assert.equal("DEADLINE", code)
      eventually(function() return ended end)
      assert.is_true(ended[1] > 0 and ended[1] <= 51, ended[1])
      assert.is_true(ended[2])
      assert.is_true(ended[3])
      idle()
      before = token.enter(assert(token.new(nil, 1)))
      sched.sleep(5)
      assert.equal("DEADLINE", (select(3, conn:request("/"))))
      assert.equal("DEADLINE", (select(3, conn:stream("/"))))
      token.enter(before)
    end)

    it("that never waits is interrupted, and said so", function()
      local budget = runtime.watchdog_ms()
      if not runtime.watchdog_ms(50) then return pending("no watchdog here") end
      local conn = scene:pair(function(req)
        if req.data == "loop" then
          while true do end -- luacheck: ignore
        end
        return req.data
      end)
      local value, message, code = conn:request("/", "loop", 10000)
      local stream = assert(conn:stream("/", "loop"))
      local _, _, stream_code = stream:read()
      runtime.watchdog_ms(budget or 0)
      assert.is_nil(value)
      assert.equal("HANDLER_TIMEOUT", code)
      assert.truthy(message:find("ran for 50 ms without waiting", 1, true))
      assert.equal("HANDLER_TIMEOUT", stream_code)
      assert.equal(2, scene.server:counters().handler_timeouts)
      assert.equal(5, conn:request("/", 5))
      idle()
    end)

    it("that is cut where it waits is answered for", function()
      local owner = sched.owner()
      local conn = scene:pair(nil)
      scene.server:set_handler(function() sched.sleep(5000) end, owner)
      local results = ask(conn, "/")
      local stream = assert(conn:stream("/"))
      eventually(function() return scene.server:counters().handlers == 2 end)
      owner:cut("a newer version is there")
      eventually(function() return results.is_there end)
      assert.same({ "STOPPED", "a newer version is there" }, { results.code, results.message })
      assert.equal("STOPPED", (select(3, stream:read())))
      assert.equal("STOPPED", (select(3, conn:request("/")))) -- none may start
      idle()
    end)

    it("of a stream is cut with the iterator it returned", function()
      local owner = sched.owner()
      local conn = scene:pair(nil)
      scene.server:set_handler(function()
        return function()
          sched.sleep(5)
          return "x"
        end
      end, owner)
      local stream = assert(conn:stream("/"))
      assert(stream:read())
      owner:cut("a newer version is there")
      local message, code
      repeat
        local ok
        ok, message, code = stream:read()
      until not ok
      assert.same({ "STOPPED", "a newer version is there" }, { code, message })
      idle()
    end)

    it("for the console has a place when all others are taken", function()
      local conn = scene:pair(function() sched.sleep(5000) end, { max_concurrency = 1, max_queue = 0 })
      assert.equal("OVERLOADED", (function()
        ask(conn, "/")
        eventually(function() return scene.server:counters().handlers == 1 end)
        return select(3, conn:request("/-/how"))
      end)())
      scene.server:set_console(function(req) return "fine, " .. req.route end)
      assert.equal("fine, /-/how", conn:request("/-/how"))
      assert.equal("OVERLOADED", (select(3, conn:request("/"))))
      scene.server:set_console(nil)
    end)
  end)

  describe("the collector", function()
    local function collect()
      for _ = 1, 3 do
        collectgarbage()
        sched.sleep(2)
      end
    end

    it("closes a connection that nobody holds", function()
      scene:pair(function(req) return req.data end)
      scene:connect()
      eventually(function()
        collect()
        return scene.server:counters().connections == 0
      end)
      assert.equal(2, seen(scene.server_events, "closed"))
      assert.equal(0, seen(scene.client_events, "closed")) -- nobody to tell
      assert.equal(0, scene.client:counters().connections)
    end)

    it("leaves one that somebody waits for, or works for", function()
      scene:serve(function(req)
        sched.sleep(50)
        return req.data
      end)
      local got, worked
      sched.spawn(function() got = scene:connect():request("/", 1) end)
      eventually(function()
        collect()
        return got
      end)
      assert.equal(1, got)
      scene.client:set_handler(function()
        collect()
        sched.sleep(30)
        collect()
        worked = true
        return "done"
      end)
      local function make() assert(scene:connect()) end
      collectgarbage("stop")
      make()
      local results = ask(scene:inbound(), "/")
      eventually(function() return scene.client:counters().handlers == 1 end)
      collectgarbage("restart")
      eventually(function() return results.is_there end)
      assert.is_true(worked)
      assert.equal("done", results.value)
    end)

    it("leaves inbound ones while they are open", function()
      local events = 0
      local conn = scene:pair(function(req) return req.data end, {
        on_event = function() events = events + 1 end,
      })
      collect()
      assert.equal(1, conn:request("/", 1))
      assert.equal(1, events)
    end)

    it("takes a core that is forgotten with all it had", function()
      local alive = setmetatable({}, { __mode = "k" })
      local function make()
        local core = micro.new { listen_host = "127.0.0.1", listen_port = 0, on_event = function() end }
        core:set_handler(function() return core end)
        alive[core] = true
        assert(core:start())
        local other = micro.new {}
        alive[other] = true
        local conn = assert(other:connect { host = "127.0.0.1", port = core:port() })
        conn:set_peer("key", { conn, other })
        alive[conn] = true
        local stream = assert(conn:stream("/"))
        alive[stream] = true
        conn:request("/")
        collect()
        core:set_handler(nil)
        core:stop()
      end
      make()
      eventually(function()
        collect()
        return next(alive) == nil
      end)
    end)
  end)

  it("hundreds of connections come and go", function()
    scene:serve(function(req) return req.data end)
    local done, good = 0, 0
    for i = 1, 300 do
      sched.spawn(function()
        local conn = scene:connect()
        if conn:request("/", i) == i then good = good + 1 end
        if i % 3 == 0 then conn:close() elseif i % 3 == 1 then conn:drop() end
        done = done + 1
      end)
    end
    eventually(function() return done == 300 end)
    assert.equal(300, good)
    eventually(function()
      collectgarbage()
      return scene.server:counters().connections == 0
    end)
  end)
end)
