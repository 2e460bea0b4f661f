--- znl.where: says where an error was raised.
--- SPDX-License-Identifier: MIT

local M = {}

--- For `xpcall`: turns any error value into text that begins with file and line.
---@param err any
---@return string
function M.locate(err)
  local text = tostring(err)
  if type(err) == "string" and text:find("^[^\n]-:%d+: ") then return text end
  -- An error without a position (`error({})`, `error("x", 0)`): the nearest Lua line raised it.
  local level = 2
  local info = debug.getinfo(level, "Sl")
  while info do
    if info.currentline > 0 then
      return ("%s:%d: %s"):format(info.short_src, info.currentline, text)
    end
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  return text
end

--- Where a function was written, "handlers/echo.lua:3"; nil for one of C.
---@param fn function
---@return string?
function M.of(fn)
  local info = debug.getinfo(fn, "S")
  return info.linedefined > 0 and ("%s:%d"):format(info.short_src, info.linedefined) or nil
end

return M
