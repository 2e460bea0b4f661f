--- znlrun push: sends to a master what needs no answer, and waits until it has arrived.
---
--- The protocol acknowledges heartbeats, not pushes; but one connection keeps its order. So when
--- the master acknowledges a heartbeat that was sent after the push, it has had the push.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local payload = require("znl.cli.payload")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local uv = require("luv")

--- Soon enough for a person, rare enough for a master.
local HEARTBEAT_MS = 50
local LOOK_MS = 5

--- How many acknowledgements must have come before one is surely for a later heartbeat. A master of
--- ours may send one more than there were heartbeats, as the answer to the registration.
local function acks_needed(slave)
  return slave:counters().heartbeats + 2
end

--- Waits until the master has acknowledged what follows the push. Yields.
local function wait_acknowledged(master, needed, ends)
  while master.slave:counters().acks < needed do
    if uv.hrtime() >= ends then return false end
    if master:pause(LOOK_MS) then return false end
  end
  return true
end

local function run(opts, out)
  local frames, message, code = payload.read_all(opts.payload)
  if not frames then return nil, message, code end
  local began = uv.hrtime()
  local ends = began + opts.timeout * 1e6
  local master
  master, message, code = peer.open(opts, { tool = "push", heartbeat_ms = HEARTBEAT_MS })
  if not master then return nil, message, code end
  local online
  online, message, code = master:wait_online(opts.timeout)
  if not online then
    master:close()
    return nil, message, code
  end
  local needed = acks_needed(master.slave)
  local ok
  ok, message, code = master.slave:push(opts.topic, frames)
  if not ok then
    master:close()
    return nil, message, code
  end
  local arrived = wait_acknowledged(master, needed, ends)
  local ms = (uv.hrtime() - began) / 1e6
  master:close()
  if runtime.stopping() then return nil end
  if not arrived then
    return nil, "sent, but the master did not acknowledge what followed it: it may have arrived or not", "TIMEOUT"
  end
  if out.json then
    out:object { topic = opts.topic, arrived = true, ms = tonumber(("%.3f"):format(ms)) }
  else
    out:note(("the master has received it, after %.1f ms; whether it listens to %q it does not say")
      :format(ms, opts.topic))
  end
end

return command.new {
  name = "push",
  summary = "Sends a push to a master; ends when it has arrived.",
  description = "A push has no answer: what is known at the end is that the master has received it.",
  examples = {
    { "znlrun push tcp://127.0.0.1:6003 temperature 21.5", "topic temperature, one frame" },
    { "znlrun push tcp://127.0.0.1:6003 report @report.pdf", "the content of a file" },
  },
  configure = function(parser)
    peer.configure(parser)
    parser:argument("topic", "Topic of the push.")
    parser:argument("payload", "One frame each. " .. payload.HELP .. " None: an empty frame."):args("*")
  end,
  run = run,
}
