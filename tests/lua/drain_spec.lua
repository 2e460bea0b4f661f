--- How a node ends: what is at work is finished, or told so. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local uv = has_core and require("luv")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

describe("a node that ends", function()
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

  before_each(function()
    nodes, level = {}, znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, made in ipairs(nodes) do made:stop() end
  end)

  --- Begins a request; gives back a task that ends with what came of it.
  local function ask(slave, payload)
    return assert(znl.spawn(function() return slave:request(payload, { timeout_ms = 5000 }) end))
  end

  local function pair(opts)
    opts.id, opts.endpoint = "drained", "tcp://127.0.0.1:*"
    local master = start("master", opts)
    local slave = start("slave", { id = "asker", endpoint = master:endpoint() })
    master:handle(function() return "known" end)
    assert.equal("known", slave:call("/")) -- by now both know that they read errors
    return master, slave
  end

  local function sleeper(req)
    local ms = tonumber(req.payload) or 0
    znl.sleep(ms)
    return tostring(ms)
  end

  for _, encrypted in ipairs { false, true } do
    it("finishes what is at work and refuses the rest, " .. (encrypted and "encrypted" or "plain"), function()
      local key = encrypted and "a key of this test" or nil
      local master = start("master", {
        id = "drained", endpoint = "tcp://127.0.0.1:*", encrypted = encrypted, auth_key = key,
      })
      master:handle(sleeper)
      local slave = start("slave", {
        id = "asker", endpoint = master:endpoint(), encrypted = encrypted, auth_key = key,
      })
      assert.equal(0, tonumber((slave:call("/", nil, { raw = true }))))
      local first = ask(slave, "200")
      znl.sleep(50)
      local drained = assert(znl.spawn(function() return master:drain(3000) end))
      local _, _, code = slave:request("1")
      assert.equal("STOPPED", code)
      assert.equal("200", first:wait())
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
    master:handle(sleeper)
    local asked = ask(slave, "3000")
    znl.sleep(50)
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
    master:handle(sleeper)
    local first, second = ask(slave, "3000"), ask(slave, "1")
    for _ = 1, 100 do
      if master:counters().queued == 1 then break end
      znl.sleep(10)
    end
    master:stop()
    assert.equal("STOPPED", select(3, first:wait()))
    assert.equal("STOPPED", select(3, second:wait()))
  end)

  it("finishes what is at work when the process is told to end", function()
    local out, ended, text, exit_code = uv.new_pipe(false), znl.event(), "", nil
    local process
    process = assert(uv.spawn(znlrun, {
      args = { "-e", [[
        local znl = require("znl")
        local master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
        master:handle(function() print("at work") io.stdout:flush() znl.sleep(300) return "done" end)
        assert(master:start())
        print(master:endpoint())
        io.stdout:flush()]] },
      stdio = { nil, out, nil },
    }, function(code)
      exit_code = code
      ended:set(true)
      process:close()
    end))
    out:read_start(function(_, piece)
      if piece then text = text .. piece else out:close() end
    end)
    local function await(pattern)
      for _ = 1, 500 do
        local found = text:match(pattern)
        if found then return found end
        znl.sleep(10)
      end
      error("never printed: " .. pattern)
    end
    local slave = start("slave", { id = "asker", endpoint = await("tcp://%S+") })
    local asked = ask(slave, "x")
    await("at work")
    process:kill("sigterm")
    assert.equal("done", asked:wait())
    assert.is_true(ended:wait(5000))
    assert.equal(0, exit_code)
  end)
end)
