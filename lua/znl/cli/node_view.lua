--- znl.cli.node_view: what the console of a node tells, as lines of text for people.
--- SPDX-License-Identifier: MIT

local output = require("znl.cli.output")

local M = {}

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

--- A label and what belongs to it, on as many lines as that takes.
local function add(lines, width, label, parts)
  local line = ("%-10s%s"):format(label, parts[1])
  for index = 2, #parts do
    line = line .. ","
    if #line + 1 + #parts[index] > width - 1 then
      lines[#lines + 1] = line
      line = (" "):rep(10) .. parts[index]
    else
      line = line .. " " .. parts[index]
    end
  end
  lines[#lines + 1] = line
end

local function latency_parts(figures)
  if figures.count == 0 then return { "no requests" } end
  return {
    ("handlers took p50 %.3g"):format(figures.p50_ms), ("p90 %.3g"):format(figures.p90_ms),
    ("p99 %.3g"):format(figures.p99_ms), ("max %.3g ms"):format(figures.max_ms),
  }
end

---@class znl.cli.Sample
---@field at number  of uv.hrtime
---@field stats table  of /-/stats

local function rate_parts(now, before)
  local counters = now.stats.counters
  if not before then
    return {
      with_commas(requests_in(now.stats)) .. " so far", with_commas(sum(counters, ERRORS)) .. " errors",
      with_commas(counters.refused or 0) .. " refused",
    }
  end
  local seconds, earlier = (now.at - before.at) / 1e9, before.stats.counters
  local function rate(names) return math.max(0, sum(counters, names) - sum(earlier, names)) / seconds end
  local requests = math.max(0, requests_in(now.stats) - requests_in(before.stats)) / seconds
  return {
    with_commas(requests) .. "/s", with_commas(rate(ERRORS)) .. " errors/s",
    with_commas(rate { "refused" }) .. " refused/s", with_commas(rate { "received" }) .. " messages in/s",
    with_commas(rate { "sent" }) .. " out/s",
  }
end

local function memory_parts(now, before)
  local process = now.stats.process
  local parts = { mib(process.rss_bytes), "Lua " .. mib(process.lua_bytes) }
  if before and process.cpu_ms then
    local used = process.cpu_ms - before.stats.process.cpu_ms
    parts[3] = ("cpu %.0f %%"):format(used / ((now.at - before.at) / 1e6) * 100)
  end
  return parts
end

--- Counters of znl.handlers, and what they are called here.
local FILES = {
  { "handlers", "handlers" }, { "broken", "broken" }, { "draining", "draining" }, { "reloads", "reloads" },
  { "failures", "failed" }, { "cut", "cut" }, { "waiting", "requests waiting" },
}

local function file_parts(handlers)
  local parts = {}
  for _, row in ipairs(FILES) do
    if handlers[row[1]] then parts[#parts + 1] = with_commas(handlers[row[1]]) .. " " .. row[2] end
  end
  return parts
end

--- Columns of the name of a slave, and of the two times beside it.
local NAME_MIN, NAME_MAX, TIMES = 12, 56, 22

local function slave_lines(lines, stats, width)
  if not stats.slaves then
    lines[#lines + 1] = ("%-10s%s"):format("master", stats.master_online and "on line" or "off line")
    return
  end
  lines[#lines + 1] = ("%-10s%s"):format("slaves", of_limit(stats.slave_count, stats.limits.max_peers))
  if #stats.slaves == 0 then return end
  local widest = NAME_MIN
  for _, slave in ipairs(stats.slaves) do widest = math.max(widest, #slave.id) end
  widest = math.max(NAME_MIN, math.min(widest, NAME_MAX, width - TIMES))
  local function row(name, since, seen)
    lines[#lines + 1] = ("%s%s %10s %10s"):format(name:sub(1, widest), (" "):rep(widest - #name), since, seen)
  end
  lines[#lines + 1] = ""
  row("SLAVE", "ON LINE", "LAST SEEN")
  table.sort(stats.slaves, function(a, b) return a.id < b.id end)
  for _, slave in ipairs(stats.slaves) do
    row(slave.id, span(stats.clock_ms - slave.since_ms), span(stats.clock_ms - slave.last_seen_ms))
  end
end

--- What is shown of a sample, line by line.
---@param now znl.cli.Sample
---@param before znl.cli.Sample|nil
---@param width integer  columns there are
---@return string[]
function M.render(now, before, width)
  local stats = now.stats
  local counters, limits = stats.counters, stats.limits
  local lines = {
    ("%s  %s%s  %s  up %s"):format(stats.id, stats.encrypted and "encrypted " or "", stats.role, stats.endpoint,
      span(stats.uptime_ms)),
    "",
  }
  local function line(label, parts) add(lines, width, label, parts) end
  line("requests", rate_parts(now, before))
  line("lately", latency_parts(stats.latency.recent))
  line("ever", latency_parts(stats.latency.total))
  line("handlers", { -- one of them answers this very question
    of_limit(counters.handlers - 1, limits.max_concurrency) .. " at work",
    of_limit(counters.queued, limits.max_queue) .. " waiting",
  })
  line("pending", {
    of_limit(counters.pending, limits.max_pending) .. " asked and not answered",
    of_limit(counters.outbox, limits.outbox_messages) .. " in the outbox",
  })
  line("memory", memory_parts(now, before))
  line("tasks", { with_commas(stats.runtime.tasks), with_commas(stats.runtime.timers) .. " timers" })
  if stats.handlers then line("files", file_parts(stats.handlers)) end
  slave_lines(lines, stats, width)
  for index, text in ipairs(lines) do lines[index] = output.harmless(text) end
  return lines
end

return M
