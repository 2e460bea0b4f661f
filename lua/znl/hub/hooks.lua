--- znl.hub.hooks: what a channel can be given, and how a visit reaches it.
---
--- A visit is one call of one hook for one connection; it travels where a request does: through routers, handlers
--- that may change, and their limits. What answers it marks it as taken.
---
--- Used where handler files are loaded, also in workers: nothing here waits, and nothing needs the loop.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")

local M = {}

--- Returns an identity, anything but nil and false; or nil, message and a status of HTTP: the WebSocket does not
--- open.
---@alias znl.Authenticate fun(request: znl.WebSocketRequest, state: any): any, string?, integer?

---@class znl.HubHandlers
---@field authenticate? znl.Authenticate  before the WebSocket opens; may yield
---@field on_connect? fun(ctx: znl.HubContext, state: any)  may yield: messages wait for it
---@field on_message? fun(ctx: znl.HubContext, message: znl.HubMessage, state: any)  one at a time; may yield
---@field on_disconnect? fun(ctx: znl.HubContext, reason: string, close_code: integer, state: any)  may yield

--- How many arguments each has before the state.
M.ARGUMENTS = { authenticate = 1, on_connect = 1, on_message = 2, on_disconnect = 3 }
M.NAMES = { "authenticate", "on_connect", "on_disconnect", "on_message" }

---@class znl.HubVisit
---@field hook string
---@field first any  arguments of the hook
---@field second any
---@field third any
---@field route string  the path of the connection
---@field params? table<string, string>
---@field is_taken boolean  something that knows hooks got it
---@field is_found boolean  and it has this one

--- Calls the hook a visit is for.
---@param hooks znl.HubHandlers
---@param visit znl.HubVisit
---@param state any  of the version of the file
---@return any ...  what the hook returns
function M.answer(hooks, visit, state)
  visit.is_taken = true
  local hook = visit.hook
  local fn = hooks[hook]
  if not fn then return end
  visit.is_found = true
  local count = M.ARGUMENTS[hook]
  if count == 1 then return fn(visit.first, state) end
  if count == 2 then return fn(visit.first, visit.second, state) end
  return fn(visit.first, visit.second, visit.third, state)
end

--- What answers the visits of a table of hooks, and refuses requests.
---@param hooks znl.HubHandlers
---@return fun(visit: znl.HubVisit, state: any): ...
function M.handle(hooks)
  return function(visit, state)
    if not visit.hook then
      return nil, "this handler serves a channel of znl.hub, no requests", "NOT_FOUND"
    end
    return M.answer(hooks, visit, state)
  end
end

--- Whether a table has the hooks of a channel.
---@param product table
---@return boolean
function M.has_any(product)
  for name in pairs(M.ARGUMENTS) do
    if product[name] ~= nil then return true end
  end
  return false
end

--- Checks what was given as the hooks of a channel; a function is its on_message.
---@param given any
---@return znl.HubHandlers|nil hooks
---@return string? problem
function M.read(given)
  if type(given) == "function" then return { on_message = given } end
  if type(given) ~= "table" then
    return nil, ("the handlers must be a table, a function or znl.handlers(path), not a %s"):format(type(given))
  end
  local hooks = {}
  for name, fn in pairs(given) do
    if not M.ARGUMENTS[name] then
      local nearest = options.nearest(name, M.NAMES)
      return nil, ("unknown handler %s%s"):format(
        type(name) == "string" and ("%q"):format(name) or tostring(name),
        nearest and ("; did you mean %s?"):format(nearest)
        or (" (handlers: %s)"):format(table.concat(M.NAMES, ", ")))
    end
    if type(fn) ~= "function" then
      return nil, ("%s must be a function, not a %s"):format(name, type(fn))
    end
    hooks[name] = fn
  end
  if next(hooks) == nil then
    return nil, ("there is no handler in the table (handlers: %s)"):format(table.concat(M.NAMES, ", "))
  end
  return hooks
end

return M
