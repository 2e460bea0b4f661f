--- znl.registry, over sockets of this process. SPDX-License-Identifier: MIT
local certificates = require("support.certificate")
local eventually = require("support.eventually")
local folder = require("support.folder")
local proof = require("znl.micro.proof")
local znl = require("znl")

describe("registry", function()
  local open, level, files

  before_each(function()
    open, level, files = {}, znl.log.level(), folder.new()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
  end)

  after_each(function()
    for index = #open, 1, -1 do open[index]() end
    files:remove()
    znl.log.set_level(level)
  end)

  local function start(opts)
    local all = { host = "127.0.0.1", port = 0, config_dir = false }
    for name, value in pairs(opts or {}) do all[name] = value end
    local registry = znl.registry(all)
    open[#open + 1] = function() registry:stop() end
    assert(registry:start())
    return registry
  end

  --- A connection with this path; `pushed` collects what it is told.
  local function connect(registry, path, opts)
    local pushed = {}
    opts = opts or {}
    local client, message, code = znl.client.connect {
      host = "127.0.0.1", port = registry:port(), path = path, headers = opts.headers,
      handle = function(req) pushed[#pushed + 1] = { url = req.route, data = req.data } end,
    }
    if not client then return nil, message, code end
    open[#open + 1] = function() client:close() end
    return client, pushed
  end

  local function join(registry, namespace, port, host)
    local client, pushed = connect(registry, ("/%s/%d/%s"):format(host or "10.0.0.1", port, namespace))
    assert(client, pushed)
    return client, pushed
  end

  it("names who serves a namespace, but those that are excluded", function()
    local registry = start()
    local one, other = join(registry, "svc", 1), join(registry, "svc", 2)
    local probe = join(registry, "probe", 3)
    assert.same({ host = "10.0.0.1", port = 2 },
      probe:request("/-/find", { namespace = "svc", exclude = { "10.0.0.1:1" } }))
    assert.same({ host = "10.0.0.1", port = 3 }, probe:request("/-/find", { namespace = "probe" }))
    local seen = {}
    for _ = 1, 100 do seen[one:request("/-/find", { namespace = "svc", exclude = znl.json.array {} }).port] = true end
    assert.same({ [1] = true, [2] = true }, seen)
    for _, data in ipairs {
      { namespace = "none" }, { namespace = "svc", exclude = { "10.0.0.1:1", "10.0.0.1:2" } },
      { namespace = 7 }, { x = 1 },
    } do
      assert.same({ n = 1 }, { n = select("#", probe:request("/-/find", data)), (probe:request("/-/find", data)) })
    end
    for _, data in ipairs { znl.null, "svc", 7, znl.json.array {} } do
      local found, _, code, is_remote = probe:request("/-/find", data)
      assert.same({ nil, true }, { found, is_remote })
      assert.is_not_nil(code)
    end
    other:close()
    eventually(function() return registry:namespaces().svc == 1 end)
    assert.is_nil(probe:request("/-/find", { namespace = "svc", exclude = { "10.0.0.1:1" } }))
    assert.same({ host = "10.0.0.1", port = 1 }, registry:find("svc"))
    assert.is_nil(registry:find("svc", { "10.0.0.1:1" }))
  end)

  it("gives an address to the later of two connections", function()
    local registry = start()
    local events = {}
    registry:on("connection", function(client) events[#events + 1] = "+" .. client.namespace end)
    registry:on("disconnect", function(client, reason)
      events[#events + 1] = "-" .. client.namespace .. " " .. reason
    end)
    local first = join(registry, "old", 1)
    local second = join(registry, "new", 1)
    eventually(function() return not first:is_open() end)
    assert.same({ host = "10.0.0.1", port = 1 }, second:request("/-/find", { namespace = "new" }))
    assert.is_nil(second:request("/-/find", { namespace = "old" }))
    local third = join(registry, "new", 1)
    eventually(function() return not second:is_open() end)
    assert.same({ host = "10.0.0.1", port = 1 }, third:request("/-/find", { namespace = "new" }))
    assert.same({ "+old", "-old replaced", "+new", "-new replaced", "+new" }, events)
    assert.equal(1, registry:status().registrations)
  end)

  it("closes who says nothing usable", function()
    local registry = start { max_registrations = 1 }
    for _, path in ipairs { "/", "/127.0.0.1/9", "/127.0.0.1/port/svc", "/127.0.0.1/65536/svc" } do
      local client = connect(registry, path)
      if client then eventually(function() return not client:is_open() end) end
    end
    local kept = join(registry, "a/b/c", 9000)
    local late = connect(registry, "/127.0.0.1/9001/svc")
    if late then eventually(function() return not late:is_open() end) end
    assert.is_true(kept:is_open())
    assert.same({ ["a/b/c"] = 1 }, registry:namespaces())
    assert.equal(1, registry:status().refused)
  end)

  it("unlists who has fallen silent, and keeps those that never spoke and answer pings", function()
    local strict = start { strict_heartbeat = true, heartbeat_timeout_ms = 1000, heartbeat_check_ms = 250 }
    local mild = start { heartbeat_timeout_ms = 1000, heartbeat_check_ms = 250 }
    local silent, kept = join(strict, "svc", 1), join(mild, "svc", 1)
    local listed_at_end
    strict:on("disconnect", function() listed_at_end = strict:namespaces().svc end)
    eventually(function() return not silent:is_open() end)
    eventually(function() return strict:namespaces().svc == nil end)
    assert.is_nil(listed_at_end)
    znl.sleep(1500)
    assert.is_true(kept:is_open())
    assert.same({ svc = 1 }, mild:namespaces())
  end)

  it("keeps topics: told before the answer, in order, by revision", function()
    local registry = start()
    local a, b = join(registry, "pub-a", 1), join(registry, "pub-b", 2)
    local s, pushed = join(registry, "sub", 3)
    assert.same({ hasData = false }, s:request("/-/subscribe", { topic = "o" }))
    assert.equal(1, s:request("/-/declare", { topic = "mine", payload = 1 }))
    assert.equal(2, b:request("/-/declare", { topic = "o", payload = { from = "b" } }))
    assert.equal(3, a:request("/-/declare", { topic = "o", payload = { from = "a" } }))
    assert.equal(1, a:request("/-/undeclare", { topic = "o" }))
    eventually(function() return #pushed == 3 end)
    assert.same({
      { url = "/-/topic/update", data = { topic = "o", payload = { from = "b" } } },
      { url = "/-/topic/update", data = { topic = "o", payload = { from = "a" } } },
      { url = "/-/topic/update", data = { topic = "o", payload = { from = "b" } } },
    }, pushed)
    assert.same({ hasData = true, payload = { from = "b" } }, a:request("/-/subscribe", { topic = "o" }))
    assert.equal(4, s:request("/-/topic/update", { topic = "o", payload = znl.null }))
    assert.same({ hasData = true, payload = znl.null }, b:request("/-/subscribe", { topic = "o" }))
    local unix_ms = s:request("/-/topic/update", { topic = "unknown", payload = 1 })
    assert.is_true(unix_ms > 1.6e12)
    assert.same({ 0, 0, 0 }, {
      s:request("/-/undeclare", { topic = "x" }), s:request("/-/unsubscribe", { topic = "x" }),
      s:request("/-/undeclare", { topic = "o" }),
    })
    b:close()
    eventually(function() return registry:topics()[2].publishers == 0 end)
    assert.is_false(registry:topics()[2].has_data)
    for _, data in ipairs { { payload = 1 }, { topic = 7 }, znl.null, znl.json.array {} } do
      local _, message, code, is_remote = s:request("/-/declare", data)
      assert.same({ "the data must be an object with a text as its topic", "INVALID", true },
        { message, code, is_remote })
    end
  end)

  it("hands payloads on as they came", function()
    local registry = start()
    local p, s = join(registry, "p", 1), join(registry, "s", 2)
    local payload = {
      big = 9007199254740993LL, list = znl.json.array {}, object = {}, text = "é\0\n\u{1F600}", deep = { { {} } },
    }
    assert.equal(1, p:request("/-/declare", { topic = "t", payload = payload }))
    local answer = s:request("/-/subscribe", { topic = "t" })
    assert.equal(9007199254740993LL, answer.payload.big)
    assert.equal("é\0\n\u{1F600}", answer.payload.text)
    assert.is_true(znl.json.is_array(answer.payload.list))
    assert.is_false(znl.json.is_array(answer.payload.object))
  end)

  it("stays within its limits, whoever floods it", function()
    local registry = start {
      max_topics = 10, max_payload_bytes = 100, max_connection_topics = 8, max_topic_bytes = 20000,
    }
    local one, other = join(registry, "a", 1), join(registry, "b", 2)
    local codes = {}
    for number = 1, 20 do
      local client = number <= 10 and one or other
      local _, _, code = client:request("/-/declare", { topic = "t" .. number, payload = number })
      codes[tostring(code)] = (codes[tostring(code)] or 0) + 1
    end
    assert.same({ ["nil"] = 10, LIMIT = 10 }, codes)
    assert.equal("TOO_BIG", (select(3, one:request("/-/declare", { topic = "t1", payload = ("x"):rep(100) }))))
    assert.equal("TOO_BIG", (select(3, one:request("/-/declare", { topic = ("x"):rep(1025), payload = 1 }))))
    assert.is_true(registry:status().bytes <= 20000)
    one:close()
    eventually(function() return registry:status().topics == 2 end)
  end)

  it("serves configuration files as topics, and tells changes", function()
    files:write("my-svc.config.yaml", "debug: true\ndatabase: {host: localhost, port: 5432}\n")
    local registry = start { config_dir = files.path }
    local s, pushed = join(registry, "s", 1)
    assert.same({ hasData = true, payload = true }, s:request("/-/subscribe", { topic = "registry:my-svc/debug" }))
    files:write("my-svc.config.yaml", "debug: false\n")
    eventually(function() return #pushed == 1 end)
    assert.same({ topic = "registry:my-svc/debug", payload = false }, pushed[1].data)
    assert.equal(1, s:request("/-/declare", { topic = "registry:my-svc/debug", payload = 7 }))
    local late = join(registry, "late", 2)
    assert.same({ hasData = true, payload = false }, late:request("/-/subscribe", { topic = "registry:my-svc/debug" }))
    assert.same({ { namespace = "my-svc", value = { debug = false, database = { host = "localhost", port = 5432 } } },
      { namespace = "my-svc", value = { debug = false } }, { namespace = "none", value = znl.null } },
      s:request("/-/env/variables", {
        { namespace = "my-svc" }, { namespace = "my-svc", fields = { "debug", "absent" } }, { namespace = "none" },
      }))
    local nothing, message, code = znl.registry { port = 0, config_dir = files:at("nowhere") }:start()
    assert.same({ nil, "NOT_FOUND" }, { nothing, code })
    assert.matches("nowhere", message)
  end)

  it("tells of its environment what may be told", function()
    local registry = start { env = { "HOME" } }
    local s = join(registry, "s", 1)
    assert.same({ os.getenv("HOME"), znl.null, znl.null }, s:request("/-/env", { "HOME", "PATH", 7 }))
    assert.equal("INVALID", (select(3, s:request("/-/env", "HOME"))))
  end)

  it("lists what it knows, in pages", function()
    local registry = start()
    local s = join(registry, "b", 1)
    for port = 2, 4 do join(registry, "a", port) end
    assert.same({ { namespace = "a", count = 3 }, { namespace = "b", count = 1 } }, s:request("/-/namespaces"))
    assert.same({ { namespace = "b", count = 1 } }, s:request("/-/namespaces", { after = "a" }))
    assert.same({ { namespace = "a", count = 3 } }, s:request("/-/namespaces", { limit = 1 }))
    local peers = s:request("/-/namespace/peers", { namespace = "a", limit = 2, after = "10.0.0.1:2" })
    assert.same({ "10.0.0.1:3", "10.0.0.1:4" }, { peers[1].key, peers[2].key })
    assert.same({ "10.0.0.1", 3 }, { peers[1].host, peers[1].port })
    assert.same(znl.json.array {}, s:request("/-/namespace/peers", { namespace = "none" }))
    s:request("/-/declare", { topic = "t", payload = { 1 } })
    s:request("/-/subscribe", { topic = "s" })
    assert.same({
      { topic = "s", retained = false, hasData = false, publishers = 0, subscribers = 1 },
      { topic = "t", retained = false, hasData = true, publishers = 1, subscribers = 0, revision = 1 },
    }, s:request("/-/topics"))
    assert.same({ topic = "t", retained = false, hasData = true, publishers = 1, subscribers = 0, revision = 1,
      payload = { 1 } }, s:request("/-/topic/get", { topic = "t" }))
    assert.is_nil(s:request("/-/topic/get", { topic = "x" }))
    local status = s:request("/-/registry/status")
    assert.same({ "ok", 2, 4, 2 }, { status.status, status.namespaces, status.registrations, status.topics })
    local listed = registry:peers("a")
    assert.same({ 3, "10.0.0.1:2", 2 }, { #listed, listed[1].key, listed[1].port })
    for _, url in ipairs { "/-/health", "/-/nothing" } do
      local _, message, _, is_remote = s:request(url)
      assert.same({ url, true }, { message, is_remote })
    end
  end)

  it("does not list who only looks", function()
    local registry = start()
    local observer = assert(connect(registry, "/x/1/tool", { headers = { ["Znl-Observer"] = "1" } }))
    assert.same(znl.json.array {}, observer:request("/-/namespaces"))
    assert.equal(1, registry:status().connections)
  end)

  it("answers routes of its own as well, and this process", function()
    local registry = start()
    join(registry, "svc", 9)
    assert.same({ host = "10.0.0.1", port = 9 }, registry:dispatch("/-/find", { namespace = "svc" }))
    assert.is_nil(registry:dispatch("/-/find", { namespace = "svc", exclude = { "10.0.0.1:9" } }))
    assert.equal("INVALID", (select(3, registry:dispatch("/-/declare", { topic = "t" }))))
    registry:route("/hello/:name", function(req) return { hello = req.params.name, from = req.from } end)
    local s = join(registry, "s", 1)
    assert.same({ hello = "you", from = "10.0.0.1:1" }, s:request("/hello/you"))
  end)

  describe("with a secret", function()
    local PATH = "/10.0.0.1/9001/svc"

    local function header(secret, path)
      local name, value = proof.header(secret, path or PATH)
      return { headers = { [name] = value } }
    end

    it("lets in who proves to have it, each proof once", function()
      local registry = start { secret = { "new secret", "old secret" } }
      local shown = header("new secret")
      assert(connect(registry, PATH, shown))
      for _, opts in ipairs {
        {}, shown, header("wrong"), header("new secret", PATH .. "2"), { headers = { ["Znl-Proof"] = "x" } },
      } do
        local client, message = connect(registry, PATH, opts)
        assert.is_nil(client)
        assert.matches("401", message)
      end
      assert(connect(registry, PATH, header("old secret")))
      assert.equal(5, registry:status().refused_connections)
      assert.same({ svc = 1 }, registry:namespaces())
    end)

    it("is joined by applications that have it", function()
      local registry = start { secret = "the secret" }
      local function app(namespace, secret)
        local made = znl.application {
          namespace = namespace, host = "127.0.0.1", advertise_host = "127.0.0.1",
          registry = { host = "127.0.0.1", port = registry:port(), secret = secret },
        }
        open[#open + 1] = function() made:stop() end
        return made
      end
      local provider, consumer = app("provider", "the secret"), app("consumer", "the secret")
      provider:route("/add", function(req) return req.data[1] + req.data[2] end)
      assert(provider:start())
      assert(consumer:start())
      assert.equal(5, consumer:call("provider", "/add", { 2, 3 }))
      local ok, message = app("stranger", "another"):start()
      assert.is_nil(ok)
      assert.matches("401", message)
    end)
  end)

  it("speaks TLS, when it has a certificate", function()
    local certificate, key = certificates(files)
    local registry = start { tls = { certificate = certificate, key = key } }
    assert.matches("^wss://127%.0%.0%.1:", registry:endpoint())
    local client = assert(znl.client.connect {
      host = "127.0.0.1", port = registry:port(), path = "/10.0.0.1/1/svc",
      tls = { authorities = certificate },
    })
    assert.same({ host = "10.0.0.1", port = 1 }, client:request("/-/find", { namespace = "svc" }))
    client:close()
    assert.is_nil(connect(registry, "/10.0.0.1/1/svc"))
    local result = assert(znl.process.run {
      os.getenv("ZNLRUN") or "build/znlrun", "registry", "ls", "wss://127.0.0.1:" .. registry:port(), "--insecure",
    })
    assert.same({ 0, "" }, { result.code, result.stdout })
  end)

  it("lets in whom it allows", function()
    local outside = start { allow = { "10.0.0.0/8", "fd00::/8" } }
    local client, message = connect(outside, "/127.0.0.1/1/svc")
    assert.is_nil(client)
    assert.matches("403", message)
    assert(connect(start { allow = { "127.0.0.0/8" } }, "/10.0.0.1/1/svc"))

    local asked = {}
    local chosen = start { allow = function(host, port, namespace, remote)
      asked = { host, port, namespace, (remote:gsub(":%d+$", "")) }
      if namespace == "raises" then error("no") end
      return namespace == "good"
    end }
    assert(connect(chosen, "/h/7/good"))
    assert.same({ "h", 7, "good", "127.0.0.1" }, asked)
    assert.is_nil(connect(chosen, "/h/7/bad"))
    assert.is_nil(connect(chosen, "/h/7/raises"))
    assert.same({ good = 1 }, chosen:namespaces())

    local checked = start { check_host = true }
    assert(connect(checked, "/127.0.0.1/1/svc"))
    assert.is_nil(connect(checked, "/10.0.0.1/1/svc"))
    assert.is_nil(connect(checked, "/localhost/1/svc"))
    assert(connect(checked, "/x/1/tool", { headers = { ["Znl-Observer"] = "1" } }))
  end)

  it("forgets all when it stops, and serves again when it is started", function()
    local registry = start()
    local one = join(registry, "svc", 1)
    one:request("/-/declare", { topic = "t", payload = 1 })
    local listed = {}
    registry:on("disconnect", function() listed[#listed + 1] = registry:namespaces().svc or 0 end)
    registry:stop()
    registry:stop()
    eventually(function() return not one:is_open() end)
    assert.same({ 0 }, listed)
    assert(registry:start())
    local two = join(registry, "svc", 2)
    assert.same({ host = "10.0.0.1", port = 2 }, two:request("/-/find", { namespace = "svc" }))
    assert.same({ hasData = false }, two:request("/-/subscribe", { topic = "t" }))
  end)

  it("knows at once what it knew before, when it persists", function()
    local opts = { persist = files:at("state") }
    local first = start(opts)
    local p = join(first, "svc", 1)
    join(first, "svc", 2)
    assert.equal(1, p:request("/-/declare", { topic = "t", payload = { 1 } }))
    first:stop()
    local second = start(opts)
    local s = join(second, "s", 3)
    assert.same({ svc = 2, s = 1 }, second:namespaces())
    assert.same({ hasData = true, payload = { 1 } }, s:request("/-/subscribe", { topic = "t" }))
    local back = join(second, "svc", 1)
    assert.equal(1, back:request("/-/declare", { topic = "t", payload = { 1 }, revision = 1 }))
    assert.equal(1, back:request("/-/undeclare", { topic = "t" }))
    assert.is_false(second:topics()[1].has_data)
    files:write("state", "something else")
    local nothing, _, code = znl.registry { port = 0, config_dir = false, persist = files:at("state") }:start()
    assert.same({ nil, "INVALID" }, { nothing, code })
    nothing, _, code = znl.registry { port = 0, config_dir = false, persist = files:at("none/state") }:start()
    assert.same({ nil, "DENIED" }, { nothing, code })
  end)

  it("says what is wrong with its options", function()
    for _, case in ipairs {
      { { port = 0, allow = {} }, "option allow" },
      { { port = 0, allow = { "10.0.0.0/99" } }, "option allow has \"10.0.0.0/99\": it has 99 bits" },
      { { port = 0, allow = { 7 } }, "option allow has \"7\"" },
      { { port = 0, tls = { certificate = "/nope", key = "/nope" } }, "znl.registry: tls: /nope: No such file" },
      { { port = 0, secret = "" }, "option secret is \"\"" }, { { port = 0, secret = {} }, "option secret" },
      { { port = 0, env = { "A B" } }, "option env" }, { { port = 0, config_dir = true }, "option config_dir" },
      { { port = 0, namespace = "other" }, "option namespace" },
      { { port = 0, persists = "x" }, "did you mean persist" },
    } do
      assert.error_matches(function() znl.registry(case[1]) end, case[2])
    end
    if not os.getenv("REGISTRY_PORT") then
      assert.error_matches(function() znl.registry {} end, "option port is missing, and so is REGISTRY_PORT")
    end
  end)
end)
