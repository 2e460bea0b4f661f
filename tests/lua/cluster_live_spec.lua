--- znl.cluster_client on the real core: sockets, secrets and TLS, and processes that are killed.
--- SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local folder = require("support.folder")
local make_certificate = require("support.certificate")
local uv = require("luv")
local znl = require("znl")

--- A port that was free a moment ago.
local function free_port()
  local listener = assert(znl.tcp.listen({ port = 0 }, function() end))
  local port = listener.port
  listener:close()
  return port
end

local function new_store()
  local listeners = {}
  local store = { values = {}, listeners = listeners }
  function store.subscribe(_, reg, listener)
    listeners[reg.id] = listener
    if store.values[reg.id] ~= nil then listener(store.values[reg.id]) end
  end
  function store.publish(_, reg)
    store.values[reg.id] = reg.value
    if listeners[reg.id] then listeners[reg.id](reg.value) end
  end
  function store.get(_, id) return store.values[id] end
  function store.echo(_, ...) return znl.json.array { ... } end
  function store.refuse() return nil, "no such id", "E_NOT_FOUND" end
  function store.raise() error({ message = "typed", name = "CodedError", code = 404, stack = "the stack" }) end
  function store.raise_text() error("plain", 0) end
  function store.sleep(_, ms) znl.sleep(ms) return "slept" end
  return store
end

describe("a leader and a follower", function()
  local opened, level, files

  before_each(function()
    opened, level, files = {}, znl.log.level(), folder.new()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
  end)

  after_each(function()
    for _, client in ipairs(opened) do client:close() end
    znl.log.set_level(level)
    files:remove()
  end)

  --- A client of the channel "live"; the second one of a process follows the first.
  local function open(opts)
    local given = { name = "live", client = new_store() }
    for name, value in pairs(opts) do given[name] = value end
    local client = znl.cluster_client(given)
    opened[#opened + 1] = client
    return client
  end

  local function pair(opts)
    local leader, follower = open(opts), open(opts)
    assert.same({ true, true }, { leader:start(), follower:start() })
    assert.same({ "leading", "following" }, { leader:state(), follower:state() })
    return leader, follower
  end

  local function exchange(leader, follower)
    local got = { {}, {} }
    leader:subscribe({ id = "a" }, function(value) table.insert(got[1], value) end)
    follower:subscribe({ id = "a" }, function(value) table.insert(got[2], value) end)
    assert.is_true(follower:publish { id = "a", value = { n = 1 } })
    eventually(function() return #got[1] == 1 and #got[2] == 1 end, "a value at both")
    assert.same({ n = 1 }, follower:get("a"))
    for _, client in ipairs { leader, follower } do
      assert.same({ 1, "two", { three = true } }, client:echo(1, "two", { three = true }))
      assert.same({}, { client:get("absent") })
      local _, message, code, err = client:refuse()
      assert.same({ "no such id", "E_NOT_FOUND", "no such id" }, { message, code, err.message })
      _, message, code, err = client:invoke("raise")
      assert.same({ "typed", 404, "CodedError", "the stack" }, { message, code, err.name, err.stack })
      _, message, code, err = client:invoke("raise_text")
      assert.same({ "plain", "FAILED", "Error" }, { message, code, err.name })
      _, message, code = client:call("sleep", { timeout_ms = 20 }, 60000)
      assert.equal("TIMEOUT", code)
      assert.truthy(message:find("^sleep: no answer in "))
      _, message, code = client:echo(print)
      assert.equal("INVALID", code)
      assert.truthy(message:find("a function", 1, true))
    end
    assert.same({ { n = 1 } }, got[1])
    assert.same({ { n = 1 } }, got[2])
    eventually(function() return leader:counters().handlers == 0 end, "handlers that were given up have ended")
    assert.equal(1, #leader:keys())
  end

  it("call, subscribe and publish over TCP", function()
    exchange(pair { port = free_port() })
  end)

  it("do so over a unix socket", function()
    local path = files:at("live.sock")
    local leader, follower = pair { path = path }
    exchange(leader, follower)
    assert.equal("socket", uv.fs_stat(path).type)
  end)

  it("hear of no value that is too big for a follower, and say so", function()
    local told, errors = {}, {}
    local store = new_store()
    local leader, follower = pair { port = free_port(), max_message_bytes = 10000, client = store }
    leader:on("error", function(message) errors[#errors + 1] = message end)
    for _, client in ipairs { leader, follower } do
      client:subscribe({ id = "a" }, function(value) told[#told + 1] = #value end)
    end
    leader:publish { id = "a", value = "small" }
    eventually(function() return #told == 2 end)
    store.listeners.a(("x"):rep(20000))
    eventually(function() return #errors == 1 end)
    assert.equal('a value of {"id":"a"} cannot be passed on: publish: larger than max_message_bytes', errors[1])
    store.listeners.a("again")
    eventually(function() return #told == 4 end)
    assert.same({ 5, 5, 5, 5 }, told)
  end)

  it("take every number that the options allow", function()
    local port = free_port()
    for name, rule in pairs(require("znl.cluster.options").SPEC) do
      if rule.type == "integer" and name ~= "port" and name ~= "mode" then
        -- The shortest times are too short on a busy machine.
        for _, limit in ipairs { not name:find("_ms$") and rule.min or rule.max, rule.max } do
          local leader, follower = pair { port = port, methods = { "get" }, [name] = limit }
          follower:close()
          leader:close()
        end
      end
    end
  end)

  it("say why a path is of no use", function()
    local function why(path)
      local client = open { path = path, leader = true, max_wait_ms = 1 }
      local _, message = client:start()
      client:close()
      return message:match(": listen: (.*)$")
    end
    local path = files:at("none/a.sock")
    assert.equal(path .. ": its folder does not exist", why(path))
    path = files:at("a.sock")
    assert(io.open(path, "w")):close()
    assert.equal(path .. ": something is there that is no socket", why(path))
  end)

  it("do so with values as JSON", function()
    exchange(pair { port = free_port(), transcode = "json" })
  end)

  it("do so with a secret, over TLS", function()
    local certificate, key = make_certificate(files)
    if not certificate then return end
    exchange(pair {
      port = free_port(), host = "127.0.0.1", secret = { "new", "old" },
      tls = { certificate = certificate, key = key }, connect_tls = { authorities = certificate },
    })
  end)

  it("share no port with those who speak TLS, or do not", function()
    local certificate, key = make_certificate(files)
    if not certificate then return end
    local port, tls = free_port(), { certificate = certificate, key = key }
    assert.is_true(open({ port = port }):start())
    local client = open { name = "other", port = port, tls = tls, max_wait_ms = 50 }
    local _, message, code = client:start()
    assert.same({ ("other: no leader in time: listen: 127.0.0.1:%d: this process listens there without TLS already, "
      .. "for another client"):format(port), "TIMEOUT" }, { message, code })
    client:close()
    opened[1]:close()
    assert.is_true(client:start())
    assert.is_true(client:is_leader())
  end)

  it("have the same secret, or nothing to do with each other", function()
    local port = free_port()
    local leader = open { port = port, secret = { "new", "old" } }
    assert.is_true(leader:start())
    assert.is_true(open({ port = port, secret = "old", leader = false }):start())
    local _, message = open({ port = port, secret = "wrong", leader = false }):start()
    assert.equal("the leader refuses: the proof is not made with this secret", message)
    _, message = open({ port = port, leader = false }):start()
    assert.equal("the leader refuses: no proof", message)
    leader:close()
    eventually(function() return not opened[2]:is_leader() and opened[2]:state() == "electing" end)
    local trusting = open { port = port }
    assert.is_true(trusting:start())
    local code
    _, message, code = open({ port = port, secret = "new", leader = false }):start()
    assert.same({ ("the leader at 127.0.0.1:%d does not have the secret"):format(port), "DENIED" }, { message, code })
  end)

  it("say the same of a method that fails", function()
    local methods = {
      number = function() return nil, 404 end,
      boolean = function() return nil, true end,
      fields = function() return nil, { message = "m", name = "N", code = 7, stack = "s" } end,
      no_message = function() return nil, { x = 1 } end,
      merged = function() return nil, "m", "E", { status = 1, name = "N" } end,
      overruled = function() return nil, "m", "E", { message = "other", code = 5, stack = "s" } end,
      plain = function() return nil, "m" end,
      no_code = function() return nil, "m", {} end,
      lines = function() return nil, "a\nb" end,
      raises_object = function() error { message = 5, name = 3, code = "E" } end,
      raises_other = function() error {} end,
      raises_number = function() error(42, 0) end,
      raises_nothing = function() error() end,
      raises_text = function() error("it broke") end,
      unsendable = function() return print end,
    }
    local leader, follower = pair { port = free_port(), client = methods }
    for name in pairs(methods) do
      local outcomes = {}
      for index, client in ipairs { leader, follower } do
        local result, message, code, err = client:invoke(name)
        assert.is_nil(result)
        assert.equal(message, err.message, name)
        assert.is_string(err.stack, name)
        -- At the leader it has the place.
        if name:find("^raises_[tn]") or name == "raises_other" then err.stack = nil end
        outcomes[index] = { message, code, err }
      end
      assert.same(outcomes[1], outcomes[2], name)
    end
    local _, message, code, err = leader:merged()
    assert.same({ "m", "E", "N", "N: m" }, { message, code, err.name, err.stack })
    _, message, code = follower:number()
    assert.same({ "404", "FAILED" }, { message, code })
  end)

  it("change places when the leader closes; calls that wait go on, one under way ends", function()
    local leader, follower = pair { port = free_port(), methods = { "get", "sleep", "publish" } }
    local outcome, lost
    follower:on("lost", function(reason) lost = reason end)
    znl.spawn(function() outcome = { follower:sleep(60000) } end)
    eventually(function() return leader:counters().handlers == 1 end, "the call is at work")
    leader:close()
    eventually(function() return outcome end, "the end of the call")
    assert.same({ nil, "CLOSED" }, { outcome[1], outcome[3] })
    assert.is_nil(follower:get("x"))
    assert.equal("leading", follower:state())
    assert.is_string(lost)
    assert.equal(1, follower:counters().failovers)
  end)

  it("are refused while the client is not ready, and wait for one that is late", function()
    local port, may_start, fails = free_port(), znl.event(), true
    local function make()
      if fails then return nil, "the backend is away", "E_AWAY" end
      may_start:wait()
      return new_store()
    end
    local leader = open { port = port, client = make, methods = { "get" } }
    local _, message, code = leader:start()
    assert.same({ "live: the client is not ready: the backend is away", "E_AWAY" }, { message, code })
    local follower = open { port = port, leader = false, methods = { "get" } }
    _, message = follower:start()
    assert.equal("the leader refuses: the backend is away", message)
    fails = false
    eventually(function() return #leader:keys() == 0 and leader:state() == "electing" end)
    local is_ready
    znl.spawn(function() is_ready = follower:ready(60000) or follower:ready(60000) or follower:ready(60000) end)
    znl.sleep(200)
    assert.equal("electing", follower:state())
    may_start:set()
    eventually(function() return is_ready end, "the follower is let in")
    assert.same({ "leading", "following" }, { leader:state(), follower:state() })
  end)

  it("drain before they end", function()
    local leader, follower = pair { port = free_port() }
    local outcome
    znl.spawn(function() outcome = { follower:sleep(50) } end)
    eventually(function() return leader:counters().handlers == 1 end)
    assert.is_true(leader:drain(30000))
    eventually(function() return outcome end)
    assert.same({ "slept" }, outcome)
    local _, _, code = follower:get("a")
    assert.equal("STOPPED", code)
  end)

  it("name every counter they have in the documents", function()
    local leader, follower = pair { port = free_port() }
    local file = assert(io.open("docs/LUA_API.md"))
    local reference = file:read("*a")
    file:close()
    file = assert(io.open("docs/CORE_API.md"))
    reference = reference .. file:read("*a")
    file:close()
    for _, client in ipairs { leader, follower } do
      for name, value in pairs(client:counters()) do
        assert.is_number(value, name)
        assert.truthy(reference:find("`" .. name .. "`", 1, true), name)
      end
    end
  end)
end)

describe("a fleet of processes", function()
  local children

  before_each(function() children = {} end)

  after_each(function()
    for _, child in ipairs(children) do child.process:kill("sigkill") end
    for _, child in ipairs(children) do eventually(function() return child.has_ended end, "the end of a process") end
  end)

  local function start(name, port)
    local child = { name = name, lines = {}, is_alive = true }
    local input, output = uv.new_pipe(), uv.new_pipe()
    child.process = assert(uv.spawn(uv.exepath(), {
      args = { "--log-level", "off", "tests/lua/support/cluster_child.lua", name, tostring(port) },
      stdio = { input, output, 2 },
    }, function()
      child.has_ended = true
      child.process:close()
      input:close()
    end))
    local rest = ""
    output:read_start(function(_, data)
      if not data then return output:close() end
      rest = (rest .. data):gsub("([^\n]*)\n", function(line)
        local word, first = line:match("^(%S+) ?(.*)$")
        child[word] = first
        child.lines[#child.lines + 1] = line
        return ""
      end)
    end)
    function child.tell(line) input:write(line .. "\n") end
    children[#children + 1] = child
    return child
  end

  local function alive()
    local list = {}
    for _, child in ipairs(children) do
      if child.is_alive then list[#list + 1] = child end
    end
    return list
  end

  local function all(what, condition)
    for _, child in ipairs(alive()) do
      eventually(function()
        assert(not child.has_ended, child.name .. " has ended")
        return condition(child)
      end, child.name .. ": " .. what)
    end
  end

  --- The one that leads.
  local function leader()
    local found
    for _, child in ipairs(alive()) do
      if child.ready == "leader" then
        assert(not found, "two lead")
        found = child
      end
    end
    return assert(found, "nobody leads")
  end

  it("has one leader again whenever that is killed; nothing subscribed or published is lost", function()
    local port = free_port()
    for number = 1, 6 do start("p" .. number, port) end
    all("ready", function(child) return child.ready end)
    leader().tell("publish before")
    all("the first value", function(child) return child.value == "before" end)
    for round = 1, 4 do
      local victim, pending = leader(), nil
      for _, child in ipairs(alive()) do
        if child ~= victim then pending = child end
        child.failover, child.ready, child.asleep, child.sleep = nil, child == victim and "leader" or nil, nil, nil
      end
      pending.tell("sleep 60000")
      eventually(function() return pending.asleep end, "the call is made")
      pending.tell("owner") -- it is answered: the call before it is at the leader, too
      eventually(function() return pending.owner == victim.name end, "the owner is known")
      victim.is_alive = false
      victim.process:kill("sigkill")
      all("ready again", function(child) return child.failover and child.ready end)
      eventually(function() return pending.sleep == "CLOSED" end, "the end of the call under way")
      local heir = leader()
      for _, child in ipairs(alive()) do child.tell("owner") end
      all("the leader's name", function(child) return child.owner == heir.name end)
      for _, child in ipairs(alive()) do
        heir.tell("get of " .. child.name)
        eventually(function() return heir.got == ("of %s %s"):format(child.name, child.name) end, "its publication")
      end
      local value = "round" .. round
      alive()[1].tell("publish " .. value)
      all("the value", function(child) return child.value == value end)
    end
    assert.equal(2, #alive())
  end)
end)
