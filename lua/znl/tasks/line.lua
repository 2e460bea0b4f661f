--- znl.tasks.line: tasks that wait in turn for one thing; what channels and semaphores are made of.
---
--- A task joins with `wait` and goes on when `wake` reaches it, or when its time is up or it is
--- cancelled; then it has left the line. One that was dropped with its version stays in the line until
--- `wake` comes to it and finds nobody.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local sched = require("znl.core.sched")

local M = {}

local TIMEOUT = { type = "integer", min = 0, max = 86400000 }

---@class znl.Line
---@field private first? table
---@field private last? table
local Line = {}
Line.__index = Line

---@return znl.Line
function M.new() return setmetatable({}, Line) end

local function leave(self, entry)
  local before, after = entry.before, entry.after
  if before then before.after = after else self.first = after end
  if after then after.before = before else self.last = before end
  entry.before, entry.after = nil, nil
end

--- Raises what is wrong with waiting here, before anything was done.
---@param what string  begins the error: "channel:recv"
---@param timeout_ms any
---@param level integer  whom to blame, as in `error`
function M.check(what, timeout_ms, level)
  if timeout_ms ~= nil and not options.accepts(TIMEOUT, timeout_ms) then
    error(("%s: timeout_ms must be a whole number in 0..%d"):format(what, TIMEOUT.max), level + 1)
  end
  if not sched.is_task() then
    error(what .. " waits, so it must be called from a coroutine made by znl, such as the main script "
      .. "or znl.spawn (not coroutine.create)", level + 1)
  end
end

--- Waits at the end of the line. Yields.
---@param name string  begins the message when it ends without `wake`; one the core knows
---@param timeout_ms? integer  checked before
---@param value? any  for who wakes it: `entry.value`
---@return table|nil entry  as `wake` left it
---@return string? message
---@return "TIMEOUT"|"CANCELLED"|"DEADLINE"? code
function Line:wait(name, timeout_ms, value)
  local entry = { 0, 0, value = value, before = self.last }
  if self.last then self.last.after = entry else self.first = entry end
  self.last = entry
  local ok, message, code = sched.park(entry, timeout_ms, name)
  if ok then return entry end
  leave(self, entry)
  return nil, message, code
end

--- Wakes the one that waited longest.
---@return table|nil entry  its entry, to leave something in; nil when nobody waits
function Line:wake()
  while self.first do
    local entry = self.first
    leave(self, entry)
    if sched.unpark(entry) then return entry end
  end
end

return M
