--- client.lua ENDPOINT plain|encrypted SIZE IN_FLIGHT SECONDS: a slave that keeps IN_FLIGHT
--- requests open, each in a coroutine, and checks each answer. Prints one line of key=value.
--- client.lua ENDPOINT plain|encrypted once: one request, then the end; to time a start.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local endpoint, mode = arg[1], arg[2]
local WARM_UP_US = 300000
local TIMEOUT = { timeout_ms = 5000 }

if arg[3] == "once" then
  local slave = znl.slave(measure.options("bench-once", endpoint, mode))
  assert(slave:start())
  assert(assert(slave:request("hello")) == "hello")
  slave:stop()
  return
end

local size, in_flight, seconds = tonumber(arg[3]), tonumber(arg[4]), tonumber(arg[5])
local slave = znl.slave(measure.options("bench-client", endpoint, mode,
  { max_pending = in_flight + 1 }))
assert(slave:start())
assert(slave:request("first", TIMEOUT)) -- connected

local now_us, next_payload, latency = measure.now_us, measure.payloads(size), measure.latency()
local starts = now_us() + WARM_UP_US
local ends = starts + seconds * 1e6
local total, errors, open, cpu_starts = 1, 0, in_flight, nil
local first_error

local function finish()
  local cpu = os.clock() - (cpu_starts or 0)
  measure.report {
    { "requests", latency.count }, { "total", total }, { "seconds", seconds, "%.3f" },
    { "rate", latency.count / seconds, "%.0f" },
    { "p50_us", latency:percentile_us(0.5), "%.2f" },
    { "p99_us", latency:percentile_us(0.99), "%.2f" },
    { "cpu_s", cpu, "%.3f" }, { "errors", errors },
  }
  if first_error then io.stderr:write("client.lua: ", first_error, "\n") end
  slave:stop()
end

local function ask_until_the_end()
  local asked = now_us()
  while asked < ends do
    local payload = next_payload()
    local reply, message = slave:request(payload, TIMEOUT)
    local answered = now_us()
    total = total + 1
    if reply ~= payload then
      errors = errors + 1
      first_error = first_error or message or "an answer differs from its request"
    elseif answered >= starts and answered < ends then
      latency:add(answered - asked)
    end
    if cpu_starts == nil and answered >= starts then cpu_starts = os.clock() end
    asked = answered
  end
  open = open - 1
  if open == 0 then finish() end
end

for _ = 1, in_flight do znl.spawn(ask_until_the_end) end
