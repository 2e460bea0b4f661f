--- znlrun request: sends a request to a master, as a slave, and prints the answer.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local output = require("znl.cli.output")
local payload = require("znl.cli.payload")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local uv = require("luv")

local function print_reply(out, opts, reply, fields)
  local frames = type(reply) == "table" and reply or { reply }
  if out.json then
    output.put_payload(fields, "reply", frames)
    return out:object(fields)
  end
  if opts.hex then
    for _, frame in ipairs(frames) do out:line(output.hex(frame)) end
    return
  end
  -- The bytes as they came, where a program may read them; lines where a person does.
  local text = table.concat(frames, "\n")
  local needs_end = (out.is_terminal or opts.count ~= 1 or #frames > 1) and text:sub(-1) ~= "\n"
  out:write(needs_end and text .. "\n" or text)
end

--- Asks once. Yields.
local function ask(master, frames, timeout_ms)
  local began = uv.hrtime()
  local reply, message, code = master.slave:request(frames, { timeout_ms = timeout_ms })
  local ms = (uv.hrtime() - began) / 1e6
  if reply ~= nil then return reply, ms end
  local _, text, reason = master:explain(message, code, timeout_ms)
  return nil, text, reason
end

local function summary(times, asked)
  local least, most, sum = math.huge, 0, 0
  for _, ms in ipairs(times) do
    least, most, sum = math.min(least, ms), math.max(most, ms), sum + ms
  end
  local text = ("%d of %d answered"):format(#times, asked)
  if #times == 0 then return text end
  return ("%s; least/mean/most %.3f/%.3f/%.3f ms"):format(text, least, sum / #times, most)
end

local function run(opts, out)
  local frames, message, code = payload.read_all(opts.payload)
  if not frames then return nil, message, code end
  local master
  master, message, code = peer.open(opts, { tool = "request" })
  if not master then return nil, message, code end

  local times, asked, failed = {}, 0, nil
  local many = opts.count ~= 1
  if many then -- the first time must not be that of connecting
    local online
    online, message, code = master:wait_online(opts.timeout)
    if not online then
      master:close()
      return nil, message, code
    end
  end
  while opts.count == 0 or asked < opts.count do
    asked = asked + 1
    local began = uv.hrtime()
    local reply, ms_or_message, reason = ask(master, frames, opts.timeout)
    if runtime.stopping() then
      asked = asked - 1
      break
    end
    if reply ~= nil then
      times[#times + 1] = ms_or_message
      print_reply(out, opts, reply, {
        ms = tonumber(("%.3f"):format(ms_or_message)), seq = many and asked or nil,
      })
    elseif many then
      failed = out:fail(("request %d: %s"):format(asked, ms_or_message), reason)
    else
      master:close()
      return nil, ms_or_message, reason
    end
    local is_last = asked == opts.count
    if not is_last and master:pause(opts.interval - (uv.hrtime() - began) / 1e6) then break end
  end
  if many then out:note(summary(times, asked)) end
  master:close()
  return failed
end

return command.new {
  name = "request",
  summary = "Sends a request to a master and prints the answer.",
  description = "The bytes of the answer are printed as they came; on a terminal they end with a new line.",
  examples = {
    { "znlrun request tcp://127.0.0.1:6003 hello", "asks with the text hello" },
    { "znlrun request tcp://127.0.0.1:6003 part1 @photo.jpg", "two frames, one from a file" },
    { "date | znlrun request ipc:///tmp/master.sock -", "asks with standard input" },
    { "znlrun request tcp://db:6003 ping --count 5 --interval 200", "five times, and how long each took" },
    { "znlrun request tcp://db:6003 ping --id slave-001 --key env:SLAVE_KEY", "an encrypted master" },
  },
  configure = function(parser)
    peer.configure(parser)
    parser:argument("payload", "One frame each. " .. payload.HELP .. " None: an empty frame."):args("*")
    parser:flag("--hex", "Print frames in hex, one a line.")
    parser:option("--count", "How often to ask, 0: until Ctrl-C (default 1)."):argname("<n>")
      :convert(command.whole(0, 1000000000)):default("1"):show_default(false)
    parser:option("--interval", "Time from one request to the next, milliseconds (default 1000).")
      :argname("<ms>"):convert(command.whole(0, 86400000)):default("1000"):show_default(false)
  end,
  run = run,
}
