--- znl.roles.cluster_client: several processes share one client of something: who wins the port leads and runs
--- it, all others follow and reach it over a connection (spec cluster-client, section 8).
---
---   stopped --start--> electing --> leading | following --lost--> electing ...   --close--> stopped
---
--- Subscriptions and publications belong to this object and outlive its terms: a new leader is asked for all
--- of them before calls go on. A call made meanwhile waits; one that was under way fails with "CLOSED", unless
--- its method is declared safe to be sent again.
--- SPDX-License-Identifier: MIT

local cluster_options = require("znl.cluster.options")
local estate = require("znl.versions.estate")
local exports = require("znl.cluster.exports")
local failure = require("znl.cluster.failure")
local options = require("znl.options")
local places = require("znl.cluster.places")
local publications = require("znl.cluster.publications")
local registration = require("znl.cluster.registration")
local role = require("znl.roles.role")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local secret = require("znl.secret")
local server = require("znl.roles.server")
local subscriptions = require("znl.cluster.subscriptions")
local task = require("znl.tasks.task")
local terms = require("znl.cluster.terms")
local tls = require("znl.core.tls")
local values = require("znl.cluster.values")

local M = {}

local EVENTS = { "ready", "lost", "error", "failover", "follower_joined", "follower_left" }
--- What a client keeps of the time a stopping process has.
local LEAVE_MS = 300
--- Between attempts to tell a leader that does not read as fast as it is written to.
local BUSY_MS = 10

local CALL_SPEC = { timeout_ms = { type = "integer", min = 1, max = 86400000 } }
local READY_RULE = { type = "integer", min = 0, max = 86400000 }

---@class znl.ClusterClient
local Client = {}

local function tell(self, event, ...)
  if self.emitter:wanted(event) then task.background(self.owner, self.emitter.emit, self.emitter, event, ...) end
end

-- --- calls ---------------------------------------------------------------------------------------

--- The declared method of that name.
local function method_of(self, name, level)
  local entry = self.exports.methods[name]
  if entry then return entry end
  if type(name) ~= "string" or name == "" then
    error(("%s: the method must be a text that is not empty, not %s"):format(
      self.title, type(name) == "string" and "an empty one" or "a " .. type(name)), level + 1)
  end
  if self.config.any_method then return { name = name, kind = "invoke", retry = false } end
  local names = {}
  for known in pairs(self.exports.methods) do names[#names + 1] = known end
  local nearest = options.nearest(name, names)
  error(("%s: there is no method %q%s"):format(
    self.title, name, nearest and ("; did you mean %s?"):format(nearest) or ""), level + 1)
end

--- What a failed call returns. The core says "invoke" where callers know a method.
local function failed(self, name, message, code, err)
  self.failed_calls = self.failed_calls + 1
  if err == nil then
    if type(message) == "string" then message = message:gsub("^invoke: ", function() return name .. ": " end) end
    return nil, message, code
  end
  if code == nil then code = failure.CODE end
  return nil, message, code, err
end

--- `was_lost`: an attempt went out and was not answered. Yields.
local function invoke_slowly(self, entry, ends_ms, was_lost, n, ...)
  while true do
    if was_lost then
      if not self.terms.is_running then return failed(self, entry.name, self.title .. ": it was closed", "STOPPED") end
      if not entry.retry then
        return failed(self, entry.name, entry.name .. ": the leader was lost; it may have been done or not", "CLOSED")
      end
      self.retried = self.retried + 1
    end
    self.waiting = self.waiting + 1
    local ok, problem, its_code = self.terms:await(ends_ms)
    self.waiting = self.waiting - 1
    if not ok then return failed(self, entry.name, problem, its_code) end
    local timeout_ms = math.max(1, math.ceil(ends_ms - sched.now_ms()))
    local result, message, code, err = self.terms.term:invoke(entry.name, timeout_ms, n, ...)
    if message == nil then return result end
    if code ~= "CLOSED" or err ~= nil then return failed(self, entry.name, message, code, err) end
    was_lost = true
  end
end

local function invoke(self, entry, timeout_ms, ...)
  local link = self.terms.link
  if link then
    local began_ms = entry.retry and sched.now_ms() or 0
    local result, message, code, err = link:invoke(entry.name, timeout_ms, select("#", ...), ...)
    if message == nil then return result end
    if code ~= "CLOSED" or err ~= nil then return failed(self, entry.name, message, code, err) end
    return invoke_slowly(self, entry, began_ms + timeout_ms, true, select("#", ...), ...)
  end
  return invoke_slowly(self, entry, sched.now_ms() + timeout_ms, false, select("#", ...), ...)
end

--- Calls a method of the real client, wherever that is. While there is no leader it waits for one. Yields.
---@param method string
---@param ... any  whatever the transcode can carry
---@return any result
---@return string? message
---@return "TIMEOUT"|"CLOSED"|"STOPPED"|"CANCELLED"|"LIMIT"|"BUSY"|"INVALID"|any code  or that of the error
---@return znl.ClusterError? err  the method failed: message, name, code, stack
function Client:invoke(method, ...)
  local entry = self.exports.methods[method] or method_of(self, method, 2)
  return invoke(self, entry, self.response_timeout_ms, ...)
end

---@class znl.ClusterCallOptions
---@field timeout_ms? integer

--- The same with options. Yields.
---@param method string
---@param opts znl.ClusterCallOptions|nil
---@param ... any
---@return any result
---@return string? message
---@return any code
---@return znl.ClusterError? err
function Client:call(method, opts, ...)
  local entry = self.exports.methods[method] or method_of(self, method, 2)
  local timeout_ms = options.read(CALL_SPEC, opts, self.what .. ":call", 2).timeout_ms
  return invoke(self, entry, timeout_ms or self.response_timeout_ms, ...)
end

local function oneway(self, entry, ...)
  local ends_ms = sched.now_ms() + self.response_timeout_ms
  while true do
    local term = self.terms.term
    if term then
      local ok, message, code = term:oneway(entry.name, self.response_timeout_ms, select("#", ...), ...)
      if ok then return true end
      if code ~= "CLOSED" then return nil, message, code end
      if self.terms.term == term then return nil, message, code end
    end
    local ok, message, code = self.terms:await(ends_ms)
    if not ok then return nil, message, code end
  end
end

--- Calls a method and wants no answer. Waits only while there is no leader. Yields.
---@param method string
---@param ... any
---@return true|nil ok  it was sent
---@return string? message
---@return string? code
function Client:oneway(method, ...)
  local entry = self.exports.methods[method] or method_of(self, method, 2)
  return oneway(self, entry, ...)
end

-- --- subscriptions -------------------------------------------------------------------------------

--- Tells a leader what it must not miss, as soon as there is room, unless that is of no use any more. Yields when
--- there is none.
---@param is_wanted fun(): boolean
---@param send fun(): true|nil, string?, string?
local function tell_leader(self, term, is_wanted, send)
  while is_wanted() do
    local ok, message, code = send()
    if ok or code ~= "BUSY" then return ok, message, code end
    if not sched.sleep(BUSY_MS) or self.terms.term ~= term then return nil, "the connection ended", "CLOSED" end
  end
  return true
end

--- Yields when there is no room.
---@return true|nil ok  nil: the term is over
---@return string? message
---@return string? code
local function subscribe_at(self, term, key)
  local subscription = self.subscriptions.by_key[key]
  local ok, message, code = tell_leader(self, term,
    function() return subscription ~= nil and self.subscriptions.by_key[key] == subscription end,
    function() return term:subscribe(key, subscription.text) end)
  if ok then return true end
  if code == "CLOSED" then return nil, message, code end
  self.report(("%s is not subscribed: %s"):format(registration.shown(key), message), "subscribe")
  return true
end

--- With `subscribe_timeout_ms`: says so when no value has come by then.
local function watch_first_value(self, key)
  local timeout_ms = self.config.subscribe_timeout_ms
  if not timeout_ms then return end
  local subscription = self.subscriptions.by_key[key]
  task.background(self.owner, function()
    if not sched.sleep(timeout_ms) or self.subscriptions.by_key[key] ~= subscription then return end
    if not subscription.was_told then
      self.report(("no value of %s in %d ms"):format(registration.shown(key), timeout_ms), "subscribe")
    end
  end)
end

--- A listener is a registration of znl.versions.scope: it ends with the version of code that added it.
local Listener = {}
Listener.__index = Listener

function Listener:start()
  local client = self.client
  if self.home then self.owner = self.home.owner end
  local is_first = client.subscriptions:add(self, self.text)
  client.staged[self] = nil
  if not is_first then return end
  watch_first_value(client, self.key)
  local term = client.terms.term
  if not term then return end
  local ok, message, code = term:subscribe(self.key, self.text)
  if code == "BUSY" then
    task.background(client.owner, subscribe_at, client, term, self.key)
  elseif not ok and code ~= "CLOSED" then
    client.report(("%s is not subscribed: %s"):format(registration.shown(self.key), message), "subscribe")
  end
end

function Listener:undo()
  local client = self.client
  local term = client.terms.term
  if client.subscriptions:remove(self) and term then term:unsubscribe(self.key, self.text) end
end

local function key_of(self, reg, what, level)
  local key, text, code = registration.key(reg, self.config.format_key)
  if not key then error(("%s:%s: the registration: %s (%s)"):format(self.what, what, text, code), level + 1) end
  return key, text
end

--- A leader of the original dies of a subscription or publication that its client has no method for. What this
--- process would lead with tells; a function that makes it, or none, does not.
local function check_has(self, method, what, level)
  local object = self.terms.opts.election.source.client
  if type(object) == "table" and type(object[method]) ~= "function" then
    error(("%s:%s: the client has no method %q"):format(self.what, what, method), level + 1)
  end
end

--- Calls `listener(value)` with the last value of what `reg` names, if there is one, and with each later one.
--- It may wait; values that come meanwhile wait in turn. Nothing may change a value.
---@param reg any  whatever JSON can carry
---@param listener fun(value: any)
---@return fun() off  takes it back
function Client:subscribe(reg, listener)
  if type(listener) ~= "function" then
    error(self.what .. ":subscribe: the listener must be a function, not a " .. type(listener), 2)
  end
  check_has(self, self.exports.subscribe, "subscribe", 2)
  local key, text = key_of(self, reg, "subscribe", 2)
  local entry = setmetatable({
    client = self, key = key, text = text, fn = listener, owner = self.owner, is_busy = false, is_removed = false,
    has_received = false,
  }, Listener)
  if scope.add(entry) and not entry.started then self.staged[entry] = true end
  return function() scope.remove(entry) end
end

--- Takes back one listener of what `reg` names, or all of them.
---@param reg any
---@param listener? fun(value: any)
function Client:unsubscribe(reg, listener)
  local key = key_of(self, reg, "unsubscribe", 2)
  for _, entry in ipairs(self.subscriptions:listeners(key, listener)) do scope.remove(entry) end
  for entry in pairs(self.staged) do
    if entry.key == key and (listener == nil or entry.fn == listener) then scope.remove(entry) end
  end
end

-- --- publications --------------------------------------------------------------------------------

local function publish_now(self, term, value)
  return term:oneway(self.exports.publish, self.config.response_timeout_ms, 1, value)
end

--- What a publication is known by. What JSON cannot carry, such as bytes, is known by what would be sent.
---@return string|nil key
---@return string? message
---@return string? code
local function publication_key(self, reg, what, level)
  if reg == nil then error(("%s:%s: the registration must not be nil"):format(self.what, what), level + 1) end
  local by = self.config.publication_key
  if not by then
    local key = registration.text(reg)
    if key then return key end
    return values.text(self.pair, reg)
  end
  local key = by(reg)
  if type(key) == "string" then return key end
  error(("%s:%s: publication_key returned a %s, not a text"):format(self.what, what, type(key)), level + 1)
end

--- Publishes: the leader is told now, or as soon as there is one, and so is every later one. A publication with
--- the same key (`publication_key`; without it the whole of `reg`) takes its place. Does not yield.
---@param reg any
---@return true|nil ok
---@return string? message
---@return "LIMIT"|"INVALID"|"BUSY"|"TOO_BIG"|string? code  it is not remembered either
function Client:publish(reg)
  check_has(self, self.exports.publish, "publish", 2)
  local key, message, code = publication_key(self, reg, "publish", 2)
  if not key then return nil, "publish: cannot send " .. message, code end
  local value
  value, message, code = registration.value(reg)
  if message then return nil, message, code end
  local ok, before, is_new = self.publications:put(key, value)
  if not ok then
    return nil, ("%s: %d publications are remembered, no more"):format(self.title, self.publications.count), "LIMIT"
  end
  local term = self.terms.term
  if not term then return true end
  ok, message, code = publish_now(self, term, value)
  if ok or code == "CLOSED" then return true end
  if is_new then self.publications:remove(key) else self.publications:put(key, before) end
  return nil, message, code
end

--- Forgets a publication: later leaders are not told. Does not yield.
---@param reg any
---@return boolean  whether it was remembered
function Client:unpublish(reg)
  local key = publication_key(self, reg, "unpublish", 2)
  return key ~= nil and self.publications:remove(key)
end

-- --- life ----------------------------------------------------------------------------------------

--- Elects and waits until it leads or follows. When it fails it goes on trying until it is closed; only a client
--- that must lead (`leader = true`) ends, with "ADDRESS_IN_USE". Harmless when it runs. Yields.
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"|"REFUSED"|"DENIED"|"ADDRESS_IN_USE"|"STOPPED"|any code
function Client:start()
  if not self.terms.is_running then estate.make_room(self) end
  local settled, message, code = self.terms:start()
  if not settled then return nil, message, code end
  if self.terms.is_running and not self.forget_stop then
    self.forget_stop = runtime.on_stop(function()
      self:drain(math.max(0, runtime.drain_ms() - LEAVE_MS))
      self:close()
    end)
  end
  local ok
  ok, message, code = self.terms:await(sched.now_ms() + self.config.max_wait_ms, settled)
  if ok then return true end
  if not self.terms.is_running then self:close() end
  return nil, message, code
end

--- Waits until it leads or follows. Yields.
---@param timeout_ms? integer  default: `max_wait_ms`
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"|"STOPPED"|"REFUSED"|"DENIED"|"ADDRESS_IN_USE"|"CANCELLED"|"DEADLINE"|any code
function Client:ready(timeout_ms)
  if timeout_ms == nil then timeout_ms = self.config.max_wait_ms end
  if not options.accepts(READY_RULE, timeout_ms) then
    error(self.what .. ":ready: timeout_ms must be a whole number in 0..86400000", 2)
  end
  local ok, message, code = self.terms:await(sched.now_ms() + timeout_ms)
  if ok then return true end
  return nil, message, code
end

--- Ends it: a leader lets go of the port and closes the real client, calls that wait end with "STOPPED".
--- Subscriptions and publications stay, for another start. Harmless when it is stopped.
function Client:close()
  if self.forget_stop then self.forget_stop() end
  self.forget_stop = nil
  self.terms:close()
end

---@return boolean
function Client:running() return self.terms.is_running end

---@return boolean
function Client:is_leader() return self.terms.state == "leading" end

---@return "stopped"|"electing"|"leading"|"following"
function Client:state() return self.terms.state end

--- How often what happened, of this client and of the term it is in.
---@return table<string, number>
function Client:counters()
  local own = self.terms
  local result = own.term and own.term:counters() or {}
  result.leading = self:is_leader() and 1 or 0
  result.terms, result.failovers, result.failover_ms = own.count, own.failovers, own.failover_ms
  result.subscriptions, result.publications = self.subscriptions.count, self.publications.count
  result.values_received, result.values_dropped = self.subscriptions.received, self.subscriptions.dropped
  result.waiting_calls, result.retried_calls, result.failed_calls = self.waiting, self.retried, self.failed_calls
  return result
end

--- The keys that are subscribed at this leader; none elsewhere.
---@return {key: string, members: integer, published: integer, bytes: integer}[]
function Client:keys()
  return self:is_leader() and self.terms.term:keys() or {}
end

Client.on, Client.once, Client.off, Client.drain = role.Role.on, role.Role.once, role.Role.off, role.Role.drain

-- --- making one ----------------------------------------------------------------------------------

--- `client.get(id)`: the argument would be lost.
local function no_colon(self, entry)
  error(("%s: %s is called with a colon: client:%s(...)"):format(self.title, entry.name, entry.name), 3)
end

--- Calls by name: `client:get(id)` is `client:invoke("get", id)`.
local BY_KIND = {
  invoke = function(self, entry)
    return function(face, ...)
      if type(face) ~= "table" then no_colon(self, entry) end
      return invoke(self, entry, self.response_timeout_ms, ...)
    end
  end,
  oneway = function(self, entry)
    return function(face, ...)
      if type(face) ~= "table" then no_colon(self, entry) end
      return oneway(self, entry, ...)
    end
  end,
}

--- What the script gets: methods and nothing else, so that a method of the real client may have any name but
--- those of the client's own.
local function face_of(self, declared)
  local methods = {}
  for name, fn in pairs(Client) do
    methods[name] = function(_, ...) return fn(self, ...) end -- a tail call: errors blame the caller
  end
  for name, entry in pairs(declared.all) do
    local by_kind = BY_KIND[entry.kind]
    methods[name] = methods[name] or (by_kind and by_kind(self, entry)) or methods[entry.kind]
  end
  return setmetatable({}, { __index = methods })
end

--- A leader was found: it is asked for all that is subscribed here and told all that was published. Yields when
--- there is no room; what is subscribed and published meanwhile is told by itself.
local function restore(self, term)
  local keys, entries = {}, self.publications:entries()
  for key in pairs(self.subscriptions.by_key) do keys[#keys + 1] = key end
  for _, key in ipairs(keys) do
    local ok, message, code = subscribe_at(self, term, key)
    if not ok then return nil, message, code end
  end
  for _, entry in ipairs(entries) do
    local ok, message, code = tell_leader(self, term,
      function() return self.publications:has(entry) end,
      function() return publish_now(self, term, entry.value) end)
    if not ok then
      if code == "CLOSED" then return nil, message, code end
      self.report("a publication is not told to the leader: " .. message, "publish")
    end
  end
  return true
end

--- What the terms tell.
local function host_of(self)
  local host = {}
  function host.on_value(key, value) self.subscriptions:deliver(key, value) end
  function host.on_lost(term, reason) self.terms:lose(term, reason) end
  function host.on_error(message, where, from)
    message = role.without_our_trace(message)
    self.log.error((where or "client") .. " failed", { from = from, error = message })
    tell(self, "error", message, where)
  end
  function host.on_trouble(message, code)
    self.terms.trouble = message
    self.log.warn(message, { code = code })
  end
  function host.on_joined(from) tell(self, "follower_joined", from) end
  function host.on_left(from, reason) tell(self, "follower_left", from, reason) end
  function host.on_unclaimed(name, remote)
    self.log.warn("a follower asks for a channel that this process does not lead", { channel = name, from = remote })
  end
  return host
end

--- The context of a table of TLS options, if there is one; raises what is wrong with it.
local function tls_of(make, given, name)
  local context, problem = server.tls_context(make, given, name)
  if problem then error(problem, 0) end
  return context
end

local function build(config, declared)
  local owner, problem = sched.owner()
  if not owner then return nil, problem end
  local self = setmetatable({
    name = config.name, title = config.name, config = config, exports = declared, owner = owner, waiting = 0,
    retried = 0, failed_calls = 0, response_timeout_ms = config.response_timeout_ms,
    pair = values.pair(config.transcode), staged = setmetatable({}, { __mode = "k" }),
    publications = publications.new(config.max_publications),
  }, { __index = Client })
  role.init(self, { what = "znl.cluster_client", name = config.name, events = EVENTS })
  --- What is known already is no news for the log.
  function self.report(message, where, is_known)
    self.log[is_known and "debug" or "warn"](message, { where = where })
    tell(self, "error", message, where)
  end
  local host, place = host_of(self), places.of(places.key(config.host, config.port, config.path))
  self.subscriptions = subscriptions.new {
    max_waiting = config.max_waiting_values, keeps = config.broadcast, on_error = host.on_error,
  }
  self.terms = terms.new {
    title = config.name, config = config, owner = owner, log = self.log, place = place, report = self.report,
    tell = function(event, ...) tell(self, event, ...) end,
    restore = function(term) return restore(self, term) end,
    election = {
      name = config.name, place = place, config = config, secrets = secret.texts(config.secret),
      pair = self.pair, exports = declared, owner = owner, host = host, source = {},
      listen_tls = tls_of(tls.server, config.tls, "tls"), tls = tls_of(tls.client, config.connect_tls, "connect_tls"),
    },
  }
  self.face = face_of(self, declared)
  -- For Role.drain.
  self.core = { drain = function() return self.terms.term and self.terms.term:drain() or 0 end }
  return self
end

--- The real client, which comes and goes with the version of the code. A new object has it at once: it starts
--- while its version is still loading.
local function put_client(self, client)
  local source = { client = client, owner = role.current_owner() }
  local given = self.terms.opts.election
  if given.source.client == nil then given.source = source end
  self.slots:put("client", function()
    if given.source ~= source then self.terms:replace(source) end
    return function() end
  end)
end

local function close(self) self:close() end

--- Makes a client. It does not elect before `start`. Events, and what a listener gets:
---   ready(role)                   "leader" or "follower"
---   lost(reason)                  the leader is gone; the next election begins
---   failover(role, ms)            ready again, so long after the loss
---   error(message, where)
---   follower_joined(from)         of a leader
---   follower_left(from, reason)
---@param opts znl.ClusterClientOptions
---@return znl.ClusterClient
function M.new(opts)
  local what = "znl.cluster_client"
  local config = cluster_options.read(opts, what, 2)
  local declared = exports.read(config.methods, config.client, what, 2)
  local declaration = {}
  for name, value in pairs(opts) do
    if name ~= "client" and type(value) ~= "function" then declaration[name] = value end
  end
  local client = config.client
  config.client = nil
  local function make()
    local ok, made, problem = pcall(build, config, declared)
    if ok then return made, problem end
    return nil, made
  end
  local self, message = estate.take(what, config.name, declaration, make, close)
  if not self then error(("%s: %s"):format(what, message), 2) end
  if client ~= nil then put_client(self, client) end
  return self.face
end

--- An object whose names stand in the order of the list.
M.fields = registration.fields

return M
