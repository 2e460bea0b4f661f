--- znl.tasks.semaphore: at most so many at a time.
---
---   local slots = znl.semaphore(10)
---   if slots:acquire(1000) then … slots:release() end
---
--- Who waits gets its turn in order. A task that is dropped with its version keeps what it had
--- acquired, so a semaphore belongs to the version that uses it.
--- SPDX-License-Identifier: MIT

local line = require("znl.tasks.line")
local options = require("znl.options")

local M = {}

local COUNT = { type = "integer", min = 1, max = 1000000 }

---@class znl.Semaphore
---@field private count integer
---@field private free integer
---@field private waiting znl.Line
local Semaphore = {}
Semaphore.__index = Semaphore

---@param count integer  1..1000000
---@return znl.Semaphore
function M.new(count)
  if not options.accepts(COUNT, count) then
    error(("znl.semaphore: count must be a whole number in 1..%d"):format(COUNT.max), 2)
  end
  return setmetatable({ count = count, free = count, waiting = line.new() }, Semaphore)
end

--- Takes one, if one is free.
---@return boolean
function Semaphore:try_acquire()
  if self.free == 0 then return false end
  self.free = self.free - 1
  return true
end

--- Takes one; waits until one is free. Yields.
---@param timeout_ms? integer  without it as long as it takes
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"|"CANCELLED"|"DEADLINE"? code
function Semaphore:acquire(timeout_ms)
  line.check("semaphore:acquire", timeout_ms, 2)
  if self:try_acquire() then return true end
  local entry, message, code = self.waiting:wait("semaphore", timeout_ms)
  if not entry then return nil, message, code end
  return true -- release() handed it over
end

--- Gives one back.
function Semaphore:release()
  if self.free == self.count then error("semaphore:release: called more often than acquire()", 2) end
  if not self.waiting:wake() then self.free = self.free + 1 end
end

return M
