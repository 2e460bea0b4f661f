-- Calls between nodes of ours: routes, JSON, refusals, deadlines, the queue. Inside znlrun only.
-- SPDX-License-Identifier: MIT

local eventually = require("support.eventually")
local has_core, znl = pcall(require, "znl")

describe("calls", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, level

  local function keep(node)
    nodes[#nodes + 1] = node
    return node
  end

  local function master(opts)
    opts = opts or {}
    opts.id, opts.endpoint = opts.id or "master", opts.endpoint or "tcp://127.0.0.1:*"
    return keep(znl.master(opts))
  end

  --- Starts a slave of `of` and waits until both know each other.
  local function slave(of, id, opts)
    opts = opts or {}
    opts.id, opts.endpoint = id, opts.endpoint or of:endpoint()
    local made = keep(znl.slave(opts))
    local met = znl.event()
    made:once("master_online", function() met:set(true) end)
    assert.is_true(made:start())
    assert.is_true(met:wait(30000))
    return made
  end

  before_each(function()
    nodes, level = {}, znl.log.level()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, node in ipairs(nodes) do node:stop() end
  end)

  for _, mode in ipairs { "plain", "encrypted" } do
    local keys = mode == "encrypted"
    local function secure(opts)
      opts = opts or {}
      if keys then opts.encrypted, opts.auth_key = true, "key" end
      return opts
    end

    --- A master and a slave that answer calls in the same way.
    local function pair(opts)
      local m = master(secure(opts))
      local function handle(req)
        if req.route == "/raise" then error("it broke\nsecond line") end
        if req.route == "/refuse" then return nil, "not you", "AUTH" end
        if req.route == "/function" then return { fn = print } end
        if req.route == "/raw" then return { "got", type(req.payload) == "table" and req.payload[2] or req.payload } end
        if req.route == "/number" then return 5 end
        if req.route == "/fields" then
          return { route = req.route, from = req.from, id = req.id, left = req:remaining_ms(),
            late = req:cancelled(), at = req:deadline_ms() ~= nil }
        end
        return req.data
      end
      m:handle(handle)
      assert.is_true(m:start())
      local s = slave(m, "one", secure())
      s:handle(handle)
      return m, s
    end

    it("carry any JSON value both ways in " .. mode .. " mode", function()
      local m, s = pair()
      local ask = {
        function(...) return s:call(...) end,
        function(...) return m:call("one", ...) end,
      }
      for _, call in ipairs(ask) do
        for _, value in ipairs { "text", "", 42, 2 ^ 53, 0.1, true, false, { 1, 2, { a = "é 😀\0" } }, {} } do
          assert.same({ value }, { call("/echo", value) })
        end
        assert.same({ nil }, { call("/echo") })
        assert.same({ nil }, { call("/echo", nil) })
        local large = ("x"):rep(3 * 1024 * 1024)
        assert.equal(large, (call("/echo", large)))
        assert.same({ "got", "b" }, { unpack((call("/raw", { "a", "b" }, { raw = true }))) })
        assert.same({ "got", "" }, { unpack((call("/raw", nil, { raw = true }))) })
        local fields = call("/fields", nil, { timeout_ms = 20000 })
        assert.equal("/fields", fields.route)
        assert.equal(36, #fields.id)
        assert.is_true(fields.left <= 20000 and fields.left > 5000)
        assert.is_false(fields.late)
        assert.is_true(fields.at)
      end
      assert.equal("one", s:call("/fields").from)
      assert.equal(keys and "master" or "", m:call("one", "/fields").from)
    end)

    it("come back with the error of the other side in " .. mode .. " mode", function()
      local m, s = pair()
      local errors = 0
      m:on("error", function() errors = errors + 1 end)
      local value, message, code = s:call("/raise")
      assert.is_nil(value)
      assert.equal("HANDLER_ERROR", code)
      assert.matches("^[^\n]*call_spec.lua:%d+: it broke$", message)
      assert.same({ nil, "not you", "AUTH" }, { s:call("/refuse") })
      assert.same({ nil, "not you", "AUTH" }, { m:call("one", "/refuse") })
      _, message, code = s:call("/function")
      assert.equal("HANDLER_ERROR", code)
      assert.matches("call_spec.lua:%d+: returned what JSON cannot carry: a function at fn$", message)
      _, message, code = s:call("/number", "x", { raw = true })
      assert.equal("HANDLER_ERROR", code)
      assert.matches("call_spec.lua:%d+: returned a number; a handler returns a string, an array of strings or nil$",
        message)
      assert.equal(3, errors)
      assert.equal(1, m:counters().refused)
      assert.equal(3, m:counters().handler_errors)
      m:handle(nil)
      _, _, code = s:call("/echo")
      assert.equal("NOT_FOUND", code)
      _, _, code = s:request("plain") -- plain requests between our own hear of it, too
      assert.equal("NOT_FOUND", code)
    end)

    it("keep apart what only looks like a call in " .. mode .. " mode", function()
      local m, s = pair()
      m:handle(function(req) return req.payload end)
      s:handle(function(req) return req.payload end)
      for _, payload in ipairs {
        { "__znl_v1_call__", "\1\0\0\0\0\1/echo", "body" }, { "__znl_v1_call__", "" }, "__znl_v1_call__",
      } do
        assert.same({ payload }, { s:request(payload) })
        assert.same({ payload }, { m:request("one", payload) })
      end
      assert.equal(0, m:counters().malformed)
    end)

    it("go on after a restart of either side in " .. mode .. " mode", function()
      local function handle(req) return req.data end
      local path = os.tmpname() -- a port could be taken by somebody else in between
      os.remove(path)
      local first = master(secure { endpoint = "ipc://" .. path })
      first:handle(handle)
      assert.is_true(first:start())
      local s = slave(first, "one", secure { heartbeat_ms = 100 })
      s:handle(handle)
      assert.equal(1, s:call("/x", 1))
      local endpoint = first:endpoint()
      first:stop()
      local m = master(secure { endpoint = endpoint }) -- it knows nothing of the first one
      m:handle(handle)
      assert.is_true(m:start())
      eventually(function() return s:call("/x", 2, { timeout_ms = 1000 }) == 2 end, "calls to the restarted master")
      assert.is_true(s:restart())
      assert.equal(3, s:call("/x", 3)) -- waits for the first acknowledgement
      assert.equal(4, m:call("one", "/x", 4))
      os.remove(path)
    end)
  end

  it("are refused for peers that are not there, and for routes that are none", function()
    local m = master()
    assert.is_true(m:start())
    assert.equal("UNREACHABLE", select(3, m:call("nobody", "/x")))
    assert.has_error(function() m:call("one", "x") end)
    assert.has_error(function() m:call("one", "/" .. ("x"):rep(1024)) end)
    assert.has_error(function() m:call("one", "/x", { print }) end, "call: JSON cannot carry a function at [1]")
    assert.has_error(function() m:call("one", "/x", nil, { timeout = 5 }) end)
    local s = keep(znl.slave { id = "alone", endpoint = "tcp://127.0.0.1:1" })
    assert.equal("STOPPED", select(3, s:call("/x")))
    assert.is_true(s:start())
    assert.equal("TIMEOUT", select(3, s:call("/x", nil, { timeout_ms = 50 })))
  end)

  it("wait in order for a free handler, no more of them than the queue holds", function()
    local m = master { max_concurrency = 1, max_queue = 3 }
    local order, gate = {}, znl.event()
    m:handle(function(req)
      gate:wait(30000)
      order[#order + 1] = req.data
      return req.data
    end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    local done, codes = 0, {}
    for i = 1, 6 do
      znl.spawn(function()
        local answer, _, code = s:call("/x", i, { timeout_ms = 60000 })
        if answer == nil then codes[i] = code end
        done = done + 1
      end)
    end
    eventually(function() return done == 2 end, "two refusals")
    assert.same({ [5] = "OVERLOADED", [6] = "OVERLOADED" }, codes)
    assert.equal(3, m:counters().queued)
    gate:set(true)
    eventually(function() return done == 6 end, "the rest")
    assert.same({ 1, 2, 3, 4 }, order)
    local counters = m:counters()
    assert.equal(2, counters.overloaded)
    assert.equal(0, counters.queued)
    assert.equal(0, counters.handlers)
  end)

  it("take no more bytes into the queue than it may hold", function()
    local m = master { max_concurrency = 1, max_queue_bytes = 10000 }
    local gate = znl.event()
    m:handle(function(req)
      gate:wait(30000)
      return #req.payload .. ""
    end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    local codes, done = {}, 0
    for i, size in ipairs { 1, 6000, 6000, 100 } do
      znl.spawn(function()
        codes[i] = select(3, s:request(("x"):rep(size), { timeout_ms = 60000 })) or "ok"
        done = done + 1
      end)
    end
    eventually(function() return done == 1 end, "one refusal")
    gate:set(true)
    eventually(function() return done == 4 end, "the rest")
    assert.same({ "ok", "ok", "OVERLOADED", "ok" }, codes)
  end)

  it("that nobody waits for any more are not run from the queue", function()
    local m = master { max_concurrency = 1 }
    local ran, gate = {}, znl.event()
    m:handle(function(req)
      ran[#ran + 1] = req.data
      gate:wait(30000)
      return true
    end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    znl.spawn(function() s:call("/x", "first") end)
    local second = znl.spawn(function() return select(3, s:call("/x", "second", { timeout_ms = 50 })) end)
    eventually(function() return m:counters().queued == 1 end, "the second waits")
    znl.sleep(60) -- its time counts from its arrival
    gate:set(true)
    assert.equal("TIMEOUT", second:wait(30000))
    assert.is_true(s:call("/x", "third"))
    assert.same({ "first", "third" }, ran)
    assert.equal(1, m:counters().expired)
  end)

  it("carry what is left of the time through two hops", function()
    local m = master()
    m:handle(function(req)
      if req.route == "/plain" then return { m:request("two", "x") } end
      return { m:call("two", "/slow") } -- 5 s by itself
    end)
    assert.is_true(m:start())
    local one, two = slave(m, "one"), slave(m, "two")
    local left, woken = nil, znl.event()
    two:handle(function(req)
      left = req:remaining_ms()
      if req.route == nil then return "done" end
      woken:set(select(3, znl.sleep(30000)), req:cancelled())
    end)
    assert.equal("TIMEOUT", select(3, one:call("/hop", nil, { timeout_ms = 2000 })))
    assert.is_true(left > 0 and left <= 2001, tostring(left))
    assert.same({ "DEADLINE", true }, { woken:wait(30000) })
    assert.same({ "done" }, one:call("/plain", nil, { timeout_ms = 4500 })) -- a request in a call
    assert.is_true(left > 0 and left <= 4501, tostring(left))
    assert.equal("done", m:request("two", "x")) -- a request of a task without deadline has none
    assert.is_nil(left)
  end)

  it("end with the deadline of the task that makes them", function()
    local m = master()
    assert.is_true(m:start())
    local s = slave(m, "one")
    s:handle(function() znl.sleep(30000) end)
    for _, ask in ipairs {
      function() return m:call("one", "/x", nil, { timeout_ms = 60000 }) end,
      function() return m:request("one", "x", { timeout_ms = 60000 }) end,
    } do
      local _, message, code = znl.with_timeout(80, ask)
      assert.equal("DEADLINE", code)
      assert.is_string(message)
    end
    local token = znl.token { timeout_ms = 1 }
    znl.with(token, function()
      znl.sleep(20)
      assert.equal("DEADLINE", select(3, m:call("one", "/x")))
      assert.equal("DEADLINE", select(3, m:service_request("one", "x")))
    end)
  end)

  it("are told so, too, when the handler looks at its token itself", function()
    local m = master { handler_timeout_ms = 60 }
    local heard = {}
    m:handle(function()
      znl.current_token():on_cancel(function() heard[#heard + 1] = "on_cancel" end)
      heard[#heard + 1] = select(3, znl.sleep(30000))
      return "too late"
    end)
    assert.is_true(m:start())
    assert.equal("HANDLER_TIMEOUT", select(3, slave(m, "one"):call("/x", nil, { timeout_ms = 20000 })))
    eventually(function() return #heard == 2 end, "both are told")
    table.sort(heard)
    assert.same({ "DEADLINE", "on_cancel" }, heard)
  end)

  it("are told when a handler takes too long", function()
    local m = master { handler_timeout_ms = 60 }
    local codes = {}
    m:handle(function(req)
      if req.payload == "quick" then return "done" end
      local code = select(3, znl.sleep(30000))
      codes[#codes + 1] = code
      return "too late"
    end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    assert.equal("HANDLER_TIMEOUT", select(3, s:call("/x", nil, { timeout_ms = 20000 })))
    assert.equal("HANDLER_TIMEOUT", select(3, s:request("slow", { timeout_ms = 20000 })))
    assert.equal("done", s:request("quick"))
    eventually(function() return m:counters().handlers == 0 end, "all handlers ended")
    assert.same({ "DEADLINE", "DEADLINE" }, codes)
    assert.equal(2, m:counters().handler_timeouts)
    assert.equal(0, s:counters().late_replies)
  end)

  it("are cancelled when the slave goes off line and when the node stops", function()
    local m = master()
    local woken, seen = {}, {}
    m:handle(function(req)
      seen[#seen + 1] = req
      local code = select(3, znl.sleep(30000)) or "slept"
      woken[#woken + 1] = code
      seen[#seen + 1] = req:cancelled()
    end)
    assert.is_true(m:start())
    local one, two = slave(m, "one"), slave(m, "two")
    znl.spawn(function() one:call("/x") end)
    znl.spawn(function() two:request("x") end)
    eventually(function() return m:counters().handlers == 2 end, "two handlers at work")
    one:stop()
    eventually(function() return #woken == 1 end, "the first is cancelled")
    assert.equal(1, m:counters().handlers)
    m:stop()
    eventually(function() return #woken == 2 end, "the second is cancelled")
    assert.same({ "CANCELLED", "CANCELLED" }, woken)
    assert.same({ true, true }, { seen[3], seen[4] })
    assert.is_nil(seen[1].id) -- a request that was kept
    assert.is_true(seen[1]:cancelled())
  end)

  it("pass through the middleware of a node, also when the handler changes", function()
    local m = master()
    local seen = {}
    m:use(function(req, next)
      seen[#seen + 1] = "outer " .. req.route
      return next(req)
    end)
    m:handle(function(req) return req.data end)
    m:use(function(req, next)
      if req.route == "/secret" then return nil, "not you", "AUTH" end
      return next(req)
    end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    assert.equal(1, s:call("/a", 1))
    assert.equal("AUTH", select(3, s:call("/secret", 1)))
    m:handle(function() return "other" end)
    assert.equal("other", s:call("/b"))
    assert.same({ "outer /a", "outer /secret", "outer /b" }, seen)
    assert.has_error(function() m:use("x") end)
  end)

  it("that fail by the thousand are reported as fast as they fail", function()
    local m = master { max_pending = 0 }
    local failed = 0
    m:on("error", function() failed = failed + 1 end)
    m:handle(function() error("no") end)
    assert.is_true(m:start())
    local s = slave(m, "one", { max_pending = 0 })
    local behind, group = 0, znl.wait_group()
    for _ = 1, 3000 do
      group:go(function()
        s:call("/x", 1, { timeout_ms = 20000 })
        local counters = m:counters()
        behind = math.max(behind, counters.handler_errors - failed)
      end)
    end
    group:wait()
    eventually(function() return failed == 3000 end, "every error reported")
    -- What one turn of the loop takes from a socket, and some that came while those were reported.
    assert.is_true(behind <= 2100, behind .. " errors behind")
  end)

  it("may have a number of their own overwritten", function()
    local m = master()
    m:handle(function(req)
      req[2] = -1
      local before = req:cancelled()
      req[2] = 0 / 0
      return { before, req:cancelled(), req.id == nil }
    end)
    assert.is_true(m:start())
    assert.same({ true, true, true }, slave(m, "one"):call("/x"))
  end)

  it("reach the routes of a router", function()
    local m = master()
    local router = znl.router()
    router:route("/users/:id", function(req) return { id = req.params.id, name = req.data } end)
    m:handle(router)
    assert.is_true(m:start())
    local s = slave(m, "one")
    assert.same({ id = "7", name = "Ada" }, s:call("/users/7", "Ada"))
    assert.equal("NOT_FOUND", select(3, s:call("/nowhere")))
  end)

  it("find the nodes of this process", function()
    local m = master { id = "findable" }
    assert.equal(m, znl.node("findable"))
    assert.is_nil(znl.node("nobody"))
  end)
end)
