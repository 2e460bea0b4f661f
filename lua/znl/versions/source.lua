--- znl.versions.source: from the text of a file to what it returns.
---
--- Used on the loop and inside workers: nothing here waits, and nothing needs the loop.
--- SPDX-License-Identifier: MIT

local hooks = require("znl.hub.hooks")
local options = require("znl.options")
local where = require("znl.where")

local M = {}

--- Folder and name of a path: "handlers", "echo.lua"; "." when there is no folder.
---@param path string
---@return string folder
---@return string name
function M.split(path)
  local folder, name = path:match("^(.*/)([^/]+)$")
  if not folder then return ".", path end
  return (folder:gsub("(.)/+$", "%1")), name
end

--- A name inside a folder; the folder may end with a slash.
---@param folder string
---@param name string
---@return string
function M.join(folder, name)
  if folder == "." or folder == "./" or folder == "" then return name end
  return folder:sub(-1) == "/" and folder .. name or folder .. "/" .. name
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

--- Globals for one text: it sees those of the process but sets its own, so two versions of one
--- file share nothing by accident.
---@param require_function function|nil  its `require`; nil: that of the process
---@param owner any  its functions run for it when libuv calls them; nil: for nobody
---@return table
function M.environment(require_function, owner)
  local environment = setmetatable({ require = require_function }, { __index = _G })
  environment._G = environment
  if owner then owner:claim(environment) end
  return environment
end

--- Compiles without running.
---@param path string  where it came from, for messages
---@param text string
---@param environment table
---@return function|nil chunk
---@return string? message  with file and line
function M.compile(path, text, environment)
  -- "t": bytecode is not checked by the VM and can crash it.
  local chunk, message = load(text, "@" .. path, "t", environment)
  if chunk then return chunk end
  -- Syntax errors carry the name, shortened when it is long; "attempt to load chunk with wrong
  -- mode" does not carry it.
  if message:find(path, 1, true) then return nil, message end
  local rest = message:match("^%.%.%.[^\n]-(:%d+: .*)$")
  return nil, rest and path .. rest or path .. ": " .. message
end

local NAMES = { "handle", "max_concurrency", "max_queue", "on_load", "on_unload" }
for _, name in ipairs(hooks.NAMES) do NAMES[#NAMES + 1] = name end

local FIELDS = {
  handle = { type = "function" },
  on_load = { type = "function" },
  on_unload = { type = "function" },
  max_concurrency = { type = "integer", min = 1, max = 1000000 },
  max_queue = { type = "integer", min = 0, max = 1000000 },
}
for _, name in ipairs(hooks.NAMES) do FIELDS[name] = { type = "function" } end

---@class znl.HandlerParts
---@field handle function
---@field is_channel? boolean  it serves a channel of znl.hub: `handle` takes visits
---@field on_load? function
---@field on_unload? function
---@field max_concurrency? integer
---@field max_queue? integer

local function described(value)
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return "a " .. type(value)
end

--- Checks what a handler file returned.
---@param path string
---@param product any
---@return znl.HandlerParts|nil parts
---@return string? message
function M.shape(path, product)
  if type(product) == "function" then return { handle = product } end
  if type(product) ~= "table" then
    return nil, ("%s: must return a function or a table with a function handle, not %s"):format(
      path, product == nil and "nothing" or "a " .. type(product))
  end
  for name in pairs(product) do
    if FIELDS[name] == nil then
      local nearest = options.nearest(name, NAMES)
      return nil, ("%s: unknown field %s in the table of the handler%s"):format(
        path, type(name) == "string" and ("%q"):format(name) or tostring(name),
        nearest and ("; did you mean %s?"):format(nearest)
        or (" (fields: %s)"):format(table.concat(NAMES, ", ")))
    end
  end
  local is_channel = hooks.has_any(product)
  if is_channel and product.handle ~= nil then
    return nil, ("%s: a handler with handle answers requests, one with %s serves a channel: it cannot be both"):format(
      path, table.concat(hooks.NAMES, ", "))
  end
  if type(product.handle) ~= "function" and not is_channel then
    return nil, ("%s: handle must be a function, not %s"):format(
      path, product.handle == nil and "missing" or "a " .. type(product.handle))
  end
  local parts = {}
  for name, rule in pairs(FIELDS) do
    local value = product[name]
    if value ~= nil and not options.accepts(rule, value) then
      return nil, rule.type == "function"
        and ("%s: %s must be a function, not a %s"):format(path, name, type(value))
        or ("%s: %s must be a whole number in %d..%d, not %s"):format(
          path, name, rule.min, rule.max, described(value))
    end
    if not hooks.ARGUMENTS[name] then parts[name] = value end
  end
  if is_channel then
    local given = {}
    for _, name in ipairs(hooks.NAMES) do given[name] = product[name] end
    parts.handle, parts.is_channel = hooks.handle(given), true
  end
  return parts
end

--- Runs a chunk; its error begins with file and line.
---@return boolean ok
---@return any product  or the message
function M.run(chunk, ...)
  return xpcall(chunk, where.locate, ...)
end

return M
