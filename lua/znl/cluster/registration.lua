--- znl.cluster.registration: what a subscription or a publication is known by: its JSON text, the same in
--- every process (spec cluster-client, section 5).
---
--- The text is what JavaScript's JSON.stringify makes of the same value. A table has no order of its own, so
--- its names are sorted; `fields` gives an order, and so does JSON text in `znl.json.raw`.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.json")
local json = require("znl.json")

local M = {}

--- Before every key on the wire.
M.PREFIX = "$$inner$$__"

--- An object whose names stand in the order of the list.
---
---     znl.fields { { "dataId", "db" }, { "group", "main" } }
---@param list {[1]: string, [2]: any}[]
---@return userdata  stands for this object wherever JSON is written
function M.fields(list)
  if type(list) ~= "table" then error("znl.fields: takes a list of { name, value }, not a " .. type(list), 2) end
  local parts = {}
  for index, field in ipairs(list) do
    local name = type(field) == "table" and field[1]
    if type(name) ~= "string" then
      error(("znl.fields: entry %d must be { name, value }, the name a text"):format(index), 2)
    end
    if field[2] ~= nil then
      local value, message = core.canonical(field[2])
      if not value then error(("znl.fields: %s: %s"):format(name, message), 2) end
      parts[#parts + 1] = core.canonical(name) .. ":" .. value
    end
  end
  local raw, message = json.raw("{" .. table.concat(parts, ",") .. "}")
  if not raw then error("znl.fields: " .. message, 2) end
  return raw
end

--- The canonical text; nil for nil.
---@param reg any
---@return string|nil text
---@return string? message  what cannot be written, and where
---@return "INVALID"|string|nil code
function M.text(reg)
  if reg == nil then return nil end
  return core.canonical(reg)
end

--- The value as the real client gets it: JSON text is read.
---@param reg any
---@return any value
---@return string? message
---@return string? code
function M.value(reg)
  if type(reg) ~= "userdata" or reg == json.null then return reg end
  local text, message, code = core.canonical(reg)
  if not text then return nil, message, code end
  local ok, value = json.decode(text)
  if not ok then return nil, value, "INVALID" end
  return value
end

--- A key as people should see it.
---@param key string
---@return string
function M.shown(key) return (key:gsub("^%$%$inner%$%$__", "")) end

--- What a registration is subscribed under.
---@param reg any
---@param format_key? fun(reg: any): string
---@return string|nil key
---@return string|nil text  of the registration; nil: it is nil, or (without a key) a message
---@return string? code
function M.key(reg, format_key)
  local text, message, code = M.text(reg)
  if message then return nil, "cannot write " .. message, code end
  local name = text or "undefined"
  if format_key then
    name = format_key(reg)
    if type(name) ~= "string" then return nil, "format_key returned a " .. type(name) .. ", not a text", "INVALID" end
  end
  return M.PREFIX .. name, text
end

return M
