--- znlrun top: what a running node does, seen through its console.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local output = require("znl.cli.output")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local screen = require("znl.cli.screen")
local uv = require("luv")

--- What counts as an error in the line of rates: names of counters.
local ERRORS = { "handler_errors", "handler_timeouts", "unanswered" }

local function sum(counters, names)
  local total = 0
  for _, name in ipairs(names) do total = total + (counters[name] or 0) end
  return total
end

--- Without the questions of the console itself.
local function requests_in(stats) return stats.counters.requests_in - stats.console.asked end

local function with_commas(number)
  local text = ("%.0f"):format(number)
  local count
  repeat text, count = text:gsub("^(%d+)(%d%d%d)", "%1,%2") until count == 0
  return text
end

local function mib(bytes) return ("%.1f MiB"):format((bytes or 0) / 1048576) end

local function span(ms)
  local seconds = math.floor(ms / 1000)
  if seconds < 60 then return seconds .. "s" end
  if seconds < 3600 then return ("%dm%02ds"):format(seconds / 60, seconds % 60) end
  if seconds < 86400 then return ("%dh%02dm"):format(seconds / 3600, seconds % 3600 / 60) end
  return ("%dd%02dh"):format(seconds / 86400, seconds % 86400 / 3600)
end

local function of_limit(value, limit)
  return limit and ("%s of %s"):format(with_commas(value or 0), with_commas(limit)) or with_commas(value or 0)
end

local function latency_line(label, figures)
  if figures.count == 0 then return ("%-10sno requests"):format(label) end
  return ("%-10shandlers took p50 %.3g  p90 %.3g  p99 %.3g  max %.3g  ms"):format(
    label, figures.p50_ms, figures.p90_ms, figures.p99_ms, figures.max_ms)
end

---@class znl.cli.Sample
---@field at number  of uv.hrtime
---@field stats table  of /-/stats

local function rate_line(now, before)
  local counters = now.stats.counters
  if not before then
    return ("%-10s%s requests so far, %s errors, %s refused"):format("requests", with_commas(requests_in(now.stats)),
      with_commas(sum(counters, ERRORS)), with_commas(counters.refused or 0))
  end
  local seconds, earlier = (now.at - before.at) / 1e9, before.stats.counters
  local function rate(names) return math.max(0, sum(counters, names) - sum(earlier, names)) / seconds end
  local requests = math.max(0, requests_in(now.stats) - requests_in(before.stats)) / seconds
  return ("%-10s%s/s, %s errors/s, %s refused/s, %s messages in/s, %s out/s"):format("requests",
    with_commas(requests), with_commas(rate(ERRORS)), with_commas(rate { "refused" }),
    with_commas(rate { "received" }), with_commas(rate { "sent" }))
end

local function cpu_share(now, before)
  if not before or not now.stats.process.cpu_ms then return "" end
  local used = now.stats.process.cpu_ms - before.stats.process.cpu_ms
  return (", cpu %.0f %%"):format(used / ((now.at - before.at) / 1e6) * 100)
end

local function handler_line(handlers)
  local parts = {}
  for _, name in ipairs { "handlers", "broken", "draining", "reloads", "failures", "cut", "waiting" } do
    if handlers[name] then parts[#parts + 1] = ("%s %s"):format(name:gsub("_", " "), with_commas(handlers[name])) end
  end
  return ("%-10s%s"):format("files", table.concat(parts, ", "))
end

local function slave_lines(lines, stats)
  if not stats.slaves then
    lines[#lines + 1] = ("%-10s%s"):format("master", stats.master_online and "on line" or "off line")
    return
  end
  lines[#lines + 1] = ("%-10s%s"):format("slaves", of_limit(stats.slave_count, stats.limits.max_peers))
  if #stats.slaves == 0 then return end
  lines[#lines + 1] = ""
  lines[#lines + 1] = ("%-56s %10s %10s"):format("SLAVE", "ON LINE", "LAST SEEN")
  table.sort(stats.slaves, function(a, b) return a.id < b.id end)
  for _, slave in ipairs(stats.slaves) do
    lines[#lines + 1] = ("%-56s %10s %10s"):format(slave.id:sub(1, 56),
      span(stats.clock_ms - slave.since_ms), span(stats.clock_ms - slave.last_seen_ms))
  end
end

--- What is shown of a sample, line by line.
local function render(now, before)
  local stats = now.stats
  local counters, limits, process = stats.counters, stats.limits, stats.process
  local lines = {
    ("%s  %s%s  %s  up %s"):format(stats.id, stats.encrypted and "encrypted " or "", stats.role, stats.endpoint,
      span(stats.uptime_ms)),
    "",
    rate_line(now, before),
    latency_line("lately", stats.latency.recent),
    latency_line("ever", stats.latency.total),
    -- One of them answers this very question.
    ("%-10s%s at work, %s waiting"):format("handlers", of_limit(counters.handlers - 1, limits.max_concurrency),
      of_limit(counters.queued, limits.max_queue)),
    ("%-10s%s asked and not answered yet; %s in the outbox"):format("pending",
      of_limit(counters.pending, limits.max_pending), of_limit(counters.outbox, limits.outbox_messages)),
    ("%-10s%s, Lua %s%s"):format("memory", mib(process.rss_bytes), mib(process.lua_bytes), cpu_share(now, before)),
    ("%-10s%s, %s timers"):format("tasks", with_commas(stats.runtime.tasks), with_commas(stats.runtime.timers)),
  }
  if stats.handlers then lines[#lines + 1] = handler_line(stats.handlers) end
  slave_lines(lines, stats)
  for index, line in ipairs(lines) do lines[index] = output.harmless(line) end
  return lines
end

--- Asks the console. Yields.
local function ask(master, opts)
  local stats, message, code = master.slave:call("/-/stats", nil, { timeout_ms = opts.timeout })
  local at = uv.hrtime()
  if type(stats) == "table" and type(stats.counters) == "table" and type(stats.limits) == "table"
      and type(stats.console) == "table" then
    return { at = at, stats = stats }
  end
  if code == nil or code == "NOT_FOUND" then
    return nil, opts.endpoint .. ": the console of this node is off; it is on with `console = true`", "NOT_FOUND"
  end
  local _, text, reason = master:explain(message, code, opts.timeout)
  return nil, text, reason
end

--- Prints samples one after the other.
local function print_samples(master, opts, out, sample)
  local before
  while true do
    if out.json then
      out:object(sample.stats)
    else
      if before then out:line() end
      for _, line in ipairs(render(sample, before)) do out:line(line) end
    end
    if opts.once or master:pause(opts.interval) then return end
    before = sample
    local message, code
    sample, message, code = ask(master, opts)
    if not sample then return nil, message, code end
  end
end

--- Draws samples until a key or a signal ends it.
local function watch(master, opts, out, view, quit, sample)
  local before, trouble
  while true do
    local lines = render(sample, before)
    local _, height = view:size()
    while #lines > height - 1 do table.remove(lines) end
    while #lines < height - 1 do lines[#lines + 1] = "" end
    lines[#lines + 1] = trouble or "q quits"
    view:draw(lines, function(line, index)
      if index == 1 then return out:paint("bold", line) end
      if index == #lines then return out:paint(trouble and "red" or "dim", line) end
      local label = line:sub(1, 10)
      return label:find("^%l+ +$") and out:paint("dim", label) .. line:sub(11) or line
    end)
    local how = quit:wait(opts.interval)
    if how then return how end
    local next_sample, message = ask(master, opts)
    if runtime.stopping() then return "signal" end
    trouble = message
    if next_sample then before, sample = sample, next_sample end
  end
end

local function run(opts, out)
  local master, message, code = peer.open(opts, { tool = "top" })
  if not master then return nil, message, code end
  local sample
  sample, message, code = ask(master, opts)
  if not sample or runtime.stopping() then
    master:close()
    return nil, message, code
  end
  local quit = sched.event()
  local view = not opts.once and not out.json and screen.open(function(key)
    if key == "q" or key == "Q" then quit:set("key") end
    if key == "\3" then quit:set("interrupt") end
  end) or nil
  if not view then
    local _, text, reason = print_samples(master, opts, out, sample)
    master:close()
    return nil, text, reason
  end
  local forget = runtime.on_stop(function() quit:set("signal") end)
  local ok, how = pcall(watch, master, opts, out, view, quit, sample)
  view:close()
  forget()
  master:close()
  if not ok then error(how, 0) end
  return how == "interrupt" and 130 or 0
end

return command.new {
  name = "top",
  summary = "Shows what a running node does: rates, latencies, slaves, memory.",
  description = "The node must have its console on: znl.master { …, console = true }. Keys: q quits. When " ..
      "standard output is no terminal the text is printed again and again.",
  examples = {
    { "znlrun top tcp://127.0.0.1:6003", "live, until q" },
    { "znlrun top tcp://127.0.0.1:6003 --once --json", "one sample, for scripts" },
  },
  configure = function(parser)
    peer.configure(parser)
    parser:flag("--once", "Print one sample and end.")
    parser:option("--interval", "Time between samples, milliseconds (default 1000)."):argname("<ms>")
      :convert(command.whole(100, 3600000)):default("1000"):show_default(false)
  end,
  run = run,
}
