--- znl.cluster.publications: what a process has published and not withdrawn, in the order of first
--- publication: a new leader is told all of it (spec cluster-client, section 8).
---
--- A publication replaces the one before it with the same key. Plain state.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.Publications
---@field count integer
---@field private by_key table<string, table>
---@field private first? table
---@field private last? table
local Publications = {}
Publications.__index = Publications

---@param max integer
---@return znl.Publications
function M.new(max)
  return setmetatable({ by_key = {}, count = 0, max = max }, Publications)
end

--- Remembers a value; nil when it takes the place of nothing and there are too many.
---@param key string
---@param value any
---@return true|nil ok
---@return any before  the value it replaced
---@return boolean? is_new
function Publications:put(key, value)
  local entry = self.by_key[key]
  if entry then
    local before = entry.value
    entry.value = value
    return true, before, false
  end
  if self.count >= self.max then return nil end
  entry = { key = key, value = value, before = self.last }
  if self.last then self.last.after = entry else self.first = entry end
  self.last, self.by_key[key], self.count = entry, entry, self.count + 1
  return true, nil, true
end

---@param key string
---@return boolean  whether it was there
function Publications:remove(key)
  local entry = self.by_key[key]
  if not entry then return false end
  local before, after = entry.before, entry.after
  if before then before.after = after else self.first = after end
  if after then after.before = before else self.last = before end
  self.by_key[key], self.count = nil, self.count - 1
  return true
end

--- All of them, oldest first.
---@return {key: string, value: any}[]
function Publications:entries()
  local list, entry = {}, self.first
  while entry do
    list[#list + 1] = entry
    entry = entry.after
  end
  return list
end

--- Whether an entry of that list is still remembered.
---@param entry {key: string, value: any}
---@return boolean
function Publications:has(entry) return self.by_key[entry.key] == entry end

return M
