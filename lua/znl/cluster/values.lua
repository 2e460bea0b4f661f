--- znl.cluster.values: how arguments, results and values become bytes, and copies as a connection would
--- make them, for calls that cross none: what one end changes must not change at the other.
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local transcode = require("znl.core.transcode")

local M = {}

---@class znl.ClusterTranscode
---@field encode fun(value: any): string|nil, string?, string?
---@field decode fun(text: string): any, string?, string?

local JSON = {
  encode = function(value)
    if value == nil then return "null" end
    return json.encode(value)
  end,
  decode = function(text)
    local ok, value = json.decode(text)
    if ok then return value end
    return nil, value, "PROTO"
  end,
}

local function is_pair(value)
  if type(value) ~= "table" then return false end
  for name in pairs(value) do
    if name ~= "encode" and name ~= "decode" then return false end
  end
  return type(value.encode) == "function" and type(value.decode) == "function"
end

---@param value any
---@return boolean
function M.accepts(value)
  return value == "default" or value == "json" or is_pair(value)
end

--- The pair for the core; nil for the default, which it knows itself.
---@param chosen "default"|"json"|znl.ClusterTranscode
---@return znl.ClusterTranscode|nil
function M.pair(chosen)
  if chosen == "default" then return nil end
  return chosen == "json" and JSON or chosen
end

--- What would be sent of a value.
---@param pair znl.ClusterTranscode|nil
---@param value any
---@return string|nil text
---@return string? message
---@return string? code
function M.text(pair, value)
  local text, message, code = (pair or transcode).encode(value)
  if text == nil then return nil, message or "it cannot be encoded", code or "INVALID" end
  return text
end

--- A value as it would arrive at another process.
---@param pair znl.ClusterTranscode|nil
---@param value any
---@return any value
---@return string? message  it cannot be sent
---@return string? code
function M.copy(pair, value)
  local kind = type(value)
  if not pair and (kind == "nil" or kind == "boolean" or kind == "number") then return value end
  local text, message, code = M.text(pair, value)
  if text == nil then return nil, message, code end
  return (pair or transcode).decode(text)
end

return M
