--- znl.test.diff: where two values differ.
--- SPDX-License-Identifier: MIT

local pretty = require("znl.pretty")

local M = {}

--- More differences than this are counted, not shown.
local SHOWN_MAX = 10

---@class znl.Difference
---@field path string  ".user.names[2]"; "" for the values themselves
---@field expected any
---@field actual any

local function step(path, key)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") then return path .. "." .. key end
  return path .. (type(key) == "number" and "[" .. pretty.format(key) .. "]" or pretty.key(key))
end

local function compare(expected, actual, path, found, seen)
  if rawequal(expected, actual) or (expected ~= expected and actual ~= actual) then return end
  if type(expected) ~= "table" or type(actual) ~= "table" then
    found[#found + 1] = { path = path, expected = expected, actual = actual }
    return
  end
  -- A pair under comparison further up is equal unless something else differs.
  if seen[expected] and seen[expected][actual] then return end
  seen[expected] = seen[expected] or {}
  seen[expected][actual] = true
  local keys, length = pretty.keys(expected)
  for index = 1, length do
    compare(rawget(expected, index), rawget(actual, index), step(path, index), found, seen)
  end
  for _, key in ipairs(keys) do compare(rawget(expected, key), rawget(actual, key), step(path, key), found, seen) end
  local more, more_length = pretty.keys(actual)
  for index = length + 1, more_length do
    if rawget(expected, index) == nil then compare(nil, rawget(actual, index), step(path, index), found, seen) end
  end
  for _, key in ipairs(more) do
    if rawget(expected, key) == nil then compare(nil, rawget(actual, key), step(path, key), found, seen) end
  end
end

--- All differences of two values, in the order of their keys. Metatables do not count.
---@return znl.Difference[]
function M.find(expected, actual)
  local found = {}
  compare(expected, actual, "", found, {})
  return found
end

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
  return lines
end

--- Long texts: the first line that differs.
local function show_texts(add, expected, actual)
  local left, right = lines_of(expected), lines_of(actual)
  local at = 1
  while left[at] ~= nil and left[at] == right[at] do at = at + 1 end
  add(("the texts differ from line %d on"):format(at))
  add("expected  " .. (left[at] and pretty.quote(left[at], 300) or "nothing more"))
  add("got       " .. (right[at] and pretty.quote(right[at], 300) or "nothing more"))
end

local function show(add, difference)
  local expected, actual = difference.expected, difference.actual
  if difference.path ~= "" then add("at " .. difference.path) end
  if type(expected) == "string" and type(actual) == "string"
      and (expected:find("\n", 1, true) or actual:find("\n", 1, true)) then
    return show_texts(add, expected, actual)
  end
  local opts = { width = 70, depth = 4, bytes = 300, items = 20 }
  add("expected  " .. pretty.format(expected, opts):gsub("\n", "\n          "))
  add("got       " .. pretty.format(actual, opts):gsub("\n", "\n          "))
end

--- Differences as lines.
---@param found znl.Difference[]
---@return string
function M.describe(found)
  local lines = {}
  local function add(line) lines[#lines + 1] = line end
  for index = 1, math.min(#found, SHOWN_MAX) do show(add, found[index]) end
  if #found > SHOWN_MAX then add(("and %d more differences"):format(#found - SHOWN_MAX)) end
  return table.concat(lines, "\n")
end

return M
