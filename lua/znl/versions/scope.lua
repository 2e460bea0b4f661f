--- znl.versions.scope: what one version of code owns, so that it begins and ends as a whole.
---
---   staged    its code is being loaded: registrations are noted, nothing starts
---   live      `commit` started them all, in order; later ones start at once
---   retiring  `halt` undid them, newest first; requests it began with still run
---   ended     `finish` ended its background tasks and closed the handles of luv that its code made; or
---             `abandon`, for one that never went live
---
--- Code belongs to the scope whose owner its task runs for; most code belongs to none, and then
--- everything starts at once and stays. A registration is an object with `start` and `undo`, such as
--- a timer, or a function given to `register`.
--- SPDX-License-Identifier: MIT

local handles = require("znl.versions.handles")
local log = require("znl.log")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

local logger = log.new("scope")

--- From owner to scope. Both are weak, or no scope would ever go: `running` holds those that must stay.
local by_owner = setmetatable({}, { __mode = "kv" })
local running = {}
--- The scope that commits or halts at this moment: what its functions register is its own.
local acting
--- Stands for none, while `outside` runs.
local NOBODY = {}

---@class znl.Scope
---@field name string
---@field owner any  its tasks run for it
---@field state "staged"|"live"|"retiring"|"ended"
---@field named table<string, any>  registrations by name
---@field previous? znl.Scope  the one it takes the place of; until commit
---@field handles? znl.Handles  of luv, once its code made one
local Scope = {}
Scope.__index = Scope

---@class znl.ScopeOptions
---@field name string  for logs
---@field previous? znl.Scope  named registrations may take over from it

---@param opts znl.ScopeOptions
---@return znl.Scope|nil scope  staged
---@return string? message
---@return "NO_MEMORY"? code
function M.new(opts)
  local owner, message, code = sched.owner()
  if not owner then return nil, message, code end
  local self = setmetatable({
    name = opts.name, previous = opts.previous, owner = owner, state = "staged", named = {},
  }, Scope)
  self.first, self.last = nil, nil -- registrations, linked by their own fields
  by_owner[owner] = self
  running[self] = true
  return self
end

--- The scope of the running code.
---@return znl.Scope|nil
function M.current()
  if acting then return acting ~= NOBODY and acting or nil end
  local owner = sched.current_owner()
  return owner and by_owner[owner]
end

--- How many scopes have not ended.
---@return integer
function M.count()
  local count = 0
  for _ in pairs(running) do count = count + 1 end
  return count
end

-- --- registrations -------------------------------------------------------------------------------

local function link(self, registration)
  registration.scope = self
  registration.before = self.last
  if self.last then self.last.after = registration else self.first = registration end
  self.last = registration
end

local function unlink(registration)
  local self = registration.scope
  if not self then return end
  local before, after = registration.before, registration.after
  if before then before.after = after else self.first = after end
  if after then after.before = before else self.last = before end
  registration.scope, registration.before, registration.after = nil, nil, nil
end

--- Code of a version that has been replaced may still be running a request. What it registers now
--- would outlive it, so it is not started; failing the request for it would be worse.
local function refuse(name)
  logger.info("a version that was replaced registered something, which is ignored", { scope = name })
  return false
end

--- Starts a registration now, or when the running code's scope commits.
---@param registration table  with methods start() and undo(); its `home` will be the scope
---@return boolean  false: it never will be, the scope is on its way out
function M.add(registration)
  local self = M.current()
  if not self then
    local owner = acting ~= NOBODY and sched.current_owner()
    if owner and owner:has_ended() then return refuse("ended") end
    registration:start()
    registration.started = true
    return true
  end
  if self.state == "retiring" or self.state == "ended" then return refuse(self.name) end
  registration.home = self
  if self.state == "live" then
    registration:start()
    registration.started = true
  end
  link(self, registration)
  return true
end

--- Takes it back without undoing it, for one that has come to its end.
function M.forget(registration)
  registration.removed = true
  unlink(registration)
end

--- Takes it back: undoes it if it was started. Once; later calls do nothing.
function M.remove(registration)
  if registration.removed then return end
  M.forget(registration)
  if registration.started then registration:undo() end
end

local Function = {}
Function.__index = Function
function Function:start() self.undo_it = self.start_it() end
function Function:undo() if self.undo_it then self.undo_it() end end

--- Calls `start()` now when the running code belongs to no scope or to a live one, else at commit.
--- `start` must not wait. It may return a function that undoes it, which must not wait either.
---@param start fun(): fun()|nil
---@return fun() stop  undoes it; calling it again does nothing
function M.register(start)
  local registration = setmetatable({ start_it = start }, Function)
  if not M.add(registration) then return function() end end
  return function() M.remove(registration) end
end

-- --- life ----------------------------------------------------------------------------------------

--- Runs `fn` in a coroutine that cannot wait, so that nothing happens in between.
---@return boolean ok, string? message
local function at_once(self, fn, ...)
  local before = acting
  acting = self
  local co = coroutine.create(function(...) return xpcall(fn, where.locate, ...) end)
  local _, ok, message = coroutine.resume(co, ...)
  acting = before
  if coroutine.status(co) ~= "dead" then
    ok, message = false, self.name .. ": waited where that is not possible, while a version goes into service"
  end
  return ok, message
end

local function back(before, ok, ...)
  acting = before
  if not ok then error((...), 0) end
  return ...
end

--- Runs `fn(...)` as code of no version: what it opens and registers outlives the version that runs, and is for its
--- caller to end. For what belongs to an object that the next version takes over. It must not wait.
---@param fn function
---@param ... any
---@return any ...  what it returns; raises what it raises
function M.outside(fn, ...)
  local before = acting
  acting = NOBODY
  return back(before, pcall(fn, ...))
end

local function undo(self, registration)
  if registration.removed then return end
  registration.removed = true
  unlink(registration)
  if not registration.started then return end
  local ok, message = at_once(self, registration.undo, registration)
  if not ok then logger.error("could not undo", { scope = self.name, error = message }) end
end

local function start_all(self)
  local at = self.first
  while at do
    if not at.started then
      at:start()
      at.started = true
      if at.removed then at:undo() end
    end
    if at.scope then at = at.after else at = self.first end -- it may have taken itself back
  end
end

local function check_staged(self, does)
  if self.state == "staged" then return end
  error(("znl.scope: only a staged scope %s; %s is %s"):format(does, self.name, self.state), 3)
end

--- Starts all that was registered, in order and without waiting.
---@return true|nil ok  nil: nothing is started, it is still staged
---@return string? message  with file and line
function Scope:commit()
  check_staged(self, "commits")
  local ok, message = at_once(self, start_all, self)
  if not ok then
    local at = self.last
    while at do
      local before = at.before
      if at.started then undo(self, at) end
      at = before
    end
    return nil, message
  end
  self.state = "live"
  self.previous = nil -- or every version would keep the one before
  return true
end

--- Undoes all registrations, newest first. Its tasks go on.
function Scope:halt()
  if self.state ~= "live" then return end
  self.state = "retiring"
  while self.last do undo(self, self.last) end
end

--- Ends its background tasks where they wait, and closes its handles of luv.
---@param keeps_handles? boolean  `close_handles` will be called
function Scope:finish(keeps_handles)
  if self.state == "ended" then return end
  self:halt()
  self.state = "ended"
  self.owner:end_background()
  if not keeps_handles then self:close_handles() end
  running[self] = nil
end

--- For a scope that will not go live: nothing it registered starts, its tasks end, and its handles.
---@param keeps_handles? boolean  `close_handles` will be called
function Scope:abandon(keeps_handles)
  check_staged(self, "is abandoned")
  self.state = "ended"
  while self.last do undo(self, self.last) end
  self.owner:cut(self.name .. ": abandoned before it went into service")
  if not keeps_handles then self:close_handles() end
  running[self] = nil
end

-- --- handles of luv ------------------------------------------------------------------------------

--- Closes those that its code made and left open. Twice is harmless.
function Scope:close_handles()
  local mine = self.handles
  self.handles = nil
  if mine then mine:close() end
end

--- The running code made this handle: it ends with the code's version, if it belongs to one.
---@param handle userdata
function M.own(handle)
  local self = M.current()
  if not self then return end
  if self.handles == nil and self.state == "ended" then
    -- Its task is about to be dropped. Not at once: it has yet to get the handle.
    sched.spawn_background(sched.owner(), function()
      sched.sleep(0)
      handles.close(handle)
    end)
    return
  end
  self.handles = self.handles or handles.new()
  self.handles:add(handle)
end

-- --- its code ------------------------------------------------------------------------------------

local function locate(fn, ...) return xpcall(fn, where.locate, ...) end

local function normalise(ok, ...)
  if ok == nil then return false, (...) end
  return ok, ...
end

--- Runs `fn(...)` in a background task of the scope and waits for it. Yields.
---@param fn function
---@param ... any
---@return boolean ok
---@return any ...  7 results at most, or a message: with file and line when it raised
function Scope:run(fn, ...)
  local handle, message = task.background(self.owner, locate, fn, ...)
  if not handle then return false, message end
  return normalise(handle:wait())
end

local function results_of(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

--- A function for others to call that runs `fn` for the scope of the running code; it raises what `fn`
--- raises. `fn` itself where there is none.
---@generic F: function
---@param fn F
---@return F
function M.bind(fn)
  local self = M.current()
  if not self then return fn end
  return function(...) return results_of(self:run(fn, ...)) end
end

return M
