--- znl.durable.jetstream: asks JetStream, the part of a NATS server that keeps messages.
---
--- Its API are requests with JSON on subjects below "$JS.API". What it refuses comes back with a code of ours,
--- and its own words. Yields.
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local sched = require("znl.core.sched")

local M = {}

--- What its error numbers are here; all others are "REFUSED". (nats-server, server/errors.json)
local CODES = {
  [10059] = "NOT_FOUND", -- stream
  [10014] = "NOT_FOUND", -- consumer
  [10037] = "NOT_FOUND", [10043] = "NOT_FOUND", -- message
  [10058] = "EXISTS", -- stream with another configuration
  [10065] = "EXISTS", -- subjects of another stream
  [10013] = "EXISTS", -- consumer
  [10099] = "EXISTS", [10100] = "EXISTS", -- another consumer of a work queue
  [10105] = "EXISTS", [10148] = "EXISTS",
  [10039] = "UNSUPPORTED", [10076] = "UNSUPPORTED", -- JetStream is not enabled for the account, the server
  [10008] = "UNREACHABLE", [10009] = "UNREACHABLE", -- no leader at the moment
  [10054] = "TOO_BIG",
  [10002] = "LIMIT", [10023] = "LIMIT", [10026] = "LIMIT", [10027] = "LIMIT", [10028] = "LIMIT",
  [10047] = "LIMIT", [10074] = "LIMIT", [10110] = "LIMIT",
}
--- A stream that is full says so in words, and so does one that has no such message.
local STORE_FAILED, DELETE_FAILED = 10077, 10057

---@class znl.JetStream
---@field bus znl.Nats
---@field private prefix string
---@field private timeout_ms integer
local JetStream = {}
JetStream.__index = JetStream

---@param bus znl.Nats
---@param domain string|nil  of JetStream, where there are several
---@param timeout_ms integer  of one request
---@return znl.JetStream
function M.new(bus, domain, timeout_ms)
  local prefix = domain and ("$JS.%s.API."):format(domain) or "$JS.API."
  return setmetatable({ bus = bus, prefix = prefix, timeout_ms = timeout_ms }, JetStream)
end

--- What an error of JetStream is here.
---@param err any  the member "error" of an answer
---@return string message
---@return string code
---@return integer|nil number
function M.problem(err)
  if type(err) ~= "table" then return "JetStream refused, and does not say why", "REFUSED" end
  local number = tonumber(err.err_code)
  local message = type(err.description) == "string" and err.description or "refused"
  local code = number and CODES[number] or "REFUSED"
  if number == STORE_FAILED and message:find("^maximum ") then code = "LIMIT" end
  if number == DELETE_FAILED and message:find("^no message found") then code = "NOT_FOUND" end
  if code == "REFUSED" and err.code == 503 then code = "UNREACHABLE" end
  return "JetStream: " .. message, code, number
end

--- The object that an answer of JetStream is; nil, message, code when it is an error or none.
---@param data string
---@return table|nil answer
---@return string? message
---@return string? code
---@return integer? number  of the error
function M.read(data)
  local ok, answer = json.decode(data)
  if not ok or type(answer) ~= "table" then return nil, "JetStream: the answer is no JSON object", "PROTO" end
  if answer.error ~= nil then return nil, M.problem(answer.error) end
  return answer
end

--- The subject of a request, for those who publish it themselves.
---@param what string  "CONSUMER.MSG.NEXT.orders.billing"
---@return string
function JetStream:subject(what) return self.prefix .. what end

--- Asks. Yields.
---@param what string  "STREAM.INFO.orders"
---@param body? table
---@param timeout_ms? integer
---@return table|nil answer
---@return string? message
---@return "NOT_FOUND"|"EXISTS"|"LIMIT"|"UNSUPPORTED"|"UNREACHABLE"|"OFFLINE"|"TIMEOUT"|"REFUSED"|"PROTO"|string? code
---@return integer? number
function JetStream:ask(what, body, timeout_ms)
  local text = body and assert(json.encode(body)) or ""
  local message, problem, code = self.bus:request(self.prefix .. what, text, {
    timeout_ms = timeout_ms or self.timeout_ms,
  })
  if not message then
    if code == "UNREACHABLE" then problem = "JetStream is not enabled on this NATS server" end
    return nil, problem, code
  end
  return M.read(message.data)
end

--- A message of a stream that lets its messages be read directly. Yields.
---@param stream string
---@param which {seq: integer, next_by_subj?: string}  the first from there on that has such a subject, or this one
---@return znl.NatsMessage|nil message  its headers tell "Nats-Sequence" and "Nats-Subject"
---@return string? message
---@return "NOT_FOUND"|string? code
function JetStream:get(stream, which)
  local message, problem, code = self.bus:request(self.prefix .. "DIRECT.GET." .. stream, assert(json.encode(which)), {
    timeout_ms = self.timeout_ms,
  })
  if not message then
    if code == "UNREACHABLE" then problem = ("no stream %s"):format(stream) end
    return nil, problem, code
  end
  if (message.status or 0) == 0 then return message end
  local text = "JetStream: " .. (message.status_text or message.status)
  return nil, text, message.status == 404 and "NOT_FOUND" or "REFUSED"
end

--- Whether there is a JetStream to ask. Yields.
---@return true|nil ok
---@return string? message
---@return "UNSUPPORTED"|"UNREACHABLE"|"OFFLINE"|"TIMEOUT"|string? code
function JetStream:check()
  local answer, message, code = self:ask("INFO")
  if answer then return true end
  -- Who answers nothing on this subject has no JetStream.
  if code == "UNREACHABLE" then code = "UNSUPPORTED" end
  return nil, message, code
end

local AWAY = { OFFLINE = true, UNREACHABLE = true, TIMEOUT = true }

--- Whether trying again later may help.
---@param code string|nil
---@return boolean
function M.is_away(code) return AWAY[code] == true end

--- Waits until the bus is connected. Yields.
---@param bus znl.Nats
---@param timeout_ms integer
---@return true|nil ok
---@return string? message
---@return "UNREACHABLE"|"CLOSED"|string? code
function M.await_bus(bus, timeout_ms)
  if bus:is_connected() then return true end
  local changed = sched.event()
  local off = bus:on("connected", function() changed:set(true) end)
  local off_closed = bus:on("closed", function() changed:set(true) end)
  local ok, message, code = true, nil, nil
  if not bus:is_connected() and bus:state() ~= "closed" then ok, message, code = changed:wait(timeout_ms) end
  off()
  off_closed()
  if bus:is_connected() then return true end
  if bus:state() == "closed" then return nil, "the connection to NATS is closed", "CLOSED" end
  if ok or code == "TIMEOUT" then return nil, ("no NATS server in %d ms"):format(timeout_ms), "UNREACHABLE" end
  return nil, message, code
end

return M
