--- compare_micro: the micro protocol beside the least that Node must do for the same (ws_echo.mjs).
---
--- Loaded by run.lua. Each figure stands beside its yardstick, taken in the same round.
--- SPDX-License-Identifier: MIT

local bench = require("bench")

local opts = bench.opts
local say, fields, await = bench.say, bench.fields, bench.await
local start, stop, pinned = bench.start, bench.stop, bench.pinned
local serve, measure, compare = bench.serve, bench.measure, bench.compare

local M = {}

local NODE = "node " .. bench.here .. "ws_echo.mjs"
local CONNECTIONS = 100

local function micro(...) return bench.lua("micro.lua", ...) end

--- Our registry and a provider; returns the registry's port and both.
local function fleet(addresses)
  local port = bench.port()
  local registry = serve(micro("registry", port, addresses or 0), 0)
  return port, registry, serve(micro("provider", port), 0)
end

local RATE = { { "rate", "/s" } }
local CALL = { { "rate", "calls/s" }, { "p50_us", "us" }, { "p99_us", "us" } }

--- Runs `client` against a server of Node.
local function with_node(client)
  return function()
    local port = bench.port()
    local server = serve(NODE .. " serve " .. port, 0, "port=%d+")
    local values = measure(NODE .. " " .. client:gsub("PORT", port))
    stop(server)
    return values
  end
end

local function with_fleet(...)
  local words, addresses = { ... }, nil
  return function()
    local port, registry, provider = fleet(addresses)
    local values = measure(micro(words[1], port, unpack(words, 2)))
    stop(provider)
    stop(registry)
    return values
  end
end

local function calls()
  for _, in_flight in ipairs(bench.list(opts.in_flight)) do
    compare(("micro.call.200B.%d."):format(in_flight),
      with_node(("call PORT 200 %d %s"):format(in_flight, opts.seconds)),
      with_fleet("call", in_flight, opts.seconds), CALL)
  end
end

--- Lookups in a registry of few and of many addresses.
local function finds()
  local wanted = ("find PORT %d 10 %s"):format(CONNECTIONS, opts.seconds)
  for _, addresses in ipairs { 0, 100000 } do
    compare(("micro.find.%d_addresses."):format(addresses), with_node(wanted), function()
      local port = bench.port()
      local registry = serve(micro("registry", port, addresses), 0)
      local values = measure(micro("find", port, CONNECTIONS, 10, opts.seconds))
      stop(registry)
      return values
    end, CALL)
  end
end

local function streams()
  compare("micro.stream.200B.", with_node(("stream PORT 200 %s"):format(opts.seconds)),
    with_fleet("stream", opts.seconds), RATE)
end

--- Memory of a producer whose consumer stops reading.
local function stall()
  local port, registry, provider = fleet()
  local before = bench.rss_kib(provider)
  local consumer = start(micro("stall", port, 10))
  await(consumer, "reading", 20)
  bench.sleep(2)
  local early = bench.rss_kib(provider)
  bench.sleep(6)
  say("micro.stall.producer_rss_before", before, "KiB", "%.0f")
  say("micro.stall.producer_rss_after_2s", early, "KiB", "%.0f")
  say("micro.stall.producer_rss_after_8s", bench.rss_kib(provider), "KiB", "%.0f")
  stop(consumer)
  stop(provider)
  stop(registry)
end

--- Memory of a registry for each connection.
local function idle()
  local port = bench.port()
  local registry = serve(micro("registry", port), 0)
  local before = bench.rss_kib(registry)
  local clients = start(micro("idle", port, opts.slaves))
  await(clients, "connected", 120)
  bench.sleep(1)
  say("micro.idle.rss_per_connection", (bench.rss_kib(registry) - before) / opts.slaves, "KiB")
  local cpu = bench.cpu_s(registry)
  bench.sleep(20)
  say("micro.idle.cpu", (bench.cpu_s(registry) - cpu) / 20 * 100, "%_of_a_core")
  stop(clients)
  stop(registry)
end

--- Calls among applications that know each other, while their registry is killed and starts again.
local function restart()
  local SERVICES, SECONDS, DOWN_SECONDS = 50, 8, 1
  local port = bench.port()
  local registry = serve(micro("registry", port), 0)
  local services = serve(micro("services", port, SERVICES), 0)
  local caller = start(pinned(1) .. micro("calls", port, SERVICES, SECONDS))
  await(caller, "calling", 20)
  bench.sleep(1.5)
  bench.kill(registry)
  bench.sleep(DOWN_SECONDS)
  registry = serve(micro("registry", port), 0)
  local listed = measure(micro("listed", port, SERVICES), "listed_ms=%d+")
  local values = fields(await(caller, "rate=[^\n]+", SECONDS + 20))
  bench.forget(caller)
  say("micro.restart.calls", values.total, "calls", "%.0f")
  say("micro.restart.failed", values.errors, "calls", "%.0f")
  say("micro.restart.all_listed_after", listed.listed_ms, "ms", "%.0f")
  stop(services)
  stop(registry)
end

function M.run()
  calls()
  finds()
  streams()
  stall()
  restart()
  idle()
end

return M
