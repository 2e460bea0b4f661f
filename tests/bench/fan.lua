--- fan.lua: publish and push. raw_fan.c and wire_slaves.c are other ends for it, in C.
---
---   fan.lua publish   ENDPOINT plain|encrypted SIZE SECONDS SLAVES   master; prints the result
---   fan.lua subscribe ENDPOINT plain|encrypted SLAVES                that many slaves
---   fan.lua collect   ENDPOINT plain|encrypted                       master that counts pushes
---   fan.lua push      ENDPOINT plain|encrypted SIZE SECONDS          slave; prints the result
---
--- Neither message is acknowledged. So the sender sends a batch, then asks for a sign that it has arrived; four
--- batches overlap. The slaves are in one process: the first one answers a request "N" once all have had message
--- N, with what all have had so far, and how much of it was not the next in order. The rate is taken from the
--- first sign within the measured time to the last. What is missing at the end is reported as lost.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local ffi = require("ffi")
local measure = require("measure")
local znl = require("znl")

local what, endpoint, mode = arg[1], arg[2], arg[3]
local LANES, WARM_UP_US = 4, 300000
local TIMEOUT = { timeout_ms = 10000 }

--- Payloads begin with their number, eight bytes.
local number_of = ffi.typeof("const uint64_t *")

local function payload_number(payload) return tonumber(ffi.cast(number_of, payload)[0]) end

--- Sends batches with `send()`, each followed by `sync(number)`, in LANES coroutines; then prints the result.
--- `sync` returns what has arrived and what was out of order, or nil when it was not answered.
local function batches(receivers, seconds, send, sync, finish)
  local batch = receivers >= 500 and 16 or 128
  local starts = measure.now_us() + WARM_UP_US
  local ends = starts + seconds * 1e6
  local sent, refused, lanes, measured = 0, 0, LANES, 0
  local first_us, last_us, first_cpu, last_cpu = 0, 0, 0, 0
  local function arrived(now)
    if now < starts or now > ends then return end
    last_us, last_cpu = now, os.clock()
    if first_us == 0 then
      first_us, first_cpu = last_us, last_cpu
    else
      measured = measured + batch
    end
  end
  local function lane()
    while measure.now_us() < ends do
      for _ = 1, batch do refused = refused + send() end
      sent = sent + batch
      if not sync(sent) then break end -- the count at the end will tell
      arrived(measure.now_us())
    end
    lanes = lanes - 1
    if lanes > 0 then return end
    local received, disorder = sync(0)
    local total = measured * receivers
    measure.report {
      { "sent", sent }, { "rate", total > 0 and total / (last_us - first_us) * 1e6 or 0, "%.0f" },
      { "sender_us", total > 0 and (last_cpu - first_cpu) / total * 1e6 or 0, "%.4f" },
      { "refused", refused }, { "lost", sent * receivers - (received or 0) }, { "disorder", disorder or 0 },
    }
    finish()
  end
  for _ = 1, LANES do znl.spawn(lane) end
end

--- Reads "total disorder".
local function counts(answer)
  local total, disorder = (answer or ""):match("^(%d+) (%d+)$")
  return tonumber(total), tonumber(disorder)
end

--- Counts messages with their numbers: how many have come, and how many of them were not the next.
local function counter()
  local self = { last = 0, total = 0, disorder = 0 }
  function self.add(payload)
    local number = payload_number(payload)
    self.total = self.total + 1
    if number ~= self.last + 1 then self.disorder = self.disorder + 1 end
    self.last = number
  end
  return self
end

local run = {}

function run.publish()
  local size, seconds, wanted = tonumber(arg[4]), tonumber(arg[5]), tonumber(arg[6])
  local master = znl.master(measure.options("bench-master", endpoint, mode))
  assert(master:start())
  print("ready " .. endpoint)
  io.stdout:flush()
  while #master:slaves() < wanted do znl.sleep(10) end
  local payload = measure.payloads(size)
  local function send()
    local _, dropped = assert(master:publish("bench", payload()))
    return dropped
  end
  local function sync(number)
    return counts((master:request("bench-1", ("%d"):format(number), TIMEOUT)))
  end
  batches(wanted, seconds, send, sync, function()
    master:publish("end", "")
    znl.sleep(200)
    master:stop()
  end)
end

function run.subscribe()
  local wanted = tonumber(arg[4])
  local slaves, counters, passed, waiting = {}, {}, {}, {}

  --- A slave has had message `number`; who waits for it goes on when it was the last one.
  local function pass(number)
    passed[number] = (passed[number] or 0) + 1
    if passed[number] < wanted then return end
    passed[number] = nil
    waiting[number] = waiting[number] or znl.event()
    waiting[number]:set()
  end

  local function answer(req)
    local number = tonumber(req.payload)
    if number > 0 then
      waiting[number] = waiting[number] or znl.event()
      waiting[number]:wait(TIMEOUT.timeout_ms)
      waiting[number] = nil
    end
    local total, disorder = 0, 0
    for _, each in ipairs(counters) do
      total, disorder = total + each.total, disorder + each.disorder
    end
    return ("%d %d"):format(total, disorder)
  end

  local batch = wanted >= 500 and 16 or 128
  for i = 1, wanted do
    local slave = znl.slave(measure.options("bench-" .. i, endpoint, mode))
    local mine = counter()
    slave:subscribe("bench", function(payload)
      mine.add(payload)
      if mine.last % batch == 0 then pass(mine.last) end
    end)
    if i == 1 then slave:handle(answer) end
    slave:subscribe("end", function() slave:stop() end)
    assert(slave:start())
    slaves[i], counters[i] = slave, mine
  end
end

function run.collect()
  local master = znl.master(measure.options("bench-master", endpoint, mode))
  local mine = counter()
  master:on("push", function(_, _, payload) mine.add(payload) end)
  master:handle(function() return ("%d %d"):format(mine.total, mine.disorder) end)
  assert(master:start())
  print("ready " .. endpoint)
  io.stdout:flush()
end

function run.push()
  local size, seconds = tonumber(arg[4]), tonumber(arg[5])
  local slave = znl.slave(measure.options("bench-1", endpoint, mode))
  assert(slave:start())
  assert(slave:request("0", TIMEOUT)) -- connected
  local payload = measure.payloads(size)
  local function send() return slave:push("bench", payload()) and 0 or 1 end
  local function sync() return counts((slave:request("0", TIMEOUT))) end
  batches(1, seconds, send, sync, function() slave:stop() end)
end

assert(run[what], "publish, subscribe, collect or push")()
