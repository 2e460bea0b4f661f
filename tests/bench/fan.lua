--- fan.lua: publish and push.
---
---   fan.lua publish   ENDPOINT plain|encrypted SIZE SECONDS SLAVES   master; prints the result
---   fan.lua subscribe ENDPOINT plain|encrypted SLAVES                that many slaves
---   fan.lua collect   ENDPOINT plain|encrypted                       master that counts pushes
---   fan.lua push      ENDPOINT plain|encrypted SIZE SECONDS          slave; prints the result
---
--- Neither message is acknowledged. So the sender sends a batch, then asks with a request for
--- the count: both travel in order on one connection, so the answer covers the whole batch. Four
--- batches overlap. What is missing at the end is reported as lost.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local what, endpoint, mode = arg[1], arg[2], arg[3]
local BATCH, LANES, WARM_UP_US = 128, 4, 300000
local TIMEOUT = { timeout_ms = 10000 }

--- Runs `send()` in batches, each followed by `sync()`, in LANES coroutines until `ends`; then
--- calls finish(sent messages, messages within the measured time, CPU seconds).
local function batches(seconds, send, sync, finish)
  local starts = measure.now_us() + WARM_UP_US
  local ends = starts + seconds * 1e6
  local sent, counted, lanes, cpu = 0, 0, LANES, nil
  for _ = 1, LANES do
    znl.spawn(function()
      local now = measure.now_us()
      while now < ends do
        for _ = 1, BATCH do send() end
        sent = sent + BATCH
        sync()
        local before = now
        now = measure.now_us()
        if before >= starts and now < ends then counted = counted + BATCH end
        if cpu == nil and now >= starts then cpu = os.clock() end
      end
      lanes = lanes - 1
      if lanes == 0 then finish(sent, counted, os.clock() - (cpu or 0)) end
    end)
  end
end

local run = {}

function run.publish()
  local size, seconds, wanted = tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6])
  local master = znl.master(measure.options("bench-master", endpoint, mode))
  assert(master:start())
  print("ready " .. endpoint)
  io.stdout:flush()
  while #master:slaves() < wanted do znl.sleep(10) end
  local payload, refused = measure.payloads(size), 0
  local function send()
    local _, dropped = assert(master:publish("bench", payload()))
    refused = refused + dropped
  end
  --- Each slave answers in its own time; ask all, then wait for all.
  local function sync()
    local left, done, received = wanted, znl.event(), 0
    for i = 1, wanted do
      znl.spawn(function()
        local reply = master:request("bench-" .. i, "count", TIMEOUT)
        received = received + (tonumber(reply) or 0)
        left = left - 1
        if left == 0 then done:set() end
      end)
    end
    done:wait(TIMEOUT.timeout_ms * 2)
    return received
  end
  batches(seconds, send, sync, function(sent, counted, cpu)
    local received = sync()
    measure.report {
      { "sent", sent }, { "slaves", wanted }, { "rate", counted / seconds, "%.0f" },
      { "deliveries", counted * wanted / seconds, "%.0f" }, { "cpu_s", cpu, "%.3f" },
      { "refused", refused }, { "lost", sent * wanted - received },
    }
    master:publish("end", "")
    znl.sleep(200)
    master:stop()
  end)
end

function run.subscribe()
  local slaves = {}
  for i = 1, tonumber(arg[4]) do
    local slave = znl.slave(measure.options("bench-" .. i, endpoint, mode))
    local count = 0
    slave:subscribe("bench", function() count = count + 1 end)
    slave:handle(function() return tostring(count) end)
    slave:subscribe("end", function() slave:stop() end)
    assert(slave:start())
    slaves[i] = slave
  end
end

function run.collect()
  local master = znl.master(measure.options("bench-master", endpoint, mode))
  local count = 0
  master:on("push", function() count = count + 1 end)
  master:handle(function() return tostring(count) end)
  assert(master:start())
  print("ready " .. endpoint)
  io.stdout:flush()
end

function run.push()
  local size, seconds = tonumber(arg[4]), tonumber(arg[5])
  local slave = znl.slave(measure.options("bench-1", endpoint, mode))
  assert(slave:start())
  assert(slave:request("count", TIMEOUT)) -- connected
  local payload, refused = measure.payloads(size), 0
  local function send()
    if not slave:push("bench", payload()) then refused = refused + 1 end
  end
  local function sync() return tonumber((slave:request("count", TIMEOUT))) or 0 end
  batches(seconds, send, sync, function(sent, counted, cpu)
    measure.report {
      { "sent", sent }, { "rate", counted / seconds, "%.0f" }, { "cpu_s", cpu, "%.3f" },
      { "refused", refused }, { "lost", sent - sync() },
    }
    slave:stop()
  end)
end

assert(run[what], "publish, subscribe, collect or push")()
