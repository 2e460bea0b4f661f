--- znl.workers.journal: what the workers of a pool were told, in order, so that one that comes later
--- can be told the same.
---
--- An entry belongs to a version; when that has ended its entries go, and nobody is told any more.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.WorkerJournalEntry
---@field id integer  the version
---@field op string
---@field arguments table|nil  { n =, ... }; nil while it is not known, see `znl.workers`
---@field is_void boolean

---@class znl.WorkerJournal
---@field entries znl.WorkerJournalEntry[]
---@field readers integer  who walks through the entries now: they must keep their places
local Journal = {}
Journal.__index = Journal

---@return znl.WorkerJournal
function M.new()
  return setmetatable({ entries = {}, of = {}, readers = 0, void_count = 0 }, Journal)
end

---@param op string
---@param id integer
---@param arguments table|nil
---@return znl.WorkerJournalEntry
function Journal:add(op, id, arguments)
  local entry = { op = op, id = id, arguments = arguments, is_void = false }
  self.entries[#self.entries + 1] = entry
  local mine = self.of[id]
  if not mine then
    mine = {}
    self.of[id] = mine
  end
  mine[#mine + 1] = entry
  return entry
end

local function compact(self)
  if self.readers > 0 or self.void_count <= 16 + #self.entries / 2 then return end
  local kept = {}
  for _, entry in ipairs(self.entries) do
    if not entry.is_void then kept[#kept + 1] = entry end
  end
  self.entries, self.void_count = kept, 0
end

---@param entry znl.WorkerJournalEntry
function Journal:void(entry)
  if entry.is_void then return end
  entry.is_void, entry.arguments = true, nil
  self.void_count = self.void_count + 1
end

--- A version has ended.
---@param id integer
function Journal:forget(id)
  for _, entry in ipairs(self.of[id] or {}) do self:void(entry) end
  self.of[id] = nil
  compact(self)
end

function Journal:begin_reading() self.readers = self.readers + 1 end

function Journal:end_reading()
  self.readers = self.readers - 1
  compact(self)
end

return M
