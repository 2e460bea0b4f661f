--- The tour of micro: a registry, two services that find each other through it, and a client. One service
--- is killed and the registry goes away while calls run. Ends with 0 only if not one call was lost.
---
---     znlrun examples/micro/run.lua
---
--- SPDX-License-Identifier: MIT

local uv = require("luv")
local znl = require("znl")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local began_ms = znl.now_ms()

local function say(who, text)
  io.write(("%5d ms  %-9s %s\n"):format(znl.now_ms() - began_ms, who, text))
  io.flush()
end

-- The registry, in this process. `znlrun scripts/registry.lua` is one in a process of its own.

local function start_registry(port)
  local registry = znl.registry { host = "127.0.0.1", port = port, config_dir = false }
  assert(registry:start())
  return registry
end

local registry = start_registry(0)
local port = registry:port()
local at = "127.0.0.1:" .. port
say("registry", "listens on " .. at)

-- Two processes of `users`, one of `orders`.

local running, all_ended = 0, znl.event()

local function start_service(name)
  local process = assert(uv.spawn(uv.exepath(), {
    args = { "--log-level", "error", here .. name .. ".lua", at }, stdio = { nil, 1, 2 },
  }, function()
    running = running - 1
    if running == 0 then all_ended:set(true) end
  end))
  running = running + 1
  return process
end

local processes = { start_service("users"), start_service("users"), start_service("orders") }

local function wait_until(what, condition)
  local until_ms = znl.now_ms() + 10000
  while not condition() do
    if znl.now_ms() > until_ms then
      say("tour", "this did not happen: " .. what)
      for _, process in ipairs(processes) do process:kill("sigkill") end
      znl.exit(1)
    end
    znl.sleep(20)
  end
end

local function all_listed()
  local listed = registry:namespaces()
  return (listed.users or 0) >= 2 and listed.orders == 1
end

wait_until("all services are listed", all_listed)
say("registry", "lists 2 users, 1 orders")

-- A client is an application like the others.

local app = znl.application { namespace = "tour", registry = at }
assert(app:start())

say("tour", "user 7 is " .. assert(app:call("users", "/users/7")).name)
local _, message, status = app:call("users", "/users/70")
say("tour", ("user 70: %s %s"):format(status, message))

local names = {}
local stream = app:stream("users", "/users")
for user in stream do names[#names + 1] = user.name end
assert(stream:result())
table.sort(names)
say("tour", "users are " .. table.concat(names, ", "))

local known = 0
assert(app:subscribe("orders/count", function(value) known = value.orders end))

-- Calls all the while. `orders` calls `users` for each of them.

local asking, sent, answered = true, 0, 0
local callers = znl.wait_group()
for _ = 1, 4 do
  callers:go(function()
    while asking do
      sent = sent + 1
      local order, problem, code = app:call("orders", "/orders/add", { user = "8" })
      if order then answered = answered + 1 else say("tour", ("lost a call: %s %s"):format(code, problem)) end
      znl.sleep(2)
    end
  end)
end

znl.sleep(300)
processes[1]:kill("sigkill")
say("tour", "killed one users process")
znl.sleep(300)
registry:stop()
say("registry", ("is gone; %d calls so far, calls go on"):format(answered))
znl.sleep(300)
registry = start_registry(port)
processes[#processes + 1] = start_service("users")
wait_until("all services are listed again", all_listed)
say("registry", "is back, and lists 2 users, 1 orders")
asking = false
callers:wait()
wait_until("the last count is published", function() return known == answered end)

app:stop()
for _, process in ipairs(processes) do process:kill("sigterm") end
all_ended:wait(5000)
registry:stop()

print()
print(("calls %d, answered %d, lost %d"):format(sent, answered, sent - answered))
print(("orders by what was published: %d"):format(known))
znl.exit(sent == answered and 0 or 1)
