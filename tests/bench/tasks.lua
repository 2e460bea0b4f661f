--- tasks.lua: what sleeping coroutines and waiting timers cost.
---
---   znlrun tasks.lua sleep  [COUNT]   COUNT coroutines asleep: memory of each
---   znlrun tasks.lua timers [COUNT]   COUNT timers: time and memory to make one, time to stop one
---
--- One measurement per process: memory that another one gave back would hide this one's.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local function rss_bytes()
  local file = assert(io.open("/proc/self/status"))
  local kib = tonumber(file:read("*a"):match("VmRSS:%s*(%d+)"))
  file:close()
  return kib * 1024
end

--- Settles the collector, so that garbage of earlier steps is not counted.
local function settled_bytes()
  collectgarbage()
  collectgarbage()
  return rss_bytes()
end

local run = {}

function run.sleep(count)
  local core = require("znl.core.sched")
  local before = settled_bytes()
  local woken = 0
  local starts = measure.now_us()
  for _ = 1, count do
    core.spawn(function()
      core.sleep(3600000)
      woken = woken + 1
    end)
  end
  local took_us = measure.now_us() - starts
  measure.report {
    { "sleeping", count }, { "ns_each", took_us * 1000 / count, "%.0f" },
    { "bytes_each", (settled_bytes() - before) / count, "%.0f" },
  }
end

function run.timers(count)
  local timers = {}
  for index = 1, count do timers[index] = false end -- the array itself is not a timer's cost
  local before = settled_bytes()
  local function never() error("a timer of an hour fired") end
  local starts = measure.now_us()
  for index = 1, count do timers[index] = znl.timer(3600000 + index % 1000, never) end
  local made_us = measure.now_us() - starts
  local bytes = settled_bytes() - before
  starts = measure.now_us()
  for index = 1, count do timers[index]:stop() end
  local stopped_us = measure.now_us() - starts
  local fired, all = 0, znl.event()
  starts = measure.now_us()
  for _ = 1, count do
    znl.timer(1, function()
      fired = fired + 1
      if fired == count then all:set(true) end
    end)
  end
  assert(all:wait(600000))
  local fired_us = measure.now_us() - starts
  measure.report {
    { "timers", count }, { "make_ns", made_us * 1000 / count, "%.0f" },
    { "stop_ns", stopped_us * 1000 / count, "%.0f" },
    { "make_and_fire_ns", fired_us * 1000 / count, "%.0f" },
    { "bytes_each", bytes / count, "%.0f" },
  }
end

local what = assert(run[arg[1]], "sleep or timers")
what(tonumber(arg[2]) or (arg[1] == "sleep" and 100000 or 1000000))
znl.exit(0)
