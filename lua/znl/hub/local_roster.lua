--- znl.hub.local_roster: the sessions of this instance alone, for a hub without a bus or with the driver "none"
--- (spec ws-cluster, section 5). The same calls as znl.core.roster.
---
--- Members of a namespace are in the order they joined first.
--- SPDX-License-Identifier: MIT

local json = require("znl.json")

local M = {}

---@class znl.HubMember
---@field session_id string
---@field user_id? string
---@field metadata? table

---@class znl.LocalRoster
---@field private members table<string, table>  by session
---@field private lists table<string, table>  by namespace: rings, ring.next is the first
---@field private counts table<string, integer>
local Roster = {}
Roster.__index = Roster

---@class znl.LocalRosterOptions
---@field origin string
---@field max_members integer
---@field max_member_bytes integer
---@field on_event fun(name: string, ...)

---@param opts znl.LocalRosterOptions
---@return znl.LocalRoster
function M.new(opts)
  return setmetatable({ opts = opts, members = {}, lists = {}, counts = {}, total = 0, is_running = false }, Roster)
end

function Roster:start()
  self.is_running = true
  return true
end

local function unlink(self, member)
  member.previous.next, member.next.previous = member.next, member.previous
  local left = self.counts[member.ns] - 1
  self.counts[member.ns] = left > 0 and left or nil
  if left == 0 then self.lists[member.ns] = nil end
end

local function append(self, member)
  local ring = self.lists[member.ns]
  if not ring then
    ring = {}
    ring.next, ring.previous = ring, ring
    self.lists[member.ns] = ring
  end
  local last = ring.previous
  member.previous, member.next = last, ring
  last.next, ring.previous = member, member
  self.counts[member.ns] = (self.counts[member.ns] or 0) + 1
end

local function remove(self, member, cause)
  self.members[member.session_id] = nil
  self.total = self.total - 1
  unlink(self, member)
  self.opts.on_event("removed", member.ns, member.session_id, member.user_id, self.opts.origin, cause)
end

--- Forgets all members.
function Roster:stop()
  self.is_running = false
  local all = {}
  for _, member in pairs(self.members) do all[#all + 1] = member end
  for _, member in ipairs(all) do remove(self, member, "stopped") end
end

--- Adds a member, or replaces what is known of it.
---@param given { ns: string, session_id: string, user_id: string, metadata?: table }
---@return true|nil ok
---@return string? message
---@return "INVALID"|"LIMIT"|"TOO_BIG"|string? code
function Roster:join(given)
  local text, message, code = json.encode {
    ns = given.ns, sessionId = given.session_id, userId = given.user_id, metadata = given.metadata,
  }
  if not text then return nil, "roster: " .. message, code end
  if #text > self.opts.max_member_bytes then
    return nil, ("roster: a member of %d bytes, and %d are allowed (max_member_bytes)"):format(
      #text, self.opts.max_member_bytes), "TOO_BIG"
  end
  local before = self.members[given.session_id]
  if not before and self.total >= self.opts.max_members then
    return nil, ("roster: there are %d members (max_members)"):format(self.total), "LIMIT"
  end
  -- As it would arrive elsewhere.
  local _, value = json.decode(text)
  local member = before or { session_id = given.session_id }
  if before and before.ns ~= given.ns then unlink(self, before) end
  local is_new_here = not before or before.ns ~= given.ns
  member.ns, member.user_id, member.metadata = given.ns, given.user_id, value.metadata
  if is_new_here then append(self, member) end
  if not before then
    self.members[given.session_id] = member
    self.total = self.total + 1
  end
  self.opts.on_event(before and "updated" or "added", member.ns, member.session_id, member.user_id, self.opts.origin)
  return true
end

---@param session_id string
---@return boolean
function Roster:leave(session_id)
  local member = self.members[session_id]
  if not member then return false end
  remove(self, member, "left")
  return true
end

--- The members of a namespace.
---@param ns string
---@return znl.HubMember[]
function Roster:list(ns)
  local list, ring = {}, self.lists[ns]
  local at = ring and ring.next
  while at ~= ring do
    list[#list + 1] = { session_id = at.session_id, user_id = at.user_id, metadata = at.metadata }
    at = at.next
  end
  return list
end

---@param session_id string
---@return table|nil
function Roster:find(session_id)
  local member = self.members[session_id]
  if not member then return nil end
  return {
    ns = member.ns, session_id = session_id, user_id = member.user_id, metadata = member.metadata,
    owner = self.opts.origin, own = true,
  }
end

---@param ns? string
---@return integer
function Roster:count(ns)
  if ns == nil then return self.total end
  return self.counts[ns] or 0
end

---@return boolean
function Roster.is_partial() return false end

---@return table<string, integer>
function Roster:counters() return { members = self.total, own_members = self.total } end

return M
