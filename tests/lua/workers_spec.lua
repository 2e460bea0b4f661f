--- Workers: handlers in threads, alone and behind a node. That two run at once is shown by counters
--- both must reach, never by time. SPDX-License-Identifier: MIT

local znl = require("znl")
local await_up = require("support.await_up")
local eventually = require("support.eventually")
local uv = require("luv")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

--- Runs a shell command; returns its exit code and all it printed. The loop waits meanwhile.
local function shell(command)
  local pipe = assert(io.popen("( " .. command .. " ) 2>&1; echo \"exit $?\"", "r"))
  local out = pipe:read("*a")
  pipe:close()
  local text, code = out:match("^(.*)exit (%d+)\n$")
  return tonumber(code), text
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path) == 0)
  return path
end

--- Runs every function in a coroutine of its own and waits for all.
local function together(functions)
  local group = znl.wait_group()
  for _, fn in ipairs(functions) do group:go(fn) end
  group:wait()
end

--- Spins, without waiting, until `count` requests are inside: passes only when they run at once.
local MEET = [[
  local shared = require("znl").shared("workers-spec")
  return function(req)
    shared:incr("inside", 1, 0)
    local spins = 0
    while shared:get("inside") < req.data.count do
      spins = spins + 1
      if spins > 2e7 then return "alone" end
    end
    return "met"
  end]]

describe("znl.workers", function()
  local pool
  local shared = znl.shared("workers-spec")

  before_each(function() shared:flush() end)

  after_each(function()
    if pool then pool:close(1000) end
    pool = nil
  end)

  local function open(opts, text)
    opts = opts or {}
    opts.count = opts.count or 2
    opts.name = "spec"
    pool = znl.workers(opts)
    if text then assert(pool:stage { id = "v", path = "spec.lua", text = text }) end
    return pool
  end

  it("runs requests at once, in threads", function()
    open(nil, MEET)
    local results = {}
    together {
      function() results[1] = pool:call("v", { data = { count = 2 } }) end,
      function() results[2] = pool:call("v", { data = { count = 2 } }) end,
    }
    assert.same({ "met", "met" }, results)
  end)

  it("gives each request to the worker with the fewest", function()
    open({ count = 3 }, [[
      local id = tostring({})
      return function() require("znl").sleep(30) return id end]])
    local seen, count = {}, 0
    local functions = {}
    for index = 1, 9 do
      functions[index] = function()
        local id = assert(pool:call("v", {}))
        seen[id] = (seen[id] or 0) + 1
      end
    end
    together(functions)
    for _, times in pairs(seen) do
      count = count + 1
      assert.equal(3, times)
    end
    assert.equal(3, count)
  end)

  it("carries every field there, and every result back", function()
    local null = require("cjson").null
    open(nil, [[
      return function(req)
        return req.payload, req.from, req.id, req.service, req.route, req.params, req.data
      end]])
    local data = { list = { 1, "two", true, { three = 3 } }, nothing = null, text = ("x"):rep(100000) }
    local got = { pool:call("v", {
      payload = { "a\0b", "", "c" }, from = "someone", id = "17", service = "echo", route = "/users/42",
      params = { id = "42" }, data = data, other = "stays here",
    }) }
    assert.same({ { "a\0b", "", "c" }, "someone", "17", "echo", "/users/42", { id = "42" }, data }, got)
    assert.equal("text", (pool:call("v", { payload = "text" })))
    assert.equal(0, select("#", pool:call("v", {})) - 7)
  end)

  it("brings errors back with file and line, and codes as they are", function()
    open(nil, [[
      return function(req)
        if req.payload == "raise" then error("broken") end
        if req.payload == "table" then error({}) end
        if req.payload == "print" then return print end
        if req.payload == "deep" then local t = {} t.t = t return t end
        return nil, "spec: not today", "SPECIAL"
      end]])
    local ok, message = pcall(pool.call, pool, "v", { payload = "raise" })
    assert.is_false(ok)
    assert.equal("spec.lua:2: broken", message:match("^[^\n]*"))
    assert.truthy(message:find("stack traceback:", 1, true))
    ok, message = pcall(pool.call, pool, "v", { payload = "table" })
    assert.is_false(ok)
    assert.truthy(message:find("table value", 1, true), message)
    ok, message = pcall(pool.call, pool, "v", { payload = "print" })
    assert.is_false(ok)
    assert.truthy(message:find("a function cannot go from one thread to another", 1, true))
    ok, message = pcall(pool.call, pool, "v", { payload = "deep" })
    assert.is_false(ok)
    assert.truthy(message:find("contain themselves", 1, true))
    ok, message = pcall(pool.call, pool, "v", { data = { fn = print } })
    assert.is_false(ok)
    assert.truthy(message:find("a function cannot go from one thread to another", 1, true))
    assert.same({ nil, "spec: not today", "SPECIAL" }, { pool:call("v", {}) })
    assert.equal(0, pool:counters().at_work)
  end)

  it("lets handlers wait: sleep, timers, channels, files, luv", function()
    open({ count = 1 }, [[
      local znl, uv = require("znl"), require("luv")
      return function(req)
        local channel = znl.channel(1)
        znl.spawn(function() znl.sleep(5) channel:send("from a task") end)
        local one = channel:recv()
        local timed = znl.event()
        znl.timer(5, function() timed:set("from a timer") end)
        local done = znl.event()
        uv.fs_stat(".", function(problem, stat) done:set(problem or stat.type) end)
        return one, timed:wait(30000), (done:wait(30000))
      end]])
    assert.same({ "from a task", "from a timer", "directory" }, { pool:call("v", {}) })
    -- While one waits the same worker answers others.
    shared:set("go", false)
    assert(pool:stage { id = "w", path = "wait.lua", text = [[
      local shared = require("znl").shared("workers-spec")
      return function(req)
        if req.payload == "open" then shared:set("go", true) return "opened" end
        for _ = 1, 3000 do
          if shared:get("go") then return "went" end
          require("znl").sleep(10)
        end
      end]] })
    local results = {}
    together {
      function() results[1] = pool:call("w", { payload = "wait" }) end,
      function() results[2] = pool:call("w", { payload = "open" }) end,
    }
    assert.same({ "went", "opened" }, results)
  end)

  it("counts exactly in a shared dictionary", function()
    open({ count = 3 }, [[
      local shared = require("znl").shared("workers-spec")
      return function() for _ = 1, 1000 do shared:incr("n", 1, 0) end end]])
    local functions = {}
    for index = 1, 30 do functions[index] = function() pool:call("v", {}) end end
    together(functions)
    assert.equal(30000, shared:get("n"))
  end)

  it("ends the wait at the deadline, and tells the handler", function()
    open({ count = 1 }, [[
      local znl = require("znl")
      local shared = znl.shared("workers-spec")
      return function(req)
        shared:set("left", req:remaining_ms() or -1)
        local ok, _, code = znl.sleep(20000)
        shared:set("code", code or "slept")
        shared:set("cancelled", req:cancelled())
        znl.shield(znl.sleep, 200) -- the caller's own clock may be a little behind
        return "late"
      end]])
    local result, _, code
    znl.with_timeout(300, function() result, _, code = pool:call("v", {}) end)
    assert.is_nil(result)
    assert.equal("DEADLINE", code)
    eventually(function() return shared:get("cancelled") ~= nil end, "the handler hears of it")
    assert.equal("DEADLINE", shared:get("code"))
    assert.is_true(shared:get("cancelled"))
    assert.truthy(shared:get("left") > 0 and shared:get("left") <= 300)
    assert.equal(0, pool:counters().at_work)
  end)

  it("cancels the handler when its caller is cancelled", function()
    open({ count = 1 }, [[
      local znl = require("znl")
      local shared = znl.shared("workers-spec")
      return function(req)
        shared:set("begun", true)
        local ok, _, code = znl.sleep(20000)
        shared:set("code", code or "slept")
      end]])
    local token = znl.token()
    local result, code
    znl.spawn(function()
      znl.with(token, function()
        local _
        result, _, code = pool:call("v", {})
      end)
    end)
    eventually(function() return shared:get("begun") end, "the handler begins")
    token:cancel("enough")
    eventually(function() return shared:get("code") ~= nil end, "the handler hears of it")
    assert.equal("CANCELLED", shared:get("code"))
    assert.is_nil(result)
    assert.equal("CANCELLED", code)
  end)

  it("refuses when the workers and the line are full", function()
    open({ count = 1, max_concurrency = 2, queue = 1 }, [[
      local shared = require("znl").shared("workers-spec")
      return function()
        shared:incr("begun", 1, 0)
        while not shared:get("go") do require("znl").sleep(5) end
        return "done"
      end]])
    local results, codes = {}, {}
    local functions = {}
    for index = 1, 5 do
      functions[index] = function()
        local _
        results[index], _, codes[index] = pool:call("v", {})
      end
    end
    functions[6] = function()
      eventually(function() return shared:get("begun") == 2 end, "two begin")
      assert.equal(1, pool:counters().waiting)
      assert.equal(2, pool:counters().at_work)
      shared:set("go", true)
    end
    together(functions)
    assert.same({ "done", "done", "done" }, results)
    assert.equal("OVERLOADED", codes[4])
    assert.equal("OVERLOADED", codes[5])
    assert.equal(3, shared:get("begun"))
    assert.equal(2, pool:counters().overloaded)
    assert.equal(0, pool:counters().waiting)
  end)

  it("stages in all workers or in none", function()
    open({ count = 3 })
    local ok, message, code = pool:stage { id = "v", path = "x.lua", text = "return {\n  handle = 5 }" }
    assert.is_nil(ok)
    assert.equal("FAILED", code)
    assert.equal("x.lua: handle must be a function, not a number", message)
    ok, message = pool:stage { id = "v", path = "x.lua", text = "local x = = 1" }
    assert.is_nil(ok)
    assert.truthy(message:find("x.lua:1:", 1, true))
    -- The second worker to load fails.
    ok, message = pool:stage { id = "v", path = "x.lua", text = [[
      local shared = require("znl").shared("workers-spec")
      return {
        handle = function() end,
        on_load = function() if shared:incr("loads", 1, 0) == 2 then error("not this one") end return {} end,
        on_unload = function() shared:incr("unloads", 1, 0) end,
      }]] }
    assert.is_nil(ok)
    assert.equal("x.lua:4: not this one", message)
    assert.equal("NOT_FOUND", select(3, pool:call("v", {})))
    eventually(function() return shared:get("unloads") == 2 end, "those that loaded unload")
    eventually(function() return pool:counters().versions == 0 end, "the version goes")
    assert.equal(2, shared:get("unloads"))
    -- And the name is free.
    assert.is_true(pool:stage { id = "v", path = "x.lua", text = "return function() return 'fine' end" })
    assert.equal("fine", pool:call("v", {}))
    assert.equal("EXISTS", select(3, pool:stage { id = "v", path = "x.lua", text = "return function() end" }))
  end)

  it("hands state over in each worker, and unloads once in each", function()
    open(nil, [[
      return { handle = function(req, state) return state.loads end,
        on_load = function(previous) return { loads = previous and previous.loads + 1 or 1 } end }]])
    assert.equal(1, (pool:call("v", {})))
    assert(pool:stage { id = "w", path = "w.lua", previous = "v", text = [[
      local shared = require("znl").shared("workers-spec")
      return { handle = function(req, state) return state.loads end,
        on_load = function(previous) return { loads = previous and previous.loads + 1 or 1 } end,
        on_unload = function(state) shared:incr("unloads", state.loads, 0) end }]] })
    assert.equal(2, (pool:call("w", {})))
    assert.equal(1, (pool:call("v", {}))) -- still there until it is retired
    assert.is_true(pool:retire("v"))
    assert.equal("NOT_FOUND", select(3, pool:call("v", {})))
    assert.equal("NOT_FOUND", select(3, pool:retire("v")))
    assert.is_true(pool:retire("w"))
    eventually(function() return shared:get("unloads") == 4 end, "both unload, once")
    eventually(function() return pool:counters().versions == 0 end, "the versions go")
  end)

  it("cuts requests that do not end while their version retires", function()
    open({ count = 1 }, [[
      local znl = require("znl")
      local shared = znl.shared("workers-spec")
      return { handle = function() shared:set("begun", true) znl.sleep(20000) shared:set("slept", true) end,
        on_unload = function() shared:set("unloaded", true) end }]])
    local outcome
    znl.spawn(function() outcome = select("#", pool:call("v", {})) end)
    eventually(function() return shared:get("begun") end, "the request begins")
    assert.is_true(pool:retire("v", 20))
    eventually(function() return shared:get("unloaded") end, "it unloads")
    assert.is_nil(shared:get("slept"))
    eventually(function() return pool:counters().at_work == 0 end, "its request is gone")
    assert.not_equal(0, outcome) -- 0 would be the end of the handler itself
  end)

  -- In a process of its own: what a dead thread leaves behind is a leak, on purpose.
  it("survives workers that die", function()
    local code, text = shell(("ASAN_OPTIONS=detect_leaks=0 timeout 60 %s --log-level off %s %s"):format(
      znlrun, "tests/support/busted.lua", "tests/lua/support/worker_deaths.lua"))
    assert.equal(0, code, text)
    assert.truthy(text:find("3 successes / 0 failures", 1, true), text)
  end)

  it("says what does not work in a worker", function()
    open({ count = 1 }, [[
      local znl = require("znl")
      local calls = {
        exit = function() znl.exit(3) end,
        os_exit = function() os.exit(3) end,
        on_stop = function() require("znl.core.runtime").on_stop(function() end) end,
        master = function() znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" } end,
        slave = function() znl.slave { id = "s" } end,
        signal = function() require("luv").new_signal() end,
        workers = function() znl.workers { count = 1 } end,
        handlers = function() znl.handlers("x.lua") end,
      }
      return function(req)
        local ok, message = pcall(calls[req.payload])
        return ok, message
      end]])
    for _, name in ipairs { "exit", "os_exit", "on_stop", "master", "slave", "signal", "workers", "handlers" } do
      local ok, message = pool:call("v", { payload = name })
      assert.is_false(ok, name)
      assert.truthy(message:find("worker", 1, true), name .. ": " .. tostring(message))
    end
  end)

  it("is not to be used wrongly", function()
    open({ count = 1 })
    assert.has_error(function() pool:call(1, {}) end,
      "znl.workers: call: the id of a version must be a text, not a number")
    assert.has_error(function() pool:call("v", "text") end,
      "znl.workers: call: the request must be a table, not a string")
    local ok, message = pcall(pool.stage, pool, { id = "v", pth = "x" })
    assert.is_false(ok)
    assert.truthy(message:find("did you mean path", 1, true))
    ok, message = pcall(znl.workers, { count = 0 })
    assert.is_false(ok)
    assert.truthy(message:find("1..256", 1, true))
    pool:close()
    pool:close()
    assert.equal("CLOSED", select(3, pool:stage { id = "v", path = "x.lua", text = "return print" }))
    assert.equal("NOT_FOUND", select(3, pool:call("v", {})))
  end)

  it("answers also after notes that nobody had the time to read", function()
    open({ count = 1 }, [[
      local core = require("znl.core.workers")
      local note = { path = "none.lua", deps = {}, versions = {}, modules = {} }
      return function()
        local sent = 0
        for _ = 1, 20000 do sent = sent + (core.note("late", note) and 1 or 0) end
        require("znl").shared("workers-spec"):set("told", true)
        return tostring(sent)
      end]])
    local sent
    local task = znl.spawn(function() sent = pool:call("v", {}) end)
    for _ = 1, 30000 do
      if shared:get("told") then break end
      uv.sleep(1) -- this thread reads nothing meanwhile
    end
    assert.is_true(task:wait(30000) ~= nil or sent ~= nil)
    assert.is_true(tonumber(sent) > 0 and tonumber(sent) < 20000, sent)
  end)

  it("stops with work under way, and leaves nothing behind", function()
    local script = os.tmpname()
    write(script, [[
      local znl = require("znl")
      local pool = znl.workers { count = 2, name = "stop" }
      assert(pool:stage { id = "v", path = "v.lua", text = "return function() require('znl').sleep(60000) end" })
      for _ = 1, 10 do znl.spawn(function() print(select(3, pool:call("v", {}))) end) end
      znl.sleep(50)
      pool:close(20)
      print("closed")]])
    local code, text = shell(("ZNL_LEAK_CHECK=1 timeout 20 %s --log-level error %s"):format(znlrun, script))
    assert.equal(0, code, text)
    assert.truthy(text:find("closed", 1, true), text)
    -- Nobody closes: the end of the script does.
    write(script, [[
      local znl = require("znl")
      local pool = znl.workers { count = 2, name = "end" }
      assert(pool:stage { id = "v", path = "v.lua", text = "return function() return 1 end" })
      assert(pool:call("v", {}) == 1)]])
    code, text = shell(("ZNL_LEAK_CHECK=1 timeout 20 %s %s"):format(znlrun, script))
    assert.equal(0, code, text)
    -- A signal while a handler runs.
    write(script, [[
      local znl = require("znl")
      local pool = znl.workers { count = 2, name = "signal" }
      assert(pool:stage { id = "v", path = "v.lua", text =
        "local z = require('znl') return function() z.shared('x'):set('begun', 1) z.sleep(300) return 'whole' end" })
      znl.spawn(function() print((pool:call("v", {}))) end)
      while not znl.shared("x"):get("begun") do znl.sleep(5) end
      print("up")
      io.stdout:flush()]])
    local log = os.tmpname()
    code, text = shell(await_up .. ([[set -m; ZNL_LEAK_CHECK=1 %s %s >%s 2>&1 & pid=$!
      await_up %s $pid; kill -TERM $pid; wait $pid; code=$?; cat %s; exit $code]])
      :format(znlrun, script, log, log, log))
    os.remove(log)
    assert.equal(0, code, text)
    assert.truthy(text:find("whole", 1, true), text)
    os.remove(script)
  end)

  it("reports a worker that does not stop, and ends all the same", function()
    local script = os.tmpname()
    write(script, [[
      local znl = require("znl")
      local pool = znl.workers { count = 1, name = "stuck" }
      assert(pool:stage { id = "v", path = "v.lua",
        text = "local z = require('znl') return function() z.shared('x'):set('begun', 1) while true do end end" })
      znl.spawn(function() pool:call("v", {}) end)
      while not znl.shared("x"):get("begun") do znl.sleep(5) end
      print("leaving")
      io.stdout:flush()
      znl.exit(7)]])
    local code, text = shell(("timeout 30 %s --watchdog-ms 0 --drain-ms 100 %s"):format(znlrun, script))
    os.remove(script)
    assert.equal(7, code, text)
    assert.truthy(text:find("did not stop", 1, true), text)
    assert.truthy(text:find("ended while a worker was at work", 1, true), text)
  end)

  it("has its handlers watched by the watchdog, too", function()
    open({ count = 1 }, [[
      require("znl.core.runtime").watchdog_ms(100)
      return function(req)
        if req.payload == "loop" then
          local n = 0
          while true do n = n + 1 end
        end
        return "fine"
      end]])
    local result, message, code = pool:call("v", { payload = "loop" })
    assert.is_nil(result)
    assert.truthy(message:find("spec.lua:5: .*interrupted by the watchdog"), message)
    assert.equal("HANDLER_TIMEOUT", code)
    assert.equal("fine", (pool:call("v", {})))
  end)
end)

describe("znl.handlers with workers", function()
  local root, handlers, master, slave
  local shared = znl.shared("workers-spec")

  before_each(function()
    root = folder()
    shared:flush()
  end)

  after_each(function()
    if slave then slave:stop() end
    if master then master:stop() end
    if handlers then
      handlers:close()
      handlers.pool:wait_stopped()
    end
    slave, master, handlers = nil, nil, nil
    os.execute("rm -r " .. root)
  end)

  local function serve(path, opts)
    opts = opts or {}
    opts.workers = opts.workers or 2
    opts.debounce_ms = 5
    handlers = znl.handlers(path, opts)
    master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
    master:handle(handlers)
    assert(master:start())
    slave = znl.slave { id = "s", endpoint = master:endpoint() }
    assert(slave:start())
  end

  local function version(number)
    return ("local version = '%d:'\nreturn function(req) return version .. req.payload end"):format(number)
  end

  it("replaces the version in all workers at once, under load", function()
    local path = root .. "/versions.lua"
    write(path, version(1))
    serve(path, { workers = 3 })
    local serving, over = 1, false
    handlers:on("reload", function() serving = serving + 1 end)
    local sent, lost, wrong = 0, {}, {}
    local function load_it()
      while not over do
        local before = serving
        sent = sent + 1
        local payload = tostring(sent)
        local reply, message = slave:request(payload)
        local got = reply and tonumber(reply:match("^(%d+):"))
        if not reply then
          lost[#lost + 1] = message
        elseif reply:match(":(.*)$") ~= payload or got < before or got > serving + 1 then
          wrong[#wrong + 1] = ("%s when %d to %d"):format(reply, before, serving)
        end
      end
    end
    local functions = {}
    for index = 1, 8 do functions[index] = load_it end
    functions[9] = function()
      for number = 2, 20 do
        write(path, number % 4 == 0 and "this is not Lua" or version(number))
        znl.sleep(10)
        if number % 4 == 0 then write(path, version(number)) end
        local wanted = number
        eventually(function() return serving == wanted end, "version " .. wanted)
      end
      over = true
    end
    together(functions)
    assert.same({}, lost)
    assert.same({}, wrong)
    assert.truthy(sent > 100, "requests: " .. sent)
    assert.equal(20, serving)
    eventually(function() return handlers:counters().workers_versions == 1 end, "old versions go")
    assert.equal(1, handlers:counters().live_versions)
  end)

  it("keeps what is in service when a new version does not load everywhere", function()
    local path = root .. "/careful.lua"
    write(path, "return function() return 'old' end")
    serve(path)
    local failed
    handlers:on("reload_failed", function(message) failed = message end)
    write(path, [[
      local shared = require("znl").shared("workers-spec")
      if shared:incr("loads", 1, 0) == 2 then error("second worker") end
      return function() return 'new' end]])
    eventually(function() return failed end, "it fails")
    assert.truthy(failed:find("careful.lua:2: second worker", 1, true), failed)
    for _ = 1, 4 do assert.equal("old", slave:request("x")) end
    assert.is_true(handlers:reload())
    for _ = 1, 4 do assert.equal("new", slave:request("x")) end
  end)

  it("serves a folder by route, and reloads modules with who uses them", function()
    assert(os.execute("mkdir -p " .. root .. "/users " .. root .. "/lib") == 0)
    write(root .. "/lib/greeting.lua", [[
      require("znl").shared("workers-spec"):incr("modules", 1, 0)
      return { text = "hello" }]])
    write(root .. "/users/[id].msg.lua", [[
      local greeting = require("greeting")
      return function(req) return { greeting = greeting.text, id = req.params.id, name = req.data.name } end]])
    write(root .. "/index.msg.lua", [[
      local greeting = require("greeting")
      return function(req)
        if req.payload == "late" then return require("late_one").text end
        return greeting.text .. " index"
      end]])
    write(root .. "/late_one.lua", "return { text = 'late' }")
    serve(root)
    assert.equal(2, shared:get("modules")) -- once in each worker, for both files
    assert.same({ greeting = "hello", id = "42", name = "x" }, slave:call("/users/42", { name = "x" }))
    assert.equal("hello index", slave:request("x"))
    assert.equal("NOT_FOUND", select(3, slave:call("/nowhere", {})))
    assert.equal("late", slave:request("late"))
    local reloads = 0
    handlers:on("reload", function() reloads = reloads + 1 end)
    write(root .. "/lib/greeting.lua", "return { text = 'goodbye' }")
    eventually(function() return reloads == 2 end, "both files are reloaded")
    assert.same({ greeting = "goodbye", id = "7", name = "y" }, slave:call("/users/7", { name = "y" }))
    assert.equal("goodbye index", slave:request("x"))
    -- A module required only while a request ran is watched as well.
    for _ = 1, 4 do slave:request("late") end
    znl.sleep(50)
    write(root .. "/late_one.lua", "return { text = 'later' }")
    eventually(function() return slave:request("late") == "later" end, "the late module is replaced")
  end)

  it("starts timers of a version in every worker, and ends them with it", function()
    local path = root .. "/timers.lua"
    write(path, [[
      local znl = require("znl")
      local shared = znl.shared("workers-spec")
      znl.every(5, function() shared:incr("ticks", 1, 0) end)
      return function() return "ok" end]])
    serve(path)
    eventually(function() return (shared:get("ticks") or 0) > 5 end, "they tick")
    write(path, "return function() return 'new' end")
    eventually(function() return slave:request("x") == "new" end, "it is replaced")
    znl.sleep(30)
    local ticks = shared:get("ticks")
    znl.sleep(50)
    assert.equal(ticks, shared:get("ticks"))
  end)

  it("keeps the limits of the file", function()
    local path = root .. "/limits.lua"
    write(path, [[
      local shared = require("znl").shared("workers-spec")
      return { max_concurrency = 1, max_queue = 0, handle = function(req)
        shared:incr("begun", 1, 0)
        while not shared:get("go") do require("znl").sleep(5) end
        return "done"
      end }]])
    serve(path)
    local first, code
    together {
      function() first = slave:request("x") end,
      function()
        eventually(function() return shared:get("begun") == 1 end, "one begins")
        local _
        _, _, code = slave:request("x")
        shared:set("go", true)
      end,
    }
    assert.equal("done", first)
    assert.equal("OVERLOADED", code)
  end)

  it("names file and line of a handler that returns what cannot be sent", function()
    write(root .. "/wrong.lua", "local x = 1\n\nreturn function() return x end")
    serve(root .. "/wrong.lua")
    local heard
    master:on("error", function(message) heard = message end)
    local _, _, code = slave:request("x")
    assert.equal("HANDLER_ERROR", code)
    assert.truthy(heard and heard:find("wrong.lua:3", 1, true), tostring(heard))
  end)

  it("is flat over many reloads", function()
    local path = root .. "/many.lua"
    write(path, version(1))
    serve(path)
    for number = 2, 150 do
      write(path, version(number))
      assert.is_true(handlers:reload())
    end
    assert.equal("150:x", slave:request("x"))
    eventually(function() return handlers:counters().workers_versions == 1 end, "old versions go")
    assert.truthy(#handlers.pool.journal.entries < 40, "the journal is short: " .. #handlers.pool.journal.entries)
  end)

  it("stops on a signal with a request under way, and leaves nothing behind", function()
    local path, script, endpoint = root .. "/slow.lua", root .. "/master.lua", "ipc://" .. root .. "/socket"
    write(path, ([[
      return function(req)
        io.open(%q, "w"):close()
        require("znl").sleep(60000)
      end]]):format(root .. "/begun"))
    write(script, ([[
      local znl = require("znl")
      local master = znl.master { id = "m", endpoint = %q }
      master:handle(znl.handlers(%q, { workers = 2 }))
      assert(master:start())]]):format(endpoint, path))
    local code, text = shell(([[
      ZNL_LEAK_CHECK=1 %s %s & master=$!
      timeout 60 %s request %s x --wait-for-peer --timeout 60000 & asker=$!
      while [ ! -e %s/begun ] && kill -0 $master && kill -0 $asker; do sleep 0.02; done
      kill -TERM $master; wait $master; code=$?; kill -TERM $asker; wait $asker; exit $code]])
      :format(znlrun, script, znlrun, endpoint, root))
    assert.equal(0, code, text)
    assert.falsy(text:find("leak", 1, true), text)
  end)
end)
