--- znl.hub.sessions: which connection stands for which session (spec ws-cluster, sections 7 and 11).
---
--- The connection that joined last with a session id holds the session. Others that joined with it before stay
--- mapped to the user, but leave the roster alone when they close.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local json = require("znl.json")

local M = {}

local ID_BYTES_MAX = 1024
local CHANNELS_MAX = 256
local SESSION_ID_BYTES = 16

---@class znl.HubSession
---@field user_id string
---@field session_id? string  unique in the whole cluster; nil: one is made
---@field channels? string[]  of broadcasts it wants, beside those without a channel
---@field metadata? table  all instances, and all who list the roster, see it

---@class znl.HubSessions
---@field private holders table<string, znl.HubContext>  by session
local Sessions = {}
Sessions.__index = Sessions

---@class znl.HubSessionsParts
---@field fanout any  znl.core.hub
---@field roster any  znl.core.roster
---@field on_displaced fun(session_id: string, ctx: znl.HubContext)

---@param parts znl.HubSessionsParts
---@return znl.HubSessions
function M.new(parts)
  return setmetatable({ parts = parts, holders = {} }, Sessions)
end

local function is_id(value)
  return type(value) == "string" and value ~= "" and #value <= ID_BYTES_MAX
end

--- Whether a value is an array of so many names at most.
---@param value any
---@param most integer
---@return boolean
local function are_names(value, most)
  if type(value) ~= "table" or #value > most then return false end
  local count = 0
  for key, name in pairs(value) do
    count = count + 1
    if type(key) ~= "number" or not is_id(name) then return false end
  end
  return count == #value
end
M.are_names, M.is_id = are_names, is_id

local KNOWN = { user_id = true, session_id = true, channels = true, metadata = true }

--- What is wrong with it: much of it comes from clients.
local function problem_of(given)
  for name in pairs(given) do
    if not KNOWN[name] then return ("there is no %s in a session"):format(tostring(name)) end
  end
  if not is_id(given.user_id) then return "user_id must be a text of 1 to 1024 bytes" end
  if given.session_id ~= nil and not is_id(given.session_id) then
    return "session_id must be a text of 1 to 1024 bytes"
  end
  if given.channels ~= nil and not are_names(given.channels, CHANNELS_MAX) then
    return "channels must be an array of at most 256 texts of 1 to 1024 bytes"
  end
  local metadata = given.metadata
  if metadata ~= nil and (type(metadata) ~= "table" or metadata[1] ~= nil or json.is_array(metadata)) then
    return "metadata must be a table with names"
  end
end

local function new_id()
  return (crypto.random(SESSION_ID_BYTES):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

--- A connection gives up a session; it leaves the roster if the connection holds it.
local function release(self, ctx, session_id)
  if self.holders[session_id] ~= ctx then return end
  self.holders[session_id] = nil
  self.parts.roster:leave(session_id)
end

--- Maps a connection to a session; again: with what is new.
---@param ctx znl.HubContext
---@param given znl.HubSession
---@return true|nil ok
---@return string? message
---@return "INVALID"|"LIMIT"|"TOO_BIG"|"CLOSED"|"NO_MEMORY"|string? code
function Sessions:join(ctx, given)
  local problem = problem_of(given)
  if problem then return nil, "hub: " .. problem, "INVALID" end
  if not ctx.id then return nil, "hub: the connection is closed", "CLOSED" end
  local session_id = given.session_id or ctx.session_id or new_id()
  local roster, fanout, before_id = self.parts.roster, self.parts.fanout, ctx.session_id
  local ok, message, code = fanout:join(ctx.id, session_id, given.user_id, given.channels)
  if not ok then return nil, message, code end
  ok, message, code = roster:join {
    ns = ctx.ns, session_id = session_id, user_id = given.user_id, metadata = given.metadata,
  }
  if not ok then
    -- As it was.
    if before_id then fanout:join(ctx.id, before_id, ctx.user_id, ctx.channels) else fanout:leave(ctx.id) end
    return nil, message, code
  end
  if before_id and before_id ~= session_id then release(self, ctx, before_id) end
  local holder = self.holders[session_id]
  self.holders[session_id] = ctx
  ctx.session_id, ctx.user_id, ctx.channels, ctx.metadata = session_id, given.user_id, given.channels, given.metadata
  if holder and holder ~= ctx then self.parts.on_displaced(session_id, holder) end
  return true
end

--- Takes the session from a connection; and out of the roster, if the connection holds it.
---@param ctx znl.HubContext
---@return boolean  false: it had none
function Sessions:leave(ctx)
  local session_id = ctx.session_id
  if not session_id or not ctx.id then return false end
  self.parts.fanout:leave(ctx.id)
  ctx.session_id, ctx.channels = nil, nil
  release(self, ctx, session_id)
  return true
end

--- The connection that holds a session here.
---@param session_id string
---@return znl.HubContext|nil
function Sessions:holder(session_id) return self.holders[session_id] end

return M
