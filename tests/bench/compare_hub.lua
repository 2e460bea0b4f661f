--- compare_hub: hubs, fleets and queues on NATS, beside npm's nats and ws (hub_node.mjs) and nats.c (queue_natsc.c).
---
--- Loaded by run.lua. Each figure stands beside its yardstick, taken in the same round, with a nats-server of its own.
--- SPDX-License-Identifier: MIT

local ffi = require("ffi")
local bench = require("bench")

local opts = bench.opts
local say = bench.say
local SIGKILL = 9

local M = {}

local function node(...) return table.concat({ "node", bench.here .. "hub_node.mjs", ... }, " ") end
local function own(...) return bench.lua("hub.lua", ...) end

--- --- a server ---------------------------------------------------------------------------------

--- Starts one; returns its address, and how to end it. With `folder`, JetStream keeps its files there.
local function nats_server(port, folder)
  local more = folder and (" -js -sd " .. folder) or ""
  local server = bench.start(("sh -c 'exec nats-server -a 127.0.0.1 -p %d%s 2>&1'"):format(port, more))
  bench.await(server, "Server is ready", 20)
  return server, "nats://127.0.0.1:" .. port
end

--- Calls fn(url) with a server of its own.
local function with_server(fn, needs_files)
  local folder = needs_files and bench.command("mktemp -d") or nil
  local server, url = nats_server(bench.port(), folder)
  local values = fn(url)
  bench.stop(server)
  if folder then os.execute("rm -rf " .. folder) end
  return values
end

--- --- broadcasts -------------------------------------------------------------------------------

local function broadcast(program)
  return function()
    return with_server(function(url)
      local receiver = bench.serve(program("receive", url, opts.seconds), 0)
      local publisher = bench.start(bench.pinned(1) .. program("publish", url, opts.seconds + 1))
      local values = bench.fields(bench.await(receiver, "rate=[^\n]+", 30 + opts.seconds))
      local sent = bench.fields(bench.await(publisher, "rate=[^\n]+", 30 + opts.seconds))
      bench.forget(receiver)
      bench.forget(publisher)
      return { received = values.rate, receiver_us = values.cpu_us, published = sent.rate, publisher_us = sent.cpu_us }
    end)
  end
end

local function fan(program, clients)
  return function()
    return with_server(function(url)
      local port = bench.port()
      local hub = bench.serve(program("serve", url, port), 0)
      local readers = bench.serve(own("clients", port, clients, opts.seconds), 1)
      local publisher = bench.start(bench.pinned(1) .. program("publish", url, opts.seconds + 3))
      local values = bench.fields(bench.await(readers, "rate=[^\n]+", 30 + opts.seconds))
      bench.forget(readers)
      bench.stop(publisher)
      bench.stop(hub)
      return { sends = values.rate }
    end)
  end
end

local function broadcasts()
  bench.compare("hub.broadcast.100B.", broadcast(node), broadcast(own), {
    { "received", "msg/s" }, { "published", "msg/s" }, { "receiver_us", "us/msg", "%.2f" },
    { "publisher_us", "us/msg", "%.2f" },
  })
  for _, clients in ipairs { 20, 200 } do
    bench.compare(("hub.fan.100B.%d."):format(clients), fan(node, clients), fan(own, clients), { { "sends", "msg/s" } })
  end
end

--- --- rosters ----------------------------------------------------------------------------------

local MEMBERS, TTL_MS = 10000, 2000

local function changes()
  local seen = bench.rounds()
  for _ = 1, opts.rounds do
    seen.add(with_server(function(url)
      local watcher = bench.serve(own("watch", url), 0)
      local changer = bench.start(bench.pinned(1) .. own("change", url, opts.seconds))
      local values = bench.fields(bench.await(watcher, "p50_us=[^\n]+", 30 + opts.seconds))
      bench.forget(watcher)
      bench.stop(changer)
      return values
    end))
  end
  say("hub.roster.change_seen.p50", seen.median("p50_us"), "us", "%.0f")
  say("hub.roster.change_seen.p99", seen.median("p99_us"), "us", "%.0f")
end

local function fresh()
  local seen = bench.rounds()
  for _ = 1, opts.rounds do
    seen.add(with_server(function(url)
      local holder = bench.serve(own("members", url, MEMBERS, 30000), 0)
      local values = bench.measure(own("fresh", url, MEMBERS), "complete_ms=[^\n]+")
      bench.stop(holder)
      return values
    end))
  end
  say(("hub.roster.new_instance.%d"):format(MEMBERS), seen.median("complete_ms"), "ms")
end

local function kill(process)
  assert(ffi.C.kill(process.pid, SIGKILL) == 0)
  bench.forget(process)
end

local function gone()
  local seen = bench.rounds()
  for _ = 1, opts.rounds do
    seen.add(with_server(function(url)
      local watcher = bench.start(bench.pinned(0) .. own("gone", url, 1000, TTL_MS))
      local holder = bench.serve(own("members", url, 1000, TTL_MS), 1)
      bench.await(watcher, "complete", 20)
      bench.sleep(math.random() * TTL_MS / 1000)
      local killed = bench.now_us()
      kill(holder)
      local at = bench.fields(bench.await(watcher, "gone_us=[^\n]+", 30)).gone_us
      bench.forget(watcher)
      return { share = (at - killed) / 1000 / TTL_MS }
    end))
  end
  say("hub.roster.killed_gone", seen.median("share"), "x_ttl", "%.2f")
end

local function restarted()
  local seen = bench.rounds()
  for _ = 1, opts.rounds do
    local port = bench.port()
    local server, url = nats_server(port)
    local joiner = bench.serve(own("joiner", url, 1000), 0)
    local watcher = bench.start(bench.pinned(1) .. own("restarted", url, 1000))
    bench.await(watcher, "complete\n", 20)
    kill(server)
    bench.sleep(0.3)
    server = nats_server(port)
    seen.add(bench.fields(bench.await(watcher, "complete_ms=[^\n]+", 30)))
    bench.forget(watcher)
    bench.stop(joiner)
    bench.stop(server)
  end
  say("hub.roster.complete_after_restart", seen.median("complete_ms"), "ms")
end

--- --- queues -----------------------------------------------------------------------------------

local MESSAGES = 50000

local function queue(line)
  return function()
    return with_server(function(url) return bench.measure((line:gsub("URL", url))) end, true)
  end
end

local function queues()
  for _, storage in ipairs { "memory", "file" } do
    for _, kind in ipairs { "pull", "push" } do
      bench.compare(("queue.%s.100B.natsc_%s."):format(storage, kind),
        queue(table.concat({ opts.build .. "/bench/queue_natsc", kind, "URL", storage, MESSAGES }, " ")),
        queue(bench.lua("queue.lua", "take", "URL", storage, MESSAGES)),
        { { "rate", "acks/s" }, { "cpu_us", "us/msg", "%.2f" } }, "natsc")
    end
  end
end

function M.run()
  broadcasts()
  changes()
  fresh()
  gone()
  restarted()
  queues()
end

return M
