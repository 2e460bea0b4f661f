--- A registry in a few lines, for tests of applications: it keeps who is connected by their path, answers
--- `/-/find` with the first that is not excluded, and keeps one value for each topic.
--- SPDX-License-Identifier: MIT

local eventually = require("tests.lua.support.eventually")
local address = require("znl.micro.address")
local core = require("znl.core.micro")
local uv = require("luv")

local M = {}

---@class SmallRegistry
local Registry = {}
Registry.__index = Registry

---@param opts? {port?: integer, knows_topics?: boolean}
---@return SmallRegistry
function M.new(opts)
  opts = opts or {}
  local self = setmetatable({
    peers = {}, finds = {}, asked = {}, topics = {}, knows_topics = opts.knows_topics ~= false, count = 0,
  }, Registry)
  self.port = opts.port
  return self
end

--- Below the ports that the system gives to connections: it is still free when a registry comes back.
local function some_port() return 12000 + uv.hrtime() % 8000 end

local function make(self)
  return assert(core.new {
    listen_host = "127.0.0.1", listen_port = self.port or some_port(),
    on_event = function(kind, conn, path)
      if kind == "connection" then
        local host, port, namespace = address.from_path(path)
        local key = address.key(host, port)
        conn:set_peer(key, { conn = conn })
        self.count = self.count + 1
        table.insert(self.peers, { conn = conn, key = key, namespace = namespace, host = host, port = port })
      elseif kind == "closed" then
        for index = #self.peers, 1, -1 do
          if self.peers[index].conn == conn then table.remove(self.peers, index) end
        end
      end
    end,
  })
end

local ROUTES = {}

ROUTES["/-/find"] = function(self, req)
  local out = {}
  for _, key in ipairs(req.data.exclude or {}) do out[key] = true end
  table.insert(self.finds, req.data)
  for _, peer in ipairs(self.peers) do
    if peer.namespace == req.data.namespace and not out[peer.key] then
      return { host = peer.host, port = peer.port }
    end
  end
end

ROUTES["/-/declare"] = function(self, req)
  local topic = self.topics[req.data.topic] or { revision = 0, subscribers = {} }
  self.topics[req.data.topic] = topic
  topic.revision, topic.payload, topic.has_data = topic.revision + 1, req.data.payload, true
  for _, conn in ipairs(topic.subscribers) do
    if conn:is_open() then conn:push("/-/topic/update", { topic = req.data.topic, payload = topic.payload }) end
  end
  return topic.revision
end

ROUTES["/-/undeclare"] = function(self, req)
  local topic = self.topics[req.data.topic]
  if not topic then return 0 end
  topic.has_data, topic.payload = false, nil
  return 1
end

ROUTES["/-/subscribe"] = function(self, req)
  local topic = self.topics[req.data.topic] or { revision = 0, subscribers = {} }
  self.topics[req.data.topic] = topic
  table.insert(topic.subscribers, req.client.conn)
  if not topic.has_data then return { hasData = false } end
  return { hasData = true, payload = topic.payload }
end

ROUTES["/-/unsubscribe"] = function(self, req)
  local topic = self.topics[req.data.topic]
  if topic then topic.subscribers = {} end
  return 1
end

--- Takes its port, or finds one.
function Registry:start()
  local function handle(req)
    table.insert(self.asked, { url = req.route, data = req.data, from = req.from })
    local route = ROUTES[req.route]
    if not route or (not self.knows_topics and req.route ~= "/-/find") then return nil, req.route, 500 end
    if self.refuses and self.refuses[req.route] then return nil, "refused by the test", 503 end
    return route(self, req)
  end
  eventually(function()
    self.core = make(self)
    self.core:set_handler(handle)
    return self.core:start()
  end, "a port for a registry")
  self.port = self.core:port()
  return self
end

function Registry:stop()
  self.core:stop()
  self.peers = {}
end

--- The address for the option `registry`.
function Registry:address() return { host = "127.0.0.1", port = self.port } end

return M
