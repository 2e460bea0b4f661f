--- znl.cli.name_completion: what a Lua name that is being typed may become.
--- SPDX-License-Identifier: MIT

local M = {}

--- Tables behind a chain of __index are followed so far.
local DEPTH_MAX = 8

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
  then true until while]]):gmatch("%a+") do
  KEYWORDS[#KEYWORDS + 1] = word
end

--- The value behind `names`, without running anything: __index functions are not called.
local function look_up(value, name)
  for _ = 1, DEPTH_MAX do
    if type(value) == "table" then
      local found = rawget(value, name)
      if found ~= nil then return found end
    end
    local meta = debug.getmetatable(value)
    local index = type(meta) == "table" and rawget(meta, "__index")
    if type(index) ~= "table" then return nil end
    value = index
  end
end

local function collect(value, wanted, found, only_functions)
  for _ = 1, DEPTH_MAX do
    if type(value) == "table" then
      for name, entry in next, value do
        if type(name) == "string" and name:sub(1, #wanted) == wanted and name:find("^[%a_][%w_]*$")
            and (not only_functions or type(entry) == "function") then
          found[name] = true
        end
      end
    end
    local meta = debug.getmetatable(value)
    local index = type(meta) == "table" and rawget(meta, "__index")
    if type(index) ~= "table" then return end
    value = index
  end
end

local function sorted(found)
  local list = {}
  for name in pairs(found) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- What may stand in place of the name at the end of `text`.
---@param text string  up to the cursor
---@param environment table
---@return string[] candidates  sorted
---@return string wanted  the part of the name that is there
function M.find(text, environment)
  local path, wanted = text:match("([%a_][%w_%.:]*[%.:])([%a_]?[%w_]*)$")
  if not path then
    path, wanted = "", text:match("([%a_][%w_]*)$") or ""
    if text:find("[%.:]%s*" .. wanted .. "$") then return {}, wanted end
  end
  local value, found = environment, {}
  for name in path:gmatch("[%a_][%w_]*") do
    value = look_up(value, name)
    if value == nil then return {}, wanted end
  end
  collect(value, wanted, found, path:sub(-1) == ":")
  if path == "" then
    if wanted == "" then return {}, wanted end
    for _, word in ipairs(KEYWORDS) do
      if word:sub(1, #wanted) == wanted then found[word] = true end
    end
  end
  return sorted(found), wanted
end

--- The longest beginning that all have.
---@param list string[]
---@return string
function M.common(list)
  local common = list[1] or ""
  for _, text in ipairs(list) do
    while text:sub(1, #common) ~= common do common = common:sub(1, -2) end
  end
  return common
end

return M
