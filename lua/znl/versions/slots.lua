--- znl.versions.slots: places that hold one thing at a time, such as the handler of a node or the subscription of
--- a topic. The last thing put wins, and ends with the version of code that put it.
--- SPDX-License-Identifier: MIT

local scope = require("znl.versions.scope")

local M = {}

---@class znl.Slots
---@field private holders table<any, table>
local Slots = {}
Slots.__index = Slots

local Thing = {}
Thing.__index = Thing

function Thing:start()
  local holders = self.slots.holders
  local before = holders[self.key]
  holders[self.key] = self
  self.empty = self.fill()
  if before then scope.remove(before) end
end

function Thing:undo()
  local holders = self.slots.holders
  local is_holder = holders[self.key] == self
  if is_holder then holders[self.key] = nil end
  self.empty(is_holder)
end

---@return znl.Slots
function M.new()
  return setmetatable({ holders = {} }, Slots)
end

--- Puts something into the place `key`, now or when the running version of code goes into service.
--- `fill()` does it and returns `empty(is_holder)`, which lets go of it; is_holder is false when
--- something else stands in the place by then.
---@param key any
---@param fill fun(): fun(is_holder: boolean)
function Slots:put(key, fill)
  scope.add(setmetatable({ slots = self, key = key, fill = fill }, Thing))
end

--- Empties the place.
---@param key any
function Slots:clear(key)
  local holder = self.holders[key]
  if holder then scope.remove(holder) end
end

return M
