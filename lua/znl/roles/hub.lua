--- znl.roles.hub: WebSocket channels, presence and broadcast, over as many instances as there are on one bus (spec
--- ws-cluster).
---
---   stopped --start--> running --close--> stopped
---
--- What is sent goes to the connections of this instance first, then once to the bus. Without the bus everything
--- goes on with what is here. Channels and listeners belong to the hub and outlive a close.
--- SPDX-License-Identifier: MIT

local admission = require("znl.hub.admission")
local connection = require("znl.hub.connection")
local crypto = require("znl.core.crypto")
local estate = require("znl.versions.estate")
local handlers = require("znl.versions.handlers")
local hooks = require("znl.hub.hooks")
local hub_options = require("znl.hub.options")
local instance = require("znl.hub.instance")
local options = require("znl.options")
local role = require("znl.roles.role")
local route_path = require("znl.routing.route_path")
local router = require("znl.routing.router")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local server = require("znl.roles.server")
local sessions = require("znl.hub.sessions")
local slots = require("znl.versions.slots")
local task = require("znl.tasks.task")
local tls = require("znl.core.tls")
local websocket = require("znl.websocket")

local M = {}

local EVENTS = {
  "bus", "displaced", "error", "member_added", "member_removed", "member_updated", "partial", "slow",
}
local DRAIN_RULE = { type = "integer", min = 0, max = 86400000, default = 5000 }
--- What a hub keeps of the time a stopping process has, to say goodbye on the bus.
local LEAVE_MS = 300
local LOOK_MS = 5
--- Connections that are refused, and pages, need sockets beside those of the clients.
local SPARE_SOCKETS = 256
local EXCEPT_MAX = 100000
local ORIGIN_BYTES = 18

---@class znl.Hub
---@field app string
---@field instance_id string  what other instances know this one by
---@field private instance? znl.HubInstance  while it runs, and its last handlers end
local Hub = {}
Hub.__index = Hub

local function tell(self, event, ...)
  if self.emitter:wanted(event) then task.background(self.owner, self.emitter.emit, self.emitter, event, ...) end
end

--- Something of the script failed.
---@private
function Hub:report(where, message, from, ns)
  message = role.without_our_trace(tostring(message))
  self.counts.failed = self.counts.failed + 1
  self.log.error(where .. " failed", { ns = ns, from = from, error = message })
  tell(self, "error", message, where, from)
end

-- --- channels ------------------------------------------------------------------------------------

--- Connections whose channel is gone.
local function close_orphans(self)
  local orphans = {}
  for _, ctx in pairs(self.open) do
    if not self.find(ctx.ns) then orphans[#orphans + 1] = ctx end
  end
  for _, ctx in ipairs(orphans) do ctx:close(1001, "the channel is closed") end
end

--- What the router is given for hooks of the script.
local function answer_of(self, given)
  local owner = role.current_owner()
  local function run(visit)
    if owner then sched.become(owner) end
    return hooks.answer(given, visit)
  end
  self.free[run] = owner == nil
  return run
end

local function put_channel(self, path, register)
  local identity = route_path.identity(path)
  local key = "channel " .. identity:gsub(":[%a_][%w_]*", ":")
  local holder = self.slots.holders[key]
  if holder and holder.home == scope.current() then
    error(("%s:channel: %s has handlers already"):format(self.what, path), 3)
  end
  self.slots:put(key, function()
    local before = self.removals[key]
    if before then before() end
    local remove = register()
    self.removals[key] = remove
    return function(is_holder)
      if not is_holder then return end
      remove()
      self.removals[key] = nil
      close_orphans(self)
    end
  end)
  local mine = self.slots.holders[key]
  return function()
    if self.slots.holders[key] == mine then self.slots:clear(key) end
  end
end

--- Serves a path with handlers: a table of functions, one function as `on_message`, or znl.handlers(path), which is
--- replaced as its file changes and keeps the connections. A folder serves each of its files below the path. A path
--- that has handlers already is refused.
---@param path string  "/ws/chat", "/rooms/:id"; the path of a connection is its namespace
---@param given znl.HubHandlers|fun(ctx: znl.HubContext, message: znl.HubMessage)|znl.Handlers
---@return fun() remove  closes its connections, too
function Hub:channel(path, given)
  local variants, message = route_path.parse(path)
  if not variants then error(("%s:channel: %s"):format(self.what, message), 2) end
  local register
  if handlers.is(given) then
    local ok, problem = given:serves_channels()
    if not ok then error(("%s:channel: %s"):format(self.what, problem), 2) end
    register = function()
      if given.router then return self.router:mount(path, given) end
      return self.router:route(path, given)
    end
  else
    local read, problem = hooks.read(given)
    if not read then error(("%s:channel: %s"):format(self.what, problem), 2) end
    local answer = answer_of(self, read)
    register = function() return self.router:route(path, answer) end
  end
  return put_channel(self, path, register)
end

Hub.handle = Hub.channel

-- --- sending -------------------------------------------------------------------------------------

local function invalid(what, message) return nil, ("%s: %s"):format(what, message), "INVALID" end

local function stopped(self) return nil, self.what .. ": it is not running", "STOPPED" end

local function is_message(message)
  return type(message) == "table" and type(message.type) == "string"
end

---@class znl.HubBroadcast
---@field ns string
---@field channel? string  only sessions that joined with it
---@field message znl.HubMessage
---@field except_session_ids? string[]

local BROADCAST = { ns = true, channel = true, message = true, except_session_ids = true }

--- Sends to all connections of a namespace, on all instances. What other instances make of it is not known.
---@param entry znl.HubBroadcast
---@return integer|nil deliveries  to connections of this instance
---@return string? message
---@return "INVALID"|"STOPPED"|"NO_MEMORY"|string? code
function Hub:broadcast(entry)
  if type(entry) ~= "table" then error("hub:broadcast: needs a table, not a " .. type(entry), 2) end
  for name in pairs(entry) do
    if not BROADCAST[name] then error(("hub:broadcast: there is no %s in it"):format(tostring(name)), 2) end
  end
  if type(entry.ns) ~= "string" or entry.ns == "" then return invalid("hub:broadcast", "ns must be a text") end
  if entry.channel ~= nil and not sessions.is_id(entry.channel) then
    return invalid("hub:broadcast", "channel must be a text of 1 to 1024 bytes")
  end
  if not is_message(entry.message) then
    return invalid("hub:broadcast", "message must be a table with a text as type")
  end
  local except = entry.except_session_ids
  if except ~= nil and not sessions.are_names(except, EXCEPT_MAX) then
    return invalid("hub:broadcast", "except_session_ids must be an array of texts")
  end
  if not self.is_running then return stopped(self) end
  return self.instance.fanout:broadcast(entry.ns, entry.channel, entry.message, except)
end

--- Sends to all sessions of a user, in any namespace, on all instances.
---@param user_id string
---@param message znl.HubMessage
---@return integer|nil deliveries  to connections of this instance
---@return string? message
---@return "INVALID"|"STOPPED"|"NO_MEMORY"|string? code
function Hub:direct_to_user(user_id, message)
  if not sessions.is_id(user_id) then
    return invalid("hub:direct_to_user", "the user must be a text of 1 to 1024 bytes")
  end
  if not is_message(message) then
    return invalid("hub:direct_to_user", "the message must be a table with a text as type")
  end
  if not self.is_running then return stopped(self) end
  return self.instance.fanout:direct(user_id, message)
end

-- --- sessions and roster -------------------------------------------------------------------------

local function check_context(self, ctx, what, level)
  if type(ctx) ~= "table" or ctx.hub ~= self then
    error(("hub:%s: needs the context of a connection of this hub"):format(what), level + 1)
  end
end

--- Maps a connection to a session of a user and tells the cluster; again: with what is new. Who a client is decides
--- the script, not the client.
---@param ctx znl.HubContext
---@param session znl.HubSession
---@return true|nil ok
---@return string? message
---@return "INVALID"|"LIMIT"|"TOO_BIG"|"CLOSED"|"STOPPED"|string? code
function Hub:join_session(ctx, session)
  check_context(self, ctx, "join_session", 2)
  if type(session) ~= "table" then error("hub:join_session: needs a table, not a " .. type(session), 2) end
  if not self.is_running then return stopped(self) end
  return self.instance.sessions:join(ctx, session)
end

--- Takes the session from a connection; a connection that ends does that by itself.
---@param ctx znl.HubContext
---@return boolean  false: it had none
function Hub:leave_session(ctx)
  check_context(self, ctx, "leave_session", 2)
  return self.is_running and self.instance.sessions:leave(ctx)
end

--- The sessions in a namespace, on all instances that are known; in no order.
---@param ns string
---@return znl.HubMember[]
function Hub:roster(ns)
  if type(ns) ~= "string" then error("hub:roster: the namespace must be a text, not a " .. type(ns), 2) end
  return self.is_running and self.instance.roster:list(ns) or {}
end

--- The connections of this instance, of one namespace or of all.
---@param ns? string
---@return znl.HubContext[]
function Hub:contexts(ns)
  if ns ~= nil and type(ns) ~= "string" then
    error("hub:contexts: the namespace must be a text, not a " .. type(ns), 2)
  end
  local list = {}
  for _, ctx in pairs(self.open) do
    if ns == nil or ctx.ns == ns then list[#list + 1] = ctx end
  end
  return list
end

--- Whether members of others may be missing: the bus was away for longer than they are kept.
---@return boolean
function Hub:is_partial() return self.is_running and self.instance.roster:is_partial() end

-- --- life ----------------------------------------------------------------------------------------

--- A connection begins.
---@private
function Hub:enter(ctx)
  self.open[ctx.id] = ctx
  self.connections = self.connections + 1
  self.counts.connected = self.counts.connected + 1
  if not self.is_running then ctx:close(1001) end
end

--- A connection ends. What it was stays readable for on_disconnect.
---@private
function Hub:leave(ctx)
  local session_id = ctx.session_id
  self.instance.sessions:leave(ctx)
  self.instance.fanout:detach(ctx.id)
  self.open[ctx.id] = nil
  self.connections = self.connections - 1
  ctx.id, ctx.session_id = nil, session_id
end

--- Without yielding: from callbacks of the core.
local FANOUT_EVENTS = {
  -- Its handler may be at work for long; the session must not be there so long.
  ended = function(self, id)
    local ctx = self.open[id]
    if not ctx or not ctx.session_id then return end
    local session_id, channels = ctx.session_id, ctx.channels
    self.instance.sessions:leave(ctx)
    ctx.session_id, ctx.channels = session_id, channels -- to be read until the end
  end,
  slow = function(self, id)
    local ctx = self.open[id]
    if not ctx then return end
    if self.config.on_slow == "close" then ctx.ending = ctx.ending or "SLOW" end
    tell(self, "slow", ctx)
  end,
  error = function(self, code, text)
    self.log.warn("the bus took no message", { code = code, error = text })
    tell(self, "error", text, "bus")
  end,
}

local ROSTER_EVENTS = {
  added = function(self, ...) tell(self, "member_added", ...) end,
  updated = function(self, ...) tell(self, "member_updated", ...) end,
  removed = function(self, ...) tell(self, "member_removed", ...) end,
  displaced = function(self, session_id, by)
    local ctx = self.instance.sessions:holder(session_id)
    if ctx then tell(self, "displaced", session_id, ctx, by) end
  end,
  partial = function(self, is_partial)
    self.log.warn(is_partial and "members of other instances may be missing" or "the roster is complete again")
    tell(self, "partial", is_partial)
  end,
}

local function listener(self, reactions)
  return role.weakly(self, function(hub, name, ...)
    local react = reactions[name]
    if react then react(hub, ...) end
  end)
end

--- What the instance of this hub tells.
local function instance_parts(self)
  local function on_displaced(session_id, ctx, by) tell(self, "displaced", session_id, ctx, by) end
  return {
    what = self.what, config = self.config, id = self.instance_id, on_displaced = on_displaced,
    on_fanout = listener(self, FANOUT_EVENTS), on_roster = listener(self, ROSTER_EVENTS),
    on_bus = function(state)
      if not self.is_running then return end
      self.log[state == "online" and "info" or "warn"]("the bus is " .. state)
      tell(self, "bus", state)
    end,
  }
end

local function open(self)
  local config = self.config
  local message, code
  self.server, message, code = websocket.serve {
    listen = config.listen, tls = self.tls, max_connections = config.max_connections + SPARE_SOCKETS,
    max_message_bytes = config.max_message_bytes, max_queue_bytes = config.max_queue_bytes,
    max_inbox_bytes = config.max_inbox_bytes, handshake_ms = config.handshake_ms, close_ms = config.close_ms,
    on_request = function(request) return admission.look(self.admission, request) end,
    handle = function(conn, request) connection.run(self, conn, request) end,
  }
  if not self.server then return nil, message, code end
  self.instance, message, code = instance.open(instance_parts(self))
  if not self.instance then return nil, message, code end
  return true
end

local function start(self)
  local ok, message, code = open(self)
  if ok then
    self.is_running = true
    self.forget_stop = runtime.on_stop(function() self:close(math.max(0, runtime.drain_ms() - LEAVE_MS)) end)
    return true
  end
  if self.server then self.server:close() end
  self.server = nil
  return nil, message, code
end

--- Listens, and joins the cluster; harmless when it runs. A bus that is away is no error: it comes when it comes.
--- It stops by itself when the process is told to end. Yields.
---@return true|nil ok
---@return string? message
---@return "ADDRESS_IN_USE"|"ADDRESS"|"STOPPED"|string? code
function Hub:start()
  while self.busy do
    local ok, message, code = self.busy:wait()
    if not ok then return nil, message, code end
  end
  if self.is_running then return true end
  estate.make_room(self)
  local turn = sched.event()
  self.busy = turn
  -- Apart from the version of code that asks: it may be replaced, and the hub goes on.
  local run, problem, its_code = task.background(self.owner, start, self)
  local ok, message, code = nil, problem, its_code
  if run then ok, message, code = run:wait() end
  self.busy = nil
  turn:set(true)
  return ok, message, code
end

local function wait_for_handlers(self, drain_ms)
  local ends_ms = sched.now_ms() + drain_ms
  while self.connections > 0 and sched.now_ms() < ends_ms do sched.sleep(LOOK_MS) end
  if self.connections == 0 then return true end
  return nil, ("hub:close: handlers of %d connections are still at work"):format(self.connections), "TIMEOUT"
end

local function close(self, drain_ms)
  local ok, message, code = wait_for_handlers(self, drain_ms)
  for _, ctx in pairs(self.open) do ctx:abandon() end
  self.open, self.connections = {}, 0
  self.instance:close()
  self.instance = nil
  self.busy:set(true)
  self.busy = nil
  return ok, message, code
end

--- Takes no more connections, closes those there are with 1001, takes their sessions from the rosters of all
--- instances and waits for handlers that are at work. Harmless when it is stopped. Yields.
---@param drain_ms? integer  for the handlers, default 5000
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"? code  handlers are still at work; it is closed all the same
function Hub:close(drain_ms)
  if drain_ms == nil then drain_ms = DRAIN_RULE.default end
  if not options.accepts(DRAIN_RULE, drain_ms) then
    error("hub:close: drain_ms must be a whole number in 0..86400000", 2)
  end
  if not self.is_running then
    if self.busy then self.busy:wait() end
    return true
  end
  self.is_running, self.busy = false, sched.event()
  self.forget_stop()
  self.forget_stop = nil
  self.server:close()
  self.server = nil
  self.instance.roster:stop() -- in the order of the joins; then the connections
  for _, ctx in pairs(self.open) do self.instance.sessions:leave(ctx) end
  local run, problem, its_code = task.background(self.owner, close, self, drain_ms)
  if not run then return nil, problem, its_code end
  return run:wait()
end

---@return boolean
function Hub:running() return self.is_running end

--- local: without a bus; online, offline: with one that is connected, or not.
---@return "stopped"|"local"|"online"|"offline"
function Hub:state()
  return self.is_running and self.instance:state() or "stopped"
end

--- The port it listens on; nil while it does not.
---@return integer|nil
function Hub:port() return self.server and self.server.port or nil end

--- How often what happened, and what is there now.
---@return table<string, number>
function Hub:counters()
  local result = { connections = self.connections, running = self.is_running and 1 or 0 }
  for name, value in pairs(self.counts) do result[name] = value end
  for name, value in pairs(self.is_running and self.instance:counters() or {}) do result[name] = value end
  return result
end

Hub.on, Hub.once, Hub.off = role.Role.on, role.Role.once, role.Role.off

-- --- making one ----------------------------------------------------------------------------------

local COUNTS = {
  "connected", "failed", "idle", "invalid", "messages", "overloaded", "rate_limited", "refused_failed",
  "refused_full", "refused_identity", "refused_origin", "refused_path", "silent",
}

--- Functions of the script that come and go with its version.
local function put_function(self, name, fn)
  if not fn then return end
  local owner = role.current_owner()
  local own = owner and function(...)
    sched.become(owner)
    return fn(...)
  end or fn
  self.slots:put(name, function()
    self.functions[name] = own
    return function(is_holder)
      if is_holder then self.functions[name] = nil end
    end
  end)
end

local function pages_of(self)
  local fn = self.functions.on_request
  if not fn then return nil end
  -- In a task of its own, as hooks are.
  return function(request)
    local run, message = task.spawn(function() return { fn(request) } end)
    if not run then error(message, 0) end
    local result, problem = run:wait()
    if not result then error(problem, 0) end
    return result[1], result[2], result[3]
  end
end

local function build(config)
  local owner, problem = sched.owner()
  if not owner then return nil, problem end
  local tls_context, refusal = server.tls_context(tls.server, config.tls, "tls")
  if refusal then return nil, refusal end
  local self = setmetatable({
    app = config.app, config = config, owner = owner, tls = tls_context, router = router.new(), removals = {},
    functions = {}, open = {}, connections = 0, counts = {}, is_running = false,
    free = setmetatable({}, { __mode = "k" }), -- functions that belong to no version of code
    instance_id = (crypto.random(ORIGIN_BYTES):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)),
  }, Hub)
  for _, name in ipairs(COUNTS) do self.counts[name] = 0 end
  role.init(self, { what = "znl.hub", name = config.app, events = EVENTS })
  self.slots = slots.new()
  self.find = function(path)
    local run, params = self.router:find(path)
    return run, params, self.free[run or false]
  end
  self.admission = {
    config = config, counts = self.counts, find = self.find,
    pages = function() return pages_of(self) end,
    own_authenticate = function() return self.functions.authenticate end,
    is_open = function() return self.is_running end,
    is_full = function() return self.connections >= config.max_connections end,
    report = function(where, message, from) self:report(where, message, from) end,
  }
  return self
end

--- The version of the script that made it has gone.
local function finish(self)
  task.background(self.owner, self.close, self, 0)
end

--- Makes a hub. It does not listen before `start`. Events, and what a listener gets:
---   member_added(ns, session_id, user_id, owner), member_updated(…)
---   member_removed(ns, session_id, user_id, owner, cause)  cause: left expired displaced missing stopped
---   displaced(session_id, ctx, by)  a session of this instance was joined again: here, or at the instance `by`
---   bus(state)                      "online" or "offline"
---   partial(is_partial)
---   slow(ctx)                       its queue is full
---   error(message, where, from)
---@param opts znl.HubOptions
---@return znl.Hub
function M.new(opts)
  local what = "znl.hub"
  local config = hub_options.read(opts, what, 2)
  local declaration = {}
  for name, value in pairs(opts) do
    if type(value) ~= "function" then declaration[name] = value end
  end
  local self, message = estate.take(what, config.app .. " " .. config.listen, declaration, function()
    return build(config)
  end, finish)
  if not self then error(("%s: %s"):format(what, message), 2) end
  put_function(self, "authenticate", config.authenticate)
  put_function(self, "on_request", config.on_request)
  return self
end

return M
