--- workers.lua: a handler that computes for a while, on the loop and in worker threads, and a light
--- handler beside it.
---
---   znlrun workers.lua WORKERS [HEAVY_US [SECONDS [IN_FLIGHT]]]   prints the result
---
--- One process serves two masters: one with the heavy handler, run by WORKERS threads (0: on the
--- loop), one with a light handler on the loop. A second process keeps IN_FLIGHT heavy requests open;
--- a third sends a light one every LIGHT_PAUSE_MS, which takes next to nothing of the processor from
--- them. Both check the answers.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local uv = require("luv")
local znl = require("znl")

local WARM_UP_US = 500000
local LIGHT_PAUSE_MS = 2

local function client_main(endpoint, id, seconds, in_flight, pause_ms)
  local slave = znl.slave { id = id, endpoint = endpoint, max_pending = in_flight + 1 }
  assert(slave:start())
  assert(slave:request("first"))
  local latency = measure.latency()
  local starts = measure.now_us() + WARM_UP_US
  local ends = starts + seconds * 1e6
  local open, errors = in_flight, 0
  for _ = 1, in_flight do
    znl.spawn(function()
      while measure.now_us() < ends do
        local asked = measure.now_us()
        local reply = slave:request("x", { timeout_ms = 20000 })
        local answered = measure.now_us()
        if reply ~= "x" then errors = errors + 1 end
        if asked >= starts and answered < ends then latency:add(answered - asked) end
        if pause_ms > 0 then znl.sleep(pause_ms) end
      end
      open = open - 1
      if open > 0 then return end
      measure.report {
        { "rate", latency.count / seconds, "%.0f" }, { "p50_us", latency:percentile_us(0.5), "%.0f" },
        { "p99_us", latency:percentile_us(0.99), "%.0f" }, { "errors", errors },
      }
      slave:stop()
    end)
  end
end

if arg[1] == "client" then
  client_main(arg[2], arg[3], tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6]))
  return
end

local workers, heavy_us = tonumber(arg[1] or 0), tonumber(arg[2] or 50)
local seconds, in_flight = tonumber(arg[3] or 4), tonumber(arg[4] or 64)

--- Rounds of a loop that take about a microsecond each here, so that both runs do the same work.
local HEAVY = [[
local rounds = %d
return function(req)
  local x = #req.payload
  for i = 1, rounds do x = (x * 1103515245 + 12345) %% 2147483648 end
  if x < 0 then return "never" end
  return req.payload
end
]]

local function rounds_for(us)
  local work = assert(loadstring(HEAVY:format(100000)))()
  for _ = 1, 5 do work { payload = "x" } end
  local starts = measure.now_us()
  for _ = 1, 20 do work { payload = "x" } end
  return math.floor(us / ((measure.now_us() - starts) / 20 / 100000))
end

local folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/znl-workers-XXXXXX"))
local path = folder .. "/heavy.lua"
local rounds = tonumber(os.getenv("ZNL_BENCH_ROUNDS")) or rounds_for(heavy_us)
local file = assert(io.open(path, "w"))
file:write(HEAVY:format(rounds))
file:close()

local heavy = znl.master { id = "heavy", endpoint = "tcp://127.0.0.1:*" }
heavy:handle(znl.handlers(path, workers > 0 and { workers = workers } or nil))
assert(heavy:start())
local light = znl.master { id = "light", endpoint = "tcp://127.0.0.1:*" }
light:handle(function(req) return req.payload end)
assert(light:start())

local function client(endpoint, id, open, pause_ms)
  local out, text, ended = uv.new_pipe(false), "", znl.event()
  local process
  process = assert(uv.spawn(uv.exepath(), {
    args = { arg[0], "client", endpoint, id, tostring(seconds), tostring(open), tostring(pause_ms) },
    stdio = { nil, out, 2 },
  }, function() process:close() end))
  out:read_start(function(_, data)
    if data then
      text = text .. data
      return
    end
    out:close()
    ended:set(text)
  end)
  return function()
    local values = {}
    for name, value in assert(ended:wait(60000)):gmatch("([%w_]+)=(%S+)") do values[name] = tonumber(value) end
    return values
  end
end

local of_heavy = client(heavy:endpoint(), "c-heavy", in_flight, 0)
local of_light = client(light:endpoint(), "c-light", 1, LIGHT_PAUSE_MS)
local h, l = of_heavy(), of_light()
measure.report {
  { "workers", workers }, { "rounds", rounds }, { "heavy_rate", h.rate, "%.0f" }, { "heavy_p50_us", h.p50_us, "%.0f" },
  { "heavy_p99_us", h.p99_us, "%.0f" }, { "light_rate", l.rate, "%.0f" }, { "light_p50_us", l.p50_us, "%.0f" },
  { "light_p99_us", l.p99_us, "%.0f" }, { "errors", h.errors + l.errors },
}
heavy:stop()
light:stop()
os.remove(path)
uv.fs_rmdir(folder)
znl.exit(0)
