--- znl.tasks.await: calls a function of luv that answers through a callback, and waits for it.
---
--- Callbacks of luv run as tasks of their own, which belong to nobody and have no deadline. Whatever
--- must be given back (a descriptor, a temporary file) is therefore handled there, by a body that
--- always ends, while the caller only waits: its wait may end early, or it may never be resumed.
--- SPDX-License-Identifier: MIT

local os_error = require("znl.system.os_error")
local sched = require("znl.core.sched")

local M = {}

local function with_callback(fn, callback, ...)
  local count = select("#", ...)
  local arguments = { ... }
  arguments[count + 1] = callback
  return fn(unpack(arguments, 1, count + 1))
end

local function waited(what, answered, ...)
  if answered ~= true then return nil, ... end -- cancelled, or past a deadline
  local err, result = ...
  if err then return os_error.result(what, err) end
  return result == nil and true or result
end

--- Waits for the answer of `fn(..., callback)`. For what holds nothing when nobody waits any more.
--- Yields.
---@param what string  begins an error
---@param fn function  of luv
---@param ... any  its arguments before the callback
---@return any|nil result
---@return string? message
---@return string? code
function M.call(what, fn, ...)
  local done = sched.event()
  local request, message = with_callback(fn, function(err, result) done:set(true, err, result) end, ...)
  if not request then return os_error.result(what, message) end
  return waited(what, done:wait())
end

---@class znl.Job
---@field abandoned boolean  nobody waits for the result any more
---@field raised? boolean  the result is an error of the body

local function ended(job, answered, ...)
  if answered == true then return ... end
  job.abandoned = true
  return nil, ...
end

--- Waits for the results of `body`, which runs in the task of the callback of `fn(..., callback)`
--- and to its end, whatever becomes of the caller. It gets the result of `fn` and the job. When
--- `fn` fails the body does not run. What the body raises is raised here. Yields.
---@param what string
---@param body fun(result: any, job: znl.Job): ...
---@param fn function  of luv
---@param ... any
---@return any ...  of the body; or nil, message, code
function M.job(what, body, fn, ...)
  local done, job = sched.event(), { abandoned = false }
  local function finish(ok, ...)
    job.raised = not ok
    done:set(true, ...)
  end
  local request, message = with_callback(fn, function(err, result)
    if err then
      done:set(true, os_error.result(what, err))
    else
      finish(xpcall(body, debug.traceback, result, job))
    end
  end, ...)
  if not request then return os_error.result(what, message) end
  local function give(...)
    if job.raised then error((...), 0) end
    return ...
  end
  return give(ended(job, done:wait()))
end

return M
