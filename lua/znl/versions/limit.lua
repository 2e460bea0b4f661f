--- znl.versions.limit: how many requests of one handler run at once; the others wait in line.
---
--- A place is held from `enter` to `leave`. When it becomes free, the request that waits longest gets
--- it: `running` counts it from that moment, so no newcomer slips in between.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")

local M = {}

---@class znl.Limit
---@field running integer  places held
---@field waiting integer  requests in line
local Limit = {}
Limit.__index = Limit

---@param what string  begins an error
---@param max_concurrency integer
---@param max_queue integer
---@return znl.Limit
function M.new(what, max_concurrency, max_queue)
  local line = {} -- a ring of waiters: line.next is the first
  line.next, line.previous = line, line
  return setmetatable({
    what = what, max_concurrency = max_concurrency, max_queue = max_queue,
    running = 0, waiting = 0, line = line,
  }, Limit)
end

local function append(self, waiter)
  local last = self.line.previous
  waiter.previous, waiter.next = last, self.line
  last.next, self.line.previous = waiter, waiter
  self.waiting = self.waiting + 1
end

local function remove(self, waiter)
  if not waiter.next then return end
  waiter.previous.next, waiter.next.previous = waiter.next, waiter.previous
  waiter.next, waiter.previous = nil, nil
  self.waiting = self.waiting - 1
end

--- Gives a place that is already counted to the first in line that still waits.
local function give_to_first(self)
  while self.line.next ~= self.line do
    local first = self.line.next
    remove(self, first)
    if sched.unpark(first) then return true end -- else its task has ended
  end
  return false
end

--- Takes a place; waits for one when all are held. Yields then.
---@return true|nil ok
---@return string? message
---@return string? code  "OVERLOADED", or why the wait ended early
function Limit:enter()
  if self.running < self.max_concurrency then
    self.running = self.running + 1
    return true
  end
  if self.waiting >= self.max_queue then
    return nil, ("%s: %d requests at work and %d waiting"):format(
      self.what, self.running, self.waiting), "OVERLOADED"
  end
  local waiter = {}
  append(self, waiter)
  local ok, message, code = sched.park(waiter, nil, "queue")
  if ok then return true end -- with the place of who left
  remove(self, waiter)
  return nil, message, code
end

--- Gives the place back.
function Limit:leave()
  if self.running > self.max_concurrency or not give_to_first(self) then
    self.running = self.running - 1
  end
end

--- Other limits from here on. Those who wait beyond a shorter line keep their place in it.
---@param max_concurrency integer
---@param max_queue integer
function Limit:set(max_concurrency, max_queue)
  self.max_concurrency, self.max_queue = max_concurrency, max_queue
  while self.running < max_concurrency and give_to_first(self) do
    self.running = self.running + 1
  end
end

return M
