--- znlrun top: what a running node does, seen through its console.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local node_view = require("znl.cli.node_view")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local screen = require("znl.cli.screen")
local uv = require("luv")

--- Columns when standard output is no screen.
local PRINT_WIDTH = 100

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
      for _, line in ipairs(node_view.render(sample, before, PRINT_WIDTH)) do out:line(line) end
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
    local width, height = view:size()
    local lines = node_view.render(sample, before, width)
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
