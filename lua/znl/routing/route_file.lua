--- znl.routing.route_file: the route a handler file serves, by its name: `users/[id].msg.lua` is
--- `/users/:id` (micro protocol, "Routes").
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.RouteFileOptions
---@field suffix? string  what a handler file has before its extension; default "msg"
---@field extension? string  default "lua"
---@field index? string  the name that stands for its folder; default "index"
---@field prefix? string  put before every route, such as "/-"

--- The route of a file.
---@param name string  relative to the root of the handlers
---@param opts? znl.RouteFileOptions
---@return string|nil route  nil without a message: not the name of a handler file
---@return string? message  what is wrong with the name
---@return "INVALID"? code
function M.path(name, opts)
  opts = opts or {}
  local ending = ("." .. (opts.suffix or "msg") .. "." .. (opts.extension or "lua"))
  if #name < #ending or name:sub(-#ending) ~= ending then return nil end
  local path = name:sub(1, -#ending - 1):gsub("\\", "/"):gsub("%([^()]*%)", "")
  path = ("/" .. path):gsub("/+", "/")
  local index = "/" .. (opts.index or "index")
  if path:sub(-#index) == index then path = path:sub(1, -#index - 1) end
  if path == "" then path = "/" end
  if path:gsub("%[[^%[%]]+%]", ""):find("[%[%]()]") then
    return nil, ("route of %s: brackets must pair up, [name] for a parameter and (name) for a group"):format(name),
        "INVALID"
  end
  path = (opts.prefix or "") .. path:gsub("%[([^%[%]]+)%]", ":%1")
  return path
end

return M
