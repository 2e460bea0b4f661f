--- A configuration centre, such as there is one in a data centre: it keeps values, tells who watches them, and
--- lists who is alive. Here a line of JSON in each direction; the real ones speak protocols of their own.
---
---     {"watch":"limits"}            answered by {"key":"limits","value":…}, now and on each change
---     {"get":"limits","id":7}       answered by {"id":7,"value":…}
---     {"announce":"worker-1"}       listed while the connection lasts
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local json = znl.json

---@class Centre
local Centre = {}
Centre.__index = Centre

local function send(connection, message) connection:write(json.encode(message) .. "\n") end

local function serve(self, connection)
  local session = { watched = {}, announced = {} }
  self.sessions[connection] = session
  while true do
    local line = connection:read("line")
    if not line then break end
    local ok, message = json.decode(line)
    if not ok then break end
    if message.watch then
      session.watched[message.watch] = true
      send(connection, { key = message.watch, value = self.values[message.watch] })
    elseif message.get then
      send(connection, { id = message.id, value = self.values[message.get] })
    elseif message.announce then
      session.announced[message.announce] = true
    end
  end
  self.sessions[connection] = nil
end

--- Changes a value, and tells who watches it.
function Centre:set(key, value)
  self.values[key] = value
  for connection, session in pairs(self.sessions) do
    if session.watched[key] then send(connection, { key = key, value = value }) end
  end
end

function Centre:connections()
  local count = 0
  for _ in pairs(self.sessions) do count = count + 1 end
  return count
end

--- Who announced itself, by name.
function Centre:alive()
  local names = {}
  for _, session in pairs(self.sessions) do
    for name in pairs(session.announced) do names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

function Centre:close()
  self.listener:close()
  for connection in pairs(self.sessions) do connection:close() end
end

local M = {}

--- Yields.
function M.start()
  local self = setmetatable({ values = {}, sessions = {} }, Centre)
  self.listener = assert(znl.tcp.listen({ port = 0, io_timeout_ms = 0 }, function(connection)
    serve(self, connection)
  end))
  self.port = self.listener.port
  return self
end

return M
