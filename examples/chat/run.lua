--- The tour of the hub: a nats-server, two processes that serve the chat, and people who talk through both. One
--- process is killed and comes back. Ends with 0 only if all went as it should.
---
---     znlrun examples/chat/run.lua
---     znlrun examples/chat/run.lua stay       keeps serving: open the two addresses in a browser
---
--- SPDX-License-Identifier: MIT

local uv = require("luv")
local znl = require("znl")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local began_ms = znl.now_ms()
local stays = arg[1] == "stay"
local TTL_MS = 2000

local function say(who, text)
  io.write(("%5d ms  %-7s %s\n"):format(znl.now_ms() - began_ms, who, text))
  io.flush()
end

-- Processes, and how they end.

local processes, running, all_ended = {}, 0, znl.event()

local function end_all(signal)
  for process in pairs(processes) do process:kill(signal) end
end

local function run(command, args, stdout)
  local process, problem
  process, problem = uv.spawn(command, { args = args, stdio = { nil, stdout, 2 } }, function()
    processes[process] = nil
    process:close()
    running = running - 1
    if running == 0 then all_ended:set(true) end
  end)
  if not process then
    local hint = command == "nats-server" and " (apt-get install nats-server)" or ""
    say("tour", ("%s did not start: %s%s"):format(command, problem, hint))
    end_all("sigkill")
    znl.exit(1)
  end
  processes[process], running = true, running + 1
  return process
end

local function wait_until(what, condition)
  local until_ms = znl.now_ms() + 30000
  while not condition() do
    if znl.now_ms() > until_ms then
      say("tour", "this did not happen: " .. what)
      end_all("sigkill")
      znl.exit(1)
    end
    znl.sleep(20)
  end
end

--- A port that is free at this moment, below those the system gives to whoever asks for any.
local last_port = 10000 + uv.os_getpid() * 199 % 20000
local function free_port()
  while true do
    last_port = 10000 + (last_port + 1) % 20000
    local server = znl.tcp.listen({ host = "127.0.0.1", port = last_port }, function(conn) conn:close() end)
    if server then
      server:close()
      return last_port
    end
  end
end

local ports = { nats = free_port(), free_port(), free_port() }
local bus = "nats://127.0.0.1:" .. ports.nats
run("nats-server", { "-a", "127.0.0.1", "-p", tostring(ports.nats), "-l", "/dev/null" })

local function start_hub(number)
  local args = { "--log-level", "error", here .. "hub.lua", bus, tostring(ports[number]), tostring(TTL_MS) }
  return run(uv.exepath(), args)
end

local hubs = { start_hub(1), start_hub(2) }

-- People: what they hear is kept.

local Person = {}
Person.__index = Person

local function enter(name, number)
  local person = setmetatable({ name = name, heard = {}, roster = {} }, Person)
  wait_until(name .. " enters", function()
    person.conn = znl.websocket.connect(("ws://127.0.0.1:%d/ws/chat?name=%s"):format(ports[number], name))
    return person.conn
  end)
  znl.spawn(function()
    for text in person.conn:messages() do
      local _, message = znl.json.decode(text)
      if message.type == "roster" then
        person.roster = {}
        for _, member in ipairs(message.payload) do table.insert(person.roster, member.name) end
        table.sort(person.roster)
      elseif message.type == "said" or message.type == "whisper" then
        table.insert(person.heard, ("%s: %s"):format(message.payload.from, message.payload.text))
      end
    end
  end)
  return person
end

function Person:say(text, to)
  assert(self.conn:send(assert(znl.json.encode { type = "say", payload = { text = text, to = to } })))
end

function Person:hears(what)
  wait_until(("%s hears %q"):format(self.name, what), function()
    for _, heard in ipairs(self.heard) do
      if heard == what then return true end
    end
  end)
end

function Person:sees(names)
  wait_until(("%s sees %s"):format(self.name, names), function() return table.concat(self.roster, " ") == names end)
end

local ada, bob = enter("Ada", 1), enter("Bob", 2)
ada:sees("Ada Bob")
bob:sees("Ada Bob")
say("tour", "Ada is at the first instance, Bob at the second; they see each other")

ada:say("good morning")
bob:hears("Ada: good morning")
bob:say("only for you", "Ada")
ada:hears("Bob: only for you")
say("tour", "Bob heard Ada, and Ada what Bob said to her alone")

hubs[2]:kill("sigkill")
local killed_ms = znl.now_ms()
ada:sees("Ada")
say("tour", ("the second instance was killed; %d ms later Bob has left the roster"):format(znl.now_ms() - killed_ms))

hubs[2] = start_hub(2)
bob = enter("Bob", 2)
ada:sees("Ada Bob")
bob:say("I am back")
ada:hears("Bob: I am back")
say("tour", "it is back, and so is Bob")

if stays then
  for number = 1, 2 do say("tour", ("http://127.0.0.1:%d"):format(ports[number])) end
  local stop = znl.event()
  znl.on_stop(function()
    end_all("sigterm")
    all_ended:wait(5000)
    stop:set(true)
  end)
  stop:wait()
  return
end

hubs[2]:kill("sigterm")
ada:sees("Ada")
say("tour", "the second instance was stopped: Bob left at once")
ada.conn:close()
end_all("sigterm")
all_ended:wait(5000)
znl.exit(running == 0 and 0 or 1)
