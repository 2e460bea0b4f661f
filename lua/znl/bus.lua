--- znl.bus: what roles take as `bus`: a connection to NATS that exists, or what makes one.
--- SPDX-License-Identifier: MIT

local nats = require("znl.nats")
local options = require("znl.options")

local M = {}

--- Whether `value` can be a bus; for rules of options.
---@return boolean
function M.accepts(value)
  return type(value) == "string" and value ~= "" or nats.is(value) or type(value) == "table"
end

--- A rule for option tables: `bus = bus.RULE`.
M.RULE = { type = "any", check = M.accepts,
  allowed = 'a znl.nats connection, an address such as "nats://127.0.0.1:4222", or options of znl.nats.connect' }

--- Returns the connection for `value`: an object of znl.nats as it is, else one that connects in the background
--- and is to be closed by whoever opened it. Misuse raises.
---@param value znl.Nats|string|znl.NatsOptions
---@param what string  who asks, for errors
---@param level? integer  whom to blame; 1, the default, is the caller of `open`
---@param defaults? znl.NatsOptions  of one that is made here, unless `value` says otherwise
---@return znl.Nats nats
---@return boolean is_own  made here: close it
function M.open(value, what, level, defaults)
  level = (level or 1) + 1
  if nats.is(value) then return value, false end
  if not M.accepts(value) then error(("%s: bus must be %s"):format(what, M.RULE.allowed), level) end
  local given = type(value) == "string" and { servers = value } or value
  if given.wait_ms ~= nil then
    error(what .. ": bus: wait_ms is not for a bus: it connects in the background", level)
  end
  given = options.extend(defaults or {}, given)
  return nats.open(options.extend(given, { wait_ms = 0 }), what .. ": bus", level), true
end

--- The same for roles that start: what cannot be is their result.
---@param value znl.Nats|string|znl.NatsOptions
---@param what string
---@return znl.Nats|nil nats
---@return boolean|string is_own  or the message
---@return "INVALID"? code
function M.try(value, what)
  local ok, nats_or_message, is_own = pcall(M.open, value, what)
  if ok then return nats_or_message, is_own end
  return nil, (tostring(nats_or_message):gsub("^[^\n:]-:%d+: ", "")), "INVALID"
end

return M
