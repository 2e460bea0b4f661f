--- compare_fleet: a request to a slave of another master beside one to a slave of the master that asks.
---
--- Loaded by run.lua. Both in the same round, with the same processes. SPDX-License-Identifier: MIT

local bench = require("bench")

local opts = bench.opts
local M = {}

local function own(...) return bench.lua("fleet.lua", ...) end

--- Asks a slave that is with the asker, or with another master.
local function ask(is_direct, in_flight)
  return function()
    local port = bench.port()
    local bus = "nats://127.0.0.1:" .. port
    local server = bench.serve(("nats-server -a 127.0.0.1 -p %d"):format(port), 0, "")
    local waiting = ("until (exec 3<>/dev/tcp/127.0.0.1/%d) 2>/dev/null; do sleep 0.02; done"):format(port)
    bench.command(("timeout 10 bash -c '%s'"):format(waiting))
    local endpoints = { bench.endpoint(), bench.endpoint() }
    local other = bench.serve(own("master", "other", endpoints[1], bus), 0)
    local slave = bench.serve(own("slave", is_direct and endpoints[2] or endpoints[1]), 0)
    local values = bench.measure(own("ask", endpoints[2], bus, in_flight, opts.seconds))
    bench.stop(slave)
    bench.stop(other)
    bench.stop(server)
    return values
  end
end

--- Prints both, and what the way through another master adds.
function M.run()
  for _, in_flight in ipairs(bench.list(opts.in_flight)) do
    local direct, through, added = bench.rounds(), bench.rounds(), bench.rounds()
    for _ = 1, opts.rounds do
      local near, far = ask(true, in_flight)(), ask(false, in_flight)()
      direct.add(near)
      through.add(far)
      added.add { p50_us = far.p50_us - near.p50_us, p99_us = far.p99_us - near.p99_us }
    end
    local name = ("fleet.request.32B.%d."):format(in_flight)
    for _, column in ipairs { { "rate", "requests/s" }, { "p50_us", "us" }, { "p99_us", "us" } } do
      bench.say(name .. "direct." .. column[1], direct.median(column[1]), column[2], "%.0f")
      bench.say(name .. "through." .. column[1], through.median(column[1]), column[2], "%.0f")
    end
    bench.say(name .. "added.p50_us", added.median("p50_us"), "us", "%.0f")
    bench.say(name .. "added.p99_us", added.median("p99_us"), "us", "%.0f")
  end
end

return M
