--- znl.log: one line per event, with fields.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.log")

local M = {}

---@alias znl.LogLevel "trace"|"debug"|"info"|"warn"|"error"|"off"

---@class znl.Logger
---@field trace fun(message: string, fields?: table<string, any>)
---@field debug fun(message: string, fields?: table<string, any>)
---@field info fun(message: string, fields?: table<string, any>)
---@field warn fun(message: string, fields?: table<string, any>)
---@field error fun(message: string, fields?: table<string, any>)
---@field level fun(): znl.LogLevel  the level in force, for the whole process
---@field set_level fun(level: znl.LogLevel)  for the whole process
---@field enabled fun(level: znl.LogLevel): boolean

local LEVELS = { "trace", "debug", "info", "warn", "error" }

--- A logger whose lines carry `area`, such as the id of a node.
---@param area string
---@return znl.Logger
function M.new(area)
  local logger = { level = core.level, set_level = core.set_level, enabled = core.enabled }
  for _, level in ipairs(LEVELS) do
    logger[level] = function(message, fields)
      if core.enabled(level) then
        core.write(level, area, tostring(message), fields)
      end
    end
  end
  return logger
end

return M
