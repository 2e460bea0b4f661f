--- bench: processes to measure, and figures to print; for run.lua and the comparisons it loads.
---
--- Runs in plain luajit. SPDX-License-Identifier: MIT

local ffi = require("ffi")
ffi.cdef [[
  int usleep(unsigned int us);
  int setenv(const char *name, const char *value, int overwrite);
  struct bench_timespec { long sec; long nsec; };
  int clock_gettime(int clock, struct bench_timespec *out);
]]

local M = {}

--- Options of the command line, set once by run.lua.
M.opts = nil
--- The folder of the scripts, with a slash.
M.here = arg[0]:match("^(.-)[^/]*$")
local here = M.here

local function list(text)
  local items = {}
  for item in text:gmatch("[^,]+") do items[#items + 1] = tonumber(item) or item end
  return items
end

local function median(values)
  table.sort(values)
  local middle = #values / 2
  if #values % 2 == 1 then return values[middle + 0.5] end
  return (values[middle] + values[middle + 1]) / 2
end

local function read(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

local function command(line)
  local pipe = assert(io.popen(line))
  local text = pipe:read("*a")
  pipe:close()
  return (text:gsub("%s+$", ""))
end

local function sleep(seconds) ffi.C.usleep(seconds * 1e6) end

--- Monotonic microseconds, of the clock that all processes have in common.
function M.now_us()
  local now = ffi.new("struct bench_timespec")
  ffi.C.clock_gettime(1, now)
  return tonumber(now.sec) * 1e6 + tonumber(now.nsec) * 1e-3
end

--- --- processes ------------------------------------------------------------------------------

local work = command("mktemp -d")
local cores = tonumber(command("nproc")) or 1
local running, files = {}, 0

local function pinned(core)
  if not M.opts.pin or cores < 2 then return "" end
  return ("taskset -c %d "):format(core)
end

local function start(line)
  files = files + 1
  local out = ("%s/%d.out"):format(work, files)
  local pid = tonumber(command(("%s </dev/null >%s 2>%s.err & echo $!"):format(line, out, out)))
  local process = { pid = pid, out = out, line = line }
  running[pid] = process
  return process
end

local function alive(process)
  local state = (read(("/proc/%d/stat"):format(process.pid)) or ""):match("%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

local function fail(process, why)
  io.stderr:write(("scripts/bench: %s: %s\n%s%s"):format(process.line, why,
    read(process.out) or "", read(process.out .. ".err") or ""))
  for pid in pairs(running) do os.execute("kill -KILL " .. pid .. " 2>/dev/null") end
  os.execute("rm -rf " .. work)
  os.exit(1)
end

local function await(process, pattern, seconds)
  for _ = 1, seconds * 100 do
    local found = (read(process.out) or ""):match(pattern)
    if found then return found end
    if not alive(process) then
      found = (read(process.out) or ""):match(pattern)
      return found or fail(process, "ended early")
    end
    sleep(0.01)
  end
  fail(process, ("no %q within %d s"):format(pattern, seconds))
end

local function stop(process)
  os.execute("kill -TERM " .. process.pid .. " 2>/dev/null")
  for _ = 1, 500 do
    if not alive(process) then break end
    sleep(0.01)
  end
  if alive(process) then
    io.stderr:write(("scripts/bench: %s: did not end on SIGTERM\n"):format(process.line))
    os.execute("kill -KILL " .. process.pid .. " 2>/dev/null")
  end
  running[process.pid] = nil
end

--- User and system time of all threads, seconds, from /proc.
local TICKS = tonumber(command("getconf CLK_TCK"))
local function cpu_s(process)
  local text = read(("/proc/%d/stat"):format(process.pid)):match("%) (.*)$")
  local field = 0
  local sum = 0
  for word in text:gmatch("%S+") do
    field = field + 1
    if field == 12 or field == 13 then sum = sum + tonumber(word) end
  end
  return sum / TICKS
end

local function rss_kib(process)
  return tonumber(read(("/proc/%d/status"):format(process.pid)):match("VmRSS:%s*(%d+)"))
end

local last_port = 20000 + tonumber(tostring(os.time()):sub(-4)) % 5000

--- A port that nothing listens on.
local function port()
  local used = read("/proc/net/tcp") .. read("/proc/net/tcp6")
  repeat last_port = last_port + 1 until not used:find((":%04X "):format(last_port), 1, true)
  return last_port
end

local function endpoint() return "tcp://127.0.0.1:" .. port() end

local function fields(line)
  local values = {}
  for name, value in line:gmatch("([%w_]+)=(%S+)") do values[name] = tonumber(value) end
  return values
end

local function lua(script, ...)
  return table.concat({ M.opts.build .. "/znlrun", here .. script, ... }, " ")
end

local function say(name, value, unit, format)
  print((("%-44s " .. (format or "%.2f") .. " %s")):format(name, value, unit))
  io.stdout:flush()
end

local function note(...)
  if M.opts.verbose then io.stderr:write(string.format(...), "\n") end
end

M.list, M.median, M.read, M.command, M.sleep = list, median, read, command, sleep
M.pinned, M.start, M.await, M.stop, M.fail = pinned, start, await, stop, fail
M.cpu_s, M.rss_kib, M.endpoint, M.fields, M.lua = cpu_s, rss_kib, endpoint, fields, lua
M.say, M.note, M.work, M.port = say, note, work, port

--- Sets a variable of the environment for processes started later.
function M.setenv(name, value) ffi.C.setenv(name, value, 1) end

--- Ends a process as a crash does.
function M.kill(process)
  os.execute("kill -KILL " .. process.pid)
  while alive(process) do sleep(0.01) end
  running[process.pid] = nil
end

--- A process that ended by itself: no longer one to stop.
function M.forget(process) running[process.pid] = nil end

--- Collects the values of several rounds: add(values), then median(name).
function M.rounds()
  local seen = {}
  return {
    add = function(values)
      for name, value in pairs(values) do
        seen[name] = seen[name] or {}
        table.insert(seen[name], value)
      end
    end,
    median = function(name) return median(seen[name]) end,
    names = function() return seen end,
  }
end

--- Starts a process that serves; returns it, ready.
function M.serve(line, core, ready)
  local process = start(pinned(core) .. line)
  await(process, ready or "ready", 20)
  return process
end

--- Runs a process that measures, to its end; returns its figures.
function M.measure(line, pattern)
  local process = start(pinned(1) .. line)
  local values = fields(await(process, pattern or "rate=[^\n]+", 60 + M.opts.seconds * 2))
  await(process, "", 10)
  M.forget(process)
  if (values.errors or 0) > 0 then
    io.stderr:write(("scripts/bench: %s: %d failed\n%s"):format(line, values.errors,
      read(process.out .. ".err") or ""))
  end
  note("%s: %s", line, read(process.out) or "")
  return values
end

--- Rounds of `theirs` and `ours`; prints the medians of both and of the ratios.
function M.compare(prefix, theirs, ours, columns, yardstick)
  yardstick = yardstick or "node"
  local node, own, ratio = M.rounds(), M.rounds(), M.rounds()
  for _ = 1, M.opts.rounds do
    local a, b = theirs(), ours()
    node.add(a)
    own.add(b)
    local ratios = {}
    for name, value in pairs(b) do
      if a[name] and a[name] > 0 then ratios[name] = value / a[name] end
    end
    ratio.add(ratios)
  end
  for _, column in ipairs(columns) do
    local name, unit = column[1], column[2]
    local format = column[3] or "%.0f"
    if node.names()[name] then say(prefix .. yardstick .. "." .. name, node.median(name), unit, format) end
    say(prefix .. "znlrun." .. name, own.median(name), unit, format)
    if ratio.names()[name] then say(prefix .. name .. "_ratio", ratio.median(name), "x_" .. yardstick) end
  end
end

--- Runs one server and one client of raw_echo's kind; "@" in their lines is the endpoint. Returns the client's
--- figures, and the CPU and the memory of the server. `core` puts both on one core.
function M.echo(name, server_line, client_line, core)
  local at = endpoint()
  local server = start(pinned(core or 0) .. server_line:gsub("@", at))
  await(server, "ready", 10)
  local before = cpu_s(server)
  local client = start(pinned(core or 1) .. client_line:gsub("@", at))
  local values = fields(await(client, "requests=[^\n]*errors=%d+", 60 + M.opts.seconds * 2))
  values.server_us = (cpu_s(server) - before) / values.total * 1e6
  values.client_us = values.requests > 0 and values.cpu_s / values.requests * 1e6 or 0
  values.rss_kib = rss_kib(server)
  M.forget(client)
  stop(server)
  if values.errors > 0 then
    io.stderr:write(("scripts/bench: %s: %d requests failed\n%s"):format(name, values.errors,
      read(client.out .. ".err") or ""))
  end
  M.note("%s %.0f/s p50 %.1f us, server %.2f us, client %.2f us, %d KiB", name, values.rate, values.p50_us,
    values.server_us, values.client_us, values.rss_kib)
  return values
end

--- Runs both ends of publish or push; "@" in their lines is the endpoint. `sender` says who prints the figures,
--- "server" or "client". Returns them, and what the other end took per message.
function M.one_way(name, server_line, client_line, sender, receivers)
  local at = endpoint()
  local server = start(pinned(0) .. server_line:gsub("@", at))
  await(server, "ready", 10)
  local before = cpu_s(server)
  local client = start(pinned(1) .. client_line:gsub("@", at))
  local from, to = server, client
  if sender == "client" then from, to = client, server else before = 0 end
  local values = fields(await(from, "sent=[^\n]*disorder=%d+", 60 + M.opts.seconds * 2))
  M.note("%s %.0f/s, sender %.3f us, lost %d", name, values.rate, values.sender_us, values.lost)
  if values.lost ~= 0 or values.disorder ~= 0 then
    io.stderr:write(("scripts/bench: %s: %d lost, %d out of order\n"):format(name, values.lost, values.disorder))
  end
  values.receiver_us = (cpu_s(to) - before) / (values.sent * (receivers or 1)) * 1e6
  stop(to)
  stop(from)
  return values
end

function M.clean() os.execute("rm -rf " .. work) end

return M
