--- znl.micro.registry_cluster: a registry as one of several that answer for one fleet, over NATS.
---
---   off --start--> joining --all have told what they hold, or `join_ms`--> on --leave--> off
---
--- What is connected and published here is told to the others, what they hold is listed here; the rules are in
--- znl.micro.replica_rows and znl.micro.replica. Without its bus a registry goes on alone with what it knows.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local balance = require("znl.micro.balance")
local bus_rule = require("znl.bus").RULE
local json = require("znl.json")
local json_signature = require("znl.core.json").signature
local options = require("znl.options")
local replica = require("znl.micro.replica")
local replica_log = require("znl.micro.replica_log")
local replica_rows = require("znl.micro.replica_rows")
local replica_values = require("znl.micro.replica_values")
local replica_wire = require("znl.micro.replica_wire")
local sched = require("znl.core.sched")
local secret = require("znl.secret")
local task = require("znl.tasks.task")
local uv = require("luv")

local M = {}

local MIB = 1024 * 1024
--- Changes that are remembered after they were undone: more than come and go while NATS is away for a moment.
local GONE_MAX = 10000
--- A start waits that long for the bus, for others to be heard, and for what they tell.
local CONNECT_MS, HEAR_MS, JOIN_MS = 1000, 250, 3000
local LOOK_MS = 5
local FLUSH_MS = 500
local TICK_MAX_MS = 50
local QUIET_MS = 10000
local STAMP_MAX = 2 ^ 52

local function is_token(value) return type(value) == "string" and value:find("^[%w_-]+$") ~= nil and #value <= 64 end

local function is_prefix(value)
  if type(value) ~= "string" or #value > 128 or value:find("^%.") or value:find("%.$") or value:find("..", 1, true) then
    return false
  end
  return value:find("^[%w_.-]+$") ~= nil
end

---@class znl.RegistryClusterOptions
---@field bus string|table  a znl.nats, the url of a NATS server, or options of znl.nats.connect
---@field name? string  of the cluster: registries of one name belong together
---@field subject_prefix? string
---@field ttl_ms? integer  a registry that is silent for so long is gone
---@field grace_ms? integer  what was registered with one that is gone stays listed, until it is back elsewhere
---@field secret? string|znl.Secret|(string|znl.Secret)[]  signs messages, the first of them; others are not taken
---@field label? string  what this registry is called in lists; nil: host name and port
M.SPEC = {
  bus = options.extend(bus_rule, { required = true }),
  name = { type = "string", default = "default", check = is_token, allowed = "letters, digits, - and _, up to 64" },
  subject_prefix = {
    type = "string", default = "znl.registry", check = is_prefix, allowed = "tokens of letters, digits, - and _",
  },
  ttl_ms = { type = "integer", min = 1000, max = 3600000, default = 5000 },
  grace_ms = { type = "integer", min = 0, max = 86400000, default = 15000 },
  secret = {
    type = "any", check = secret.is_list,
    allowed = 'a text that is not empty, znl.secret("env:NAME"), or a list of these',
  },
  label = { type = "string", min = 1, max = 253 },
}

--- Reads the option `cluster`. Raises, at `level`, for what is wrong with it.
---@param given table
---@param what string
---@param level integer
---@return znl.RegistryClusterOptions
function M.read(given, what, level)
  local config = options.read(M.SPEC, given, what .. ": cluster", level + 1)
  local ok, texts = pcall(secret.texts, config.secret)
  if not ok then error(("%s: cluster: %s"):format(what, (texts:gsub("^[^\n]-:%d+: ", ""))), level + 1) end
  config.secrets, config.secret = texts, nil
  return config
end

---@class znl.RegistryClusterParts
---@field config znl.RegistryClusterOptions  read
---@field open_bus fun(): table, boolean  a znl.nats, and whether it is to be closed at the end
---@field owner any  for tasks
---@field log znl.Logger
---@field directory userdata
---@field topics znl.TopicStore
---@field registrations znl.Registrations
---@field limits {registrations: integer, topics: integer, payload_bytes: integer, topic_bytes: integer}
---@field label fun(): string
---@field tell fun(event: string, ...)  to listeners of the registry
---@field now? fun(): number  tests pass a fake, and `schedule`
---@field schedule? fun(fn: function)  runs it soon

---@class znl.RegistryCluster
---@field id string
---@field replica znl.Replica
---@field rows znl.ReplicaRows
---@field values znl.ReplicaValues
local Cluster = {}
Cluster.__index = Cluster

--- What a registry is called where nobody gave it a name.
---@param port integer
---@return string
function M.label(port) return address.key(uv.os_gethostname() or "?", port) end

local function warn_bad(self, reason)
  local now_ms = sched.now_ms()
  if now_ms < (self.quiet_ms or 0) then return end
  self.quiet_ms = now_ms + QUIET_MS
  self.log.warn("a message of the cluster is not taken", { reason = reason })
end

local EVENTS = {}

function EVENTS.up(self, peer)
  self.log.info("registry is there", { registry = peer.address, id = peer.id })
  self.parts.tell("registry_up", peer.id, peer.address)
end

function EVENTS.gone(self, peer, reason)
  self.log.warn("registry is gone, what it held stays for a while", {
    registry = peer.address, id = peer.id, reason = reason, grace_ms = self.config.grace_ms,
  })
  self.parts.tell("registry_down", peer.id, peer.address, reason)
end

function EVENTS.forgotten(self, peer, count)
  if count > 0 then
    self.log.info("not back since their registry is gone, forgotten", { registry = peer.address, addresses = count })
  end
end

function EVENTS.bad(self, reason) warn_bad(self, reason) end

--- Makes the parts of one life; nothing is sent before `start`.
---@param parts znl.RegistryClusterParts
---@return znl.RegistryCluster
function M.new(parts)
  local config, limits, now = parts.config, parts.limits, parts.now or sched.now_ms
  local self = setmetatable({
    parts = parts, config = config, log = parts.log, id = replica_wire.new_origin(), stamp = 0,
    now = now, subject = config.subject_prefix .. "." .. config.name .. ".",
  }, Cluster)
  parts.schedule = parts.schedule or function(fn)
    local run = task.background(parts.owner, function()
      sched.sleep(0)
      fn()
    end)
    if not run then fn() end
  end
  local function take_stamp()
    self.stamp = math.min(STAMP_MAX, math.max(self.stamp + 1, sched.unix_ms()))
    return self.stamp
  end
  self.take_stamp = take_stamp
  self.own = replica_log.new(GONE_MAX)
  self.values = replica_values.new {
    id = self.id, log = self.own, topics = parts.topics, signature = json_signature, null = json.null,
    max_topics = limits.topics, max_payload_bytes = limits.payload_bytes, take_stamp = take_stamp,
  }
  self.rows = replica_rows.new {
    id = self.id, log = self.own, directory = parts.directory, topics = parts.topics,
    registrations = parts.registrations, values = self.values,
    max_rows = limits.registrations + limits.topics, max_bytes = limits.topic_bytes + 512 * limits.registrations,
    now = function() return now(), sched.unix_ms() end,
    on_stamp = function(stamp) self.stamp = math.max(self.stamp, stamp) end,
  }
  self.wire = replica_wire.new {
    name = config.name, origin = self.id, secrets = config.secrets, max_bytes = 2 * limits.payload_bytes + MIB,
  }
  self.replica = replica.new {
    id = self.id, address = parts.label, log = self.own, rows = self.rows,
    ttl_ms = config.ttl_ms, grace_ms = config.grace_ms, now = now, draw = balance.draw,
    wire = self.wire,
    publish = function(to, packet) return self.bus:publish(self.subject .. to, packet) end,
    max_payload = function() return self.bus:max_payload() or MIB end,
    is_online = function() return self.is_on == true and self.bus:is_connected() end,
    schedule = function() parts.schedule(function() self.replica:flush() end) end,
    on_value = function(topic, payload) self:hear_value(topic, payload) end,
    on_event = function(name, ...) EVENTS[name](self, ...) end,
  }
  return self
end

-- --- what happens here ---------------------------------------------------------------------------

local function changed(self)
  if self.is_on then self.replica:touch() end
end

--- Who a client is to the others: an observer's name is known here alone.
local function key_of(self, client)
  return client.is_observer and ("%s@%s"):format(client.key, self.id) or client.key
end

--- A client has been listed.
---@param client znl.Client
function Cluster:listed(client)
  client.stamp = self.take_stamp()
  self.own:put("r\n" .. client.key, {
    "r", client.key, client.namespace, client.host, client.port, client.stamp, sched.unix_ms(),
  })
  self.rows:settle(client.key)
  changed(self)
end

--- A client is not listed any more, and publishes nothing.
---@param client znl.Client
function Cluster:unlisted(client)
  if self.has_left then return end -- it stays listed with the others
  for topic in pairs(client.published or {}) do self.own:remove("p\n" .. key_of(self, client) .. "\n" .. topic) end
  client.published = nil
  if not client.is_observer then
    self.own:remove("r\n" .. client.key, client.stamp)
    self.rows:settle(client.key)
  end
  changed(self)
end

--- A client publishes.
---@param client znl.Client
---@param topic string
---@param payload string|nil
---@param revision number
function Cluster:declared(client, topic, payload, revision)
  local key = key_of(self, client)
  client.published = client.published or {}
  client.published[topic] = true
  self.own:put("p\n" .. key .. "\n" .. topic, { "p", key, topic, revision, payload or json.null })
  self.rows:supersede(key, topic)
  changed(self)
end

--- A client publishes no more.
---@param client znl.Client
---@param topic string
function Cluster:undeclared(client, topic)
  local key = key_of(self, client)
  if client.published then client.published[topic] = nil end
  self.own:remove("p\n" .. key .. "\n" .. topic)
  self.rows:supersede(key, topic)
  changed(self)
end

--- A configuration file says so.
---@param topic string
---@param payload string
function Cluster:configured(topic, payload)
  self.values:from_file(topic, payload)
  changed(self)
end

--- Somebody who does not publish a topic has given it a value, or tried to: it may be known elsewhere alone.
---@param topic string
---@param payload string|nil
function Cluster:updated(topic, payload)
  local found = self.parts.topics:get(topic)
  if found and found.retained then
    self.values:changed(topic, payload)
    return changed(self)
  end
  if #topic > 1024 or payload and #payload > self.parts.limits.payload_bytes then return end
  if self.is_on then self.replica:tell(topic, payload) end
end

--- The same elsewhere.
---@private
function Cluster:hear_value(topic, payload)
  local topics = self.parts.topics
  local found = topics:get(topic)
  if not found or found.retained then return end
  local _, message, code = topics:update(self, topic, payload)
  if code then warn_bad(self, message) end
end

-- --- life ----------------------------------------------------------------------------------------

local function wait_until(condition, timeout_ms)
  local ends = sched.now_ms() + timeout_ms
  while not condition() do
    if sched.now_ms() >= ends or not sched.sleep(LOOK_MS) then return false end
  end
  return true
end

local function keep_ticking(self)
  local step_ms = math.min(TICK_MAX_MS, self.config.ttl_ms / 20)
  while self.is_on and sched.sleep(step_ms) do
    if self.is_on then self.replica:tick() end
  end
end

--- Opens the bus, and listens to it. Yields when opening the bus does.
---@return true|nil ok
---@return string? message  of options of the bus that cannot be used
---@return string? code
function Cluster:open()
  local bus, is_own, code = self.parts.open_bus()
  if not bus then return nil, is_own, code end
  self.bus, self.is_own_bus, self.is_on = bus, is_own, true
  self.values:loaded()
  self.subscriptions = {}
  for _, to in ipairs { "all", "to." .. self.id } do
    local subscription, message
    subscription, message, code = bus:subscribe(self.subject .. to, function(packet)
      self.replica:receive(packet.data, to)
    end)
    if not subscription then
      self:leave()
      return nil, message, code
    end
    table.insert(self.subscriptions, subscription)
  end
  self.off_connected = bus:on("connected", function()
    if self.is_on then self.replica:connected() end
  end)
  self.off_disconnected = bus:on("disconnected", function()
    if self.is_on then self.log.warn("the bus is away, going on alone", { name = self.config.name }) end
  end)
  return true
end

--- Joins the others, and lists what they hold. Without a bus it goes on alone. Yields.
---@return true|nil ok
---@return string? message
---@return string? code
function Cluster:start()
  local ok, message, code = self:open()
  if not ok then return nil, message, code end
  local bus = self.bus
  task.background(self.parts.owner, keep_ticking, self)
  if not wait_until(function() return bus:is_connected() or not self.is_on end, CONNECT_MS) then
    self.log.warn("the bus cannot be reached, starting alone", { name = self.config.name })
    return true
  end
  self.replica:connected()
  if self.is_on then sched.sleep(HEAR_MS) end
  if not wait_until(function() return self.replica:is_settled() or not self.is_on end, JOIN_MS) then
    self.log.warn("some registries have not told what they hold yet", { name = self.config.name })
  end
  return true
end

--- Leaves: what is held here stays listed at the others for their `grace_ms`. Harmless when it is off.
function Cluster:leave()
  if not self.is_on then return end
  self.replica:leave()
  self.is_on, self.has_left = false, true
  for _, subscription in ipairs(self.subscriptions) do subscription:unsubscribe() end
  if self.off_connected then self.off_connected() end
  if self.off_disconnected then self.off_disconnected() end
end

--- Leaves, and waits until the others can know. Yields.
function Cluster:part()
  self:leave()
  if self.bus and self.bus:is_connected() then self.bus:flush(FLUSH_MS) end
end

--- Leaves, and lets go of the bus.
function Cluster:close()
  self:leave()
  local bus = self.bus
  if not bus or not self.is_own_bus then return end
  self.bus, self.is_own_bus = nil, false
  local function finish()
    if bus:is_connected() then bus:flush(FLUSH_MS) end
    bus:close()
  end
  if not task.background(self.parts.owner, finish) then bus:close() end
end

-- --- looking -------------------------------------------------------------------------------------

--- The registries of the cluster, this one first, then by label.
---@return {id: string, label: string, state: "self"|"up"|"gone", registrations: integer, silent_ms: number}[]
function Cluster:registries()
  local list, now_ms = {}, self.now()
  for id, peer in pairs(self.replica.peers) do
    local owner = self.rows.owners[id]
    list[#list + 1] = {
      id = id, label = peer.address, state = peer.gone_ms and "gone" or "up",
      registrations = owner and owner.registrations or 0, silent_ms = math.max(0, now_ms - peer.seen_ms),
    }
  end
  table.sort(list, function(a, b) return a.label < b.label or a.label == b.label and a.id < b.id end)
  local own = 0
  for _ in pairs(self.parts.registrations.clients) do own = own + 1 end
  table.insert(list, 1, {
    id = self.id, label = self.parts.label(), state = "self", registrations = own, silent_ms = 0,
  })
  return list
end

--- Which registry holds an address: its label, and how old the registration is, when it is not this one.
---@param key string
---@return string label
---@return number? age_ms
function Cluster:holder(key)
  local owner, age_ms = self.rows:holder(key)
  if not owner then return self.parts.label() end
  local peer = self.replica.peers[owner.id]
  return peer and peer.address or owner.id, age_ms
end

--- @return boolean
function Cluster:is_connected() return self.is_on == true and self.bus:is_connected() end

---@return table<string, number>
function Cluster:counters()
  local counters = { refused_rows = self.rows.refused, displaced = self.rows.displaced, torn = self.wire.torn }
  for name, value in pairs(self.replica.counters) do counters[name] = value end
  return counters
end

return M
