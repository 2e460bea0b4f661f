--- znl.durable.settings: how what there is differs from what is wanted, in streams and consumers.
--- SPDX-License-Identifier: MIT

local M = {}

local function shown(value)
  if value == nil then return "not set" end
  if type(value) == "table" then
    local list = {}
    for index, inner in ipairs(value) do list[index] = tostring(inner) end
    return "{ " .. table.concat(list, ", ") .. " }"
  end
  return tostring(value)
end

local function equal(wanted, there)
  if type(wanted) == "number" then return tonumber(there) == wanted end
  if type(wanted) ~= "table" then
    return wanted == there or ((wanted == "" or wanted == false) and there == nil)
  end
  if type(there) ~= "table" or #wanted ~= #there then return false end
  for index, inner in ipairs(wanted) do
    if there[index] ~= inner then return false end
  end
  return true
end

--- What differs, for people; nil when nothing does. Only settings that `wanted` has are looked at.
---@param wanted table<string, any>
---@param there table<string, any>  as the server says
---@param ignored? table<string, boolean>
---@return string|nil
function M.differences(wanted, there, ignored)
  local list = {}
  for name, value in pairs(wanted) do
    if not (ignored and ignored[name]) and not equal(value, there[name]) then
      list[#list + 1] = ("%s is %s there and %s here"):format(name, shown(there[name]), shown(value))
    end
  end
  if #list == 0 then return nil end
  table.sort(list)
  return table.concat(list, ", ")
end

return M
