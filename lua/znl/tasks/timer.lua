--- znl.tasks.timer: functions that run after a time, or again and again.
---
---   local timer = znl.every(1000, function() … end)
---   timer:stop()
---
--- The function runs in a coroutine of its own and may wait; one that repeats does not run twice at a
--- time, and the times that pass meanwhile are skipped. A timer made by a version of a handler file
--- starts when that goes into service and ends with it. With a name it keeps its phase when the next
--- version makes the same one.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.timer")
local options = require("znl.options")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")

local M = {}

local MS_MAX = 30 * 86400000

---@class znl.TimerOptions
---@field name? string  1 to 100 bytes; one timer of that name in a version, the last
local SPEC = {
  name = { type = "string", min = 1, max = 100 },
}

---@class znl.Timer
---@field private ms integer
---@field private repeats boolean
---@field private fn function
---@field private name? string
---@field private owner any
---@field private due? number  when it would have run next, once its version was halted
local Timer = {}
Timer.__index = Timer

--- A timer without name that belongs to no version needs nothing but its number.
local function start_core(self, delay_ms, fn, arg)
  local id, message = core.start(fn, arg, delay_ms, self.repeats and self.ms or nil, self.owner)
  if not id then error("znl.timer: " .. message, 0) end
  self[1] = id
end

--- Once: the timer has ended, its version need not end it any more.
local function run_once(self)
  scope.forget(self)
  self.fn()
end

local function due_ms(self) return self.due or self[1] and core.due_ms(self[1]) end

--- The delay with which a timer goes on where the one of that name in the version before was.
local function inherited_delay(self)
  local before = self.home and self.home.previous and self.home.previous.named[self.name]
  if not before or before.ms ~= self.ms or before.repeats ~= self.repeats then return self.ms end
  local due, now = due_ms(before), sched.now_ms()
  if not due then return self.ms end -- it ran once, and that was it
  if due < now and self.repeats then due = due + math.ceil((now - due) / self.ms) * self.ms end
  return math.max(0, math.ceil(due - now))
end

--- Called by its scope, or at once.
---@private
function Timer:start()
  local delay_ms = self.ms
  if self.name and self.home then
    delay_ms = inherited_delay(self)
    local other = self.home.named[self.name]
    if other then scope.remove(other) end
    self.home.named[self.name] = self
  end
  if self.repeats then start_core(self, delay_ms, self.fn) else start_core(self, delay_ms, run_once, self) end
end

---@private
function Timer:undo()
  self.due = due_ms(self)
  core.stop(self[1])
end

--- It will not run any more; a function that runs goes on. Stopping twice is harmless.
function Timer:stop()
  if self.ms then scope.remove(self) else core.stop(self[1]) end
end

local function make(ms, fn, opts, what, min, repeats)
  if type(ms) ~= "number" or ms % 1 ~= 0 or ms < min or ms > MS_MAX then
    error(("%s: ms must be a whole number in %d..%d"):format(what, min, MS_MAX), 3)
  end
  if type(fn) ~= "function" then
    error(("%s: the second argument must be a function, not a %s"):format(what, type(fn)), 3)
  end
  local name = opts ~= nil and options.read(SPEC, opts, what, 3).name or nil
  local owner = sched.current_owner()
  if not owner and not scope.current() then
    local id, message = core.start(fn, nil, ms, repeats and ms or nil)
    if not id then error(what .. ": " .. message, 3) end
    return setmetatable({ id }, Timer)
  end
  local self = setmetatable({ false, ms = ms, fn = fn, name = name, repeats = repeats, owner = owner }, Timer)
  scope.add(self)
  return self
end

--- Calls `fn()` once, after `ms`.
---@param ms integer  milliseconds, 0 to 30 days
---@param fn fun()
---@param opts? znl.TimerOptions
---@return znl.Timer
function M.once(ms, fn, opts) return make(ms, fn, opts, "znl.timer", 0, false) end

--- Calls `fn()` every `ms`, the first time after `ms`.
---@param ms integer  milliseconds, 1 to 30 days
---@param fn fun()
---@param opts? znl.TimerOptions
---@return znl.Timer
function M.every(ms, fn, opts) return make(ms, fn, opts, "znl.every", 1, true) end

return M
