--- znl.hub.visits: calls the hooks of channels, each in a task of its own: the version of code it belongs to may be
--- replaced and its work cut, the connection stays.
--- SPDX-License-Identifier: MIT

local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

---@alias znl.HubFind fun(path: string): (fun(visit: znl.HubVisit): ...)|nil, table<string, string>|nil

local function answer(run, visit)
  return xpcall(run, where.locate, visit)
end

local function outcome(handle, visit, path, ok, ...)
  if ok then
    if visit.is_taken then return true, ... end
    local message, code = select(2, ...)
    -- Not in service, or too much work: what is between the route and the hooks refused it.
    if (...) == nil and code ~= nil then return true, nil, message, code end
    return false, path .. ": what serves it is no channel: it must return a table with on_connect, on_message, …"
  end
  if ok == false then return false, (...) end
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
  local path = visit.route
  visit.is_taken, visit.is_found = false, false
  local run, params = find(path)
  if not run then return true, nil, "nothing serves " .. path, "NOT_FOUND" end
  if params then visit.params = params end
  local handle, message, code = task.spawn(answer, run, visit)
  if not handle then return true, nil, message, code end
  return outcome(handle, visit, path, handle:wait(timeout_ms))
end

return M
