--- fleet.lua: what the fleet benchmark measures, one process per part.
---
---   znlrun fleet.lua master ID ENDPOINT BUS              a master of the fleet; prints ready
---   znlrun fleet.lua slave ENDPOINT                      answers what it is sent; prints ready
---   znlrun fleet.lua ask ENDPOINT BUS IN_FLIGHT SECONDS  a master of the fleet that asks the slave, wherever it is;
---                                                        prints ready, then the result
---
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local SIZE = 32

local function say(line)
  print(line)
  io.stdout:flush()
end

local function master(id, endpoint, bus)
  local node = znl.master { id = id, endpoint = endpoint, cluster = { bus = bus, name = "bench" } }
  assert(node:start())
  return node
end

local parts = {}

function parts.master(id, endpoint, bus)
  master(id, endpoint, bus)
  say("ready")
end

function parts.slave(endpoint)
  local slave = znl.slave { id = "slave", endpoint = endpoint }
  slave:handle(function(req) return req.payload end)
  assert(slave:start())
  say("ready")
end

function parts.ask(endpoint, bus, in_flight, seconds)
  local node = master("asker", endpoint, bus)
  say("ready")
  while not node:is_online("slave") do znl.sleep(5) end
  znl.sleep(200)
  local payload, latency, errors = measure.payloads(SIZE), measure.latency(), 0
  local begins = measure.now_us() + measure.WARM_UP_US
  local ends = begins + tonumber(seconds) * 1e6
  local group = znl.wait_group()
  for _ = 1, tonumber(in_flight) do
    group:add(1)
    znl.spawn(function()
      local at = measure.now_us()
      while at < ends do
        local sent = payload()
        local ok = node:request("slave", sent, { timeout_ms = 10000 }) == sent
        local now = measure.now_us()
        if not ok then errors = errors + 1 elseif at >= begins then latency:add(now - at) end
        at = now
      end
      group:done()
    end)
  end
  group:wait()
  say(("rate=%.0f p50_us=%.1f p99_us=%.1f errors=%d"):format(
    latency.count / tonumber(seconds), latency:percentile_us(0.5), latency:percentile_us(0.99), errors))
  node:stop()
  znl.exit(0)
end

parts[arg[1]](unpack(arg, 2))
