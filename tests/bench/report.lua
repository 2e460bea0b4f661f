--- report: writes the figures of compare_engine to docs/PERFORMANCE.md, between its markers, and the picture.
---
---   luajit tests/bench/report.lua RESULTS   from the file that the last run left: <build>/bench/engine.lua
---
--- SPDX-License-Identifier: MIT

local is_program = arg and arg[0]:match("report%.lua$") ~= nil
if is_program then package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path end
local picture = require("picture")

local M = {}

local PAGE, IMAGE = "docs/PERFORMANCE.md", "docs/images/performance.svg"
local BEGIN, END = "<!-- figures: begin, written by scripts/bench -->", "<!-- figures: end -->"

local results

--- --- figures --------------------------------------------------------------------------------------

--- One figure of a run, { median, least, most, ratio = … }; nil when that part did not run.
local function figure(group, name, key)
  local variants = results[group]
  return variants and variants[name] and variants[name][key]
end

--- 1234567 as "1.23 M", 12345 as "12.3 k".
local function count(value)
  if value >= 999500 then return ("%.2f M"):format(value / 1e6) end
  if value >= 99950 then return ("%.0f k"):format(value / 1e3) end
  if value >= 999.5 then return ("%.1f k"):format(value / 1e3) end
  return ("%.0f"):format(value)
end

local function small(value)
  return (value >= 100 and "%.0f" or value >= 10 and "%.1f" or value >= 0.1 and "%.2f" or "%.3f"):format(value)
end

local function median(group, name, key, format)
  local found = figure(group, name, key)
  return found and (format or small)(found[1]) or "–"
end

--- "1.90 (1.72–2.01)"
local function ratio(group, name, key)
  local found = figure(group, name, key)
  local divided = found and found.ratio
  if not divided then return "–" end
  return ("%.2f (%.2f–%.2f)"):format(divided[1], divided[2], divided[3])
end

local function ratio_value(group, name, key)
  local found = figure(group, name, key)
  return found and found.ratio and found.ratio[1]
end

local function both(group, name, first, second)
  return median(group, name, first) .. " / " .. median(group, name, second)
end

--- --- tables ---------------------------------------------------------------------------------------

local Page = {}
Page.__index = Page

function Page:say(...) self[#self + 1] = table.concat { ... } end

--- A table; a row whose figures are all missing is left out.
function Page:rows(head, rows)
  self:say("")
  self:say("| ", table.concat(head, " | "), " |")
  self:say("|", (" --- |"):rep(#head))
  for _, row in ipairs(rows) do
    if table.concat(row, "", row.labels + 1):find("%d") then self:say("| ", table.concat(row, " | "), " |") end
  end
end

local SIZES = { { 32, "32 B" }, { 1024, "1 KiB" }, { 65536, "64 KiB" } }
local VARIANTS = { "raw", "libzmq_plain", "zmtp_plain", "libzmq_encrypted", "zmtp_encrypted" }

local function requests(page)
  page:say("\n### Requests\n\nLua on both ends. Requests per second of raw libzmq; beside it the ratios.")
  local rates, cpu, latency = {}, {}, {}
  for _, size in ipairs(SIZES) do
    for _, in_flight in ipairs { 1, 100, 1000 } do
      local group = ("rpc.%d.%d"):format(size[1], in_flight)
      rates[#rates + 1] = {
        labels = 2, size[2], in_flight, median(group, "raw", "rate", count), ratio(group, "libzmq_plain", "rate"),
        ratio(group, "zmtp_plain", "rate"), ratio(group, "libzmq_encrypted", "rate"),
        ratio(group, "zmtp_encrypted", "rate"),
      }
      local times, waits = { labels = 2, size[2], in_flight }, { labels = 2, size[2], in_flight }
      for _, name in ipairs(VARIANTS) do
        times[#times + 1] = both(group, name, "server_us", "client_us")
        waits[#waits + 1] = both(group, name, "p50_us", "p99_us")
      end
      cpu[#cpu + 1], latency[#latency + 1] = times, waits
    end
  end
  local HEAD = { "payload", "in flight", "raw libzmq", "on libzmq", "own engine", "on libzmq, encrypted",
    "own engine, encrypted" }
  page:rows(HEAD, rates)
  page:say("\nCPU time per request, µs, server / client:")
  page:rows(HEAD, cpu)
  page:say("\nLatency, µs, p50 / p99:")
  local one_core = { labels = 2, "32 B", "1, both on one core" }
  for _, name in ipairs(VARIANTS) do one_core[#one_core + 1] = both("one_core.32.1", name, "p50_us", "p99_us") end
  table.insert(latency, 1, one_core)
  page:rows(HEAD, latency)
end

local function routers(page)
  page:say("\n### Servers with the client of raw libzmq\n\n32 B; the client is the same for all servers but the last,",
    " where both ends are in C on the own engine.")
  local SERVERS = {
    { "raw", "raw libzmq, C" }, { "libzmq_lua", "on libzmq, Lua" }, { "libzmq_c", "on libzmq, C" },
    { "zmtp_lua", "own engine, Lua" }, { "zmtp_c", "own engine, C" }, { "zmtp_c_both", "own engine, C, both ends" },
  }
  local rows = {}
  for _, in_flight in ipairs { 100, 1000 } do
    local group = "router.32." .. in_flight
    for _, server in ipairs(SERVERS) do
      rows[#rows + 1] = {
        labels = 2, server[2], in_flight, median(group, server[1], "rate", count), ratio(group, server[1], "rate"),
        median(group, server[1], "server_us"), ratio(group, server[1], "server_us"),
      }
    end
  end
  page:rows({ "server", "in flight", "requests/s", "ratio", "server CPU, µs", "ratio" }, rows)
end

local RECEIVERS = {
  { "dealers", "DEALERs of libzmq" }, { "sockets", "bare sockets" }, { "own", "its own kind" },
}

local function one_way(page)
  page:say("\n### Publish\n\n32 B to all slaves. Messages that arrived per second; CPU of the sender per message",
    " and slave, µs.")
  local rows, missing = {}, 0
  local function add_missing(group, name)
    local lost, disorder = figure(group, name, "lost"), figure(group, name, "disorder")
    if lost then missing = missing + lost[3] + disorder[3] end
  end
  for _, slaves in ipairs { 1, 50, 1000 } do
    for _, receiver in ipairs(RECEIVERS) do
      local group = ("publish.%s.%d"):format(receiver[1], slaves)
      for _, name in ipairs { "raw", "libzmq", "zmtp" } do add_missing(group, name) end
      rows[#rows + 1] = {
        labels = 2, slaves, receiver[2], median(group, "raw", "rate", count), ratio(group, "libzmq", "rate"),
        ratio(group, "zmtp", "rate"), median(group, "raw", "sender_us"), ratio(group, "libzmq", "sender_us"),
        ratio(group, "zmtp", "sender_us"),
      }
    end
  end
  page:rows({ "slaves", "who receives", "raw libzmq", "on libzmq", "own engine", "CPU: raw", "on libzmq",
    "own engine" }, rows)
  page:say("\n### Push\n\n32 B from a slave to its master, both ends of a kind. CPU per message, µs.")
  rows = {}
  local KINDS = {
    { "raw", "raw libzmq" }, { "libzmq_plain", "on libzmq" }, { "zmtp_plain", "own engine" },
    { "libzmq_encrypted", "on libzmq, encrypted" }, { "zmtp_encrypted", "own engine, encrypted" },
  }
  for _, kind in ipairs(KINDS) do
    add_missing("push.32", kind[1])
    rows[#rows + 1] = {
      labels = 1, kind[2], median("push.32", kind[1], "rate", count), ratio("push.32", kind[1], "rate"),
      median("push.32", kind[1], "sender_us"), median("push.32", kind[1], "receiver_us"),
    }
  end
  page:rows({ "both ends", "messages/s", "ratio", "sender CPU", "receiver CPU" }, rows)
  page:say(("\nMessages lost or out of order in all of these runs: %d."):format(missing))
end

local MASTERS = { "raw", "libzmq", "zmtp" }

local function many(page)
  page:say("\n### 10,000 slaves on one master\n\nConnected and registered; each beats every 3 s, and is answered.")
  local rows = {}
  local function add(label, group, key, format)
    local row = { labels = 1, label }
    for _, master in ipairs(MASTERS) do row[#row + 1] = median(group, master, key, format) end
    row[#row + 1] = ratio(group, "zmtp", key)
    rows[#rows + 1] = row
  end
  add("memory of the process per slave, KiB", "many.beating", "kib")
  add("memory of the kernel per connection, both ends, KiB", "many.beating", "kernel_kib")
  add("heartbeats, % of a core", "many.beating", "cpu_percent")
  local function tenths(value) return ("%.1f"):format(value) end
  add("nobody says anything, % of a core", "many.silent", "cpu_percent", tenths)
  add("all connected and registered, ms", "many.beating", "connect_ms")
  page:rows({ "", "raw libzmq", "on libzmq", "own engine", "own engine, ratio" }, rows)
  page:say("\nCPU time of the server per request, µs, with so many slaves connected; 32 B, 100 in flight. Left: each",
    " request from the next slave in turn, so that hardly two share a system call. Right: all from one slave,",
    " while the others are silent.")
  rows = {}
  for _, slaves in ipairs { 1, 100, 1000, 10000 } do
    local row = { labels = 1, slaves }
    for _, kind in ipairs { "turns", "beside" } do
      for _, master in ipairs(MASTERS) do
        row[#row + 1] = median(("%s.32.%d"):format(kind, slaves), master, "server_us")
      end
    end
    rows[#rows + 1] = row
  end
  page:rows({ "slaves", "in turn: raw libzmq", "on libzmq", "own engine", "from one: raw libzmq", "on libzmq",
    "own engine" }, rows)
end

local function machine(page)
  page:say("![Ratios to raw libzmq](images/performance.svg)\n")
  local run = results.run
  local versions = {}
  for line in run.versions:gmatch("[^\n]+") do versions[#versions + 1] = line end
  page:say(("%d cores, %s; %s."):format(run.cores, run.kernel, table.concat(versions, ", ")))
  page:say(("%d rounds of %g s for each figure; medians, in brackets the lowest and the highest round. A ratio is to"
    .. " raw libzmq in the same round."):format(run.rounds, run.seconds))
end

--- --- picture --------------------------------------------------------------------------------------

local function pictured()
  local function row(label, detail, group, key, own, sealed, other)
    return {
      label = label, detail = detail, own = ratio_value(group, own, key),
      sealed = sealed and ratio_value(group, sealed, key), other = ratio_value(group, other, key),
    }
  end
  local function requests_row(size, text, in_flight)
    return row(("Requests, %s"):format(text), ("%d in flight, Lua on both ends"):format(in_flight),
      ("rpc.%d.%d"):format(size, in_flight), "rate", "zmtp_plain", "zmtp_encrypted", "libzmq_plain")
  end
  local panels = {
    { title = "Requests per second", hint = "longer is better", rows = {
      requests_row(32, "32 B", 100), requests_row(32, "32 B", 1000), requests_row(1024, "1 KiB", 100),
      row("A Lua server, libzmq's client", "32 B, 100 in flight", "router.32.100", "rate", "zmtp_lua", nil,
        "libzmq_lua"),
    } },
    { title = "One message to all slaves, deliveries per second", hint = "longer is better", rows = {
      row("50 slaves", "32 B, bare sockets receive", "publish.sockets.50", "rate", "zmtp", nil, "libzmq"),
      row("1,000 slaves", "32 B, bare sockets receive", "publish.sockets.1000", "rate", "zmtp", nil, "libzmq"),
    } },
    { title = "What it costs", hint = "shorter is better", rows = {
      row("Latency of one request, p50", "32 B, both processes on one core", "one_core.32.1", "p50_us", "zmtp_plain",
        "zmtp_encrypted", "libzmq_plain"),
      row("Server CPU per request", "32 B, 100 in flight, libzmq's client", "router.32.100", "server_us", "zmtp_lua",
        nil, "libzmq_lua"),
      row("Sender CPU per delivery", "32 B to 50 slaves", "publish.sockets.50", "sender_us", "zmtp", nil, "libzmq"),
      row("Memory per connected slave", "10,000 slaves", "many.beating", "kib", "zmtp", nil, "libzmq"),
      row("CPU for heartbeats", "10,000 slaves, each every 3 s", "many.beating", "cpu_percent", "zmtp", nil, "libzmq"),
    } },
  }
  return picture.bars {
    title = "znlrun beside raw libzmq in C",
    subtitle = "Every bar is a ratio to raw libzmq without scripting: same machine, same round, same messages.",
    one = "raw libzmq",
    series = {
      { key = "own", name = "znlrun, own engine" }, { key = "sealed", name = "own engine, encrypted and signed" },
      { key = "other", name = "znlrun on libzmq" },
    },
    panels = panels,
  }
end

--- --- files ----------------------------------------------------------------------------------------

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  assert(file:close())
end

--- Writes what was measured; the rest of the page stays.
function M.write(measured)
  results = measured
  local page = setmetatable({}, Page)
  machine(page)
  requests(page)
  routers(page)
  one_way(page)
  many(page)
  local text = read(PAGE)
  local _, from = text:find(BEGIN, 1, true)
  local to = text:find(END, 1, true)
  assert(from and to and from < to, PAGE .. " has lost its markers")
  write(PAGE, text:sub(1, from) .. "\n" .. table.concat(page, "\n") .. "\n" .. text:sub(to))
  write(IMAGE, pictured())
  print(("wrote %s and %s"):format(PAGE, IMAGE))
end

if is_program then M.write(assert(loadfile(arg[1]))()) end

return M
