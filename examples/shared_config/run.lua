--- Four processes, one connection: they share a client of a configuration centre. The process that holds the
--- connection is killed, and another takes over. Ends with 0 only if no value and no call was lost.
---
---     znlrun examples/shared_config/run.lua
---
--- SPDX-License-Identifier: MIT

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
package.path = here .. "?.lua;" .. package.path
local centre_of = require("centre")
local uv = require("luv")
local znl = require("znl")

local WORKERS = 4
local CALLS_MS = 300 -- they call all the while
local began_ms = znl.now_ms()

local function say(who, text)
  io.write(("%5d ms  %-9s %s\n"):format(znl.now_ms() - began_ms, who, text))
  io.flush()
end

local centre = centre_of.start()
centre:set("limits", { per_second = 50 })
say("centre", "listens; limits 50")

--- A port that was free a moment ago: the processes decide among themselves who has it.
local function free_port()
  local listener = assert(znl.tcp.listen({ port = 0 }, function() end))
  local port = listener.port
  listener:close()
  return port
end

local port = free_port()
local workers, all_ended = {}, znl.event()

--- Starts a process, and takes down what it says.
local function start_worker(name)
  local worker = { name = name }
  local output = uv.new_pipe()
  worker.process = assert(uv.spawn(uv.exepath(), {
    args = { "--log-level", "error", here .. "worker.lua", name, tostring(port), tostring(centre.port) },
    stdio = { nil, output, 2 },
  }, function()
    worker.ended = true
    for _, other in ipairs(workers) do
      if not other.ended then return end
    end
    all_ended:set(true)
  end))
  local rest = ""
  output:read_start(function(_, data)
    if not data then return output:close() end
    rest = (rest .. data):gsub("([^\n]*)\n", function(line)
      say(name, line)
      local word, value = line:match("^(%a+) ?(%d*)")
      if word == "limits" then worker.limits = tonumber(value) end
      if word == "leads" or word == "follows" then worker.role = word end
      if word == "asked" then worker.asked, worker.lost = line:match("asked (%d+), lost (%d+)") end
      return ""
    end)
  end)
  workers[#workers + 1] = worker
end

for number = 1, WORKERS do start_worker("worker-" .. number) end

local function leader()
  for _, worker in ipairs(workers) do
    if worker.role == "leads" and not worker.killed then return worker end
  end
end

local function all(condition)
  for _, worker in ipairs(workers) do
    if not worker.killed and not condition(worker) then return false end
  end
  return true
end

local function wait_until(what, condition)
  local until_ms = znl.now_ms() + 20000
  while not condition() do
    if znl.now_ms() > until_ms then
      say("tour", "this did not happen: " .. what)
      for _, worker in ipairs(workers) do worker.process:kill("sigkill") end
      znl.exit(1)
    end
    znl.sleep(5)
  end
end

local function all_know(limits)
  wait_until("all know the limits " .. limits, function()
    return all(function(worker) return worker.limits == limits end)
  end)
end

local function shared_by(count)
  wait_until(count .. " processes are listed, over one connection", function()
    return #centre:alive() == count and centre:connections() == 1 and leader() ~= nil
  end)
  say("centre", ("knows %s; connections: %d"):format(table.concat(centre:alive(), ", "), centre:connections()))
end

all_know(50)
shared_by(WORKERS)

centre:set("limits", { per_second = 75 })
all_know(75)

znl.sleep(CALLS_MS)
local victim = leader()
victim.killed = true
victim.process:kill("sigkill")
say("tour", "killed " .. victim.name .. ", which had the connection")
centre:set("limits", { per_second = 100 }) -- nobody is listening now
all_know(100)
shared_by(WORKERS - 1)
znl.sleep(CALLS_MS)

for _, worker in ipairs(workers) do
  if not worker.killed then worker.process:kill("sigterm") end
end
if not all_ended:wait(10000) then say("tour", "a worker did not end") end
wait_until("all have said how many calls there were", function()
  return all(function(worker) return worker.asked end)
end)
centre:close()

local asked, lost = 0, 0
for _, worker in ipairs(workers) do
  asked, lost = asked + (worker.asked or 0), lost + (worker.lost or 0)
end
print()
print(("calls %d, lost %d; the last value arrived everywhere"):format(asked, lost))
znl.exit(lost == 0 and 0 or 1)
