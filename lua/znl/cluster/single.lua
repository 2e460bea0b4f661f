--- znl.cluster.single: no network: everybody in the process who has the same name shares one real client (spec
--- cluster-client, section 11, "singleMode"). Whoever comes first makes it, the last one to leave closes it.
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local real_client = require("znl.cluster.real_client")
local sched = require("znl.core.sched")
local values = require("znl.cluster.values")

local M = {}

---@class znl.ClusterShared
---@field members znl.ClusterSingle[]
---@field keys table<string, {members: znl.ClusterSingle[], has_value: boolean, value: any}>

--- By name, while somebody uses it.
local all = {}

---@class znl.ClusterSingle : znl.ClusterTerm
local Single = {}
Single.__index = Single

local function without(list, one)
  local kept = {}
  for _, other in ipairs(list) do
    if other ~= one then kept[#kept + 1] = other end
  end
  return kept
end

--- A copy for each: they do not see what the others make of it.
local function hand_over(shared, key, entry, members)
  for _, member in ipairs(members) do
    local value, message, code = values.copy(shared.pair, entry.value)
    if message then return nil, message, code end
    if not member.is_closed then member.host.on_value(key, value) end
  end
  return true
end

local function publish(shared, key, value)
  local entry = shared.keys[key]
  if not entry then return nil, "nobody subscribed to it", "NOT_FOUND" end
  local copy, message, code = values.copy(shared.pair, value)
  if message then return nil, message, code end
  entry.value, entry.has_value = copy, shared.broadcast
  local members = entry.members
  if not shared.broadcast and #members > 1 then members = { members[math.random(#members)] } end
  return hand_over(shared, key, entry, members)
end

local function new_shared(opts)
  local shared = { keys = {}, members = {}, pair = opts.pair, broadcast = opts.config.broadcast }
  shared.real = real_client.new({
    name = opts.name, exports = opts.exports, owner = opts.owner, pair = opts.pair,
    on_value = function(key, value) return publish(shared, key, value) end,
    on_error = function(message, where)
      for _, member in ipairs(shared.members) do member.host.on_error(message, where) end
    end,
  }, opts.source)
  return shared
end

---@param opts znl.ClusterLeaderOptions
---@return znl.ClusterSingle
function M.new(opts)
  local shared = all[opts.name]
  if not shared then
    shared = new_shared(opts)
    all[opts.name] = shared
  end
  local self = setmetatable({
    role = "leader", name = opts.name, host = opts.host, gone = sched.event(), shared = shared, is_closed = false,
  }, Single)
  shared.members[#shared.members + 1] = self
  return self
end

--- Who comes first starts the real client; the others wait for that. Yields.
function Single:open()
  local shared = self.shared
  if not shared.started then
    shared.started = sched.event()
    local ok, err = shared.real:start()
    if not ok and all[self.name] == shared then all[self.name] = nil end -- the next one tries again
    shared.started:set(ok or false, err)
  end
  local ok, err = shared.started:wait()
  if self.is_closed then return nil, self.name .. ": closed while it started", "STOPPED" end
  if ok then return true end
  local message = type(err) == "table" and err.message or tostring(err)
  return nil, ("%s: the client is not ready: %s"):format(self.name, message),
    type(err) == "table" and err.code or "REFUSED", true
end

function Single:replace(source) self.shared.real:replace(source) end

--- Yields.
function Single:invoke(method, timeout_ms, n, ...)
  return self.shared.real:invoke(method, timeout_ms, n, ...)
end

function Single:oneway(method, _, n, ...)
  return self.shared.real:oneway(method, n, ...)
end

function Single:subscribe(key, text)
  local shared = self.shared
  local entry = shared.keys[key]
  if not entry then
    shared.keys[key] = { members = { self }, has_value = false }
    local reg
    if text then reg = select(2, json.decode(text)) end
    shared.real:subscribe(key, reg)
    return true
  end
  entry.members = without(entry.members, self)
  entry.members[#entry.members + 1] = self
  if entry.has_value then return hand_over(shared, key, entry, { self }) end
  return true
end

function Single:unsubscribe(key)
  local entry = self.shared.keys[key]
  if entry then entry.members = without(entry.members, self) end
  return true
end

--- Calls of this process end with the tasks that made them.
---@return integer
function Single.drain() return 0 end

function Single:close()
  if self.is_closed then return end
  self.is_closed = true
  local shared = self.shared
  for key in pairs(shared.keys) do self:unsubscribe(key) end
  shared.members = without(shared.members, self)
  if #shared.members == 0 then
    if all[self.name] == shared then all[self.name] = nil end
    shared.real:close()
  end
  self.gone:set("closed")
end

function Single:counters()
  local keys = 0
  for _ in pairs(self.shared.keys) do keys = keys + 1 end
  return { keys = keys, members = #self.shared.members }
end

function Single:keys()
  local list = {}
  for key, entry in pairs(self.shared.keys) do list[#list + 1] = { key = key, members = #entry.members } end
  return list
end

return M
