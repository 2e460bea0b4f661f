--- znl.core.hub: who of the clients here gets what. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core, core = pcall(require, "znl.core.hub")

describe("znl.core.hub", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local cjson = require("cjson")
  local eventually = require("tests.lua.support.eventually")
  local websocket = require("znl.websocket")

  local server, url, arrived, clients, hubs

  --- Both ends of a new connection; what the far one gets is in `got`, decoded.
  local function connect()
    local client = { got = {} }
    client.far = assert(websocket.connect(url))
    eventually(function() return #arrived > 0 end)
    client.near = table.remove(arrived)
    require("znl").spawn(function()
      for message in client.far:messages() do client.got[#client.got + 1] = cjson.decode(message) end
      client.ended = true
    end)
    clients[#clients + 1] = client
    return client
  end

  local function new_hub(options)
    local hub
    options = options or {}
    options.prefix, options.app, options.origin = "mega.ws", options.app or "main", options.origin or "instA"
    hub = assert(core.new(options))
    assert.is_true(hub:start())
    hubs[#hubs + 1] = hub
    return hub
  end

  local function attach(hub, ns)
    local client = connect()
    client.id = assert(hub:attach(client.near.core, ns))
    return client
  end

  --- Nothing but these has arrived: one more message follows them.
  local function gets(client, ...)
    assert(client.near:send('{"type":"last"}'))
    local count = select("#", ...)
    eventually(function() return #client.got > count end)
    local want = { ... }
    want[count + 1] = { type = "last" }
    assert.same(want, client.got)
    client.got = {}
  end

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  before_each(function()
    arrived, clients, hubs = {}, {}, {}
    server = assert(websocket.serve {
      listen = "127.0.0.1:0", max_queue_bytes = 1024,
      handle = function(conn)
        table.insert(arrived, 1, conn)
        for _ in conn:messages() do end
      end,
    })
    url = ("ws://127.0.0.1:%d"):format(server.port)
  end)

  after_each(function()
    for _, hub in ipairs(hubs) do hub:stop() end
    for _, client in ipairs(clients) do client.far:close() end
    server:close()
    collectgarbage()
  end)

  local HI = { type = "said", payload = { text = "h\195\169" } }

  it("delivers to namespaces, channels, users and single clients", function()
    local hub = new_hub()
    local a, b, other = attach(hub, "/c"), attach(hub, "/c"), attach(hub, "/d")
    assert.equal(3, hub:clients())
    assert.same({ true }, { hub:join(a.id, "s1", "ann", { "room", "room" }) })
    assert.same({ true }, { hub:join(other.id, "s2", "ann") })
    assert.equal(2, hub:broadcast("/c", nil, HI))
    gets(a, HI)
    gets(b, HI)
    gets(other)
    assert.equal(1, hub:broadcast("/c", "room", { type = "none" }))
    gets(a, { type = "none" })
    gets(b)
    assert.equal(1, hub:broadcast("/c", nil, HI, { "s1", "nobody" }))
    gets(a)
    gets(b, HI)
    assert.equal(2, hub:broadcast("/c", nil, HI, {}))
    gets(a, HI)
    gets(b, HI)
    assert.equal(2, hub:direct("ann", HI))
    gets(a, HI)
    gets(b)
    gets(other, HI)
    assert.equal(0, hub:direct("nobody", HI))
    assert.is_true(hub:send(b.id, { type = "null", payload = cjson.null }))
    gets(b, { type = "null", payload = cjson.null })
    local counters = hub:counters()
    assert.equal(4, counters.broadcasts)
    assert.equal(2, counters.directs)
    assert.equal(9, counters.delivered)
    assert.equal(1, counters.skipped)
    assert.equal(0, counters.published)
  end)

  it("says whose session is over, and who held it before", function()
    local hub = new_hub()
    local a, b = attach(hub, "/c"), attach(hub, "/c")
    assert.same({ true }, { hub:join(a.id, "s", "ann") })
    assert.same({ true, nil, a.id }, { hub:join(b.id, "s", "ann") })
    assert.is_nil(hub:detach(a.id))
    assert.same({ true, "s" }, { hub:join(b.id, "t", "ann") })
    assert.equal("t", hub:leave(b.id))
    assert.is_nil(hub:leave(b.id))
    assert.same({ true }, { hub:join(b.id, "u", "ann") })
    assert.equal("u", hub:detach(b.id))
    assert.is_nil(hub:detach(b.id))
    assert.equal(0, hub:clients())
    assert.same({ nil, "hub.join: no such thing", "NOT_FOUND" }, { hub:join(b.id, "s", "ann") })
    assert.same({ nil, "hub.send: no such thing", "NOT_FOUND" }, { hub:send(b.id, HI) })
  end)

  it("keeps the session of a connection that has ended, and sends it nothing", function()
    local hub = new_hub()
    local a = attach(hub, "/c")
    assert(hub:join(a.id, "s", "ann", { "room" }))
    a.far:close()
    eventually(function() return a.near.core:ending() ~= nil end)
    assert.equal(0, hub:broadcast("/c", nil, HI))
    assert.equal(0, hub:direct("ann", HI))
    assert.same({ nil, "hub.send: closed", "CLOSED" }, { hub:send(a.id, HI) })
    assert.same({ nil, "hub.join: closed", "CLOSED" }, { hub:join(a.id, "s", "ann") })
    assert.same({ nil, "hub.attach: closed", "CLOSED" }, { hub:attach(a.near.core, "/c") })
    assert.equal(1, hub:clients())
    assert.equal("s", hub:detach(a.id))
  end)

  it("has one connection in several hubs, and forgets hubs that go", function()
    local first, second = new_hub(), new_hub { app = "other" }
    local a = attach(first, "/c")
    local id = assert(second:attach(a.near.core, "/c"))
    assert.equal(1, first:broadcast("/c", nil, HI))
    assert.equal(1, second:broadcast("/c", nil, HI))
    gets(a, HI, HI)
    first:stop()
    hubs = { second }
    first = setmetatable({ first }, { __mode = "v" })
    for _ = 1, 4 do collectgarbage() end
    eventually(function() collectgarbage() return first[1] == nil end)
    assert.equal(1, second:broadcast("/c", nil, HI))
    a.far:close()
    eventually(function() return a.near.core:ending() ~= nil end)
    assert.is_nil(second:detach(id))
  end)

  it("closes clients that do not read with 1013, and says so", function()
    local slow = {}
    local hub = new_hub { on_event = function(...) slow[#slow + 1] = { ... } end }
    local a = attach(hub, "/c")
    local sent = 0
    while hub:broadcast("/c", nil, HI) == 1 do sent = sent + 1 end -- in one turn: nothing leaves
    assert.same({}, slow)
    eventually(function() return #slow > 1 and a.ended end)
    assert.same({ { "slow", a.id }, { "ended", a.id } }, slow)
    assert.equal(sent, #a.got)
    local _, code = a.far.core:ending()
    assert.equal("1013", tostring(code))
    assert.equal(1, hub:counters().slow_closed)
  end)

  it("leaves messages out for clients that do not read", function()
    local slow = {}
    local hub = new_hub { on_slow = "drop", on_event = function(...) slow[#slow + 1] = { ... } end }
    local a = attach(hub, "/c")
    local sent = 0
    while hub:broadcast("/c", nil, HI) == 1 do sent = sent + 1 end
    assert.same({ nil, "hub.send: the send queue is full", "BUSY" }, { hub:send(a.id, HI) })
    eventually(function() return #slow > 0 and #a.got == sent end)
    assert.same({ { "slow", a.id } }, slow)
    assert.equal(2, hub:counters().slow_dropped)
    assert.equal(1, hub:broadcast("/c", nil, HI))
    eventually(function() return #a.got == sent + 1 end)
  end)

  it("survives events that fail", function()
    local count = 0
    local hub = new_hub { on_slow = "drop", on_event = function() count = count + 1 error("oops") end }
    attach(hub, "/c")
    while hub:broadcast("/c", nil, HI) == 1 do end
    eventually(function() return count == 1 end)
    assert.equal(1, hub:clients())
  end)

  it("refuses what it is not made for", function()
    local hub = new_hub()
    local a = attach(hub, "/c")
    local function message_of(...) return (select(2, ...)) end
    assert.equal("hub.broadcast: cannot send a function at on_done",
      message_of(hub:broadcast("/c", nil, { type = "x", payload = { on_done = print } })))
    assert.equal("INVALID", (select(3, hub:send(a.id, { type = "\255" }))))
    assert.equal("INVALID", (select(3, hub:direct("\255", HI))))
    assert.equal("INVALID", (select(3, hub:broadcast("\255", nil, HI))))
    assert.equal("INVALID", (select(3, hub:broadcast("/c", nil, HI, { "\255" }))))
    assert.equal("INVALID", (select(3, hub:join(a.id, "s\255", "u"))))
    assert.equal("TOO_BIG", (select(3, hub:join(a.id, ("s"):rep(1025), "u"))))
    local many = {}
    for i = 1, 257 do many[i] = tostring(i) end
    assert.equal("LIMIT", (select(3, hub:join(a.id, "s", "u", many))))
    assert.equal("TOO_BIG", (select(3, hub:attach(a.near.core, ("x"):rep(1025)))))
    gets(a)

    assert.truthy(failure(hub.broadcast, hub, "/c", nil, "text"):find("message must be a table"))
    assert.truthy(failure(hub.broadcast, hub, "/c", nil, {}):find("message.type must be a string, not nil"))
    assert.truthy(failure(hub.broadcast, hub, "/c", nil, HI, { 7 }):find("except[1] must be a string", 1, true))
    assert.truthy(failure(hub.broadcast, hub, "/c", nil, HI, "s"):find("except must be an array of strings"))
    assert.truthy(failure(hub.broadcast, hub, 7, nil, HI):find("ns must be a string"))
    assert.truthy(failure(hub.join, hub, a.id, "s", "u", "room"):find("channels must be an array"))
    assert.truthy(failure(hub.join, hub, "7", "s", "u"):find("id must be a number that attach() gave", 1, true))
    assert.truthy(failure(hub.attach, hub, io.stdout, "/c"):find("znl.core.websocket expected"))
    assert.truthy(failure(core.new, { prefix = "a b", app = "x", origin = "o" }):find("prefix must be subject tokens"))
    assert.truthy(failure(core.new, { prefix = "a", app = "x.y", origin = "o" }):find("app one of them"))
    assert.truthy(failure(core.new, { prefix = "a", app = "x" }):find("origin must be a string"))
    assert.truthy(failure(core.new, { prefix = "a", app = "x", origin = "o", on_slow = "wait" }):find("on_slow"))
    assert.truthy(failure(core.new, { prefix = "a", app = "x", origin = "o", on_event = 7 }):find("function expected"))
    local small = assert(core.new { prefix = "a", app = "x", origin = "o", max_clients = 1 })
    assert(small:attach(a.near.core, "/c"))
    assert.equal("LIMIT", (select(3, small:attach(a.near.core, "/c"))))
  end)
end)
