--- measure: what the benchmark scripts share. Needs LuaJIT's ffi; no part of the library.
--- SPDX-License-Identifier: MIT

local ffi = require("ffi")
local znl = require("znl")

ffi.cdef [[
  struct measure_timespec { long sec; long nsec; };
  int clock_gettime(int clock, struct measure_timespec *out);
]]

local M = {}

--- What runs before the measured time.
M.WARM_UP_US = 500000

--- Both ends of an encrypted run use this key; it protects nothing.
M.KEY = "a key for benchmarks only"

local now = ffi.new("struct measure_timespec")

--- Monotonic microseconds with a fraction.
function M.now_us()
  ffi.C.clock_gettime(1, now)
  return tonumber(now.sec) * 1e6 + tonumber(now.nsec) * 1e-3
end

--- Latencies: counts in steps of 0.25 µs up to 262 ms; longer ones count in the last step.
local STEP_US, STEPS = 0.25, 2 ^ 20

local Latency = {}
Latency.__index = Latency

function M.latency()
  return setmetatable({ steps = ffi.new("uint32_t[?]", STEPS), count = 0 }, Latency)
end

function Latency:add(us)
  local step = math.floor(us / STEP_US)
  if step >= STEPS then step = STEPS - 1 end
  self.steps[step] = self.steps[step] + 1
  self.count = self.count + 1
end

--- The latency that `share` (0..1) of the samples do not exceed, µs; 0 without samples.
function Latency:percentile_us(share)
  local wanted, seen = math.floor(share * self.count), 0
  for step = 0, STEPS - 1 do
    seen = seen + self.steps[step]
    if seen > wanted then return (step + 1) * STEP_US end
  end
  return 0
end

--- Returns a function that makes a payload of `size` bytes, never the same twice: a running
--- number, then bytes of a pool. LuaJIT interns strings; equal ones would flatter it.
function M.payloads(size)
  local POOL = 65536
  local pool = ffi.new("uint8_t[?]", POOL + size)
  local scratch = ffi.new("uint8_t[?]", math.max(size, 8))
  local number = ffi.new("uint64_t[1]")
  local head = math.min(size, 8)
  for i = 0, POOL + size - 1 do pool[i] = math.random(0, 255) end
  return function()
    number[0] = number[0] + 1
    ffi.copy(scratch, pool + tonumber(number[0] * 61 % POOL), size)
    ffi.copy(scratch, number, head)
    return ffi.string(scratch, size)
  end
end

--- Options of both roles for a run: plain or encrypted with digests.
function M.options(id, endpoint, mode, more)
  assert(mode == "plain" or mode == "encrypted", "mode must be plain or encrypted")
  local options = { id = id, endpoint = endpoint, encrypted = mode == "encrypted" }
  if options.encrypted then
    options.auth_key = M.KEY
    options.require_digest = true
  end
  for name, value in pairs(more or {}) do options[name] = value end
  return options
end

--- Prints one line of key=value, in the order given: { { "name", value, "%.2f" }, ... }.
function M.report(fields)
  local words = {}
  for _, field in ipairs(fields) do
    words[#words + 1] = ("%s=" .. (field[3] or "%d")):format(field[1], field[2])
  end
  print(table.concat(words, " "))
  io.stdout:flush()
end

--- Runs `ask(number)` in `in_flight` tasks until the time is over, prints the figures, calls finish().
--- `ask` returns what went wrong, or nil.
function M.load(in_flight, seconds, ask, finish)
  local now_us, latency = M.now_us, M.latency()
  local starts = now_us() + M.WARM_UP_US
  local ends = starts + seconds * 1e6
  local open, errors, number = in_flight, 0, 0
  local cpu_starts, first_error
  for _ = 1, in_flight do
    znl.spawn(function()
      local asked = now_us()
      while asked < ends do
        number = number + 1
        local problem = ask(number)
        local answered = now_us()
        if problem then
          errors = errors + 1
          first_error = first_error or problem
          break
        elseif answered >= starts and answered < ends then
          latency:add(answered - asked)
        end
        if cpu_starts == nil and answered >= starts then cpu_starts = os.clock() end
        asked = answered
      end
      open = open - 1
      if open > 0 then return end
      local cpu = os.clock() - (cpu_starts or 0)
      if first_error then io.stderr:write("load: ", first_error, "\n") end
      M.report {
        { "rate", latency.count / seconds, "%.0f" }, { "p50_us", latency:percentile_us(0.5), "%.1f" },
        { "p99_us", latency:percentile_us(0.99), "%.1f" }, { "cpu_s", cpu, "%.3f" },
        { "total", number }, { "errors", errors },
      }
      finish()
    end)
  end
end

return M
