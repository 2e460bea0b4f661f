--- znl.tasks.group: several tasks as one: all of them, or the first.
---
---   local answers, message, code = znl.all { a = function() … end, b = other_task }
---   local answer = znl.race { ask_one, ask_another }
---
--- Both take functions, which they start, and tasks. A task fails when it raises, is dropped, or
--- returns nil and a message. Those not needed any more are cancelled.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local task = require("znl.tasks.task")

local M = {}

local function check(list, what)
  if type(list) ~= "table" then
    error(("%s: the argument must be a table of functions and tasks, not a %s"):format(what, type(list)), 3)
  end
  for key, value in pairs(list) do
    if type(value) ~= "function" and not task.is(value) then
      error(("%s: entry %s must be a function or a task, not a %s"):format(
        what, tostring(key), type(value)), 3)
    end
  end
end

--- Numbered entries first, in order; then those with names.
local function keys_of(list)
  local keys = {}
  for index in ipairs(list) do keys[index] = index end
  local count = #keys
  for key in pairs(list) do
    if not (type(key) == "number" and key >= 1 and key <= count and key % 1 == 0) then
      keys[#keys + 1] = key
    end
  end
  return keys
end

--- Starts what is a function and waits for the ends, until `on_end(state, key, handle)` sets
--- `state.over`. Then the rest is cancelled.
---@return true|nil ok  nil: one could not be started, or this very task was cancelled
---@return string? message
---@return string? code
local function gather(list, on_end, reason)
  local state = { over = false, closed = false, parked = false, left = 0 }
  local tasks, entry = {}, {}
  local ok, message, code = true, nil, nil
  for _, key in ipairs(keys_of(list)) do
    if state.over then break end
    local handle = list[key]
    if type(handle) == "function" then handle, message, code = task.spawn(handle) end
    if not handle then
      ok = nil
      break
    end
    tasks[#tasks + 1] = handle
    state.left = state.left + 1
    handle:on_end(function()
      if state.closed then return end
      state.left = state.left - 1
      on_end(state, key, handle)
      if state.parked then sched.unpark(entry) end
    end)
  end
  while ok and not state.over and state.left > 0 do
    state.parked = true
    ok, message, code = sched.park(entry, nil, "task")
    state.parked = false
  end
  state.closed = true
  for _, handle in ipairs(tasks) do handle:cancel(ok and reason or message) end
  return ok, message, code
end

--- Waits for all of them. Yields.
---@param list table  functions and tasks
---@return table|nil results  the first result of each, by the keys of the list
---@return string? message  of the first that failed; the others are cancelled
---@return string? code
function M.all(list)
  check(list, "znl.all")
  local results, failure = {}, nil
  local ok, message, code = gather(list, function(state, key, handle)
    local value, why, why_code = handle:wait()
    results[key] = value
    if value == nil and type(why) == "string" then
      failure = { why, why_code }
      state.over = true
    end
  end, "another one failed")
  if not ok then return nil, message, code end
  if failure then return nil, failure[1], failure[2] end
  return results
end

--- Waits for the first to end, whatever it comes to. Yields.
---@param list table  functions and tasks, at least one
---@return any ...  what `wait` of that task returns; the others are cancelled
function M.race(list)
  check(list, "znl.race")
  if next(list) == nil then error("znl.race: there must be one to wait for", 2) end
  local winner
  local ok, message, code = gather(list, function(state, _, handle)
    winner = winner or handle
    state.over = true
  end, "another one was first")
  if not ok then return nil, message, code end
  return winner:wait()
end

return M
