--- The watchdog as a user meets it: what a looping script, handler or reload comes to.
--- SPDX-License-Identifier: MIT

local await_up = require("support.await_up")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

--- Runs a script of ours with a short budget; returns its exit code and all it printed.
local function run(text, options)
  local path = os.tmpname()
  local handle = assert(io.open(path, "w"))
  handle:write(text)
  handle:close()
  local pipe = assert(io.popen(("( timeout 30 %s %s %s ) 2>&1; echo \"exit $?\""):format(
    znlrun, options or "--watchdog-ms 100", path)))
  local out = pipe:read("*a")
  pipe:close()
  os.remove(path)
  local printed, code = out:match("^(.*)exit (%d+)\n$")
  return tonumber(code), printed, path
end

local runtime = require("znl.core.runtime")
local works, why = runtime.watchdog_ms(1000)
runtime.watchdog_ms(0)

describe("the watchdog", function()
  if not works then
    pending("does not work here: " .. why)
    return
  end

  it("ends a script that loops, and names its line", function()
    local code, out, path = run("local n = 0\nwhile true do\n  n = n + 1\nend")
    assert.equal(1, code, out)
    assert.truthy(out:match("znlrun: " .. path:gsub("%p", "%%%0") ..
      ":[23]: ran for 100 ms without waiting: interrupted by the watchdog"), out)
  end)

  it("leaves a script alone that waits now and then", function()
    local code, out = run([[
      local znl = require("znl")
      local started = os.clock()
      while os.clock() - started < 0.5 do
        local x = 0
        for i = 1, 1e5 do x = x + i end
        znl.sleep(0)
      end
      print("done", znl.core.runtime.counters().interrupted)]])
    assert.equal(0, code, out)
    assert.equal("done\t0\n", out)
  end)

  it("interrupts nothing with --watchdog-ms 0", function()
    local code, out = run([[
      local started = os.clock()
      while os.clock() - started < 0.4 do end
      print("done", require("znl.core.runtime").watchdog_ms())]], "--watchdog-ms 0")
    assert.equal(0, code, out)
    assert.equal("done\t0\n", out)
  end)

  it("lets a library function return before it raises", function()
    local code, out, path = run([[
      local znl = require("znl")
      local options = require("znl.options")
      while true do options.read({ a = { type = "integer", default = 1 } }, {}, "x") end]])
    assert.equal(1, code, out)
    assert.truthy(out:find("znlrun: " .. path .. ":3: ran for 100 ms", 1, true), out)
  end)

  it("interrupts a handler; the node goes on serving", function()
    local code, out = run([[
      local znl = require("znl")
      local endpoint = "inproc://watchdog"
      local m = znl.master { id = "m", endpoint = endpoint }
      local failed
      m:on("error", function(message) failed = message end)
      m:handle(function(req)
        if req.payload == "loop" then
          while true do end
        end
        return "echo: " .. req.payload
      end)
      assert(m:start())
      local s = znl.slave { id = "s", endpoint = endpoint }
      assert(s:start())
      print(assert(s:request("one")))
      local answer, message, code = s:request("loop", { timeout_ms = 5000 })
      print("loop", answer, code, message:match("ran for 100 ms without waiting"))
      print(assert(s:request("two")))
      print("error", failed and failed:match(":8: ran for 100 ms without waiting") ~= nil)
      s:stop()
      m:stop()]])
    assert.equal(0, code, out)
    assert.truthy(out:find(
      "echo: one\n.*loop\tnil\tHANDLER_TIMEOUT\tran for 100 ms without waiting\necho: two\n"), out)
    assert.truthy(out:find("error\ttrue", 1, true), out)
  end)

  it("interrupts on_load; the reload fails and the old version serves", function()
    local path = os.tmpname() .. ".lua"
    local function write(text)
      local handle = assert(io.open(path, "w"))
      handle:write(text)
      handle:close()
    end
    write("return function() return 'old' end")
    local code, out = run(([[
      local znl = require("znl")
      local h = znl.handlers(%q, { debounce_ms = 60000 })
      local call
      h:attach(function(fn) call = fn end)
      local file = assert(io.open(%q, "w"))
      file:write("return { handle = function() return 'new' end,\n  on_load = function()\n")
      file:write("    while true do end\n  end }")
      file:close()
      local ok, message, code = h:reload()
      print(ok, code, message)
      print(call({ payload = "" }))
      h:close()]]):format(path, path))
    os.remove(path)
    os.remove((path:gsub("%.lua$", "")))
    assert.equal(0, code, out)
    assert.truthy(out:find("nil\tRELOAD_FAILED\t" .. path .. ":3: ran for 100 ms", 1, true), out)
    assert.truthy(out:find("\nold\n", 1, true), out)
  end)

  it("works after the script has used LuaJIT's profiler", function()
    local code, out = run([[
      local profile, samples = require("jit.profile"), 0
      profile.start("fi1", function(_, n) samples = samples + n end)
      local started = os.clock()
      while os.clock() - started < 0.05 do tostring(1) end
      profile.stop()
      print(samples > 0)
      for i = 1, 1e18 do end]])
    assert.equal(1, code, out)
    assert.truthy(out:find("true\n", 1, true), out)
    assert.truthy(out:find(":7: ran for 100 ms without waiting", 1, true), out)
  end)

  it("does not stand in the way of a second signal", function()
    local log = os.tmpname()
    -- The second one is repeated: signals that come before the first is taken are one.
    local pipe = assert(io.popen(await_up .. ([[exec 2>/dev/null; set -m
      %s --watchdog-ms 0 -e 'print("up") io.stdout:flush() while true do end' >%s &
      pid=$!; await_up %s $pid; kill -INT $pid
      while sleep 0.1 && kill -INT $pid; do :; done; wait $pid; echo "exit $?"]]):format(znlrun, log, log)))
    local out = pipe:read("*a")
    pipe:close()
    os.remove(log)
    assert.truthy(out:find("exit 130", 1, true), out)
  end)

  it("lets the first signal stop a script that loops", function()
    local log = os.tmpname()
    local pipe = assert(io.popen(await_up .. ([[exec 2>/dev/null; set -m; %s --watchdog-ms 400 -e '
      local znl = require("znl")
      znl.on_stop(function() print("stopped in order") end)
      print("up") io.stdout:flush()
      pcall(function() while true do end end)
      znl.sleep(300)' >%s & pid=$!
      await_up %s $pid; kill -INT $pid; wait $pid; echo "exit $?"; cat %s]]):format(znlrun, log, log, log)))
    local out = pipe:read("*a")
    pipe:close()
    os.remove(log)
    assert.truthy(out:find("stopped in order", 1, true), out)
  end)

  it("refuses a budget that is none", function()
    assert.has_error(function() runtime.watchdog_ms(-1) end)
    assert.has_error(function() runtime.watchdog_ms("x") end)
    local code, out = run("", "--watchdog-ms soon")
    assert.equal(2, code)
    assert.truthy(out:find("0..3600000", 1, true), out)
  end)
end)

