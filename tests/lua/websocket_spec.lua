-- WebSocket connections between scripts, and with peers that are none. Runs inside znlrun only.
-- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")

describe("websocket", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local websocket, tcp = znl.websocket, znl.tcp
  local scope = require("znl.versions.scope")
  local servers = {}

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  local function code_of(...) return (select(3, ...)) end

  local function until_true(what, check)
    eventually(check, what)
  end

  local function echo(conn)
    for message, is_binary in conn:messages() do
      assert(conn:send(message, { binary = is_binary }))
    end
  end

  local function serve(opts)
    opts.listen = opts.listen or "127.0.0.1:0"
    opts.handle = opts.handle or echo
    local server = assert(websocket.serve(opts))
    servers[#servers + 1] = server
    return server, ("ws://127.0.0.1:%d"):format(server.port)
  end

  --- A client that speaks bytes; the key is the one of RFC 6455.
  local function bare(server, more)
    local c = assert(tcp.connect { port = server.port, io_timeout_ms = 3000 })
    c:write("GET /raw HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      .. "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" .. (more or "") .. "\r\n")
    local lines = {}
    repeat
      lines[#lines + 1] = assert(c:read("line"))
    until lines[#lines] == ""
    return c, lines
  end

  after_each(function()
    for _, server in ipairs(servers) do server:close() end
    servers = {}
    collectgarbage()
  end)

  it("carries text and bytes both ways", function()
    local _, url = serve {}
    local conn = assert(websocket.connect(url))
    for _, text in ipairs { "", "hello", "h\195\164llo", ("x"):rep(70000), "a\0b" } do
      assert.is_true(conn:send(text))
      local got, is_binary = conn:recv(3000)
      assert.is_true(text == got)
      assert.is_false(is_binary)
    end
    assert.is_true(conn:send("\255\0\1", { binary = true }))
    local got, is_binary = conn:recv(3000)
    assert.equal("\255\0\1", got)
    assert.is_true(is_binary)
    local big = ("0123456789abcdef"):rep(200000)
    assert.is_true(conn:send(big))
    assert.is_true(big == conn:recv(5000))
    assert.is_true(conn:ping() >= 0)
    conn:close()
  end)

  it("keeps the order of many messages, and takes them as they come", function()
    local _, url = serve { max_inbox_bytes = 1000, max_queue_bytes = 4096 }
    local conn = assert(websocket.connect(url, { max_inbox_bytes = 1000, max_queue_bytes = 4096 }))
    local sender = znl.spawn(function()
      for i = 1, 5000 do assert(conn:send(("message %d"):format(i))) end
    end)
    znl.sleep(20) -- everything is full by now
    for i = 1, 5000 do assert.equal(("message %d"):format(i), conn:recv(3000)) end
    sender:wait(1000)
    assert.is_false(sender:has_failed())
    conn:close()
  end)

  it("tells path, query, headers, subprotocol and peer of both ends", function()
    local seen
    local _, url = serve {
      protocols = { "best", "good" },
      handle = function(conn)
        seen = conn
        conn:recv()
      end,
    }
    local conn = assert(websocket.connect(url .. "/a/b%20c?d=e&f", {
      headers = { ["X-One"] = "1", Cookie = "a=b" }, protocols = { "other", "good", "best" },
    }))
    until_true("served", function() return seen end)
    for _, end_ in ipairs { conn, seen } do
      assert.equal("/a/b%20c", end_.path)
      assert.equal("d=e&f", end_.query)
      assert.equal("best", end_.protocol)
      assert.matches("^127%.0%.0%.1:%d+$", end_.peer)
      assert.is_true(end_:is_open())
      assert.equal(0, end_:queued())
    end
    assert.equal("1", seen.headers["x-one"])
    assert.equal("a=b", seen.headers.cookie)
    assert.equal("websocket", conn.headers.upgrade)
    conn:close()
    conn = assert(websocket.connect(url:gsub("^ws", "WS") .. "?q", { protocols = { "none" } }))
    assert.equal("/", conn.path)
    assert.equal("q", conn.query)
    assert.is_nil(conn.protocol)
    conn:close()
  end)

  it("ends in order, with code and reason", function()
    local ending
    local _, url = serve {
      handle = function(conn)
        echo(conn)
        until_true("closed", function() return conn:ending() end)
        ending = conn:ending()
        assert.equal("CLOSED", code_of(conn:send("x")))
      end,
    }
    local conn = assert(websocket.connect(url))
    assert.is_nil(conn:ending())
    conn:close(4001, "bye")
    conn:close()
    assert.is_false(conn:is_open())
    assert.same({ nil, "websocket: closed", "CLOSED" }, { conn:recv() })
    assert.same({ nil, "websocket: closed", "CLOSED" }, { conn:send("x") })
    assert.same({ nil, "websocket: closed", "CLOSED" }, { conn:ping() })
    until_true("both ended", function() return ending and conn:ending() end)
    assert.same({ code = "CLOSED", close_code = 4001, reason = "bye" }, ending)
    assert.same({ code = "CLOSED", close_code = 4001, reason = "" }, conn:ending())
  end)

  it("delivers what came before the end, then says how it ended", function()
    local _, url = serve {
      handle = function(conn)
        conn:send("one")
        conn:send("two")
        conn:close(1000, "enough")
      end,
    }
    local conn = assert(websocket.connect(url))
    until_true("ended", function() return conn:ending() end)
    assert.equal("one", conn:recv())
    assert.equal("two", conn:recv())
    assert.same({ nil, "websocket: closed by the peer: 1000 enough", "CLOSED" }, { conn:recv() })
    local count = 0
    for _ in conn:messages() do count = count + 1 end
    assert.equal(0, count)
  end)

  it("wakes who waits when it ends", function()
    local _, url = serve { handle = function(conn) conn:recv() end }
    local conn = assert(websocket.connect(url))
    local reader = znl.spawn(function() return { conn:recv() } end)
    local other = { conn:recv(1000) }
    assert.equal("BUSY", other[3])
    local pinger = znl.spawn(function() return { conn:ping() } end)
    pinger:wait(1000)
    conn:close()
    assert.same({ nil, "websocket: closed", "CLOSED" }, reader:wait(1000))
  end)

  it("limits the time of a wait", function()
    local _, url = serve { handle = function(conn) conn:recv() znl.sleep(10000) end }
    local conn = assert(websocket.connect(url, { max_queue_bytes = 1024 }))
    assert.same({ nil, "websocket.recv: no answer in time", "TIMEOUT" }, { conn:recv(10) })
    assert.equal("DEADLINE", code_of(znl.with_timeout(10, function() return conn:recv() end)))
    local large, code = ("x"):rep(1024 * 1024), nil
    for _ = 1, 200 do -- the buffers of the system, the inbox over there, the queue here
      code = code_of(conn:send(large, { timeout_ms = 50 }))
      if code then break end
    end
    assert.equal("TIMEOUT", code)
    local task = znl.spawn(function() return code_of(conn:send(large)) end)
    znl.sleep(5)
    task:cancel()
    assert.equal("CANCELLED", task:wait(1000))
    conn:close()
  end)

  it("answers what is no WebSocket", function()
    local asked = {}
    local server, url = serve {
      on_request = function(request)
        asked[#asked + 1] = request
        if request.path == "/page" then return 200, "hello\n", { ["Content-Type"] = "text/plain" } end
        if request.path == "/closed" then return 403 end
        if request.path == "/slow" then znl.sleep(20) end
        if request.path == "/fails" then error("on purpose") end
        if request.path == "/wrong" then return 200, {} end
      end,
    }
    local c = assert(tcp.connect { port = server.port })
    c:write("GET /page?x HTTP/1.1\r\nHost: h\r\n\r\nGET /other HTTP/1.1\r\nHost: h\r\n\r\n")
    local text = ""
    until_true("both answers", function()
      text = text .. (c:read("some", 1000) or "")
      return text:find("a WebSocket is served here", 1, true)
    end)
    assert.matches("^HTTP/1.1 200 OK\r\n", text)
    assert.matches("\r\nContent%-Type: text/plain\r\n", text)
    assert.matches("\r\n\r\nhello\nHTTP/1.1 426 Upgrade Required\r\n", text)
    assert.matches("\r\nSec%-WebSocket%-Version: 13\r\n", text)
    c:close()
    assert.equal("GET", asked[1].method)
    assert.equal("x", asked[1].query)
    assert.is_false(asked[1].is_upgrade)

    assert.same({ nil, "websocket.connect: the server answered 403 instead of a WebSocket", "REFUSED", 403 },
      { websocket.connect(url .. "/closed") })
    assert.is_true(asked[3].is_upgrade)
    assert.equal(500, (select(4, websocket.connect(url .. "/fails"))))
    assert.equal(500, (select(4, websocket.connect(url .. "/wrong"))))
    local conn = assert(websocket.connect(url .. "/slow"))
    assert(conn:send("x"))
    assert.equal("x", conn:recv(1000))
    assert.equal(6, server:counters().requests)
    assert.equal(1, server:connections())
    conn:close()
  end)

  it("closes with 1011 when the handler raises", function()
    local _, url = serve { handle = function() error("on purpose") end }
    local conn = assert(websocket.connect(url))
    assert.same({ nil, "websocket: closed by the peer: 1011", "CLOSED" }, { conn:recv(1000) })
  end)

  it("tells peers that break the rules, and those that are too large", function()
    local endings = {}
    local server, url = serve {
      max_message_bytes = 100,
      handle = function(conn)
        conn:recv()
        endings[#endings + 1] = conn:ending()
      end,
    }
    local c = bare(server)
    c:write("\129\2hi")
    assert.equal("\136\2\3\234", c:read("all", 1000))
    c = bare(server)
    c:write("\129\129\0\0\0\0\255")
    assert.equal("\136\2\3\239", c:read("all", 1000))
    local conn = assert(websocket.connect(url))
    assert(conn:send(("x"):rep(101)))
    assert.same({ nil, "websocket: closed by the peer: 1009", "CLOSED" }, { conn:recv(1000) })
    c = bare(server)
    c:close()
    until_true("all ended", function() return #endings == 4 end)
    assert.same({
      { code = "PROTO", close_code = 0, reason = "a frame without a mask" },
      { code = "PROTO", close_code = 0, reason = "a text that is not UTF-8" },
      { code = "TOO_BIG", close_code = 0, reason = "a message larger than the limit" },
      { code = "GONE", close_code = 0, reason = "the connection ended without a close frame" },
    }, endings)
  end)

  it("answers no extension, and pings", function()
    local server = serve {}
    local c, lines = bare(server, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
    assert.equal("HTTP/1.1 101 Switching Protocols", lines[1])
    assert.is_nil(table.concat(lines, "\n"):lower():find("extensions", 1, true))
    c:write("\137\132\0\0\0\0ping")
    assert.equal("\138\4ping", c:read(6, 1000))
    c:write("\136\128\0\0\0\0")
    assert.equal("\136\0", c:read("all", 1000)) -- without a code, as it came
  end)

  it("that is misused leaves nothing for the end of the run", function()
    local runtime = require("znl.core.runtime")
    local on_stop, count = runtime.on_stop, 0
    runtime.on_stop = function(fn)
      count = count + 1
      local forget = on_stop(fn)
      return function()
        count = count - 1
        forget()
      end
    end
    local ok = pcall(websocket.serve, { listen = "127.0.0.1:0", tls = { verfy = true }, handle = function() end })
    runtime.on_stop = on_stop
    assert.is_false(ok)
    assert.equal(0, count)
  end)

  it("drops a peer that does not close", function()
    local ended
    local server = serve {
      close_ms = 30,
      handle = function(conn)
        conn:close(1000)
        until_true("ended", function() return conn:ending() end)
        ended = conn:ending().code
      end,
    }
    local c = bare(server)
    assert.equal("\136\2\3\232", c:read("all", 2000))
    until_true("dropped", function() return ended end)
    assert.equal("TIMEOUT", ended)
    c:close()
  end)

  it("closes connections that nobody holds", function()
    local ending
    local _, url = serve {
      handle = function(conn)
        conn:recv()
        ending = conn:ending()
      end,
    }
    local conn = assert(websocket.connect(url))
    assert.is_true(conn:is_open())
    conn = nil -- luacheck: ignore
    until_true("collected", function()
      collectgarbage()
      return ending
    end)
    assert.equal(1001, ending.close_code)
  end)

  it("gives up a connection nobody waits for any more", function()
    local listener = assert(tcp.listen({ host = "127.0.0.1" }, function(c) c:read("all", 5000) end))
    local task = znl.spawn(function()
      return websocket.connect(("ws://127.0.0.1:%d"):format(listener.port))
    end)
    znl.sleep(10)
    task:cancel()
    local _, _, code = task:wait(1000)
    assert.equal("CANCELLED", code)
    local conn, message
    conn, message, code = websocket.connect(("ws://127.0.0.1:%d"):format(listener.port), { timeout_ms = 30 })
    assert.is_nil(conn)
    assert.equal("websocket.connect: no answer to the upgrade in time", message)
    assert.equal("TIMEOUT", code)
    listener:close()
  end)

  it("closes all its connections when it stops", function()
    local server, url = serve {}
    local conns = {}
    for i = 1, 50 do conns[i] = assert(websocket.connect(url)) end
    until_true("all there", function() return server:connections() == 50 end)
    server:close()
    server:close()
    for i = 1, 50 do
      assert.same({ nil, "websocket: closed by the peer: 1001", "CLOSED" }, { conns[i]:recv(1000) })
    end
    until_true("all ended", function() return server:connections() == 0 end)
    assert.equal("UNREACHABLE", code_of(websocket.connect(url)))
    local again = serve { listen = ("127.0.0.1:%d"):format(server.port) }
    assert.equal(server.port, again.port)
    assert.equal("ADDRESS_IN_USE", code_of(websocket.serve {
      listen = ("127.0.0.1:%d"):format(server.port), handle = echo,
    }))
  end)

  it("ends with the version of code that serves", function()
    local version = assert(scope.new { name = "v1" })
    local server, ended
    local ok, message = version:run(function()
      server = assert(websocket.serve {
        listen = "127.0.0.1:0",
        handle = function(conn)
          conn:send("hello")
          conn:recv()
          ended = conn
        end,
      })
    end)
    assert.is_true(ok, message)
    assert.is_true(version:commit())
    local url = ("ws://127.0.0.1:%d"):format(server.port)
    local conn = assert(websocket.connect(url))
    assert.equal("hello", conn:recv(1000))
    version:halt()
    version:finish()
    assert.is_nil(ended)
    assert.equal("UNREACHABLE", code_of(websocket.connect(url)))
    until_true("closed", function()
      collectgarbage()
      return conn:ending()
    end)
    assert.equal(1001, conn:ending().close_code)
  end)

  it("says what is wrong with a url", function()
    local function why(url) return (select(2, websocket.connect(url))) end
    assert.matches("must begin with ws:// or wss://", why("http://h/"))
    assert.matches("must begin with", why("h:80"))
    assert.matches("no fragment", why("ws://h/#x"))
    assert.matches("no password", why("ws://a:b@h/"))
    assert.matches("visible ASCII", why("ws://h/a b"))
    assert.matches("visible ASCII", why("ws://h/\r\nX: y"))
    assert.matches("no host", why("ws:///x"))
    assert.matches("no host", why("ws://h\r\nX:80/"))
    assert.matches("not in 1..65535", why("ws://h:0/"))
    assert.matches("not in 1..65535", why("ws://h:65536/"))
    assert.equal("INVALID", code_of(websocket.connect("ws://")))
    assert.equal("INVALID", code_of(websocket.connect("")))
  end)

  it("blames the line of a wrong call", function()
    local here = "websocket_spec.lua:%d+: "
    local function connect_with(opts)
      return failure(function()
        local conn = websocket.connect("ws://127.0.0.1:1", opts)
        return conn
      end)
    end
    assert.matches(here .. "websocket.connect: the url must be a text, not a nil", failure(function()
      local conn = websocket.connect(nil)
      return conn
    end))
    assert.matches(here .. 'websocket.connect: unknown option "timeout"', connect_with { timeout = 1 })
    assert.matches(here .. "websocket.connect: the header Host is not yours to set",
      connect_with { headers = { Host = "x" } })
    assert.matches("Sec%-WebSocket%-Key is not yours", connect_with { headers = { ["Sec-WebSocket-Key"] = "x" } })
    assert.matches("X%-A must be a text without control characters",
      connect_with { headers = { ["X-A"] = "b\r\nX-C: d" } })
    assert.matches("is no name of a header", connect_with { headers = { ["X A"] = "b" } })
    assert.matches("protocol 1 must be a word", connect_with { protocols = { "a b" } })
    assert.matches(here .. "websocket.serve: option listen is", failure(function()
      local server = websocket.serve { handle = echo, listen = "x" }
      return server
    end))
    local _, url = serve {}
    local conn = assert(websocket.connect(url))
    assert.matches(here .. "websocket:send: the message must be a text, not a table", failure(function()
      local ok = conn:send({})
      return ok
    end))
    assert.matches(here .. 'websocket:send: unknown option "bin"', failure(function()
      local ok = conn:send("", { bin = true })
      return ok
    end))
    assert.matches(here .. "websocket:recv: timeout_ms must be", failure(function()
      local data = conn:recv(0)
      return data
    end))
    assert.matches(here .. "websocket:close: %(code must be 1000", failure(function() conn:close(1006) end))
    assert.matches("reason must be", failure(function() conn:close(1000, ("x"):rep(124)) end))
    assert.same({ nil, "websocket.send: the text is not UTF-8; send it as binary", "INVALID" }, { conn:send("\255") })
    conn:close()
  end)

  describe("under TLS", function()
    local folder = require("support.folder").new()
    local certificate, key = require("support.certificate")(folder)

    teardown(function() folder:remove() end)

    local function wss(server, host) return ("wss://%s:%d/x"):format(host or "localhost", server.port) end

    it("serves those who trust the certificate", function()
      local server = serve { tls = { certificate = certificate, key = key } }
      for _, host in ipairs { "localhost", "127.0.0.1" } do
        local conn = assert(websocket.connect(wss(server, host), { tls = { authorities = certificate } }))
        local big = ("x"):rep(300000)
        assert(conn:send(big))
        assert.is_true(big == conn:recv(3000))
        conn:close()
        assert.equal("CLOSED", code_of(conn:recv()))
      end
      local context = assert(require("znl.core.tls").client { authorities = certificate })
      local conn = assert(websocket.connect(wss(server), { tls = context }))
      conn:close()
    end)

    it("refuses what does not fit", function()
      local server, plain = serve { tls = { certificate = certificate, key = key } }
      local conn, message, code = websocket.connect(wss(server)) -- trusts the system's authorities only
      assert.is_nil(conn)
      assert.matches("certificate", message)
      assert.equal("PROTO", code)
      code = code_of(websocket.connect(wss(server), {
        tls = { authorities = certificate, server_name = "elsewhere" },
      }))
      assert.equal("PROTO", code)
      conn = assert(websocket.connect(wss(server), { tls = { verify = false } }))
      conn:close()
      assert.is_nil((websocket.connect(plain, { timeout_ms = 1000 })))
    end)

    it("asks clients for their certificate", function()
      local server = serve {
        tls = { certificate = certificate, key = key, verify = true, authorities = certificate },
      }
      local conn = assert(websocket.connect(wss(server), {
        tls = { authorities = certificate, certificate = certificate, key = key },
      }))
      assert(conn:send("x"))
      assert.equal("x", conn:recv(1000))
      conn:close()
      local stranger = websocket.connect(wss(server), { tls = { authorities = certificate } })
      assert.is_nil(stranger and stranger:recv(2000))
    end)

    it("says which file or option is wrong", function()
      local _, message, code = websocket.serve {
        listen = "127.0.0.1:0", handle = echo, tls = { certificate = folder:at("none"), key = key },
      }
      assert.matches("none: No such file", message)
      assert.equal("INVALID", code)
      _, message, code = websocket.connect("wss://localhost:1", { tls = { authorities = folder:at("none") } })
      assert.matches("none: No such file", message)
      assert.equal("INVALID", code)
      local function serve_with(tls)
        return failure(websocket.serve, { listen = "127.0.0.1:0", handle = echo, tls = tls })
      end
      assert.matches("needs certificate and key", serve_with {})
      assert.matches("needed together", serve_with { certificate = certificate })
      assert.matches("unknown option verfy", serve_with { certificate = certificate, key = key, verfy = true })
      assert.matches("verify must be true or false", serve_with { certificate = certificate, key = key, verify = 1 })
      assert.matches("must be a table of options or a context for a server",
        serve_with(assert(require("znl.core.tls").client {})))
      assert.matches("option tls is true; it must be", serve_with(true))
    end)
  end)
end)
