--- compare_cluster: leader and follower beside the npm package cluster-client (cluster_npm.cjs).
---
--- Loaded by run.lua. Each figure stands beside its yardstick, taken in the same round.
--- SPDX-License-Identifier: MIT

local ffi = require("ffi")
local bench = require("bench")

ffi.cdef [[ int kill(int pid, int signal); ]]

local opts = bench.opts
local SIGKILL = 9
local FLEET = 10

local M = {}

local function node(...) return table.concat({ "node", bench.here .. "cluster_npm.cjs", ... }, " ") end
local function own(...) return bench.lua("cluster.lua", ...) end

--- Runs a part against a leader of the same kind; the leader's CPU goes by calls or deliveries.
local function against_leader(program, part, pattern, ...)
  local words = { ... }
  return function()
    local port = bench.port()
    local leader = bench.serve(program("lead", port), 0)
    local before = bench.cpu_s(leader)
    local values = bench.measure(program(part, port, unpack(words)), pattern)
    if values.total > 0 then values.leader_us = (bench.cpu_s(leader) - before) / values.total * 1e6 end
    bench.stop(leader)
    return values
  end
end

local function compare(prefix, columns, ...)
  bench.compare(prefix, against_leader(node, ...), against_leader(own, ...), columns)
end

local function calls()
  local COLUMNS = {
    { "rate", "calls/s" }, { "p50_us", "us" }, { "p99_us", "us" }, { "leader_us", "us/call", "%.2f" },
  }
  for _, kind in ipairs { "string", "object", "buffer" } do
    for _, in_flight in ipairs(bench.list(opts.in_flight)) do
      compare(("cluster.call.%s.%d."):format(kind, in_flight), COLUMNS,
        "call", "rate=[^\n]+", kind, in_flight, opts.seconds)
    end
  end
end

local function fans()
  local COLUMNS = {
    { "deliveries", "values/s" }, { "leader_us", "us/value", "%.2f" }, { "lost", "values" }, { "disorder", "values" },
  }
  for _, followers in ipairs { 1, 10, 50 } do
    compare(("cluster.fan.140B.%d."):format(followers), COLUMNS,
      "fan", "deliveries=[^\n]+", followers, opts.seconds)
  end
end

--- When each process first saw this leader: the latest of these moments, µs; nil until all have.
local function all_saw(fleet, leader)
  local latest = 0
  local pattern = ("leader=%d at_us=(%%d+)"):format(leader)
  for _, process in ipairs(fleet) do
    local at = (bench.read(process.out) or ""):match(pattern)
    if not at then return nil end
    latest = math.max(latest, tonumber(at))
  end
  return latest
end

--- The leader a process saw last.
local function leader_of(process)
  local leader
  for pid in (bench.read(process.out) or ""):gmatch("leader=(%d+) at_us=%d+\n") do leader = tonumber(pid) end
  return leader
end

--- Waits until all processes of the fleet agree on a leader other than `gone`; returns it, and since when.
local function settled(fleet, gone)
  for _ = 1, 3000 do
    local leader = leader_of(fleet[1])
    local since = leader and leader ~= gone and all_saw(fleet, leader)
    if since then return leader, since end
    bench.sleep(0.01)
  end
  bench.fail(fleet[1], "the fleet did not agree on a leader within 30 s")
end

--- Kills the leader of a fleet, again and again. Over when every process has heard from the new
--- leader's real client: it has registered, subscribed, and got a value.
local function failover(program)
  local port, fleet = bench.port(), {}
  for number = 1, FLEET do fleet[number] = bench.start(program("member", port)) end
  local leader = settled(fleet)
  local times = {}
  for round = 1, opts.rounds do
    local gone = leader
    for place, process in ipairs(fleet) do
      if process.pid == gone then
        table.remove(fleet, place)
        bench.forget(process)
        break
      end
    end
    local killed = bench.now_us()
    assert(ffi.C.kill(gone, SIGKILL) == 0)
    local since
    leader, since = settled(fleet, gone)
    times[round] = (since - killed) / 1000
    fleet[FLEET] = bench.start(program("member", port))
    settled(fleet)
    bench.sleep(0.2) -- the start of a process is no part of the next round
  end
  for _, process in ipairs(fleet) do bench.stop(process) end
  return { all_ready_ms = bench.median(times), slowest_ms = math.max(unpack(times)) }
end

local function failovers()
  for name, program in pairs { node = node, znlrun = own } do
    local values = failover(program)
    bench.say(("cluster.failover.%d.%s.all_ready"):format(FLEET, name), values.all_ready_ms, "ms")
    bench.say(("cluster.failover.%d.%s.slowest"):format(FLEET, name), values.slowest_ms, "ms")
  end
end

function M.run()
  calls()
  fans()
  failovers()
end

return M
