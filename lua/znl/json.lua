--- znl.json: JSON as calls carry it.
---
--- Numbers keep their value: lua-cjson writes 14 digits, which changes whole numbers past 1e14, so
--- writing is done here. Reading is lua-cjson's, with settings that no script can change.
---   nil at the top is null, both ways; inside, null is `cjson.null`
---   a table whose keys are whole numbers from 1 is an array, its holes are null; any other is an
---   object, and so is an empty one: `{}`
--- SPDX-License-Identifier: MIT

local cjson = require("cjson")

local M = {}

--- Tables inside tables; one that contains itself ends here.
local DEPTH_MAX = 128

local decode
do
  local reader = require("cjson.safe").new()
  reader.decode_invalid_numbers(false)
  reader.decode_max_depth(DEPTH_MAX)
  decode = reader.decode
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t" }

local function escape(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end

local function quote(text)
  if text:find('[%c"\\]') then text = text:gsub('[%c"\\]', escape) end
  return '"' .. text .. '"'
end

local function number(value)
  if value ~= value or value == math.huge or value == -math.huge then
    return nil, ("the number %s"):format(tostring(value))
  end
  if value == math.floor(value) and value > -1e15 and value < 1e15 then return ("%d"):format(value) end
  local short = ("%.14g"):format(value)
  if tonumber(short) == value then return short end
  return ("%.17g"):format(value)
end

--- Arrays may have holes, as in { 1, nil, 3 }, but not be mostly holes.
local function is_dense(count, largest) return largest <= 10 or largest <= 2 * count end

--- The last index when every key is a whole number from 1, else nil.
local function array_length(value)
  local count, largest = 0, 0
  for key in pairs(value) do
    if type(key) ~= "number" or key < 1 or key ~= math.floor(key) then return nil end
    count = count + 1
    if key > largest then largest = key end
  end
  if count == 0 then return nil end
  if not is_dense(count, largest) then return nil, "an array with more holes than values" end
  return largest
end

local write

local function write_array(out, value, length, depth)
  out[#out + 1] = "["
  for i = 1, length do
    if i > 1 then out[#out + 1] = "," end
    local problem = write(out, value[i], depth + 1)
    if problem then return problem .. (" at [%d]"):format(i) end
  end
  out[#out + 1] = "]"
end

local function write_object(out, value, depth)
  local first = true
  out[#out + 1] = "{"
  for key, item in pairs(value) do
    if type(key) == "number" then
      local text, problem = number(key)
      if not text then return problem .. " as a key" end
      key = text
    elseif type(key) ~= "string" then
      return ("a %s as a key"):format(type(key))
    end
    out[#out + 1] = (first and "" or ",") .. quote(key) .. ":"
    first = false
    local problem = write(out, item, depth + 1)
    if problem then return problem .. (" at %s"):format(key) end
  end
  out[#out + 1] = "}"
end

--- Appends `value`; returns what cannot be written.
function write(out, value, depth)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = quote(value)
  elseif kind == "number" then
    local text, problem = number(value)
    if not text then return problem end
    out[#out + 1] = text
  elseif kind == "boolean" then
    out[#out + 1] = value and "true" or "false"
  elseif kind == "nil" or value == cjson.null then
    out[#out + 1] = "null"
  elseif kind ~= "table" then
    return "a " .. kind
  elseif depth > DEPTH_MAX then
    return ("more than %d tables inside each other"):format(DEPTH_MAX)
  else
    local length, problem = array_length(value)
    if problem then return problem end
    if length then return write_array(out, value, length, depth) end
    return write_object(out, value, depth)
  end
end

--- The JSON text of a value.
---@param value any
---@return string|nil text
---@return string? message  what cannot be written, and where: "a function at on_done"
function M.encode(value)
  if type(value) == "string" then return quote(value) end
  local out = {}
  local problem = write(out, value, 1)
  if problem then return nil, problem end
  return table.concat(out)
end

--- The value of a JSON text.
---@param text string
---@return boolean ok
---@return any value  or, when it is not ok, a message
function M.decode(text)
  local value, message = decode(text)
  if message ~= nil then return false, message end
  if value == cjson.null then value = nil end
  return true, value
end

return M
