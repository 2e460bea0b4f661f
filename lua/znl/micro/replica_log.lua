--- znl.micro.replica_log: what one registry tells the others of a cluster, in the order in which it changed.
---
--- Each row has an id and the number `n` of its last change; putting it again moves it to the end. A row that
--- is removed leaves a *gone* entry, so that who has everything up to some number can be told what changed
--- since. Of these the newest `max_gone` are kept; who is further behind is told everything.
---
--- Plain state. Rows are JSON texts, made once. SPDX-License-Identifier: MIT

local json = require("znl.json")

local M = {}

---@class znl.ReplicaLog
---@field n integer  number of the last change
---@field count integer  rows, without those that are gone
local Log = {}
Log.__index = Log

---@param max_gone integer
---@return znl.ReplicaLog
function M.new(max_gone)
  return setmetatable({ max_gone = max_gone, n = 0, count = 0, gone = 0, floor = 0, rows = {} }, Log)
end

local function append(self, row)
  row.before, row.after = self.last, nil
  if self.last then self.last.after = row else self.first = row end
  self.last = row
end

local function take_out(self, row)
  if row.before then row.before.after = row.after else self.first = row.after end
  if row.after then row.after.before = row.before else self.last = row.before end
end

--- Gone entries beyond the limit are forgotten, the oldest first.
local function forget_gone(self)
  local row = self.first
  while self.gone > self.max_gone and row do
    local after = row.after
    if row.is_gone then
      take_out(self, row)
      self.rows[row.id], self.gone, self.floor = nil, self.gone - 1, row.n
    end
    row = after
  end
end

local function write(self, id, is_gone, fields)
  local text = json.encode(fields)
  if not text then return false end -- no UTF-8: nothing that JSON peers could have said
  local row = self.rows[id]
  if row then
    take_out(self, row)
    if row.is_gone then self.gone = self.gone - 1 else self.count = self.count - 1 end
  end
  self.n = self.n + 1
  row = { id = id, n = self.n, is_gone = is_gone, text = ("[%d,%s"):format(self.n, text:sub(2)) }
  self.rows[id] = row
  append(self, row)
  if is_gone then
    self.gone = self.gone + 1
    forget_gone(self)
  else
    self.count = self.count + 1
  end
  return true
end

--- Puts a row, or another one in its place.
---@param id string
---@param fields any[]  what JSON can carry
---@return boolean
function Log:put(id, fields) return write(self, id, false, fields) end

--- Removes a row.
---@param id string
---@param stamp? number  of what is gone
---@return boolean was_there
function Log:remove(id, stamp)
  local row = self.rows[id]
  if not row or row.is_gone then return false end
  return write(self, id, true, { "x", id, stamp })
end

---@param id string
---@return boolean
function Log:has(id)
  local row = self.rows[id]
  return row ~= nil and not row.is_gone
end

--- Whether who has everything up to `n` can be told what changed since.
---@param n integer
---@return boolean
function Log:covers(n) return n >= self.floor and n <= self.n end

--- The rows after the change `n`, in their order: at least one if there is any, no more than `max_bytes` beyond
--- that.
---@param n integer
---@param max_bytes integer
---@return string[] texts
---@return integer upto  everything up to this change is in them
---@return boolean is_all
function Log:since(n, max_bytes)
  local row = self.last
  if row and row.n > n then
    while row.before and row.before.n > n do row = row.before end
  else
    row = nil
  end
  local texts, bytes, upto = {}, 0, n
  while row do
    bytes = bytes + #row.text
    if #texts > 0 and bytes > max_bytes then return texts, upto, false end
    texts[#texts + 1], upto = row.text, row.n
    row = row.after
  end
  return texts, self.n, true
end

return M
