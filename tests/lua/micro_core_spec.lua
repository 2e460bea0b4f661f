--- znl.core.micro: connections, requests both ways, pushes, handlers, events, over real sockets. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl.core.micro")

describe("znl.core.micro", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local scenes = require("tests.lua.support.micro_scene")
  local sched = require("znl.core.sched")
  local json = require("znl.json")
  local znl = require("znl")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  describe("a connection", function()
    it("is told to both sides", function()
      local conn = scene:pair(function() end)
      assert.is_true(conn:is_open())
      assert.is_true(conn:is_ours())
      assert.is_false(conn:is_inbound())
      local count, event = seen(scene.server_events, "connection")
      assert.equal(1, count)
      assert.is_true(event[2]:is_inbound())
      assert.is_true(event[2]:is_ours())
      assert.equal("/", event[3])
      assert.equal("websocket", event[4].upgrade:lower())
      assert.equal(event[5], event[2]:remote())
      assert.equal(event[5], (event[2]:peer()))
      assert.equal("127.0.0.1:" .. scene.server:port(), conn:remote())
      assert.equal("ws://127.0.0.1:" .. scene.server:port(), scene.server:endpoint())
      assert.equal(0, seen(scene.client_events, "connection"))
    end)

    it("has the path and the headers of its upgrade", function()
      scene:serve(function() end)
      local conn = scene:connect({ path = "/10.0.0.1/900/a/b?x=1", headers = { ["X-Token"] = "abc" } })
      local _, event = seen(scene.server_events, "connection")
      assert.equal("/10.0.0.1/900/a/b?x=1", event[3])
      assert.equal("/10.0.0.1/900/a/b?x=1", event[2]:path())
      assert.equal("/10.0.0.1/900/a/b?x=1", conn:path())
      assert.equal("abc", event[4]["x-token"])
    end)

    it("refuses headers and hosts that cannot be", function()
      scene:serve(function() end)
      assert.has_error(function() scene:connect({ headers = { ["X-A"] = "b\r\nX-C: d" } }) end)
      assert.has_error(function() scene:connect({ headers = { ["X A"] = "b" } }) end)
      assert.has_error(function() scene.client:connect { host = "", port = 1 } end)
      local conn, message, code = scene:connect { path = "no slash" }
      assert.is_nil(conn)
      assert.truthy(message:find("127.0.0.1", 1, true))
      assert.equal("INVALID", code)
    end)

    it("says why it cannot be opened", function()
      scene:serve(function() end)
      local port = scene.server:port()
      scene.server:stop()
      scene.client = scene:core(scene.client_events)
      local conn, message, code = scene.client:connect { host = "127.0.0.1", port = port }
      assert.is_nil(conn)
      assert.truthy(message:find("connect: 127.0.0.1:" .. port .. ": ", 1, true))
      assert.equal("UNREACHABLE", code)
      assert.equal(0, #scene.client_events)
      assert.equal(0, scene.client:counters().connections)
    end)

    it("waits no longer than timeout_ms for who does not answer", function()
      local uv = require("luv")
      local listener = uv.new_tcp()
      listener:bind("127.0.0.1", 0)
      listener:listen(8, function() end)
      scene.client = scene:core(scene.client_events)
      local conn, _, code = scene.client:connect {
        host = "127.0.0.1", port = listener:getsockname().port, timeout_ms = 30,
      }
      listener:close()
      assert.is_nil(conn)
      assert.equal("TIMEOUT", code)
    end)

    it("is closed in order by either side, and both hear once", function()
      for _, ender in ipairs { "client", "server" } do
        scene.client_events, scene.server_events, scene.client = {}, {}, nil
        local conn = scene:pair(function() end)
        local other = scene:inbound();
        (ender == "client" and conn or other):close()
        eventually(function()
          return seen(scene.client_events, "closed") == 1 and seen(scene.server_events, "closed") == 1
        end)
        sched.sleep(10)
        local count, event = seen(scene[ender .. "_events"], "closed")
        assert.equal(1, count)
        assert.equal("closed here", event[3])
        assert.is_nil(event[4])
        count, event = seen(scene[(ender == "client" and "server" or "client") .. "_events"], "closed")
        assert.equal(1, count)
        assert.equal("closed by the peer", event[3])
        assert.is_nil(event[4])
        assert.is_false(conn:is_open())
        assert.is_false(other:is_open())
        conn:close()
        conn:drop()
        assert.is_nil((conn:request("/x")))
        assert.equal("CLOSED", (select(3, conn:push("/x"))))
        assert.equal("CLOSED", (select(3, conn:stream("/x"))))
        assert.equal(0, conn:pending())
        assert.equal("/", conn:path())
      end
    end)

    it("that is dropped ends without ceremony", function()
      local conn = scene:pair(function() end)
      scene:inbound():drop()
      eventually(function() return seen(scene.client_events, "closed") == 1 end)
      local _, event = seen(scene.client_events, "closed")
      assert.equal("GONE", event[4])
      assert.is_false(conn:is_open())
    end)

    it("knows its peer by the name it is given", function()
      local conn = scene:pair(function(req) return { req.from, req.client.name } end)
      local other = scene:inbound()
      local who = { name = "who" }
      other:set_peer("10.1.1.1:80", who)
      assert.same({ "10.1.1.1:80", "who" }, conn:request("/"))
      local key, peer = other:peer()
      assert.equal("10.1.1.1:80", key)
      assert.equal(who, peer)
    end)
  end)

  describe("a request", function()
    it("carries any JSON both ways, and nothing", function()
      local conn = scene:pair(function(req) return req.data end)
      for _, value in ipairs { 1, 1.5, "text", true, false, "ü", { 1, 2 }, { a = { b = {} } } } do
        assert.same(value, conn:request("/", value))
      end
      assert.equal("[]", json.encode(conn:request("/", json.array {})))
      assert.equal("{}", json.encode(conn:request("/", {})))
      assert.equal(json.null, conn:request("/", json.null))
      local value, message = conn:request("/")
      assert.is_nil(value)
      assert.is_nil(message)
      assert.equal(2^53, conn:request("/", 2^53))
      assert.equal(9007199254740993LL, conn:request("/", 9007199254740993LL))
    end)

    it("is what its handler sees", function()
      local got
      local conn = scene:pair(function(req)
        got = {
          route = req.route, data = req.data, from = req.from, client = req.client, is_push = req.is_push,
          is_stream = req.is_stream, payload = req.payload, id = req.id, params = req.params,
          deadline = req:deadline_ms(), remaining = req:remaining_ms(), cancelled = req:cancelled(),
        }
      end)
      conn:request("/a/b", { x = 1 })
      local other = scene:inbound()
      assert.equal("/a/b", got.route)
      assert.same({ x = 1 }, got.data)
      assert.equal(other, got.client)
      assert.equal(other:remote(), got.from)
      assert.is_false(got.is_push)
      assert.is_false(got.is_stream)
      assert.equal('{"x":1}', got.payload)
      assert.is_string(got.id)
      assert.is_nil(got.params)
      assert.is_nil(got.deadline)
      assert.is_nil(got.remaining)
      assert.is_false(got.cancelled)
    end)

    it("that is kept finds nothing once it is answered", function()
      local kept
      local conn = scene:pair(function(req) kept = req end)
      conn:request("/", { 1 })
      assert.is_nil(kept.id)
      assert.is_true(kept:cancelled())
      assert.is_nil(kept:deadline_ms())
      assert.equal("[1]", kept.payload)
      assert.equal("CANCELLED", (select(3, kept:write(1))))
      kept[1] = "no core"
      assert.is_nil(kept.id)
      assert.is_nil(kept.payload)
      kept[1], kept[2] = scene.server, -1
      assert.is_nil(kept.id)
      kept[2] = "x"
      assert.is_nil(kept.id)
    end)

    it("goes from the side that accepted, too", function()
      local conn = scene:pair(function() end)
      scene.client:set_handler(function(req) return "client " .. req.data end)
      assert.equal("client 5", scene:inbound():request("/", 5))
      assert.equal(conn:remote(), (conn:peer()))
    end)

    it("is refused with what the handler says", function()
      local outcomes = {
        function() return nil, "no", "NOPE" end,
        function() return nil, "no", 404 end,
        function() return nil, "no" end,
        function() error { status = 418, message = "teapot" } end,
        function() error { status = "TEA", message = "pot" } end,
        function() error { message = "no status" } end,
        function() error("boom") end,
        function() error("127.0.0.1:80: refused", 0) end,
        function() error(nil) end,
        function() error {} end,
        function() return function() end end,
        function() return { a = print } end,
        function() return ("\255") end,
      }
      local conn = scene:pair(function(req) return outcomes[req.data]() end)
      local function outcome(index)
        local value, message, code, is_remote = conn:request("/", index)
        assert.is_nil(value)
        assert.is_true(is_remote)
        return { code, message }
      end
      assert.same({ "NOPE", "no" }, outcome(1))
      assert.same({ 404, "no" }, outcome(2))
      assert.same({ "REFUSED", "no" }, outcome(3))
      assert.same({ 418, "teapot" }, outcome(4))
      assert.same({ "TEA", "pot" }, outcome(5))
      assert.equal(500, outcome(6)[1])
      assert.same({ 500, "boom" }, outcome(7))
      assert.same({ 500, "127.0.0.1:80: refused" }, outcome(8))
      assert.equal(500, outcome(9)[1])
      assert.equal(500, outcome(10)[1])
      assert.same({ 500, "Async iterable is not supported" }, outcome(11))
      assert.truthy(outcome(12)[2]:find("returned what JSON cannot carry: a function at a", 1, true))
      assert.truthy(outcome(13)[2]:find("JSON cannot carry", 1, true))
      eventually(function() return seen(scene.server_events, "error") == 7 end)
      local _, event = seen(scene.server_events, "error")
      assert.equal("handler", event[3])
      assert.equal(scene:inbound():remote(), event[4])
      local counters = scene.server:counters()
      assert.equal(7, counters.handler_errors)
      assert.equal(5, counters.refused)
      assert.equal(0, counters.handlers)
    end)

    it("finds no handler", function()
      local conn = scene:pair(nil)
      assert.same({ nil, "/there", "NOT_FOUND", true }, { conn:request("/there") })
    end)

    it("that cannot be sent says what is wrong", function()
      local conn = scene:pair(function() end)
      local value, message, code, is_remote = conn:request("/", { f = print })
      assert.is_nil(value)
      assert.equal("request: JSON cannot carry a function at f", message)
      assert.equal("INVALID", code)
      assert.is_nil(is_remote)
      assert.equal("INVALID", (select(3, conn:push("/", print))))
      assert.equal("INVALID", (select(3, conn:stream("/", print))))
      assert.has_error(function() conn:request(5) end)
      assert.has_error(function() conn:request("/", 1, 0) end)
      assert.has_error(function() conn:request("/", 1, "x") end)
      assert.has_error(function() conn.request(scene.server, "/") end)
      assert.has_error(function() scene.server.port(conn) end)
      assert.equal(0, conn:pending())
    end)

    it("waits no longer than timeout_ms, and tells the handler", function()
      local ended
      local conn = scene:pair(function(req)
        local ok, _, code = sched.sleep(2000)
        ended = { ok, code, req:cancelled() }
      end)
      local value, message, code, is_remote = conn:request("/", nil, 20)
      assert.is_nil(value)
      assert.equal("request: no answer in time", message)
      assert.equal("TIMEOUT", code)
      assert.is_nil(is_remote)
      eventually(function() return ended end)
      assert.same({ nil, "CANCELLED", true }, ended)
      assert.equal(0, conn:pending())
      assert.equal(1, scene.client:counters().timeouts)
      assert.equal(1, scene.server:counters().aborts)
      assert.equal(0, scene.server:counters().handlers)
    end)

    it("is given up by the end of its task", function()
      local ended
      local conn = scene:pair(function(req)
        sched.sleep(2000)
        ended = req:cancelled()
      end)
      local code
      local task = znl.spawn(function() code = select(3, conn:request("/", nil, 5000)) end)
      eventually(function() return scene.server:counters().handlers == 1 end)
      task:cancel("enough")
      eventually(function() return ended end)
      assert.equal("CANCELLED", code)
      assert.equal(0, conn:pending())
      assert.equal(1, scene.server:counters().aborts)
    end)
  end)

  describe("a push", function()
    it("arrives, and is never answered", function()
      local got = {}
      local conn = scene:pair(function(req)
        got[#got + 1] = { req.route, req.data, req.is_push, req.id }
        if req.route == "/fails" then error("late") end
        return "nobody hears this"
      end)
      assert.is_true(conn:push("/a", 1))
      assert.is_true(conn:push("/fails"))
      eventually(function() return #got == 2 and seen(scene.server_events, "error") == 1 end)
      assert.same({ "/a", 1, true, nil }, got[1])
      assert.equal(0, scene.server:counters().handlers)
      assert.equal(0, scene.client:counters().unknown)
    end)
  end)

  it("runs thousands of requests at once", function()
    local conn = scene:pair(function(req)
      sched.sleep(1)
      return req.data
    end, { max_concurrency = 100 })
    local done, wrong = 0, 0
    for i = 1, 3000 do
      sched.spawn(function()
        if conn:request("/", i) ~= i then wrong = wrong + 1 end
        done = done + 1
      end)
    end
    eventually(function() return done == 3000 end)
    assert.equal(0, wrong)
    assert.equal(0, scene.server:counters().handlers)
    assert.equal(0, scene.server:counters().queued)
  end)
end)
