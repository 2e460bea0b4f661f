--- soak: load for minutes while connections are cut, slaves killed and the master frozen; started by scripts/soak.
---
--- One master, several processes of slaves. They ask each other, push and publish; all messages are numbered, and
--- each process watches order and answers itself (soak_end.lua). Three parts:
---   top      requests without a pause, to learn the top rate
---   storm    a share of that rate, while random things happen to the processes
---   calm     nothing happens any more: every request must succeed, and not one message may be missing
--- At the end every request must have ended, in one way; numbers may be missing in a row only where a connection
--- ended; memory must not have grown. SPDX-License-Identifier: MIT

local here = arg[0]:match("^(.-)[^/]*$")
local uv = require("luv")
local znl = require("znl")

local parser = require("argparse")("scripts/soak", "Load for minutes, while things go wrong all the time.")
parser:option("--minutes", "How long things go wrong."):default("10"):convert(tonumber)
parser:option("--share", "Part of the top rate, percent."):default("80"):convert(tonumber)
parser:option("--rate", "Requests per second of all, in place of a part of the top rate."):convert(tonumber)
parser:option("--seed", "Repeats the same sequence of events."):convert(tonumber)
parser:option("--slaves", "Slaves in each process."):default("8"):convert(tonumber)
parser:option("--fleets", "Processes of slaves."):default("3"):convert(tonumber)
parser:flag("--encrypted", "Proofs, digests and sealed payloads.")
parser:flag("--short", "A few seconds, for the tests: a small rate, no claim about memory.")
local opts = parser:parse(arg)

local SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18
local MEMORY_MINUTES = 4 -- then the first third is longer than the minute in which messages are remembered
local seed = opts.seed or tonumber(tostring(uv.hrtime()):sub(-7, -1)) or 1
local mode = opts.encrypted and "encrypted" or "plain"
math.randomseed(seed)

local problems = {}

local function problem(...)
  problems[#problems + 1] = string.format(...)
  print("WRONG: " .. problems[#problems])
end

--- --- processes --------------------------------------------------------------------------------

local Process = {}
Process.__index = Process

--- Starts soak_end.lua; yields until it is ready.
local function start(name, ...)
  local self = setmetatable({ name = name, figures = {}, ready = znl.event(), gone = znl.event(), rest = "" }, Process)
  self.stdin, self.stdout = uv.new_pipe(false), uv.new_pipe(false)
  local words = { here .. "soak_end.lua" }
  for _, word in ipairs { ... } do words[#words + 1] = tostring(word) end
  local err
  self.handle, err = uv.spawn(uv.exepath(), { args = words, stdio = { self.stdin, self.stdout, 2 } },
    function(code, signal)
      self.code, self.signal = code, signal
      self.gone:set()
      self.ready:set()
      if not self.handle:is_closing() then self.handle:close() end
    end)
  if not self.handle then error("soak: " .. err) end
  self.pid = err
  self.stdout:read_start(function(_, data)
    if data then self:take(data) elseif not self.stdout:is_closing() then self.stdout:close() end
  end)
  self.ready:wait()
  if self.gone:is_set() then error(("soak: %s ended early, code %d"):format(name, self.code)) end
  return self
end

function Process:take(data)
  self.rest = self.rest .. data
  for line in (self.rest:gsub("[^\n]*$", "")):gmatch("([^\n]*)\n") do
    local word, words = line:match("^(%S+) (.*)$")
    if word == "ready" then
      self.endpoint = words
      self.ready:set()
    elseif word == "count" then
      self.figures = {}
      for name, value in words:gmatch("([%w_?]+)=(%-?%d+)") do self.figures[name] = tonumber(value) end
      if self.counted then self.counted:set() end
    elseif word == "violation" then
      problem("%s: %s", self.name, words)
    end
  end
  self.rest = self.rest:match("[^\n]*$")
end

function Process:tell(line)
  if not self.stdin:is_closing() then self.stdin:write(line .. "\n") end
end

--- Its figures of now; those of before when it dies meanwhile. Yields.
function Process:count()
  self.counted = znl.event()
  self:tell("count")
  while not self.counted:is_set() and not self.gone:is_set() do self.counted:wait(100) end
  return self.figures
end

function Process:kill(signal) uv.kill(self.pid, signal) end

function Process:rss_kib()
  local file = io.open(("/proc/%d/status"):format(self.pid))
  local text = file and file:read("*a") or ""
  if file then file:close() end
  return tonumber(text:match("VmRSS:%s*(%d+)")) or 0
end

function Process:close()
  if not self.stdin:is_closing() then self.stdin:close() end
end

--- --- all of them --------------------------------------------------------------------------------

local master = start("master", "master", mode, seed)
local fleets = {}
local buried = {} -- figures of processes that were killed: { asked =, sent =, … }
local kills, freezes = 0, 0

local function start_fleet(number, life)
  return start("fleet " .. number, "slaves", mode, seed + number * 1000 + life, master.endpoint, "s" .. number, life,
    opts.slaves)
end

local function each(fn)
  fn(master)
  for _, fleet in ipairs(fleets) do fn(fleet) end
end

--- The sum of the figures of all processes, and of the dead ones if asked for. Yields.
local function totals(with_dead)
  local sum = {}
  local function add(figures)
    for name, value in pairs(figures) do sum[name] = (sum[name] or 0) + value end
  end
  each(function(process) add(process:count()) end)
  if with_dead then add(buried) end
  return sum
end

local function wait_until(what, condition)
  local began = uv.hrtime()
  while not condition() do
    znl.sleep(50)
    if (uv.hrtime() - began) / 1e9 > 120 then
      problem("waited in vain for two minutes: %s", what)
      return false
    end
  end
  return true
end

local function all_online()
  return wait_until("all slaves on line", function() return master:count().online == opts.slaves * opts.fleets end)
end

--- Waits until every request that was begun has ended.
local function all_ended()
  return wait_until("every request ends", function()
    local sum = totals()
    return sum.open == 0 and sum.asked == sum.ok + sum.failed
  end)
end

--- --- what happens -------------------------------------------------------------------------------

local events = {}

function events.cut_at_slave() fleets[math.random(#fleets)]:tell("cut") end

function events.cut_at_master() master:tell("cut") end

function events.freeze()
  freezes = freezes + 1
  master:kill(SIGSTOP)
  znl.sleep(opts.short and 300 or 1000)
  master:kill(SIGCONT)
end

function events.kill()
  kills = kills + 1
  local number = math.random(2, #fleets) -- the first one lives: its memory is looked at
  local fleet = fleets[number]
  local figures = fleet:count()
  fleet:kill(SIGKILL)
  fleet.gone:wait()
  fleet:close()
  for name, value in pairs(figures) do
    if name ~= "open" then buried[name] = (buried[name] or 0) + value end
  end
  local life = (fleet.life or 0) + 1
  fleets[number] = start_fleet(number, life)
  fleets[number].life = life
  if fleet.rate then
    fleets[number].rate = fleet.rate
    fleets[number]:tell("rate " .. fleet.rate)
  end
end

local BAG = { "cut_at_slave", "cut_at_slave", "cut_at_slave", "cut_at_master", "cut_at_master", "cut_at_master",
  "kill", "freeze" }

--- Half of the requests come from the slaves, half from the master.
local function set_rate(rate)
  each(function(process)
    process.rate = math.max(1, math.floor(rate / 2 / (process == master and 1 or #fleets)))
    process:tell("rate " .. process.rate)
  end)
end

local function calm() each(function(process) process:tell("calm") end) end

local function top_rate()
  each(function(process) process:tell("load " .. (process == master and 100 * opts.fleets or 100)) end)
  znl.sleep(1000)
  local before, began = totals().ok, uv.hrtime()
  znl.sleep(3000)
  local rate = (totals().ok - before) / ((uv.hrtime() - began) / 1e9)
  calm()
  all_ended()
  return rate
end

local function median(values)
  table.sort(values)
  return values[math.ceil(#values / 2)] or 0
end

--- Things happen until the time is over, or so many times. Returns memory of the master and the first fleet.
local function storm(seconds, count)
  local memory = { {}, {} }
  local ends = uv.hrtime() + seconds * 1e9
  local happened, looked = 0, 0
  while uv.hrtime() < ends and happened < count do
    znl.sleep(opts.short and math.random(60, 200) or math.random(200, 1500))
    -- The short form does each kind, in turn; its last two are the ones that take time.
    events[opts.short and BAG[happened % #BAG + 1] or BAG[math.random(#BAG)]]()
    happened = happened + 1
    if (uv.hrtime() - looked) / 1e9 > 1 then
      looked = uv.hrtime()
      table.insert(memory[1], master:rss_kib())
      table.insert(memory[2], fleets[1]:rss_kib())
    end
  end
  return memory
end

--- Memory of the last third is that of the second one: before, tables and pools grow to the size of the load.
local function check_memory(name, samples)
  local third = math.floor(#samples / 3)
  local before, after = {}, {}
  for i = third + 1, 2 * third do before[#before + 1] = samples[i] end
  for i = 2 * third + 1, #samples do after[#after + 1] = samples[i] end
  local first, last = median(before), median(after)
  print(("memory %-8s %d KiB in the second third, %d KiB in the last"):format(name, first, last))
  if opts.minutes < MEMORY_MINUTES then
    print(("  nothing is claimed about memory below %d minutes"):format(MEMORY_MINUTES))
  elseif last > first * 1.15 + 8192 then problem("memory of %s grew from %d to %d KiB", name, first, last) end
end

--- So many requests, and with them pushes and publishes, while nothing happens; then waits until all of it has
--- ended or arrived. Returns the figures of all.
local function quiet_load(enough)
  local before = totals()
  set_rate(opts.short and 500 or 2000)
  wait_until("requests in the calm", function() return totals().asked - before.asked >= enough end)
  calm()
  all_ended()
  -- What was sent before an answer on a connection has arrived with it; the last messages may still be under way.
  local after = totals()
  wait_until("the last messages", function()
    local now = totals()
    local is_still = now.received == after.received and now.sent == after.sent
    after = now
    return is_still
  end)
  return after
end

--- The end: whatever is sent now arrives. The numbers of a receiver stay gapless, no request fails.
local function check_calm()
  all_online()
  local enough = opts.short and 500 or 5000
  local before = quiet_load(enough) -- so that all have noticed what they missed in the storm
  local after = quiet_load(enough)
  if after.failed ~= before.failed then
    problem("%d requests failed while nothing happened", after.failed - before.failed)
  end
  if after.gaps ~= before.gaps then problem("%d gaps while nothing happened", after.gaps - before.gaps) end
end

local function main()
  print(("soak: %s, engine %s, seed %d, %d x %d slaves"):format(mode, os.getenv("ZNL_ENGINE") or "auto", seed,
    opts.fleets, opts.slaves))
  for number = 1, opts.fleets do fleets[number] = start_fleet(number, 0) end
  all_online()
  local rate = opts.rate
  if not rate and opts.short then rate = 1000 end
  if not rate then
    local top = top_rate()
    rate = top * opts.share / 100
    print(("top rate %.0f requests/s; %d %% of it: %.0f"):format(top, opts.share, rate))
  end
  set_rate(rate)
  local before, began = totals(true).ok, uv.hrtime()
  local memory = storm(opts.short and math.huge or opts.minutes * 60, opts.short and 2 * #BAG or math.huge)
  local reached = (totals(true).ok - before) / ((uv.hrtime() - began) / 1e9)
  calm()
  all_ended()
  check_calm()
  local sum = totals(true)
  if not opts.short then
    check_memory("master", memory[1])
    check_memory("slaves", memory[2])
  end
  -- Messages are missing only where a connection ended, in either direction. A slave that heard nothing makes a new
  -- one by itself; a process may be killed with a cut that it has not reported.
  local allowed = 2 * (sum.cuts + sum.rebuilds + kills)
  if sum.gaps > allowed then problem("%d gaps, but only %d connections ended", sum.gaps, allowed) end
  if sum.cuts == 0 then problem("no connection was cut") end
  if sum.ok == 0 or sum.received == 0 then problem("nothing was sent") end
  print(("%d connections cut, %d processes killed, master frozen %d times, %d reconnects by silence"):format(sum.cuts,
    kills, freezes, sum.rebuilds))
  print(("%.0f requests/s were answered meanwhile, %d were not begun because so many were open"):format(reached,
    sum.skipped))
  print(("requests: %d answered, %d failed, %d died with their process"):format(sum.ok, sum.failed,
    sum.asked - sum.ok - sum.failed))
  for name, value in pairs(sum) do
    local code = name:match("^code_(.*)$")
    if code then print(("  %s %d"):format(code, value)) end
  end
  print(("one way: %d sent, %d received, %d missing in %d gaps"):format(sum.sent, sum.received, sum.missing, sum.gaps))
  each(function(process)
    process:tell("stop")
    process.gone:wait()
    if process.code ~= 0 then problem("%s ended with code %d", process.name, process.code) end
    process:close()
  end)
  print(#problems == 0 and "soak: all held" or ("soak: %d things went wrong"):format(#problems))
  znl.exit(#problems == 0 and 0 or 1)
end

main()
