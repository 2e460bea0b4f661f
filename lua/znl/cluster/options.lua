--- znl.cluster.options: what a cluster client can be told, and what the environment says.
--- SPDX-License-Identifier: MIT

local network = require("znl.security.network")
local options = require("znl.options")
local secret = require("znl.secret")
local values = require("znl.cluster.values")

local M = {}

local MIB = 1024 * 1024
local LOOPBACK = assert(network.parse("127.0.0.0/8"))
local LOOPBACK_6 = assert(network.parse("::1"))

---@class znl.ClusterClientOptions
---@field name string  of the channel: the same in all processes
---@field client? table|fun(): table|nil, string?, string?  the real client, or what makes it where it leads; may yield
---@field methods? table  which of its methods others may call, and what they are; nil: all functions of the object
---@field host? string
---@field port? integer  nil: NODE_CLUSTER_CLIENT_PORT, or 7777
---@field path? string  a unix socket, in place of host and port
---@field mode? integer  of that file
---@field tls? table  certificate, key, …: it leads with TLS
---@field connect_tls? table  authorities, …: it follows with TLS
---@field secret? string|znl.Secret|(string|znl.Secret)[]  all must have it; required where the host is not loopback
---@field leader? boolean  true: it must lead; false: it never does; nil: it elects
---@field response_timeout_ms? integer  of calls, of the registration, of acknowledgements
---@field heartbeat_ms? integer
---@field check_heartbeat? boolean  a leader closes connections that are silent for three intervals
---@field max_wait_ms? integer  how long `start` waits, and how often a missing leader is reported
---@field connect_timeout_ms? integer  nil: NODE_CLUSTER_CLIENT_CONNECT_TIMEOUT, or 10 s
---@field broadcast? boolean  false: each value goes to one subscriber by chance
---@field subscribe_timeout_ms? integer  without a value by then there is an "error" event
---@field single? boolean  no network: all of this process share the client; nil: NODE_CLUSTER_CLIENT_SINGLE_MODE
---@field transcode? "default"|"json"|znl.ClusterTranscode
---@field format_key? fun(reg: any): string  what a subscription is known by
---@field publication_key? fun(reg: any): string  what a publication is known by
---@field any_method? boolean  methods that are not declared may be called at a leader elsewhere
---@field max_publications? integer  remembered
---@field max_waiting_values? integer  for one listener that is busy
---@field max_connections? integer  of the port
---@field register_ms? integer  how long a connection may take to name its channel
---@field max_message_bytes? integer
---@field max_queue_bytes? integer  written and not taken, of one connection
---@field max_slow_bytes? integer  the same, before a follower gets only the newest value of each key
---@field max_pending? integer  calls that wait for an answer
---@field max_keys? integer  of the channel
---@field max_member_keys? integer  of one follower
---@field max_values_bytes? integer  remembered by a leader
---@field max_depth? integer  of values
---@field max_concurrency? integer  methods at work for followers
---@field max_queue? integer  calls that wait for one of them to end
---@field max_queue_job_bytes? integer
---@field handler_timeout_ms? integer
M.SPEC = {
  name = { type = "string", required = true, min = 1, max = 256 },
  client = {
    type = "any", allowed = "a table or a function that makes it",
    check = function(value) return type(value) == "table" or type(value) == "function" end,
  },
  methods = { type = "table" },
  host = { type = "string", min = 1, max = 253, default = "127.0.0.1" },
  port = { type = "integer", min = 1, max = 65535 },
  path = { type = "string", min = 1, max = 107, pattern = "^[^%z]+$" },
  mode = { type = "integer", min = 0, max = 511 },
  tls = { type = "table" },
  connect_tls = { type = "table" },
  secret = {
    type = "any", check = secret.is_list,
    allowed = 'a text that is not empty, znl.secret("env:NAME"), or a list of these',
  },
  leader = { type = "boolean" },
  response_timeout_ms = { type = "integer", min = 1, max = 86400000, default = 3000 },
  heartbeat_ms = { type = "integer", min = 0, max = 3600000, default = 20000 },
  check_heartbeat = { type = "boolean", default = true },
  max_wait_ms = { type = "integer", min = 1, max = 86400000, default = 30000 },
  connect_timeout_ms = { type = "integer", min = 1, max = 600000 },
  broadcast = { type = "boolean", default = true },
  subscribe_timeout_ms = { type = "integer", min = 1, max = 86400000 },
  single = { type = "boolean" },
  transcode = {
    type = "any", default = "default", check = values.accepts,
    allowed = '"default", "json" or { encode = function, decode = function }',
  },
  format_key = { type = "function" },
  publication_key = { type = "function" },
  any_method = { type = "boolean", default = false },
  max_publications = { type = "integer", min = 1, max = 1000000, default = 10000 },
  max_waiting_values = { type = "integer", min = 1, max = 1000000, default = 1000 },
  max_connections = { type = "integer", min = 1, max = 1000000 },
  register_ms = { type = "integer", min = 1, max = 600000 },
  max_message_bytes = { type = "integer", min = 1024, max = 1024 * MIB },
  max_queue_bytes = { type = "integer", min = 65536, max = 1024 * MIB },
  max_slow_bytes = { type = "integer", min = 1024, max = 1024 * MIB },
  max_pending = { type = "integer", min = 1, max = 1000000 },
  max_keys = { type = "integer", min = 1, max = 10000000 },
  max_member_keys = { type = "integer", min = 1, max = 10000000 },
  max_values_bytes = { type = "integer", min = 1024, max = 2 ^ 32 - 1 },
  max_depth = { type = "integer", min = 1, max = 1000 },
  max_concurrency = { type = "integer", min = 1, max = 1000000, default = 1000 },
  max_queue = { type = "integer", min = 0, max = 1000000, default = 10000 },
  max_queue_job_bytes = { type = "integer", min = 1024, max = 1024 * MIB },
  handler_timeout_ms = { type = "integer", min = 0, max = 86400000, default = 0 },
}

--- Numbers the originals read from the environment, and what they are without.
local ENVIRONMENT = {
  port = { "NODE_CLUSTER_CLIENT_PORT", 7777 },
  connect_timeout_ms = { "NODE_CLUSTER_CLIENT_CONNECT_TIMEOUT", 10000 },
}

local function from_environment(name, what, level, getenv)
  local variable, otherwise = ENVIRONMENT[name][1], ENVIRONMENT[name][2]
  local text = getenv(variable)
  if text == nil or text == "" then return otherwise end
  local value = tonumber(text)
  if not options.accepts(M.SPEC[name], value) then
    error(("%s: %s in the environment is %q; it must be a whole number in 1..%d"):format(
      what, variable, text, M.SPEC[name].max), level + 1)
  end
  return value
end

---@param host string
---@return boolean
local function is_loopback(host)
  if host == "localhost" then return true end
  local bytes = network.address(host)
  return bytes ~= nil and (network.contains(LOOPBACK, bytes) or network.contains(LOOPBACK_6, bytes))
end

--- Reads the options; raises what is wrong with them.
---@param given table
---@param what string
---@param level integer
---@param getenv? fun(name: string): string|nil  tests pass a fake
---@return table config
function M.read(given, what, level, getenv)
  getenv = getenv or os.getenv
  local config = options.read(M.SPEC, given, what, level + 1)
  if config.path and (given.host or given.port) then
    error(("%s: option path stands in place of %s"):format(what, given.host and "host" or "port"), level + 1)
  end
  if config.mode and not config.path then
    error(what .. ": option mode is that of a unix socket: option path is missing", level + 1)
  end
  for name in pairs(ENVIRONMENT) do
    if config[name] == nil then config[name] = from_environment(name, what, level + 1, getenv) end
  end
  if config.single == nil then config.single = getenv("NODE_CLUSTER_CLIENT_SINGLE_MODE") == "1" end
  if config.client == nil and config.leader ~= false then
    error(what .. ": option client is missing; only a client with leader = false can do without", level + 1)
  end
  if config.client == nil and config.single then
    error(what .. ": option client is missing; alone there is nobody to follow", level + 1)
  end
  if not config.path and not config.single and not config.secret and not is_loopback(config.host) then
    error(("%s: host %s is not loopback: option secret must be given, or anybody could call"):format(
      what, config.host), level + 1)
  end
  config.host = config.host:match("^%[(.*)%]$") or config.host
  return config
end

return M
