--- Hubs on a real nats-server: several in this process, and in processes of their own. Runs inside znlrun only.
--- SPDX-License-Identifier: MIT

local eventually = require("tests.lua.support.eventually")
local nats_server = require("tests.lua.support.nats_server")
local scene = require("tests.lua.support.hub_scene")
local uv = require("luv")
local znl = require("znl")

local TTL_MS = 2000

describe("hubs on a bus", function()
  local stage, server, children = scene.new(), nil, {}

  setup(function() server = nats_server.start {} end)
  teardown(function() server:remove() end)

  before_each(function() stage.hush() end)
  after_each(function()
    stage:close()
    for _, child in ipairs(children) do child:finish() end
    children = {}
  end)

  local function demo_hub(opts)
    opts = opts or {}
    if opts.bus == nil then opts.bus = server.url end
    opts.roster = opts.roster or { ttl_ms = TTL_MS }
    local hub = stage:demo_hub(opts)
    eventually(function() return hub:state() == "online" end, "online")
    return hub
  end

  --- What a hub knows: "ada/s1 bob/s2".
  local function known(hub, ns)
    local list = {}
    for index, member in ipairs(hub:roster(ns or "/ws/chat")) do
      list[index] = ("%s/%s"):format(member.user_id, member.session_id)
    end
    table.sort(list)
    return table.concat(list, " ")
  end

  local function knows(hub, text, ns)
    eventually(function() return known(hub, ns) == text end, ("roster %q"):format(text))
  end

  local Child = {}
  Child.__index = Child

  --- An instance in a process of its own.
  local function child_hub()
    local child = setmetatable({ ended = znl.event() }, Child)
    local out, text, ready = uv.new_pipe(), "", znl.event()
    child.process = assert(uv.spawn(uv.exepath(), {
      args = { "--log-level", "error", "tests/lua/support/hub_child.lua", server.url, tostring(TTL_MS) },
      stdio = { nil, out, 2 },
    }, function(code, signal)
      child.process:close()
      child.ended:set(code, signal)
    end))
    children[#children + 1] = child
    out:read_start(function(_, data)
      if not data then
        out:close()
        ready:set(nil)
        return
      end
      text = text .. data
      local port, id = text:match("^(%d+) (%S+)\n")
      if port then ready:set(tonumber(port), id) end
    end)
    child.port, child.id = ready:wait(60000)
    assert(child.port, "the process does not start")
    return child
  end

  function Child:finish()
    if not self.ended:is_set() then self.process:kill("sigkill") end
    return self.ended:wait(60000)
  end

  it("share rosters, broadcasts and direct messages", function()
    local one, two = demo_hub(), demo_hub()
    assert.are_not.equal(one.instance_id, two.instance_id)
    local a = stage:joined(one, "ada", "s1", { metadata = { name = "Ad\195\164" } })
    local b = stage:joined(two, "bob", "s2", { channels = { "ops" } })
    local c = stage:joined(two, "ada", "s3", nil, "/ws/other")
    knows(one, "ada/s1 bob/s2")
    knows(two, "ada/s1 bob/s2")
    knows(one, "ada/s3", "/ws/other")
    for _, member in ipairs(two:roster("/ws/chat")) do
      assert.same(member.session_id == "s1" and { name = "Ad\195\164" } or nil, member.metadata)
    end
    a:say("say", { text = "to all" })
    assert.equal("to all", a:hear().payload.text)
    assert.same({ type = "said", payload = { from = "ada", text = "to all" } }, b:hear())
    b:say("say", { text = "not me", notMe = true })
    assert.equal("not me", a:hear().payload.text)
    a:say("say", { text = "ops", channel = "ops" })
    assert.equal("ops", b:hear().payload.text)
    b:say("dm", { to = "ada", text = "psst" })
    assert.same({ type = "dm", payload = { from = "bob", text = "psst" } }, a:hear())
    assert.same({ type = "dm", payload = { from = "bob", text = "psst" } }, c:hear())
    assert.equal(1, one:broadcast { ns = "/ws/chat", message = { type = "x" } })
    assert.equal("x", b:hear().type)

    for i = 1, 1000 do one:broadcast { ns = "/ws/chat", message = { type = "n", payload = i } } end
    for i = 1, 1000 do assert.equal(i, b:hear().payload) end

    a:hear() -- x
    b.conn:close()
    knows(one, "ada/s1")
    local counters = one:counters()
    assert.same({ 0, 0 }, { counters.echoes, counters.roster_echoes })
  end)

  it("tell who joins, changes, moves and leaves elsewhere", function()
    local one, two, news = demo_hub(), demo_hub(), {}
    for _, event in ipairs { "member_added", "member_updated", "member_removed" } do
      one:on(event, function(_, session_id, user_id, owner, cause)
        local at = owner == one.instance_id and "one" or owner == two.instance_id and "two" or owner
        news[#news + 1] = table.concat({ event:sub(8), session_id, user_id, at, cause }, " ")
      end)
    end
    local displaced = znl.event()
    two:on("displaced", function(session_id, ctx, by)
      displaced:set(session_id, ctx.ns, by)
      ctx:close(4001, "elsewhere")
    end)
    local b = stage:joined(two, "bob", "s", nil)
    knows(one, "bob/s")
    b:join("bob", "s", { metadata = { n = 1 } })
    eventually(function() return #news == 2 end)
    local moved = stage:joined(one, "bob", "s")
    local session_id, ns, by = displaced:wait(30000)
    assert.same({ "s", "/ws/chat", one.instance_id }, { session_id, ns, by })
    assert.equal(4001, b:await_end().close_code)
    eventually(function() return two:counters().connections == 0 end)
    knows(two, "bob/s")
    assert.equal("bob/s", known(one))
    moved.conn:close()
    knows(two, "")
    eventually(function() return #news == 4 end)
    assert.same({ "added s bob two", "updated s bob two" }, { news[1], news[2] })
    assert.equal("removed s bob one left", news[4])
  end)

  it("know at once who is there when they start, and who goes when they close", function()
    local one = demo_hub()
    for i = 1, 20 do stage:joined(one, "u", ("s%02d"):format(i)) end
    local two, causes = demo_hub(), {}
    eventually(function() return #two:roster("/ws/chat") == 20 end)
    two:on("member_removed", function(_, _, _, _, cause) causes[#causes + 1] = cause end)
    assert(one:close())
    eventually(function() return #causes == 20 end)
    for _, cause in ipairs(causes) do assert.equal("left", cause) end
    assert.equal("", known(two))
  end)

  it("in processes of their own may be killed, and are stopped with a word", function()
    local one, causes = demo_hub(), {}
    one:on("member_removed", function(_, session_id, _, _, cause) causes[session_id] = cause end)
    local first, second = child_hub(), child_hub()
    local a = stage:joined(one, "ada", "s1")
    local b, c = stage:joined(first.port, "bob", "s2"), stage:joined(second.port, "cleo", "s3")
    knows(one, "ada/s1 bob/s2 cleo/s3")
    eventually(function() return b:list() == "ada/s1 bob/s2 cleo/s3" end)
    b:say("say", { text = "from b" })
    assert.equal("from b", a:hear().payload.text)
    assert.equal("from b", c:hear().payload.text)
    first.process:kill("sigkill")
    knows(one, "ada/s1 cleo/s3")
    eventually(function() return c:list() == "ada/s1 cleo/s3" end)
    a:say("say", { text = "still here" })
    assert.equal("still here", c:hear().payload.text)
    second.process:kill("sigterm")
    assert.equal(1001, c:await_end().close_code)
    knows(one, "ada/s1")
    eventually(function() return causes.s2 and causes.s3 end)
    assert.same({ s2 = "expired", s3 = "left" }, causes)
    assert.equal(0, (second.ended:wait(60000)))
  end)

  it("go on without the bus, and are complete when it is back", function()
    local own = nats_server.start {}
    finally(function() own:remove() end)
    local one, two, states = demo_hub { bus = own.url }, demo_hub { bus = own.url }, {}
    one:on("bus", function(state) states[#states + 1] = state end)
    local a, b = stage:joined(one, "ada", "s1"), stage:joined(two, "bob", "s2")
    knows(one, "ada/s1 bob/s2")
    own:kill()
    eventually(function() return one:state() == "offline" and two:state() == "offline" end)
    local c = stage:joined(one, "cleo", "s3")
    a:say("say", { text = "among us" })
    assert.equal("among us", a:hear().payload.text)
    assert.equal("among us", c:hear().payload.text)
    a.conn:close()
    eventually(function() return known(one):find("ada", 1, true) == nil end)
    assert.is_true(one:counters().dropped_offline > 0)
    own:restart()
    knows(one, "bob/s2 cleo/s3")
    knows(two, "bob/s2 cleo/s3")
    eventually(function() return states[#states] == "online" end)
    assert.equal("offline", states[1])
    c:say("say", { text = "to all again" })
    assert.equal("to all again", c:hear().payload.text)
    assert.equal("to all again", b:hear().payload.text)
  end)

  it("start without the bus, and find it later", function()
    local own = nats_server.start {}
    finally(function() own:remove() end)
    own:kill()
    local one = stage:demo_hub { bus = own.url, roster = { ttl_ms = TTL_MS } }
    assert.equal("offline", one:state())
    stage:joined(one, "ada", "s1")
    assert.equal("ada/s1", known(one))
    own:restart()
    local two = demo_hub { bus = own.url }
    knows(two, "ada/s1")
    eventually(function() return one:state() == "online" end)
  end)

  it("keep to their application, prefix and driver", function()
    local one = demo_hub()
    local silent = demo_hub { roster = { driver = "none" } }
    local other = demo_hub { app = "other" }
    local prefixed = demo_hub { subject_prefix = "acme.live" }
    local a = stage:joined(one, "ada", "s1")
    local s = stage:joined(silent, "sam", "s2")
    local o, p = stage:joined(other, "oli", "s3"), stage:joined(prefixed, "pia", "s4")
    a:say("say", { text = "hello" })
    assert.equal("hello", a:hear().payload.text)
    assert.equal("hello", s:hear().payload.text)
    s:say("dm", { to = "ada", text = "psst" })
    assert.equal("psst", a:hear().payload.text)
    assert.equal("sam/s2", s:list())
    assert.equal("ada/s1", a:list())
    assert.equal("oli/s3", o:list())
    assert.equal("pia/s4", p:list())
    -- And to their ttl: with the default nothing would be heard for long.
    eventually(function()
      local counters = one:counters()
      return counters.roster_lists + counters.roster_digests >= 4
    end)
    local none = silent:counters()
    assert.same({ 0, 0, 0 }, { none.roster_sent, none.roster_unsent, none.roster_received })
  end)

  it("can share a connection of the script", function()
    local nats = assert(znl.nats.connect { servers = server.url })
    local one, two = demo_hub { bus = nats }, demo_hub { bus = nats }
    local a, b = stage:joined(one, "ada", "s1"), stage:joined(two, "bob", "s2")
    knows(one, "ada/s1 bob/s2")
    knows(two, "ada/s1 bob/s2")
    a:say("say", { text = "over one wire" })
    assert.equal("over one wire", b:hear().payload.text)
    assert.equal("over one wire", a:hear().payload.text)
    eventually(function() return one:counters().echoes > 0 end)
    one:close()
    knows(two, "bob/s2")
    assert.is_true(nats:is_connected())
    nats:close()
  end)
end)
