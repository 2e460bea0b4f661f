--- A hundred requests at once to a handler that takes 100 ms each: all are answered in about 100 ms,
--- because a handler that waits holds up nobody else.
---
---     znlrun examples/concurrency.lua
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local REQUESTS, WORK_MS = 100, 100

local slave_is_up = znl.event()

local master = znl.master { id = "master", endpoint = "tcp://127.0.0.1:*" }
master:once("slave_connected", function(id) slave_is_up:set(id) end)
assert(master:start())

local slave = znl.slave { id = "worker", endpoint = master:endpoint() }
slave:handle(function(req)
  znl.sleep(WORK_MS) -- stands for a query, a file, a request to somebody else
  return "done " .. req.payload
end)
assert(slave:start())

local worker = assert(slave_is_up:wait(5000))
local all_ended = znl.event()
local ended, answered = 0, 0
local began_ms = znl.now_ms()

for i = 1, REQUESTS do
  znl.spawn(function()
    local reply, message, code = master:request(worker, tostring(i), { timeout_ms = 2000 })
    if reply == "done " .. i then
      answered = answered + 1
    else
      print(("request %d failed: %s (%s)"):format(i, tostring(message), tostring(code)))
    end
    ended = ended + 1
    if ended == REQUESTS then all_ended:set() end
  end)
end

all_ended:wait()
print(("%d of %d requests of %d ms each answered in %d ms"):format(
  answered, REQUESTS, WORK_MS, znl.now_ms() - began_ms))

slave:stop()
master:stop()
if answered < REQUESTS then znl.exit(1) end
