--- znl.roles.application: a server that has a registry: it is found by its namespace, finds others, calls
--- them, publishes and subscribes (spec, sections 12 to 19).
---
---   stopped --start: listens, connects to its registry--> running --stop--> stopped
---
--- A registry that goes away while it runs is waited for; calls go on over the connections there are.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local balance = require("znl.micro.balance")
local breakers = require("znl.micro.breaker")
local call_stream = require("znl.micro.call_stream")
local caller = require("znl.micro.caller")
local correlation = require("znl.micro.correlation")
local json = require("znl.core.json")
local json_values = require("znl.json")
local namespaces = require("znl.micro.namespaces")
local options = require("znl.options")
local registry_addresses = require("znl.micro.registry_addresses")
local registry_link = require("znl.micro.registry_link")
local role = require("znl.roles.role")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local server = require("znl.roles.server")
local task = require("znl.tasks.task")
local topics = require("znl.micro.topics")

local M = {}

local STARTED_MS = sched.now_ms()
--- How often namespaces in use are looked at for further instances.
local GROW_MS = 5000
--- Namespaces with a breaker; beyond it those without a record are forgotten.
local BREAKERS_MAX = 10000

local BALANCES = {}
for name in pairs(balance.CHOICES) do BALANCES[#BALANCES + 1] = name end
table.sort(BALANCES)

local function is_retry(value)
  return type(value) == "function" or caller.PREDICATES[value] ~= nil
end

local RETRY_RULE = {
  type = "any", check = is_retry, allowed = '"safe", "always", "never" or a function(failure)',
}

---@class znl.ApplicationOptions : znl.ServerOptions
---@field registry string|znl.RegistryAddress|(string|znl.RegistryAddress)[]  "host:port" or a table; a list of
---  these: registries that answer for one fleet
---@field registry_required? boolean  `start` fails when the registry cannot be reached; else it is waited for
---@field registry_lookup_timeout_ms? integer  of one request to the registry
---@field reconnect_ms? integer  the longest wait between two attempts to reach the registry; the shortest is half
---@field check_listing? boolean  looks itself up at registries that are not ours, and connects anew on a miss
---@field request_timeout_ms? integer  of one attempt of a call
---@field retries? integer  attempts after the first
---@field retry? "safe"|"always"|"never"|fun(failure: znl.CallFailure): boolean  which failures are asked again
---@field breaker? znl.BreakerOptions
---@field balance? znl.Balance
---@field connections? integer  instances of each namespace it is connected to
---@field hedge_ms? integer  asks a second instance when the first has not answered by then
---@field correlation? boolean  calls carry a `_correlationId`, as those of release 1.0.5
---@field compat? integer  1 or 2: calls exactly as the originals of that release do
local SPEC = options.extend(server.SPEC, {
  registry = {
    type = "any", required = true, allowed = '"host:port", a table with host and port, or a list of these',
    check = function(value) return type(value) == "string" or type(value) == "table" end,
  },
  registry_required = { type = "boolean", default = true },
  registry_lookup_timeout_ms = { type = "integer", min = 1, max = 86400000, default = 10000 },
  reconnect_ms = { type = "integer", min = 10, max = 3600000, default = 3000 },
  check_listing = { type = "boolean" },
  request_timeout_ms = { type = "integer", min = 1, max = 86400000, default = 30000 },
  retries = { type = "integer", min = 0, max = 1000, default = 1 },
  retry = RETRY_RULE,
  breaker = { type = "table" },
  balance = {
    type = "any", check = function(value) return balance.CHOICES[value] ~= nil end,
    allowed = "one of " .. table.concat(BALANCES, ", "),
  },
  connections = { type = "integer", min = 1, max = 1000 },
  hedge_ms = { type = "integer", min = 1, max = 86400000 },
  correlation = { type = "boolean" },
  compat = { type = "integer", min = 1, max = 2 },
})

--- What is chosen where nothing is said, by `compat`; 0: as good as it gets.
local CHOSEN = {
  [0] = { check_listing = true, retry = "safe", balance = "two_choices", connections = 3, correlation = false },
  [1] = { check_listing = false, retry = "always", balance = "sticky", connections = 1, correlation = true },
  [2] = { check_listing = false, retry = "always", balance = "sticky", connections = 1, correlation = false },
}

---@class znl.ApplicationCallOptions
---@field timeout_ms? integer  of each attempt
---@field deadline_ms? number  of all attempts, an instant as `znl.now_ms()`
---@field retries? integer
---@field retry? "safe"|"always"|"never"|fun(failure: znl.CallFailure): boolean
---@field hedge_ms? integer
local CALL_SPEC = {
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
  deadline_ms = { type = "number", min = 0 },
  retries = { type = "integer", min = 0, max = 1000 },
  retry = RETRY_RULE,
  hedge_ms = { type = "integer", min = 1, max = 86400000 },
}

---@class znl.ApplicationStreamOptions
---@field timeout_ms? integer  from the request to its end; nil: none
---@field retries? integer  when it could not be sent
---@field window? integer  chunks on their way
local STREAM_SPEC = {
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
  retries = { type = "integer", min = 0, max = 1000 },
  window = { type = "integer", min = 1, max = 65536 },
}

local EVENTS = { "registry", "connected", "disconnected", "breaker", "error" }

---@class znl.Application : znl.Server
---@field link znl.RegistryLink
---@field namespaces znl.Namespaces
---@field topics znl.Topics
local Application = setmetatable({}, { __index = server.Server })
Application.__index = Application

-- --- finding -------------------------------------------------------------------------------------

local function find(self, namespace, exclude)
  if not self.core:running() then return nil, "the application is not running", "STOPPED" end
  return self.link:find(namespace, exclude)
end

local function dial(self, host, port)
  if address.key(host, port) == self:key() then return self.itself end
  return self.links:connect(host, port)
end

--- The breaker of a namespace, made when there is none.
local function breaker_of(self, namespace)
  local breaker = self.breakers[namespace]
  if breaker then return breaker end
  if self.breaker_count >= BREAKERS_MAX then
    for name, other in pairs(self.breakers) do
      if other.count == 0 then
        self.breakers[name] = nil
        self.breaker_count = self.breaker_count - 1
      end
    end
  end
  breaker = breakers.new(self.breaker_options, sched.now_ms, function(key, status)
    self.log.debug("breaker", { namespace = namespace, peer = key, status = status })
    server.tell(self, "breaker", namespace, key, status)
  end)
  self.breakers[namespace] = breaker
  self.breaker_count = self.breaker_count + 1
  return breaker
end

local function check_namespace(self, namespace, what, level)
  if type(namespace) == "string" and namespace ~= "" then return end
  error(("%s:%s: the namespace must be a text that is not empty"):format(self.what, what), level + 1)
end

local function check_url(self, url, what, level)
  if type(url) == "string" and url ~= "" then return end
  error(("%s:%s: the url must be a text such as /users/7"):format(self.what, what), level + 1)
end

--- A connection to an instance of a namespace. Yields.
---@param namespace string
---@param exclude? string[]  keys; chosen only when there is no other
---@return znl.Client|nil client
---@return string? message
---@return "NOT_FOUND"|"UNREACHABLE"|"TIMEOUT"|"CLOSED"|"STOPPED"|string? code
function Application:get(namespace, exclude)
  check_namespace(self, namespace, "get", 2)
  if exclude ~= nil and type(exclude) ~= "table" then
    error(self.what .. ":get: exclude must be an array of keys, not a " .. type(exclude), 2)
  end
  return self.namespaces:get(namespace, exclude)
end

-- --- calling -------------------------------------------------------------------------------------

--- The timeout, when the options hold nothing else and it is a good one.
local function timeout_alone(opts)
  local timeout_ms = type(opts) == "table" and opts.timeout_ms
  if type(timeout_ms) == "number" and timeout_ms >= 1 and timeout_ms <= CALL_SPEC.timeout_ms.max
      and timeout_ms % 1 == 0 and next(opts, (next(opts))) == nil then
    return timeout_ms
  end
end

--- The plan of a call with options of its own.
local function plan_of(self, opts, level)
  local plan = options.read(CALL_SPEC, opts, self.what .. ":call", level + 1)
  plan.retry = caller.PREDICATES[plan.retry] or plan.retry
  return setmetatable(plan, self.plan_default)
end

--- Calls an instance of a namespace: another one when that fails and asking again is worth it. Yields.
---
--- A refusal or error of the handler comes back as its message and status, is_remote true. "NOT_FOUND":
--- nobody has that namespace, or, with is_remote, that route.
---@param namespace string
---@param url string
---@param data? any  whatever JSON can carry; nil: nothing, znl.null: null
---@param opts? znl.ApplicationCallOptions
---@return any data
---@return string? message
---@return "TIMEOUT"|"NOT_FOUND"|"UNREACHABLE"|"CLOSED"|"BREAKER_OPEN"|"DEADLINE"|string|number? code
---@return boolean? is_remote  the other side answered that
function Application:call(namespace, url, data, opts)
  local plan, timeout_ms = self.plan, nil
  if opts ~= nil then
    timeout_ms = timeout_alone(opts)
    if not timeout_ms then plan = plan_of(self, opts, 2) end
  end
  if self.correlates then data = correlation.add(data) end
  local breaker, entry = self.breakers[namespace], self.namespaces.entries[namespace]
  local client, ticket, message, code, is_remote
  -- The usual case, short: connections are there, and none of them has failed of late.
  if entry and breaker and breaker.count == 0 and not plan.hedge_ms and not plan.deadline_ms then
    client = entry.single or (entry.count > 1 and self.draw(entry.clients, entry.count) or nil)
    if client then
      entry.used = true
      local result
      result, message, code, is_remote = client.conn:request(url, data, timeout_ms or plan.timeout_ms)
      if code == nil then
        if breaker.count > 0 then breaker:succeed(client.key, breaker:closed_ticket()) end
        return result
      end
      ticket = breaker:closed_ticket()
    end
  end
  if not client then
    check_namespace(self, namespace, "call", 2)
    check_url(self, url, "call", 2)
    breaker = breaker or breaker_of(self, namespace)
  end
  if timeout_ms then plan = setmetatable({ timeout_ms = timeout_ms }, self.plan_default) end
  return caller.run(self.namespaces, breaker, namespace, url, data, plan, client, ticket, message, code, is_remote)
end

--- What the end of a stream means to the breaker.
local function stream_ended(self, breaker, client, ticket, namespace, url)
  local plan = self.plan
  return function(outcome, message, code, is_remote)
    if outcome == "complete" then
      breaker:succeed(client.key, ticket)
    elseif outcome == "failed" then
      local failure = caller.failure_of(plan, client, namespace, url, message, code, is_remote)
      caller.record(plan, breaker, client, ticket, failure)
    else
      breaker:release(ticket)
    end
  end
end

--- Asks an instance of a namespace for a stream. What can be read is for
--- `for chunk in app:stream(…) do`; `stream:result()` says how it ended. Only a failure to send is tried
--- again. Yields.
---@param namespace string
---@param url string
---@param data? any
---@param opts? znl.ApplicationStreamOptions
---@return znl.CallStream
function Application:stream(namespace, url, data, opts)
  opts = options.read(STREAM_SPEC, opts, self.what .. ":stream", 2)
  check_namespace(self, namespace, "stream", 2)
  check_url(self, url, "stream", 2)
  local plan, breaker = self.plan, breaker_of(self, namespace)
  local retries, is_first = opts.retries or plan.retries, true
  local tried, message, code, is_remote
  while true do
    local client, ticket, problem = breaker:select(self.namespaces, namespace, is_first, tried)
    if not client then
      if is_first then return call_stream.failed(ticket, problem) end
      return call_stream.failed(message, code, is_remote)
    end
    local stream
    stream, message, code, is_remote = client.conn:stream(url, data, opts.timeout_ms, opts.window)
    if stream then
      local ended = stream_ended(self, breaker, client, ticket, namespace, url)
      return call_stream.open(client.key, stream, ended, ticket.record ~= nil)
    end
    local failure = caller.failure_of(plan, client, namespace, url, message, code, is_remote)
    caller.record(plan, breaker, client, ticket, failure)
    if retries <= 0 or not caller.is_worth_repeating(failure) then
      return call_stream.failed(message, code, is_remote)
    end
    retries, is_first = retries - 1, false
    if plan.elsewhere then
      tried = tried or {}
      tried[#tried + 1] = client.key
    end
  end
end

-- --- topics --------------------------------------------------------------------------------------

--- Publishes a value: the registry keeps it, and hands it to subscribers, while this application is
--- connected. Succeeds also while there is no registry. Yields.
---@param topic string
---@param payload any  nil: nothing; znl.null: null
---@return znl.Publication|nil handle  with `update(payload)` and `unpublish()`
---@return string? message
---@return "STOPPED"? code
function Application:publish(topic, payload)
  local handle, message, code = self.topics:publish(topic, payload, 2)
  return handle, message, code
end

--- Calls `fn(payload)` with the value of a topic, and with each later one. Yields until the registry has
--- answered.
---@param topic string
---@param fn fun(payload: any)  may yield
---@return (fun())|nil off
---@return string? message
---@return "STOPPED"|"FAILED"? code  FAILED: the first call raised
function Application:subscribe(topic, fn)
  if not scope.current() then
    local off, message, code = self.topics:subscribe(topic, fn, 2)
    return off, message, code
  end
  if type(fn) ~= "function" then
    error("subscribe: the callback must be a function, not a " .. type(fn), 2)
  end
  local bound = scope.bind(fn)
  return scope.register(function()
    local off, is_over
    task.background(self.owner, function()
      local message
      off, message = self.topics:subscribe(topic, bound, 1)
      if not off then self.log.error("could not subscribe", { topic = topic, error = message }) end
      if off and is_over then off() end
    end)
    return function()
      is_over = true
      if off then off() end
    end
  end)
end

-- --- life ----------------------------------------------------------------------------------------

--- Listens, and connects to the registry. Harmless when it runs. Yields.
---@return true|nil ok
---@return string? message
---@return "ADDRESS_IN_USE"|"ADDRESS"|"UNREACHABLE"|"TIMEOUT"|string? code
function Application:start()
  if self.is_up then return true end
  local ok, message, code = role.Role.start(self)
  if not ok then return nil, message, code end
  self.is_up = true
  if self.config.registry_required then
    ok, message, code = self.link:begin()
    if not ok then
      self:stop()
      return nil, ("%s: %s"):format(self.what, message), code
    end
  else
    self.link:begin_later()
  end
  local stopping = sched.event()
  self.stopping = stopping
  task.background(self.owner, function()
    while stopping:wait(GROW_MS) == nil and self.stopping == stopping do self.namespaces:grow() end
  end)
  return true
end

--- Leaves the registry, refuses new requests until the next `start`, and waits until those that came before
--- have their answers. Yields.
---@param timeout_ms? integer  0..86400000, default 5000
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"? code  some are still at work
function Application:drain(timeout_ms)
  self.link:finish()
  return role.Role.drain(self, timeout_ms)
end

--- Stops: leaves the registry, closes all connections. What it published and subscribed to is told to the
--- registry again by the next `start`. Harmless when it is stopped.
function Application:stop()
  self.is_up = false
  if self.stopping then self.stopping:set(true) end
  self.link:finish()
  self.namespaces:clear()
  server.Server.stop(self)
end

--- Whether the registry, or one of them, is connected.
---@return boolean
---@return string? key  its "host:port"
function Application:is_registered()
  local client = self.link.client
  if client then return true, client.key end
  return false
end

local function health(self)
  return {
    status = "ok", registry = (self:is_registered()), uptime = (sched.now_ms() - STARTED_MS) / 1000,
    namespaces = json_values.array(self.namespaces:list()),
  }
end

--- Only the registry itself: anybody can connect.
local function topic_update(self, req)
  local data, client = req.data, req.client
  if client and client.is_registry and type(data) == "table" and type(data.topic) == "string" then
    self.topics:update(data.topic, data.payload)
  end
  return sched.unix_ms()
end

-- --- making one ----------------------------------------------------------------------------------

local function prepare(config, what, level)
  config.registry_addresses = registry_addresses.read(config.registry, what, level + 1)
  for name, value in pairs(CHOSEN[config.compat or 0]) do
    if config[name] == nil then config[name] = value end
  end
  config.breaker = breakers.read(config.breaker, config.compat == 1 and 1 or 2, what .. ": breaker", level + 1)
end

local function complete(self, config)
  local exact = config.compat ~= nil
  local hooks = config.breaker
  self.breakers, self.breaker_count, self.breaker_options = {}, 0, config.breaker
  self.draw, self.correlates = balance.CHOICES[config.balance], config.correlation
  self.plan = {
    timeout_ms = config.request_timeout_ms, retries = config.retries,
    retry = hooks.should_retry or caller.PREDICATES[config.retry] or config.retry,
    should_record = hooks.should_record_failure or (exact and function() return true end) or nil,
    elsewhere = not exact, hedge_ms = config.hedge_ms, exact = exact,
    on_hook_error = function(message) self.log.error("a hook of the breaker failed", { error = message }) end,
  }
  self.plan_default = { __index = self.plan }
  self.link = registry_link.new {
    core = self.core, owner = self.owner, log = self.log, addresses = config.registry_addresses,
    namespace = self.namespace, reconnect_ms = config.reconnect_ms, checks_listing = config.check_listing,
    lookup_timeout_ms = config.registry_lookup_timeout_ms,
    own_key = function() return self:key() end,
    path = function() return address.path(self.host, self.core:port(), self.namespace) end,
    on_up = function() self.topics:restore() end,
    on_change = function(is_up, reason, key)
      local left = reason == "stopped" and "left the registry" or "lost the registry"
      self.log.info(is_up and "registered" or left, {
        registry = key, as = self:key(), reason = reason,
      })
      server.tell(self, "registry", is_up, reason, key)
    end,
  }
  self.namespaces = namespaces.new {
    connections = config.connections, balance = config.balance, owner = self.owner, exact = exact, log = self.log,
    find = function(namespace, exclude) return find(self, namespace, exclude) end,
    dial = function(host, port) return dial(self, host, port) end,
  }
  self.topics = topics.new {
    owner = self.owner, log = self.log, timeout_ms = config.registry_lookup_timeout_ms,
    registry = function() return self.link.client end,
    is_running = function() return self.is_up == true end,
    encode = json.encode, raw = json_values.raw, signature = json.signature,
  }
  self.router:route("/-/health", function() return health(self) end)
  self.router:route("/-/topic/update", function(req) return topic_update(self, req) end)
  self.reserved = { ["/-/health"] = true, ["/-/topic/update"] = true }
end

local REACTIONS = setmetatable({}, { __index = server.REACTIONS })

function REACTIONS.closed(self, conn, reason)
  if not self.link:closed(conn, reason) then self.links:closed(conn, reason) end
end

local DESCRIPTION = {
  name = "application", spec = SPEC, events = EVENTS, reactions = REACTIONS,
  connected = "connected", disconnected = "disconnected", prepare = prepare, complete = complete,
}

--- Makes an application. Nothing listens or connects before `start`. Events, and what a listener gets:
---   registry(is_up, reason, key)      it is registered, or not any more, at the registry "host:port"
---   connected(client)                 another node, whoever dialled
---   disconnected(client, reason)
---   breaker(namespace, key, status)   of an instance: "closed", "open", "half-open"
---   error(message, where, from)       a handler raised
---@param opts znl.ApplicationOptions
---@return znl.Application
function M.new(opts)
  local self = server.open(Application, DESCRIPTION, opts)
  return self
end

return M
