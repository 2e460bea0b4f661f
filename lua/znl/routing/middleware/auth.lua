--- znl.routing.middleware.auth: lets a function decide who may ask.
--- SPDX-License-Identifier: MIT

local M = {}

--- `check(req)` lets a request pass by returning a true value; one that is more than `true`, such
--- as a table about the user, becomes `req.user`. Nil or false refuses, with the text behind it as
--- the message. When it raises, the request fails and the handler is not called.
---@param check fun(req: znl.Request): any, string?  may yield
---@return znl.Middleware
function M.new(check)
  if type(check) ~= "function" then
    error("auth: the check must be a function(req), not a " .. type(check), 2)
  end
  return function(req, next)
    local user, message = check(req)
    if not user then return nil, "auth: " .. tostring(message or "not allowed"), "DENIED" end
    if user ~= true then req.user = user end
    return next(req)
  end
end

return M
