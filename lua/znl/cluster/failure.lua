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

--- For `xpcall`: objects are kept, everything else becomes text with file and line.
function M.locate(raised)
  return type(raised) == "table" and raised or where.locate(raised)
end

local function text_or_nil(value)
  if value ~= nil then return tostring(value) end
end

--- The error of what was raised, as `locate` left it.
---@param raised any
---@return znl.ClusterError
function M.of_raised(raised)
  if type(raised) == "table" then
    return {
      message = tostring(raised.message or "error"), name = tostring(raised.name or "Error"), code = raised.code,
      stack = text_or_nil(raised.stack),
    }
  end
  local line = tostring(raised):match("^[^\n]*")
  return { message = (line:gsub("^[^\n:]*:%d+: ", "")), name = "Error", stack = tostring(raised) }
end

--- The error of `nil, message, code`.
---@return znl.ClusterError
function M.of_refusal(message, code)
  return { message = tostring(message or code or "error"), name = "Error", code = code }
end

--- A method that cannot be called from outside.
---@param channel string
---@param method string
---@return znl.ClusterError
function M.no_method(channel, method)
  return { message = ("%s has no method %q"):format(channel, method), name = "TypeError", code = "NOT_FOUND" }
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
