--- znl.json: JSON as calls carry it.
---
---   nil at the top is null, both ways; inside, null is `json.null`, which is also `cjson.null`
---   a table whose keys are whole numbers from 1 is an array, its holes are null; any other is an
---   object, and so is an empty one: `{}`
---   what was read as an array, and what `json.array` marked, is an array also when it is empty
---   whole numbers past 2^53 are `int64_t` or `uint64_t` of LuaJIT's FFI, both ways
---   text is UTF-8: other strings are refused, both ways
--- SPDX-License-Identifier: MIT

local core = require("znl.core.json")
local ffi = require("ffi")

local M = {}

--- Stands for null inside tables, where nil cannot be.
M.null = core.null

--- Marks a table, or a new one, as an array: without elements it is `[]`, not `{}`.
---@generic T: table
---@type fun(list?: T): T
M.array = core.array

--- Whether a table is marked as an array.
---@type fun(value: any): boolean
M.is_array = core.is_array

--- Stands for this text wherever it is written. The text is checked: one JSON value.
---@type fun(text: string): userdata|nil, string?, "PROTO"|"LIMIT"|nil
M.raw = core.raw

local int64, uint64 = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

--- Whether a value is one of the numbers that stand for whole numbers past 2^53.
---@param value any
---@return boolean
function M.is_long(value)
  return type(value) == "cdata" and (ffi.istype(int64, value) or ffi.istype(uint64, value))
end

--- The JSON text of a value.
---@param value any
---@return string|nil text
---@return string? message  what cannot be written, and where: "a function at on_done"
---@return "INVALID"|"NO_MEMORY"|nil code
function M.encode(value)
  return core.encode(value)
end

--- The JSON text of a value as JSON.stringify of JavaScript would write it, so that equal values have equal texts:
--- no white space, names that are array indexes first. Names of tables are sorted; a `json.raw` keeps its order.
--- Whole numbers past 2^53 are rounded, as there.
---@param value any
---@return string|nil text
---@return string? message
---@return "INVALID"|"LIMIT"|"NO_MEMORY"|nil code
function M.canonical(value)
  return core.canonical(value)
end

local null, read = core.null, core.decode

--- The value of a JSON text.
---@param text string
---@return boolean ok
---@return any value  or, when it is not ok, a message
function M.decode(text)
  local value, message = read(text)
  if message then return false, message end
  if value == null then value = nil end
  return true, value
end

return M
