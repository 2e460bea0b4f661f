--- The tour: a master, two slave processes, different keys, and a handler that is edited while
--- requests run. Ends with 0 only if not one of them was lost.
---
---     znlrun examples/quickstart/run.lua
---
--- SPDX-License-Identifier: MIT

local uv = require("luv")
local znl = require("znl")

local SLAVES = { "slave-001", "slave-002" }
local CALLERS = 4 -- coroutines that ask each slave, one request after the other
local STEP_MS = 600 -- between two edits of the handler

-- Output: colours only where somebody looks.

local coloured = uv.guess_handle(1) == "tty" and os.getenv("NO_COLOR") == nil

local function paint(code, text)
  return coloured and ("\27[%dm%s\27[0m"):format(code, text) or text
end

local began_ms = znl.now_ms()

local function say(who, text)
  io.write(("%5d ms  %s %s\n"):format(znl.now_ms() - began_ms, paint(36, ("%-10s"):format(who)), text))
  io.flush()
end

-- A copy of the handler, to edit.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local folder = assert(uv.fs_mkdtemp(uv.os_tmpdir() .. "/znl-quickstart-XXXXXX"))
local handler_path = folder .. "/greet.lua"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local original = read(here .. "handlers/greet.lua")
write(handler_path, original)

-- Each slave has a key of its own, made for this run.

local function new_key()
  return (uv.random(16):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local keys = {}
for _, id in ipairs(SLAVES) do keys[id] = new_key() end

local master = znl.master {
  id = "master-1", endpoint = "tcp://127.0.0.1:*", encrypted = true, auth_keys = keys,
}

local failed = false
local all_up, all_reported, all_gone = znl.event(), znl.event(), znl.event()
local up, reports, exits = 0, 0, 0
local sent, answered = 0, 0
local slaves_sent, slaves_answered = 0, 0

master:handle(function(req)
  return req.payload == "goodbye" and "goodbye" or os.date("%H:%M:%S")
end)

master:on("slave_connected", function(id)
  say(id, paint(32, "on line"))
  up = up + 1
  if up == #SLAVES then all_up:set(true) end
end)

master:on("push", function(from, topic, payload)
  if topic == "progress" then
    say(from, "pushed: " .. payload .. " of my own requests answered")
  elseif topic == "report" then
    slaves_sent, slaves_answered = slaves_sent + payload[1], slaves_answered + payload[2]
    reports = reports + 1
    if reports == #SLAVES then all_reported:set(true) end
  end
end)

assert(master:start())
say("master-1", "listens on " .. master:endpoint())

-- Two more processes of this same program.

local function start_slave(id)
  local environment = {
    "SLAVE_ID=" .. id, "SLAVE_KEY=" .. keys[id], "MASTER_ENDPOINT=" .. master:endpoint(), "HANDLERS=" .. folder,
  }
  for name, value in pairs(uv.os_environ()) do environment[#environment + 1] = name .. "=" .. value end
  local process, pid = uv.spawn(uv.exepath(), {
    args = { here .. "slave.lua" }, env = environment, stdio = { nil, 1, 2 },
  }, function(code, signal)
    if code ~= 0 or signal ~= 0 then
      failed = true
      say(id, paint(31, ("ended with code %d, signal %d"):format(code, signal)))
    end
    exits = exits + 1
    if exits == #SLAVES then all_gone:set(true) end
  end)
  assert(process, pid)
  return process
end

local processes = {}
for _, id in ipairs(SLAVES) do processes[#processes + 1] = start_slave(id) end

-- Requests, all the while; the word they are answered with shows which version answered.

local asking, callers = true, 0
local callers_ended = znl.event()
local words = {}

local function call_again_and_again(id)
  while asking do
    sent = sent + 1
    local reply, message = master:request(id, id)
    local word = reply and reply:match("^(%a+), ")
    if word then
      answered = answered + 1
      words[word] = (words[word] or 0) + 1
    else
      say(id, paint(31, "lost a request: " .. tostring(message or reply)))
    end
    znl.sleep(1)
  end
  callers = callers - 1
  if callers == 0 then callers_ended:set(true) end
end

local function edit(word, note)
  say("you", ("edit the handler: %s%s"):format(word, note or ""))
  write(handler_path, (original:gsub('"Hello"', word)))
  znl.sleep(STEP_MS)
end

local function show()
  local reply, message = master:request(SLAVES[1], "you")
  sent, answered = sent + 1, answered + (reply and 1 or 0)
  say(SLAVES[1], "answers " .. paint(33, reply or message))
end

if all_up:wait(3000) then
  for _, id in ipairs(SLAVES) do
    for _ = 1, CALLERS do
      callers = callers + 1
      znl.spawn(call_again_and_again, id)
    end
  end
  znl.sleep(STEP_MS)
  show()
  edit('"Bonjour"')
  show()
  edit('"Hola', ", with a mistake: the version before keeps answering")
  show()
  edit('"Hola"')
  show()
  asking = false
  callers_ended:wait(6000)
else
  failed = true
  say("master-1", paint(31, "the slaves did not come up"))
end

say("master-1", ("published closing to %d slaves"):format((master:publish("closing", "now"))))
if not (all_reported:wait(3000) and all_gone:wait(3000)) then
  failed = true
  say("master-1", paint(31, "a slave did not leave"))
  for _, process in ipairs(processes) do
    if process:is_active() then process:kill("sigkill") end
  end
end
master:stop()
os.remove(handler_path)
uv.fs_rmdir(folder)

-- What came of it.

local lost = (sent - answered) + (slaves_sent - slaves_answered)
local by_word = {}
for _, word in ipairs { "Hello", "Bonjour", "Hola" } do
  by_word[#by_word + 1] = ("%s %d"):format(word, words[word] or 0)
  failed = failed or not words[word]
end
print()
print(("master to slaves  %d sent, %d answered  (%s)"):format(sent, answered, table.concat(by_word, ", ")))
print(("slaves to master  %d sent, %d answered"):format(slaves_sent, slaves_answered))
print(paint(lost == 0 and 32 or 31, ("lost              %d"):format(lost)))
znl.exit((failed or lost > 0) and 1 or 0)
