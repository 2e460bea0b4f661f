--- Values as JSON lines carry them between the tests of cluster-client and its peers, in the notation of
--- cluster_values.mjs: what JSON cannot hold is {"$": kind, ...}. SPDX-License-Identifier: MIT

local json = require "znl.json"
local transcode = require "znl.transcode"
local znl = require "znl"

local M = {}

local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
local function unhex(text) return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)) end

local function each(object, change)
  local out = {}
  for name, value in pairs(object) do out[name] = change(value) end
  return out
end

local PACK = {
  undefined = function() return { ["$"] = "undefined" } end,
  bytes = function(value) return { ["$"] = "buffer", hex = hex(tostring(value)) } end,
  date = function(value) return { ["$"] = "date", ms = value.ms } end,
  error = function(value) return { ["$"] = "error", v = each(value, M.pack) } end,
}

local function odd(number)
  if number ~= number then return "NaN" end
  if number == math.huge then return "Infinity" end
  if number == -math.huge then return "-Infinity" end
end

--- A value in that notation; nil is undefined.
function M.pack(value)
  if value == nil then value = znl.undefined end
  local pack = PACK[transcode.kind(value)]
  if pack then return pack(value) end
  if type(value) == "number" then
    local word = odd(value)
    return word and { ["$"] = "number", v = word } or value
  end
  if type(value) ~= "table" then return value end
  local out = each(value, M.pack)
  return json.is_array(value) and json.array(out) or out
end

local NUMBERS = { NaN = 0 / 0, Infinity = math.huge, ["-Infinity"] = -math.huge, ["-0"] = 0 }

local UNPACK = {
  undefined = function() return znl.undefined end,
  buffer = function(tagged) return znl.bytes(unhex(tagged.hex)) end,
  date = function(tagged) return znl.date(tagged.ms) end,
  error = function(tagged) return transcode.error(each(tagged.v, M.unpack)) end,
  number = function(tagged) return NUMBERS[tagged.v] end,
}

--- The value again.
function M.unpack(value)
  if type(value) ~= "table" then return value end
  local unpack_ = UNPACK[value["$"]]
  if unpack_ then return unpack_(value) end
  local out = each(value, M.unpack)
  return json.is_array(value) and json.array(out) or out
end

return M
