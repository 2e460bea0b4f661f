--- znl.micro.correlation: the id that calls of release 1.0.5 carry in their data (spec, section 17).
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local json = require("znl.json")

local M = {}

--- A version 4 UUID.
---@return string
function M.uuid()
  local bytes = { crypto.random(16):byte(1, 16) }
  bytes[7] = bytes[7] % 16 + 64
  bytes[9] = bytes[9] % 64 + 128
  return ("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x"):format(unpack(bytes))
end

--- What JavaScript takes for false: such an id is replaced.
local FALSY = { [""] = true, [0] = true, [false] = true }

local function is_truthy(value)
  return value ~= nil and value ~= json.null and not FALSY[value]
end

--- What is sent for `data`, which is not changed.
---@param data any
---@return table
function M.add(data)
  if data == nil then return { _correlationId = M.uuid() } end
  if type(data) ~= "table" or json.is_array(data) or data[1] ~= nil then
    return { _correlationId = M.uuid(), data = data }
  end
  if is_truthy(data._correlationId) then return data end
  local copy = {}
  for name, value in pairs(data) do copy[name] = value end
  copy._correlationId = M.uuid()
  return copy
end

return M
