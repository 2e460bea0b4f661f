--- znl.hub.visits: calls the hooks of channels. What belongs to a version of code runs in a task of its own: the
--- version may be replaced and its work cut, the connection stays.
--- SPDX-License-Identifier: MIT

local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

--- What serves a path, the parameters of the route, and whether it belongs to no version.
---@alias znl.HubFind fun(path: string): (fun(visit: znl.HubVisit): ...)|nil, table<string, string>|nil, boolean|nil

local function answer(run, visit)
  return xpcall(run, where.locate, visit)
end

--- Of a visit that returned, or raised.
--- Of a visit that returned, or raised.
local function judge(visit, ok, ...)
  if not ok then return false, (...) end
  if visit.is_taken then return true, ... end
  local message, code = select(2, ...)
  -- Not in service, or too much work: what is between the route and the hooks refused it.
  if (...) == nil and code ~= nil then return true, nil, message, code end
  return false, visit.route .. ": what serves it is no channel: it must return a table with on_connect, on_message, …"
end

--- The same of a task; it may also have been cut, or take too long.
local function outcome(handle, visit, ok, ...)
  if ok ~= nil then return judge(visit, ok, ...) end
  local message, code = ...
  if code ~= "TIMEOUT" then return false, message end
  handle:cancel("hub: nobody waits any more")
  return false, visit.hook .. " took too long"
end

--- Calls the hook of a visit. Yields when it does.
---@param find znl.HubFind
---@param visit znl.HubVisit
---@param timeout_ms? integer
---@return boolean ok  false: it raised, was cut or took too long
---@return any result  or what went wrong
---@return any second  as the hook returned it
---@return any third  the same; a code when it was not called: "NOT_FOUND", "OVERLOADED", …
function M.call(find, visit, timeout_ms)
  visit.is_taken, visit.is_found = false, false
  local run, params, is_free = find(visit.route)
  if not run then return true, nil, "nothing serves " .. visit.route, "NOT_FOUND" end
  if params then visit.params = params end
  if is_free and not timeout_ms then return judge(visit, answer(run, visit)) end
  local handle, message, code = task.spawn(answer, run, visit)
  if not handle then return true, nil, message, code end
  return outcome(handle, visit, handle:wait(timeout_ms))
end

return M
