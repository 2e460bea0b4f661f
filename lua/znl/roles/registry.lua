--- znl.roles.registry: knows which addresses serve which namespace, and keeps topics and configuration (spec,
--- sections 8 to 11).
---
---   stopped --start--> running --stop--> stopped
---
--- Registering is connecting: the path of a connection says who it is. It is unlisted before its connection
--- is closed, whatever the reason. `/-/find` is answered by the core, everything else by
--- znl.micro.registry_routes. Topics and registrations end with a stop, unless `persist` keeps them, or other
--- registries of its `cluster` do.
--- SPDX-License-Identifier: MIT

local config_folder = require("znl.micro.config_folder")
local address = require("znl.micro.address")
local core_registry = require("znl.core.registry")
local json_signature = require("znl.core.json").signature
local json = require("znl.json")
local network = require("znl.security.network")
local options = require("znl.options")
local proof = require("znl.micro.proof")
local registrations = require("znl.micro.registrations")
local registry_cluster = require("znl.micro.registry_cluster")
local registry_file = require("znl.micro.registry_file")
local registry_routes = require("znl.micro.registry_routes")
local role = require("znl.roles.role")
local secret = require("znl.secret")
local sched = require("znl.core.sched")
local server = require("znl.roles.server")
local task = require("znl.tasks.task")
local topic_store = require("znl.micro.topic_store")
local uv = require("luv")

local M = {}

local MIB = 1024 * 1024
--- How long what was restored waits for its address to come back: applications try again every 3 s.
local RESTORED_MS = 10000
--- A reason to refuse is logged that often.
local QUIET_MS = 10000
local CONFIG_FOLDER = "~/.registry/configs"

--- Where registrations may come from: networks, or a function that decides.
local function is_allow(value)
  if type(value) == "function" then return true end
  return type(value) == "table" and #value > 0
end

local function is_names(value)
  if type(value) ~= "table" then return false end
  for _, name in ipairs(value) do
    if type(name) ~= "string" or not name:find("^[%w_]+$") then return false end
  end
  return true
end

---@class znl.RegistryOptions : znl.ServerOptions
---@field config_dir? string|false  folder of {namespace}.config.yaml; nil: ~/.registry/configs, when it is there
---@field env? string[]  variables of the environment that anybody may read
---@field allow? string[]|fun(host: string, port: integer, namespace: string, remote: string): boolean
---@field secret? string|znl.Secret|(string|znl.Secret)[]  connections must prove that they have it, or one of them
---@field persist? string  a file that keeps what is known over a new start
---@field cluster? znl.RegistryClusterOptions  other registries answer for the same fleet
---@field max_registrations? integer
---@field max_topics? integer  without those of the configuration
---@field max_payload_bytes? integer  of one topic
---@field max_topic_bytes? integer  of all topics together
---@field max_connection_topics? integer  that one connection publishes or subscribes to
M.SPEC = options.extend(server.SPEC, {
  namespace = { type = "string", default = "registry", allowed = '"registry"', check = function(name)
    return name == "registry"
  end },
  port = { type = "integer", min = 0, max = 65535 },
  advertise_host = { type = "string", max = 253, default = "127.0.0.1" },
  config_dir = {
    type = "any", allowed = "a path, or false", check = function(value)
      return value == false or type(value) == "string" and value ~= ""
    end,
  },
  env = { type = "any", allowed = "a list of names", check = is_names, default = { "REGISTRY_PORT" } },
  allow = { type = "any", allowed = 'a list of networks such as "10.0.0.0/8", or a function', check = is_allow },
  secret = {
    type = "any", check = secret.is_list,
    allowed = 'a text that is not empty, znl.secret("env:NAME"), or a list of these',
  },
  persist = { type = "string", min = 1, max = 4096 },
  cluster = { type = "table" },
  max_registrations = { type = "integer", min = 1, max = 1000000, default = 100000 },
  max_topics = { type = "integer", min = 1, max = 1000000, default = 10000 },
  max_payload_bytes = { type = "integer", min = 1, max = 64 * MIB, default = MIB },
  max_topic_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  max_connection_topics = { type = "integer", min = 1, max = 1000000, default = 1000 },
})

local TOPIC_NAME_BYTES_MAX = 1024

---@class znl.Registry : znl.Server
local Registry = setmetatable({}, { __index = server.Server })
Registry.__index = Registry
M.Registry = Registry

-- --- who may connect -----------------------------------------------------------------------------

--- Says why, not too often.
local function refuse(self, reason, remote)
  self.refused = self.refused + 1
  local now_ms, entry = sched.now_ms(), self.refusals[reason]
  if not entry then
    entry = { until_ms = -math.huge, held = 0 }
    self.refusals[reason] = entry
  end
  if now_ms < entry.until_ms then
    entry.held = entry.held + 1
    return
  end
  local held = entry.held
  entry.until_ms, entry.held = now_ms + QUIET_MS, 0
  self.log.warn("connection refused", { from = remote, reason = reason, more = held > 0 and held or nil })
end

local function is_allowed(self, host, port, namespace, remote)
  local allow = self.allow
  if type(allow) == "function" then return allow(host, port, namespace, remote) == true end
  local bytes = network.address(network.host_of(remote))
  if not bytes then return false end
  for _, one in ipairs(allow) do
    if network.contains(one, bytes) then return true end
  end
  return false
end

local function comes_from(host, remote)
  local claimed, real = network.address(host), network.address(network.host_of(remote))
  return claimed ~= nil and real ~= nil and network.equal(claimed, real)
end

--- Nothing, or a status and a text.
local function check_upgrade(self, path, headers, remote)
  local host, port, namespace = address.from_path(path)
  if not host then return nil end -- closed after the upgrade, as everywhere
  if self.allow and not is_allowed(self, host, port, namespace, remote) then
    refuse(self, "it is not on the allow list", remote)
    return 403, "not allowed"
  end
  if self.config.check_host and not headers[registrations.OBSERVER_HEADER:lower()] and not comes_from(host, remote) then
    refuse(self, "the host in its path is not its address", remote)
    return 403, "the host in the path is not yours"
  end
  if self.proofs then
    local ok, reason = self.proofs:check(headers[proof.NAME:lower()], path)
    if not ok then
      refuse(self, reason, remote)
      return 401, reason
    end
  end
end

-- --- looking -------------------------------------------------------------------------------------

--- How many addresses serve each namespace.
---@return table<string, integer>
function Registry:namespaces() return self.directory:namespaces() end

--- The addresses that serve a namespace, by key.
---@param namespace string
---@return {key: string, host: string, port: integer, age_ms: number, registry: string|nil}[]
function Registry:peers(namespace)
  if type(namespace) ~= "string" then error("znl.registry:peers: the namespace must be a text", 2) end
  local list, now_ms = {}, sched.now_ms()
  for _, peer in ipairs(self.directory:peers(namespace)) do
    local one = { key = peer.key, host = peer.host, port = peer.port, age_ms = now_ms - peer.since_ms }
    if self.cluster then
      local age_ms
      one.registry, age_ms = self.cluster:holder(peer.key)
      one.age_ms = age_ms or one.age_ms
    end
    list[#list + 1] = one
  end
  table.sort(list, function(a, b) return a.key < b.key end)
  return list
end

--- One address that serves a namespace, by chance; nil when there is none.
---@param namespace string
---@param exclude? string[]  keys
---@return {host: string, port: integer}|nil
function Registry:find(namespace, exclude)
  if type(namespace) ~= "string" then error("znl.registry:find: the namespace must be a text", 2) end
  local host, port = self.directory:find(namespace, exclude)
  return host and { host = host, port = port } or nil
end

--- The topics there are, sorted by name; payloads as JSON text.
---@return znl.TopicView[]
function Registry:topics()
  local list = {}
  for _, name in ipairs(self.topic_store:names()) do list[#list + 1] = self.topic_store:get(name) end
  return list
end

--- The registries of its cluster, this one first; nothing without `cluster`.
---@return {id: string, label: string, state: "self"|"up"|"gone", registrations: integer, silent_ms: number}[]
function Registry:registries() return self.cluster and self.cluster:registries() or {} end

--- How much there is, and how often what happened.
---@return table<string, any>
function Registry:status()
  local count, namespaces = self.directory:count()
  local result = self.directory:counters()
  for name, value in pairs(self.topic_store:counts()) do result[name] = value end
  result.registrations, result.namespaces, result.connections = count, namespaces, self.links.count
  result.refused_connections = self.refused
  if self.cluster then
    for name, value in pairs(self.cluster:counters()) do result["cluster_" .. name] = value end
  end
  return result
end

-- --- life ----------------------------------------------------------------------------------------

--- The folder of the configuration; nil when there is none to read.
local function config_path(self)
  local given = self.config.config_dir
  if given == false then return nil end
  local path = given or CONFIG_FOLDER
  if path:sub(1, 2) == "~/" then
    local home = uv.os_homedir()
    if not home then return nil end
    path = home .. path:sub(2)
  end
  if given == nil and not uv.fs_stat(path) then return nil end
  return path
end

local function open_config(self)
  local path = config_path(self)
  if not path then return true end
  local folder = config_folder.new {
    path = path,
    on_value = function(namespace, key, text)
      local topic = ("registry:%s/%s"):format(namespace, key)
      if self.cluster then return self.cluster:configured(topic, text) end
      self.topic_store:retain(topic, text)
    end,
    on_problem = function(text, file)
      self.log.warn("a configuration file is not read", { file = file, reason = text })
    end,
  }
  local ok, message, code = folder:start()
  if not ok then return nil, "registry: " .. message, code end
  self.parts.config = folder
  return true
end

local function open_cluster(self)
  if not self.cluster then return true end
  local ok, message, code = self.cluster:start()
  if not ok then return nil, "registry: cluster: " .. message, code end
  return true
end

local function close_cluster(self)
  if self.cluster then self.cluster:close() end
end

local function close_config(self)
  if self.parts.config then self.parts.config:close() end
  self.parts.config = nil
end

local function open_file(self)
  if not self.config.persist then return true end
  local kept = registry_file.new {
    path = self.config.persist, directory = self.directory, topics = self.topic_store, registrations = self.links,
    owner = self.owner, log = self.log,
  }
  local taken, skipped, code = kept:load()
  if not taken then return nil, "registry: " .. skipped, code end
  if skipped > 0 then self.log.warn("lines of the kept state were skipped", { file = kept.path, lines = skipped }) end
  self.kept = kept
  if taken == 0 then return true end
  self.log.info("restored", { file = kept.path, entries = taken })
  local epoch = self.epoch
  task.background(self.owner, function()
    if sched.sleep(RESTORED_MS) and self.epoch == epoch then
      local count = self.links:forget_restored()
      if count > 0 then self.log.info("not back since the start, forgotten", { addresses = count }) end
    end
  end)
  return true
end

--- The part that speaks with other registries; nil when there are none.
local function new_cluster(self)
  local config = self.config
  if not config.cluster then return nil end
  return registry_cluster.new {
    config = config.cluster, owner = self.owner, log = self.log, directory = self.directory,
    topics = self.topic_store, registrations = self.links,
    -- Here: a registry that is alone needs no NATS.
    open_bus = function() return require("znl.bus").try(config.cluster.bus, "options") end,
    limits = {
      registrations = config.max_registrations, topics = config.max_topics,
      payload_bytes = config.max_payload_bytes, topic_bytes = config.max_topic_bytes,
    },
    label = function() return config.cluster.label or registry_cluster.label(self.core:port() or config.port) end,
    tell = function(event, ...) self.emitter:emit(event, ...) end,
  }
end

--- What a registry holds, empty. Made anew by each start: nothing of an earlier life is left.
local function renew(self)
  local config, directory = self.config, self.directory
  self.topic_store = topic_store.new {
    signature = json_signature,
    notify = function(client, topic, payload)
      local text = '{"topic":' .. json.encode(topic) .. (payload and ',"payload":' .. payload or "") .. "}"
      local ok, _, code = client.conn:push("/-/topic/update", json.raw(text))
      if not ok and code == "BUSY" then
        -- It would miss this one; when it connects again it gets the newest.
        refuse(self, "a subscriber does not read", client.key)
        client.conn:drop()
      end
    end,
    max_topics = config.max_topics, max_topic_bytes = TOPIC_NAME_BYTES_MAX,
    max_payload_bytes = config.max_payload_bytes, max_bytes = config.max_topic_bytes,
    max_member_topics = config.max_connection_topics, by_key = config.cluster ~= nil,
  }
  local function changed()
    if self.kept then self.kept:touch() end
  end
  self.links = registrations.new {
    directory = directory, topics = self.topic_store, on_changed = changed,
    on_connected = function(client)
      self.log.debug("registered", { peer = client.key, namespace = client.namespace })
      if self.cluster then self.cluster:listed(client) end
      self.emitter:emit("connection", client)
    end,
    on_disconnected = function(client, reason)
      self.log.debug("unlisted", { peer = client.key, namespace = client.namespace, reason = reason })
      self.emitter:emit("disconnect", client, reason)
    end,
    on_unlisted = function(client)
      if self.cluster then self.cluster:unlisted(client) end
    end,
    on_refused = function(reason, key) refuse(self, reason, key) end,
  }
  self.cluster = new_cluster(self)
  local parts = self.parts
  parts.topics, parts.registrations, parts.on_changed = self.topic_store, self.links, changed
  parts.cluster = self.cluster
end

--- Starts: reads what is kept and the configuration, then listens. Harmless when it runs. Yields.
---@return true|nil ok
---@return string? message
---@return string? code  "ADDRESS_IN_USE", "ADDRESS", "NOT_FOUND" (of config_dir), …
function Registry:start()
  if self:running() then return true end
  local epoch = self.epoch + 1
  self.epoch = epoch
  renew(self)
  local ok, message, code = open_file(self)
  if ok then ok, message, code = open_config(self) end
  if ok then ok, message, code = open_cluster(self) end
  if ok and self.epoch ~= epoch then ok, message, code = nil, "registry: stopped while it started", "STOPPED" end
  if ok then ok, message, code = role.Role.start(self) end
  if not ok then
    close_cluster(self)
    close_config(self)
    self.kept = nil
    self.links:close()
    return nil, message, code
  end
  return true
end

--- Leaves its cluster, then as every server: refuses new requests until the next `start`, and waits until those
--- that came before have their answers. Yields.
---@param timeout_ms? integer  0..86400000, default 5000
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"? code  some are still at work
function Registry:drain(timeout_ms)
  if self.cluster then self.cluster:part() end
  return role.Role.drain(self, timeout_ms)
end

--- Stops: everybody is unlisted, then all connections are closed. Harmless when it is stopped.
function Registry:stop()
  self.epoch = self.epoch + 1
  close_cluster(self) -- first: the others are to keep what is listed here
  close_config(self)
  if self.kept then self.kept:close() end
  self.kept = nil
  server.Server.stop(self)
end

-- --- making one ----------------------------------------------------------------------------------

local REACTIONS = setmetatable({}, { __index = server.REACTIONS })

function REACTIONS.upgrade(self, path, headers, remote) return check_upgrade(self, path, headers, remote) end

function REACTIONS.connection(self, conn, path, headers) self.links:accept(conn, path, headers) end

local function port_of_environment(what, level)
  local text = os.getenv("REGISTRY_PORT")
  if not text then error(what .. ": option port is missing, and so is REGISTRY_PORT in the environment", level + 1) end
  local port = address.port(text)
  if port then return port end
  error(("%s: REGISTRY_PORT in the environment is %q; it must be a whole number in 1..65535"):format(what, text),
    level + 1)
end

local function networks_of(allow)
  if type(allow) ~= "table" then return allow end
  local list = {}
  for index, text in ipairs(allow) do
    local problem = "it is no text"
    if type(text) == "string" then list[index], problem = network.parse(text) end
    if not list[index] then error(("option allow has %q: %s"):format(tostring(text), problem), 0) end
  end
  return list
end

local function prepare(config, what, level)
  if config.port == nil then config.port = port_of_environment(what, level + 1) end
  local ok, problem = pcall(function()
    config.networks, config.secrets = networks_of(config.allow), secret.texts(config.secret)
  end)
  if not ok then error(("%s: %s"):format(what, (problem:gsub("^[^\n:]-:%d+: ", ""))), level + 1) end
  if config.cluster then config.cluster = registry_cluster.read(config.cluster, what, level + 1) end
end

local function complete(self, config)
  self.directory = core_registry.new { max = config.max_registrations }
  self.refusals, self.refused, self.epoch = {}, 0, 0
  self.allow = config.networks
  self.proofs = config.secrets and proof.checker(config.secrets)
  config.secrets = nil
  local env = {}
  for _, name in ipairs(config.env) do env[name] = true end
  self.parts = { directory = self.directory, env = env }
  renew(self)
  for url, run in pairs(registry_routes.new(self.parts)) do self.router:route(url, run) end
  self.core:answer_find(self.directory)
  if self.allow or self.proofs or config.check_host then self.core:check_upgrades(true) end
end

local EVENTS = { "registry_up", "registry_down", unpack(server.EVENTS) }

local DESCRIPTION = {
  name = "registry", spec = M.SPEC, events = EVENTS, reactions = REACTIONS,
  connected = "connection", disconnected = "disconnect", prepare = prepare, complete = complete,
}

--- Makes a registry. It does not listen before `start`. Events, and what a listener gets:
---   connection(client)          a node has registered: client.key, client.namespace
---   disconnect(client, reason)  it is not listed any more
---   registry_up(id, label)      another registry of the cluster is heard
---   registry_down(id, label, reason)  it is not any more: "silent" or "stopped"
---   error(message, where, from)
---@param opts znl.RegistryOptions
---@return znl.Registry
function M.new(opts)
  local self = server.open(Registry, DESCRIPTION, opts)
  return self
end

return M
