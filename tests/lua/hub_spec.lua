--- Hubs without a bus: channels, sessions, limits, handlers that change. Runs inside znlrun only.
--- SPDX-License-Identifier: MIT

local certificate = require("tests.lua.support.certificate")
local eventually = require("tests.lua.support.eventually")
local folder = require("tests.lua.support.folder")
local estate = require("znl.versions.estate")
local scene = require("tests.lua.support.hub_scene")
local scope = require("znl.versions.scope")
local znl = require("znl")

describe("a hub", function()
  local stage, demo, folders = scene.new(), scene.demo, {}

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  local function code_of(...) return (select(3, ...)) end

  local function make(opts) return stage:make(opts) end
  local function started(opts) return stage:started(opts) end
  local function connect(...) return stage:connect(...) end
  local function joined(...) return stage:joined(...) end

  local function folder_of(files)
    local made = folder.new()
    folders[#folders + 1] = made
    for name, text in pairs(files) do made:write(name, text) end
    return made
  end

  before_each(function() stage.hush() end)
  after_each(function()
    stage:close()
    for _, each in ipairs(folders) do each:remove() end
    folders = {}
  end)

  describe("serves channels", function()
    it("with sessions, broadcasts, direct messages and a roster", function()
      local hub = started {}
      hub:channel("/ws/chat", demo())
      hub:channel("/ws/other", demo())
      local a = joined(hub, "ada", "s1", { metadata = { colour = "red" } })
      local b = joined(hub, "bob", "s2", { channels = { "ops" } })
      local c = joined(hub, "ada", "s3", nil, "/ws/other")

      a:say("say", { text = "to all" })
      assert.same({ type = "said", payload = { from = "ada", text = "to all" } }, a:hear())
      assert.same({ type = "said", payload = { from = "ada", text = "to all" } }, b:hear())
      a:say("say", { text = "not me", notMe = true })
      a:say("say", { text = "ops only", channel = "ops" })
      assert.equal("not me", b:hear().payload.text)
      assert.equal("ops only", b:hear().payload.text)
      b:say("dm", { to = "ada", text = "psst" })
      assert.same({ type = "dm", payload = { from = "bob", text = "psst" } }, a:hear())
      assert.same({ type = "dm", payload = { from = "bob", text = "psst" } }, c:hear())
      a:say("list")
      assert.same({ type = "roster", payload = {
        { session_id = "s1", user_id = "ada", metadata = { colour = "red" } }, { session_id = "s2", user_id = "bob" },
      } }, a:hear())
      assert.equal(1, #hub:roster("/ws/other"))
      assert.same({}, hub:roster("/nowhere"))
      assert.equal("local", hub:state())
      assert.is_false(hub:is_partial())
      assert.equal(3, hub:counters().connections)

      assert.equal(2, hub:broadcast { ns = "/ws/chat", message = { type = "all" } })
      local entry = { ns = "/ws/chat", message = { type = "all" }, except_session_ids = { "s1", "zz" } }
      assert.equal(1, hub:broadcast(entry))
      assert.equal(0, hub:direct_to_user("nobody", { type = "x" }))
      assert.same({ type = "all" }, a:hear())
      -- Of a connection: its own namespace, or the one that is named.
      local presence = hub:contexts("/ws/other")[1].presence
      assert.equal(1, presence:broadcast { message = { type = "here" } })
      assert.equal("here", c:hear().type)
      assert.equal(2, presence:broadcast { ns = "/ws/chat", message = { type = "there" } })
      assert.equal("there", a:hear().type)
    end)

    it("tells contexts what they are, and when they begin and end", function()
      local seen, ended = {}, znl.event()
      local hub = started { app = "life" }
      hub:channel("/rooms/:id", {
        authenticate = function(request) return { name = request.headers["x-name"] } end,
        on_connect = function(ctx)
          znl.sleep(1)
          seen.ns, seen.id, seen.identity = ctx.ns, ctx.request.params.id, ctx.identity.name
          seen.path = ctx.request.path
          seen.query, seen.peer, seen.open = ctx.request.query, ctx.request.peer, ctx:is_open()
          ctx.state.count = 0
          assert(ctx.presence:join { user_id = "u" })
          ctx:send("welcome", ctx.session_id)
        end,
        on_message = function(ctx, message)
          ctx.state.count = ctx.state.count + 1
          if message.type == "bye" then ctx:close(4001, "go") end
        end,
        on_disconnect = function(ctx, reason, close_code)
          seen.listed = #hub:roster(ctx.ns)
          seen.sent = code_of(ctx:send("too late"))
          seen.join = code_of(ctx.presence:join { user_id = "u" })
          ended:set(ctx.state.count, ctx.session_id, reason, close_code, ctx:is_open())
        end,
      })
      local client = assert(connect(hub, "/rooms/7/?a=b", { headers = { ["X-Name"] = "Ada" } }))
      local session_id = client:hear().payload
      assert.matches("^%x+$", session_id)
      client:say("one")
      client:say("two")
      client:say("bye")
      local ending = client:await_end()
      assert.equal(4001, ending.close_code)
      assert.equal("go", ending.reason)
      local count, at_end, reason, _, is_open = ended:wait(20000)
      assert.same({ 3, session_id, "CLOSED", false }, { count, at_end, reason, is_open })
      assert.equal("/rooms/7", seen.ns)
      assert.equal("/rooms/7/", seen.path)
      assert.same({ "7", "Ada", "a=b", true }, { seen.id, seen.identity, seen.query, seen.open })
      assert.matches("^127%.0%.0%.1:%d+$", seen.peer)
      assert.same({ 0, "CLOSED", "CLOSED" }, { seen.listed, seen.sent, seen.join })
    end)

    it("with a function as what takes the messages, one at a time and in order", function()
      local hub, at_work, most = started {}, 0, 0
      hub:channel("/ws/chat", function(ctx, message)
        at_work = at_work + 1
        most = math.max(most, at_work)
        znl.sleep(1)
        at_work = at_work - 1
        ctx:send { type = "echo", payload = message.payload }
      end)
      local client = assert(connect(hub))
      for i = 1, 20 do client:say("x", i) end
      for i = 1, 20 do assert.equal(i, client:hear().payload) end
      assert.equal(1, most)
    end)

    it("until they are removed, which closes their connections", function()
      local hub = started {}
      local remove = hub:channel("/ws/chat", demo())
      local client = assert(connect(hub))
      remove()
      remove()
      assert.equal(1001, client:await_end().close_code)
      assert.equal(404, (select(4, connect(hub))))
      hub:channel("/ws/chat", demo())
      assert.truthy(connect(hub))
    end)

    it("and goes on when a handler fails", function()
      local hub = started {}
      local failures = {}
      hub:on("error", function(message, where) failures[#failures + 1] = where .. " " .. message end)
      hub:channel("/ws/chat", {
        on_connect = function(ctx) if ctx.request.query == "bad" then error("no luck") end end,
        on_message = function(ctx, message)
          if message.type == "fail" then error("oops") end
          ctx:send("ok")
        end,
      })
      local client = assert(connect(hub))
      client:say("fail")
      client:say("go")
      assert.equal("ok", client:hear().type)
      local other = assert(connect(hub, "/ws/chat?bad"))
      assert.equal(1011, other:await_end().close_code)
      assert.equal(2, #failures)
      assert.matches("^on_message .*hub_spec%.lua:%d+: oops", failures[1])
      assert.matches("^on_connect .*no luck", failures[2])
      assert.equal(2, hub:counters().failed)
    end)
  end)

  describe("and its sessions", function()
    it("belong to the connection that joined last", function()
      local hub, displaced = started {}, {}
      hub:on("displaced", function(session_id, ctx, by)
        displaced = { session_id, ctx.request.query, by }
        ctx:close(4002, "elsewhere")
      end)
      hub:channel("/ws/chat", demo())
      local first = joined(hub, "ada", "s", nil, "/ws/chat?first")
      local second = joined(hub, "ada", "s", { metadata = { n = 2 } }, "/ws/chat?second")
      assert.equal(4002, first:await_end().close_code)
      assert.same({ "s", "first", hub.instance_id }, displaced)
      eventually(function() return hub:counters().connections == 1 end)
      assert.same({ { session_id = "s", user_id = "ada", metadata = { n = 2 } } }, hub:roster("/ws/chat"))
      second.conn:close()
      eventually(function() return #hub:roster("/ws/chat") == 0 end)
    end)

    it("leave the roster when the connection ends, whatever its handler waits for", function()
      local hub, go = started {}, znl.event()
      local seen, join_code, at_end = {}, nil, nil
      hub:channel("/ws/chat", {
        on_connect = function(ctx) assert(ctx.presence:join { user_id = "ada", session_id = "s1" }) end,
        on_message = function(ctx)
          go:wait()
          seen.session_id = ctx.session_id
          join_code = code_of(ctx.presence:join { user_id = "ada", session_id = "s1" })
        end,
        on_disconnect = function(ctx) at_end = { ctx.session_id, #hub:roster(ctx.ns) } end,
      })
      local client = assert(connect(hub))
      client:say("wait")
      eventually(function() return hub:counters().messages == 1 end)
      assert.equal(1, #hub:roster("/ws/chat"))
      client.conn:close()
      eventually(function() return #hub:roster("/ws/chat") == 0 end)
      assert.is_nil(at_end)
      assert.equal(0, hub:direct_to_user("ada", { type = "x" }))
      go:set(true)
      assert.same({ "s1", 0 }, eventually(function() return at_end end))
      assert.same({ "s1", "CLOSED" }, { seen.session_id, join_code })
    end)

    it("can be changed and left", function()
      local hub, ctx = started {}, nil
      hub:channel("/ws/chat", { on_connect = function(given) ctx = given end })
      local client = assert(connect(hub))
      eventually(function() return ctx end)
      assert.is_false(hub:leave_session(ctx))
      assert(hub:join_session(ctx, { user_id = "u", session_id = "one" }))
      assert(hub:join_session(ctx, { user_id = "v", channels = { "a" } })) -- the same session
      assert.same({ { session_id = "one", user_id = "v" } }, hub:roster("/ws/chat"))
      assert(hub:join_session(ctx, { user_id = "v", session_id = "two" }))
      assert.same({ { session_id = "two", user_id = "v" } }, hub:roster("/ws/chat"))
      assert.equal(1, hub:direct_to_user("v", { type = "x" }))
      assert.is_true(ctx.presence:leave())
      assert.same({}, hub:roster("/ws/chat"))
      assert.is_nil(ctx.session_id)
      assert.equal(0, hub:direct_to_user("v", { type = "y" }))
      assert.equal("x", client:hear().type)
    end)

    it("are refused when they are wrong, and limited", function()
      local hub, ctx = started { max_members = 1, max_member_bytes = 200 }, nil
      hub:channel("/ws/chat", { on_connect = function(given) ctx = given end })
      assert(connect(hub))
      eventually(function() return ctx end)
      local function code(session) return code_of(hub:join_session(ctx, session)) end
      assert.equal("INVALID", code {})
      assert.equal("INVALID", code { user_id = 7 })
      assert.equal("INVALID", code { user_id = ("x"):rep(1025) })
      assert.equal("INVALID", code { user_id = "u", session_id = "" })
      assert.equal("INVALID", code { user_id = "u", channels = "x" })
      assert.equal("INVALID", code { user_id = "u", channels = { 1 } })
      assert.equal("INVALID", code { user_id = "u", channels = { a = "b" } })
      assert.equal("INVALID", code { user_id = "u", metadata = "x" })
      assert.equal("INVALID", code { user_id = "u", metadata = { "x" } })
      assert.equal("INVALID", code { user_id = "u", metadata = { fn = print } })
      assert.equal("INVALID", code { user_id = "u", channels = { "\255" } })
      assert.equal("INVALID", code { user_id = "u\255" })
      assert.equal("INVALID", code { user_id = "u", colour = "red" })
      assert.equal("TOO_BIG", code { user_id = "u", metadata = { text = ("x"):rep(200) } })
      assert.same({}, hub:roster("/ws/chat"))
      assert.equal(0, hub:direct_to_user("u", { type = "x" }))
      assert(hub:join_session(ctx, { user_id = "u", session_id = "one" }))
      assert.equal("TOO_BIG", code { user_id = "v", metadata = { text = ("x"):rep(200) } })
      assert.same({ { session_id = "one", user_id = "u" } }, hub:roster("/ws/chat"))
      assert.same({ 1, 0 }, { hub:direct_to_user("u", { type = "x" }), hub:direct_to_user("v", { type = "x" }) })
      local before = ctx
      assert(connect(hub))
      eventually(function() return ctx ~= before end)
      assert.equal("LIMIT", code { user_id = "u" })
      assert.matches("context", failure(hub.join_session, hub, {}, { user_id = "u" }))
      assert.matches("needs a table", failure(hub.join_session, hub, ctx, "u"))
    end)
  end)

  describe("lets in", function()
    local function status_of(hub, path, headers)
      local client, _, code, status = connect(hub, path, { headers = headers })
      if client then return 101 end
      assert.equal("REFUSED", code)
      return status
    end

    it("who comes from where it may", function()
      local hub = started {}
      hub:channel("/ws/chat", demo())
      assert.equal(101, status_of(hub, nil, { Origin = "http://127.0.0.1:" .. hub:port() }))
      assert.equal(403, status_of(hub, nil, { Origin = "http://127.0.0.1" }))
      assert.equal(403, status_of(hub, nil, { Origin = "null" }))
      assert.equal(101, status_of(hub))
      local some = started { origins = { "https://example.org", "http://a:1" } }
      some:channel("/ws/chat", demo())
      assert.equal(101, status_of(some, nil, { Origin = "https://Example.org" }))
      assert.equal(403, status_of(some, nil, { Origin = "https://example.org.evil" }))
      assert.equal(403, status_of(some, nil, { Origin = "http://127.0.0.1:" .. some:port() }))
      local any = started { origins = "*" }
      any:channel("/ws/chat", demo())
      assert.equal(101, status_of(any, nil, { Origin = "null" }))
      assert.equal(3, hub:counters().refused_origin + some:counters().refused_origin - 1)
    end)

    it("who is known", function()
      local hub = started {
        authenticate_ms = 50,
        authenticate = function(request)
          local name = request.headers["x-name"]
          if name == "slow" then znl.sleep(60000) end
          if name == "fail" then error("no data base") end
          if name == "teapot" then return nil, "short and stout", 418 end
          if name == "odd" then return nil, {}, "x" end
          return name
        end,
      }
      local open_to_all = {}
      hub:channel("/ws/chat", { on_connect = function(ctx) open_to_all[ctx.identity] = true end })
      hub:channel("/ws/own", { authenticate = function() return false, "never", 403 end })
      assert.equal(401, status_of(hub))
      assert.equal(101, status_of(hub, nil, { ["X-Name"] = "ada" }))
      eventually(function() return open_to_all.ada end)
      assert.equal(418, status_of(hub, nil, { ["X-Name"] = "teapot" }))
      assert.equal(401, status_of(hub, nil, { ["X-Name"] = "odd" }))
      assert.equal(500, status_of(hub, nil, { ["X-Name"] = "fail" }))
      assert.equal(500, status_of(hub, nil, { ["X-Name"] = "slow" }))
      assert.equal(403, status_of(hub, "/ws/own", { ["X-Name"] = "ada" }))
      local counters = hub:counters()
      assert.equal(4, counters.refused_identity)
      assert.equal(2, counters.refused_failed)
    end)

    it("as many as there may be, on paths there are", function()
      local hub = started { max_connections = 2 }
      hub:channel("/ws/chat", demo())
      for _, path in ipairs { "/", "/ws/chat/x", "/ws//chat", "/ws/./chat", "/ws/x/../chat", "/ws/chat//" } do
        assert.equal(404, status_of(hub, path))
      end
      assert.equal(101, status_of(hub))
      assert.equal(101, status_of(hub, "/ws/chat/"))
      assert.equal(503, status_of(hub))
      stage.clients[1].conn:close()
      eventually(function() return hub:counters().connections < 2 end)
      assert.equal(101, status_of(hub))
      -- Those who are looked at do not count yet; they do when they are let in.
      local gate, at_gate = znl.event(), 0
      local narrow = started { max_connections = 1, authenticate = function()
        at_gate = at_gate + 1
        gate:wait()
        return true
      end }
      narrow:channel("/ws/chat", demo())
      local answers = {}
      for _ = 1, 3 do znl.spawn(function() table.insert(answers, status_of(narrow)) end) end
      eventually(function() return at_gate == 3 end)
      gate:set(true)
      eventually(function() return #answers == 3 end)
      table.sort(answers)
      assert.same({ 101, 503, 503 }, answers)
    end)

    it("and answers other requests with pages", function()
      local hub = started { on_request = function(request) if request.path == "/" then return 200, "<p>hi" end end }
      hub:channel("/ws/chat", demo())
      local function get(path)
        local conn = assert(znl.tcp.connect { port = hub:port(), io_timeout_ms = 20000 })
        conn:write(("GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"):format(path))
        local line = conn:read("line")
        conn:close()
        return tonumber(line:match("HTTP/1.1 (%d+)"))
      end
      assert.equal(200, get("/"))
      assert.equal(404, get("/else"))
      assert.equal(426, get("/ws/chat"))
    end)
  end)

  describe("limits clients", function()
    it("that send too much", function()
      local hub = started { rate = { messages_per_s = 1, burst = 3, on_excess = "close" } }
      hub:channel("/ws/chat", demo())
      local client = assert(connect(hub))
      for _ = 1, 5 do client.conn:send('{"type":"x"}') end
      assert.equal(1008, client:await_end().close_code)
      assert.equal(3, hub:counters().messages)
      local mild = started { rate = { bytes_per_s = 100 } }
      mild:channel("/ws/chat", function(ctx, message) ctx:send("got", #message.payload) end)
      client = assert(connect(mild))
      client:say("x", ("x"):rep(500)) -- from a full bucket
      client:say("x", "y")
      assert.equal(500, client:hear().payload)
      eventually(function() return mild:counters().rate_limited == 1 end)
      assert.is_true(client.conn:is_open())
    end)

    it("that send what is no message", function()
      local hub = started {}
      hub:channel("/ws/chat", function(ctx) ctx:send("got") end)
      local client = assert(connect(hub))
      for _, text in ipairs { "", "{", "[]", "7", '{"type":7}', "null", '"type"', ("["):rep(5000) } do
        client.conn:send(text)
      end
      client.conn:send("\255", { binary = true })
      client:say("x")
      assert.equal("got", client:hear().type)
      assert.equal(9, hub:counters().invalid)
      local strict = started { on_invalid = "close", max_message_bytes = 100 }
      strict:channel("/ws/chat", demo())
      client = assert(connect(strict))
      client.conn:send("{")
      assert.equal(1007, client:await_end().close_code)
      client = assert(connect(strict))
      client:say("x", ("x"):rep(100))
      assert.equal(1009, client:await_end().close_code)
    end)

    it("that do not read", function()
      local hub, slow, ended = started { max_queue_bytes = 65536, close_ms = 100 }, znl.event(), znl.event()
      hub:on("slow", function(ctx) slow:set(ctx.ns) end)
      hub:channel("/ws/chat", { on_disconnect = function(_, reason) ended:set(reason) end })
      local url = ("ws://127.0.0.1:%d/ws/chat"):format(hub:port())
      local client = assert(znl.websocket.connect(url, { max_inbox_bytes = 1 }))
      eventually(function() return hub:counters().connections == 1 end)
      local message = { type = "big", payload = ("x"):rep(60000) }
      eventually(function()
        hub:broadcast { ns = "/ws/chat", message = message }
        return slow:is_set()
      end)
      assert.equal("/ws/chat", slow:wait())
      assert.equal("SLOW", ended:wait(20000))
      while client:recv(20000) do end
      assert.is_false(client:is_open())
    end)

    it("that are silent", function()
      local hub = started { ping_ms = 500, idle_ms = 0 }
      hub:channel("/ws/chat", demo())
      local alive = assert(connect(hub))
      -- Speaks HTTP and answers no ping.
      local dead = assert(znl.tcp.connect { port = hub:port(), io_timeout_ms = 20000 })
      dead:write("GET /ws/chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        .. "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
      eventually(function() return hub:counters().silent == 1 end)
      dead:close()
      assert.is_true(alive.conn:is_open())
      local brief = started { idle_ms = 20, ping_ms = 5 }
      brief:channel("/ws/chat", demo())
      local client = assert(connect(brief))
      assert.equal(1001, client:await_end().close_code)
      assert.equal(1, brief:counters().idle)
    end)
  end)

  describe("replaces handlers", function()
    local TEXT = [[
      return {
        on_load = function(before) return before or { loads = 0 } end,
        on_connect = function(ctx) ctx.state.began = "%s" end,
        on_message = function(ctx, message, state)
          state.loads = state.loads + 1
          if message.type == "wait" then znl_spec_gate:wait() end
          ctx:send("%s", { began = ctx.state.began, count = state.loads })
        end,
      }
    ]]

    it("of files, and keeps the connections", function()
      _G.znl_spec_gate = znl.event()
      local files = folder_of { ["chat.lua"] = TEXT:format("one", "one") }
      local hub = started {}
      local source = znl.handlers(files.path .. "/chat.lua", { debounce_ms = 0 })
      hub:handle("/ws/chat", source)
      local client, waiting = assert(connect(hub)), assert(connect(hub))
      client:say("x")
      assert.same({ type = "one", payload = { began = "one", count = 1 } }, client:hear())
      waiting:say("wait")
      eventually(function() return source:counters().running == 0 and hub:counters().messages == 2 end)
      files:write("chat.lua", TEXT:format("two", "two"))
      assert(source:reload())
      client:say("x")
      assert.same({ type = "two", payload = { began = "one", count = 3 } }, client:hear())
      _G.znl_spec_gate:set(true)
      assert.equal("one", waiting:hear().type)
      files:write("chat.lua", "return {")
      assert.is_nil((source:reload()))
      client:say("x")
      assert.equal("two", client:hear().type)
      source:close()
      client:say("x")
      assert.equal(1001, client:await_end().close_code)
      _G.znl_spec_gate = nil
    end)

    it("of folders, each file at its path", function()
      local files = folder_of {
        ["chat.msg.lua"] = "return { on_message = function(ctx) ctx:send('chat') end }",
        ["rooms/[id].msg.lua"] =
          "return { on_message = function(ctx) ctx:send(ctx.request.params.id) end }",
      }
      local hub = started {}
      local source = znl.handlers(files.path)
      hub:handle("/ws", source)
      local chat, room = assert(connect(hub, "/ws/chat")), assert(connect(hub, "/ws/rooms/9"))
      chat:say("x")
      room:say("x")
      assert.equal("chat", chat:hear().type)
      assert.equal("9", room:hear().type)
      assert.equal(404, (select(4, connect(hub, "/ws/none"))))
      source:close()
    end)

    it("and refuses those that are no channels", function()
      local files = folder_of {
        ["plain.lua"] = "return function() end",
        ["both.lua"] = "return { handle = function() end, on_message = function() end }",
        ["typo.lua"] = "return { on_mesage = function() end }",
        ["chat.lua"] = "return { on_message = function() end }",
      }
      local hub = make {}
      local plain = znl.handlers(files.path .. "/plain.lua")
      assert.matches("plain%.lua: it answers requests", failure(hub.handle, hub, "/x", plain))
      assert.matches("cannot be both", failure(znl.handlers, files.path .. "/both.lua"))
      assert.matches("did you mean on_message", failure(znl.handlers, files.path .. "/typo.lua"))
      local chat = znl.handlers(files.path .. "/chat.lua")
      local node = znl.master { id = "hub-spec", endpoint = "sim://*" }
      node:handle(chat)
      assert(node:start())
      local slave = znl.slave { id = "hub-spec-slave", endpoint = node:endpoint() }
      assert(slave:start())
      local _, message, code = slave:request("x", { timeout_ms = 20000 })
      assert.matches("serves a channel", message)
      assert.equal("NOT_FOUND", code)
      slave:stop()
      node:stop()
      plain:close()
      chat:close()
    end)
  end)

  describe("under a reload of the script", function()
    local previous, count

    before_each(function() previous, count = nil, 0 end)
    after_each(function()
      if previous then previous:finish() end
    end)

    --- Runs `body` as a version of the script and puts it into service in the place of the one before.
    local function version(body)
      count = count + 1
      local own = assert(scope.new { name = "version " .. count })
      own.estate = estate.new(previous and previous.estate)
      assert(own:run(body))
      assert(own:commit())
      own.estate:commit()
      if previous then previous:finish() end
      previous = own
    end

    it("keeps its connections and gets new handlers, and ends when it is not declared again", function()
      local made = {}
      local function script(name, more)
        return function()
          local opts = {
            app = "reload", listen = "127.0.0.1:0", authenticate = function() return name end,
            on_request = function(request) if request.path == "/" then return 418, name end end,
          }
          for option, value in pairs(more or {}) do opts[option] = value end
          local hub = znl.hub(opts)
          hub:channel("/ws/chat", {
            on_connect = function(ctx) ctx:send("welcome", ctx.identity) end,
            on_message = function(ctx, message)
              if message.type == "wait" then znl.sleep(message.payload) end
              ctx:send(name)
            end,
          })
          if name == "first" then hub:channel("/ws/old", demo()) end
          made[#made + 1] = hub
          stage:add(hub)
          assert(hub:start())
        end
      end
      version(script("first"))
      local client, old = assert(connect(made[1])), assert(connect(made[1], "/ws/old"))
      assert.same({ type = "welcome", payload = "first" }, client:hear())
      client:say("x")
      assert.equal("first", client:hear().type)

      version(script("second"))
      assert.equal(made[1], made[2])
      client:say("x")
      assert.equal("second", client:hear().type)
      assert.equal("second", assert(connect(made[2])):hear().payload)
      assert.equal(1001, old:await_end().close_code)
      assert.equal(404, (select(4, connect(made[2], "/ws/old"))))
      assert.equal(418, (select(4, connect(made[2], "/"))))

      -- Work of a version that is cut does not take the connection with it.
      client:say("wait", 60000)
      eventually(function() return made[2]:counters().messages == 3 end)
      local before = previous
      version(script("third"))
      before.owner:cut("over")
      client:say("x")
      assert.equal("third", client:hear().type)

      -- Other options: another hub in its place.
      version(script("fourth", { max_connections = 7 }))
      assert.are_not.equal(made[3], made[4])
      assert.equal(1001, client:await_end().close_code)
      assert.is_false(made[3]:running())
      assert.is_true(made[4]:running())

      version(function() end)
      assert.is_false(made[4]:running())
    end)
  end)

  it("starts and stops more than once, and is closed with 1001", function()
    local hub, reason = make {}, nil
    hub:channel("/ws/chat", { on_message = demo().on_message, on_disconnect = function(_, why) reason = why end })
    assert.equal("stopped", hub:state())
    assert.is_nil(hub:port())
    assert.equal("STOPPED", code_of(hub:broadcast { ns = "/", message = { type = "x" } }))
    assert.equal("STOPPED", code_of(hub:direct_to_user("u", { type = "x" })))
    assert.same({}, hub:roster("/ws/chat"))
    assert(hub:close())
    for _ = 1, 2 do
      assert(hub:start())
      assert(hub:start())
      assert.is_true(hub:running())
      local client = joined(hub, "ada", "s1")
      assert(hub:close())
      assert.equal(1001, client:await_end().close_code)
      assert.equal("STOPPED", reason)
      assert.is_false(hub:running())
      assert.equal(0, hub:counters().connections)
    end
    local other = started {}
    local taken = make { listen = "127.0.0.1:" .. other:port() }
    local _, why, code = taken:start()
    assert.equal("ADDRESS_IN_USE", code)
    assert.is_truthy(why:find("127.0.0.1:" .. other:port(), 1, true), why)
    assert.equal("stopped", taken:state())
  end)

  it("says why it cannot start, and takes nothing then", function()
    local hub = make { bus = "http://127.0.0.1" }
    local ok, message, code = hub:start()
    assert.is_nil(ok)
    assert.matches('^znl%.hub: bus: servers: number 1, "http://127.0.0.1": not an address', message)
    assert.equal("INVALID", code)
    assert.is_nil(hub:port())
    assert.equal("stopped", hub:state())
    assert.is_nil((hub:start()))
  end)

  it("serves with TLS", function()
    local files = folder_of {}
    local file, key = certificate(files)
    assert(file, "openssl is missing")
    local hub = started { tls = { certificate = file, key = key } }
    hub:channel("/ws/chat", demo())
    local url = ("wss://127.0.0.1:%d/ws/chat"):format(hub:port())
    local conn = assert(znl.websocket.connect(url, { tls = { authorities = file } }))
    conn:send('{"type":"list"}')
    assert.same({ type = "roster", payload = {} }, select(2, znl.json.decode(conn:recv(20000))))
    conn:close()
    assert.matches("tls: ", failure(make, { tls = { certificate = "/none", key = key } }))
  end)

  it("does not wait longer for handlers than it is told", function()
    local hub, gate = started {}, znl.event()
    local sent
    hub:channel("/ws/chat", function(ctx)
      gate:wait()
      sent = code_of(ctx:send("late"))
    end)
    assert(connect(hub)):say("x")
    eventually(function() return hub:counters().messages == 1 end)
    assert.equal("TIMEOUT", code_of(hub:close(10)))
    gate:set(true)
    eventually(function() return sent end)
    assert.equal("CLOSED", sent)
    assert(hub:start())
    assert.equal(0, hub:counters().connections)
  end)

  it("tells who joins and leaves", function()
    local hub, news = started {}, {}
    for _, event in ipairs { "member_added", "member_updated", "member_removed" } do
      hub:on(event, function(ns, session_id, user_id, owner, cause)
        assert.equal(hub.instance_id, owner)
        news[#news + 1] = table.concat({ event, ns, session_id, user_id, cause or "" }, " ")
      end)
    end
    hub:channel("/ws/chat", demo())
    local client = joined(hub, "ada", "s1")
    client:say("join", { userId = "ada", sessionId = "s1", metadata = { a = 1 } })
    client:hear()
    client.conn:close()
    eventually(function() return #news == 3 end)
    assert.same({ "member_added /ws/chat s1 ada ", "member_updated /ws/chat s1 ada ",
      "member_removed /ws/chat s1 ada left" }, news)
  end)

  it("refuses what it cannot be", function()
    local function message(opts)
      opts.app, opts.listen = opts.app or "a", opts.listen or "127.0.0.1:0"
      return failure(function() znl.hub(opts) end)
    end
    assert.matches("option app", message { app = "a.b" })
    assert.matches("option app", message { app = "a b" })
    assert.matches("option app", message { app = ">" })
    assert.matches("option subject_prefix", message { subject_prefix = "a..b" })
    assert.matches("option subject_prefix", message { subject_prefix = "a.*" })
    assert.matches("option subject_prefix", message { subject_prefix = "" })
    assert.matches("ttl_ms .* 2000%.%.3600000", message { roster = { ttl_ms = 1999 } })
    assert.matches("ttl_ms", message { roster = { ttl_ms = 2000.5 } })
    assert.matches('driver .* "nats" or "none"', message { roster = { driver = "redis" } })
    assert.matches("bus is missing", message { roster = { driver = "nats" } })
    assert.matches("option bus", message { bus = 7 })
    assert.matches("option listen", message { listen = "8080" })
    assert.matches('listen is "127.0.0.1:65536"; its port', message { listen = "127.0.0.1:65536" })
    assert.matches('origins%[2%] is "example.org"', message { origins = { "https://a", "example.org" } })
    assert.matches("origins", message { origins = {} })
    assert.matches("burst", message { rate = { burst = 3 } })
    assert.matches("on_slow", message { on_slow = "wait" })
    assert.matches("unknown option \"oringins\"; did you mean origins", message { oringins = "*" })
    assert.matches("hub_spec%.lua:%d+:", message { roster = { ttl = 1 } })
    local hub = make {}
    assert.matches("unknown handler \"on_mesage\"; did you mean on_message",
      failure(hub.channel, hub, "/x", { on_mesage = print }))
    assert.matches("must be a function", failure(hub.channel, hub, "/x", { on_message = 7 }))
    assert.matches("no handler", failure(hub.channel, hub, "/x", {}))
    assert.matches("not a nil", failure(hub.channel, hub, "/x"))
    assert.matches("channel:", failure(hub.channel, hub, "x/[", {}))
    hub:channel("/x/:id", demo())
    assert.matches("has handlers already", failure(hub.channel, hub, "/x/:name", demo()))
    assert.matches("there is no event", failure(hub.on, hub, "joined", print))
    assert.matches("drain_ms", failure(hub.close, hub, -1))
    assert.matches("there is no msg", failure(hub.broadcast, hub, { ns = "/", msg = {} }))
    assert.equal("INVALID", code_of(hub:broadcast { ns = "/", message = { type = 7 } }))
    assert.equal("INVALID", code_of(hub:broadcast { ns = 7, message = { type = "x" } }))
    assert.equal("INVALID", code_of(hub:broadcast { ns = "/", channel = 7, message = { type = "x" } }))
    assert.equal("INVALID", code_of(hub:broadcast { ns = "/", message = { type = "x" }, except_session_ids = { 7 } }))
    assert.equal("INVALID", code_of(hub:direct_to_user(7, { type = "x" })))
    assert.equal("INVALID", code_of(hub:direct_to_user("u", "x")))
  end)
end)
