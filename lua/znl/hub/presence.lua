--- znl.hub.presence: the calls of a hub, with the namespace and the connection filled in.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.HubPresence
---@field private hub znl.Hub
---@field private ctx znl.HubContext
local Presence = {}
Presence.__index = Presence

---@param hub znl.Hub
---@param ctx znl.HubContext
---@return znl.HubPresence
function M.new(hub, ctx)
  return setmetatable({ hub = hub, ctx = ctx }, Presence)
end

--- The sessions in the namespace of the connection, on all instances.
---@return znl.HubMember[]
function Presence:list() return self.hub:roster(self.ctx.ns) end

--- Maps the connection to a session; see znl.Hub:join_session.
---@param session znl.HubSession
---@return true|nil ok
---@return string? message
---@return string? code
function Presence:join(session) return self.hub:join_session(self.ctx, session) end

--- Takes the session from the connection.
---@return boolean  false: it had none
function Presence:leave() return self.hub:leave_session(self.ctx) end

--- Sends to all sessions of a user, in any namespace.
---@param user_id string
---@param message znl.HubMessage
---@return integer|nil deliveries  to connections of this instance
---@return string? message
---@return string? code
function Presence:direct_to_user(user_id, message) return self.hub:direct_to_user(user_id, message) end

--- Sends to a namespace, that of the connection unless the entry names another one.
---@param entry znl.HubBroadcast
---@return integer|nil deliveries
---@return string? message
---@return string? code
function Presence:broadcast(entry)
  if type(entry) ~= "table" then error("presence:broadcast: needs a table, not a " .. type(entry), 2) end
  if entry.ns == nil then
    local filled = { ns = self.ctx.ns }
    for name, value in pairs(entry) do filled[name] = value end
    entry = filled
  end
  return self.hub:broadcast(entry)
end

return M
