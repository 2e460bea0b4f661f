-- SPDX-License-Identifier: MIT
local fake_core = require("support.fake_core")

describe("roles", function()
  local fake, znl

  before_each(function()
    fake = fake_core.new()
    znl = fake:require("znl")
  end)

  local function refused(make, opts)
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() make(opts); return 1 end)
    assert.is_false(ok)
    assert.matches("roles_spec.lua:" .. line .. ": ", message, 1, true)
    return message
  end

  it("gives the core every default", function()
    znl.master { id = "m" }
    local config = fake.nodes[1].config
    assert.equal("tcp://127.0.0.1:6003", config.endpoint)
    assert.equal(false, config.encrypted)
    assert.equal(3000, config.heartbeat_ms)
    assert.equal(1000, config.max_pending)
    assert.equal(120000, config.replay_window_ms)
    assert.equal(10000, config.max_peers)
    assert.is_function(config.on_event)
  end)

  it("refuses options that are wrong alone or together", function()
    assert.matches("znl.master: option id is missing", refused(znl.master, {}))
    assert.matches("begins with no zero byte", refused(znl.slave, { id = "\0x" }))
    assert.matches("an endpoint such as", refused(znl.slave, { id = "s", endpoint = "127.0.0.1:1" }))
    assert.matches("did you mean auth_key", refused(znl.slave, { id = "s", auth_keys = {} }))
    assert.matches("auth_keys is a table; it must be a table of slave id",
      refused(znl.master, { id = "m", auth_keys = { s = "" } }))
    assert.matches("so say encrypted = true", refused(znl.slave, { id = "s", auth_key = "k" }))
    assert.matches("needs a key: auth_key or auth_keys", refused(znl.master, { id = "m", encrypted = true }))
    assert.matches("at least 2 %* max_skew_ms, 60000", refused(znl.master, { id = "m", replay_window_ms = 20000 }))
    assert.matches("the variable is not set",
      refused(znl.slave, { id = "s", encrypted = true, auth_key = znl.secret("env:ZNL_NOT_SET") }))
    assert.equal(0, #fake.nodes)
  end)

  it("resolves secrets before the core sees them", function()
    local master = znl.master {
      id = "m", encrypted = true, auth_key = znl.secret("env:PATH"), auth_keys = { s = znl.secret("env:HOME") },
    }
    assert.equal(os.getenv("PATH"), fake.nodes[1].config.auth_key)
    assert.same({ s = os.getenv("HOME") }, fake.nodes[1].config.auth_keys)
    master:add_auth_key("t", znl.secret("env:HOME"))
    assert.equal(os.getenv("HOME"), fake.nodes[1].keys.t)
    assert.error_matches(function() master:add_auth_key("t", "") end, "key must be a text")
    znl.master { id = "n", encrypted = true, auth_keys = {} }
  end)

  it("listens to the core only while somebody listens", function()
    local slave = znl.slave { id = "s" }
    local native = fake.nodes[1]
    local off = slave:on("request", print)
    slave:on("publish", print)
    assert.same({ request = true }, native.listening)
    off()
    assert.same({}, native.listening)
    assert.error_matches(function() slave:on("push", print) end, "there is no event")
  end)

  it("passes requests on with a timeout", function()
    local master = znl.master { id = "m" }
    local native = fake.nodes[1]
    assert.equal("answer", master:request("s", "x"))
    master:request("s", "x", { timeout_ms = 7 })
    master:service_request("s", "fs", "x", {})
    assert.equal(5000, native.calls[1][3])
    assert.equal(7, native.calls[2][3])
    assert.equal(5000, native.calls[3][4])
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() master:request("s", "x", { timeout = 7 }) return 1 end)
    assert.is_false(ok)
    assert.matches("roles_spec.lua:" .. line .. ': request: unknown option "timeout"; did you mean timeout_ms?',
      message, 1, true)
    for _, bad in ipairs { { timeout_ms = 0 }, { timeout_ms = 1.5 }, { timeout_ms = "7" }, { timeout_ms = false }, 7,
      { timeout_ms = 7, more = 1 } } do
      assert.is_false(pcall(master.request, master, "s", "x", bad))
    end
  end)

  it("starts, stops with the process, restarts", function()
    local slave = znl.slave { id = "s" }
    local native = fake.nodes[1]
    assert.is_true(slave:start())
    assert.is_true(slave:start())
    fake:signal()
    assert.is_false(native.on)
    assert.is_nil(next(fake.stops))
    assert.is_true(slave:restart())
    slave:stop()
    slave:stop()
    assert.is_nil(next(fake.stops))
    fake.start_fails = true
    local ok, message, code = slave:start()
    assert.is_nil(ok)
    assert.is_string(message)
    assert.equal("ADDRESS_IN_USE", code)
    assert.is_nil(next(fake.stops))
  end)

  it("delivers a publish to listeners and to the exact topic, also after a restart", function()
    fake:run(function()
      local slave = znl.slave { id = "s" }
      local native, heard = fake.nodes[1], {}
      slave:on("publish", function(topic, payload) heard[#heard + 1] = "event " .. topic .. payload end)
      slave:subscribe("t", function() heard[#heard + 1] = "replaced" end)
      slave:subscribe("t", function(payload, topic) heard[#heard + 1] = "topic " .. topic .. payload end)
      slave:restart()
      native.raise("publish", "t", "1")
      native.raise("publish", "tt", "2")
      slave:unsubscribe("t")
      native.raise("publish", "t", "3")
      assert.same({ "event t1", "topic t1", "event tt2", "event t3" }, heard)
    end)
  end)

  it("reports a failing subscription and a failing handler", function()
    fake:run(function()
      local slave = znl.slave { id = "s" }
      local heard = {}
      slave:on("error", function(message, place) heard[#heard + 1] = place .. ": " .. message end)
      slave:subscribe("t", function() error("bad") end)
      fake.nodes[1].raise("publish", "t", "1")
      fake.nodes[1].raise("error", "echo.lua:3: worse\ntraceback", "handler")
      assert.matches("subscription: .*roles_spec.lua:%d+: bad", heard[1])
      assert.equal("handler: echo.lua:3: worse\ntraceback", heard[2])
      assert.equal("echo.lua:3: worse\ntraceback", fake:logged("handler failed")[1].fields.error)
      assert.equal(1, #fake:logged("subscription failed"))
      local ours = "\nstack traceback:\n  [C]: in function 'error'\n  znl/roles/node.lua:201: in function <x>"
      fake.nodes[1].raise("error", "echo.lua:3: returned a thing" .. ours, "handler", "slave-7")
      fake.nodes[1].raise("error", "znl/roles/node.lua:201: broken" .. ours, "handler", "")
      fake.nodes[1].raise("error", "echo.lua:3: bad" .. ours .. "\n  echo.lua:3: in main chunk", "handler", "")
      local logged = fake:logged("handler failed")
      assert.same({ from = "slave-7", error = "echo.lua:3: returned a thing" }, logged[2].fields)
      assert.same({ error = "znl/roles/node.lua:201: broken" .. ours }, logged[3].fields)
      assert.matches("in main chunk", logged[4].fields.error)
    end)
  end)

  it("follows handlers through their versions, until another handler is set", function()
    local path = os.tmpname()
    local function write(text)
      local file = assert(io.open(path, "wb"))
      file:write(text)
      file:close()
    end
    write("return function() return 'one' end")
    fake:run(function()
      local of = znl.handlers(path)
      local master, slave = znl.master { id = "m" }, znl.slave { id = "s" }
      local native, native_slave = fake.nodes[1], fake.nodes[2]
      master:handle(of)
      slave:service(" greet ", of)
      assert.is_nil(native.handler) -- a stopped node serves nothing
      master:start()
      slave:start()
      assert.equal("one", native.handler({}))
      assert.equal("one", native_slave.services.greet({}))
      assert.is_table(native.owner)
      write("return function() return 'two' end")
      of:reload()
      assert.equal("two", native.handler({}))
      assert.equal("two", native_slave.services.greet({}))
      master:handle(function() return "mine" end)
      slave:service("greet", nil)
      of:reload()
      assert.equal("mine", native.handler({}))
      assert.is_nil(native.owner)
      assert.is_nil(native_slave.services.greet)
      master:handle(nil)
      assert.is_nil(native.handler)
      assert.error_matches(function() master:handle("echo.lua") end, "znl.handlers%(path%)")
      of:close()
    end)
    os.remove(path)
  end)

  it("says why messages are refused, once per peer, reason and ten seconds", function()
    fake:run(function()
      local master = znl.master { id = "m" } -- held: nodes that nobody holds are collected
      local native = fake.nodes[1]
      local function refuse(from, reason)
        native.raise("auth_failed", { reason = reason, text = "words", from = from, kind = "request" })
      end
      for _ = 1, 50 do refuse("s1", "bad_signature") end
      refuse("s2", "bad_signature")
      refuse("s1", "missing_proof")
      refuse(nil, "another")
      local lines = fake:logged("message refused")
      assert.equal(4, #lines)
      assert.equal("warn", lines[1].level)
      assert.matches("the keys differ", lines[1].fields.cause)
      assert.matches("set encrypted = true on both", lines[3].fields.cause)
      assert.equal("words", lines[4].fields.cause)
      fake.modules["znl.core.sched"].sleep(10000)
      refuse("s1", "bad_signature")
      lines = fake:logged("message refused")
      assert.equal(5, #lines)
      assert.equal(49, lines[5].fields.more)
      assert.truthy(master)
    end)
  end)

  it("bounds what refused peers make it remember", function()
    local refusals = fake:require("znl.roles.refusals")
    local now, lines = 0, 0
    local report = refusals.new("master", { warn = function() lines = lines + 1 end }, function() return now end)
    for i = 1, 5000 do report:report({ reason = "no_key_for_peer", text = "", from = tostring(i) }) end
    assert.equal(1001, lines)
    assert.equal(1001, report.count)
    now = 20000
    report:report({ reason = "no_key_for_peer", text = "", from = "late" })
    assert.equal(1, report.count)
  end)
end)
