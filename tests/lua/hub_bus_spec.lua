--- znl.core.hub and znl.core.roster on a real nats-server: between instances, and with what others put on the
--- subjects. Inside znlrun only. SPDX-License-Identifier: MIT

local has_core, hubs_core = pcall(require, "znl.core.hub")

describe("hubs and rosters on NATS", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local cjson = require("cjson")
  local eventually = require("tests.lua.support.eventually")
  local nats_server = require("tests.lua.support.nats_server")
  local rosters_core = require("znl.core.roster")
  local znl = require("znl")

  local PREFIX, T = "mega.ws", 4000
  local server, opened, started

  local function connect(options)
    options = options or {}
    options.servers = options.servers or server.url
    options.reconnect_min_ms = 10
    options.reconnect_max_ms = 50
    local nats = assert(znl.nats.connect(options))
    opened[#opened + 1] = nats
    return nats
  end

  local function new_hub(nats, origin, on_event)
    local hub = assert(hubs_core.new {
      bus = nats.core, prefix = PREFIX, app = "main", origin = origin, on_event = on_event,
    })
    assert.is_true(hub:start())
    started[#started + 1] = hub
    return hub
  end

  local function new_roster(nats, origin, options)
    options = options or {}
    options.bus, options.subject, options.origin = nats.core, PREFIX .. ".main.roster", origin
    options.ttl_ms = options.ttl_ms or T
    local roster = assert(rosters_core.new(options))
    assert.is_true(roster:start())
    started[#started + 1] = roster
    return roster
  end

  --- What is published on all subjects of the application, decoded.
  local function watch(nats)
    local seen = {}
    nats:subscribe(PREFIX .. ".main.*", function(message)
      local is_json, json = pcall(cjson.decode, message.data)
      if is_json then seen[#seen + 1] = { subject = message.subject, json = json } end
    end)
    assert(nats:flush(5000))
    return seen
  end

  local function sessions(roster, ns)
    local ids = {}
    for _, member in ipairs(roster:list(ns)) do ids[#ids + 1] = member.session_id end
    table.sort(ids)
    return table.concat(ids, " ")
  end

  setup(function() server = nats_server.start() end)
  teardown(function() server:remove() end)
  before_each(function() opened, started = {}, {} end)
  after_each(function()
    for _, object in ipairs(started) do object:stop() end
    for _, nats in ipairs(opened) do nats:close() end
    if not server.server_pid then server:restart() end
    collectgarbage()
  end)

  describe("a hub", function()
    local listener, url, near, far

    --- A client of a hub; what it gets is in `got`, decoded.
    local function attach(hub, ns)
      local client = { got = {} }
      client.far = assert(znl.websocket.connect(url))
      eventually(function() return near[1] end)
      client.near = table.remove(near)
      client.id = assert(hub:attach(client.near.core, ns))
      znl.spawn(function()
        for message in client.far:messages() do client.got[#client.got + 1] = cjson.decode(message) end
      end)
      far[#far + 1] = client.far
      return client
    end

    local function got(client, ...)
      local want = { ... }
      eventually(function() return #client.got >= #want end)
      assert.same(want, client.got)
      client.got = {}
    end

    before_each(function()
      near, far = {}, {}
      listener = assert(znl.websocket.serve {
        listen = "127.0.0.1:0",
        handle = function(conn)
          table.insert(near, 1, conn)
          for _ in conn:messages() do end
        end,
      })
      url = ("ws://127.0.0.1:%d"):format(listener.port)
    end)
    after_each(function()
      for _, conn in ipairs(far) do conn:close() end
      listener:close()
    end)

    it("reaches the clients of others, and drops its own echoes", function()
      local a = new_hub(connect { echo = true }, "instA")
      local b = new_hub(connect(), "instB")
      local ca, cb, news = attach(a, "/c"), attach(b, "/c"), attach(b, "/news")
      assert(b:join(cb.id, "s1", "bob", { "room" }))
      assert(b:join(news.id, "s2", "bob"))
      opened[2]:flush(5000)
      assert.equal(1, a:broadcast("/c", nil, { type = "one", payload = 1 }))
      assert.equal(0, a:broadcast("/c", "room", { type = "two" }))
      assert.equal(1, a:broadcast("/c", nil, { type = "three" }, { "s1" }))
      assert.equal(0, a:direct("bob", { type = "four", payload = cjson.null }))
      assert.equal(0, a:broadcast("/news", nil, { type = "last" }))
      got(cb, { type = "one", payload = 1 }, { type = "two" }, { type = "four", payload = cjson.null })
      got(news, { type = "four", payload = cjson.null }, { type = "last" })
      got(ca, { type = "one", payload = 1 }, { type = "three" })
      eventually(function() return a:counters().echoes == 5 end)
      assert.equal(5, a:counters().published)
      assert.equal(5, b:counters().received)
      assert.equal(0, b:counters().echoes)
      assert.equal(1, b:counters().skipped)
    end)

    it("delivers what anybody publishes there, and counts what it cannot read", function()
      local foreign = connect()
      local hub = new_hub(connect(), "instA")
      local client = attach(hub, "/c")
      assert(opened[2]:flush(5000))
      for _, text in ipairs {
        "{", "7", '{"ns":"/c"}', '{"ns":"/c","message":{"type":7}}',
        '{"ns":"/c","message":{"type":"deep","payload":' .. ("["):rep(2000) .. ("]"):rep(2000) .. "}}",
        '{"o":"x","ns":"/c","more":[],"message":{"type":"m","payload":[1,"\\u00e9"],"extra":true}}',
      } do
        assert(foreign:publish(PREFIX .. ".main.bcast", text))
      end
      got(client, { type = "m", payload = { 1, "\195\169" } })
      local counters = hub:counters()
      assert.equal(6, counters.received)
      assert.equal(5, counters.malformed)
    end)

    it("delivers here while NATS is away, says so once, and goes on when it is back", function()
      local errors = {}
      local a = new_hub(connect(), "instA", function(...) errors[#errors + 1] = { ... } end)
      local b = new_hub(connect(), "instB")
      local ca, cb = attach(a, "/c"), attach(b, "/c")
      server:kill()
      eventually(function() return not opened[1]:is_connected() and not opened[2]:is_connected() end)
      for i = 1, 3 do assert.equal(1, a:broadcast("/c", nil, { type = "lost", payload = i }) ) end
      eventually(function() return #errors > 0 end)
      assert.equal(3, a:counters().dropped_offline)
      got(ca, { type = "lost", payload = 1 }, { type = "lost", payload = 2 }, { type = "lost", payload = 3 })
      server:restart()
      eventually(function() return opened[1]:is_connected() and opened[2]:is_connected() end)
      assert(opened[2]:flush(5000))
      a:broadcast("/c", nil, { type = "back" })
      got(cb, { type = "back" })
      assert.same({ { "error", "OFFLINE", "not published: not connected at the moment" } }, errors)
    end)

    it("counts what is larger than the server takes", function()
      local hub = new_hub(connect(), "instA")
      local client = attach(hub, "/c")
      assert.equal(1, hub:broadcast("/c", nil, { type = "big", payload = ("x"):rep(1100000) }))
      eventually(function() return #client.got == 1 end)
      assert.equal(1, hub:counters().dropped_too_big)
      assert.is_true(opened[1]:is_connected())
    end)

    it("outlives the connection that it was given", function()
      local errors = {}
      local nats = connect()
      local hub = new_hub(nats, "instA", function(_, code) errors[#errors + 1] = code end)
      local client = attach(hub, "/c")
      nats:close()
      assert.equal(1, hub:broadcast("/c", nil, { type = "x" }))
      got(client, { type = "x" })
      eventually(function() return errors[1] == "CLOSED" end)
      hub:stop()
      assert.equal("CLOSED", (select(3, hub:start())))
      assert.is_false((pcall(hubs_core.new, { bus = nats.core, prefix = "p", app = "a", origin = "o" })))
      assert.is_false((pcall(hubs_core.new, { bus = {}, prefix = "p", app = "a", origin = "o" })))
    end)

    it("publishes nothing before it starts and after it stops", function()
      local seen = watch(connect())
      local hub = assert(hubs_core.new { bus = connect().core, prefix = PREFIX, app = "main", origin = "instA" })
      hub:broadcast("/c", nil, { type = "early" })
      assert(hub:start())
      hub:broadcast("/c", nil, { type = "said", payload = 1 }, { "s1", "s2" })
      hub:stop()
      hub:direct("u", { type = "late" })
      opened[2]:publish(PREFIX .. ".main.end", "{}")
      eventually(function() return seen[#seen] and seen[#seen].subject:find("end$") end)
      assert.equal(2, #seen)
      assert.equal(PREFIX .. ".main.bcast", seen[1].subject)
      assert.same({
        o = "instA", ns = "/c", message = { type = "said", payload = 1 }, exceptSessionIds = { "s1", "s2" },
      }, seen[1].json)
    end)
  end)

  describe("a roster", function()
    it("shows the members of all, until they leave", function()
      local events = {}
      local a = new_roster(connect(), "instA")
      assert(a:join { ns = "/c", session_id = "s1", user_id = "ann", metadata = { name = "Ann" } })
      local b = new_roster(connect(), "instB", { on_event = function(...) events[#events + 1] = { ... } end })
      eventually(function() return sessions(b, "/c") == "s1" end)
      assert.same({
        ns = "/c", session_id = "s1", user_id = "ann", metadata = { name = "Ann" }, owner = "instA", own = false,
      }, b:find("s1"))
      assert(b:join { ns = "/c", session_id = "s2" })
      eventually(function() return sessions(a, "/c") == "s1 s2" end)
      assert(a:join { ns = "/c", session_id = "s1", user_id = "bob" })
      eventually(function() return b:find("s1").user_id == "bob" end)
      assert.same({}, a:list("/x"))
      local owners = a:owners()
      assert.equal(1, #owners)
      assert.equal("instB", owners[1].id)
      assert.equal(1, owners[1].members)
      assert.is_true(owners[1].ours)
      assert.is_true(owners[1].age_ms >= 0)
      assert.is_true(a:leave("s1"))
      eventually(function() return sessions(b, "/c") == "s2" end)
      assert.is_false(a:leave("s2"))
      b:stop()
      eventually(function() return sessions(a, "/c") == "" end)
      assert.same({
        { "added", "/c", "s1", "ann", "instA" },
        { "added", "/c", "s2", nil, "instB" },
        { "updated", "/c", "s1", "bob", "instA" },
        { "removed", "/c", "s1", "bob", "instA", "left" },
        { "removed", "/c", "s2", nil, "instB", "stopped" },
      }, events)
    end)

    it("believes the newer join of a session, and tells who had it", function()
      local displaced = {}
      local a
      a = new_roster(connect(), "instA", { on_event = function(name, session_id, owner)
        if name == "displaced" then displaced[#displaced + 1] = { session_id, owner, a:find(session_id).own } end
      end })
      local b = new_roster(connect(), "instB")
      assert(a:join { ns = "/c", session_id = "s", user_id = "ann" })
      eventually(function() return b:find("s") end)
      assert(b:join { ns = "/c", session_id = "s", user_id = "ann" })
      eventually(function() return #displaced > 0 end)
      assert.same({ { "s", "instB", false } }, displaced)
      assert.equal("instB", a:find("s").owner)
      assert.is_true(a:leave("s"))
      assert.is_true(b:join { ns = "/c", session_id = "end" })
      eventually(function() return a:find("end") end)
      assert.is_true(b:find("s").own)
    end)

    it("answers originals, and takes what they say", function()
      local nats = connect()
      local seen = watch(nats)
      local roster = new_roster(connect(), "instA")
      assert(roster:join { ns = "/c", session_id = "s1", user_id = "ann" })
      eventually(function() return #seen >= 3 end)
      assert.equal("sync_request", seen[1].json.op)
      assert.equal("heartbeat", seen[2].json.op)
      assert.equal("add", seen[3].json.op)
      assert.same({ ns = "/c", sessionId = "s1", userId = "ann" }, seen[3].json.member)
      local function say(text) assert(nats:publish(PREFIX .. ".main.roster", text)) end
      say '{"o":"old","op":"add","member":{"ns":"/c","sessionId":"s9","userId":"zoe","metadata":{"k":[1]}}}'
      eventually(function() return roster:find("s9") end)
      assert.same({ k = { 1 } }, roster:find("s9").metadata)
      assert.is_false(roster:owners()[1].ours)
      say '{"o":"old","op":"remove","sessionId":"s1"}' -- not its own: announced again
      eventually(function()
        for i = 4, #seen do
          local json = seen[i].json
          if json.o == "instA" and json.op == "add" and json.member.sessionId == "s1" then return true end
        end
      end)
      assert.equal("s1 s9", sessions(roster, "/c"))
      local count = #seen
      say '{"o":"old","op":"sync_request"}'
      eventually(function()
        for i = count + 1, #seen do
          local json = seen[i].json
          if json.o == "instA" and json.op == "heartbeat" and #json.members == 1 then return true end
        end
      end)
      say '{"o":"old","op":"heartbeat","members":[]}'
      eventually(function() return sessions(roster, "/c") == "s1" end)
      for _, text in ipairs { "{", "[]", '{"op":7}', '{"op":"new","o":"x"}', '{"o":"x","op":"add","member":7}' } do
        say(text)
      end
      say '{"o":"old","op":"add","member":{"ns":"/c","sessionId":"last"}}'
      eventually(function() return roster:find("last") end)
      assert.equal("last s1", sessions(roster, "/c"))
      assert.equal(1, roster:counters().malformed)
    end)

    it("is complete again soon after NATS was away", function()
      -- No heartbeat comes to the rescue.
      local a = new_roster(connect(), "instA", { ttl_ms = 3600000 })
      local b = new_roster(connect(), "instB", { ttl_ms = 3600000 })
      assert(a:join { ns = "/c", session_id = "s1" })
      eventually(function() return b:find("s1") end)
      server:kill()
      eventually(function() return not opened[1]:is_connected() and not opened[2]:is_connected() end)
      assert(a:join { ns = "/c", session_id = "s2" })
      assert.is_true(a:leave("s1"))
      assert(b:join { ns = "/c", session_id = "s3" })
      assert.is_true(a:counters().unsent >= 2)
      server:restart()
      eventually(function() return sessions(a, "/c") == "s2 s3" and sessions(b, "/c") == "s2 s3" end)
    end)

    it("outlives the connection that it was given", function()
      local nats = connect()
      local roster = new_roster(nats, "instA")
      assert(roster:join { ns = "/c", session_id = "s1" })
      nats:close()
      assert(roster:join { ns = "/c", session_id = "s2" })
      roster:sync()
      assert.equal("s1 s2", sessions(roster, "/c"))
      roster:stop()
      local late = assert(rosters_core.new { bus = connect().core, subject = "s" })
      opened[2]:close()
      assert.equal("CLOSED", (select(3, late:start())))
    end)
  end)
end)
