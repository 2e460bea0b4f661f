--- znl.micro.replica_values: the values of retained topics that the registries of a cluster share: what
--- configuration files say, and what connections put there.
---
--- A value has a stamp and a writer; the highest counts, everywhere. What the files say when a registry starts has
--- stamp 0: it does not undo what changed while this one was away. Whoever writes keeps the row of it; when a
--- writer is forgotten, the others take the row over. SPDX-License-Identifier: MIT

local M = {}

---@class znl.ReplicaValuesOptions
---@field id string  of this registry
---@field log znl.ReplicaLog
---@field topics znl.TopicStore
---@field signature fun(text: string|nil): string|nil
---@field null any  stands for nothing in a row
---@field max_topics integer
---@field max_payload_bytes integer
---@field take_stamp fun(): number  the next one

---@class znl.ReplicaValues
local Values = {}
Values.__index = Values

---@param opts znl.ReplicaValuesOptions
---@return znl.ReplicaValues
function M.new(opts)
  return setmetatable({ opts = opts, known = {}, count = 0, files = {}, is_loading = true }, Values)
end

local function is_newer(row, other)
  return not other or row.stamp > other.stamp or row.stamp == other.stamp and row.writer > other.writer
end

local function keep(self, topic, row)
  if not self.known[topic] then self.count = self.count + 1 end
  self.known[topic] = row
end

local function publish(self, topic, row)
  self.opts.log:put("v\n" .. topic, { "v", topic, row.stamp, row.writer, row.payload or self.opts.null })
end

local function write(self, topic, payload, stamp)
  local row = { stamp = stamp, writer = self.opts.id, payload = payload }
  if not is_newer(row, self.known[topic]) then return false end
  keep(self, topic, row)
  publish(self, topic, row)
  return true
end

--- Another registry has a value. False: it is refused.
---@param row table
---@return boolean
function Values:learn(row)
  local known = self.known[row.topic]
  if not is_newer(row, known) then return true end
  if not known and self.count >= self.opts.max_topics or row.payload and #row.payload > self.opts.max_payload_bytes
      or not self.opts.signature(row.payload) then
    return false
  end
  keep(self, row.topic, { stamp = row.stamp, writer = row.writer, payload = row.payload })
  self.opts.topics:retain(row.topic, row.payload)
  return true
end

--- The registry that had this row is forgotten.
---@param row table
function Values:adopt(row)
  local known = self.known[row.topic]
  if known and known.stamp == row.stamp and known.writer == row.writer then publish(self, row.topic, known) end
end

--- A file says so.
---@param topic string
---@param payload string
function Values:from_file(topic, payload)
  if self.files[topic] == payload then return end
  self.files[topic] = payload
  local stamp = self.is_loading and 0 or self.opts.take_stamp()
  if write(self, topic, payload, stamp) then self.opts.topics:retain(topic, payload) end
end

--- All files have been read once.
function Values:loaded() self.is_loading = false end

--- A connection here has put a value on a retained topic; the topic has it already.
---@param topic string
---@param payload string|nil
function Values:changed(topic, payload) write(self, topic, payload, self.opts.take_stamp()) end

return M
