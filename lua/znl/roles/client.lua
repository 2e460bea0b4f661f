--- znl.roles.client: one connection to a node of the micro protocol, without a server or a registry.
---
---     local client = assert(znl.client.connect { host = "10.0.0.7", port = 9001 })
---     local user = client:request("/users/7")
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local connection = require("znl.micro.connection")
local core = require("znl.core.micro")
local crypto = require("znl.core.crypto")
local log = require("znl.log")
local options = require("znl.options")
local role = require("znl.roles.role")
local server = require("znl.roles.server")

local M = {}

---@class znl.ClientOptions
---@field host string
---@field port integer
---@field path? string  of the connection; nil: `namespace` behind a name nobody else has
---@field namespace? string  what the other end is told we are
---@field tls? table
---@field timeout_ms? integer  of connecting
---@field headers? table<string, string>
---@field handle? znl.Handler  answers requests of the other end
---@field max_message_bytes? integer
---@field max_pending? integer
local SPEC = {
  host = { type = "any" },
  port = { type = "any" },
  path = {
    type = "string", min = 1, max = 2048, pattern = "^/[^%s%c]*$", allowed = "a path such as /127.0.0.1/9001/name",
  },
  namespace = {
    type = "string", default = "client", check = address.is_namespace, allowed = server.SPEC.namespace.allowed,
  },
  tls = { type = "table" },
  timeout_ms = { type = "integer", min = 1, max = 600000, default = 5000 },
  headers = { type = "table" },
  handle = { type = "function" },
  max_message_bytes = server.SPEC.max_message_bytes,
  max_pending = server.SPEC.max_pending,
}

--- The other end keeps one connection for each name, and nobody can dial this one.
local function own_path(namespace)
  local name = crypto.random(8):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  return address.path("client-" .. name, 1, namespace)
end

--- Connects. The other end enters the connection into its table as whoever the path names, and a registry
--- lists it as that. Yields.
---@param opts znl.ClientOptions
---@return znl.Client|nil client
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"ADDRESS"|string? code
function M.connect(opts)
  opts = options.read(SPEC, opts, "znl.client.connect", 2)
  local problem = address.problem(opts.host, opts.port)
  if problem then error("znl.client.connect: " .. problem, 2) end
  local logger = log.new("client")
  local config = server.core_options {
    max_message_bytes = opts.max_message_bytes, max_pending = opts.max_pending, strict_heartbeat = false,
  }
  config.on_event = function(kind, ...)
    if kind == "error" then
      logger.error("handler failed", { error = role.without_our_trace((...)) })
    end
  end
  local made, message, code = core.new(config)
  if not made then return nil, message, code end
  if opts.handle then made:set_handler(opts.handle) end
  local conn
  conn, message, code = made:connect {
    host = address.bare(opts.host), port = opts.port, tls = opts.tls, timeout_ms = opts.timeout_ms,
    headers = opts.headers, path = opts.path or own_path(opts.namespace),
  }
  if not conn then return nil, message, code end
  local key = address.key(opts.host, opts.port)
  local client = connection.new(conn, key, opts.host, opts.port)
  conn:set_peer(key, client)
  return client
end

return M
