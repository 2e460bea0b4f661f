--- run.lua: the benchmark, started by scripts/bench with plain luajit.
---
--- Each figure of znlrun stands beside the same figure of raw libzmq in C, taken in the same
--- round on the same machine. Prints `name value unit`; nothing here passes or fails.
--- SPDX-License-Identifier: MIT

local USAGE = [[
usage: scripts/bench [options]
  --rounds N       rounds of each comparison; medians are printed (default 5)
  --seconds S      measured time of each run (default 2)
  --only LIST      of rpc,publish,push,startup,slaves,reload,workers,tasks,micro,
                   cluster,hub,fleet,engine (default all but engine)
  --sizes LIST     payload bytes of rpc (default 32,1024) and engine (also 65536)
  --in-flight LIST requests open at once (default 1,100,1000)
  --slaves N       connections of the slaves test, and of micro (default 1000)
  --reloads N      edits of the reload test (default 1000)
  --no-pin         do not give server and client a core each
  --raw-only       only the yardstick
  --parts LIST     engine: of rpc,one_core,router,publish,push,many,crowds (default all)
  --engines LIST   engine: of libzmq,zmtp (default both)
  --report         engine: write the figures to docs/PERFORMANCE.md
  --verbose        each run on standard error]]

local opts = {
  build = "build", rounds = 5, seconds = 2,
  only = "rpc,publish,push,startup,slaves,reload,workers,tasks,micro,cluster,hub,fleet",
  sizes = "", in_flight = "1,100,1000", slaves = 1000, reloads = 1000,
  parts = "all", engines = "libzmq,zmtp",
  pin = true,
}
do
  local i = 1
  while arg[i] do
    local name = arg[i]:match("^%-%-([%a%-]+)$")
    name = name and name:gsub("-", "_")
    if name == "no_pin" then opts.pin = false
    elseif name == "raw_only" or name == "verbose" or name == "report" then opts[name] = true
    elseif name and opts[name] ~= nil and arg[i + 1] then
      i = i + 1
      local number = type(opts[name]) == "number"
      opts[name] = number and tonumber(arg[i]) or not number and arg[i] or nil
      if opts[name] == nil then io.stderr:write(USAGE, "\n") os.exit(2) end
    else
      local help = name == "help"
      io[help and "stdout" or "stderr"]:write(USAGE, "\n")
      os.exit(help and 0 or 2)
    end
    i = i + 1
  end
end

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local bench = require("bench")
bench.opts = opts

local list, median, read, command, sleep = bench.list, bench.median, bench.read, bench.command, bench.sleep
local start, await, stop = bench.start, bench.await, bench.stop
local cpu_s, rss_kib, endpoint, fields = bench.cpu_s, bench.rss_kib, bench.endpoint, bench.fields
local lua, say, note, work, here = bench.lua, bench.say, bench.note, bench.work, bench.here
local znlrun = opts.build .. "/znlrun"
local raw = opts.build .. "/bench/raw_echo"
local raw_slaves = opts.build .. "/bench/raw_slaves"

--- --- rpc ------------------------------------------------------------------------------------

local function rpc()
  local variants = {
    { "raw", raw .. " server @", raw .. " client @ SIZE OPEN TIME" },
    { "lua-server", lua("server.lua", "@", "plain"), raw .. " client @ SIZE OPEN TIME" },
    { "plain", lua("server.lua", "@", "plain"),
      lua("client.lua", "@", "plain SIZE OPEN TIME") },
    { "encrypted", lua("server.lua", "@", "encrypted"),
      lua("client.lua", "@", "encrypted SIZE OPEN TIME") },
  }
  local COLUMNS = {
    { "rate", "req/s", "%.0f" }, { "p50_us", "us" }, { "p99_us", "us" },
    { "server_us", "us/req" }, { "client_us", "us/req" }, { "rss_kib", "KiB", "%.0f" },
  }
  for _, size in ipairs(list(opts.sizes ~= "" and opts.sizes or "32,1024")) do
    for _, in_flight in ipairs(list(opts.in_flight)) do
      local seen = {}
      for _ = 1, opts.rounds do
        local yardstick
        for index, variant in ipairs(variants) do
          if index > 1 and opts.raw_only then break end
          local name = variant[1]
          local client = variant[3]:gsub("SIZE", size):gsub("OPEN", in_flight)
              :gsub("TIME", opts.seconds)
          local values = bench.echo(("rpc %s %dB x%d"):format(name, size, in_flight), variant[2],
            client)
          if index == 1 then yardstick = values end
          values.rate_ratio = values.rate / yardstick.rate
          values.p50_ratio = values.p50_us / yardstick.p50_us
          seen[name] = seen[name] or {}
          for key, value in pairs(values) do
            seen[name][key] = seen[name][key] or {}
            table.insert(seen[name][key], value)
          end
        end
      end
      for index, variant in ipairs(variants) do
        local values = seen[variant[1]]
        if not values then break end
        local prefix = ("rpc.%s.%dB.%d."):format(variant[1], size, in_flight)
        for _, column in ipairs(COLUMNS) do
          say(prefix .. column[1], median(values[column[1]]), column[2], column[3])
        end
        if index > 1 then
          say(prefix .. "rate_ratio", median(values.rate_ratio), "x_raw", "%.3f")
          say(prefix .. "p50_ratio", median(values.p50_ratio), "x_raw", "%.3f")
        end
      end
    end
  end
end

--- --- publish and push -----------------------------------------------------------------------

local function one_way(prefix, server_line, client_line, printer)
  local seen = bench.rounds()
  for _ = 1, opts.rounds do seen.add(bench.one_way(prefix, server_line, client_line, printer)) end
  say(prefix .. ".rate", seen.median("rate"), "msg/s", "%.0f")
  say(prefix .. ".sender_cpu", seen.median("sender_us"), "us/msg", "%.3f")
  say(prefix .. ".refused", seen.median("refused"), "msg", "%.0f")
  say(prefix .. ".lost", seen.median("lost"), "msg", "%.0f")
end

local function publish()
  for _, mode in ipairs { "plain", "encrypted" } do
    for _, slaves in ipairs { 1, 50 } do
      one_way(("publish.%s.32B.%d"):format(mode, slaves),
        lua("fan.lua", "publish @", mode, "32", opts.seconds, slaves),
        lua("fan.lua", "subscribe @", mode, slaves), "server")
    end
  end
end

local function push()
  for _, mode in ipairs { "plain", "encrypted" } do
    one_way(("push.%s.32B"):format(mode), lua("fan.lua", "collect @", mode),
      lua("fan.lua", "push @", mode, "32", opts.seconds), "client")
  end
end

--- --- start ----------------------------------------------------------------------------------

local function startup()
  local seen = { raw = {}, master = {}, slave = {} }
  for _ = 1, math.max(opts.rounds, 10) do
    local function first(server)
      local at = endpoint()
      local line = ("%s first %s %s 2>%s/first.err"):format(raw, at, server:gsub("@", at), work)
      local value = fields(command(line)).first_answer_ms
      if not value then
        local reason = read(work .. "/first.err") or ""
        io.stderr:write(("scripts/bench: %s\n%s"):format(line, reason))
        os.exit(1)
      end
      return value
    end
    table.insert(seen.raw, first(raw .. " server @"))
    if not opts.raw_only then
      table.insert(seen.master, first(lua("server.lua", "@ plain")))
      local at = endpoint()
      local server = start(lua("server.lua", at, "plain"))
      await(server, "ready", 10)
      local took = command(("bash -c 'a=$(date +%%s%%N); %s >/dev/null || exit 1; "
        .. "b=$(date +%%s%%N); echo $(((b - a) / 1000))'"):format(
        lua("client.lua", at, "plain once")))
      table.insert(seen.slave, tonumber(took) / 1000)
      stop(server)
    end
  end
  say("startup.raw.first_answer", median(seen.raw), "ms")
  if opts.raw_only then return end
  say("startup.master.first_answer", median(seen.master), "ms")
  say("startup.slave.start_ask_exit", median(seen.slave), "ms")
end

--- --- many slaves ----------------------------------------------------------------------------

local function slaves()
  local HEARTBEAT_MS, SECONDS = 3000, 15
  local servers = { { "raw", raw .. " server @" } }
  if not opts.raw_only then
    servers[2] = { "plain", lua("server.lua", "@ plain") }
  end
  for _, server_of in ipairs(servers) do
    local name, at = server_of[1], endpoint()
    local server = start(server_of[2]:gsub("@", at))
    await(server, "ready", 10)
    sleep(1)
    local idle, before = rss_kib(server), cpu_s(server)
    sleep(5)
    local prefix = ("slaves.%s."):format(name)
    say(prefix .. "idle_rss", idle, "KiB", "%.0f")
    say(prefix .. "idle_cpu", (cpu_s(server) - before) / 5 * 100, "%_of_a_core")
    local load = start(table.concat({ raw_slaves, at, opts.slaves, HEARTBEAT_MS, SECONDS + 6 },
      " "))
    local connect_ms = fields(await(load, "connect_ms=%d+", 60)).connect_ms
    sleep(3)
    before = cpu_s(server)
    sleep(SECONDS)
    say(prefix .. "connect_all", connect_ms, "ms", "%.0f")
    say(prefix .. "rss_per_slave", (rss_kib(server) - idle) / opts.slaves, "KiB")
    say(prefix .. "heartbeat_cpu", (cpu_s(server) - before) / SECONDS * 100, "%_of_a_core")
    local values = fields(await(load, "slaves=[^\n]*acks=%d+", 60))
    say(prefix .. "heartbeats", values.heartbeats, "msg", "%.0f")
    say(prefix .. "acks", values.acks, "msg", "%.0f")
    bench.forget(load)
    stop(server)
  end
end

--- --- scripting ------------------------------------------------------------------------------

--- Runs one of our scripts to its end and returns the figures of its last line.
local function script_run(name, ...)
  local line = ("%s --log-level off %s%s %s"):format(znlrun, here, name, table.concat({ ... }, " "))
  local out = command(line .. " 2>" .. work .. "/script.err")
  local values = fields(out:match("[^\n]*$"))
  if not next(values) then
    io.stderr:write(("scripts/bench: %s\n%s\n%s"):format(line, out, read(work .. "/script.err") or ""))
    os.exit(1)
  end
  note("%s", out)
  return values
end

local function say_all(prefix, values)
  local names = {}
  for name in pairs(values) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do say(prefix .. name, values[name], "") end
end

local function reload()
  for _, mode in ipairs { "plain", "encrypted" } do
    say_all(("reload.%s."):format(mode), script_run("reload.lua", mode, opts.reloads))
  end
end

--- The same rounds of work for all: calibrated once.
local function workers()
  local rounds
  for _, count in ipairs { 0, 1, 2 } do
    local seen = {}
    for _ = 1, opts.rounds do
      bench.setenv("ZNL_BENCH_ROUNDS", rounds or "")
      local values = script_run("workers.lua", count, 50, opts.seconds)
      rounds = rounds or ("%d"):format(values.rounds)
      for name, value in pairs(values) do
        seen[name] = seen[name] or {}
        table.insert(seen[name], value)
      end
    end
    for name, list_of in pairs(seen) do seen[name] = median(list_of) end
    say_all(("workers.%d."):format(count), seen)
  end
end

local function tasks()
  for _, what in ipairs { "sleep", "timers" } do
    say_all("tasks." .. what .. ".", script_run("tasks.lua", what))
  end
end

local tests = {
  rpc = rpc, publish = publish, push = push, startup = startup, slaves = slaves,
  reload = reload, workers = workers, tasks = tasks, micro = require("compare_micro").run,
  cluster = require("compare_cluster").run, hub = require("compare_hub").run,
  fleet = require("compare_fleet").run, engine = require("compare_engine").run,
}
for _, name in ipairs(list(opts.only)) do
  if not tests[name] then
    io.stderr:write(USAGE, "\n")
    os.exit(2)
  end
  local needs_znlrun = name ~= "rpc" and name ~= "startup" and name ~= "slaves"
  if not (needs_znlrun and opts.raw_only) then tests[name]() end
end
bench.clean()
