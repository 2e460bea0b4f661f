--- znlrun bench: puts a running master under load and reports rates and latencies.
---
--- A closed loop: each of so many coroutines asks, waits for the answer, asks again. A master that
--- gets slower is therefore asked less often; the rate is what it can serve, not what was wanted.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local crypto = require("znl.core.crypto")
local exit_code = require("znl.cli.exit_code")
local histogram = require("znl.console.histogram")
local json = require("znl.json")
local payload = require("znl.cli.payload")
local peer = require("znl.cli.peer")
local probe = require("znl.cli.probe")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local uv = require("luv")

local PROGRESS_MS = 500

--- After a failure: one that comes at once must not keep the loop from everything else.
local BACK_OFF_MS = 1

local SHARES = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p99.9", 0.999 } }

local function seconds(text)
  local number, unit = text:match("^(%d+%.?%d*)(m?s?)$")
  number = tonumber(number)
  if number and unit ~= "m" then
    if unit == "ms" then number = number / 1000 end
    if number >= 0.1 and number <= 86400 then return number end
  end
  return nil, ("'%s' must be seconds in 0.1..86400, such as 10, 1.5 or 500ms"):format(text)
end

--- Random, so that nothing on the way compresses it.
local function random_bytes(size)
  local MIB = 1024 * 1024 -- the most the core makes at once
  local piece = crypto.random(math.min(size, MIB))
  return size <= MIB and piece or piece:rep(math.ceil(size / MIB)):sub(1, size)
end

local function check_route(text)
  if text:sub(1, 1) == "/" and #text <= 1024 then return text end
  return nil, ("'%s' is no route; one begins with /"):format(text)
end

local function open_all(opts, out)
  local ok, message, code
  if not opts.wait_for_peer then
    ok, message, code = probe.connect(opts.endpoint, opts.timeout)
    if not ok then return nil, message, code end
  end
  local base, masters = opts.id or peer.unique_id("bench"), {}
  local function give_up()
    for _, master in ipairs(masters) do master:close() end
    return nil, message, code
  end
  local each = math.ceil(opts.concurrency / opts.connections)
  for index = 1, opts.connections do
    opts.id = opts.connections == 1 and base or base .. "-" .. index
    local master
    master, message, code = peer.open(opts, { tool = "bench", is_probed = true, max_pending = each + 1 })
    if not master then return give_up() end
    masters[index] = master
  end
  for index, master in ipairs(masters) do
    out:progress(("connecting: %d of %d"):format(index - 1, #masters))
    ok, message, code = master:wait_online(opts.timeout)
    if not ok then return give_up() end
  end
  return masters
end

---@class znl.cli.BenchResult
---@field began number  of uv.hrtime
---@field latency znl.Histogram
---@field errors table<string, integer>
---@field error_count integer
---@field bytes_in integer
---@field answered? number  of uv.hrtime, the last time

local function size_of(reply)
  if type(reply) == "string" then return #reply end
  local size = 0
  for _, frame in ipairs(reply) do size = size + #frame end
  return size
end

--- How one connection asks: a function that returns reply or nil, message, code.
local function asker(master, bytes, opts)
  local slave = master.slave
  if opts.route then
    local core, route, timeout_ms = slave.core, opts.route, opts.timeout
    return function() -- the core itself: what comes is counted, not read
      local reply, is_json, code = core:call(route, bytes, timeout_ms, true)
      if code ~= nil then return nil, is_json, code end
      return reply
    end
  end
  local timeout = { timeout_ms = opts.timeout }
  return function() return slave:request(bytes, timeout) end
end

--- Asks until the end. Yields.
local function keep_asking(ask, result, ends)
  local now = uv.hrtime
  local asked = now()
  while asked < ends and not runtime.stopping() do
    local reply, message, code = ask()
    local answered = now()
    if reply ~= nil then
      result.latency:add((answered - asked) / 1000)
      result.answered = answered
      result.bytes_in = result.bytes_in + size_of(reply)
    elseif not runtime.stopping() then
      code = code or "FAILED"
      result.errors[code] = (result.errors[code] or 0) + 1
      result.error_count = result.error_count + 1
      result.first_error = result.first_error or message
      sched.sleep(BACK_OFF_MS)
    end
    asked = now()
  end
end

local function with_commas(number)
  local text = ("%.0f"):format(number)
  local count
  repeat text, count = text:gsub("^(%d+)(%d%d%d)", "%1,%2") until count == 0
  return text
end

local function ms(us) return ("%.3g"):format(us / 1000) end

local function show_progress(out, result, opts)
  local elapsed = (uv.hrtime() - result.began) / 1e9
  out:progress(("%.0f of %g s  %s req/s  p50 %s ms  p99 %s ms  %d errors"):format(
    elapsed, opts.duration, with_commas(result.latency.count / math.max(elapsed, 0.001)),
    ms(result.latency:percentile_us(0.5)), ms(result.latency:percentile_us(0.99)), result.error_count))
end

local function report_object(out, opts, result, elapsed, payload_bytes)
  local latency = { mean = result.latency:mean_us() / 1000, max = result.latency.max_us / 1000 }
  for _, share in ipairs(SHARES) do latency[share[1]] = result.latency:percentile_us(share[2]) / 1000 end
  out:object {
    endpoint = opts.endpoint, route = opts.route, encrypted = opts.key ~= nil, concurrency = opts.concurrency,
    connections = opts.connections, payload_bytes = payload_bytes, seconds = elapsed,
    requests = result.latency.count, rate = result.latency.count / elapsed, bytes_in = result.bytes_in,
    latency_ms = result.latency.count > 0 and latency or nil,
    errors = result.error_count, errors_by_code = result.error_count > 0 and result.errors or nil,
  }
end

local function report_text(out, opts, result, elapsed, payload_bytes)
  out:line(("%s requests in %.1f s, %d at once over %d connection%s, %d bytes%s"):format(
    with_commas(result.latency.count), elapsed, opts.concurrency, opts.connections,
    opts.connections == 1 and "" or "s", payload_bytes, opts.key and ", encrypted" or ""))
  out:line(("rate     %s req/s, %.2f MB/s of answers"):format(
    out:paint("bold", with_commas(result.latency.count / elapsed)), result.bytes_in / elapsed / 1e6))
  if result.latency.count > 0 then
    local words = {}
    for _, share in ipairs(SHARES) do
      words[#words + 1] = share[1] .. " " .. ms(result.latency:percentile_us(share[2]))
    end
    words[#words + 1] = "max " .. ms(result.latency.max_us)
    out:line("latency  " .. table.concat(words, "  ") .. "  ms")
  end
  local codes = {}
  for code, count in pairs(result.errors) do codes[#codes + 1] = code .. " " .. with_commas(count) end
  table.sort(codes)
  local text = #codes == 0 and "none" or table.concat(codes, "  ")
  out:line("errors   " .. (#codes == 0 and text or out:paint("red", text)))
end

--- The code that came most often.
local function main_error(result)
  local most, count = nil, 0
  for code, times in pairs(result.errors) do
    if times > count or times == count and code < most then most, count = code, times end
  end
  return most
end

local function run(opts, out)
  local text, message, code
  if opts.route then text = "null" end
  if opts.payload then
    text, message, code = payload.read(opts.payload)
    if not text then return nil, message, code end
  end
  if opts.route then
    local ok, problem = json.decode(text)
    if not ok then return nil, "the payload of a route is JSON, and this is not: " .. problem, "USAGE" end
  end
  if opts.connections > opts.concurrency then
    return nil, "--connections must not be more than --concurrency", "USAGE"
  end
  local bytes = text or random_bytes(opts.payload_bytes)
  local masters
  masters, message, code = open_all(opts, out)
  if not masters then return nil, message, code end

  local result = {
    began = uv.hrtime(), latency = histogram.new(), errors = {}, error_count = 0, bytes_in = 0,
  }
  local ends = result.began + opts.duration * 1e9
  local open, done = opts.concurrency, sched.event()
  for index = 1, opts.concurrency do
    sched.spawn(function()
      keep_asking(asker(masters[(index - 1) % #masters + 1], bytes, opts), result, ends)
      open = open - 1
      if open == 0 then done:set(true) end
    end)
  end
  while not done:wait(PROGRESS_MS) do show_progress(out, result, opts) end
  local elapsed = (uv.hrtime() - result.began) / 1e9
  out:clear_progress()
  for _, master in ipairs(masters) do master:close() end
  local report = out.json and report_object or report_text
  report(out, opts, result, elapsed, #bytes)
  if result.error_count == 0 then return exit_code.OK end
  if not out.json then
    out:note("the first error: " .. result.first_error)
    if (result.errors.REBUILT or result.errors.GONE) and result.answered then
      out:note(("the last answer came after %.1f s: then the master was gone"):format(
        (result.answered - result.began) / 1e9))
    end
  end
  return result.latency.count > 0 and exit_code.FAILED or exit_code.of(main_error(result))
end

return command.new {
  name = "bench",
  summary = "Puts a running master under load: rates, latencies, errors.",
  description = "So many coroutines ask, wait for the answer and ask again (a closed loop), as slaves. " ..
      "The load and the master share the machine unless you run them on two.",
  examples = {
    { "znlrun bench tcp://127.0.0.1:6003", "10 seconds, 100 requests at once" },
    { "znlrun bench tcp://db:6003 --concurrency 1 --duration 5 --json", "one after the other, for scripts" },
    { "znlrun bench tcp://db:6003 --route /users --payload '{\"name\":\"Ann\"}'",
      "routed calls, to a znlrun master" },
    { "znlrun bench tcp://db:6003 --connections 4 --payload @query.json", "four slaves, a payload of yours" },
  },
  configure = function(parser)
    peer.configure(parser)
    parser:option("--concurrency", "Requests at once (default 100)."):argname("<n>")
      :convert(command.whole(1, 100000)):default("100"):show_default(false)
    parser:option("--connections", "Slaves that share them (default 1); with --id they are named ID-1, ID-2, ...")
      :argname("<n>"):convert(command.whole(1, 10000)):default("1"):show_default(false)
    parser:option("--duration", "Seconds, or 500ms (default 10)."):argname("<time>"):convert(seconds)
      :default("10"):show_default(false)
    local by_route = parser:option("--route", "Call this route with JSON (default null) in place of plain requests.")
      :argname("<route>"):convert(check_route)
    local by_size = parser:option("--payload-bytes", "Random bytes in a request (default 32)."):argname("<n>")
      :convert(command.whole(0, 16777216)):default("32"):show_default(false)
    local by_content = parser:option("--payload", "What to send instead. " .. payload.HELP):argname("<payload>")
    parser:mutex(by_size, by_content)
    parser:mutex(by_size, by_route)
  end,
  run = run,
}
