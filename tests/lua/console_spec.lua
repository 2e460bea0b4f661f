--- The console of a node, asked over the wire. SPDX-License-Identifier: MIT

local eventually = require("support.eventually")
local has_core, znl = pcall(require, "znl")

describe("console", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, level

  local function start(kind, opts)
    local made = znl[kind](opts)
    nodes[#nodes + 1] = made
    assert(made:start())
    return made
  end

  local function pair(opts, slave_opts)
    opts.id, opts.endpoint = "master", "tcp://127.0.0.1:*"
    local master = start("master", opts)
    slave_opts = slave_opts or {}
    slave_opts.id, slave_opts.endpoint = "asker", master:endpoint()
    return master, start("slave", slave_opts)
  end

  before_each(function()
    nodes, level = {}, znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, made in ipairs(nodes) do made:stop() end
  end)

  it("is off by default, and its routes then reach no handler", function()
    local master, slave = pair {}
    local asked = 0
    master:handle(function() asked = asked + 1 return "handler" end)
    for _, route in ipairs { "/-/stats", "/-/", "/-/eval" } do
      local data, message, code = slave:call(route)
      assert.is_nil(data)
      assert.equal("NOT_FOUND", code)
      assert.truthy(message:find("console of this node is off", 1, true))
    end
    assert.equal(0, asked)
    assert.equal("handler", slave:call("/-"))
    assert.equal("handler", slave:call("/x/-/stats"))
    assert.has_error(function() znl.master { id = "x", console = "yes" } end)
  end)

  it("reports what a master does", function()
    local master, slave = pair { console = true, max_concurrency = 7 }
    master:handle(function(req)
      if req.payload == "bad" then error("bad") end
      return req.payload
    end)
    assert.equal("one", slave:request("one"))
    slave:request("bad")
    local stats = assert(slave:call("/-/stats"))
    assert.equal("master", stats.id)
    assert.equal("master", stats.role)
    assert.equal(master:endpoint(), stats.endpoint)
    assert.is_false(stats.encrypted)
    assert.equal(7, stats.limits.max_concurrency)
    assert.equal(1, stats.counters.handler_errors)
    assert.equal(1, stats.slave_count)
    assert.equal("asker", stats.slaves[1].id)
    assert.equal(znl.version.znlrun, stats.versions.znlrun)
    assert.is_true(stats.process.rss_bytes > 1000000)
    assert.is_true(stats.process.lua_bytes > 10000)
    assert.is_true(stats.uptime_ms >= 0 and stats.uptime_ms < 60000)
    assert.is_true(math.abs(stats.clock_ms - os.time() * 1000) < 60000)
    assert.equal(1, stats.latency.recent.count) -- the one that raised has no latency
    assert.is_nil(require("znl.json").encode(stats):find("auth_key", 1, true))
  end)

  it("reports what a slave does, without a handler too", function()
    local master, slave = pair({}, { console = true })
    assert.equal("asker", assert(slave:call("/-/nothing") == nil and slave.id))
    local stats
    eventually(function()
      stats = master:call("asker", "/-/stats")
      return stats
    end, "the slave answers")
    assert.equal("slave", stats.role)
    assert.is_true(stats.master_online)
    assert.is_nil(stats.slaves)
    assert.same({ routes = {} }, master:call("asker", "/-/routes"))
    assert.equal("NOT_FOUND", select(3, master:call("asker", "/-/reload")))
    assert.equal("NOT_FOUND", select(3, master:call("asker", "/-/eval", { code = "1" })))
  end)

  it("lists routes and loads handlers again", function()
    local path = os.tmpname() .. ".lua"
    local function write(text)
      local file = assert(io.open(path, "w"))
      file:write(text)
      file:close()
    end
    write("return function() return 'one' end")
    local master, slave = pair { console = true }
    local handlers = znl.handlers(path, { debounce_ms = 60000 }) -- only the console makes it read
    master:handle(handlers)
    assert.equal("one", slave:request("x"))
    write("return function() return 'two' end")
    assert.same({ reloaded = true }, slave:call("/-/reload"))
    assert.equal("two", slave:request("x"))
    write("return function( broken")
    local data, message, code = slave:call("/-/reload")
    assert.is_nil(data)
    assert.equal("FAILED", code)
    assert.truthy(message:find(path, 1, true), message)
    assert.equal("two", slave:request("x"))
    assert.equal("INVALID", select(3, slave:call("/-/reload", { path = 5 })))
    assert.truthy(slave:call("/-/routes").routes[1].path)
    handlers:close()
    os.remove(path)
    local router = znl.router()
    router:route("/users/:id", function() return 1 end)
    master:handle(router)
    assert.equal("/users/:id", slave:call("/-/routes").routes[1].path)
  end)

  it("runs Lua only where eval is on", function()
    local master, slave = pair { console = { eval = true } }
    local function eval(code) return assert(slave:call("/-/eval", { code = code })) end
    assert.same({ ok = true, text = "2\t\"master\"" }, eval("1 + 1, node.id"))
    assert.same({ ok = true, text = "to the caller\n" }, eval("print('to the caller') kept = 5"))
    assert.same({ ok = true, text = "5" }, eval("kept"))
    assert.is_nil(rawget(_G, "kept"))
    local failed = eval("local function f() error('on purpose') end f()")
    assert.is_false(failed.ok)
    assert.truthy(failed.text:find("on purpose", 1, true))
    failed = eval("1 +")
    assert.is_false(failed.ok)
    assert.is_true(eval("require('znl').sleep(20) return true").ok)
    local long = eval("('x'):rep(300000):gsub('x', '%0'):len(), print(('y'):rep(300000))")
    assert.is_true(#long.text < 300000)
    assert.equal("INVALID", select(3, slave:call("/-/eval", "1 + 1")))
    assert.equal("INVALID", select(3, slave:call("/-/eval")))
    assert.equal("TOO_BIG", select(3, slave:call("/-/eval", { code = ("-"):rep(70000) })))
    assert.is_true(slave:call("/-/stats").eval)
    assert.equal("master", master.id)

    local plain, asker = pair { console = { eval = false } }
    assert.equal("NOT_FOUND", select(3, asker:call("/-/eval", { code = "1" })))
    assert.is_false(asker:call("/-/stats").eval)
    assert.equal("master", plain.id)
    assert.has_error(function() znl.master { id = "x", console = { evil = true } } end)
  end)

  it("answers while the handlers are all at work", function()
    local master, slave = pair { console = true, max_concurrency = 1, max_queue = 0 }
    local release = znl.event()
    master:handle(function()
      release:wait()
      return "done"
    end)
    local answers = {}
    znl.spawn(function() answers[1] = slave:request("x") end)
    eventually(function() return master:counters().handlers == 1 end, "the handler is at work")
    assert.equal("OVERLOADED", select(3, slave:request("y")))
    local stats = assert(slave:call("/-/stats"))
    assert.is_true(stats.counters.handlers >= 1)
    release:set(true)
    eventually(function() return answers[1] end, "an answer")
    assert.equal("done", answers[1])
  end)

  it("asks for the key of an encrypted node", function()
    local master = pair({ console = true, encrypted = true, auth_keys = { asker = "right" } },
      { encrypted = true, auth_key = "right" })
    assert.equal(true, nodes[2]:call("/-/stats").encrypted)
    local other = start("slave", { id = "other", endpoint = master:endpoint(), encrypted = true, auth_key = "wrong" })
    assert.is_nil((other:call("/-/stats", nil, { timeout_ms = 300 })))
  end)
end)
