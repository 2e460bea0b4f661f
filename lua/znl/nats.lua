--- znl.nats: a connection to NATS: publish, subscribe, ask.
---
---     local nats = assert(znl.nats.connect { servers = "nats://127.0.0.1:4222" })
---     nats:subscribe("greet.*", function(message) message:respond("hello " .. message.data) end)
---     local answer, message, code = nats:request("greet.me", "you", { timeout_ms = 1000 })
---
--- connecting -> connected <-> reconnecting -> closed. It never gives up by itself; subscriptions survive. While it is
--- not connected nothing is kept: publishing fails with "OFFLINE". Delivery is at most once, in the order in which the
--- server sends. A connection stays open until it is closed.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.nats")
local events = require("znl.events")
local log = require("znl.log")
local options = require("znl.options")
local runtime = require("znl.core.runtime")
local scope = require("znl.versions.scope")
local sched = require("znl.core.sched")
local secret = require("znl.secret")
local subscription = require("znl.nats.subscription")
local task = require("znl.tasks.task")
local workers = require("znl.core.workers")

local M = {}

--- What a connection keeps of the time a stopping process has, to close; it has as much when others took all of it.
local STOP_MS = 300
local EVENTS = { "connected", "disconnected", "closed", "error" }
local MIB = 1024 * 1024
local TOLD_MAX = 128 -- reasons: two of each of 64 servers

local function is_servers(value)
  if type(value) == "string" then return value ~= "" end
  if type(value) ~= "table" or #value < 1 or #value > 64 then return false end
  for _, server in ipairs(value) do
    if type(server) ~= "string" or server == "" then return false end
  end
  return true
end

local PATH = { type = "string", min = 1, max = 4096 }

---@class znl.NatsTlsOptions
---@field ca? string  file of certificates to trust; the system's without
---@field cert? string  file of our certificate
---@field key? string  file of its key
---@field server_name? string  whom the certificate must name; the host without
---@field insecure? boolean  takes any certificate: for tests
local TLS_SPEC = {
  ca = PATH, cert = PATH, key = PATH,
  server_name = { type = "string", min = 1, max = 255 },
  insecure = { type = "boolean", default = false },
}

---@class znl.NatsOptions
---@field servers string|string[]  "nats://host:4222", "tls://host", with "user:password@" or "token@" before the host
---@field name? string  what the server calls it in its reports
---@field user? string
---@field password? znl.Secret|string
---@field token? znl.Secret|string
---@field credentials? string  file with a user's token and seed, read at each connect
---@field nkey? string  file with a user's seed, read at each connect
---@field tls? boolean|znl.NatsTlsOptions
---@field echo? boolean  own messages come to own subscriptions too
---@field connect_timeout_ms? integer  of one attempt
---@field reconnect_min_ms? integer  the wait after all servers failed doubles, with jitter
---@field reconnect_max_ms? integer
---@field ping_ms? integer  between pings; two without an answer end the connection
---@field max_outbox_bytes? integer  published and not yet taken by the system
---@field inbox_prefix? string  of the subjects answers come to
---@field wait_ms? integer  how long `connect` waits until it is connected; 0: not at all
M.SPEC = {
  servers = { type = "any", required = true, check = is_servers,
    allowed = 'an address such as "nats://127.0.0.1:4222", or a list of 1 to 64 of them' },
  name = { type = "string", min = 1, max = 1024 },
  user = { type = "string", min = 1, max = 65536 },
  password = { type = "secret" },
  token = { type = "secret" },
  credentials = PATH,
  nkey = PATH,
  tls = { type = "any", allowed = "true, false or a table of files",
    check = function(value) return type(value) == "boolean" or type(value) == "table" end },
  echo = { type = "boolean", default = true },
  connect_timeout_ms = { type = "integer", min = 1, max = 3600000, default = 2000 },
  reconnect_min_ms = { type = "integer", min = 1, max = 3600000, default = 50 },
  reconnect_max_ms = { type = "integer", min = 1, max = 3600000, default = 2000 },
  ping_ms = { type = "integer", min = 10, max = 3600000, default = 10000 },
  max_outbox_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 16 * MIB },
  inbox_prefix = { type = "string", min = 1, max = 80 },
  wait_ms = { type = "integer", min = 0, max = 86400000, default = 5000 },
}

local TIMEOUT = { type = "integer", min = 1, max = 86400000 }

local function check_timeout(what, timeout_ms, fallback)
  if timeout_ms == nil then return fallback end
  if not options.accepts(TIMEOUT, timeout_ms) then
    error(what .. ": timeout_ms must be a whole number in 1..86400000", 3)
  end
  return timeout_ms
end

local function check_texts(what, subject, data)
  if type(subject) ~= "string" then
    error(("%s: the subject must be a text, not a %s"):format(what, type(subject)), 3)
  end
  if type(data) ~= "string" then error(("%s: the data must be a text, not a %s"):format(what, type(data)), 3) end
end

-- --- headers -------------------------------------------------------------------------------------

local function put_header(lines, name, value, what, level)
  if type(name) ~= "string" or name == "" or name:find("[^\33-\126]") or name:find(":", 1, true) then
    error(("%s: %s is no name of a header"):format(what, tostring(name)), level + 1)
  end
  if type(value) ~= "string" or value:find("[%z\r\n]") then
    error(("%s: the header %s must be a text of one line"):format(what, name), level + 1)
  end
  lines[#lines + 1] = ("%s: %s\r\n"):format(name, value)
end

--- Header lines of a table; `level` is whom to blame.
local function header_lines(headers, what, level)
  if headers == nil then return nil end
  if type(headers) ~= "table" then error(what .. ": headers must be a table", level) end
  local lines = {}
  for name, value in pairs(headers) do
    if type(value) == "table" then
      for _, one in ipairs(value) do put_header(lines, name, one, what, level) end
    else
      put_header(lines, name, value, what, level)
    end
  end
  return table.concat(lines)
end

local function check_option_names(opts, known, what, level)
  for name in pairs(opts) do
    if not known[name] then error(("%s: there is no option %s"):format(what, tostring(name)), level + 1) end
  end
end

-- --- messages ------------------------------------------------------------------------------------

---@class znl.NatsMessage
---@field subject string
---@field data string
---@field reply string|nil  where an answer is wanted
---@field status integer|nil  100, 404, 408, 503 …: of a message of the server itself
---@field status_text string|nil
---@field private lines string|nil
---@field private core userdata
local Message = core.message

--- The first value of a header; upper and lower case are the same.
---@param name string
---@return string|nil
function Message:header(name) return self.lines and core.header(self.lines, name) end

--- All headers; one that came several times is a list.
---@return table<string, string|string[]>
function Message:headers() return self.lines and core.headers(self.lines) or {} end

local PUBLISH_OPTIONS = { reply = true, headers = true }

local function publish(raw, subject, data, opts, what)
  local ok, message, code
  if opts == nil then
    ok, message, code = raw:publish(subject, data)
  else
    if type(opts) ~= "table" then error(what .. ": options must be a table", 3) end
    check_option_names(opts, PUBLISH_OPTIONS, what, 3)
    if opts.reply ~= nil and type(opts.reply) ~= "string" then error(what .. ": reply must be a text", 3) end
    ok, message, code = raw:publish(subject, data, opts.reply, header_lines(opts.headers, what, 4))
  end
  if ok then return true end
  if code == "INVALID" and what == "nats.publish" then error(message, 3) end
  return nil, message, code
end

--- Answers.
---@param data string
---@param opts? znl.NatsPublishOptions
---@return true|nil ok
---@return string? message
---@return "INVALID"|"OFFLINE"|"BUSY"|"TOO_BIG"|"CLOSED"? code  INVALID: no answer is wanted, or what the sender gave
---is no subject
function Message:respond(data, opts)
  check_texts("nats.respond", self.subject, data)
  if self.reply == nil then return nil, "nats.respond: the message wants no answer", "INVALID" end
  local ok, message, code = publish(self.core, self.reply, data, opts, "nats.respond")
  return ok, message, code
end

-- --- the connection ------------------------------------------------------------------------------

---@class znl.Nats
---@field core userdata  for others in C
---@field private emitter znl.Emitter
local Nats = {}
Nats.__index = Nats

---@param value any
---@return boolean
function M.is(value) return type(value) == "table" and getmetatable(value) == Nats end

---@class znl.NatsPublishOptions
---@field reply? string  a subject that answers go to
---@field headers? table<string, string|string[]>

--- Publishes. It leaves with everything else that is published in this turn. Does not yield.
---@param subject string
---@param data string
---@param opts? znl.NatsPublishOptions
---@return true|nil ok
---@return string? message
---@return "OFFLINE"|"BUSY"|"TOO_BIG"|"CLOSED"|"UNSUPPORTED"|"NO_MEMORY"? code
function Nats:publish(subject, data, opts)
  check_texts("nats.publish", subject, data)
  local ok, message, code = publish(self.core, subject, data, opts, "nats.publish")
  return ok, message, code
end

local REQUEST_OPTIONS = { timeout_ms = true, headers = true }

---@class znl.NatsRequestOptions
---@field timeout_ms? integer  5000 without
---@field headers? table<string, string|string[]>

--- Asks, and returns the first answer. Yields.
---@param subject string
---@param data string
---@param opts? znl.NatsRequestOptions
---@return znl.NatsMessage|nil answer
---@return string? message
---@return "TIMEOUT"|"UNREACHABLE"|"OFFLINE"|"BUSY"|"TOO_BIG"|"CLOSED"|"LIMIT"|"REFUSED"|"CANCELLED"|string? code
---UNREACHABLE: nobody subscribes to it; REFUSED: we may not subscribe to answers
function Nats:request(subject, data, opts)
  check_texts("nats.request", subject, data)
  local timeout_ms, lines = 5000, nil
  if opts ~= nil then
    if type(opts) ~= "table" then error("nats.request: options must be a table", 2) end
    check_option_names(opts, REQUEST_OPTIONS, "nats.request", 2)
    timeout_ms = check_timeout("nats.request", opts.timeout_ms, 5000)
    lines = header_lines(opts.headers, "nats.request", 3)
  end
  local answer, message, code = self.core:request(subject, data, timeout_ms, lines)
  if code == "INVALID" then error(message, 2) end
  return answer, message, code
end

--- Subscribes: `fn(message)` runs in a coroutine of its own for each message, begun in their order; without it take
--- them with `next` or `messages`. What a version of a handler file subscribes to ends with that version.
---@param subject string  "*" stands for one token, ">" at the end for the rest
---@param fn? fun(message: znl.NatsMessage)
---@param opts? znl.NatsSubscribeOptions
---@return znl.NatsSubscription|nil
---@return string? message
---@return "CLOSED"|"LIMIT"|"NO_MEMORY"? code
function Nats:subscribe(subject, fn, opts)
  if type(subject) ~= "string" then
    error(("nats.subscribe: the subject must be a text, not a %s"):format(type(subject)), 2)
  end
  if fn ~= nil and type(fn) ~= "function" then
    error(("nats.subscribe: the handler must be a function, not a %s"):format(type(fn)), 2)
  end
  local sub, message, code = subscription.new(self, subject, fn, opts, 2) -- no tail call: errors blame the caller
  return sub, message, code
end

--- A subject that nobody else has, for answers.
---@return string|nil
---@return string? message
---@return "CLOSED"? code
function Nats:new_inbox() return self.core:new_inbox() end

--- Waits until the server has taken all that was published before. Yields.
---@param timeout_ms? integer  5000 without
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"|"OFFLINE"|"CLOSED"|"CANCELLED"|"DEADLINE"|"NO_MEMORY"? code
function Nats:flush(timeout_ms)
  return self.core:flush(check_timeout("nats.flush", timeout_ms, 5000))
end

--- Takes no more messages, waits for those that are here and for handlers, flushes, and closes. Yields.
---@param timeout_ms? integer  for all of it; 5000 without
---@return true|nil ok  nil: closed all the same
---@return string? message
---@return string? code
function Nats:drain(timeout_ms)
  local until_ms = sched.now_ms() + check_timeout("nats.drain", timeout_ms, 5000)
  local ok, message, code = subscription.drain_all(self, until_ms)
  if ok and self:is_connected() then
    ok, message, code = self.core:flush(math.max(1, math.ceil(until_ms - sched.now_ms())))
  end
  self:close()
  return ok, message, code
end

--- Closes; what is queued has a moment to leave. Who waits for something of it gets "CLOSED". Twice is harmless. Does
--- not yield.
function Nats:close()
  if self.is_closed then return end
  self.is_closed = true
  self.core:close()
  if self.forget_stop then self.forget_stop() end
  subscription.forget_all(self)
  if self.settled then self.settled:set() end
  if self.emitter:wanted("closed") then task.background(nil, self.emitter.emit, self.emitter, "closed") end
end

---@return "connecting"|"connected"|"reconnecting"|"closed"
function Nats:state() return self.core:state() end

---@return boolean
function Nats:is_connected() return self.core:state() == "connected" end

--- Bytes of one message, headers included, as the server said; 0 before it was connected.
---@return integer
function Nats:max_payload() return self.core:max_payload() end

--- "host:port" of the server, "" while there is none.
---@return string
function Nats:server() return self.core:server() end

---@class znl.NatsCounters
---@field sent integer  messages published
---@field sent_bytes integer
---@field received integer
---@field received_bytes integer
---@field dropped integer  by subscriptions that were full
---@field refused integer  publishes refused: off line, outbox full, too big
---@field reconnects integer

---@return znl.NatsCounters
function Nats:counters() return self.core:counters() end

--- Calls `fn` at an event: "connected"(server), "disconnected"(message, code), "closed"(), "error"(message, code,
--- subject): no permission, a subscription that is full, an attempt to connect that failed.
---@param event "connected"|"disconnected"|"closed"|"error"
---@param fn fun(...)
---@return fun() off
function Nats:on(event, fn)
  local off = self.emitter:on(event, fn, 3) -- no tail call: errors blame the caller
  return off
end

---@param event "connected"|"disconnected"|"closed"|"error"
---@param fn fun(...)
---@return fun() off
function Nats:once(event, fn)
  local off = self.emitter:once(event, fn, 3)
  return off
end

-- What a scope asks of a handle it owns.
function Nats:is_closing() return self.is_closed end
function Nats.get_type() return "nats" end
function Nats:is_active() return not self.is_closed end

-- --- events of the core --------------------------------------------------------------------------

local function emit(self, event, ...)
  if self.emitter:wanted(event) then task.background(nil, self.emitter.emit, self.emitter, event, ...) end
end

local function on_state(self, state, code, text)
  if state == "connected" then
    self.told, self.told_count = {}, 0
    self.logger.info("connected", { server = text })
    if self.settled then self.settled:set(true) end
    emit(self, "connected", text)
    return
  end
  local was_connected = self.last_state == "connected"
  self.failures = self.failures + 1
  self.failure, self.code = text, code
  self.was_refused = self.was_refused or code == "REFUSED"
  -- Each reason of each server once per outage, and not whatever a server invents.
  if not self.told[text] and self.told_count < TOLD_MAX then
    self.told[text], self.told_count = true, self.told_count + 1
    self.logger.warn(was_connected and "connection lost" or "cannot connect", { error = text, code = code })
  end
  if self.was_refused and self.failures >= self.server_count and self.settled then self.settled:set(false) end
  emit(self, was_connected and "disconnected" or "error", "nats: " .. text, code)
end

local function on_event(self, event, ...)
  if self.is_closed then return end
  if event == "state" then
    on_state(self, ...)
    self.last_state = ...
    return
  end
  local code, subject, text = ...
  self.logger.warn(code == "BUSY" and "messages are lost" or "refused", { error = text, subject = subject })
  emit(self, "error", "nats: " .. text, code, subject)
end

-- --- connecting ----------------------------------------------------------------------------------

local function text_of(opts, name, what, level)
  if opts[name] == nil then return nil end
  local ok, text = pcall(secret.text, opts[name])
  if not ok then error(("%s: option %s: %s"):format(what, name, text), level + 1) end
  return text
end

--- Handlers at work end, and their answers leave, before the process does. Late: those who use it say goodbye first.
--- A worker ends with its process, and has no such thing.
local function drain_at_stop(self)
  if workers.is_worker() then return end
  local latest_ms
  local forget_begin = runtime.on_stop(function() latest_ms = sched.now_ms() + runtime.drain_ms() - STOP_MS end)
  local forget_end = runtime.on_stop(function()
    self:drain(math.max(STOP_MS, math.floor((latest_ms or 0) - sched.now_ms())))
  end, true)
  self.forget_stop = function()
    forget_begin()
    forget_end()
  end
end

--- Makes a connection from options that have been read; blames `level` for what cannot be.
local function make(opts, what, level)
  local tls = type(opts.tls) == "table" and options.read(TLS_SPEC, opts.tls, what .. ": tls", level + 1) or {}
  local servers = type(opts.servers) == "table" and opts.servers or { opts.servers }
  local logger = log.new("nats")
  local self = setmetatable({
    is_closed = false, failures = 0, told = {}, told_count = 0, server_count = #servers, logger = logger, handled = {},
    taken = setmetatable({}, { __mode = "k" }),
  }, Nats)
  self.emitter = events.new {
    names = EVENTS, what = "nats",
    on_error = function(message, event) logger.error("a listener failed", { event = event, error = message }) end,
  }
  local raw, message, code = core.connect({
    servers = servers, name = opts.name, user = opts.user,
    password = text_of(opts, "password", what, level + 1), token = text_of(opts, "token", what, level + 1),
    credentials = opts.credentials, nkey = opts.nkey, echo = opts.echo,
    tls = opts.tls ~= nil and opts.tls ~= false, tls_ca = tls.ca, tls_cert = tls.cert, tls_key = tls.key,
    tls_server_name = tls.server_name, tls_insecure = tls.insecure or false,
    connect_timeout_ms = opts.connect_timeout_ms, reconnect_min_ms = opts.reconnect_min_ms,
    reconnect_max_ms = opts.reconnect_max_ms, ping_ms = opts.ping_ms, max_outbox_bytes = opts.max_outbox_bytes,
    inbox_prefix = opts.inbox_prefix,
  }, function(...) on_event(self, ...) end)
  if not raw then
    if code == "INVALID" then error((message:gsub("^nats%.connect", what)), level + 1) end
    return nil, message, code
  end
  self.core = raw
  scope.own(self)
  drain_at_stop(self)
  return self
end

--- For znl.bus: connects in the background. Raises for misuse.
---@param given znl.NatsOptions
---@param what string
---@param level integer
---@return znl.Nats
function M.open(given, what, level)
  local nats, message = make(options.read(M.SPEC, given, what, level + 1), what, level + 1)
  if not nats then error(message, 0) end
  return nats
end

--- Connects, and waits for it up to `wait_ms`. Yields, unless that is 0.
---@param given znl.NatsOptions|string  or just an address
---@return znl.Nats|nil nats
---@return string? message
---@return "UNREACHABLE"|"REFUSED"|"CLOSED"|"CANCELLED"|"DEADLINE"|"NO_MEMORY"? code  CLOSED: the process is told to end
function M.connect(given)
  if type(given) == "string" then given = { servers = given } end
  local opts = options.read(M.SPEC, given, "nats.connect")
  local self, message, code = make(opts, "nats.connect", 2)
  if not self then return nil, message, code end
  if opts.wait_ms == 0 then return self end
  self.settled = sched.event()
  local ok
  ok, message, code = self.settled:wait(opts.wait_ms)
  self.settled = nil
  if self.is_closed then return nil, "nats.connect: it was closed meanwhile", "CLOSED" end
  if ok then return self end
  self:close()
  if ok == false then return nil, "nats.connect: " .. self.failure, "REFUSED" end
  if code == "TIMEOUT" then
    return nil, "nats.connect: " .. (self.failure or "no connection in time"), "UNREACHABLE"
  end
  return nil, message, code
end

return M
