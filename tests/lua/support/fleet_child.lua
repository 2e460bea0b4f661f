--- A process of fleet_spec.lua: a master of a fleet, or a slave, that says what happens to it, a line each.
---     arguments: master ID URL FLEET   or   slave ID ENDPOINT …
--- SPDX-License-Identifier: MIT

local uv = require("luv")
local znl = require("znl")

local kind, id = arg[1], arg[2]

local function say(...)
  io.write(table.concat({ ... }, " "), "\n")
  io.flush()
end

local node
if kind == "master" then
  node = znl.master {
    id = id, endpoint = "tcp://127.0.0.1:*", heartbeat_ms = 2000,
    cluster = { bus = arg[3], name = arg[4], ttl_ms = 5000 },
  }
  node:on("slave_connected", function(slave, master) say("connected", slave, master) end)
  node:on("slave_disconnected", function(slave, reason) say("disconnected", slave, reason) end)
else
  node = znl.slave { id = id, endpoints = { unpack(arg, 3) }, heartbeat_ms = 2000 }
  node:handle(function(req)
    if req.payload == "wait" then
      say("working", "yes")
      znl.sleep(60000)
    end
    return id .. " got " .. req.payload
  end)
  node:on("master_online", function() say("online", node:endpoint()) end)
end
assert(node:start())
say("ready", node:endpoint())

--- Commands come as lines: ask SLAVE PAYLOAD.
local input = uv.new_pipe()
assert(input:open(0))
local rest = ""
input:read_start(function(_, data)
  if not data then return znl.exit(0) end
  rest = (rest .. data):gsub("([^\n]*)\n", function(line)
    local slave, payload = line:match("^ask (%S+) (%S+)$")
    if slave then
      znl.spawn(function()
        local answer, _, code = node:request(slave, payload, { timeout_ms = 20000 })
        say("answer", tostring(answer or code))
      end)
    end
    return ""
  end)
end)
