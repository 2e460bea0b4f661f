--- Several masters that share their slaves, over a real nats-server. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")
local nats_server = has_core and require("tests.lua.support.nats_server")
local uv = has_core and require("luv")

local RAW = { ["two"] = { "a", "", "b\0c" }, ["empty"] = "", ["text"] = "hello" }

describe("a fleet", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local server, nodes, children, level
  local fleets = 0
  local name -- of the fleet of this test

  setup(function() server = nats_server.start {} end)
  teardown(function()
    server:stop()
    server:remove()
  end)

  before_each(function()
    nodes, children, level = {}, {}, znl.log.level()
    znl.log.set_level("off")
    fleets = fleets + 1
    name = "test-" .. fleets
  end)

  after_each(function()
    for _, node in ipairs(nodes) do node:stop() end
    for _, child in ipairs(children) do child.process:kill("sigkill") end
    for _, child in ipairs(children) do eventually(function() return child.has_ended end, "the end of a process") end
    znl.log.set_level(level)
  end)

  local function kept(node)
    nodes[#nodes + 1] = node
    assert(node:start())
    return node
  end

  local function master(id, cluster, opts)
    local config = { id = id, endpoint = "tcp://127.0.0.1:*" }
    config.cluster = { bus = server.url, name = name, ttl_ms = 5000 }
    for key, value in pairs(cluster or {}) do config.cluster[key] = value end
    for key, value in pairs(opts or {}) do config[key] = value end
    return kept(znl.master(config))
  end

  local function slave(id, opts)
    opts.id = id
    local node = znl.slave(opts)
    local router = znl.router()
    router:route("/double", function(req) return { value = req.data.value * 2, left = req:remaining_ms() } end)
    router:route("/refuse", function() return nil, "not today", "NOT_TODAY" end)
    router:route("/raw", function(req) return req.payload end)
    router:route("/wait", function() znl.sleep(60000) end)
    router:route("/large", function(req) return ("x"):rep(req.data) end)
    node:handle(router)
    return kept(node)
  end

  --- A slave that answers payloads as they are.
  local function echo(id, opts)
    opts.id = id
    local node = znl.slave(opts)
    node:handle(function(req)
      if req.payload == "wait" then znl.sleep(60000) end
      return req.payload
    end)
    node:service("echo", function(req) return req.payload end)
    return kept(node)
  end

  local function knows(node, id, where)
    eventually(function() return node:master_of(id) == where end, ("%s is with %s"):format(id, tostring(where)))
  end

  local function code_of(_, _, code) return code end

  it("knows of all slaves, wherever they are", function()
    local a, b, c = master("a"), master("b"), master("c")
    local heard = {}
    c:on("slave_connected", function(id, at) heard[#heard + 1] = ("+%s %s"):format(id, at) end)
    c:on("slave_disconnected", function(id, reason, at) heard[#heard + 1] = ("-%s %s %s"):format(id, reason, at) end)
    local odd = "s\1% \255"
    local one = slave("one", { endpoint = a:endpoint() })
    knows(c, "one", "a")
    local two = slave(odd, { endpoint = c:endpoint() })
    for _, node in ipairs { a, b, c } do
      knows(node, "one", "a")
      knows(node, odd, "c")
      assert.is_true(node:is_online("one"))
      assert.is_false(node:is_online("nobody"))
    end
    local list = b:slaves { all = true }
    assert.same({ { "one", "a", true }, { odd, "c", true } }, {
      { list[1].id, list[1].master, list[1].calls }, { list[2].id, list[2].master, list[2].calls },
    })
    assert.equal(0, #b:slaves())
    assert.same({ "one", "a" }, { a:slaves({ all = true })[1].id, a:slaves({ all = true })[1].master })
    one:stop()
    knows(b, "one", nil)
    two:stop()
    knows(b, odd, nil)
    eventually(function() return #heard == 4 end)
    assert.same({ "+one a", "+" .. odd .. " c", "-one left a", "-" .. odd .. " unregister c" }, heard)
    local state = b:cluster()
    assert.same({ name, "connected", false }, { state.name, state.bus, state.is_partial })
    eventually(function() return #b:cluster().masters == 3 end, "all masters are known")
    assert.is_nil(kept(znl.master { id = "alone", endpoint = "tcp://127.0.0.1:*" }):cluster())
  end)

  it("with a secret loses no slave to who has none", function()
    local a, b = master("a", { secret = "one" }), master("b", { secret = "one" })
    echo("one", { endpoint = a:endpoint() })
    knows(b, "one", "a")
    local bus = assert(znl.nats.connect { servers = server.url })
    local roster = assert(znl.core.roster.new {
      bus = bus.core, subject = ("znl.fleet.%s.roster"):format(name), ttl_ms = 5000, origin = "evil",
    })
    assert(roster:start())
    eventually(function() return roster:find("one") end, "the roster is known")
    assert(roster:join { ns = "slaves", session_id = "one", user_id = "a", metadata = {} })
    eventually(function() return a:cluster().counters.bad > 0 end, "it is noticed")
    assert.is_true(a:is_online("one"))
    knows(b, "one", "a")
    assert.equal("x", b:request("one", "x"))
    assert.equal(0, a:cluster().counters.moved)
    roster:stop()
    bus:close()
  end)

  it("is one for each name", function()
    local a, b = master("a"), master("b", { name = name .. "-other" })
    local c = master("c")
    echo("one", { endpoint = a:endpoint() })
    knows(c, "one", "a")
    assert.is_false(b:is_online("one"))
  end)

  it("carries requests to slaves of other masters", function()
    local a, b = master("a"), master("b")
    echo("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    for _, payload in pairs(RAW) do
      assert.same(payload, a:request("s", payload))
      assert.same(payload, a:service_request("s", "echo", payload))
    end
    assert.equal("", a:request("s"))
    assert.equal(b:service_request("s", "unknown", "x"), a:service_request("s", "unknown", "x"))
    local large = ("x"):rep(500000)
    assert.equal(large, a:request("s", large))
    assert.equal("UNREACHABLE", code_of(a:request("nobody", "x")))
    -- What is wrong in the script raises, as without a cluster.
    assert.is_false(pcall(a.request, a, "s", { 1 }))
    assert.is_false(pcall(a.request, a, "s", 1))
    assert.is_false(pcall(a.call, a, "s", "no route"))
    assert.is_false(pcall(a.service_request, a, "s", "", "x"))
  end)

  it("carries calls, with errors and deadlines", function()
    local a, b = master("a"), master("b")
    slave("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    local answer = assert(a:call("s", "/double", { value = 21 }, { timeout_ms = 4000 }))
    assert.equal(42, answer.value)
    assert.is_true(answer.left > 0 and answer.left <= 4000, answer.left)
    local _, message, code = a:call("s", "/refuse")
    assert.same({ "not today", "NOT_TODAY" }, { message, code })
    assert.equal("NOT_FOUND", code_of(a:call("s", "/nothing")))
    assert.equal("TIMEOUT", code_of(a:call("s", "/wait", nil, { timeout_ms = 100 })))
    assert.same({ "x", "\0" }, a:call("s", "/raw", { "x", "\0" }, { raw = true }))
  end)

  it("takes cancellations and deadlines of tasks along", function()
    local a, b = master("a"), master("b")
    echo("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    local code
    local asking = znl.spawn(function() code = code_of(a:request("s", "wait", { timeout_ms = 60000 })) end)
    eventually(function() return b:cluster().counters.serving == 1 end)
    asking:cancel()
    eventually(function() return b:cluster().counters.serving == 0 end)
    assert.equal("CANCELLED", code)
    assert.equal(1, b:cluster().counters.cancelled)
    znl.with_timeout(200, function() code = code_of(a:request("s", "wait", { timeout_ms = 60000 })) end)
    assert.equal("DEADLINE", code)
    eventually(function() return b:cluster().counters.serving == 0 end)
    assert.equal(0, a:cluster().counters.waiting)
  end)

  it("publishes to the slaves of all masters", function()
    local masters, heard = { master("a"), master("b"), master("c") }, {}
    for index, node in ipairs(masters) do
      local listener = znl.slave { id = "s" .. index, endpoint = node:endpoint() }
      listener:subscribe("news", function(payload) heard[#heard + 1] = index .. " " .. table.concat(payload, "|") end)
      kept(listener)
      eventually(function() return node:is_online("s" .. index) end)
    end
    knows(masters[1], "s3", "c")
    eventually(function() return #masters[2]:cluster().masters == 3 end)
    assert.same({ 1, 0 }, { masters[2]:publish("news", { "x", "y" }) })
    eventually(function() return #heard == 3 end)
    table.sort(heard)
    assert.same({ "1 x|y", "2 x|y", "3 x|y" }, heard)
  end)

  it("refuses what NATS does not carry", function()
    local small = nats_server.start { config = "max_payload: 4096\n" }
    finally(function()
      small:stop()
      small:remove()
    end)
    local a, b = master("a", { bus = small.url }), master("b", { bus = small.url })
    slave("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    local _, message, code = a:call("s", "/double", { value = ("x"):rep(5000) })
    assert.equal("TOO_BIG", code)
    assert.is_truthy(message:find("max_payload is 4096", 1, true), message)
    _, message, code = a:call("s", "/large", 5000)
    assert.equal("TOO_BIG", code)
    assert.is_truthy(message:find("the answer", 1, true), message)
    assert.equal("TOO_BIG", code_of(a:publish("topic", ("x"):rep(5000))))
    assert.equal(("x"):rep(1000), a:call("s", "/large", 1000))
  end)

  it("limits what waits", function()
    local a, b = master("a", { max_in_flight = 2 }), master("b", { max_in_flight = 1 })
    echo("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    local first = znl.spawn(function() return a:request("s", "wait", { timeout_ms = 60000 }) end)
    eventually(function() return b:cluster().counters.serving == 1 end)
    assert.equal("OVERLOADED", code_of(a:request("s", "x")))
    local second = znl.spawn(function() return b:request("s", "wait", { timeout_ms = 60000 }) end) -- not limited
    local c = master("c", { max_in_flight = 2 })
    knows(c, "s", "b")
    local third = znl.spawn(function() return c:request("s", "x") end)
    third:wait()
    assert.equal(2, b:cluster().counters.refused)
    first:cancel()
    second:cancel()
    eventually(function() return b:cluster().counters.serving == 0 end)
    assert.equal("x", a:request("s", "x"))
  end)

  it("follows a slave that moves, and the master it left forgets it", function()
    -- Of a link inside this process the connection can be made silent.
    local quiet = "sim://" .. name
    local a, b, c = master("a", nil, { endpoint = quiet, heartbeat_ms = 10000 }), master("b"), master("c")
    local heard = {}
    for _, node in ipairs { a, c } do
      node:on("slave_connected", function(id, at) heard[#heard + 1] = ("%s: +%s %s"):format(node.id, id, at) end)
      node:on("slave_disconnected", function(id, reason, at)
        heard[#heard + 1] = ("%s: -%s %s %s"):format(node.id, id, reason, at)
      end)
    end
    echo("s", { endpoints = { quiet, b:endpoint() }, heartbeat_ms = 2000 })
    knows(c, "s", "a")
    local code
    local under_way = znl.spawn(function() code = code_of(c:request("s", "wait", { timeout_ms = 60000 })) end)
    eventually(function() return a:cluster().counters.serving == 1 end)
    assert(znl.core.testing.partition(quiet, true))
    finally(function() znl.core.testing.partition(quiet, false) end)
    knows(c, "s", "b")
    knows(b, "s", "b")
    knows(a, "s", "b")
    under_way:wait()
    assert.equal("GONE", code) -- it may have been done: nobody asked again
    assert.equal("x", c:request("s", "x"))
    assert.equal("x", a:request("s", "x"))
    assert.equal(1, a:cluster().counters.moved)
    eventually(function() return #heard == 6 end)
    table.sort(heard)
    assert.same({ "a: +s a", "a: +s b", "a: -s moved a", "c: +s a", "c: +s b", "c: -s moved a" }, heard)
  end)

  it("goes on without NATS, and is whole again when it is back", function()
    local own = nats_server.start {}
    finally(function()
      own:stop()
      own:remove()
    end)
    local a, b = master("a", { bus = own.url }), master("b", { bus = own.url })
    echo("one", { endpoint = a:endpoint() })
    knows(b, "one", "a")
    own:kill()
    eventually(function() return b:cluster().bus ~= "connected" end)
    echo("two", { endpoint = b:endpoint() })
    eventually(function() return b:is_online("two") end)
    assert.equal("x", b:request("two", "x"))
    assert.same({ 1, 0 }, { b:publish("topic", "x") })
    assert.equal(1, b:cluster().counters.publishes_lost)
    eventually(function() return b:cluster().is_partial end, "it says that it does not know all")
    assert.is_truthy(code_of(b:request("one", "x", { timeout_ms = 500 })))
    own:restart()
    knows(a, "two", "b")
    knows(b, "one", "a")
    eventually(function() return not b:cluster().is_partial end)
    assert.equal("x", a:request("two", "x"))
    assert.equal("x", b:request("one", "x"))
  end)

  it("starts without NATS and joins when it is there", function()
    local own = nats_server.start {}
    finally(function()
      own:stop()
      own:remove()
    end)
    own:kill()
    local a, b = master("a", { bus = own.url }), master("b", { bus = own.url })
    echo("one", { endpoint = a:endpoint() })
    eventually(function() return a:is_online("one") end)
    own:restart()
    knows(b, "one", "a")
    assert.equal("x", b:request("one", "x"))
    a:stop()
    knows(b, "one", nil)
    assert(a:start())
    eventually(function() return #b:cluster().masters == 2 end)
  end)

  it("believes signed messages only, when it has a secret", function()
    local a, b = master("a", { secret = "x" }), master("b", { secret = "x" })
    local stranger, other = master("stranger"), master("other", { secret = "y" })
    echo("s", { endpoint = b:endpoint() })
    echo("false", { endpoint = stranger:endpoint() })
    knows(a, "s", "b")
    knows(stranger, "s", "b") -- what is signed can be read
    knows(stranger, "false", "stranger")
    assert.equal("x", a:request("s", "x"))
    assert.same({ 1, 0 }, { b:publish("topic", "x") })
    eventually(function() return a:cluster().counters.publishes_received == 1 end)
    for _, liar in ipairs { stranger, other } do
      assert.is_truthy(code_of(liar:request("s", "x", { timeout_ms = 300 })))
      assert.is_truthy(liar:publish("topic", "x"))
    end
    eventually(function() return a:cluster().counters.bad == 2 end)
    eventually(function() return b:cluster().counters.bad >= 3 end)
    assert.is_false(a:is_online("false"))
    assert.equal(1, a:cluster().counters.publishes_received)
    assert.equal(1, b:cluster().counters.served)
  end)

  it("survives whatever is published on its subjects", function()
    local a, b = master("a"), master("b")
    echo("s", { endpoint = b:endpoint() })
    knows(a, "s", "b")
    local raw = assert(znl.nats.connect { servers = server.url })
    finally(function() raw:close() end)
    local prefix = "znl.fleet." .. name
    local instance = b:cluster().instance
    for _, text in ipairs { "", "x", "\0\0\0\1\255\255\255\255", ("\0"):rep(1000), "{}", '{"op":"add"}' } do
      for _, subject in ipairs { ".publish", ".roster", ".ask." .. instance } do
        assert(raw:publish(prefix .. subject, text, { reply = raw:new_inbox() }))
      end
    end
    assert(raw:publish(prefix .. ".roster",
      '{"o":"evil","op":"add","member":{"ns":"slaves","sessionId":"%0","userId":"%zz","metadata":{"calls":7}}}'))
    assert(raw:publish(prefix .. ".roster",
      '{"o":"evil.>","op":"add","member":{"ns":"slaves","sessionId":"t","userId":"evil"}}'))
    assert(raw:publish(prefix .. ".roster",
      '{"o":"evil","op":"add","member":{"ns":"other","sessionId":"u","userId":"evil"}}'))
    assert(raw:flush(10000))
    eventually(function() return b:cluster().counters.bad >= 12 end)
    for _, id in ipairs { "t", "u", "%0", "0" } do assert.is_false(a:is_online(id)) end
    assert.equal("x", a:request("s", "x"))
  end)

  it("goes on under a reload of its script, and is made anew with other options", function()
    local estate, scope = require("znl.versions.estate"), require("znl.versions.scope")
    local previous
    local function version(cluster)
      local made
      local its_scope = assert(scope.new { name = "a script" })
      its_scope.estate = estate.new(previous and previous.estate)
      assert(its_scope:run(function()
        local opts = { bus = server.url, name = name, ttl_ms = 5000 }
        for key, value in pairs(cluster()) do opts[key] = value end
        made = znl.master { id = "reloaded", endpoint = "tcp://127.0.0.1:*", cluster = opts }
        assert(made:start())
      end))
      assert(its_scope:commit())
      its_scope.estate:commit()
      if previous then previous:finish() end
      previous = its_scope
      return made
    end
    local current
    finally(function() current:stop() end)
    local first = version(function() return {} end)
    current = first
    local instance = first:cluster().instance
    local other = master("other")
    echo("s", { endpoint = first:endpoint() })
    knows(other, "s", "reloaded")
    local second = version(function() return {} end)
    current = second
    assert.equal(first, second)
    assert.equal(instance, second:cluster().instance)
    assert.equal("x", other:request("s", "x"))
    -- A connection belongs to the version that made it.
    for _ = 1, 2 do
      local third = version(function() return { bus = assert(znl.nats.connect { servers = server.url }) } end)
      current = third
      assert.are_not.equal(second, third)
      assert.is_false(second:running())
      second = third
    end
    eventually(function() return second:cluster().bus == "connected" end)
    eventually(function() return #other:cluster().masters == 2 end)
  end)

  it("refuses options that cannot work", function()
    for expected, cluster in pairs {
      ["option bus"] = {}, ["option ttl_ms"] = { bus = server.url, ttl_ms = 1999 },
      ["option name"] = { bus = server.url, name = "a.b" }, ["unknown option"] = { bus = server.url, buss = 1 },
    } do
      local ok, message = pcall(function()
        local made = znl.master { id = "m", endpoint = "sim://*", cluster = cluster }
        return made
      end)
      assert.is_false(ok)
      assert.is_truthy(message:find(expected, 1, true) and message:find("fleet_spec", 1, true), message)
    end
    local made = znl.master { id = "m", endpoint = "sim://*", cluster = { bus = "http://nowhere" } }
    local ok, message, code = made:start()
    assert.is_nil(ok)
    assert.equal("INVALID", code)
    assert.matches('^znl.master: cluster: bus: servers: number 1, "http://nowhere"', message)
    made:stop()
  end)

  --- A process; what it says is in `lines`.
  local function child(...)
    local it_is = { lines = {} }
    local input, output = uv.new_pipe(), uv.new_pipe()
    it_is.process = assert(uv.spawn(uv.exepath(), {
      args = { "--log-level", "off", "tests/lua/support/fleet_child.lua", ... },
      stdio = { input, output, 2 },
    }, function()
      it_is.has_ended = true
      it_is.process:close()
      input:close()
    end))
    local rest = ""
    output:read_start(function(_, data)
      if not data then return output:close() end
      rest = (rest .. data):gsub("([^\n]*)\n", function(line)
        it_is.lines[#it_is.lines + 1] = line
        it_is[line:match("^%S+")] = line:match(" (.*)$")
        return ""
      end)
    end)
    function it_is.tell(line) input:write(line .. "\n") end
    children[#children + 1] = it_is
    return it_is
  end

  it("loses no slave when masters are killed, one after the other", function()
    local masters = {}
    for index, id in ipairs { "k1", "k2", "k3" } do masters[index] = child("master", id, server.url, name) end
    local watcher = master("watcher")
    for _, it_is in ipairs(masters) do eventually(function() return it_is.ready end) end
    local places = { masters[1].ready, masters[2].ready, masters[3].ready }
    local moving = child("slave", "moving", unpack(places))
    --- The number of the master it is with, once it is with one that lives.
    local function place_of_moving()
      return eventually(function()
        local index = tonumber((watcher:master_of("moving") or ""):match("^k(%d)$"))
        return index and not masters[index].has_ended and not masters[index].is_killed and index
      end, "it is with a master that lives")
    end
    local first = place_of_moving() -- that is k1, unless it was too slow to answer
    local staying = child("slave", "staying", places[first])
    knows(watcher, "staying", "k" .. first)
    assert.equal("moving got x", watcher:request("moving", "x"))
    local code
    local under_way = znl.spawn(function()
      code = code_of(watcher:request("moving", "wait", { timeout_ms = 60000 }))
    end)
    eventually(function() return moving.working end) -- else nothing may have been done, and it is UNREACHABLE
    local killed = {}
    for _ = 1, 2 do
      local index = place_of_moving()
      masters[index].is_killed, killed[index] = true, true
      masters[index].process:kill("sigkill")
      place_of_moving()
      assert.equal("moving got x", watcher:request("moving", "x"))
      local other = masters[killed[1] and (killed[2] and 3 or 2) or 1]
      other.tell("ask moving y")
      eventually(function() return other.answer == "moving got y" end)
      other.answer = nil
    end
    local last = masters[killed[1] and (killed[2] and 3 or 2) or 1]
    under_way:wait()
    assert.equal("GONE", code)
    knows(watcher, "staying", nil) -- it has no other master, and is forgotten after ttl_ms
    assert.equal("UNREACHABLE", code_of(watcher:request("staying", "x")))
    assert.is_nil(staying.has_ended)
    assert.equal(last.ready, moving.online)
  end)
end)
