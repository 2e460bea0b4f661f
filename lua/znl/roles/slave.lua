--- znl.roles.slave: the DEALER side of ZNL v1 (spec, sections 11 to 13 and 16.1).
---
---   master off line --any valid message--> master on line --no acknowledgement, stop--> off line
---
--- With several endpoints it goes to the next master when one does not acknowledge, or its connection is
--- lost and it is not back within a second. It stays there: no endpoint is better than another.
---
--- Subscriptions and services are local: nothing about them is sent.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.node")
local crypto = require("znl.core.crypto")
local node = require("znl.roles.node")
local options = require("znl.options")
local where = require("znl.where")

local M = {}

local MASTER_ID = { type = "string", min = 1, max = 255 }

---@class znl.SlaveOptions : znl.NodeOptions
---@field endpoint_order? "listed"|"random"  which of them is the first; then they take turns
---@field master_id? string  the only master to believe; absent: the first that has the key
---@field master_ids? string[]  in place of master_id: the only masters to believe
local SPEC = options.extend(node.SPEC, {
  endpoint_order = {
    type = "string", default = "listed", allowed = '"listed" or "random"',
    check = function(order) return order == "listed" or order == "random" end,
  },
  master_id = MASTER_ID,
  master_ids = node.list_of(MASTER_ID, "an array of 1 to 32 different texts of 1 to 255 bytes"),
})

local EVENTS = { "master_online", "master_offline", "publish", "service_request" }
for _, name in ipairs(node.EVENTS) do EVENTS[#EVENTS + 1] = name end

local REACTIONS = {}

function REACTIONS.master_online(self, id)
  self.log.debug("master on line", { master = id ~= "" and id or nil })
end

function REACTIONS.master_offline(self, _, reason)
  self.log.debug("master off line", { reason = reason })
end

--- Events, and what a listener gets:
---   master_online(id)                                 id is "" in plain mode: the wire does not say
---   master_offline(id, reason)                        "no heartbeat_ack", "connection lost", "stop"
---   publish(topic, payload)                           subscribed or not
---   auth_failed{ reason =, text =, from =, kind = }   reason is a code, text is for people
---   error(message, where)                             a handler raised; message has file and line
---   request, response, service_request{ from =, id =, payload =, … }   checked and opened
---   message{ from =, frames = }                       before any check: trust nothing in it
---@class znl.Slave : znl.Node
---@field private core userdata
local Slave = setmetatable({}, { __index = node.Node })
Slave.__index = Slave

local AFTER = {}

--- A publish reaches the listeners of the event first, then the handler of its topic.
function AFTER.publish(self, topic, payload)
  local handler = self.subscriptions[topic]
  if not handler then return end
  local ok, message = xpcall(handler, where.locate, payload, topic)
  if not ok then
    self.log.error("subscription failed", { topic = topic, error = message })
    self.emitter:emit("error", message, "subscription")
  end
end

--- Rules that concern more than one option, besides those of every node.
local function check_together(config, given)
  local problem = node.exclusion(given, "endpoint", "endpoints") or node.exclusion(given, "master_id", "master_ids")
  if problem then return problem end
  if config.endpoints and #config.endpoints > 1 and config.heartbeat_ms == 0 then
    return "several endpoints need heartbeats: without, nothing tells whether a master is there"
  end
end

--- In an order of chance. Not math.random: that begins alike in every process, and the slaves of a fleet
--- would all begin with the same master.
local function shuffled(list)
  local copy = {}
  for index, value in ipairs(list) do
    local place = crypto.random(1):byte() % index + 1
    copy[index] = copy[place]
    copy[place] = value
  end
  return copy
end

local function create(config)
  if config.endpoints then
    config.endpoint = config.endpoints[1] -- what is shown of this node until it starts
    if config.endpoint_order == "random" then config.endpoints = shuffled(config.endpoints) end
  end
  if config.master_id then config.master_ids = { config.master_id } end
  return core.slave(config)
end

local ROLE = {
  name = "slave", check = check_together, spec = SPEC, events = EVENTS, reactions = REACTIONS, after = AFTER,
  create = create,
}

--- Makes a slave. Nothing is connected before `start`.
---@param opts znl.SlaveOptions
---@return znl.Slave
function M.new(opts)
  local self = node.open(Slave, ROLE, opts)
  self.subscriptions = self.subscriptions or {} -- a node may outlive the script that made it
  return self
end

--- Asks the master and waits for its answer. Without a connection it waits for one, no longer than
--- the timeout. "REBUILT": the connection was given up before the answer; the master may have done it. Yields.
---@param payload? znl.Payload
---@param opts? znl.RequestOptions
---@return string|string[]|nil payload  one frame is a string, several are an array
---@return string? message
---@return "TIMEOUT"|"REBUILT"|"BUSY"|"LIMIT"|"STOPPED"|string? code
function Slave:request(payload, opts)
  return self.core:request(payload, node.timeout_ms(opts, "request"))
end

--- Calls what the master serves at `route`, a path such as "/users/7?all=1". `data` is any value that
--- JSON can carry, and so is the answer; with `opts.raw` both are payloads. The handler over there
--- learns how much time is left. Before the first acknowledgement of the master it waits for that,
--- within the timeout. Yields.
---
--- A refusal or an error of the handler comes back as its message and code. "UNSUPPORTED": the master
--- is not znlrun, and nothing was sent.
---@param route string
---@param data? any
---@param opts? znl.CallOptions
---@return any data
---@return string? message
---@return "TIMEOUT"|"REBUILT"|"UNSUPPORTED"|"NOT_FOUND"|"HANDLER_ERROR"|"OVERLOADED"|string? code
function Slave:call(route, data, opts)
  local payload, timeout_ms, is_json = node.outgoing_call(data, opts)
  return node.incoming_answer(is_json, self.core:call(route, payload, timeout_ms, is_json))
end

--- Sends to the master, which does not answer.
---@param topic string
---@param payload? znl.Payload
---@return true|nil ok
---@return string? message
---@return string? code
function Slave:push(topic, payload)
  return self.core:push(topic, payload)
end

--- Calls `fn(payload, topic)` for what the master publishes under exactly this topic. One function
--- per topic: the last one wins.
---@param topic string
---@param fn fun(payload: string|string[], topic: string)
function Slave:subscribe(topic, fn)
  if type(topic) ~= "string" then error("subscribe: topic must be a text, not a " .. type(topic), 2) end
  if type(fn) ~= "function" then error("subscribe: needs a function, not a " .. type(fn), 2) end
  self.slots:put("topic " .. topic, function()
    self.subscriptions[topic] = fn
    return function(is_holder)
      if is_holder then self.subscriptions[topic] = nil end
    end
  end)
end

---@param topic string
function Slave:unsubscribe(topic)
  self.slots:clear("topic " .. tostring(topic))
end

--- Answers service requests for `name`; nil removes the service. White space around the name does
--- not count. Unlike with requests, the master is told when the handler raises.
---@param name string
---@param handler znl.Handler|znl.Handlers|nil
function Slave:service(name, handler)
  name = type(name) == "string" and name:match("^%s*(.-)%s*$") or ""
  if name == "" then error("service: name must be a text that is not empty", 2) end
  local key, owner = "service " .. name, node.current_owner()
  if handler == nil then return self.slots:clear(key) end
  node.check_handler(handler, "service", 2)
  local function apply(fn, its_owner, place) node.set_service(self, name, fn, its_owner, place) end
  self.slots:put(key, function()
    local unfollow = node.follow(handler, owner, apply)
    return function(is_holder)
      unfollow()
      if is_holder then apply(nil) end
    end
  end)
end

---@return boolean
function Slave:master_online() return self.core:is_master_online() end

--- The id the master has proved; nil while unknown and in plain mode.
---@return string|nil
function Slave:master_id() return (self.core:master_id()) end

return M
