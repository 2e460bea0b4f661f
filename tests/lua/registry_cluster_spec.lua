--- Several registries that answer for one fleet, over a real nats-server. SPDX-License-Identifier: MIT

local eventually = require("support.eventually")
local nats_server = require("support.nats_server")
local sched = require("znl.core.sched")
local uv = require("luv")
local znl = require("znl")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

describe("registries of one cluster", function()
  local server, started, children, level

  before_each(function()
    started, children, level = {}, {}, znl.log.level()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
    server = nats_server.start {}
  end)

  after_each(function()
    for index = #started, 1, -1 do started[index]:stop() end
    for _, child in ipairs(children) do child.handle:kill("sigkill") end
    server:remove()
    znl.log.set_level(level)
  end)

  local function made(more, cluster)
    local opts = { host = "127.0.0.1", port = 0, config_dir = false, cluster = {
      bus = server.url, name = "spec", ttl_ms = 1000, grace_ms = 20000,
    } }
    for name, value in pairs(more or {}) do opts[name] = value end
    for name, value in pairs(cluster or {}) do opts.cluster[name] = value end
    return znl.registry(opts)
  end

  local function begin(object)
    assert(object:start())
    started[#started + 1] = object
    return object
  end

  local function registry(more, cluster) return begin(made(more, cluster)) end

  local function where(one) return "127.0.0.1:" .. one:port() end

  --- An application that is registered with one of these first.
  local function application(namespace, addresses, more)
    local opts = {
      namespace = namespace, host = "127.0.0.1", advertise_host = "127.0.0.1", registry = addresses,
      reconnect_ms = 100, request_timeout_ms = 5000,
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    return znl.application(opts)
  end

  local function provide(addresses, more)
    local app = application("svc", addresses, more)
    app:route("/who", function() return app:key() end)
    return begin(app)
  end

  --- A registry as a process of its own.
  local function process(port)
    local child = {}
    local pipe = uv.new_pipe(false)
    local parts = {}
    child.handle = assert(uv.spawn(znlrun, {
      args = {
        "--log-level", "info", "scripts/registry.lua", "--host", "127.0.0.1", "--port", tostring(port or 0),
        "--no-config",
        "--cluster", "spec", "--bus", server.url,
      },
      stdio = { nil, nil, pipe },
    }, function()
      child.is_over = true
      child.handle:close()
    end))
    children[#children + 1] = child
    pipe:read_start(function(_, piece)
      if piece then parts[#parts + 1] = piece else pipe:close() end
    end)
    child.port = tonumber(eventually(function()
      return table.concat(parts):match("registry is up.-:(%d+)")
    end, "the registry is up"))
    return child
  end

  local function count(one, namespace) return #one:peers(namespace) end

  it("find what any of them has, and share topics", function()
    local a, b = registry({}, { label = "a" }), registry({}, { label = "b" })
    local one = provide(where(a))
    local two = provide(where(b))
    eventually(function() return count(a, "svc") == 2 and count(b, "svc") == 2 end, "both list both")
    assert.same({ a = one:key(), b = two:key() }, (function()
      local found = {}
      for _, peer in ipairs(b:peers("svc")) do found[peer.registry] = peer.key end
      return found
    end)())
    local caller = begin(application("caller", where(b)))
    local seen = {}
    for _ = 1, 200 do seen[assert(caller:call("svc", "/who"))] = true end
    eventually(function()
      seen[assert(caller:call("svc", "/who"))] = true
      return seen[one:key()] and seen[two:key()]
    end, "calls reach both")
    local values = {}
    assert(caller:subscribe("rate", function(value) values[#values + 1] = value end))
    local handle = assert(one:publish("rate", { usd = 1 }))
    eventually(function() return #values == 1 end)
    assert(handle:update { usd = 2 })
    eventually(function() return #values == 2 end)
    assert.same({ { usd = 1 }, { usd = 2 } }, values)
    local late = registry({}, { label = "late" })
    eventually(function() return count(late, "svc") == 2 and #late:topics() == 1 end, "the late one knows all")
    assert.equal('{"usd":2}', late:topics()[1].payload)
    assert.same({ "late", "a", "b" }, (function()
      local labels = {}
      for index, entry in ipairs(late:registries()) do labels[index] = entry.label end
      return labels
    end)())
    one:stop()
    eventually(function() return count(b, "svc") == 1 and count(late, "svc") == 1 end)
    eventually(function() return #late:topics() == 0 and not b:topics()[1].has_data end)
  end)

  it("lose nothing when one is killed, whatever is under way", function()
    local a = process()
    local b = registry()
    local both = { "127.0.0.1:" .. a.port, where(b) }
    local apps = {}
    for index = 1, 6 do apps[index] = provide({ both[index % 2 + 1], both[(index + 1) % 2 + 1] }) end
    local publisher = begin(application("prices", both))
    assert(publisher:publish("rate", 7))
    local caller = begin(application("caller", both))
    eventually(function() return count(b, "svc") == 6 and count(b, "prices") == 1 end, "all are listed")
    eventually(function() return #b:registries() == 2 end)

    local calls, looks, failures, is_over = 0, 0, {}, false
    for _ = 1, 4 do
      znl.spawn(function()
        while not is_over do
          local who, message, code = caller:call("svc", "/who", nil, { retries = 0 })
          calls = calls + 1
          if not who then failures[#failures + 1] = ("call: %s (%s)"):format(message, code) end
        end
      end)
    end
    znl.spawn(function() -- each look-up asks a registry
      while not is_over do
        local host, message, code = caller.link:find("svc", {})
        looks = looks + 1
        if not host then failures[#failures + 1] = ("find: %s (%s)"):format(message, code) end
        if not b:find("svc") then failures[#failures + 1] = "the other registry lists nobody" end
        sched.sleep(1)
      end
    end)
    local function some_more()
      local calls_now, looks_now = calls, looks
      eventually(function() return calls > calls_now + 200 and looks > looks_now + 20 end, "the load goes on")
    end
    some_more()
    a.handle:kill("sigkill")
    eventually(function() return a.is_over end)
    some_more()
    assert.equal(6, count(b, "svc"))
    eventually(function()
      for _, app in ipairs(apps) do
        if select(2, app:is_registered()) ~= where(b) then return false end
      end
      return select(2, caller:is_registered()) == where(b)
    end, "all are with the other one")
    some_more()
    -- One that is started again knows all of them before anybody can ask.
    local again = process(a.port)
    local looker = assert(znl.client.connect {
      host = "127.0.0.1", port = again.port, path = "/x/1/x", headers = { ["Znl-Observer"] = "1" },
    })
    local found = assert(looker:request("/-/namespace/peers", { namespace = "svc" }))
    assert.equal(6, #found)
    assert.equal(7, assert(looker:request("/-/topic/get", { topic = "rate" })).payload)
    local others = {}
    for _, entry in ipairs(assert(looker:request("/-/registry/status")).cluster.registries) do
      if entry.state == "up" then others[#others + 1] = entry.id end
    end
    assert.same({ b:registries()[1].id }, others)
    looker:close()
    some_more()
    is_over = true
    assert.same({}, failures)
  end)

  it("keep what one that stops held, and say so", function()
    local a, b = registry({}, { label = "a" }), registry({}, { label = "b" })
    local events = {}
    b:on("registry_down", function(_, label, reason) events[#events + 1] = label .. " " .. reason end)
    local app = provide { where(a), where(b) }
    -- Wherever it is, it goes to the other one.
    local first, other = a, b
    if select(2, app:is_registered()) == where(b) then first, other = b, a end
    eventually(function() return count(other, "svc") == 1 end)
    first:stop()
    assert.equal(1, count(other, "svc"))
    eventually(function() return select(2, app:is_registered()) == where(other) end)
    assert.equal(1, count(other, "svc"))
    if first == a then
      eventually(function() return events[1] end)
      assert.same({ "a stopped" }, events)
    end
  end)

  it("go on alone without NATS, and are one again with it", function()
    local a, b = registry(), registry()
    local one = provide(where(a))
    local two = provide(where(b))
    eventually(function() return count(a, "svc") == 2 and count(b, "svc") == 2 end)
    server:kill()
    local three = provide(where(a))
    one:stop()
    eventually(function() return count(a, "svc") == 2 end)
    assert.equal(three:key(), assert(a:find("svc", { two:key() })).host .. ":" .. three:port())
    assert.equal(2, count(b, "svc")) -- what it knew
    local alone = registry() -- one that starts meanwhile is alone
    assert.equal(0, count(alone, "svc"))
    server:restart()
    for _, each in ipairs { a, b, alone } do
      eventually(function()
        local keys = {}
        for _, peer in ipairs(each:peers("svc")) do keys[peer.key] = true end
        return count(each, "svc") == 2 and keys[two:key()] and keys[three:key()]
      end, "all list the same")
    end
  end)

  it("take nothing from others without the secret", function()
    local a = registry({}, { secret = "one" })
    local b = registry({}, { secret = { "two", "one" } })
    local c = registry({}, { secret = { "one", "two" } })
    local app = provide(where(a))
    eventually(function() return count(c, "svc") == 1 and count(b, "svc") == 1 end)
    eventually(function() return a:status().cluster_bad > 0 end) -- what b signs with "two"
    assert.equal(2, #a:registries())
    app:stop()
    local text = a.config.cluster
    assert.is_nil(text.secret)
  end)

  it("are told what is wrong with the option", function()
    local function refused(cluster)
      local ok, message = pcall(function() local _ = znl.registry { port = 0, cluster = cluster } end)
      assert.is_false(ok)
      return message
    end
    assert.matches("cluster: option bus", refused {})
    assert.matches("cluster: option name", refused { bus = server.url, name = "a.b" })
    assert.matches("cluster: option subject_prefix", refused { bus = server.url, subject_prefix = "a..b" })
    assert.matches("cluster: option ttl_ms", refused { bus = server.url, ttl_ms = 1 })
    assert.matches("cluster: .*nmae", refused { bus = server.url, nmae = "x" })
    assert.matches("registry_cluster_spec", refused { bus = server.url, ttl_ms = 1 })
    assert.matches('option bus is ""', refused { bus = "" })
  end)

  it("do not start with an address of the bus that is none", function()
    local ok, message, code = made(nil, { bus = "http://nowhere" }):start()
    assert.is_nil(ok)
    assert.equal("INVALID", code)
    assert.matches('^registry: cluster: options: bus: servers: number 1, "http://nowhere"', message)
  end)
end)
