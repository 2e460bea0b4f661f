--- How a node ends: what is at work is finished, or told so. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")
local uv = has_core and require("luv")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

describe("a node that ends", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, level, gate

  --- With our own engine: when a connection ends, a DEALER of libzmq forgets what it has received and nobody has read,
  --- and on a busy machine that is the last answer.
  local function start(kind, opts)
    opts.engine = "zmtp"
    local made = znl[kind](opts)
    nodes[#nodes + 1] = made
    assert(made:start())
    return made
  end

  before_each(function()
    nodes, level, gate = {}, znl.log.level(), znl.event()
    znl.log.set_level("off")
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, made in ipairs(nodes) do made:stop() end
  end)

  --- Begins a request; gives back a task that ends with what came of it.
  local function ask(slave, payload)
    return assert(znl.spawn(function() return slave:request(payload, { timeout_ms = 60000 }) end))
  end

  local function pair(opts)
    opts.id, opts.endpoint = "drained", "tcp://127.0.0.1:*"
    local master = start("master", opts)
    local slave = start("slave", { id = "asker", endpoint = master:endpoint() })
    master:handle(function() return "known" end)
    assert.equal("known", slave:call("/")) -- by now both know that they read errors
    return master, slave
  end

  local function waiter(req)
    if req.payload == "wait" then gate:wait(60000) end
    return req.payload
  end

  local function at_work(master)
    eventually(function() return master:counters().handlers == 1 end, "a request is at work")
  end

  for _, encrypted in ipairs { false, true } do
    it("finishes what is at work and refuses the rest, " .. (encrypted and "encrypted" or "plain"), function()
      local key = encrypted and "a key of this test" or nil
      local master = start("master", {
        id = "drained", endpoint = "tcp://127.0.0.1:*", encrypted = encrypted, auth_key = key,
      })
      master:handle(waiter)
      local slave = start("slave", {
        id = "asker", endpoint = master:endpoint(), encrypted = encrypted, auth_key = key,
      })
      assert.equal("", (slave:call("/", nil, { raw = true })))
      local first = ask(slave, "wait")
      at_work(master)
      local drained = assert(znl.spawn(function() return master:drain(60000) end))
      local _, _, code = slave:request("1")
      assert.equal("STOPPED", code)
      gate:set(true)
      assert.equal("wait", first:wait())
      assert.is_true(drained:wait())
      assert.equal(0, master:counters().handlers)
      assert.equal(1, master:counters().refused)
      master:stop()
      assert(master:start()) -- at another port
      local other = start("slave", {
        id = "other", endpoint = master:endpoint(), encrypted = encrypted, auth_key = key,
      })
      assert.equal("1", other:request("1"))
    end)
  end

  it("does not wait for longer than it is told", function()
    local master, slave = pair {}
    master:handle(waiter)
    local asked = ask(slave, "wait")
    at_work(master)
    local ok, message, code = master:drain(50)
    assert.is_nil(ok)
    assert.equal("TIMEOUT", code)
    assert.truthy(message:find("1 requests", 1, true))
    -- Stopped all the same, it tells who waits; also those in the queue.
    master:stop()
    assert.equal("STOPPED", select(3, asked:wait()))
    assert.has_error(function() master:drain(-1) end)
  end)

  it("tells those in the queue", function()
    local master, slave = pair { max_concurrency = 1 }
    master:handle(waiter)
    local first, second = ask(slave, "wait"), ask(slave, "1")
    eventually(function() return master:counters().queued == 1 end)
    master:stop()
    assert.equal("STOPPED", select(3, first:wait()))
    assert.equal("STOPPED", select(3, second:wait()))
  end)

  --- A process that runs `text`; it and what it prints.
  local function run(text, drain_ms)
    local out, it_is = uv.new_pipe(false), { text = "", ended = znl.event() }
    it_is.process = assert(uv.spawn(znlrun, {
      args = { "--drain-ms", tostring(drain_ms), "-e", text }, stdio = { nil, out, nil },
    }, function(code)
      it_is.exit_code = code
      it_is.ended:set(true)
      it_is.process:close()
    end))
    out:read_start(function(_, piece)
      if piece then it_is.text = it_is.text .. piece else out:close() end
    end)
    function it_is.await(pattern)
      return eventually(function() return it_is.text:match(pattern) end, pattern .. " is printed")
    end
    return it_is
  end

  it("finishes what is at work when the process is told to end", function()
    local it_is = run([[
      local znl = require("znl")
      local master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
      master:handle(function() print("at work") io.stdout:flush() znl.sleep(300) return "done" end)
      assert(master:start())
      print(master:endpoint())
      io.stdout:flush()]], 10000)
    local slave = start("slave", { id = "asker", endpoint = it_is.await("tcp://%S+") })
    local asked = ask(slave, "x")
    it_is.await("at work")
    it_is.process:kill("sigterm")
    assert.equal("done", asked:wait())
    assert.is_true(it_is.ended:wait(30000))
    assert.equal(0, it_is.exit_code)
  end)

  it("has as much time when the machine did not let the process run meanwhile", function()
    local it_is = run([[
      local znl = require("znl")
      znl.on_stop(function()
        print("stopping")
        io.stdout:flush()
        znl.sleep(500)
        print("stopped")
      end)
      print("up")
      io.stdout:flush()
      znl.every(60000, function() end)]], 1000)
    it_is.await("up")
    it_is.process:kill("sigterm")
    it_is.await("stopping")
    it_is.process:kill("sigstop")
    znl.sleep(1100)
    it_is.process:kill("sigcont")
    assert.is_true(it_is.ended:wait(30000))
    assert.matches("stopped", it_is.text)
    assert.equal(0, it_is.exit_code)
  end)
end)
