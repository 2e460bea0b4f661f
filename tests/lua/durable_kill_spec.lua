--- Workers of a queue that are killed at every step, again and again: nothing that was acknowledged to who pushed it
--- is lost, and only what was at work comes twice.
--- SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local nats_server = require("support.nats_server")
local uv = require("luv")
local znl = require("znl")

local KILLS = 50
local STEPS = { "before_receive", "in_handler", "before_ack", "after_ack" }
local PER_WORKER = 7

describe("a queue whose workers are killed", function()
  local server, level, running

  setup(function()
    level = znl.log.level()
    znl.log.set_level("off")
    server = nats_server.start { jetstream = true }
  end)

  before_each(function() running = {} end)

  after_each(function()
    for process in pairs(running) do process:kill("sigkill") end
    eventually(function() return next(running) == nil end)
  end)

  teardown(function()
    server:remove()
    znl.log.set_level(level)
  end)

  --- Runs a worker to its end; calls `on_line(word, rest, process)` for what it says.
  ---@return integer code
  ---@return integer signal
  local function run(name, step, count, ack_wait_ms, on_line)
    local output, ended = uv.new_pipe(), znl.event()
    local process, is_closed, code, signal = nil, false, nil, nil
    process = assert(uv.spawn(uv.exepath(), {
      args = {
        "--log-level", "off", "--drain-ms", "800", "tests/lua/support/durable_child.lua", server.url, name, step,
        tostring(count), tostring(ack_wait_ms),
      },
      stdio = { nil, output, 2 },
    }, function(its_code, by)
      code, signal = its_code, by
      running[process] = nil
      process:close()
      if is_closed then ended:set(true) end
    end))
    running[process] = true
    local rest = ""
    output:read_start(function(_, data)
      if data == nil then
        output:close()
        is_closed = true
        if not running[process] then ended:set(true) end
        return
      end
      rest = (rest .. data):gsub("([^\n]*)\n", function(line)
        local word, rest_of_line = line:match("^(%S+) ?(.*)$")
        on_line(word, rest_of_line, process)
        return ""
      end)
    end)
    assert(ended:wait(60000))
    return code, signal
  end

  local function run_and_die(...)
    local _, signal = run(...)
    assert.equal(9, signal)
  end

  it("loses nothing in " .. KILLS .. " kills, and repeats only what was at work", function()
    local queue = znl.queue("kills", { bus = server.url })
    assert(queue:start())
    local kept, pushed, is_over = {}, 0, false
    local pusher = znl.spawn(function()
      while not is_over do
        if queue:info().messages < 100 then
          pushed = pushed + 1
          local data = ("m%d"):format(pushed)
          if queue:push(data) then kept[#kept + 1] = data end
        else
          znl.sleep(5)
        end
      end
    end)
    local done, kills, at_work_when_killed = {}, {}, {}
    for index = 1, KILLS do
      local step = STEPS[index % #STEPS + 1]
      local began = {}
      run_and_die("kills", step, PER_WORKER, 1000, function(word, data)
        if word == "begin" then
          began[data] = true
        elseif word == "done" then
          done[data] = (done[data] or 0) + 1
        end
      end)
      -- Acknowledgements go out at the end of a turn: those of this worker may all be lost, unless it waited.
      for data in pairs(step ~= "after_ack" and began or {}) do at_work_when_killed[data] = true end
      kills[step] = (kills[step] or 0) + 1
    end
    is_over = true
    pusher:wait()
    queue:handle(function(message)
      done[message.data] = (done[message.data] or 0) + 1
    end, { ack_wait_ms = 1000, max_deliver = 0 })
    eventually(function() return queue:info().messages == 0 end)
    queue:stop()

    for _, step in ipairs(STEPS) do assert.is_true(kills[step] >= 12, step) end
    assert.is_true(#kept > 0)
    for _, data in ipairs(kept) do assert.truthy(done[data], data .. " is lost") end
    local twice = 0
    for data, times in pairs(done) do
      if times > 1 then
        twice = twice + 1
        assert.truthy(at_work_when_killed[data], data .. " was not at work, and came twice")
      end
    end
    assert.is_true(twice > 0) -- or the kills hit nothing
  end)

  it("does not repeat what was acknowledged before the kill", function()
    local queue = znl.queue("acked", { bus = server.url })
    assert(queue:start())
    for index = 1, 12 do assert(queue:push(("m%d"):format(index))) end
    local done = {}
    for _ = 1, 4 do
      run_and_die("acked", "after_ack", 3, 1000, function(word, data)
        if word == "done" then done[data] = (done[data] or 0) + 1 end
      end)
    end
    eventually(function() return queue:info().messages == 0 end)
    for index = 1, 12 do assert.equal(1, done[("m%d"):format(index)], index) end
    queue:stop()
  end)

  it("gets back at once what a worker that is told to end is not through with", function()
    local queue = znl.queue("told", { bus = server.url })
    assert(queue:start())
    for index = 1, 6 do assert(queue:push(("m%d"):format(index))) end
    local began = 0
    local code, signal = run("told", "none", 100, 600000, function(word, _, process)
      if word ~= "begin" then return end
      began = began + 1
      if began == 4 then process:kill("sigterm") end
    end)
    assert.same({ 0, 0, 4 }, { code, signal, began })
    local again = {}
    queue:handle(function(message) again[message.data] = message.deliveries end, {
      ack_wait_ms = 600000, max_deliver = 0,
    })
    eventually(function() return queue:info().messages == 0 end)
    local times = {}
    for index = 1, 6 do times[index] = again[("m%d"):format(index)] end
    assert.same({ 2, 2, 2, 2, 1, 1 }, times)
    queue:stop()
  end)
end)
