--- znl.roles.master: the ROUTER side of ZNL v1 (spec, sections 10, 12 and 13).
---
---   off line --any valid message--> on line --unregister, silence, key removed, stop--> off line
---
--- SPDX-License-Identifier: MIT

local core = require("znl.core.node")
local fleet = require("znl.fleet")
local letters = require("znl.fleet.letters")
local node = require("znl.roles.node")
local options = require("znl.options")
local sched = require("znl.core.sched")
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
---@field cluster? znl.FleetOptions  shares slaves with other masters
local SPEC = options.extend(node.SPEC, {
  auth_keys = {
    type = "table", check = are_keys,
    allowed = 'a table of slave id = key, each key a text that is not empty or znl.secret("env:NAME")',
  },
  max_peers = { type = "integer", min = 1, max = 1000000, default = 10000 },
  cluster = { type = "table" },
})

local EVENTS = { "slave_connected", "slave_disconnected", "push", "service_response" }
for _, name in ipairs(node.EVENTS) do EVENTS[#EVENTS + 1] = name end

local REACTIONS = {}

function REACTIONS.slave_connected(self, id)
  self.log.debug("slave connected", { slave = id })
  if self.fleet then self.fleet:joined(id) end
end

function REACTIONS.slave_disconnected(self, id, reason)
  self.log.debug("slave disconnected", { slave = id, reason = reason })
  if self.fleet then self.fleet:left(id) end
end

--- In a cluster these come for the slaves of all masters, and say of which.
local ARGUMENTS = {}

function ARGUMENTS.slave_connected(self, id) return id, self.fleet and self.id end

function ARGUMENTS.slave_disconnected(self, id, reason) return id, reason, self.fleet and self.id end

--- Events, and what a listener gets:
---   slave_connected(id, master)             master: its id, in a cluster, where this comes for slaves of all masters
---   slave_disconnected(id, reason, master)  "moved": it is with another master now
---   push(from, topic, payload)
---   auth_failed{ reason =, text =, from =, kind = }   reason is a code, text is for people
---   error(message, where)                             a handler raised; message has file and line
---   request, response, service_response{ from =, id =, payload =, … }   checked and opened
---   message{ from =, frames = }                       before any check: trust nothing in it
---@class znl.Master : znl.Node
---@field private core userdata
---@field fleet znl.Fleet|nil  in a cluster
local Master = setmetatable({}, { __index = node.Node })
Master.__index = Master

--- Rules that concern more than one option, besides those of every node.
local function check_together(config, given)
  local several = config.endpoints
  for _, endpoint in ipairs(several and #several > 1 and several or {}) do
    if endpoint:find("^sim:") then return endpoint .. " does not go together with other endpoints" end
  end
  return node.exclusion(given, "endpoint", "endpoints")
end

local ROLE = {
  name = "master", check = check_together, spec = SPEC, events = EVENTS, reactions = REACTIONS, arguments = ARGUMENTS,
  prepare = function(config, what, level) config.cluster = fleet.read(config.cluster, what, level + 1) end,
  on_build = function(self, config)
    self.fleet = config.cluster and fleet.new(self, config.cluster)
    if self.fleet then self.fleet.core = self.core end
  end,
  create = function(config)
    if config.endpoints then config.endpoint = config.endpoints[1] end
    return core.master(config)
  end,
}

--- Makes a master. Nothing is bound before `start`.
---@param opts znl.MasterOptions
---@return znl.Master
function M.new(opts)
  local self = node.open(Master, ROLE, opts)
  return self
end

--- All endpoints in use, in the order of the option, each with the port that was chosen for "*".
---@return string[]
function Master:endpoints() return self.core:endpoints() end

--- Starts it: binds its endpoints, all or none; in a cluster it joins that, at once or when NATS is there. Harmless
--- when it runs.
---@return true|nil ok
---@return string? message
---@return string? code  "ADDRESS_IN_USE", "ADDRESS", …
function Master:start()
  local ok, message, code = node.Node.start(self)
  if ok and self.fleet then
    ok, message, code = self.fleet:start()
    if not ok then self:stop() end
  end
  if not ok then return nil, message, code end
  return true
end

--- Stops it: it leaves the cluster, and its slaves go elsewhere if they can. Harmless when it is stopped.
function Master:stop()
  if self.fleet then self.fleet:stop() end
  node.Node.stop(self)
end

--- Refuses new requests with code "STOPPED" until the next `start`, and waits until those that came before have their
--- answers, those of other masters to slaves of this one included. Yields.
---@param timeout_ms? integer  0..86400000, default 5000
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"? code  some are still at work
function Master:drain(timeout_ms)
  local begun_ms = sched.now_ms()
  local ok, message, code = node.Node.drain(self, timeout_ms)
  if not ok or not self.fleet then return ok, message, code end
  return self.fleet:drain(math.max(0, (timeout_ms or 5000) - (sched.now_ms() - begun_ms)))
end

--- What another master of the cluster does, when the slave is with one: true, and what came of it.
local function ask_elsewhere(self, kind, slave_id, timeout_ms, name, payload, is_json)
  if not self.fleet or type(slave_id) ~= "string" or self.core:is_online(slave_id)
      or not letters.is_payload(payload) then
    return false
  end
  return self.fleet.asks:ask({
    what = kind == "service" and "service_request" or kind, kind = kind, name = name, payload = payload,
    ends_ms = sched.now_ms() + timeout_ms, is_json = is_json,
  }, slave_id)
end

--- Asks a slave and waits for its answer; in a cluster also one that is with another master. Yields.
---@param slave_id string
---@param payload? znl.Payload
---@param opts? znl.RequestOptions
---@return string|string[]|nil payload  one frame is a string, several are an array
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"GONE"|"BUSY"|"LIMIT"|"STOPPED"|string? code
function Master:request(slave_id, payload, opts)
  local timeout_ms = node.timeout_ms(opts, "request")
  if self.fleet then
    local is_known, answer, message, code = ask_elsewhere(self, "request", slave_id, timeout_ms, nil, payload)
    if is_known then return answer, message, code end
  end
  return self.core:request(slave_id, payload, timeout_ms)
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
  if self.fleet and type(route) == "string" and route:sub(1, 1) == "/" then
    local is_known, answer, message, code = ask_elsewhere(self, "call", slave_id, timeout_ms, route, payload, is_json)
    if is_known then return node.incoming_answer(is_json, answer, message, code) end
  end
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
  local timeout_ms = node.timeout_ms(opts, "service_request")
  if self.fleet and type(service) == "string" and service ~= "" then
    local is_known, answer, message, code = ask_elsewhere(self, "service", slave_id, timeout_ms, service, payload)
    if is_known then return answer, message, code end
  end
  return self.core:service_request(slave_id, service, payload, timeout_ms)
end

--- Sends to every slave on line; no slave answers. In a cluster the slaves of other masters get it too; the numbers
--- are those of the slaves of this one.
---@param topic string
---@param payload? znl.Payload
---@return integer|nil sent
---@return integer|string dropped  slaves whose queue was full; a message when sent is nil
---@return string? code
function Master:publish(topic, payload)
  if self.fleet then return self.fleet:publish(topic, payload) end
  return self.core:publish(topic, payload)
end

local SLAVES_SPEC = { all = { type = "boolean", default = false } }

--- Who is on line, the one heard of longest ago first. Times are milliseconds since 1970. With `all = true` the slaves
--- of other masters of the cluster follow, in the order of their ids, without `last_seen_ms`.
---@param opts? {all: boolean|nil}
---@return {id: string, since_ms: number, last_seen_ms: number, calls: boolean, master: string}[]
function Master:slaves(opts)
  local list = self.core:slaves()
  if opts ~= nil and options.read(SLAVES_SPEC, opts, "slaves").all then
    for _, slave in ipairs(list) do slave.master = self.id end
    local directory = self.fleet and self.fleet.directory
    for _, slave in ipairs(directory and directory:others() or {}) do list[#list + 1] = slave end
  end
  return list
end

--- Whether a slave is on line; in a cluster with whichever master.
---@param slave_id string
---@return boolean
function Master:is_online(slave_id)
  return self.core:is_online(slave_id) or (self:master_of(slave_id) ~= nil)
end

--- The master a slave is with.
---@param slave_id string
---@return string|nil id  nil: it is not on line
function Master:master_of(slave_id)
  if self.core:is_online(slave_id) then return self.id end
  local directory = self.fleet and self.fleet.directory
  local entry = directory and directory:find(slave_id)
  return entry and not entry.is_own and entry.master or nil
end

--- The cluster as this master sees it; nil without one. `bus` is the state of the connection to NATS; while it is
--- `is_partial` slaves of other masters are not all known.
---@return {name: string, instance: string, bus: string, is_partial: boolean, masters: table[], counters: table}|nil
function Master:cluster()
  return self.fleet and self.fleet:state() or nil
end

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
