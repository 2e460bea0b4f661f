--- znl.tasks.wait_group: waits until several things are done.
---
---   local group = znl.wait_group()
---   for _, id in ipairs(ids) do group:go(function() ask(id) end) end
---   group:wait(5000)
--- SPDX-License-Identifier: MIT

local line = require("znl.tasks.line")
local options = require("znl.options")
local task = require("znl.tasks.task")

local M = {}

local COUNT = { type = "integer", min = 1, max = 1000000 }

---@class znl.WaitGroup
---@field private left integer
---@field private failed integer
---@field private waiting znl.Line
local WaitGroup = {}
WaitGroup.__index = WaitGroup

---@return znl.WaitGroup
function M.new()
  return setmetatable({ left = 0, failed = 0, waiting = line.new() }, WaitGroup)
end

--- Announces work that ends with `done()`.
---@param count? integer  default 1
function WaitGroup:add(count)
  if count ~= nil and not options.accepts(COUNT, count) then
    error(("wait_group:add: count must be a whole number in 1..%d"):format(COUNT.max), 2)
  end
  self.left = self.left + (count or 1)
end

--- Reports a piece of work as done.
function WaitGroup:done()
  if self.left == 0 then error("wait_group:done: called more often than add() announced", 2) end
  self.left = self.left - 1
  if self.left > 0 then return end
  while self.waiting:wake() do end
end

--- Runs `fn(...)` in a coroutine of its own, as a piece of work that is done when it ends in any way.
---@param fn function
---@param ... any
---@return znl.Task|nil task
---@return string? message
---@return string? code
function WaitGroup:go(fn, ...)
  if type(fn) ~= "function" then
    error("wait_group:go: the first argument must be a function, not a " .. type(fn), 2)
  end
  local handle, message, code = task.spawn(fn, ...)
  if not handle then return nil, message, code end
  self:add()
  handle:on_end(function()
    if handle:has_failed() then self.failed = self.failed + 1 end
    self:done()
  end)
  return handle
end

--- Waits until nothing is left to be done. Yields.
---@param timeout_ms? integer  without it as long as it takes
---@return true|nil ok
---@return integer|string failed  how many of `go` raised or were dropped; or a message
---@return "TIMEOUT"|"CANCELLED"|"DEADLINE"? code
function WaitGroup:wait(timeout_ms)
  line.check("wait_group:wait", timeout_ms, 2)
  if self.left > 0 then
    local entry, message, code = self.waiting:wait("wait_group", timeout_ms)
    if not entry then return nil, message, code end
  end
  return true, self.failed
end

return M
