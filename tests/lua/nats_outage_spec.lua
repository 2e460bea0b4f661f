-- Servers of NATS that go away, and such as are none. Runs inside znlrun only. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("nats outage", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local log_lines = require("tests.lua.support.log_lines")
  local nats_server = require("tests.lua.support.nats_server")
  local things = {}

  local function keep(thing)
    things[#things + 1] = thing
    return thing
  end

  after_each(function()
    for _, thing in ipairs(things) do (thing.remove or thing.close)(thing) end
    things = {}
  end)

  local function connect(opts)
    opts.reconnect_min_ms, opts.reconnect_max_ms = 5, 20
    return keep(assert(znl.nats.connect(opts)))
  end

  local function code_of(...) return (select(3, ...)) end

  it("comes back, with its subscriptions", function()
    local server = keep(nats_server.start())
    local nats = connect { servers = server.url }
    local events, got = {}, {}
    nats:on("disconnected", function(_, code) events[#events + 1] = code end)
    nats:on("connected", function() events[#events + 1] = "connected" end)
    nats:subscribe("s", function(message) got[#got + 1] = message.data end)
    nats:subscribe("mute", function() end)
    for round = 1, 2 do
      local codes = {}
      znl.spawn(function() codes[1] = code_of(nats:request("mute", "")) end)
      nats:flush()
      server:kill()
      eventually(function() return not nats:is_connected() end)
      assert.equal("reconnecting", nats:state())
      eventually(function() return codes[1] end)
      assert.equal("OFFLINE", codes[1])
      assert.equal("OFFLINE", code_of(nats:publish("s", "lost")))
      assert.equal("OFFLINE", code_of(nats:request("s", "lost")))
      assert.equal("OFFLINE", code_of(nats:flush()))
      assert.equal("", nats:server())
      server:restart()
      eventually(function() return nats:is_connected() end)
      assert.is_true(nats:publish("s", tostring(round)))
      eventually(function() return #got == round end)
    end
    assert.same({ "1", "2" }, got)
    assert.same({ "GONE", "connected", "GONE", "connected" }, events)
    assert.equal(2, nats:counters().reconnects)
  end)

  it("goes to another server", function()
    local a, b = keep(nats_server.start()), keep(nats_server.start())
    local nats = connect { servers = { a.url, b.url, "nats://127.0.0.1:1" } }
    local first = nats:server() == "127.0.0.1:" .. a.port and a or b
    first:kill()
    local other = first == a and b or a
    eventually(function() return nats:server() == "127.0.0.1:" .. other.port end)
  end)

  it("learns of the other servers of a cluster", function()
    local a = keep(nats_server.start())
    local b = keep(nats_server.start())
    local ra, rb = keep(nats_server.start()), keep(nats_server.start()) -- two ports that were free
    local pa, pb = ra.port, rb.port
    ra:kill()
    rb:kill()
    a:restart(('cluster { name: c, listen: "127.0.0.1:%d", routes: [ "nats://127.0.0.1:%d" ] }'):format(pa, pb))
    b:restart(('cluster { name: c, listen: "127.0.0.1:%d", routes: [ "nats://127.0.0.1:%d" ] }'):format(pb, pa))
    local x, y = connect { servers = a.url }, connect { servers = b.url }
    -- The servers know each other when a message goes through.
    local sub = x:subscribe("through")
    eventually(function()
      y:publish("through", "")
      return (sub:pending()) > 0
    end)
    a:kill()
    eventually(function() return x:server() == "127.0.0.1:" .. b.port end)
  end)

  it("notices a server that has stopped answering", function()
    local server = keep(nats_server.start())
    local nats = connect { servers = server.url, ping_ms = 20, connect_timeout_ms = 100 }
    local reason
    nats:on("disconnected", function(message, code) reason = reason or { message, code } end)
    server:signal("sigstop")
    eventually(function() return reason end)
    assert.equal("TIMEOUT", reason[2])
    assert.is_truthy(reason[1]:find("pings", 1, true), reason[1])
    server:signal("sigcont")
    eventually(function() return nats:is_connected() end)
  end)

  it("says what is wrong when it cannot connect", function()
    local nats, message, code = znl.nats.connect { servers = "127.0.0.1:1", wait_ms = 1000 }
    assert.is_nil(nats)
    assert.equal("UNREACHABLE", code)
    assert.is_truthy(message:find("refused", 1, true), message)
    nats = keep(assert(znl.nats.connect { servers = "127.0.0.1:1", wait_ms = 0 }))
    assert.equal("connecting", nats:state())
    local failed
    nats:on("error", function(_, its_code) failed = its_code end)
    eventually(function() return failed end)
    assert.equal("UNREACHABLE", failed)
  end)

  it("logs each reason of each server once", function()
    log_lines.during(function(lines)
      local nats = connect { servers = { "127.0.0.1:1", "127.0.0.1:2" }, wait_ms = 0 }
      local failures = 0
      nats:on("error", function() failures = failures + 1 end)
      eventually(function() return failures >= 10 end)
      local count = 0
      for _, line in ipairs(lines) do
        if line.area == "nats" then count = count + 1 end
      end
      assert.equal(2, count)
    end)
  end)

  -- --- servers that are none ---------------------------------------------------------------------

  local INFO = 'INFO {"server_id":"X","max_payload":1048576,"headers":true}\r\n'

  --- A server that calls fn(conn, number of the connection).
  local function fake(fn)
    local count = 0
    local listener = keep(assert(znl.tcp.listen({ port = 0 }, function(conn)
      count = count + 1
      fn(conn, count)
    end)))
    return ("nats://127.0.0.1:%d"):format(listener.port)
  end

  local function log_in(conn)
    conn:write(INFO)
    assert(conn:read("line"):find("^CONNECT "))
    assert.equal("PING", conn:read("line"))
    conn:write("PONG\r\n")
  end

  --- What the first attempt fails with when a server sends `bytes` and stays.
  local function first_failure(bytes, more)
    local url = fake(function(conn)
      conn:write(bytes)
      while conn:read(1000) do end
    end)
    local opts = more or {}
    opts.servers, opts.wait_ms, opts.reconnect_min_ms = url, 0, 10000
    opts.connect_timeout_ms, opts.reconnect_max_ms = opts.connect_timeout_ms or 20000, 10000
    local nats = keep(assert(znl.nats.connect(opts)))
    local failed
    local function listen(message, code) failed = failed or { code, message } end
    nats:on("error", listen)
    nats:on("disconnected", listen)
    eventually(function() return failed end)
    nats:close()
    return failed[1], failed[2]
  end

  it("refuses what is no NATS server", function()
    for _, bytes in ipairs {
      "HTTP/1.1 400 Bad Request\r\n\r\n", "PING\r\n", "INFO\r\n", "INFO {}\r\n", "INFO {\"max_payload\":\r\n",
      "MSG a 1 0\r\n\r\n", "PONG\r\n", "\0\0\0\0\r\n", "INFO []\r\n", 'INFO {"max_payload":"x"}\r\n',
      INFO .. "WHAT\r\n", INFO .. "PONG\r\nMSG a 1 -1\r\n", "INFO " .. ("["):rep(60000) .. "\r\n",
    } do
      local code, message = first_failure(bytes)
      assert.equal("PROTO", code, bytes .. ": " .. message)
    end
    assert.equal("TOO_BIG", (first_failure(("x"):rep(70000))))
    assert.equal("TOO_BIG", (first_failure("INFO {" .. (" "):rep(70000))))
    assert.equal("REFUSED", (first_failure(INFO .. "-ERR 'Authorization Violation'\r\nx\r\n")))
    local code, message = first_failure('INFO {"max_payload":1,"tls_required":true}\r\nPING\r\n')
    assert.equal("PROTO", code, message)
  end)

  it("waits for no server longer than it may take", function()
    for _, bytes in ipairs {
      "", "INF", "INFO {", INFO, INFO .. "PON", 'INFO {"max_payload":1,"tls_required":true}\r\n',
    } do
      local tls = { insecure = true }
      if bytes == INFO or bytes == INFO .. "PON" then
        local code, message = first_failure(bytes, { tls = tls })
        assert.equal("REFUSED", code, message) -- it has no TLS
        tls = nil
      end
      local code, message = first_failure(bytes, { connect_timeout_ms = 30, tls = tls })
      assert.equal("TIMEOUT", code, message)
    end
  end)

  it("survives any cut of what a server sends", function()
    local all = "MSG a %s 5\r\nhello\r\nHMSG a %s r 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n+OK\r\nPING\r\n"
    local stream, sent = all, 0
    local url = fake(function(conn, count)
      log_in(conn)
      local sid = conn:read("line"):match("^SUB a (%d+)$")
      stream = all:format(sid, sid)
      sent = math.min(count, #stream)
      for i = 1, sent do
        conn:write(stream:sub(i, i))
        if i % 8 == 0 then znl.sleep(0) end
      end
      conn:close()
    end)
    local nats = connect { servers = url }
    local got = {}
    nats:subscribe("a", function(message) got[message.data] = (got[message.data] or 0) + 1 end)
    eventually(function() return sent == #stream and got.hi and got.hi >= 3 end)
    assert.is_true(got.hello > got.hi)
  end)

  it("ends a connection that sends what is too big, and comes back", function()
    local url = fake(function(conn, count)
      log_in(conn)
      if count == 1 then conn:write("MSG a 1 99999999\r\n") end
      while conn:read(1000) do end
    end)
    local nats = connect { servers = url, wait_ms = 20000 }
    eventually(function() return nats:counters().reconnects == 1 end)
  end)

  it("reports errors of the server, and their end of the connection", function()
    local url = fake(function(conn, count)
      log_in(conn)
      if count == 1 then
        conn:write("-ERR 'Slow Consumer'\r\n")
        conn:close()
      end
      while conn:read(1000) do end
    end)
    local nats = connect { servers = url }
    local reason
    nats:on("disconnected", function(message, code) reason = { message, code } end)
    eventually(function() return nats:counters().reconnects == 1 end)
    if reason then -- it may have been before there was a listener
      assert.equal("BUSY", reason[2])
      assert.is_truthy(reason[1]:find("Slow Consumer", 1, true), reason[1])
    end
  end)

  it("ignores messages that nobody asked for", function()
    local url = fake(function(conn)
      log_in(conn)
      conn:write("MSG a 999 1\r\nx\r\nPONG\r\nPONG\r\nMSG b 0 1\r\nx\r\n")
      while true do
        local line = conn:read("line")
        if not line then return end
        if line == "PING" then conn:write("PONG\r\n") end
      end
    end)
    local nats = connect { servers = url }
    assert.is_true(nats:flush(20000))
    eventually(function() return nats:counters().received == 2 end)
    assert.equal(0, nats:counters().reconnects)
  end)

  it("answers pings while it is flooded", function()
    local pongs = 0
    local url = fake(function(conn)
      log_in(conn)
      znl.spawn(function()
        for _ = 1, 200 do conn:write(("PING\r\n"):rep(100)) end
      end)
      while true do
        local line = conn:read("line")
        if not line then return end
        if line == "PONG" then pongs = pongs + 1 end
      end
    end)
    connect { servers = url }
    eventually(function() return pongs == 20000 end)
  end)
end)
