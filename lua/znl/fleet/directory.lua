--- znl.fleet.directory: which slave is with which master of a fleet.
---
--- Each master announces its own slaves, and the newer announcement of a slave wins, which is how a slave moves. What
--- a master that died announced expires.
---
--- A roster (znl.core.roster) of one namespace: session_id is a slave's id, user_id its master's, in which bytes that
--- are no printable ASCII are written %XX. SPDX-License-Identifier: MIT

local core = require("znl.core.roster")
local crypto = require("znl.core.crypto")

local M = {}

local NAMESPACE = "slaves"
local PURPOSE = "znl-fleet-entry 1\n"

---@param id string  any bytes
---@return string
function M.escape(id)
  return (id:gsub("[^\33-\36\38-\126]", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

--- The way back; nil when `escape` never made it.
---@param text string
---@return string|nil id
function M.unescape(text)
  local id = text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  return M.escape(id) == text and id or nil
end

---@class znl.FleetDirectoryOptions
---@field bus userdata  of znl.core.nats
---@field subject string
---@field ttl_ms integer
---@field origin string  this instance
---@field master_id string
---@field max_members integer
---@field secret? string
---@field on_added fun(id: string, master: string)  a slave is with another master; none of these may yield
---@field on_removed fun(id: string, cause: string, master: string)
---@field on_gone fun(id: string, owner: string)  a slave is not with that instance any more
---@field on_displaced fun(id: string, master: string|nil)  a slave of ours is with another master now
---@field on_disputed fun(id: string)  somebody without the secret says so of a slave of ours
---@field on_partial fun(is_partial: boolean)

---@class znl.FleetDirectory
local Directory = {}
Directory.__index = Directory

--- What a master with the secret adds to the entry of a slave.
local function sign(self, session_id, user_id, owner)
  return crypto.hmac(self.opts.secret, ("%s%s\n%s\n%s"):format(PURPOSE, owner, user_id, session_id))
end

local function read(self, found)
  if not found or found.ns ~= NAMESPACE or type(found.user_id) ~= "string" then return nil end
  local master = M.unescape(found.user_id)
  local owner, metadata = found.owner, type(found.metadata) == "table" and found.metadata or {}
  -- The owner becomes part of a subject.
  if not master or type(owner) ~= "string" or not owner:find("^%w+$") or #owner > 64 then return nil end
  if self.opts.secret and not found.own
      and metadata.proof ~= sign(self, found.session_id, found.user_id, owner) then
    return nil
  end
  return {
    master = master, owner = owner, is_own = found.own == true, calls = metadata.calls == true,
    since_ms = tonumber(metadata.since_ms),
  }
end

--- What changed with a slave of another master; `cause` when it is with none now.
local function change(self, session_id, id, now, cause)
  local before = self.remote[session_id]
  self.remote[session_id] = now
  if before and not (now and now.owner == before.owner) then self.opts.on_gone(id, before.owner) end
  local was, is = before and before.master, now and now.master
  if was == is then return end -- or the same master started again
  if was then self.opts.on_removed(id, cause, was) end
  if is then self.opts.on_added(id, is) end
end

--- Tells of a slave that is with another master than was known.
local function notice(self, session_id)
  local entry, id = read(self, self.roster:find(session_id)), M.unescape(session_id)
  if not id then return end
  local is_remote = entry ~= nil and not entry.is_own
  change(self, session_id, id, is_remote and entry or nil, entry and "moved" or "left")
end

local EVENTS = {}

function EVENTS.added(self, _, session_id) notice(self, session_id) end

EVENTS.updated = EVENTS.added

function EVENTS.removed(self, _, session_id, _, owner, cause)
  local before, id = self.remote[session_id], M.unescape(session_id)
  if before and id and before.owner == owner then change(self, session_id, id, nil, cause or "left") end
end

function EVENTS.displaced(self, session_id)
  local id = M.unescape(session_id)
  if id and self.opts.secret and not read(self, self.roster:find(session_id)) then return self.opts.on_disputed(id) end
  if id then self.opts.on_displaced(id) end
  notice(self, session_id)
end

function EVENTS.partial(self, is_partial) self.opts.on_partial(is_partial) end

--- Joins the roster; the subscription begins with `start`.
---@param opts znl.FleetDirectoryOptions
---@return znl.FleetDirectory|nil
---@return string? message
---@return string? code
function M.new(opts)
  local self = setmetatable({ opts = opts, remote = {}, user_id = M.escape(opts.master_id) }, Directory)
  local roster, message, code = core.new {
    bus = opts.bus, subject = opts.subject, ttl_ms = opts.ttl_ms, origin = opts.origin,
    max_members = opts.max_members,
    on_event = function(name, ...)
      local react = EVENTS[name]
      if react and self.roster then react(self, ...) end
    end,
  }
  if not roster then return nil, message, code end
  self.roster = roster
  return self
end

function Directory:start() return self.roster:start() end

function Directory:stop()
  self.remote = {} -- no events of slaves that are not known any more
  self.roster:stop()
end

--- A slave is with this master.
---@return true|nil ok
---@return string? message
---@return string? code
function Directory:join(id, calls, since_ms)
  local session_id = M.escape(id)
  local metadata = { calls = calls or nil, since_ms = since_ms }
  if self.opts.secret then metadata.proof = sign(self, session_id, self.user_id, self.opts.origin) end
  return self.roster:join { ns = NAMESPACE, session_id = session_id, user_id = self.user_id, metadata = metadata }
end

--- It is no more.
function Directory:leave(id)
  return self.roster:leave(M.escape(id))
end

--- Where a slave is; nil when no master has it.
---@param id string
---@return {master: string, owner: string, is_own: boolean, calls: boolean, since_ms: number|nil}|nil
function Directory:find(id)
  return read(self, self.roster:find(M.escape(id)))
end

--- All slaves that are with other masters.
---@return {id: string, master: string, calls: boolean, since_ms: number|nil}[]
function Directory:others()
  local list = {}
  for session_id in pairs(self.remote) do
    local entry, id = read(self, self.roster:find(session_id)), M.unescape(session_id)
    if entry and not entry.is_own then
      list[#list + 1] = { id = id, master = entry.master, calls = entry.calls, since_ms = entry.since_ms }
    end
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

function Directory:counters() return self.roster:counters() end
function Directory:is_partial() return self.roster:is_partial() end

--- The masters of the fleet, this one first.
---@param own_slaves integer
---@return {instance: string, slaves: integer, age_ms: number}[]
function Directory:masters(own_slaves)
  local list = { { instance = self.opts.origin, slaves = own_slaves, age_ms = 0 } }
  for _, owner in ipairs(self.roster:owners()) do
    list[#list + 1] = { instance = owner.id, slaves = owner.members, age_ms = owner.age_ms }
  end
  return list
end

return M
