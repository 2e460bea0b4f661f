--- znl.routing.middleware: what runs around a handler, and the ones that come with znlrun.
---
---     function(req, next)      -- before
---       return next(req)       -- the next middleware, at last the handler
---     end
---
--- One that does not call `next` answers itself: `return nil, "not you", "AUTH"` refuses.
--- SPDX-License-Identifier: MIT

local auth = require("znl.routing.middleware.auth")
local log = require("znl.routing.middleware.log")
local rate_limit = require("znl.routing.middleware.rate_limit")
local validate = require("znl.routing.middleware.validate")

local M = {}

M.auth = auth.new
M.log = log.new
M.rate_limit = rate_limit.new
M.validate = validate.new

--- The function that runs `middleware`, the first one outermost, around `handler`.
---@param middleware znl.Middleware[]
---@param handler fun(req: znl.Request): ...
---@return fun(req: znl.Request): ...
function M.compose(middleware, handler)
  if type(middleware) ~= "table" then
    error("compose: the middleware must be an array of functions, not a " .. type(middleware), 2)
  end
  if type(handler) ~= "function" then
    error("compose: the handler must be a function, not a " .. type(handler), 2)
  end
  local run = handler
  for i = #middleware, 1, -1 do
    local mw, next = middleware[i], run
    if type(mw) ~= "function" then
      error(("compose: middleware %d must be a function(req, next), not a %s"):format(i, type(mw)), 2)
    end
    run = function(req) return mw(req, next) end
  end
  return run
end

return M
