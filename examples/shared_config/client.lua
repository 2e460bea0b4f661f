--- The client of the configuration centre: one connection, and methods around it. It knows nothing of sharing;
--- `znl.cluster_client` makes one for all processes of worker.lua.
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local json = znl.json
local TIMEOUT_MS = 2000

---@class ConfigClient
local Client = {}
Client.__index = Client

--- Listens to a key: `listener(value)` now and on each change.
function Client:subscribe(reg, listener)
  self.listeners[reg.key] = listener
  self:send { watch = reg.key }
end

--- Tells the centre that somebody is alive.
function Client:publish(reg) self:send { announce = reg.name } end

--- Asks for a value.
function Client:get(key)
  self.asked = self.asked + 1
  local id, answered = self.asked, znl.event()
  self.waiting[id] = answered
  self:send { get = key, id = id }
  local ok, value, code = answered:wait(TIMEOUT_MS)
  self.waiting[id] = nil
  if not ok then return nil, value, code end
  return value
end

function Client:close() self.connection:close() end

function Client:send(message) self.connection:write(json.encode(message) .. "\n") end

--- Takes in one line of the centre.
local function receive(self, line)
  local readable, message = json.decode(line)
  if not readable then return end
  if message.key then
    local listener = self.listeners[message.key]
    if listener and message.value ~= nil then listener(message.value) end
  elseif self.waiting[message.id] then
    self.waiting[message.id]:set(true, message.value)
  end
end

--- Reads what the centre says until it closes.
local function listen(self)
  while true do
    local line = self.connection:read("line")
    if not line then break end
    receive(self, line)
  end
  for _, answered in pairs(self.waiting) do
    answered:set(nil, "the connection to the configuration centre is closed", "CLOSED")
  end
end

local M = {}

--- Connects. Yields.
---@param port integer
---@return ConfigClient|nil client
---@return string? message
---@return string? code
function M.connect(port)
  local connection, message, code = znl.tcp.connect { port = port, io_timeout_ms = 0 }
  if not connection then return nil, message, code end
  local self = setmetatable({ connection = connection, listeners = {}, waiting = {}, asked = 0 }, Client)
  znl.spawn(listen, self)
  return self
end

return M
