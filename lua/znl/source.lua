--- znl.source: from a handler file to the functions in it.
--- SPDX-License-Identifier: MIT

local where = require("znl.where")

local M = {}

--- Directory and name of a path: "handlers/", "echo.lua"; "." when there is no directory.
---@param path string
---@return string directory
---@return string name
function M.split(path)
  local directory, name = path:match("^(.*/)([^/]+)$")
  return directory or ".", name or path
end

---@param path string
---@return string|nil text
---@return string? message
function M.read(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text, read_message = file:read("*a")
  file:close()
  if not text then return nil, ("%s: %s"):format(path, read_message or "cannot be read") end
  return text
end

local HOOKS = { "on_load", "on_unload" }

--- Checks what a handler file returned.
local function shape(path, product)
  if type(product) == "function" then return { handle = product } end
  if type(product) ~= "table" then
    return nil, ("%s: must return a function or a table with a function handle, not %s"):format(
      path, product == nil and "nothing" or "a " .. type(product))
  end
  if type(product.handle) ~= "function" then
    return nil, ("%s: handle must be a function, not %s"):format(
      path, product.handle == nil and "missing" or "a " .. type(product.handle))
  end
  for _, hook in ipairs(HOOKS) do
    if product[hook] ~= nil and type(product[hook]) ~= "function" then
      return nil, ("%s: %s must be a function, not a %s"):format(path, hook, type(product[hook]))
    end
  end
  return { handle = product.handle, on_load = product.on_load, on_unload = product.on_unload }
end

--- Compiles and runs a handler file. It sees every global but sets its own: two versions of one
--- file share nothing by accident.
---@param path string  where it came from, for messages
---@param text string
---@return {handle: function, on_load?: function, on_unload?: function}|nil parts
---@return string? message  with file and line
function M.compile(path, text)
  local environment = setmetatable({}, { __index = _G })
  environment._G = environment
  -- "t": bytecode is not checked by the VM and can crash it.
  local chunk, message = load(text, "@" .. path, "t", environment)
  if not chunk then
    -- Syntax errors carry the name already; "attempt to load chunk with wrong mode" does not.
    if not message:find(path, 1, true) then message = path .. ": " .. message end
    return nil, message
  end
  local ok, product = xpcall(chunk, where.locate)
  if not ok then return nil, product end
  return shape(path, product)
end

return M
