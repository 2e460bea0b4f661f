-- znl.nats with a real server. Runs inside znlrun only. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("nats", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local nats_server = require("tests.lua.support.nats_server")
  local scope = require("znl.versions.scope")
  local uv = require("luv")
  local server
  local open = {}

  local function connect(opts)
    opts = opts or {}
    opts.servers = opts.servers or server.url
    opts.reconnect_max_ms = opts.reconnect_max_ms or 50
    local nats = assert(znl.nats.connect(opts))
    open[#open + 1] = nats
    return nats
  end

  local function code_of(...) return (select(3, ...)) end

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  setup(function() server = nats_server.start() end)
  teardown(function() server:remove() end)

  after_each(function()
    for _, nats in ipairs(open) do nats:close() end
    open = {}
  end)

  it("publishes to handlers, in order", function()
    local a, b = connect { name = "a" }, connect { echo = false }
    local got = {}
    a:subscribe("n.*", function(message) got[#got + 1] = message.subject .. message.data end)
    assert.is_true(a:flush())
    for i = 1, 100 do assert.is_true(b:publish("n." .. i % 2, tostring(i))) end
    eventually(function() return #got == 100 end)
    for i = 1, 100 do assert.equal("n." .. i % 2 .. i, got[i]) end
    assert.equal(100, a:counters().received)
    assert.equal(100, b:counters().sent)
    assert.equal(1048576, a:max_payload())
    assert.equal("127.0.0.1:" .. server.port, a:server())
  end)

  it("delivers own messages unless told not to", function()
    local a, b = connect(), connect { echo = false }
    local mine, others = a:subscribe("echo"), b:subscribe("echo")
    b:flush()
    a:publish("echo", "1")
    a:flush()
    b:publish("echo", "2")
    assert.equal("1", others:next(10000).data)
    assert.equal("1", mine:next(10000).data)
    assert.equal("2", mine:next(10000).data)
    b:flush()
    assert.equal(0, (others:pending()))
  end)

  it("asks and answers", function()
    local a, b = connect(), connect()
    b:subscribe("up", function(message)
      znl.sleep(1)
      assert.is_true(message:respond(message.data:upper(), { headers = { Seen = message:header("x") } }))
    end)
    b:flush()
    local answer = assert(a:request("up", "abc", { headers = { X = "one" } }))
    assert.equal("ABC", answer.data)
    assert.equal("one", answer:header("SEEN"))
    assert.same({ Seen = "one" }, answer:headers())
    local answers = {}
    for i = 1, 50 do
      znl.spawn(function()
        local one = assert(a:request("up", "x" .. i)).data
        answers[#answers + 1] = one
      end)
    end
    eventually(function() return #answers == 50 end)
    assert.equal("UNREACHABLE", code_of(a:request("nobody", "")))
    b:subscribe("mute", function() end)
    b:flush()
    assert.equal("TIMEOUT", code_of(a:request("mute", "", { timeout_ms = 20 })))
    local done
    local waiting = znl.spawn(function() done = code_of(a:request("mute", "")) end)
    assert.is_truthy(waiting:cancel())
    eventually(function() return done end)
    assert.equal("CANCELLED", done)
    assert.equal("DEADLINE", code_of(znl.with_timeout(30, function() return a:request("mute", "") end)))
  end)

  it("ends waits with CLOSED", function()
    local a = connect()
    local sub = a:subscribe("x")
    a:subscribe("mute", function() end)
    local codes = {}
    znl.spawn(function() codes[1] = code_of(sub:next()) end)
    znl.spawn(function() codes[2] = code_of(a:request("mute", "")) end)
    a:close()
    eventually(function() return codes[1] and codes[2] end)
    assert.same({ "CLOSED", "CLOSED" }, codes)
    assert.equal("closed", a:state())
    assert.equal("CLOSED", code_of(a:publish("x", "")))
    assert.equal("CLOSED", code_of(a:request("x", "")))
    assert.equal("CLOSED", code_of(a:flush()))
    assert.equal("CLOSED", code_of(a:new_inbox()))
    assert.equal("CLOSED", code_of(a:subscribe("x")))
    assert.equal("CLOSED", code_of(sub:next()))
    a:close()
  end)

  -- Servers take any reply subject from anybody.
  it("does not fail over what it cannot answer", function()
    local a = connect()
    local sub = a:subscribe("ask")
    a:flush(20000)
    local conn = assert(znl.tcp.connect { host = "127.0.0.1", port = server.port })
    conn:write('CONNECT {"verbose":false}\r\nPUB ask a.> 1\r\n1\r\nPUB ask .. 1\r\n2\r\nPUB ask \0 1\r\n3\r\n'
      .. "PUB ask ok 1\r\n4\r\nPUB ask\0x 1\r\n5\r\nPUB ask 1\r\n6\r\n")
    local seen = {}
    for i = 1, 4 do
      local message = assert(sub:next(20000))
      local ok, _, code = message:respond("x")
      seen[i] = message.data .. (ok and " sent" or " " .. code)
    end
    assert.same({ "1 INVALID", "2 INVALID", "4 sent", "6 INVALID" }, seen)
    conn:close()
    assert.equal(0, a:counters().reconnects)
  end)

  it("shares messages among a group", function()
    local a, b = connect(), connect()
    local counts = { 0, 0 }
    a:subscribe("work", function() counts[1] = counts[1] + 1 end, { queue = "g" })
    b:subscribe("work", function() counts[2] = counts[2] + 1 end, { queue = "g" })
    a:flush()
    b:flush()
    for _ = 1, 200 do a:publish("work", "") end
    eventually(function() return counts[1] + counts[2] == 200 end)
    a:flush()
    b:flush()
    assert.equal(200, counts[1] + counts[2])
    assert.is_true(counts[1] > 0 and counts[2] > 0)
  end)

  it("takes messages one by one", function()
    local a = connect()
    local sub = a:subscribe("m.>")
    a:publish("m.1", "one", { reply = "r", headers = { A = "1", B = { "2", "3" } } })
    a:publish("m.2.x", "two")
    local message = sub:next(10000)
    assert.equal("m.1", message.subject)
    assert.equal("r", message.reply)
    assert.same({ A = "1", B = { "2", "3" } }, message:headers())
    assert.equal("m.2.x", sub:next(10000).subject)
    assert.equal("TIMEOUT", code_of(sub:next(5)))
    assert.equal("TIMEOUT", code_of(sub:next(0)))
    local seen = {}
    znl.spawn(function() for one in sub:messages() do seen[#seen + 1] = one.data end end)
    assert.equal("BUSY", code_of(sub:next(5)))
    for i = 1, 3 do a:publish("m.3", tostring(i)) end
    eventually(function() return #seen == 3 end)
    assert.same({ "1", "2", "3" }, seen)
    sub:unsubscribe()
    sub:unsubscribe()
    a:publish("m.3", "late")
    a:flush()
    assert.equal(3, #seen)
    assert.is_truthy(failure(sub.next, a:subscribe("x", function() end)):find("have a handler", 1, true))
  end)

  it("runs so many handlers at once, and no more", function()
    local a = connect()
    local at_work, most, done = 0, 0, 0
    local sub = a:subscribe("slow", function()
      at_work = at_work + 1
      most = math.max(most, at_work)
      znl.sleep(1)
      at_work = at_work - 1
      done = done + 1
    end, { max_concurrency = 3 })
    for _ = 1, 50 do a:publish("slow", "") end
    eventually(function() return done == 50 end)
    assert.equal(3, most)
    assert.same({ 0, 0, 0 }, { sub:pending() })
  end)

  it("drops what a subscription cannot hold, and says so once", function()
    local a = connect()
    local errors, got = {}, 0
    a:on("error", function(message, code, subject) errors[#errors + 1] = { message, code, subject } end)
    local gate = znl.event()
    a:subscribe("full", function()
      gate:wait()
      got = got + 1
    end, { max_concurrency = 1, max_messages = 5 })
    for _ = 1, 20 do a:publish("full", "") end
    a:flush()
    assert.equal(14, a:counters().dropped)
    eventually(function() return #errors == 1 end)
    assert.equal("BUSY", errors[1][2])
    assert.equal("full", errors[1][3])
    gate:set()
    eventually(function() return got == 6 end)
    assert.equal(1, #errors)
  end)

  it("pauses and goes on", function()
    local a = connect()
    local got = {}
    local sub = a:subscribe("p", function(message) got[#got + 1] = message.data end)
    sub:pause(true)
    for i = 1, 5 do a:publish("p", tostring(i)) end
    a:flush()
    assert.same({}, got)
    assert.equal(5, (sub:pending()))
    sub:pause(false)
    eventually(function() return #got == 5 end)
    assert.same({ "1", "2", "3", "4", "5" }, got)
  end)

  it("drains: takes no more, waits for handlers", function()
    local a, b = connect(), connect()
    local done = 0
    local gate = znl.event()
    local sub = a:subscribe("d", function()
      gate:wait()
      done = done + 1
    end, { max_concurrency = 2 })
    a:flush()
    for _ = 1, 10 do b:publish("d", "") end
    b:flush()
    a:flush()
    assert.equal("TIMEOUT", code_of(sub:drain(30)))
    assert.equal(0, done)

    local other = a:subscribe("e", function()
      gate:wait()
      done = done + 1
    end, { max_concurrency = 2 })
    a:flush()
    for _ = 1, 10 do b:publish("e", "") end
    b:flush()
    a:flush()
    local result
    znl.spawn(function() result = { other:drain(20000) } end)
    gate:set()
    eventually(function() return result end)
    assert.same({ true }, result)
    assert.equal(12, done) -- two of the subscription that was cut had begun
    assert.is_true(a:drain(20000))
    assert.equal("closed", a:state())
  end)

  it("goes on after a handler failed", function()
    local a = connect()
    local got = 0
    a:subscribe("f", function(message)
      got = got + 1
      if message.data == "1" then error("on purpose") end
    end)
    a:publish("f", "1")
    a:publish("f", "2")
    eventually(function() return got == 2 end)
  end)

  it("lets go of a subscription that nobody holds", function()
    local a = connect()
    local sub = a:subscribe("gone")
    a:publish("gone", "")
    assert.is_truthy(sub:next(10000))
    sub = nil
    collectgarbage()
    collectgarbage()
    local before = a:counters().received
    a:flush()
    a:publish("gone", "")
    a:flush()
    assert.equal(before, a:counters().received)
    assert.is_nil(sub)
  end)

  it("carries any bytes, up to max_payload", function()
    local a = connect()
    local sub = a:subscribe("big")
    local all = {}
    for byte = 0, 255 do all[#all + 1] = string.char(byte) end
    local data = table.concat(all):rep(4096)
    assert.equal(1048576, #data)
    for _ = 1, 3 do
      assert.is_true(a:publish("big", data))
      assert.is_true(a:publish("big", ""))
      assert.is_true(sub:next(10000).data == data)
      assert.equal("", sub:next(10000).data)
    end
    assert.equal("TOO_BIG", code_of(a:publish("big", data .. "x")))
    assert.equal("TOO_BIG", code_of(a:publish("big", data, { headers = { A = "1" } })))
    assert.equal("TOO_BIG", code_of(a:request("big", data .. "x")))
    assert.equal(3, a:counters().refused)
  end)

  it("refuses to keep more than the outbox", function()
    local a = connect { max_outbox_bytes = 65536 }
    local data, code = ("x"):rep(20000), nil
    for _ = 1, 10000 do
      code = code_of(a:publish("out", data))
      if code then break end
    end
    assert.equal("BUSY", code)
    assert.is_true(a:flush(20000))
    assert.is_true(a:publish("out", data))
  end)

  it("blames the caller for misuse", function()
    local a = connect()
    local function blames(fn, text)
      local message = failure(fn)
      assert.is_truthy(message:find("nats_spec.lua:", 1, true), message)
      assert.is_truthy(message:find(text, 1, true), message)
    end
    blames(function() a:publish("a b", "") end, "no subject")
    blames(function() a:publish("*", "") end, "no subject")
    blames(function() a:publish("a\0b", "") end, "no subject")
    blames(function() a:publish("a", "", { reply = "a\0b" }) end, "no subject")
    blames(function() a:request("a\0b", "") end, "no subject")
    blames(function() a:subscribe("a\0b") end, "no subject")
    blames(function() a:subscribe("a", nil, { queue = "a\0b" }) end, "no subject")
    blames(function() a:publish("a", 5) end, "data must be a text")
    blames(function() a:publish(5, "a") end, "subject must be a text")
    blames(function() a:publish("a", "", { rely = "x" }) end, "no option rely")
    blames(function() a:publish("a", "", { reply = "x y" }) end, "no subject")
    blames(function() a:publish("a", "", { headers = { ["a b"] = "1" } }) end, "no name of a header")
    blames(function() a:publish("a", "", { headers = { a = "1\r\nb: 2" } }) end, "one line")
    blames(function() a:publish("a", "", { headers = { a = 1 } }) end, "one line")
    blames(function() a:request("a..b", "") end, "no subject")
    blames(function() a:request("a", "", { timeout_ms = 0 }) end, "timeout_ms")
    blames(function() a:subscribe("a.>.b") end, "no subject")
    blames(function() a:subscribe("a.>.b", function() end) end, "no subject")
    blames(function() a:subscribe("a", 5) end, "handler must be a function")
    blames(function() a:subscribe("a", nil, { que = "x" }) end, "que")
    blames(function() a:on("nothing", print) end, "no event")
    blames(function() znl.nats.connect { servers = "http://x" } end, "not an address")
    blames(function() znl.nats.connect { servers = { "a", "b:x" } } end, 'servers: number 2, "b:x": not an address')
    blames(function() znl.nats.connect { servers = "x", inbox_prefix = "a.>" } end, "inbox_prefix must be words")
    local secret_one = failure(znl.nats.connect, { servers = "nats://ada:hidden@host:x" })
    assert.is_nil(secret_one:find("hidden", 1, true))
    blames(function() znl.nats.connect { servers = {} } end, "servers")
    blames(function() znl.nats.connect { servers = "x", user = "u", token = "t" } end, "exclude each other")
    blames(function() znl.nats.connect { servers = "x", password = "t" } end, "needs a user")
    blames(function() znl.nats.connect { servers = "x", tls = { ca = "/nowhere.pem" } } end, "nowhere")
    blames(function() znl.nats.connect { servers = "x", tls = { certs = "x" } } end, "certs")
  end)

  it("ends what a version of code subscribed to with the version", function()
    local a = connect()
    local got = {}
    local function version(name)
      local one = assert(scope.new { name = name })
      local ready = znl.event()
      local sched = require("znl.core.sched")
      sched.spawn_background(one.owner, function()
        a:subscribe("v", function(message) got[#got + 1] = name .. message.data end)
        ready:set()
      end)
      ready:wait()
      return one
    end
    local first = version("a")
    a:publish("v", "0")
    a:flush()
    assert.same({}, got)
    assert.is_true(first:commit())
    a:publish("v", "1")
    eventually(function() return #got == 1 end)
    local second = version("b")
    assert.is_true(second:commit())
    first:finish()
    a:publish("v", "2")
    eventually(function() return #got == 2 end)
    a:flush()
    assert.same({ "a1", "b2" }, got)
    second:finish()
    a:publish("v", "3")
    a:flush()
    assert.equal(2, #got)
  end)

  it("drains when the process is told to end", function()
    local folder = require("tests.lua.support.folder").new()
    local a = connect()
    folder:write("child.lua", ([[
      local znl = require("znl")
      local nats = assert(znl.nats.connect(%q))
      nats:subscribe("child", function(message)
        znl.sleep(50)
        message:respond("late")
      end)
      nats:flush()
      nats:publish("child.ready", "")
    ]]):format(server.url))
    local ready = a:subscribe("child.ready")
    a:flush()
    local ended = znl.event()
    local child = assert(uv.spawn(os.getenv("ZNLRUN"), { args = { "--log-level", "off", folder:at("child.lua") } },
      function(code) ended:set(code) end))
    assert(ready:next(20000))
    local answer
    znl.spawn(function() answer = a:request("child", "") or false end)
    a:flush()
    child:kill("sigterm")
    local code = ended:wait(30000)
    child:close()
    folder:remove()
    eventually(function() return answer ~= nil end)
    assert.equal(0, code)
    assert.equal("late", answer.data)
  end)

  describe("in a process that is told to end", function()
    local children = {}

    after_each(function()
      for _, child in ipairs(children) do
        if child.code == nil then child.process:kill("sigkill") end
      end
      children = {}
    end)

    --- A script in a process of its own; `text` is what it has printed.
    local function run(script)
      local child = { text = "" }
      local out = uv.new_pipe()
      child.process = assert(uv.spawn(uv.exepath(), {
        args = { "--log-level", "off", "--drain-ms", "60000", "-e", script }, stdio = { nil, out, 2 },
      }, function(code)
        child.code = code
        child.process:close()
      end))
      out:read_start(function(_, piece)
        if piece then child.text = child.text .. piece else out:close() end
      end)
      children[#children + 1] = child
      return child
    end

    local function await(child, text)
      eventually(function() return child.text:find(text, 1, true) end, text)
    end

    it("ends what is at work, and closes", function()
      local child = run(([[
        local znl = require("znl")
        local nats = assert(znl.nats.connect("%s"))
        nats:subscribe("slow", function(message)
          print("at work") io.flush()
          assert(nats:request("gate", "", { timeout_ms = 20000 }))
          message:respond("done")
        end)
        nats:flush()
        znl.on_stop(function() print("told") io.flush() end)
        print("up") io.flush()
        for _ in nats:subscribe("never"):messages() do end
        print("the loop has ended")
      ]]):format(server.url))
      await(child, "up")
      local a = connect()
      local is_open = znl.event()
      a:subscribe("gate", function(message)
        is_open:wait()
        message:respond("")
      end)
      a:flush()
      local asked = znl.spawn(function() return a:request("slow", "", { timeout_ms = 20000 }) end)
      await(child, "at work")
      child.process:kill("sigterm")
      await(child, "told")
      is_open:set()
      assert.equal("done", asked:wait().data)
      await(child, "the loop has ended")
      eventually(function() return child.code end)
      assert.equal(0, child.code)
    end)

    it("stops connecting", function()
      local child = run([[
        local znl = require("znl")
        znl.spawn(function() print("connecting") io.flush() end)
        print(select(2, znl.nats.connect { servers = "127.0.0.1:1", wait_ms = 600000 }))
      ]])
      await(child, "connecting")
      child.process:kill("sigterm")
      await(child, "it was closed meanwhile")
      eventually(function() return child.code end)
      assert.equal(0, child.code)
    end)
  end)

  it("is what roles take as a bus", function()
    local bus = require("znl.bus")
    local a = connect()
    local nats, is_own = bus.open(a, "role")
    assert.equal(a, nats)
    assert.is_false(is_own)
    nats, is_own = bus.open(server.url, "role")
    assert.is_true(is_own)
    eventually(function() return nats:is_connected() end)
    nats:close()
    nats = bus.open({ servers = server.url, name = "n" }, "role")
    nats:close()
    local message = failure(function() bus.open(5, "role") end)
    assert.is_truthy(message:find("nats_spec.lua:", 1, true), message)
    message = failure(function() bus.open({ servers = "http://x" }, "role") end)
    assert.is_truthy(message:find("nats_spec.lua:", 1, true), message)
    message = failure(function() bus.open({ servers = "x", nme = 1 }, "role") end)
    assert.is_truthy(message:find("nats_spec.lua:.*role: bus: .*nme"), message)
  end)
end)
