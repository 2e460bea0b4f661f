--- compare_engine: raw libzmq in C, znlrun on libzmq, znlrun on its own engine; docs/PERFORMANCE.md.
---
--- Loaded by run.lua. In each round every variant runs once, so that a slow minute of the machine meets all of them;
--- each figure is divided by that of raw libzmq of the same round, and medians are taken of figures and of ratios.
--- SPDX-License-Identifier: MIT

local bench = require("bench")

local opts = bench.opts
local note, median = bench.note, bench.median

local M = {}

local raw_echo, raw_fan = opts.build .. "/bench/raw_echo", opts.build .. "/bench/raw_fan"
local wire_slaves, link_echo = opts.build .. "/bench/wire_slaves", opts.build .. "/bench/link_echo"

local MANY, MANY_MAX_ROUNDS, HEARTBEAT_MS, BEATS_S = 10000, 3, 3000, 9

local ENGINES = bench.list(opts.engines)

--- One of our scripts on an engine.
local function own(engine, ...) return "env ZNL_ENGINE=" .. engine .. " " .. bench.lua(...) end

--- --- figures ----------------------------------------------------------------------------------

--- "rpc.32.100" -> "raw" -> "rate" -> { median, least, most, ratio = { median, least, most } }
local results

local function spread(values)
  local middle = median(values) -- sorts
  return { middle, values[1], values[#values] }
end

--- Runs the variants of a group, round by round, and keeps what they measured. `variants` is an array of
--- { name, function that returns figures }; the first is the yardstick. `units` says what is printed.
local function measure(group, variants, units, rounds)
  local seen, ratios = {}, {}
  for _ = 1, rounds or opts.rounds do
    local yardstick
    for _, variant in ipairs(variants) do
      local name, figures = variant[1], variant[2]()
      yardstick = yardstick or figures
      seen[name], ratios[name] = seen[name] or bench.rounds(), ratios[name] or bench.rounds()
      seen[name].add(figures)
      local divided = {}
      for key, value in pairs(figures) do
        if yardstick[key] and yardstick[key] > 0 then divided[key] = value / yardstick[key] end
      end
      ratios[name].add(divided)
    end
  end
  local kept = {}
  for _, variant in ipairs(variants) do
    local name = variant[1]
    kept[name] = {}
    for key, values in pairs(seen[name].names()) do
      kept[name][key] = spread(values)
      local divided = ratios[name].names()[key]
      if divided then kept[name][key].ratio = spread(divided) end
    end
    for _, unit in ipairs(units) do
      local figure = kept[name][unit[1]]
      if figure then
        local label = table.concat({ group, name, unit[1] }, ".")
        bench.say(label, figure[1], unit[2], unit[3])
        if figure.ratio and name ~= variants[1][1] then
          bench.say(label .. "_ratio", figure.ratio[1], "x_" .. variants[1][1])
        end
      end
    end
  end
  results[group] = kept
end

--- --- requests -----------------------------------------------------------------------------------

local ECHO = {
  { "rate", "req/s", "%.0f" }, { "p50_us", "us" }, { "p99_us", "us" }, { "server_us", "us/req" },
  { "client_us", "us/req" },
}

--- The same requests with both ends of a kind. `core`: both processes on that one.
local function both_ends(size, in_flight, core)
  local load = ("%d %d %s"):format(size, in_flight, opts.seconds)
  local variants = {
    { "raw", function()
      return bench.echo("raw " .. load, raw_echo .. " server @", raw_echo .. " client @ " .. load, core)
    end },
  }
  for _, mode in ipairs { "plain", "encrypted" } do
    for _, engine in ipairs(ENGINES) do
      table.insert(variants, { engine .. "_" .. mode, function()
        return bench.echo(("%s %s %s"):format(engine, mode, load), own(engine, "server.lua", "@", mode),
          own(engine, "client.lua", "@", mode, load), core)
      end })
    end
  end
  return variants
end

local function rpc()
  for _, size in ipairs(bench.list(opts.sizes ~= "" and opts.sizes or "32,1024,65536")) do
    for _, in_flight in ipairs(bench.list(opts.in_flight)) do
      measure(("rpc.%d.%d"):format(size, in_flight), both_ends(size, in_flight), ECHO)
    end
  end
end

--- Two processes, all their threads on one core: what a request costs when nothing runs beside it.
local function one_core()
  measure("one_core.32.1", both_ends(32, 1, 0), ECHO)
end

--- Servers of several kinds for one and the same client, that of raw libzmq; and the engine alone.
local function router()
  for _, in_flight in ipairs { 100, 1000 } do
    local load = ("32 %d %s"):format(in_flight, opts.seconds)
    local function with_raw_client(name, server)
      return { name, function()
        return bench.echo(name .. " " .. load, server, raw_echo .. " client @ " .. load)
      end }
    end
    local variants = { with_raw_client("raw", raw_echo .. " server @") }
    for _, engine in ipairs(ENGINES) do
      table.insert(variants, with_raw_client(engine .. "_lua", own(engine, "server.lua", "@", "plain")))
      local alone = ("%s server %s @"):format(link_echo, engine)
      table.insert(variants, with_raw_client(engine .. "_c", alone))
      table.insert(variants, { engine .. "_c_both", function()
        return bench.echo(engine .. " in C " .. load, alone, ("%s client %s @ %s"):format(link_echo, engine, load))
      end })
    end
    measure("router.32." .. in_flight, variants, ECHO)
  end
end

--- --- one way --------------------------------------------------------------------------------------

local ONE_WAY = {
  { "rate", "msg/s", "%.0f" }, { "sender_us", "us/msg", "%.3f" }, { "receiver_us", "us/msg", "%.3f" },
  { "refused", "msg", "%.0f" }, { "lost", "msg", "%.0f" }, { "disorder", "msg", "%.0f" },
}

--- A message to all slaves. Who receives is the same for all senders in the first two groups, so that the sender is
--- what is compared: DEALERs of libzmq, and bare sockets that cost next to nothing; in the third both ends are of a
--- kind. The rate counts messages that have arrived.
local function publish()
  for _, slaves in ipairs { 1, 50, 1000 } do
    local load = ("plain 32 %s %d"):format(opts.seconds, slaves)
    local senders = { { "raw", ("%s send @ %d 32 %s"):format(raw_fan, slaves, opts.seconds) } }
    for _, engine in ipairs(ENGINES) do
      table.insert(senders, { engine, own(engine, "fan.lua", "publish @", load) })
    end
    local subscribe = "subscribe @ plain " .. slaves
    local receivers = {
      { "dealers", function() return ("%s receive @ %d"):format(raw_fan, slaves) end },
      { "sockets", function() return ("%s receive @ %d"):format(wire_slaves, slaves) end },
      { "own", function(sender)
        if sender == "raw" then return ("%s receive @ %d"):format(raw_fan, slaves) end
        return own(sender, "fan.lua", subscribe)
      end },
    }
    for _, receiver in ipairs(receivers) do
      local group, variants = ("publish.%s.%d"):format(receiver[1], slaves), {}
      for i, sender in ipairs(senders) do
        variants[i] = { sender[1], function()
          return bench.one_way(group .. " " .. sender[1], sender[2], receiver[2](sender[1]), "server", slaves)
        end }
      end
      measure(group, variants, ONE_WAY)
    end
  end
end

local function push()
  local variants = {
    { "raw", function()
      return bench.one_way("push raw", raw_fan .. " collect @", ("%s push @ 32 %s"):format(raw_fan, opts.seconds),
        "client")
    end },
  }
  for _, mode in ipairs { "plain", "encrypted" } do
    for _, engine in ipairs(ENGINES) do
      table.insert(variants, { engine .. "_" .. mode, function()
        return bench.one_way(("push %s %s"):format(engine, mode), own(engine, "fan.lua", "collect @", mode),
          own(engine, "fan.lua", "push @", mode, "32", opts.seconds), "client")
      end })
    end
  end
  measure("push.32", variants, ONE_WAY)
end

--- --- many slaves ----------------------------------------------------------------------------------

local MASTERS = { { "raw", raw_echo .. " server @" } }
for _, engine in ipairs(ENGINES) do
  table.insert(MASTERS, { engine, own(engine, "server.lua", "@", "plain", MANY + 1) })
end

--- What the kernel keeps for sockets, KiB: its small objects, and the bytes that wait in them.
local function kernel_kib()
  local slab = tonumber(bench.read("/proc/meminfo"):match("Slab:%s*(%d+)"))
  local pages = tonumber(bench.read("/proc/net/sockstat"):match("TCP:[^\n]* mem (%d+)"))
  return slab + pages * 4
end

--- Starts a master, ready.
local function start_master(line)
  local at = bench.endpoint()
  return bench.serve(line:gsub("@", at), 0), at
end

--- So many slaves connect, register, and beat every three seconds.
local function hold(line, heartbeat_ms, seconds)
  local master, at = start_master(line)
  bench.sleep(0.5)
  local idle_kib, idle_kernel_kib = bench.rss_kib(master), kernel_kib()
  local slaves = bench.start(("%s%s hold %s %d %d %d"):format(bench.pinned(1), wire_slaves, at, MANY, heartbeat_ms,
    seconds + 2))
  local connect_ms = bench.fields(bench.await(slaves, "connect_ms=%d+", 90)).connect_ms
  bench.sleep(1)
  local before, began = bench.cpu_s(master), bench.now_us()
  bench.sleep(seconds)
  local figures = {
    connect_ms = connect_ms, cpu_percent = (bench.cpu_s(master) - before) / (bench.now_us() - began) * 1e8,
    kib = (bench.rss_kib(master) - idle_kib) / MANY, kernel_kib = (kernel_kib() - idle_kernel_kib) / MANY,
    idle_kib = idle_kib,
  }
  local counted = bench.fields(bench.await(slaves, "slaves=[^\n]*acks=%d+", 60))
  figures.unanswered = counted.heartbeats - counted.acks
  bench.forget(slaves)
  bench.stop(master)
  note("hold %s: %.2f KiB each, kernel %.2f KiB, %.1f %%", line, figures.kib, figures.kernel_kib, figures.cpu_percent)
  return figures
end

local function many()
  local beating, silent = {}, {}
  for i, master in ipairs(MASTERS) do
    beating[i] = { master[1], function() return hold(master[2], HEARTBEAT_MS, BEATS_S) end }
    -- Shorter than what makes them off line: the master looks through them, and finds nobody to strike off.
    silent[i] = { master[1], function() return hold(master[2], 0, 5) end }
  end
  local rounds = math.min(opts.rounds, MANY_MAX_ROUNDS)
  measure("many.beating", beating, {
    { "kib", "KiB" }, { "kernel_kib", "KiB" }, { "idle_kib", "KiB", "%.0f" }, { "cpu_percent", "%_of_a_core" },
    { "connect_ms", "ms", "%.0f" }, { "unanswered", "msg", "%.0f" },
  }, rounds)
  measure("many.silent", silent, { { "cpu_percent", "%_of_a_core" } }, rounds)
end

--- Requests from so many slaves, 100 open, each from the next slave in turn; and all of them from one slave, while
--- the others are connected and silent.
local function crowds()
  local UNITS = { { "rate", "req/s", "%.0f" }, { "server_us", "us/req" } }
  for _, slaves in ipairs { 1, 100, 1000, 10000 } do
    local turns, beside = {}, {}
    for i, master in ipairs(MASTERS) do
      turns[i] = { master[1], function()
        local server, at = start_master(master[2])
        local asking = bench.serve(("%s ask %s %d 32 100 %s"):format(wire_slaves, at, slaves, opts.seconds), 1)
        local before = bench.cpu_s(server)
        local values = bench.fields(bench.await(asking, "requests=[^\n]+", 60))
        values.server_us = (bench.cpu_s(server) - before) / values.total * 1e6
        bench.forget(asking)
        bench.stop(server)
        note("turns %s %d: %.0f/s, server %.2f us", master[1], slaves, values.rate, values.server_us)
        return values
      end }
      beside[i] = { master[1], function()
        local server, at = start_master(master[2])
        local others = bench.serve(("%s hold %s %d 0 60"):format(wire_slaves, at, slaves), 1)
        local before = bench.cpu_s(server)
        local values = bench.measure(("%s client %s 32 100 %s"):format(raw_echo, at, opts.seconds), "requests=[^\n]+")
        values.server_us = (bench.cpu_s(server) - before) / values.total * 1e6
        bench.stop(others)
        bench.stop(server)
        return values
      end }
    end
    measure("turns.32." .. slaves, turns, UNITS)
    measure("beside.32." .. slaves, beside, UNITS)
  end
end

--- --- all ------------------------------------------------------------------------------------------

local PARTS = { rpc, one_core, router, publish, push, many, crowds }
local NAMES = { "rpc", "one_core", "router", "publish", "push", "many", "crowds" }

--- Lua that makes the value again.
local function serialized(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local keys, words = {}, {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do words[#words + 1] = ("[%s]=%s"):format(serialized(key), serialized(value[key])) end
  return "{" .. table.concat(words, ",") .. "}\n"
end

function M.run()
  if opts.report and (opts.parts ~= "all" or #ENGINES < 2 or opts.sizes ~= "" or opts.in_flight ~= "1,100,1000") then
    io.stderr:write("scripts/bench: --report needs all parts, engines, sizes and requests in flight\n")
    os.exit(2)
  end
  results = {
    run = {
      rounds = opts.rounds, seconds = opts.seconds, cores = tonumber(bench.command("nproc")),
      kernel = (bench.command("uname -sr"):gsub("(%d+%.%d+).*", "%1")),
      versions = bench.command(opts.build .. "/znlrun --version"),
    },
  }
  local wanted = {}
  for _, name in ipairs(bench.list(opts.parts)) do wanted[name] = true end
  for i, part in ipairs(PARTS) do
    if opts.parts == "all" or wanted[NAMES[i]] then part() end
  end
  local path = opts.build .. "/bench/engine.lua"
  local file = assert(io.open(path, "w"))
  assert(file:write("return ", serialized(results)))
  assert(file:close())
  if opts.report then require("report").write(results) end
end

return M
