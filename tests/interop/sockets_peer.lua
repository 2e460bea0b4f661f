-- sockets_peer.lua - a bare socket of znl.core that says every message back: `znlrun sockets_peer.lua <router|dealer>
-- <engine> <endpoint>`. Prints the endpoint it is at. A dealer says "here" now and then, so that a ROUTER knows it.
--
-- SPDX-License-Identifier: MIT
local socket = require "znl.core.socket"
local znl = require "znl"

local role, engine, endpoint = ...
local peer = assert(socket[role] {
  endpoint = endpoint,
  engine = engine,
  routing_id = role == "dealer" and "lua" or nil,
})

local waiting, first, last, busy = {}, 1, 0, false

--- Says what waits, in order, as there is room.
local function say()
  if busy then return end
  busy = true
  while first <= last do
    local sent, message, code = peer:send(waiting[first])
    if not sent and code == "BUSY" then
      znl.sleep(2)
    else
      -- Who has gone meanwhile gets no answer.
      assert(sent or code == "UNREACHABLE", message)
      waiting[first] = nil
      first = first + 1
    end
  end
  busy = false
end

peer:on_message(function(frames)
  last = last + 1
  waiting[last] = frames
  say()
end)

if role == "dealer" then
  znl.spawn(function()
    while true do
      peer:send { "here" }
      znl.sleep(50)
    end
  end)
end

io.stdout:write(peer:endpoint(), "\n")
io.stdout:flush()
