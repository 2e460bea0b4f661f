--- The command line, as a person meets it: what is printed, and the exit code.
--- SPDX-License-Identifier: MIT

local await_up = require("support.await_up")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

--- Runs a shell command; returns its exit code and all it printed. The loop waits meanwhile.
local function shell(command)
  local pipe = assert(io.popen("( " .. command .. " ) 2>&1; echo \"exit $?\"", "r"))
  local out = pipe:read("*a")
  pipe:close()
  local text, code = out:match("^(.*)exit (%d+)\n$")
  return tonumber(code), text
end

local function run(arguments, input)
  local feed = input and ("printf '%%s' '%s' | "):format(input) or ""
  return shell(feed .. "timeout 20 " .. znlrun .. " " .. arguments)
end

local function file(content)
  local path = os.tmpname()
  local handle = assert(io.open(path, "w"))
  handle:write(content)
  handle:close()
  return path
end

describe("znlrun", function()
  it("runs a script with its arguments", function()
    local path = file("io.write(arg[1], ' ', (select(2, ...)), ' ', arg[0] ~= nil and 'named' or '')")
    local code, text = run(path .. " one two")
    os.remove(path)
    assert.equal(0, code)
    assert.equal("one two named", text)
  end)

  it("runs a chunk and standard input", function()
    local code, text = run("-e 'io.write(1 + 1, ...)' x")
    assert.equal("2x", text)
    assert.equal(0, code)
    code, text = run("-", "print(7)")
    assert.equal("7\n", text)
    assert.equal(0, code)
  end)

  it("names the versions of its libraries", function()
    local code, text = run("--version")
    assert.equal(0, code)
    for _, name in ipairs { "znlrun", "luajit", "libuv", "libzmq", "libsodium", "libcrypto" } do
      assert.truthy(text:find("\n?" .. name .. " %d"), name)
    end
  end)

  it("prints a traceback with the user's line and ends with 1", function()
    local path = file("local function deep()\n  error('broken')\nend\ndeep()\n")
    local code, text = run(path)
    os.remove(path)
    assert.equal(1, code)
    assert.truthy(text:find(path .. ":2: broken", 1, true))
    assert.truthy(text:find(path .. ":4: in main chunk\n      deep()", 1, true))
    assert.truthy(text:find("in function 'deep'\n      error('broken')\n", 1, true))
  end)

  it("checks a script without running it", function()
    local path = file("print('ran')\nlocal x = = 1\n")
    local code, text = run("--check " .. path)
    os.remove(path)
    assert.equal(1, code)
    assert.truthy(text:find(path .. ":2:", 1, true))
    assert.falsy(text:find("ran\n", 1, true))
  end)

  it("refuses wrong options by name, value and what is allowed", function()
    for arguments, expected in pairs {
      ["--nope"] = "--nope",
      ["--log-level loud x.lua"] = "loud.*trace, debug, info, warn, error or off",
      ["--log-format xml x.lua"] = "xml.*json",
      ["--drain-ms -1 x.lua"] = "%-1.*0..3600000",
      [""] = "no script",
    } do
      local code, text = run(arguments)
      assert.equal(2, code, arguments)
      assert.truthy(text:find(expected), arguments .. ": " .. text)
    end
  end)

  it("says which option may have been meant", function()
    for given, meant in pairs {
      ["--lgo-level=debug"] = "--log-level", ["--log-levle"] = "--log-level", ["--drainms"] = "--drain-ms",
      ["--wathcdog-ms 5"] = "--watchdog-ms", ["--hlep"] = "--help",
    } do
      local code, text = run(given .. " x.lua")
      assert.equal(2, code, given)
      assert.truthy(text:find("is not an option; did you mean " .. meant .. "?", 1, true), text)
    end
    for _, given in ipairs { "--nope", "-x", "--" .. ("long"):rep(500), "--=x", "--x" } do
      local code, text = run(given .. " x.lua")
      assert.equal(2, code, given)
      assert.falsy(text:find("did you mean", 1, true), text)
    end
  end)

  it("says which member of znl may have been meant", function()
    local path = file("local znl = require('znl')\nznl.hanlders('x.lua')\n")
    local code, text = run(path)
    os.remove(path)
    assert.equal(1, code)
    assert.truthy(text:find(path .. ":2: znl has no member hanlders; did you mean handlers?", 1, true), text)
    code, text = run("-e 'print(pcall(function() return require(\"znl\").blancmange end))'")
    assert.equal(0, code)
    assert.truthy(text:find("znl has no member blancmange\n", 1, true), text)
  end)

  it("says which file is missing", function()
    local code, text = run("no-such-file.lua")
    assert.equal(1, code)
    assert.truthy(text:find("no-such-file.lua", 1, true))
  end)

  it("stops cleanly on SIGTERM and SIGINT", function()
    for _, signal in ipairs { "TERM", "INT" } do
      -- A shell without job control starts background jobs with SIGINT ignored: ask for it.
      local log = os.tmpname()
      local code, text = shell(await_up .. ([[set -m; ZNL_LEAK_CHECK=1 %s -e '
        local znl = require("znl")
        local m = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
        assert(m:start())
        print("up")
        io.stdout:flush()' >%s 2>&1 & pid=$!
        await_up %s $pid; kill -%s $pid; wait $pid; code=$?; cat %s; exit $code]])
        :format(znlrun, log, log, signal, log))
      os.remove(log)
      assert.equal(0, code, signal .. ": " .. text)
      assert.truthy(text:find("up", 1, true))
    end
  end)

  it("runs a stock hub", function()
    local handler = file("return { on_message = function(ctx, message) ctx:send('stock', message.payload) end }")
    local log = os.tmpname()
    local code, text = shell(await_up .. ([[
      znlrun=%s log=%s
      trap 'cat $log' EXIT
      export ZNL_LEAK_CHECK=1
      $znlrun scripts/hub.lua --app stock --handlers %s --listen 127.0.0.1:0 >$log 2>&1 & hub=$!
      await_up $log $hub
      port=$(sed -n 's/.*hub is up.* port=\([0-9]*\).*/\1/p' $log)
      $znlrun -e '
        local znl = require("znl")
        local conn = assert(znl.websocket.connect("ws://127.0.0.1:'$port'/ws"))
        conn:send([=[{"type":"say","payload":"hello"}]=])
        print(assert(conn:recv(30000)))
        conn:close()'
      kill -TERM $hub; wait $hub || exit 11]]):format(znlrun, log, handler))
    os.remove(handler)
    os.remove(log)
    assert.equal(0, code, text)
    assert.truthy(text:find('{"type":"stock","payload":"hello"}', 1, true)
      or text:find('{"payload":"hello","type":"stock"}', 1, true), text)
  end)

  it("explains scripts/hub.lua", function()
    local code, text = run("scripts/hub.lua --help")
    assert.equal(0, code)
    assert.truthy(text:find("--handlers", 1, true))
    for wrong, said in pairs {
      ["--app a.b --handlers /none"] = "option app", ["--app a --handlers /none"] = "/none", ["--app a"] = "--handlers",
      ["--app a --handlers / --ttl-ms x"] = "--ttl-ms", ["--app a --handlers / --tls-key k"] = "go together",
    } do
      code, text = run("scripts/hub.lua " .. wrong)
      assert.are_not.equal(0, code)
      assert.truthy(text:find(said, 1, true), text)
    end
  end)

  it("runs the stock roles", function()
    local handler = file("return function(req) return 'stock: ' .. req.payload end")
    local socket = os.tmpname()
    local endpoint = "ipc://" .. socket .. ".sock"
    local code, text = shell(await_up .. ([[
      znlrun=%s with='--endpoint %s --handlers %s' log=%s
      trap 'cat $log.m $log.s; rm $log.m $log.s' EXIT
      export ZNL_LEAK_CHECK=1
      $znlrun scripts/master.lua $with >$log.m 2>&1 & master=$!
      $znlrun scripts/slave.lua --id s1 $with >$log.s 2>&1 & slave=$!
      await_up $log.m $master; await_up $log.s $slave
      $znlrun -e '
        local znl = require("znl")
        local s = znl.slave { id = "asker", endpoint = "%s" }
        assert(s:start())
        print(assert(s:request("hello")))
        s:stop()'
      kill -TERM $slave; wait $slave || exit 11
      kill -TERM $master; wait $master || exit 12]]):format(znlrun, endpoint, handler, socket, endpoint))
    os.remove(handler)
    os.remove(socket)
    assert.equal(0, code, text)
    assert.truthy(text:find("stock: hello", 1, true), text)
  end)

  for _, script in ipairs { "master", "slave" } do
    it("explains scripts/" .. script .. ".lua", function()
      local code, text = run("scripts/" .. script .. ".lua --help")
      assert.equal(0, code)
      assert.truthy(text:find("--endpoint", 1, true))
      code, text = run("scripts/" .. script .. ".lua --id x --nope")
      assert.are_not.equal(0, code)
      assert.truthy(text:find("--nope", 1, true))
    end)
  end

  for _, example in ipairs {
    "hello.lua", "concurrency.lua", "workers.lua", "router.lua", "websocket.lua",
    "quickstart/run.lua", "handlers/run.lua", "micro/run.lua", "shared_config/run.lua",
    "chat/run.lua",
  } do
    it("runs examples/" .. example .. " and leaves nothing open", function()
      local code, text = shell("ZNL_LEAK_CHECK=1 timeout 60 " .. znlrun .. " examples/" .. example)
      assert.equal(0, code, text)
    end)
  end
end)
