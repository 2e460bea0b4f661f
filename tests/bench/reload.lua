--- reload.lua: what reloads cost those who ask meanwhile, and whether anything is lost.
---
---   znlrun reload.lua MODE [RELOADS [SLAVES [IN_FLIGHT]]]   prints the result; MODE plain|encrypted
---
--- One master answers with a handler file; SLAVES processes keep IN_FLIGHT requests open each.
--- Quiet and busy spells of SPELL_S alternate, so both kinds see the same machine: in a busy one the
--- file is edited over and over: written in place, renamed over, broken and mended. Every answer
--- carries the version that made it. A request sent after an answer of version N was seen must not
--- be answered by one before N: that would be the old version serving after the swap.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local uv = require("luv")
local znl = require("znl")

local SPELL_S = 4
local TIMEOUT = { timeout_ms = 10000 }

--- --- a slave ----------------------------------------------------------------------------------

local function slave_main(endpoint, mode, id, in_flight, begins_us)
  local slave = znl.slave(measure.options(id, endpoint, mode, { max_pending = in_flight + 1 }))
  assert(slave:start())
  assert(slave:request("first", TIMEOUT))
  local quiet, busy = measure.latency(), measure.latency()
  local newest, ended, open = 0, false, in_flight
  local asked_count, wrong, late, failed = 0, 0, 0, 0
  slave:subscribe("end", function() ended = true end)
  local done = znl.event()
  local function ask()
    while not ended do
      local known, asked = newest, measure.now_us()
      asked_count = asked_count + 1
      local reply, message, code = slave:request("x", TIMEOUT)
      local took = measure.now_us() - asked
      local version = tonumber(reply)
      if not version then
        if code == "TIMEOUT" then late = late + 1 else failed = failed + 1 end
        io.stderr:write("reload.lua: ", tostring(message or reply), "\n")
      else
        if version < known then wrong = wrong + 1 end
        if version > newest then newest = version end
        local spell = math.floor((asked - begins_us) / (SPELL_S * 1e6))
        if spell >= 0 then (spell % 2 == 0 and quiet or busy):add(took) end
      end
    end
    open = open - 1
    if open == 0 then done:set() end
  end
  for _ = 1, in_flight do znl.spawn(ask) end
  done:wait()
  measure.report {
    { "asked", asked_count }, { "wrong", wrong }, { "timeouts", late }, { "failed", failed },
    { "quiet_count", quiet.count }, { "busy_count", busy.count },
    { "quiet_p50_us", quiet:percentile_us(0.5), "%.1f" },
    { "busy_p50_us", busy:percentile_us(0.5), "%.1f" },
    { "quiet_p99_us", quiet:percentile_us(0.99), "%.1f" },
    { "busy_p99_us", busy:percentile_us(0.99), "%.1f" },
    { "quiet_p999_us", quiet:percentile_us(0.999), "%.1f" },
    { "busy_p999_us", busy:percentile_us(0.999), "%.1f" },
  }
  slave:stop()
end

if arg[1] == "slave" then
  slave_main(arg[2], arg[3], arg[4], tonumber(arg[5]), tonumber(arg[6]))
  return
end

--- --- the master, which also edits ---------------------------------------------------------------

local mode, wanted = arg[1] or "plain", tonumber(arg[2] or 1000)
local slave_count, in_flight = tonumber(arg[3] or 4), tonumber(arg[4] or 25)
local folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/znl-reload-XXXXXX"))
local path = folder .. "/handler.lua"

local function write(name, text)
  local file = assert(io.open(name, "wb"))
  file:write(text)
  file:close()
end

local function version_text(number)
  return ("return { handle = function() return '%d' end, on_load = function(s) return s or {} end }\n")
    :format(number)
end

local function rss_kib()
  local file = assert(io.open("/proc/self/status"))
  local kib = tonumber(file:read("*a"):match("VmRSS:%s*(%d+)"))
  file:close()
  return kib
end

write(path, version_text(1))
local handlers = znl.handlers(path)
local master = znl.master(measure.options("bench-master", "tcp://127.0.0.1:*", mode))
master:handle(handlers)
assert(master:start())

local begins_us = math.floor(measure.now_us() + 2e6)
local lines, left, all_ended = {}, slave_count, znl.event()
for number = 1, slave_count do
  local out = uv.new_pipe(false)
  local text = ""
  local process
  process = assert(uv.spawn(uv.exepath(), {
    args = { arg[0], "slave", master:endpoint(), mode, "bench-" .. number,
      tostring(in_flight), ("%d"):format(begins_us) },
    stdio = { nil, out, 2 },
  }, function() process:close() end))
  out:read_start(function(_, data)
    if data then
      text = text .. data
      return
    end
    out:close()
    lines[number] = text
    left = left - 1
    if left == 0 then all_ended:set(true) end
  end)
end

local swapped, refused = znl.event(), znl.event()
handlers:on("reload", function() swapped:set(true) end)
handlers:on("reload_failed", function() refused:set(true) end)

local visible = measure.latency()
local number, done, unseen = 1, 0, 0
local kinds = { in_place = 0, renamed = 0, broken = 0 }

local function is_busy_spell()
  local spell = math.floor((measure.now_us() - begins_us) / (SPELL_S * 1e6))
  return spell >= 0 and spell % 2 == 1
end

--- One edit; waits until it is served, or refused when it is broken.
local function edit()
  local kind = ({ "in_place", "renamed", "broken" })[done % 3 + 1]
  kinds[kind] = kinds[kind] + 1
  swapped:clear()
  refused:clear()
  if kind == "broken" then
    write(path, "return function( -- " .. done)
    if not refused:wait(5000) then unseen = unseen + 1 end
    return
  end
  number = number + 1
  if kind == "renamed" then
    write(path .. ".new", version_text(number))
    assert(os.rename(path .. ".new", path))
  else
    write(path, version_text(number))
  end
  local closed = measure.now_us()
  if swapped:wait(5000) then visible:add(measure.now_us() - closed) else unseen = unseen + 1 end
end

local rss_first
while done < wanted do
  if is_busy_spell() then
    edit()
    done = done + 1
    if done == math.floor(wanted / 10) then rss_first = rss_kib() end
  else
    znl.sleep(20)
  end
end
local rss_last = rss_kib()
-- To the end of a spell, so that both kinds have had the same time.
while is_busy_spell() do znl.sleep(20) end
master:publish("end", "")
assert(all_ended:wait(30000), "a slave did not end")

local sums = {}
for _, line in ipairs(lines) do
  for name, value in line:gmatch("([%w_]+)=(%S+)") do
    local at = name:match("_us$") and math.max or function(a, b) return a + b end
    sums[name] = at(sums[name] or 0, tonumber(value))
  end
end
measure.report {
  { "reloads", done }, { "in_place", kinds.in_place }, { "renamed", kinds.renamed },
  { "broken", kinds.broken }, { "unseen", unseen },
  { "asked", sums.asked }, { "lost", sums.timeouts + sums.failed }, { "timeouts", sums.timeouts },
  { "wrong_version", sums.wrong },
  { "quiet_p50_us", sums.quiet_p50_us, "%.0f" }, { "busy_p50_us", sums.busy_p50_us, "%.0f" },
  { "quiet_p99_us", sums.quiet_p99_us, "%.0f" }, { "busy_p99_us", sums.busy_p99_us, "%.0f" },
  { "quiet_p999_us", sums.quiet_p999_us, "%.0f" }, { "busy_p999_us", sums.busy_p999_us, "%.0f" },
  { "p99_ratio", sums.busy_p99_us / sums.quiet_p99_us, "%.2f" },
  { "quiet_rate", sums.quiet_count / (sums.quiet_count + sums.busy_count) * 2, "%.3f" },
  { "visible_p50_ms", visible:percentile_us(0.5) / 1000, "%.1f" },
  { "visible_p99_ms", visible:percentile_us(0.99) / 1000, "%.1f" },
  { "rss_at_10_percent_kib", rss_first or 0 }, { "rss_at_end_kib", rss_last },
}
master:stop()
handlers:close()
os.remove(path)
uv.fs_rmdir(folder)
