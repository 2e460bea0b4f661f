--- znl.roles.master: the ROUTER side of ZNL v1 (spec, sections 10, 12 and 13).
---
---   off line --any valid message--> on line --unregister, silence, key removed, stop--> off line
---
--- SPDX-License-Identifier: MIT

local core = require("znl.core.node")
local node = require("znl.roles.node")
local options = require("znl.options")
local secret = require("znl.secret")

local M = {}

local function are_keys(map)
  for id, key in pairs(map) do
    if type(id) ~= "string" or id == "" or not (secret.is(key) or (type(key) == "string" and key ~= "")) then
      return false
    end
  end
  return true
end

---@class znl.MasterOptions : znl.NodeOptions
---@field auth_keys? table<string, string|znl.Secret>  slave id -> key
---@field max_peers? integer  slaves on line at once
local SPEC = options.extend(node.SPEC, {
  auth_keys = {
    type = "table", check = are_keys,
    allowed = 'a table of slave id = key, each key a text that is not empty or znl.secret("env:NAME")',
  },
  max_peers = { type = "integer", min = 1, max = 1000000, default = 10000 },
})

local EVENTS = { "slave_connected", "slave_disconnected", "push", "service_response" }
for _, name in ipairs(node.EVENTS) do EVENTS[#EVENTS + 1] = name end

local REACTIONS = {}

function REACTIONS.slave_connected(self, id) self.log.debug("slave connected", { slave = id }) end

function REACTIONS.slave_disconnected(self, id, reason)
  self.log.debug("slave disconnected", { slave = id, reason = reason })
end

--- Events, and what a listener gets:
---   slave_connected(id)
---   slave_disconnected(id, reason)
---   push(from, topic, payload)
---   auth_failed{ reason =, text =, from =, kind = }   reason is a code, text is for people
---   error(message, where)                             a handler raised; message has file and line
---   request, response, service_response{ from =, id =, payload =, … }   checked and opened
---   message{ from =, frames = }                       before any check: trust nothing in it
---@class znl.Master : znl.Node
---@field private core userdata
local Master = setmetatable({}, { __index = node.Node })
Master.__index = Master

local ROLE = {
  name = "master", spec = SPEC, events = EVENTS, reactions = REACTIONS,
  create = function(config) return core.master(config) end,
}

--- Makes a master. Nothing is bound before `start`.
---@param opts znl.MasterOptions
---@return znl.Master
function M.new(opts)
  local self = node.open(Master, ROLE, opts)
  return self
end

--- Asks a slave and waits for its answer. Yields.
---@param slave_id string
---@param payload? znl.Payload
---@param opts? znl.RequestOptions
---@return string|string[]|nil payload  one frame is a string, several are an array
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"GONE"|"BUSY"|"LIMIT"|"STOPPED"|string? code
function Master:request(slave_id, payload, opts)
  return self.core:request(slave_id, payload, node.timeout_ms(opts, "request"))
end

--- Calls what a slave serves at `route`, a path such as "/users/7?all=1". `data` is any value that
--- JSON can carry, and so is the answer; with `opts.raw` both are payloads. The handler over there
--- learns how much time is left. Yields.
---
--- A refusal or an error of the handler comes back as its message and code. "UNSUPPORTED": the slave
--- is not znlrun, and nothing was sent.
---@param slave_id string
---@param route string
---@param data? any
---@param opts? znl.CallOptions
---@return any data
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"UNSUPPORTED"|"NOT_FOUND"|"HANDLER_ERROR"|"OVERLOADED"|string? code
function Master:call(slave_id, route, data, opts)
  local payload, timeout_ms, is_json = node.outgoing_call(data, opts)
  return node.incoming_answer(is_json, self.core:call(slave_id, route, payload, timeout_ms, is_json))
end

--- Asks a named service of a slave and waits for its answer. Yields.
---@param slave_id string
---@param service string
---@param payload? znl.Payload
---@param opts? znl.RequestOptions
---@return string|string[]|nil payload
---@return string? message
---@return string? code
function Master:service_request(slave_id, service, payload, opts)
  return self.core:service_request(slave_id, service, payload, node.timeout_ms(opts, "service_request"))
end

--- Sends to every slave on line; no slave answers.
---@param topic string
---@param payload? znl.Payload
---@return integer|nil sent
---@return integer|string dropped  slaves whose queue was full; a message when sent is nil
---@return string? code
function Master:publish(topic, payload)
  return self.core:publish(topic, payload)
end

--- Who is on line, the one heard of longest ago first. Times are milliseconds since 1970.
---@return {id: string, since_ms: number, last_seen_ms: number, calls: boolean}[]  calls: it can be called
function Master:slaves() return self.core:slaves() end

---@param slave_id string
---@return boolean
function Master:is_online(slave_id) return self.core:is_online(slave_id) end

--- Sets the key of a slave, in place of an earlier one, from the next message on.
---@param slave_id string
---@param key string|znl.Secret
---@return true|nil ok
---@return string? message
---@return string? code
function Master:add_auth_key(slave_id, key)
  if not options.accepts({ type = "secret" }, key) then
    error('add_auth_key: key must be a text that is not empty or znl.secret("env:NAME")', 2)
  end
  local text = node.key_text("add_auth_key", key, 2)
  return self.core:add_key(slave_id, text)
end

--- Removes the key of a slave and takes it off line. With a shared auth_key it may come back with
--- that (spec, section 5).
---@param slave_id string
---@return true|nil ok
---@return string? message
---@return string? code
function Master:remove_auth_key(slave_id)
  return self.core:remove_key(slave_id)
end

return M
