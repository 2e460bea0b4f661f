--- Registries of one cluster: what they list and publish, with a bus that loses what the test says and a clock that
--- the test moves. SPDX-License-Identifier: MIT

local json = require("znl.json")
local replica_log = require("znl.micro.replica_log")
local replica_net = require("support.replica_net")
local replica_wire = require("znl.micro.replica_wire")
local znl = require("znl")

local function decoded(texts)
  local list = {}
  for index, text in ipairs(texts) do list[index] = select(2, json.decode(text)) end
  return list
end

describe("replica_log", function()
  it("tells what changed since, the newest state of each row once", function()
    local log = replica_log.new(10)
    log:put("a", { "r", 1 })
    log:put("b", { "r", 2 })
    log:put("a", { "r", 3 })
    assert.equal(3, log.n)
    assert.equal(2, log.count)
    local texts, upto, is_all = log:since(0, 1000)
    assert.same({ { 2, "r", 2 }, { 3, "r", 3 } }, decoded(texts))
    assert.same({ 3, true }, { upto, is_all })
    assert.same({ {}, 3, true }, { log:since(3, 1000) })
    assert.is_true(log:remove("b"))
    assert.is_false(log:remove("b"))
    assert.is_false(log:remove("c"))
    assert.is_false(log:has("b"))
    assert.is_true(log:has("a"))
    assert.same({ { 4, "x", "b" } }, decoded((log:since(3, 1000))))
    assert.same({ { 3, "r", 3 }, { 4, "x", "b" } }, decoded((log:since(0, 1000))))
    log:put("b", { "r", 5 })
    assert.equal(2, log.count)
    assert.same({ { 5, "r", 5 } }, decoded((log:since(3, 1000))))
  end)

  it("gives pages, a row at least", function()
    local log = replica_log.new(10)
    for i = 1, 5 do log:put("row" .. i, { "r", i }) end
    local seen, after, is_all = {}, 0, false
    local pages = 0
    while not is_all do
      local texts
      texts, after, is_all = log:since(after, 18)
      for _, row in ipairs(decoded(texts)) do seen[#seen + 1] = row[1] end
      pages = pages + 1
    end
    assert.same({ 1, 2, 3, 4, 5 }, seen)
    assert.equal(3, pages)
    assert.equal(1, #(log:since(0, 1)))
  end)

  it("forgets what is long gone, and knows for whom that is too late", function()
    local log = replica_log.new(2)
    for i = 1, 5 do log:put("row" .. i, { i }) end
    for i = 1, 4 do log:remove("row" .. i) end
    assert.is_false(log:covers(0))
    assert.is_false(log:covers(6))
    assert.is_true(log:covers(7))
    assert.is_false(log:covers(10))
    assert.equal(2, #(log:since(7, 1000)))
    assert.equal(1, log.count)
  end)

  it("takes nothing that JSON cannot carry", function()
    local log = replica_log.new(2)
    assert.is_false(log:put("a", { "\255" }))
    assert.equal(0, log.n)
  end)
end)

describe("replica_wire", function()
  local A, B = ("a"):rep(32), ("b"):rep(32)
  local now

  before_each(function() now = 1700000000000 end)

  local function wire(origin, more)
    local opts = { name = "n", origin = origin, max_bytes = 10000, unix_ms = function() return now end }
    for name, value in pairs(more or {}) do opts[name] = value end
    return replica_wire.new(opts)
  end

  it("carries a message, in parts where it must", function()
    local from, to = wire(A), wire(B)
    local message = { t = "x", text = ("0123456789"):rep(200) }
    for _, room in ipairs { 100000, 1000, 300, 256 } do
      local packets = from:seal(message, room)
      local got, origin
      for index, packet in ipairs(packets) do
        assert.is_true(#packet <= math.max(room, 257))
        got, origin = to:open(packet)
        if index < #packets then assert.same({ nil, "" }, { got, origin }) end
      end
      assert.same(message, got)
      assert.equal(A, origin)
    end
    assert.equal(0, to.held_bytes)
    assert.is_nil(from:seal({ t = "x", text = ("x"):rep(10001) }, 1000))
    assert.same({ nil, "" }, { from:open(from:seal({ t = "x" }, 1000)[1]) })
  end)

  it("notices parts that are missing, doubled or of another message", function()
    local from, to = wire(A), wire(B)
    local packets = from:seal({ t = "x", text = ("y"):rep(1000) }, 600)
    assert.equal(3, #packets)
    local function torn(packet)
      local before = to.torn
      assert.same({ nil, "" }, { to:open(packet) })
      return to.torn == before + 1
    end
    assert.is_true(torn(packets[2]))
    to:open(packets[1])
    assert.is_true(torn(packets[3]))
    assert.is_true(torn(packets[2]))
    to:open(packets[1])
    to:open(packets[2])
    assert.is_table((to:open(packets[3])))
    local other = from:seal({ t = "x", text = ("z"):rep(1000) }, 600)
    to:open(packets[1])
    assert.is_true(torn(other[2]))
    assert.equal(0, to.held_bytes)
  end)

  it("holds a bounded part of what hostile peers begin", function()
    local to = wire(B)
    for index = 1, 5000 do
      local packet = ("ZNLR1 %032x 1 1 1 9999 -\n%s"):format(index, ("x"):rep(900))
      to:open(packet)
    end
    assert.is_true(to.held_bytes <= 2 * 10000 + 1024 * 1024, to.held_bytes)
    local origin = ("c"):rep(32)
    for part = 1, 40 do to:open(("ZNLR1 %s 1 1 %d 9999 -\n%s"):format(origin, part, ("x"):rep(900))) end
    assert.is_nil(to.parts[origin])
  end)

  it("refuses what is no message", function()
    local to = wire(B)
    for _, packet in ipairs {
      "", "ZNLR1", "GET / HTTP/1.1\n", "ZNLR1 " .. A .. " 1 1 1 1 -", "ZNLR1 abc 1 1 1 1 -\n{}",
      "ZNLR2 " .. A .. ' 1 1 1 1 -\n{"t":"x"}', ("x"):rep(100000),
    } do
      assert.same({ nil, "it is malformed" }, { to:open(packet) })
    end
    for _, body in ipairs { "", "{", "7", "[]", "{}", '{"t":7}', "null", ("["):rep(5000) } do
      assert.same({ nil, "it is no message" }, { to:open("ZNLR1 " .. A .. " 1 1 1 1 -\n" .. body) })
    end
  end)

  it("takes nothing without the secret, of another cluster, changed or late", function()
    local from, to = wire(A, { secrets = { "one", "old" } }), wire(B, { secrets = { "two", "one" } })
    local packet = from:seal({ t = "x", v = 1 }, 1000, "all")[1]
    assert.same({ t = "x", v = 1 }, (to:open(packet, "all")))
    local bad = "it is not made with this secret"
    assert.same({ nil, bad }, { to:open((packet:gsub('"v":1', '"v":2')), "all") })
    assert.same({ nil, bad }, { to:open((packet:gsub(A, ("c"):rep(32))), "all") })
    assert.same({ nil, bad }, { to:open(wire(A):seal({ t = "x" }, 1000)[1], "all") })
    assert.same({ nil, bad }, { wire(B, { name = "m", secrets = { "one" } }):open(packet, "all") })
    assert.same({ nil, bad }, { wire(B, { secrets = { "old" } }):open(packet, "all") })
    assert.same({ nil, bad }, { to:open(packet, "to." .. B) })
    now = now + 30001
    assert.same({ nil, "it is too old, or the clocks differ" }, { to:open(packet, "all") })
  end)

  it("takes what is signed once, in the order in which it was sent", function()
    local from, to = wire(A, { secrets = { "one" } }), wire(B, { secrets = { "one" } })
    local before = "it has come before"
    local first = from:seal({ t = "x", v = 1 }, 1000, "all")[1]
    local second = from:seal({ t = "x", v = 2 }, 1000, "all")[1]
    local own = from:seal({ t = "x", v = 3 }, 1000, "to." .. B)[1]
    assert.equal(3, to:open(own, "to." .. B).v)
    assert.equal(2, to:open(second, "all").v)
    assert.same({ nil, before }, { to:open(second, "all") })
    assert.same({ nil, before }, { to:open(first, "all") })
    local parts = from:seal({ t = "x", text = ("y"):rep(1000) }, 600, "all")
    assert.same({ nil, "" }, { to:open(parts[1], "all") })
    assert.same({ nil, "" }, { to:open(parts[2], "all") })
    assert.same({ nil, before }, { to:open(parts[1], "all") })
    assert.is_table((to:open(parts[3], "all")))
    -- For as long as it is not too old.
    for _ = 1, 3 do
      local packet = from:seal({ t = "x", v = 4 }, 1000, "all")[1]
      now = now + 30000
      assert.equal(4, to:open(packet, "all").v)
      assert.same({ nil, before }, { to:open(packet, "all") })
    end
    for index = 1, 20 do
      local other = wire(("%032x"):format(index), { secrets = { "one" } })
      assert.is_table((to:open(other:seal({ t = "x" }, 1000, "all")[1], "all")))
    end
    now = now + 62000
    to:open(from:seal({ t = "x" }, 1000, "all")[1], "all")
    now = now + 62000
    to:open(from:seal({ t = "x" }, 1000, "all")[1], "all")
    local count = 0
    for _, map in ipairs { to.seen, to.older } do
      for _ in pairs(map) do count = count + 1 end
    end
    assert.is_true(count <= 2)
  end)
end)

describe("registries of one cluster", function()
  local level

  before_each(function()
    level = znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function() znl.log.set_level(level) end)

  --- A net with joined registries.
  local function cluster(count, net_opts, node_opts)
    local net = replica_net.new(net_opts)
    local nodes = {}
    for index = 1, count do
      local opts = { label = "r" .. index }
      for name, value in pairs(node_opts or {}) do opts[name] = value end
      nodes[index] = net:node(opts):join()
    end
    return net, nodes
  end

  it("list what any of them has", function()
    local net, nodes = cluster(3)
    local a = nodes[1]:connect("users", 1)
    nodes[2]:connect("users", 2)
    nodes[3]:connect("orders", 3)
    net:settle()
    local all = { "orders 10.0.0.1:3", "users 10.0.0.1:1", "users 10.0.0.1:2" }
    for _, node in ipairs(nodes) do assert.same(all, node:listed()) end
    assert.equal("r1", (nodes[2].cluster:holder("10.0.0.1:1")))
    assert.equal("r1", (nodes[1].cluster:holder("10.0.0.1:1")))
    nodes[1]:disconnect(a)
    net:settle()
    table.remove(all, 2)
    for _, node in ipairs(nodes) do assert.same(all, node:listed()) end
    assert.same({ "registry_up " .. nodes[2].cluster.id .. " r2", "registry_up " .. nodes[3].cluster.id .. " r3" },
      nodes[1].events)
  end)

  it("tell one that comes later everything, page by page", function()
    local net, nodes = cluster(2, { max_payload = 4096 })
    local value = '"' .. ("x"):rep(2000) .. '"'
    for port = 1, 2000 do nodes[port % 2 + 1]:connect("users", port) end
    local client = nodes[1]:connect("prices", 3000)
    for topic = 1, 300 do nodes[1]:declare(client, "topic" .. topic, value) end
    net:settle()
    local late = net:node { label = "late" }:join()
    assert.equal(2001, #late:listed())
    assert.equal(300, #late:values())
    assert.equal(value, late:value("topic300"))
    assert.is_true(late.cluster.replica:is_settled())
    assert.is_true(late.cluster.replica.counters.pages > 3)
    assert.equal(0, late.cluster.replica.counters.bad)
  end)

  it("share topics and tell their subscribers", function()
    local net, nodes = cluster(2)
    local one, two = nodes[1], nodes[2]
    local publisher, reader = one:connect("p", 1), two:connect("s", 2)
    two.topics:subscribe(reader, "rate")
    one:declare(publisher, "rate", "1")
    net:settle()
    one:declare(publisher, "rate", "2")
    net:settle()
    assert.equal("2", two:value("rate"))
    -- A second publisher, elsewhere, is newer; the value before comes back when it goes.
    local second = two:connect("p", 3)
    two:declare(second, "rate", "3")
    net:settle()
    assert.equal("3", one:value("rate"))
    assert.equal(2, one.topics:get("rate").publishers)
    two:disconnect(second)
    net:settle()
    assert.equal("2", one:value("rate"))
    one:undeclare(publisher, "rate")
    net:settle()
    assert.is_nil(two:value("rate"))
    assert.same({ "10.0.0.1:2 rate=1", "10.0.0.1:2 rate=2", "10.0.0.1:2 rate=3", "10.0.0.1:2 rate=2" }, two.told)
    one:declare(publisher, "nothing", nil)
    net:settle()
    assert.is_true(two.topics:get("nothing").has_data)
    assert.is_nil(two.topics:get("nothing").payload)
    one:disconnect(publisher)
    net:settle()
    assert.is_nil(two.topics:get("nothing"))
  end)

  it("agree on a value that two publish at the same moment", function()
    local net, nodes = cluster(2)
    local a, b = nodes[1]:connect("p", 1), nodes[2]:connect("p", 2)
    assert.equal(nodes[1]:declare(a, "t", '"a"'), nodes[2]:declare(b, "t", '"b"'))
    net:settle()
    assert.equal('"b"', nodes[1]:value("t"))
    assert.equal('"b"', nodes[2]:value("t"))
  end)

  it("carry values of those who do not publish", function()
    local net, nodes = cluster(2)
    local one, two = nodes[1], nodes[2]
    local reader, writer = one:connect("s", 1), two:connect("w", 2)
    one.topics:subscribe(reader, "t")
    -- The second registry does not even know the topic.
    assert.is_false(two.topics:update(writer, "t", "5"))
    two.cluster:updated("t", "5")
    net:settle()
    assert.equal("5", one:value("t"))
    assert.same({ "10.0.0.1:1 t=5" }, one.told)
    assert.is_nil(two.topics:get("t"))
  end)

  it("keep what one that is killed held, until its applications are back elsewhere", function()
    local net, nodes = cluster(3)
    local publisher = nodes[1]:connect("users", 1)
    nodes[1]:connect("users", 2)
    nodes[1]:connect("users", 3)
    nodes[1]:declare(publisher, "rate", "1")
    net:settle()
    nodes[1]:die()
    local all = { "users 10.0.0.1:1", "users 10.0.0.1:2", "users 10.0.0.1:3" }
    for _ = 1, 100 do -- 10 s: ttl_ms and most of grace_ms
      net:pass(100)
      assert.same(all, nodes[2]:listed())
      assert.same(all, nodes[3]:listed())
      assert.equal("1", nodes[3]:value("rate"))
    end
    assert.equal("registry_down " .. nodes[1].cluster.id .. " r1 silent", nodes[2].events[#nodes[2].events])
    assert.equal("gone", nodes[2].cluster:registries()[2].state)
    local back = nodes[2]:connect("users", 1)
    nodes[2]:declare(back, "rate", "1", 1)
    nodes[3]:connect("users", 2)
    net:settle()
    assert.equal(1, nodes[3].topics:get("rate").publishers)
    net:pass(3000)
    table.remove(all, 3)
    assert.same(all, nodes[2]:listed())
    assert.same(all, nodes[3]:listed())
    assert.equal("1", nodes[3]:value("rate"))
    assert.equal(1, #nodes[2].cluster:registries() - 1)
    -- One that came back and left again is not listed by what the dead one said of it.
    nodes[2]:disconnect(back)
    net:settle()
    assert.same({ "users 10.0.0.1:2" }, nodes[3]:listed())
  end)

  it("do not list anew what left after it had come back, within the time of grace", function()
    local net, nodes = cluster(3)
    nodes[1]:connect("users", 1)
    net:settle()
    nodes[1]:die()
    local back = nodes[2]:connect("users", 1)
    net:settle()
    nodes[2]:disconnect(back)
    net:settle()
    net:pass(3500)
    assert.same({}, nodes[2]:listed())
    assert.same({}, nodes[3]:listed())
  end)

  it("tell a newcomer also what is left of one that is gone", function()
    local net, nodes = cluster(2, { max_payload = 4096 })
    local client
    for port = 1, 1000 do client = nodes[1]:connect("users", port) end
    nodes[1]:declare(client, "rate", '"' .. ("x"):rep(9000) .. '"')
    net:settle()
    nodes[1]:die()
    net:pass(4000)
    local late = net:node { label = "late" }:join()
    assert.equal(1000, #late:listed())
    assert.equal(9002, #late:value("rate"))
    assert.equal("r1", (late.cluster:holder("10.0.0.1:7")))
    net:pass(9000)
    assert.same({}, nodes[2]:listed())
    assert.same({}, late:listed())
    assert.is_nil(late:value("rate"))
  end)

  it("tell a newcomer what one held whose death nobody has noticed yet", function()
    local net, nodes = cluster(2)
    for port = 1, 5 do nodes[1]:connect("users", port) end
    net:settle()
    nodes[1]:die()
    local again = net:node { label = "again" }:join()
    assert.equal(5, #again:listed())
    again:connect("users", 1)
    net:settle()
    net:pass(4000)
    assert.equal(5, #again:listed())
    net:pass(9000)
    assert.same({ "users 10.0.0.1:1" }, again:listed())
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
  end)

  it("keep for a while what one that stops held", function()
    local net, nodes = cluster(2)
    nodes[1]:connect("users", 1)
    net:settle()
    nodes[1].cluster:part()
    nodes[1].links:close()
    net:settle()
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
    assert.equal("registry_down " .. nodes[1].cluster.id .. " r1 stopped", nodes[2].events[2])
    net:pass(8500)
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
    net:pass(1000)
    assert.same({}, nodes[2]:listed())
  end)

  it("let an application move: its older connection ends", function()
    local net, nodes = cluster(2)
    local before = nodes[1]:connect("users", 1)
    nodes[1]:declare(before, "rate", "1")
    net:settle()
    local after = nodes[2]:connect("users", 1)
    net:settle()
    assert.is_false(before.is_listed)
    assert.is_true(after.is_listed)
    assert.same({ 1 }, nodes[1].closed)
    assert.same({}, nodes[2].closed)
    for _, node in ipairs(nodes) do
      assert.same({ "users 10.0.0.1:1" }, node:listed())
      assert.equal("r2", (node.cluster:holder("10.0.0.1:1")))
      assert.is_nil(node:value("rate"))
    end
    -- With another namespace, at another registry, at the same moment: one of them wins, everywhere.
    nodes[2]:disconnect(after)
    net:settle()
    nodes[1]:connect("a", 5)
    nodes[2]:connect("b", 5)
    net:settle()
    assert.equal(1, #nodes[1]:listed())
    assert.same(nodes[1]:listed(), nodes[2]:listed())
  end)

  it("go on alone without the bus, and are one again with it", function()
    local net, nodes = cluster(3)
    local first = nodes[1]:connect("users", 1)
    nodes[2]:connect("users", 2)
    local publisher = nodes[3]:connect("prices", 3)
    nodes[3]:declare(publisher, "rate", "1")
    net:settle()
    for _, node in ipairs(nodes) do node:offline() end
    net:pass(60000) -- longer than ttl_ms and grace_ms: nobody can be blamed
    for _, node in ipairs(nodes) do assert.equal(3, #node:listed()) end
    nodes[1]:disconnect(first)
    nodes[1]:connect("users", 4)
    nodes[3]:declare(publisher, "rate", "2")
    net:settle()
    assert.same({ "prices 10.0.0.1:3", "users 10.0.0.1:2", "users 10.0.0.1:4" }, nodes[1]:listed())
    assert.equal("1", nodes[1]:value("rate"))
    for _, node in ipairs(nodes) do node:online() end
    net:pass(1000)
    for _, node in ipairs(nodes) do
      assert.same({ "prices 10.0.0.1:3", "users 10.0.0.1:2", "users 10.0.0.1:4" }, node:listed())
      assert.equal("2", node:value("rate"))
    end
  end)

  it("blame nobody for their own stall", function()
    local net, nodes = cluster(2)
    nodes[1]:connect("users", 1)
    net:settle()
    nodes[2].is_stalled = true
    net:pass(60000)
    -- It wakes, and its clock is ahead of what waits in its socket.
    nodes[2].is_stalled = false
    nodes[2].cluster.replica:tick()
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
    net:pass(20000)
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
    assert.same({ "users 10.0.0.1:1" }, nodes[1]:listed())
  end)

  it("ask for changes they missed, and only for those", function()
    local losing = false
    local net, nodes = cluster(2, { loses = function() return losing end })
    for port = 1, 500 do nodes[1]:connect("users", port) end
    net:settle()
    losing = true
    local gone = nodes[1]:connect("users", 501)
    net:settle()
    nodes[1]:disconnect(gone)
    nodes[1]:connect("users", 502)
    net:settle()
    losing = false
    assert.equal(500, #nodes[2]:listed())
    nodes[1]:connect("users", 503) -- its number tells
    net:settle()
    assert.equal(502, #nodes[2]:listed())
    local counters = nodes[2].cluster.replica.counters
    assert.equal(1, counters.gaps)
    assert.equal(1, counters.syncs)
    -- Without a further change the heartbeat tells.
    losing = true
    nodes[1]:connect("users", 504)
    net:settle()
    losing = false
    net:pass(1100)
    assert.equal(503, #nodes[2]:listed())
  end)

  it("do not list again what is gone, when an old change comes once more", function()
    local net, nodes = cluster(2)
    local heard, bus = {}, nodes[1].bus
    local publish = bus.publish
    function bus:publish(subject, packet)
      heard[#heard + 1] = packet
      return publish(self, subject, packet)
    end
    local client = nodes[1]:connect("users", 1)
    net:settle()
    nodes[1]:disconnect(client)
    net:settle()
    assert.same({}, nodes[2]:listed())
    nodes[2].cluster.replica:receive(heard[1], "all")
    assert.same({}, nodes[2]:listed())
    nodes[1]:connect("users", 2)
    net:settle()
    assert.same({ "users 10.0.0.1:2" }, nodes[2]:listed())
  end)

  it("ask for everything when too much is missing", function()
    local net, nodes = cluster(2)
    local clients = {}
    for port = 1, 20000 do clients[port] = nodes[1]:connect("users", port) end
    net:settle()
    nodes[2]:offline()
    for port = 8001, 20000 do nodes[1]:disconnect(clients[port]) end
    nodes[1]:connect("users", 30000)
    net:settle()
    nodes[2]:online()
    net:pass(1100)
    assert.equal(8001, #nodes[2]:listed())
    assert.is_true(nodes[2].cluster.replica:is_settled())
    assert.is_true(nodes[2].cluster.replica.counters.pages > 2)
    assert.equal(0, nodes[2].cluster.replica.counters.bad)
  end)

  it("send later what the bus has no room for", function()
    local net, nodes = cluster(2)
    net.is_busy = true
    nodes[1]:connect("users", 1)
    nodes[1]:connect("users", 2)
    net:settle()
    assert.same({}, nodes[2]:listed())
    net.is_busy = false
    net:pass(100)
    assert.equal(2, #nodes[2]:listed())
    assert.equal(0, nodes[2].cluster.replica.counters.gaps)
  end)

  it("bound what one of them can fill", function()
    local net = replica_net.new()
    local small = net:node { label = "small", max_registrations = 10, max_topics = 5 }:join()
    local big = net:node { label = "big" }:join()
    for port = 1, 30 do big:connect("users", port) end
    local client = big:connect("prices", 31)
    for topic = 1, 10 do big:declare(client, "t" .. topic, "1") end
    net:pass(15000)
    assert.equal(10, #small:listed())
    assert.is_true(small.cluster.rows.refused > 0)
    assert.is_true(small.topics:counts().topics <= 5)
    assert.is_true(small.cluster.rows.owners[big.cluster.id].count <= 15)
    assert.is_true(small.cluster.replica.counters.syncs < 3)
  end)

  it("count what makes no sense, and go on", function()
    local net, nodes = cluster(2)
    local stranger = replica_wire.new { name = "n", origin = replica_wire.new_origin(), max_bytes = 1e6 }
    local replica = nodes[1].cluster.replica
    local function say(message) replica:receive(stranger:seal(message, 1e6)[1]) end
    say { t = "hb", a = "evil", n = 3, c = 0, l = 1 }
    net.queue = {}
    for _, message in ipairs {
      { t = "hb" }, { t = "hb", n = -1, c = 0, l = 1 }, { t = "hb", n = 1e300, c = 0, l = 1 },
      { t = "ops", b = 5, u = 4 }, { t = "ops", b = "x" }, { t = "page", k = replica.tokens, a = {} },
      { t = "sync" }, { t = "orphans", k = 1, o = 7 }, { t = "orphans", k = 1, o = "", a = 0 },
      { t = "val" }, { t = "val", p = "t", v = {} },
    } do
      local before = replica.counters.bad
      say(message)
      assert.equal(before + 1, replica.counters.bad, json.encode(message))
    end
    local before = replica.counters.bad
    local rows = {
      7, {}, { 1 }, { 1, "r" }, { 1, "r", "h:1", "ns", "h", 0, 1, 1 }, { 1, "r", "h:2", "ns", "h", 1, 1, 1 },
      { 1, "r", "h:1", "n\1s", "h", 1, 1, 1 }, { 1, "r", "h:1", "ns", "h", 1, 1e300, 1 }, { 0, "r" },
      { 1.5, "p", "k", "t", 1, "1" }, { 1, "p", "k", "t", -1, "1" }, { 1, "v", "", 1, "w", "1" }, { 1, "x" },
      { 1, "constructor" }, { 1, "p", "k\n", "t", 1, "1" },
    }
    say { t = "ops", b = 0, u = 1, r = rows }
    assert.equal(before + #rows, replica.counters.bad)
    -- Payloads that are no JSON would break the frames of subscribers.
    say { t = "ops", b = 1, u = 3, r = {
      { 2, "p", "k:1", "t", 1, '1},"x":{' }, { 3, "v", "registry:a/b", 9, "w", '1,2' },
    } }
    assert.is_nil(nodes[1]:value("t"))
    assert.is_nil(nodes[1].topics:get("registry:a/b"))
    assert.equal(2, nodes[1].cluster.rows.refused)
    say { t = "something of a later release" }
    for index = 1, 200 do
      local other = replica_wire.new { name = "n", origin = ("%032x"):format(index), max_bytes = 1e6 }
      replica:receive(other:seal({ t = "hb", a = "evil", n = 0, c = 0, l = 1 }, 1e6)[1])
    end
    assert.equal(64, replica.count)
    net.queue = {}
    nodes[1]:connect("users", 1)
    net:pass(20000)
    assert.equal(1, replica.count)
    assert.same({ "users 10.0.0.1:1" }, nodes[2]:listed())
  end)

  it("hear a newcomer also when many are gone that are still remembered", function()
    local net, nodes = cluster(2, nil, { config = { ttl_ms = 3000, grace_ms = 86400000 } })
    local replica = nodes[1].cluster.replica
    nodes[2]:connect("users", 1)
    net:settle()
    for index = 1, 100 do
      local life = replica_wire.new { name = "n", origin = ("%032x"):format(index), max_bytes = 1e6 }
      replica:receive(life:seal({ t = "hb", a = "restless", n = 0, c = 0, l = 3000 }, 1e6)[1], "all")
      replica:receive(life:seal({ t = "bye" }, 1e6)[1], "all")
      net.now_ms = net.now_ms + 1
    end
    net.queue = {}
    assert.equal(64, replica.count)
    assert.equal(0, replica.counters.refused_peers)
    assert.is_nil(replica.peers[("%032x"):format(1)])
    assert.is_table(replica.peers[("%032x"):format(100)])
    local late = net:node({ label = "late", config = { ttl_ms = 3000, grace_ms = 86400000 } }):join()
    late:connect("users", 2)
    net:pass(2000)
    assert.same({ "users 10.0.0.1:1", "users 10.0.0.1:2" }, nodes[1]:listed())
  end)

  it("share what configuration files say", function()
    local net, nodes = cluster(2)
    local topic = "registry:users/limits"
    nodes[1].cluster:configured(topic, "1")
    net:settle()
    assert.equal("1", nodes[2]:value(topic))
    assert.is_true(nodes[2].topics:get(topic).retained)
    nodes[2].cluster:configured(topic, "2")
    net:settle()
    assert.equal("2", nodes[1]:value(topic))
    nodes[1].cluster:configured(topic, "1") -- its file has not changed
    net:settle()
    assert.equal("2", nodes[1]:value(topic))
    -- One that starts with an old file does not undo that.
    local late = net:node { label = "late" }
    late.cluster:configured(topic, "0")
    assert.equal("0", late:value(topic))
    late:join()
    for _, node in ipairs { nodes[1], nodes[2], late } do assert.equal("2", node:value(topic)) end
    -- A connection may set it.
    local client = nodes[1]:connect("ops", 1)
    assert.is_number(nodes[1].topics:update(client, topic, "7"))
    nodes[1].cluster:updated(topic, "7")
    net:settle()
    for _, node in ipairs { nodes[1], nodes[2], late } do assert.equal("7", node:value(topic)) end
    -- It outlives the registry where it was set.
    nodes[1]:die()
    net:pass(13000)
    local newest = net:node { label = "newest" }:join()
    for _, node in ipairs { nodes[2], late, newest } do assert.equal("7", node:value(topic)) end
  end)

  it("converge whatever is lost, in whatever order things happen", function()
    for seed = 1, 12 do
      math.randomseed(seed)
      local is_lossy = true
      local net, nodes = cluster(4, {
        max_payload = 1024, loses = function() return is_lossy and math.random() < 0.3 end,
      })
      local clients = {}
      for _ = 1, 600 do
        local node = nodes[math.random(#nodes)]
        local dice, port = math.random(), math.random(40)
        if dice < 0.4 then
          clients[#clients + 1] = { node = node, client = node:connect("ns" .. math.random(3), port) }
        elseif dice < 0.6 and #clients > 0 then
          local one = table.remove(clients, math.random(#clients))
          if one.client.is_listed then one.node:disconnect(one.client) end
        elseif dice < 0.8 and #clients > 0 then
          local one = clients[math.random(#clients)]
          if one.client.is_listed then
            one.node:declare(one.client, "t" .. math.random(5), tostring(math.random(100)))
          end
        elseif dice < 0.85 then
          net:pass(math.random(1000))
        elseif dice < 0.87 then
          node:offline()
        elseif dice < 0.9 then
          if not node.bus.is_up then node:online() end
        else
          net:settle()
        end
      end
      is_lossy = false
      for _, node in ipairs(nodes) do
        if not node.bus.is_up then node:online() end
      end
      net:pass(15000)
      local words = "seed " .. seed
      local connected = {}
      for _, one in ipairs(clients) do
        if one.client.is_listed then connected[#connected + 1] = one.client.namespace .. " " .. one.client.key end
      end
      table.sort(connected)
      assert.is_true(#connected > 5, words)
      for _, node in ipairs(nodes) do
        assert.same(connected, node:listed(), words)
        assert.same(nodes[1]:values(), node:values(), words)
        assert.equal(0, node.cluster.replica.counters.bad, words)
      end
    end
  end)
end)
