--- Registries of one cluster for tests: their replication on a bus of this process that loses, delays and cuts off
--- what the test says, with a clock that the test moves. What they list and publish is what real ones do.
--- SPDX-License-Identifier: MIT

local core_registry = require("znl.core.registry")
local json_signature = require("znl.core.json").signature
local log = require("znl.log")
local registrations = require("znl.micro.registrations")
local registry_cluster = require("znl.micro.registry_cluster")
local sched = require("znl.core.sched")
local topic_store = require("znl.micro.topic_store")

local M = {}

local Net = {}
Net.__index = Net

---@param opts? {loses: (fun(): boolean), max_payload: integer}
function M.new(opts)
  opts = opts or {}
  return setmetatable({
    nodes = {}, subscriptions = {}, queue = {}, due = {}, now_ms = 1000000, packets = 0, lost = 0,
    loses = opts.loses or function() return false end, max_payload = opts.max_payload or 1024 * 1024,
  }, Net)
end

local Bus = {}
Bus.__index = Bus

function Bus:publish(subject, packet)
  local net = self.net
  if not self.is_up then return nil, "nats: not connected", "OFFLINE" end
  if net.is_busy then return nil, "nats: too much waits", "BUSY" end
  assert(#packet <= net.max_payload, "a packet is larger than the bus takes")
  table.insert(net.queue, { from = self, subject = subject, packet = packet })
  return true
end

function Bus:subscribe(subject, fn)
  local subscription = { bus = self, subject = subject, fn = fn }
  table.insert(self.net.subscriptions, subscription)
  function subscription.unsubscribe() subscription.fn = nil end
  return subscription
end

function Bus:is_connected() return self.is_up end
function Bus:max_payload() return self.net.max_payload end
function Bus.flush() return true end
function Bus:close() self.is_closed = true end
function Bus:on(event, fn)
  self.listeners[event] = fn
  return function() self.listeners[event] = nil end
end

local Node = {}
Node.__index = Node

--- A registry. It joins with `join`.
function Net:node(more)
  more = more or {}
  local node = setmetatable({ net = self, told = {}, events = {}, closed = {} }, Node)
  node.bus = setmetatable({ net = self, is_up = true, listeners = {} }, Bus)
  node.directory = core_registry.new { max = more.max_registrations or 100000 }
  node.topics = topic_store.new {
    signature = json_signature, by_key = true,
    notify = function(client, topic, payload)
      table.insert(node.told, ("%s %s=%s"):format(client.key, topic, tostring(payload)))
    end,
    max_topics = more.max_topics or 10000, max_topic_bytes = 1024, max_payload_bytes = 1024 * 1024,
    max_bytes = 64 * 1024 * 1024, max_member_topics = 100000,
  }
  local function nothing() end
  node.links = registrations.new {
    directory = node.directory, topics = node.topics, on_changed = nothing, on_refused = nothing,
    on_connected = function(client) node.cluster:listed(client) end, on_disconnected = nothing,
    on_unlisted = function(client) node.cluster:unlisted(client) end,
  }
  local config = { subject_prefix = "r", name = "n", ttl_ms = 3000, grace_ms = 9000 }
  for name, value in pairs(more.config or {}) do config[name] = value end
  node.cluster = registry_cluster.new {
    config = config, open_bus = function() return node.bus, false end, owner = sched.owner(),
    log = log.new("test"), directory = node.directory, topics = node.topics, registrations = node.links,
    limits = {
      registrations = more.max_registrations or 100000, topics = more.max_topics or 10000,
      payload_bytes = 1024 * 1024, topic_bytes = 64 * 1024 * 1024,
    },
    label = function() return more.label or "node" end,
    tell = function(...) table.insert(node.events, table.concat({ ... }, " ")) end,
    now = function() return self.now_ms end,
    schedule = function(fn) table.insert(self.due, { node = node, fn = fn }) end,
  }
  table.insert(self.nodes, node)
  return node
end

--- Delivers all that is on its way, in order, and what follows from it.
function Net:settle()
  for _ = 1, 100000 do
    local due = table.remove(self.due, 1)
    if due then
      if not due.node.is_dead then due.fn() end
    else
      local one = table.remove(self.queue, 1)
      if not one then return end
      self.packets = self.packets + 1
      for _, to in ipairs(self.subscriptions) do
        if to.fn and to.subject == one.subject and to.bus ~= one.from and to.bus.is_up and not to.bus.is_cut then
          if self.loses(one) then self.lost = self.lost + 1 else to.fn { data = one.packet } end
        end
      end
    end
  end
  error("the registries do not come to rest")
end

--- Lets time pass, in steps of 100 ms.
function Net:pass(ms)
  for _ = 1, math.ceil(ms / 100) do
    self.now_ms = self.now_ms + 100
    for _, node in ipairs(self.nodes) do
      if node.cluster.is_on and not node.is_dead and not node.is_stalled then node.cluster.replica:tick() end
    end
    self:settle()
  end
end

function Node:join()
  assert(self.cluster:open())
  if self.bus.is_up then self.cluster.replica:connected() end
  self.net:settle()
  self.net:pass(200)
  return self
end

--- The process is gone, without a word.
function Node:die()
  self.is_dead, self.bus.is_up = true, false
end

function Node:offline() self.bus.is_up = false end

function Node:online()
  self.bus.is_up = true
  self.cluster.replica:connected()
  self.net:settle()
end

--- An application connects: "ns" at 10.0.0.1:port.
function Node:connect(namespace, port)
  local conn = { open = true }
  function conn.is_inbound() return true end
  function conn.set_peer() end
  function conn.is_open() return conn.open end
  function conn.close()
    conn.open = false
    table.insert(self.closed, port)
    self.links:closed(conn, "closed")
  end
  return self.links:accept(conn, ("/10.0.0.1/%d/%s"):format(port, namespace))
end

function Node.disconnect(_, client) client.conn.close() end

--- A client publishes, as the route of a registry has it.
function Node:declare(client, topic, payload, revision)
  local given = assert(self.topics:declare(client, topic, payload, revision))
  self.links:supersede(client, topic)
  self.cluster:declared(client, topic, payload, given)
  return given
end

function Node:undeclare(client, topic)
  self.topics:undeclare(client, topic)
  self.cluster:undeclared(client, topic)
end

--- What is listed, as "ns key" in order.
function Node:listed()
  local list = {}
  for namespace in pairs(self.directory:namespaces()) do
    for _, key in ipairs(self.directory:keys(namespace)) do list[#list + 1] = namespace .. " " .. key end
  end
  table.sort(list)
  return list
end

--- The value of a topic; nil without.
function Node:value(topic)
  local found = self.topics:get(topic)
  return found and found.has_data and found.payload or nil
end

--- All topics with their values, as text.
function Node:values()
  local list = {}
  for _, name in ipairs(self.topics:names()) do
    local found = self.topics:get(name)
    if found.has_data then list[#list + 1] = ("%s=%s"):format(name, tostring(found.payload)) end
  end
  return list
end

return M
