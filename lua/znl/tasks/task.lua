--- znl.tasks.task: functions that run side by side, and waiting for what becomes of them.
---
---   local task = znl.spawn(fn, ...)      runs fn(...) at once until it first waits
---   local answer = task:wait(1000)
---
--- A task ends once: it returned, it raised (logged with traceback, counted, and told to whoever
--- waits), or it was dropped where it waited, with the version of code it belongs to.
--- SPDX-License-Identifier: MIT

local line = require("znl.tasks.line")
local log = require("znl.log")
local sched = require("znl.core.sched")

local M = {}

local logger = log.new("script")
local NO_RESULTS = { n = 0 }

---@class znl.Task
---@field private results? table  packed, once it returned
---@field private message? string  once it raised or was dropped
---@field private code? string
---@field private waiters? table  who waits: entries for `unpark`, and functions
local Task = {}
Task.__index = Task

local function pack(...) return { n = select("#", ...), ... } end

local function has_ended(self) return self.results ~= nil or self.message ~= nil end

--- What `wait` returns once it has ended.
local function outcome(self)
  if self.results then return unpack(self.results, 1, self.results.n) end
  return nil, self.message, self.code
end

--- The core calls this, once. `ok` is nil when the task was dropped.
---@private
function Task:ended(ok, ...)
  if ok then
    self.results = select("#", ...) > 0 and pack(...) or NO_RESULTS
  else
    self.message, self.code = tostring((...)), ok == nil and "STOPPED" or "FAILED"
    if ok == false then logger.error("task failed", { error = self.message }) end
  end
  local waiters = self.waiters
  self.waiters = nil
  for _, waiter in ipairs(waiters or {}) do
    if type(waiter) == "function" then waiter(self) else sched.unpark(waiter) end
  end
end

local function start(owner, fn, ...)
  local self = setmetatable({ 0, 0 }, Task) -- two numbers that name it to the core
  local index, serial, code = sched.start(self, owner, fn, ...)
  if not index then return nil, serial, code end
  self[1], self[2] = index, serial
  return self
end

--- Runs `fn(...)` in a coroutine of its own, at once until it first waits.
---@param fn function
---@param ... any
---@return znl.Task|nil task
---@return string? message
---@return "LIMIT"|"NO_MEMORY"|"STOPPED"? code
function M.spawn(fn, ...)
  if type(fn) ~= "function" then
    error("znl.spawn: the first argument must be a function, not a " .. type(fn), 2)
  end
  return start(nil, fn, ...)
end

--- The same in the background of an owner, under no token.
---@param owner any  made by znl.core.sched
---@param fn function
---@param ... any
---@return znl.Task|nil task
---@return string? message
---@return string? code
function M.background(owner, fn, ...)
  return start(owner, fn, ...)
end

local function remove(list, entry)
  for index, other in ipairs(list or {}) do
    if other == entry then table.remove(list, index) return end
  end
end

local function watch(self, waiter)
  self.waiters = self.waiters or {}
  table.insert(self.waiters, waiter)
end

--- Calls `fn(task)` when it ends, or at once when it has ended: for the library. It must neither wait
--- nor raise; `task:wait()` returns at once in it.
---@param fn fun(task: znl.Task)
function Task:on_end(fn)
  if has_ended(self) then fn(self) else watch(self, fn) end
end

--- Waits for the end. Yields.
---@param timeout_ms? integer
---@return any ...  what the function returned, 8 values at most
---@return string? message
---@return "FAILED"|"STOPPED"|"TIMEOUT"|"CANCELLED"|"DEADLINE"? code  FAILED: message has the traceback
function Task:wait(timeout_ms)
  if not has_ended(self) then
    line.check("task:wait", timeout_ms, 2)
    local entry = {}
    watch(self, entry)
    local ok, message, code = sched.park(entry, timeout_ms, "task")
    if not ok then
      remove(self.waiters, entry)
      return nil, message, code
    end
  end
  return outcome(self)
end

--- Cancels this task, not those it spawned: what it waits for now and later ends with
--- nil, message, "CANCELLED". What it makes of that is its business.
---@param reason? string
---@return boolean  false when it has ended
function Task:cancel(reason)
  return not has_ended(self) and sched.cancel(self[1], self[2], reason) == true
end

--- True when it raised or was dropped.
---@return boolean
function Task:has_failed() return self.message ~= nil end

---@return boolean
function Task:is_done() return has_ended(self) end

---@param value any
---@return boolean
function M.is(value) return getmetatable(value) == Task end

return M
