--- Servers and clients of the micro protocol, over sockets of this process. SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local folder = require("support.folder")
local sched = require("znl.core.sched")
local znl = require("znl")

describe("server", function()
  local started, level

  before_each(function()
    started, level = {}, znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function()
    for index = #started, 1, -1 do started[index]:stop() end
    znl.log.set_level(level)
  end)

  local function make(namespace, more)
    local opts = { namespace = namespace, host = "127.0.0.1", advertise_host = "127.0.0.1" }
    for name, value in pairs(more or {}) do opts[name] = value end
    local server = znl.server(opts)
    started[#started + 1] = server
    return server
  end

  local function start(namespace, more)
    local server = make(namespace, more)
    assert(server:start())
    return server
  end

  local function connect(server, more)
    local opts = { host = "127.0.0.1", port = server:port() }
    for name, value in pairs(more or {}) do opts[name] = value end
    return assert(znl.client.connect(opts))
  end

  it("answers by route, and lets go of routes", function()
    local server = start("svc")
    local remove = server:route("/users/:id", function(req) return { id = req.params.id, n = req.data } end)
    server:route("/none", function(req) return next(req.params) == nil end)
    server:route("/grow", function(req) req.params.x = 1 end)
    local client = connect(server)
    assert.same({ id = "7", n = 5 }, client:request("/users/7", 5))
    assert.is_true(client:request("/none"))
    assert.matches("none can be added", (select(2, client:request("/grow"))))
    assert.error_matches(function() server:route("/users/:name", print) end, "/users/:name has a handler already")
    assert.error_matches(function() server:route("users", print) end, "must begin with /")
    assert.error_matches(function() server:route("/x", 7) end, "must be a function")
    assert.error_matches(function() server:handle(print) end, "answered by route")
    remove()
    remove()
    local nothing, message, code, is_remote = client:request("/users/7")
    assert.same({ "nil", "/users/7", "NOT_FOUND", true }, { tostring(nothing), message, code, is_remote })
    server:route("/users/:id", function() return "again" end)
    assert.equal("again", client:request("/users/8"))
    server:use(function(req, next)
      if req.data == "stop" then return nil, "stopped", 403 end
      return next(req)
    end)
    assert.equal(403, select(3, client:request("/users/8", "stop")))
    assert.equal("again", client:request("/users/8"))
    client:close()
  end)

  it("dispatches inside the process, with extras", function()
    local server = make("svc")
    server:route("/x/:id", function(req) return { req.params.id, req.data, req.who, req.client == nil } end)
    server:route("/bad", function() error("boom") end)
    server:route("/refuses", function() return nil, "no", 410 end)
    local data = { deep = true }
    local result = server:dispatch("/x/9", data, { who = "me", client = false })
    assert.equal("9", result[1])
    assert.equal(data, result[2])
    assert.equal("me", result[3])
    assert.same({ nil, "/nowhere", "NOT_FOUND" }, { server:dispatch("/nowhere") })
    assert.same({ nil, "no", 410 }, { server:dispatch("/refuses") })
    assert.same({ nil, "boom", 500 }, { server:dispatch("/bad") })
  end)

  it("serves a folder of handlers, and new versions of its files", function()
    local dir = folder.new()
    dir:write("users/[id].msg.lua", "return function(req) return 'one ' .. req.params.id end")
    local server = start("svc")
    server:route("/own", function() return "own" end)
    local remove, source = server:load(dir.path, { debounce_ms = 1 })
    local client = connect(server)
    assert.equal("one 5", client:request("/users/5"))
    assert.equal("own", client:request("/own"))
    dir:write("users/[id].msg.lua", "return function(req) return 'two ' .. req.params.id end")
    assert(source:reload())
    assert.equal("two 5", client:request("/users/5"))
    remove()
    assert.equal("NOT_FOUND", select(3, client:request("/users/5")))
    assert.equal("own", client:request("/own"))
    dir:remove()
  end)

  it("connects servers both ways over one connection", function()
    local one, two = start("one"), start("two")
    local seen = {}
    two:on("connection", function(client) seen[#seen + 1] = "+" .. client.key .. " " .. tostring(client.namespace) end)
    two:on("disconnect", function(client) seen[#seen + 1] = "-" .. client.key end)
    one:route("/who", function() return "one" end)
    two:route("/back", function(req) return (req.client:request("/who")) end)
    local client = assert(one:connect("127.0.0.1", two:port()))
    assert.equal(client, one:connect("127.0.0.1", two:port()))
    assert.equal("one", client:request("/back"))
    eventually(function() return seen[1] end)
    assert.equal("+" .. one:key() .. " one", seen[1])
    local back = assert(two:connect("127.0.0.1", one:port()))
    assert.is_true(back.is_inbound)
    assert.equal("one", back:request("/who"))
    client:close()
    eventually(function() return seen[2] end)
    assert.equal("-" .. one:key(), seen[2])
    assert.is_nil(next(two:clients()))
    local nobody, message, code = one:connect("127.0.0.1", 1)
    assert.is_nil(nobody)
    assert.matches("127.0.0.1:1", message)
    assert.equal("UNREACHABLE", code)
    assert.error_matches(function() one:connect("a b", 1) end, "white space")
    local itself = assert(one:connect("127.0.0.1", one:port()))
    assert.equal("one", itself:request("/who"))
  end)

  it("ends up with one connection when two dial each other", function()
    for _ = 1, 3 do
      local one, two = start("one"), start("two")
      for _, server in ipairs { one, two } do server:route("/who", function() return server.namespace end) end
      local function ask(from, to)
        return znl.spawn(function()
          local client = assert(from:connect("127.0.0.1", to:port()))
          local failed = 0
          for _ = 1, 20 do
            if not client:request("/who") then failed = failed + 1 end
            client = from:clients()[to:key()]
            sched.sleep(1)
          end
          return failed
        end)
      end
      local first, second = ask(one, two), ask(two, one)
      assert.equal(0, first:wait(10000))
      assert.equal(0, second:wait(10000))
      eventually(function()
        return one.core:counters().connections == 1 and two.core:counters().connections == 1
      end, "one connection is left")
      local opener = one:key() < two:key() and one or two
      local other = opener == one and two or one
      assert.is_false(opener:clients()[other:key()].is_inbound)
      assert.is_true(other:clients()[opener:key()].is_inbound)
      one:stop()
      two:stop()
    end
  end)

  it("closes connections that say nobody, or come from elsewhere", function()
    local server = start("svc", { check_host = true })
    local client = connect(server, { path = "/nobody" })
    eventually(function() return not client:is_open() end)
    client = connect(server, { path = "/10.9.9.9/1/x" })
    eventually(function() return not client:is_open() end)
    client = connect(server, { path = "/127.0.0.1/1/x" })
    assert.equal("NOT_FOUND", select(3, client:request("/x")))
    assert.is_true(client:is_open())
  end)

  it("keeps clients apart, and lets a server ask them", function()
    local server = start("svc")
    server:route("/back", function(req) return (req.client:request("/mine", { n = 1 })) end)
    local first = connect(server, { handle = function(req) return { "first", req.route, req.data.n } end })
    local second = connect(server, { handle = function() return "second" end, namespace = "named" })
    assert.same({ "first", "/mine", 1 }, first:request("/back"))
    assert.equal("second", second:request("/back"))
    local names = {}
    for _, client in pairs(server:clients()) do names[#names + 1] = client.namespace end
    table.sort(names)
    assert.same({ "client", "named" }, names)
    local pushed
    server:route("/push", function(req) pushed = { req.data, req.is_push } end)
    assert(first:push("/push", "text"))
    eventually(function() return pushed end)
    assert.same({ "text", true }, pushed)
    first:close()
    assert.equal("CLOSED", select(3, first:request("/back")))
    assert.error_matches(function() first:request("") end, "the url must be a text")
    second:close()
    eventually(function() return next(server:clients()) == nil end)
    server:stop()
    assert.is_nil(server:key())
    assert.equal("STOPPED", select(3, server:connect("127.0.0.1", 9)))
  end)

  it("reads its heartbeat from where the originals do", function()
    local roles = require("znl.roles.server")
    local values = {
      MICRO_HEARTBEAT_INTERVAL = "250", MICRO_HEARTBEAT_TIMEOUT = "x", MICRO_HEARTBEAT_CHECK_INTERVAL = "0",
    }
    local function getenv(name) return values[name] end
    local read = roles.core_options({}, getenv)
    local given = roles.core_options({ heartbeat_ms = 7 }, getenv)
    assert.same({ 250, 20000, 5000 }, { read.heartbeat_ms, read.heartbeat_timeout_ms, read.heartbeat_check_ms })
    assert.equal(7, given.heartbeat_ms)
  end)
end)
