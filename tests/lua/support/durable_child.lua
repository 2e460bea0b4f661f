--- A worker of durable_kill_spec.lua: handles messages of a queue, says which, a line each, and kills itself
--- (SIGKILL) at a step of the last; at no step: it is told to end.
---     arguments: url, queue, step, how many messages before that, ack_wait_ms
--- SPDX-License-Identifier: MIT

local nats = require("znl.nats")
local uv = require("luv")
local znl = require("znl")

local url, name, step, count, ack_wait_ms = arg[1], arg[2], arg[3], tonumber(arg[4]), tonumber(arg[5])
local handled = 0

local function say(...)
  io.write(table.concat({ ... }, " "), "\n")
  io.flush()
end

local function die() uv.kill(uv.os_getpid(), "sigkill") end

local bus = assert(nats.connect { servers = url })
local queue = znl.queue(name, { bus = bus })

--- What the library tells the server passes here.
local core = bus.core
bus.core = setmetatable({}, {
  __index = function(_, method) return function(_, ...) return core[method](core, ...) end end,
})
function bus.core.publish(_, subject, data, ...)
  local is_last = handled >= count
  if data == "+ACK" and is_last and step == "before_ack" then die() end
  local ok, message, code = core:publish(subject, data, ...)
  if data == "+ACK" and is_last and step == "after_ack" then
    znl.spawn(function()
      assert(bus:flush(60000))
      say("acked")
      die()
    end)
  end
  if subject:find("MSG.NEXT", 1, true) and step == "before_receive" then
    znl.spawn(function()
      assert(bus:flush(60000)) -- the server has the request, and what it sends is not looked at any more
      die()
    end)
  end
  return ok, message, code
end

queue:handle(function(message)
  handled = handled + 1
  if handled > count then znl.sleep(600000) end
  say("begin", message.data)
  if handled % 3 == 0 then znl.sleep(1) end
  if step == "none" then znl.sleep(600000) end
  if handled == count and step == "in_handler" then die() end
  say("done", message.data)
end, { max_in_flight = step == "after_ack" and 1 or 4, ack_wait_ms = ack_wait_ms, max_deliver = 0, backoff_ms = { 0 } })

assert(queue:start())
znl.on_stop(function()
  queue:stop(400)
  bus:close()
end)
say("ready")
