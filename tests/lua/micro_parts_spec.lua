--- Addresses, balance, correlation, links and look-ups of the micro protocol, each by itself.
--- SPDX-License-Identifier: MIT
local address = require("znl.micro.address")
local balance = require("znl.micro.balance")
local cjson = require("cjson")
local correlation = require("znl.micro.correlation")
local eventually = require("support.eventually")
local json = require("znl.json")
local links = require("znl.micro.links")
local log = require("znl.log")
local namespaces = require("znl.micro.namespaces")
local sched = require("znl.core.sched")
local znl = require("znl")

local function read(name)
  local file = assert(io.open((os.getenv("ZNL_VECTORS") or "tests/vectors") .. "/micro/" .. name))
  local text = file:read("*a")
  file:close()
  return cjson.decode(text)
end

describe("address", function()
  it("parses keys as the vectors do", function()
    local cases = read("address-keys.json").cases
    assert.is_true(#cases > 10)
    for _, case in ipairs(cases) do
      local host, port = address.parse(case.key)
      local got = host and { host = host, port = port } or cjson.null
      assert.same(case.address, got, case.key)
    end
  end)

  it("reads ports as JavaScript does, and nothing else", function()
    for text, port in pairs {
      ["80"] = 80, [" 80 "] = 80, ["1e3"] = 1000, ["0x50"] = 80, ["0o17"] = 15, ["0b11"] = 3, ["80."] = 80,
      ["8.0e1"] = 80, ["+80"] = 80,
    } do assert.equal(port, address.port(text), text) end
    for _, text in ipairs { "", "0", "-1", "65536", "1.5", "nan", "inf", "0x1p4", "80LL", "1e9", "8 0", "++8", "+0x50",
      "0x", "." } do
      assert.is_nil(address.port(text), text)
    end
  end)

  it("checks what is given and what is found", function()
    for _, good in ipairs { { "127.0.0.1", 1 }, { "[::1]", 65535 }, { "host.name", 80 } } do
      assert.is_nil(address.problem(good[1], good[2]))
    end
    for _, bad in ipairs {
      { "", 1 }, { nil, 1 }, { 7, 1 }, { "a b", 1 }, { "a/b", 1 }, { "a?b", 1 }, { "::1", 1 }, { "[::1", 1 },
      { ("x"):rep(254), 1 }, { "a", 0 }, { "a", 65536 }, { "a", 1.5 }, { "a", "80" }, { "a", 0 / 0 }, { "a\r\nb", 1 },
    } do assert.is_string(address.problem(bad[1], bad[2])) end
    assert.same({ host = "a", port = 9 }, (address.read("a:9")))
    assert.same({ host = "a", port = 9 }, (address.read { host = "a", port = 9 }))
    assert.is_nil((address.read("a")))
    assert.is_nil((address.read(7)))
  end)

  it("says and reads who opens a connection", function()
    assert.equal("/127.0.0.1/9001/team/svc", address.path("127.0.0.1", 9001, "team/svc"))
    local function who(path) return { address.from_path(path) } end
    assert.same({ "127.0.0.1", 9001, "team/svc" }, who("/127.0.0.1/9001/team/svc"))
    assert.same({ "h", 80, "n" }, who("/h/80/n/?x=/y"))
    assert.same({ "h", 1000, "n" }, who("h/1e3/n"))
    assert.same({ "[::1]", 80, "%20" }, who("/[::1]/80/%20"))
    for _, path in ipairs { "/", "", "/h/80", "/h/80/", "//80/n", "/h//n", "/h/x/n", "/h/0/n", "/h/65536/n",
      "/?/h/80/n" } do
      assert.same({}, who(path), path)
    end
  end)

  it("accepts the namespaces that everybody writes alike", function()
    for _, name in ipairs { "svc", "team/svc-1.x_y~z", "A" } do assert.is_true(address.is_namespace(name), name) end
    for _, name in ipairs { "", "/a", "a/", "a//b", "a b", "a/../b", ".", "ä", "a%20b", "a?b", ("x"):rep(256) } do
      assert.is_false(address.is_namespace(name), name)
    end
    assert.is_false(address.is_namespace(nil))
  end)

  it("finds the address of this host", function()
    local interfaces = {
      lo = { { ip = "127.0.0.1", family = "inet", internal = true } },
      b = {
        { ip = "fe80::1", family = "inet6", internal = false },
        { ip = "10.0.0.2", family = "inet", internal = false },
      },
      a = { { ip = "10.0.0.3", family = "inet", internal = false } },
    }
    local names = { "lo", nil, "b", "a" }
    assert.equal("10.0.0.2", address.first_external(interfaces, function(index) return names[index] end))
    assert.equal("10.0.0.3", address.first_external(interfaces, function() end))
    assert.is_nil(address.first_external({ lo = interfaces.lo }, function() end))
    assert.equal("127.0.0.1", (address.advertised(nil, { lo = interfaces.lo })))
    assert.equal("me.example", (address.advertised("  me.example ")))
    assert.is_nil((address.advertised("::1")))
  end)
end)

describe("balance", function()
  local function clients(...)
    local list = {}
    for index, load in ipairs { ... } do
      list[index] = { number = index, conn = { pending = function() return load end } }
    end
    return list
  end

  it("takes turns, the least busy one, or always the same", function()
    local list, seen = clients(0, 0, 0), {}
    for _ = 1, 9 do
      local number = balance.CHOICES.round_robin(list, 3).number
      seen[number] = (seen[number] or 0) + 1
    end
    assert.same({ 3, 3, 3 }, seen)
    for _ = 1, 9 do assert.equal(2, balance.CHOICES.least_in_flight(clients(5, 1, 3), 3).number) end
    for _ = 1, 9 do assert.equal(1, balance.CHOICES.sticky(clients(9, 0), 2).number) end
  end)

  it("never takes the busiest of three by two choices, and any of equals", function()
    local seen = {}
    for _ = 1, 300 do
      assert.not_equal(1, balance.CHOICES.two_choices(clients(9, 1, 1), 3).number)
      seen[balance.CHOICES.two_choices(clients(2, 2, 2), 3).number] = true
    end
    assert.same({ true, true, true }, seen)
  end)
end)

describe("correlation", function()
  local UUID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

  it("adds an id as release 1.0.5 does", function()
    for _, value in ipairs { 7, "text", true, false, json.null, { 1, 2 }, json.array {} } do
      local sent = correlation.add(value)
      assert.matches(UUID, sent._correlationId)
      assert.equal(value, sent.data)
    end
    local sent = correlation.add(nil)
    assert.matches(UUID, sent._correlationId)
    assert.is_nil(next(sent, next(sent)))
    local given = { a = 1 }
    sent = correlation.add(given)
    assert.equal(1, sent.a)
    assert.matches(UUID, sent._correlationId)
    assert.same({ a = 1 }, given)
    local own = { _correlationId = "mine", b = 2 }
    assert.equal(own, correlation.add(own))
    assert.matches(UUID, correlation.add({ _correlationId = "" })._correlationId)
    assert.not_equal(correlation.uuid(), correlation.uuid())
  end)
end)

--- A connection that is only looked at.
local function fake_conn(is_inbound, is_ours)
  local conn = { open = true, waiting = 0, running = 0 }
  function conn.is_inbound() return is_inbound end
  function conn.is_ours() return is_ours end
  function conn.is_open() return conn.open end
  function conn.pending() return conn.waiting end
  function conn.jobs() return conn.running end
  function conn.set_peer(_, key) conn.key = key end
  function conn.close()
    if not conn.open then return end
    conn.open = false
    if conn.links then conn.links:closed(conn, "closed") end
  end
  return conn
end

describe("links", function()
  local seen, table_of

  local function make(is_ours, own_key)
    seen = {}
    local core, dials = {}, {}
    function core.connect(_, opts)
      dials[#dials + 1] = opts
      sched.sleep(1)
      if core.fails then return nil, "refused", "UNREACHABLE" end
      local conn = fake_conn(false, is_ours)
      conn.links = table_of
      return conn
    end
    table_of = links.new {
      core = core, owner = sched.owner(), log = log.new("test"), own_key = function() return own_key or "m:1" end,
      path = function() return "/m/1/me" end,
      on_connected = function(client) seen[#seen + 1] = "+" .. client.key end,
      on_disconnected = function(client, reason) seen[#seen + 1] = "-" .. client.key .. " " .. reason end,
    }
    return table_of, core, dials
  end

  local function inbound(is_ours, path)
    local conn = fake_conn(true, is_ours)
    conn.links = table_of
    return table_of:accept(conn, path), conn
  end

  it("dials once for all who ask at a time, and keeps the connection", function()
    local t, core, dials = make(true)
    local got = {}
    local tasks = {}
    for index = 1, 3 do tasks[index] = znl.spawn(function() got[index] = t:connect("z", 9) end) end
    for _, task in ipairs(tasks) do task:wait() end
    assert.equal(1, #dials)
    assert.equal("/m/1/me", dials[1].path)
    assert.equal(5000, dials[1].timeout_ms)
    assert.is_true(got[1] == got[2] and got[2] == got[3])
    assert.equal(got[1], t:connect("z", 9))
    got[1]:close()
    assert.is_nil(t.clients["z:9"])
    assert.same({ "+z:9", "-z:9 closed" }, seen)
    core.fails = true
    assert.same({ nil, "refused", "UNREACHABLE" }, { t:connect("z", 9) })
    assert.is_nil(next(t.dialling))
  end)

  it("closes what says nobody, and enters the rest", function()
    local t = make(true)
    local client, conn = inbound(true, "/x")
    assert.is_nil(client)
    assert.is_false(conn.open)
    client = inbound(true, "/z/9/team/svc")
    assert.equal("z:9", client.key)
    assert.equal("team/svc", client.namespace)
    assert.equal(client, t.clients["z:9"])
    assert.equal(client, t:connect("z", 9))
  end)

  it("replaces the connection of a node that comes again", function()
    local t = make(true)
    local first, first_conn = inbound(true, "/z/9/svc")
    first_conn.waiting = 1
    local second = inbound(true, "/z/9/svc")
    assert.equal(second, t.clients["z:9"])
    assert.same({ "+z:9", "-z:9 replaced", "+z:9" }, seen)
    assert.is_true(first_conn.open) -- its request may still be answered
    first_conn.waiting = 0
    eventually(function() return not first_conn.open end)
    assert.equal(3, #seen)
    assert.equal(first.key, second.key)
    local third, third_conn = inbound(true, "/z/9/svc")
    assert.is_false(second.conn.open) -- idle: at once
    assert.equal(third, t.clients["z:9"])
    third_conn:close()
    assert.is_nil(t.clients["z:9"])
    assert.same({}, t.retired)
  end)

  it("keeps what the smaller key has opened, of two nodes of ours that dial each other", function()
    local t = make(true, "m:1")
    local out = t:connect("z", 9) -- "m:1" < "z:9": ours stays
    local _, their_conn = inbound(true, "/z/9/svc")
    assert.equal(out, t.clients["z:9"])
    eventually(function() return not their_conn.open end)
    assert.is_true(out.conn.open)
    assert.same({ "+z:9" }, seen)

    t = make(true, "m:1")
    out = t:connect("a", 9) -- "a:9" < "m:1": theirs stays
    local theirs = inbound(true, "/a/9/svc")
    assert.equal(theirs, t.clients["a:9"])
    eventually(function() return not out.conn.open end)
    assert.is_true(theirs.conn.open)
  end)

  it("lets originals choose which of two to close", function()
    local t = make(false, "m:1")
    local out = t:connect("z", 9)
    local theirs = inbound(false, "/z/9/svc")
    assert.equal(theirs, t.clients["z:9"])
    assert.is_true(out.conn.open)
    theirs.conn:close() -- the other end kept the one that we opened
    assert.equal(out, t.clients["z:9"])
    assert.is_true(out.conn.open)
    sched.sleep(120)
    assert.is_true(out.conn.open)
    assert.same({}, t.retired)
    t:close()
    assert.is_nil(next(t.clients))
  end)

  it("gives up dials under way when it closes", function()
    local t = make(true)
    local answer = znl.spawn(function() return t:connect("z", 9) end)
    t:close()
    assert.same({ nil, "stopped", "STOPPED" }, { answer:wait(1000) })
    assert.is_nil(next(t.clients))
  end)
end)

describe("namespaces", function()
  local finds, dials, known, broken, delay
  local level = znl.log.level()
  before_each(function() znl.log.set_level("off") end)
  after_each(function() znl.log.set_level(level) end)

  local function make(more)
    finds, dials, broken, delay = {}, {}, {}, 1
    local opts = {
      connections = 3, balance = "round_robin", owner = sched.owner(), exact = false, log = log.new("test"),
      find = function(namespace, exclude)
        finds[#finds + 1] = { namespace = namespace, exclude = exclude and { unpack(exclude) } }
        sched.sleep(delay)
        if not known then return nil, "Registry not found", "UNREACHABLE" end
        local out = {}
        for _, key in ipairs(exclude or {}) do out[key] = true end
        for _, key in ipairs(known) do
          if not out[key] then return address.parse(key) end
        end
        return nil, "Namespace not found", "NOT_FOUND"
      end,
      dial = function(host, port)
        local key = address.key(host, port)
        dials[#dials + 1] = key
        sched.sleep(1)
        if broken[key] then return nil, "refused", "UNREACHABLE" end
        return { key = key, conn = fake_conn(false, true) }
      end,
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    return namespaces.new(opts)
  end

  it("shares one look-up, and another one for each exclude list", function()
    known = { "a:1", "b:1" }
    local n = make { connections = 1 }
    local first = znl.spawn(function() return n:get("svc", {}).key end)
    local second = znl.spawn(function() return n:get("svc", {}).key end)
    local third = znl.spawn(function() return n:get("svc", { "a:1" }).key end)
    assert.same({ "a:1", "a:1", "b:1" }, { first:wait(), second:wait(), third:wait() })
    assert.equal(2, #finds)
    assert.same({ "a:1" }, finds[2].exclude)
    assert.same({ "svc" }, n:list())
  end)

  it("keeps no connection that another one has replaced meanwhile", function()
    known = { "a:1" }
    local n = make {
      dial = function() return { key = "a:1", conn = fake_conn(false, true), is_retired = true } end,
    }
    assert.equal("a:1", assert(n:get("svc")).key)
    assert.same({}, n:list())
  end)

  it("finishes a look-up whose asker has gone", function()
    known = { "a:1" }
    local n = make { connections = 1 }
    local impatient = znl.spawn(function() return n:get("svc") end)
    impatient:cancel()
    assert.equal("CANCELLED", select(3, impatient:wait()))
    eventually(function() return n.entries.svc and n.entries.svc.count == 1 end)
    assert.equal(1, #finds)
  end)

  it("connects to as many as wanted, and looks again only where somebody calls", function()
    known = { "a:1", "b:1" }
    local n = make()
    assert(n:get("svc", {}))
    eventually(function() return n.entries.svc.count == 2 and not n.entries.svc.is_growing end)
    local before = #finds
    n.entries.svc.used = false
    known = { "a:1", "b:1", "c:1", "d:1" }
    n:grow()
    sched.sleep(10)
    assert.equal(before, #finds)
    n:get("svc", {})
    n:grow()
    eventually(function() return n.entries.svc.count == 3 and not n.entries.svc.is_growing end)
    assert.equal(before + 1, #finds)
    n:get("svc", {})
    n:grow()
    sched.sleep(10)
    assert.equal(before + 1, #finds)
  end)

  it("falls back to what was excluded, unless that is forbidden", function()
    known = { "a:1" }
    local n = make { connections = 1 }
    local client = assert(n:get("svc", {}))
    assert.equal(client, n:get("svc", { "a:1" }))
    local nobody, message, code = n:get("svc", { "a:1" }, false)
    assert.same({ "nil", "Namespace not found", "NOT_FOUND" }, { tostring(nobody), message, code })
    assert.equal(client, n:get("svc", {}))
    n:remove(client)
    assert.is_nil(n.entries.svc)
  end)

  it("tries addresses that were good when the registry is gone, and only then", function()
    known = { "a:1", "b:1" }
    local n = make { connections = 2 }
    assert(n:get("svc", {}))
    eventually(function() return n.entries.svc.count == 2 end)
    for _, client in ipairs({ unpack(n.entries.svc.clients) }) do n:remove(client) end
    known = {}
    assert.equal("NOT_FOUND", select(3, n:get("svc", {})))
    known = nil
    broken["b:1"] = true
    assert.equal("a:1", n:get("svc", {}).key)
    assert.equal("UNREACHABLE", select(3, n:get("other", {})))
  end)

  it("leaves out who is found and does not answer, so many times", function()
    known = {}
    for number = 1, 9 do
      known[number] = "x:" .. number
      broken["x:" .. number] = true
    end
    local n = make()
    for number = 1, 9 do broken["x:" .. number] = true end
    assert.same({ nil, "refused", "UNREACHABLE" }, { n:get("svc", {}) })
    assert.equal(4, #dials)
    assert.is_nil(n.entries.svc)
  end)

  it("hands over to the connection that replaces another", function()
    known = { "a:1" }
    local n = make { connections = 1 }
    local client = assert(n:get("svc"))
    local newer = { key = "a:1", conn = fake_conn(true, true) }
    n:replace(client, newer)
    assert.equal(newer, n:get("svc"))
    assert.equal(newer, n.entries.svc.single)
    n:clear()
    assert.same({}, n:list())
  end)
end)
