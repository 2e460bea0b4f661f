--- znl.roles.server: listens for connections of the micro protocol, keeps one for each node, answers
--- requests by route (spec, sections 2, 3 and 7).
---
---   stopped --start--> running --stop--> stopped
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local core = require("znl.core.micro")
local estate = require("znl.versions.estate")
local handlers = require("znl.versions.handlers")
local links = require("znl.micro.links")
local loopback = require("znl.micro.loopback")
local middleware = require("znl.routing.middleware")
local options = require("znl.options")
local role = require("znl.roles.role")
local route_path = require("znl.routing.route_path")
local router = require("znl.routing.router")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local task = require("znl.tasks.task")
local tls = require("znl.core.tls")

local M = {}

local MIB = 1024 * 1024

---@class znl.ServerOptions
---@field namespace string  what others find it by
---@field host? string  where it listens; nil: on all addresses
---@field port? integer  0: one that is free
---@field advertise_host? string  what others reach this host by; nil: its first address
---@field tls? table  certificate, key, …: it listens with TLS
---@field connect_tls? table  authorities, …: it dials with TLS
---@field check_host? boolean  refuses connections whose path names another host than they come from
---@field max_connections? integer
---@field max_message_bytes? integer  larger messages end their connection
---@field max_write_bytes? integer  queued in one connection
---@field max_pending? integer  requests and streams of ours on one connection
---@field max_concurrency? integer  handlers at work
---@field max_queue? integer  requests that wait for one of them to end
---@field max_queue_bytes? integer
---@field handler_timeout_ms? integer  0: as long as it likes
---@field heartbeat_ms? integer  0: none; nil: MICRO_HEARTBEAT_INTERVAL, or 10 s
---@field heartbeat_timeout_ms? integer  silence that ends a connection; nil: MICRO_HEARTBEAT_TIMEOUT, or 20 s
---@field heartbeat_check_ms? integer  nil: MICRO_HEARTBEAT_CHECK_INTERVAL, or 5 s
---@field strict_heartbeat? boolean  also ends connections to nodes that never sent a heartbeat
---@field handshake_ms? integer  how long a connection may take to become one
---@field max_depth? integer  of JSON
---@field stream_window? integer  chunks of one stream on their way
---@field max_streams? integer  of ours, over all connections
M.SPEC = {
  namespace = {
    type = "string", required = true, check = address.is_namespace,
    allowed = "a text of 1 to 255 letters, digits and - . _ ~ /, no / at its ends",
  },
  host = { type = "string", min = 1, max = 253 },
  port = { type = "integer", min = 0, max = 65535, default = 0 },
  advertise_host = { type = "string", max = 253 },
  tls = { type = "table" },
  connect_tls = { type = "table" },
  check_host = { type = "boolean", default = false },
  max_connections = { type = "integer", min = 1, max = 1000000, default = 100000 },
  max_message_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 16 * MIB },
  max_write_bytes = { type = "integer", min = 65536, max = 1024 * MIB, default = 16 * MIB },
  max_pending = { type = "integer", min = 1, max = 1000000, default = 10000 },
  max_concurrency = { type = "integer", min = 1, max = 1000000, default = 1000 },
  max_queue = { type = "integer", min = 0, max = 1000000, default = 10000 },
  max_queue_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  handler_timeout_ms = { type = "integer", min = 0, max = 86400000, default = 0 },
  heartbeat_ms = { type = "integer", min = 0, max = 3600000 },
  heartbeat_timeout_ms = { type = "integer", min = 0, max = 3600000 },
  heartbeat_check_ms = { type = "integer", min = 1, max = 3600000 },
  strict_heartbeat = { type = "boolean", default = false },
  handshake_ms = { type = "integer", min = 1, max = 600000, default = 10000 },
  max_depth = { type = "integer", min = 1, max = 1000, default = 128 },
  stream_window = { type = "integer", min = 1, max = 65536, default = 256 },
  max_streams = { type = "integer", min = 1, max = 1000000, default = 1000 },
}

--- Where the originals read the numbers of their heartbeat, and what those are without (section 8).
local HEARTBEAT = {
  heartbeat_ms = { "MICRO_HEARTBEAT_INTERVAL", 10000 },
  heartbeat_timeout_ms = { "MICRO_HEARTBEAT_TIMEOUT", 20000 },
  heartbeat_check_ms = { "MICRO_HEARTBEAT_CHECK_INTERVAL", 5000 },
}

--- Options the core knows by the same name, and by another.
local CORE_OPTIONS = {
  "tls", "max_connections", "max_message_bytes", "max_pending", "max_concurrency", "max_queue",
  "handler_timeout_ms", "strict_heartbeat", "handshake_ms", "max_depth", "stream_window", "max_streams",
}

M.EVENTS = { "connection", "disconnect", "error" }

---@class znl.Server : znl.Role
---@field namespace string
---@field host string  what others reach it by
---@field router znl.Router
---@field links znl.Links
---@field private reserved? table<string, boolean>  routes of the library
local Server = setmetatable({}, { __index = role.Role })
Server.__index = Server
M.Server = Server

--- A message without the place in front of it: whoever raises it again adds a better one.
local function without_place(message)
  return (tostring(message):gsub("^[^\n:]-:%d+: ", ""))
end

--- A context made of TLS options: files are read once, and what is wrong with them is said at once.
---@param make fun(given: table): userdata|nil, string?  of znl.core.tls
---@param given table|nil
---@param name string  of the option
---@return userdata|nil context
---@return string? problem
function M.tls_context(make, given, name)
  if given == nil then return nil end
  local ok, context, problem = pcall(make, given)
  if ok and context then return context end
  return nil, ("%s: %s"):format(name, (without_place(ok and problem or context):gsub("^tls: ", "")))
end

local function from_environment(name, getenv)
  local variable, otherwise = HEARTBEAT[name][1], HEARTBEAT[name][2]
  local value = tonumber(getenv(variable) or "")
  if not value or value ~= value or value == 0 then return otherwise end
  return math.min(3600000, math.max(1, math.floor(value)))
end

--- The options of znl.core.micro.
---@param config table  read
---@param getenv? fun(name: string): string|nil  tests pass a fake
---@return table
function M.core_options(config, getenv)
  local opts = {
    listen_host = config.host, listen_port = config.port, max_queue_bytes = config.max_write_bytes,
    max_queue_job_bytes = config.max_queue_bytes,
  }
  for _, name in ipairs(CORE_OPTIONS) do opts[name] = config[name] end
  for name in pairs(HEARTBEAT) do
    opts[name] = config[name]
    if opts[name] == nil then opts[name] = from_environment(name, getenv or os.getenv) end
  end
  return opts
end

-- --- requests ------------------------------------------------------------------------------------

--- The parameters of all requests that have none; nobody may leave something in it for the next.
local NO_PARAMS = setmetatable({}, {
  __newindex = function() error("this route has no parameters, and none can be added", 2) end,
})

--- Nothing answers that: originals know status 500 and the url, which is what they send, too.
local function not_found(req)
  local client = req.client
  local is_ours = client == nil or client.conn:is_ours()
  if is_ours then return nil, req.route, "NOT_FOUND" end
  return nil, req.is_stream and "Unknown error" or req.route, 500
end

local function answer(self, req)
  local url = req.route
  local run, params = self.router:find(url)
  if not run then
    for _, source in ipairs(self.sources) do
      run, params = source.router:find(url)
      if run then break end
    end
    if not run then return not_found(req) end
  end
  req.params = params or NO_PARAMS
  return run(req)
end

--- Where a handler was written.
local function origin(self, url)
  if url == nil then return nil end
  local found = self.router:origin(url)
  for _, source in ipairs(self.sources) do
    found = found or source.router:origin(url)
  end
  return found
end

--- What answers requests of this process: as the core's, with the middleware around it.
local function serve_here(self, req)
  local run = self.handler
  if #self.middleware > 0 then run = middleware.compose(self.middleware, run) end
  return run(req)
end

--- Answers requests at `path` with `handler`, a function or a table with `handle`, or anything that can be
--- attached. A path that has a handler already is refused.
---@param path string  "/users/:id"
---@param handler znl.Handler|znl.HandlerSource
---@return fun() remove  calling it again does nothing
function Server:route(path, handler)
  local variants, message = route_path.parse(path)
  if not variants then error(("%s:route: %s"):format(self.what, message), 2) end
  local identity = route_path.identity(path)
  if self.reserved and self.reserved[identity] then
    error(("%s:route: %s is answered by the library"):format(self.what, path), 2)
  end
  -- `:id` and `:name` would stand in each other's way.
  local key = "route " .. identity:gsub(":[%a_][%w_]*", ":")
  local holder = self.slots.holders[key]
  if holder and holder.home == scope.current() then
    error(("%s:route: %s has a handler already"):format(self.what, path), 2)
  end
  -- Checked here, where there is somebody to blame; registered when the version of code goes into service.
  local trial = router.new()
  local ok, problem = pcall(trial.route, trial, path, handler)
  if not ok then error(self.what .. ":" .. without_place(problem):gsub("^router:", ""), 2) end
  self.slots:put(key, function()
    local before = self.removals[identity]
    if before then before() end
    local remove = self.router:route(path, handler)
    self.removals[identity] = remove
    return function(is_holder)
      if not is_holder then return end
      remove()
      self.removals[identity] = nil
    end
  end)
  local mine = self.slots.holders[key]
  return function()
    if self.slots.holders[key] == mine then self.slots:clear(key) end
  end
end

--- Answers requests with the files of a folder, `users/[id].msg.lua` at `/users/:id`; they are watched and
--- replaced as they change. What `route` has comes first. Raises as znl.handlers does. Yields.
---@param folder string
---@param opts? znl.HandlersOptions
---@return fun() remove
---@return znl.Handlers handlers
function Server:load(folder, opts)
  local ok, source = pcall(handlers.open, folder, opts)
  if not ok then error(("%s:load: %s"):format(self.what, without_place(source)), 2) end
  if not source.router then
    source:close()
    error(("%s:load: %s is a file, not a folder"):format(self.what, folder), 2)
  end
  local stop = scope.register(function()
    table.insert(self.sources, source)
    return function()
      for index, other in ipairs(self.sources) do
        if other == source then
          table.remove(self.sources, index)
          break
        end
      end
    end
  end)
  return function()
    stop()
    source:close()
  end, source
end

--- Requests are answered by route.
function Server:handle()
  error(self.what .. ":handle: requests are answered by route: use route, load or use", 2)
end

--- Runs what answers `url`, inside this process and without copying. `extras` are members that the request
--- has as well. Yields when the handler does.
---@param url string
---@param data? any
---@param extras? table
---@return any result
---@return string? message
---@return "NOT_FOUND"|string|number? code
function Server:dispatch(url, data, extras)
  if type(url) ~= "string" then error(self.what .. ":dispatch: the url must be a text, not a " .. type(url), 2) end
  return self.loopback:dispatch_here(url, data, extras)
end

-- --- connections ---------------------------------------------------------------------------------

--- The connection to an address, made when there is none. Yields.
---@param host string
---@param port integer
---@param timeout_ms? integer  default 5000
---@return znl.Client|nil client
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"ADDRESS"|"STOPPED"|string? code
function Server:connect(host, port, timeout_ms)
  local problem = address.problem(host, port)
  if problem then error(("%s:connect: %s"):format(self.what, problem), 2) end
  if timeout_ms ~= nil and not options.accepts({ type = "integer", min = 1, max = 600000 }, timeout_ms) then
    error(self.what .. ":connect: timeout_ms must be a whole number in 1..600000", 2)
  end
  if not self.core:running() then return nil, self.what .. ": it is not running", "STOPPED" end
  if address.key(host, port) == self:key() then return self.itself end
  return self.links:connect(host, port, timeout_ms)
end

--- The nodes it is connected to, by key.
---@return table<string, znl.Client>
function Server:clients()
  local copy = {}
  for key, client in pairs(self.links.clients) do copy[key] = client end
  return copy
end

--- The port it listens on; nil while it does not.
---@return integer|nil
function Server:port()
  return self.core:running() and self.core:port() or nil
end

--- What others know it by, "host:port"; nil while it does not listen.
---@return string|nil
function Server:key()
  local port = self:port()
  return port and address.key(self.host, port)
end

--- Stops: closes all connections, in order. Harmless when it is stopped.
function Server:stop()
  self.links:close()
  role.Role.stop(self)
end

-- --- making one ----------------------------------------------------------------------------------

--- Tells listeners, in a task of its own: they may wait, and what happened may not.
function M.tell(self, event, ...)
  if self.emitter:wanted(event) then task.background(self.owner, self.emitter.emit, self.emitter, event, ...) end
end

local REACTIONS = {}
M.REACTIONS = REACTIONS

--- With `check_host` a connection must come from the host that its path names.
local function comes_from(conn, path)
  local host = address.from_path(path)
  local remote = tostring(conn:remote() or ""):gsub(":%d+$", "")
  return host ~= nil and host:gsub("[%[%]]", "") == remote:gsub("[%[%]]", "")
end

function REACTIONS.connection(self, conn, path)
  if self.config.check_host and not comes_from(conn, path) then
    self.log.warn("a connection names another host than it comes from", { path = path, from = conn:remote() })
    return conn:close()
  end
  self.links:accept(conn, path)
end

function REACTIONS.closed(self, conn, reason) self.links:closed(conn, reason) end

function REACTIONS.error(self, message, place, from)
  if from == "" then from = nil end
  message = role.without_our_trace(message)
  self.log.error((place or "handler") .. " failed", { from = from, error = message })
  M.tell(self, "error", message, place, from)
  return true -- so that the core does not log it as well
end

--- Something for the operator, already counted by the core.
function REACTIONS.trouble(self, text, code) self.log.warn(text, { code = code }) end

---@class znl.ServerDescription
---@field name "server"|"application"
---@field spec table
---@field events string[]
---@field reactions table<string, fun(self: table, ...)>
---@field connected string  events of the links
---@field disconnected string
---@field prepare? fun(config: table, what: string, level: integer)  checks more
---@field complete? fun(self: table, config: table)  before the core is told anything

local function build(class, description, config, what)
  local host, problem = address.advertised(config.advertise_host)
  if not host then return nil, problem end
  local listen_tls, connect_tls
  listen_tls, problem = M.tls_context(tls.server, config.tls, "tls")
  if problem then return nil, problem end
  connect_tls, problem = M.tls_context(tls.client, config.connect_tls, "connect_tls")
  if problem then return nil, problem end
  local owner, trouble = sched.owner()
  if not owner then return nil, trouble end
  local self = setmetatable({
    namespace = config.namespace, host = host, config = config, router = router.new(), sources = {}, removals = {},
    owner = owner,
  }, class)
  role.init(self, { what = what, name = config.namespace, events = description.events })
  self.handler = function(req) return answer(self, req) end
  self.place = function(url) return origin(self, url) end
  local opts = M.core_options(config)
  local reactions = description.reactions
  opts.tls = listen_tls
  opts.on_event = role.weakly(self, function(server, kind, ...)
    local react = reactions[kind]
    if react then return react(server, ...) end
  end)
  local made, message = core.new(opts)
  if not made then return nil, message end
  self.core = made
  local function own_key() return self:key() end
  self.loopback = loopback.new(function(req) return serve_here(self, req) end, own_key, function(text, url)
    self.log.error("handler failed", { url = url, error = text })
    M.tell(self, "error", text, origin(self, url), own_key())
  end)
  self.itself = self.loopback:as_client()
  self.links = links.new {
    core = made, owner = self.owner, log = self.log, tls = connect_tls, own_key = own_key,
    path = function() return address.path(host, made:port(), config.namespace) end,
    on_connected = function(client)
      self.log.debug("connected", { peer = client.key, namespace = client.namespace })
      M.tell(self, description.connected, client)
    end,
    on_disconnected = function(client, reason)
      self.log.debug("disconnected", { peer = client.key, reason = reason })
      if self.namespaces then self.namespaces:remove(client) end
      M.tell(self, description.disconnected, client, reason)
    end,
    on_replaced = function(before, client)
      if self.namespaces then self.namespaces:replace(before, client) end
    end,
  }
  if description.complete then description.complete(self, config) end
  return self
end

local function stop(self) self:stop() end

--- Makes a server of `class` as `description` says; under `znlrun --watch` the one that the version of the
--- script before made with the same options. Raises for its caller's caller.
---@param class table
---@param description znl.ServerDescription
---@param given table
function M.open(class, description, given)
  local what = "znl." .. description.name
  local config = options.read(description.spec, given, what, 3)
  if description.prepare then description.prepare(config, what, 3) end
  local self, message = estate.take(what, config.namespace, given, function()
    return build(class, description, config, what)
  end, stop)
  if not self then error(("%s: %s"):format(what, message), 3) end
  return self
end

local DESCRIPTION = {
  name = "server", spec = M.SPEC, events = M.EVENTS, reactions = REACTIONS,
  connected = "connection", disconnected = "disconnect",
}

--- Makes a server. It does not listen before `start`. Events, and what a listener gets:
---   connection(client)          another node has connected, or was
---   disconnect(client, reason)
---   error(message, where, from)
---@param opts znl.ServerOptions
---@return znl.Server
function M.new(opts)
  local self = M.open(Server, DESCRIPTION, opts)
  return self
end

return M
