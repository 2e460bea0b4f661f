--- znl.micro.connection: one connection of the micro protocol, seen from this end: what scripts know as a
--- client. Either end may ask.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")

local M = {}

--- Options of one request.
---@class znl.ClientRequestOptions
---@field timeout_ms? integer
local REQUEST_SPEC = { timeout_ms = { type = "integer", min = 1, max = 86400000, default = 30000 } }

--- Options of one stream.
---@class znl.ClientStreamOptions
---@field timeout_ms? integer  from the request to its end; nil: none
---@field window? integer  chunks that may be on their way
local STREAM_SPEC = {
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
  window = { type = "integer", min = 1, max = 65536 },
}

---@class znl.Client
---@field key string  "host:port" of the other end
---@field host string
---@field port integer
---@field namespace string|nil  of the other end, when it said so
---@field is_inbound boolean  the other end opened it
---@field conn userdata  of znl.core.micro
local Client = {}
Client.__index = Client
M.Client = Client

---@param conn userdata  of znl.core.micro
---@param key string
---@param host string
---@param port integer
---@param namespace string|nil
---@return znl.Client
function M.new(conn, key, host, port, namespace)
  return setmetatable({
    conn = conn, key = key, host = host, port = port, namespace = namespace, is_inbound = conn:is_inbound(),
  }, Client)
end

function M.check_url(url, what, level)
  if type(url) ~= "string" or url == "" then
    error(("%s: the url must be a text such as /users/7, not %s"):format(
      what, type(url) == "string" and "an empty one" or "a " .. type(url)), level + 1)
  end
end

--- Asks the other end. Yields.
---@param url string
---@param data? any  whatever JSON can carry; nil: nothing, znl.null: null
---@param opts? znl.ClientRequestOptions
---@return any data
---@return string? message
---@return "TIMEOUT"|"CLOSED"|"CANCELLED"|"DEADLINE"|"LIMIT"|"BUSY"|string|number? code  or the status of the answer
---@return boolean? is_remote  the other end answered that
function Client:request(url, data, opts)
  M.check_url(url, "client:request", 2)
  local timeout_ms = REQUEST_SPEC.timeout_ms.default
  if opts ~= nil then timeout_ms = options.read(REQUEST_SPEC, opts, "client:request", 2).timeout_ms end
  return self.conn:request(url, data, timeout_ms)
end

--- Tells the other end something; there is no answer.
---@param url string
---@param data? any
---@return true|nil ok
---@return string? message
---@return string? code
function Client:push(url, data)
  M.check_url(url, "client:push", 2)
  return self.conn:push(url, data)
end

--- Asks for a stream of chunks. Yields.
---@param url string
---@param data? any
---@param opts? znl.ClientStreamOptions
---@return userdata|nil stream  `stream:read(timeout_ms?)` -> true, chunk | false at its end | nil, message, code
---@return string? message
---@return string? code
function Client:stream(url, data, opts)
  M.check_url(url, "client:stream", 2)
  opts = options.read(STREAM_SPEC, opts, "client:stream", 2)
  return self.conn:stream(url, data, opts.timeout_ms, opts.window)
end

--- Closes the connection; what waits on it ends with "CLOSED".
function Client:close() self.conn:close() end

---@return boolean
function Client:is_open() return self.conn:is_open() end

return M
