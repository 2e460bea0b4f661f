--- znl.cluster.failure: errors of methods, as they cross a connection and as scripts see them (spec
--- cluster-client, section 9): a table with message, name, code and stack.
---
--- What a method raises, or returns as `nil, message, code`, arrives as nil, message, code and that table,
--- whether the method ran here or at a leader elsewhere. Without a code of its own an error has "FAILED".
--- SPDX-License-Identifier: MIT

local where = require("znl.where")

local M = {}

--- Stands in for the code of an error that has none.
M.CODE = "FAILED"

---@class znl.ClusterError
---@field message string
---@field name string
---@field code? any
---@field stack? string

--- What the core makes of an error value that is no text.
local function text_of(raised)
  local kind = type(raised)
  if kind == "string" or kind == "number" then return tostring(raised) end
  local meta = getmetatable(raised)
  if type(meta) == "table" and meta.__tostring then return tostring(raised) end
  return ("(error object is a %s value)"):format(kind)
end

--- For `xpcall`: objects with a message are kept, everything else becomes text with file and line.
function M.locate(raised)
  if type(raised) == "table" and raised.message ~= nil then return raised end
  return where.locate(text_of(raised))
end

local function is_text(value) return type(value) == "string" or type(value) == "number" end

local function line_of(text) return (tostring(text):match("^[^\n]*")) end

--- Takes over what the fields of a table say, of any that have the right type.
local function read(err, fields)
  if is_text(fields.message) then err.message = tostring(fields.message) end
  if is_text(fields.name) then err.name = line_of(fields.name) end
  if is_text(fields.stack) then err.stack = tostring(fields.stack) end
  if is_text(fields.code) then err.code = fields.code end
end

--- An error as it would arrive over a connection: nothing is left out but the code.
local function complete(err)
  err.name, err.message = err.name or "Error", err.message or "error"
  err.stack = err.stack or err.name .. ": " .. err.message
  return err
end

--- The error of what was raised, as `locate` left it.
---@param raised any
---@return znl.ClusterError
function M.of_raised(raised)
  local err = {}
  if type(raised) == "table" then
    read(err, raised)
  else
    err.message, err.stack = line_of(raised):gsub("^[^\n:]*:%d+: ", ""), tostring(raised)
  end
  return complete(err)
end

--- The error of `nil, message, code, fields`. The message may be a table of fields, too.
---@param message any
---@param code any
---@param fields? table
---@return znl.ClusterError
function M.of_refusal(message, code, fields)
  local err = {}
  if type(message) == "table" then
    read(err, message)
  elseif message ~= nil then
    err.message = line_of(message)
  elseif code ~= nil then
    err.message = tostring(code)
  end
  if is_text(code) then err.code = code end
  if type(fields) == "table" then read(err, fields) end
  return complete(err)
end

--- A method that cannot be called from outside.
---@param channel string
---@param method string
---@return znl.ClusterError
function M.no_method(channel, method)
  return complete {
    message = ("%s has no method %q"):format(channel, method), name = "TypeError", code = "NOT_FOUND",
  }
end

--- What a caller gets of an error.
---@param err znl.ClusterError
---@return nil
---@return string message
---@return any code
---@return znl.ClusterError err
function M.give(err)
  local code = err.code
  if code == nil then code = M.CODE end
  return nil, tostring(err.message or "error"), code, err
end

return M
