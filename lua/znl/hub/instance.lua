--- znl.hub.instance: what a hub has while it runs, opened and closed as a whole: the bus, the fan-out to its
--- connections, the roster and its sessions.
--- SPDX-License-Identifier: MIT

local bus = require("znl.bus")
local core_hub = require("znl.core.hub")
local core_roster = require("znl.core.roster")
local sessions = require("znl.hub.sessions")

local M = {}

--- For what was published last to get to the server.
local FLUSH_MS = 300

---@class znl.HubInstance
---@field bus? znl.Nats
---@field fanout any  znl.core.hub
---@field roster any  znl.core.roster
---@field sessions znl.HubSessions
local Instance = {}
Instance.__index = Instance

---@class znl.HubInstanceParts
---@field what string  begins errors
---@field config table
---@field id string  what others know it by
---@field on_fanout fun(event: string, ...)  these four: without yielding
---@field on_roster fun(event: string, ...)
---@field on_bus fun(state: "online"|"offline")
---@field on_displaced fun(session_id: string, ctx: znl.HubContext, by: string)

local function open_roster(self, parts)
  local config = parts.config
  local is_shared = self.bus ~= nil and config.roster.driver == "nats"
  return core_roster.new {
    bus = is_shared and self.bus.core or nil, subject = ("%s.%s.roster"):format(config.subject_prefix, config.app),
    origin = parts.id, ttl_ms = config.roster.ttl_ms, max_members = config.max_members,
    max_member_bytes = config.max_member_bytes, on_event = parts.on_roster,
  }
end

local function open(self, parts)
  local config = parts.config
  if config.bus ~= nil then
    -- What comes back from the server is dropped here anyway.
    self.bus, self.owns_bus = bus.open(config.bus, parts.what, 1, { echo = false })
    self.offs = {
      self.bus:on("connected", function() parts.on_bus("online") end),
      self.bus:on("disconnected", function() parts.on_bus("offline") end),
    }
  end
  local message, code
  self.fanout, message, code = core_hub.new {
    bus = self.bus and self.bus.core, prefix = config.subject_prefix, app = config.app, origin = parts.id,
    on_slow = config.on_slow, on_event = parts.on_fanout,
  }
  if not self.fanout then return nil, message, code end
  self.roster, message, code = open_roster(self, parts)
  if not self.roster then return nil, message, code end
  self.sessions = sessions.new {
    fanout = self.fanout, roster = self.roster,
    on_displaced = function(session_id, ctx) parts.on_displaced(session_id, ctx, parts.id) end,
  }
  local ok
  ok, message, code = self.fanout:start()
  if not ok then return nil, message, code end
  ok, message, code = self.roster:start()
  if not ok then return nil, message, code end
  return self
end

--- Opens it: broadcast and direct first, then the roster (spec ws-cluster, section 3). A bus that is away is no
--- error. In a task that belongs to no version of code: it outlives them.
---@param parts znl.HubInstanceParts
---@return znl.HubInstance|nil
---@return string? message
---@return string? code
function M.open(parts)
  local self = setmetatable({ offs = {} }, Instance)
  local ok, made, message, code = pcall(open, self, parts)
  if ok and made then return made end
  self:close()
  if ok then return nil, message, code end
  return nil, (tostring(made):gsub("^[^\n:]-:%d+: ", "")), "INVALID" -- options of the bus that cannot be
end

--- local: without a bus; online, offline: with one that is connected, or not.
---@return "local"|"online"|"offline"
function Instance:state()
  if not self.bus then return "local" end
  return self.bus:is_connected() and "online" or "offline"
end

---@return table<string, number>
function Instance:counters()
  local result = { online = self:state() == "online" and 1 or 0, roster_members = self.roster:count() }
  for name, value in pairs(self.fanout:counters()) do result[name] = value end
  for name, value in pairs(self.roster:counters()) do result["roster_" .. name] = value end
  return result
end

--- Takes its members from the rosters of all others, and ends. Yields.
function Instance:close()
  for _, off in ipairs(self.offs) do off() end
  if self.roster then self.roster:stop() end
  if self.fanout then self.fanout:stop() end
  if not self.bus then return end
  if self.bus:is_connected() then self.bus:flush(FLUSH_MS) end
  if self.owns_bus then self.bus:close() end
end

return M
