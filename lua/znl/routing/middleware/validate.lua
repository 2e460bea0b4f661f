--- znl.routing.middleware.validate: refuses requests whose data is not as a schema says.
---
---     r:route("/users", znl.compose({ znl.middleware.validate {
---       type = "object", required = { "name" },
---       properties = { name = { type = "string", minLength = 1, maxLength = 80 } },
---     } }, add_user))
---
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local schema = require("znl.routing.schema")

local M = {}

--- The decoded data of a request: as it came with a routed call, else its payload as JSON, which
--- becomes `req.data`.
local function data_of(req)
  if req.data ~= nil or type(req.payload) ~= "string" then return req.data end
  local ok, data = json.decode(req.payload)
  if not ok then return nil, "data: must be JSON" end
  req.data = data
  return data
end

---@param rules znl.Schema  raises when it is wrong itself
---@return znl.Middleware
function M.new(rules)
  local check = schema.compile(rules, "validate", 2)
  return function(req, next)
    local data, problem = data_of(req)
    problem = problem or check(data, "data")
    if problem then return nil, "validate: " .. problem, "INVALID" end
    return next(req)
  end
end

return M
