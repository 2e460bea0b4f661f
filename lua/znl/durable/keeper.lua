--- znl.durable.keeper: what topics and queues have in common: a stream of JetStream, those who take messages out
--- of it, and a life.
---
---   stopped --start--> running --stop--> stopped
---
--- Handlers and subscriptions belong to the object and outlive a stop. NATS may come and go while it runs.
--- SPDX-License-Identifier: MIT

local buses = require("znl.bus")
local dead_letters = require("znl.durable.dead_letters")
local estate = require("znl.versions.estate")
local jetstream = require("znl.durable.jetstream")
local options = require("znl.options")
local publisher = require("znl.durable.publisher")
local role = require("znl.roles.role")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local stream = require("znl.durable.stream")
local task = require("znl.tasks.task")

local M = {}

M.EVENTS = { "error", "dead" }
--- What an object keeps of the time a stopping process has.
local LEAVE_MS = 300
local NAME = "^[%w_%-]+$"
local COUNTS = {
  "published", "duplicates", "publish_failed", "requests", "received", "acked", "confirmed", "given_back", "refused",
  "handler_errors", "redelivered", "renewed", "recoveries", "malformed", "dead", "dead_failed",
}
local TIME_RULE = { type = "integer", min = 0, max = 86400000 }

--- Names of topics, queues and groups: they become part of subjects and of names of streams.
M.NAME = { type = "string", min = 1, max = 64, pattern = NAME, allowed = "a text of letters, digits, _ and -" }

---@class znl.KeeperOptions: znl.StreamOptions
---@field bus string|table|znl.Nats  url, options of znl.nats.connect, or a connection
---@field prefix? string  of subjects and of the names of streams; default "znl"
---@field domain? string  of JetStream
---@field timeout_ms? integer  of a publication, and of a request to JetStream
---@field connect_ms? integer  how long a start waits for NATS
---@field drain_ms? integer  how long a stop waits for handlers
---@field max_pending? integer  publications on their way by `*_async`
---@field update? boolean  true: a stream or consumer that is configured differently is changed
M.SPEC = options.extend(stream.SPEC, {
  bus = options.extend(buses.RULE, { required = true }),
  prefix = { type = "string", default = "znl", min = 1, max = 32, pattern = NAME, allowed = M.NAME.allowed },
  domain = { type = "string", min = 1, max = 64, pattern = NAME, allowed = M.NAME.allowed },
  timeout_ms = { type = "integer", min = 1, max = 600000, default = 5000 },
  connect_ms = { type = "integer", min = 1, max = 600000, default = 5000 },
  drain_ms = { type = "integer", min = 0, max = 86400000, default = 5000 },
  max_pending = { type = "integer", min = 1, max = 65536, default = 256 },
  update = { type = "boolean", default = false },
})

local function is_backoff(list)
  if #list == 0 or #list > 100 then return false end
  for _, ms in ipairs(list) do
    if type(ms) ~= "number" or ms % 1 ~= 0 or ms < 0 or ms > 86400000 then return false end
  end
  return true
end

---@class znl.HandleOptions
---@field max_in_flight? integer  handlers at work at once, with messages on their way to them
---@field ack_wait_ms? integer  a message of which the server hears nothing for that long comes again, elsewhere
---@field max_deliver? integer  after so many deliveries it becomes a dead letter; 0: never
---@field backoff_ms? integer[]  before it comes again, by the number of deliveries
---@field exactly_acked? boolean  an acknowledgement is repeated until the server confirms it
---@field max_run_ms? integer  a handler that takes longer is cancelled
---@field max_unacked? integer  messages at work at all members of the group together
M.HANDLE_SPEC = {
  max_in_flight = { type = "integer", min = 1, max = 65536, default = 64 },
  ack_wait_ms = { type = "integer", min = 100, max = 86400000, default = 30000 },
  max_deliver = { type = "integer", min = 0, max = 1000000, default = 0 },
  backoff_ms = {
    type = "table", check = is_backoff, allowed = "a list of 1 to 100 times in milliseconds",
    default = { 200, 1000, 5000, 30000 },
  },
  exactly_acked = { type = "boolean", default = false },
  max_run_ms = { type = "integer", min = 1, max = 86400000, default = 600000 },
  max_unacked = { type = "integer", min = 1, max = 1000000, default = 10000 },
}

---@class znl.Keeper: znl.Role
---@field name string
---@field opts znl.KeeperOptions
---@field api znl.JetStream|nil  while it runs
local Keeper = {}
M.Keeper = Keeper

function Keeper:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

function Keeper:once(event, fn)
  local off = self.emitter:once(event, fn, 3)
  return off
end

function Keeper:off(event, fn) self.emitter:off(event, fn, 3) end

local function tell(self, event, ...)
  if self.emitter:wanted(event) then task.background(self.owner, self.emitter.emit, self.emitter, event, ...) end
end

--- Trouble that has no caller to be told.
---@param message string
---@param code string|nil
function Keeper:fail(message, code)
  self.log.warn(message, { code = code })
  tell(self, "error", message, code)
end

--- Looks whether the streams are still there, and makes them again: a server without a disk has lost them, or somebody
--- deleted them. Nobody waits for it.
function Keeper:heal()
  if self.is_healing or self.state ~= "running" then return end
  self.is_healing = true
  local run = task.background(self.owner, function()
    local api = self.api
    if not api then return end
    local info, message, code, is_new = stream.ensure(api, self.wanted, false)
    if is_new then self:fail("the stream was lost, and is made again", "GONE") end
    if info and self.has_dead then info, message, code = stream.ensure(api, self.dead_wanted, false) end
    if not info and not jetstream.is_away(code) then self:fail(message, code) end
  end)
  if not run then
    self.is_healing = false
    return
  end
  run:on_end(function() self.is_healing = false end)
end

---@class znl.KeeperParts
---@field what string  "znl.queue"
---@field kind string  "queue"
---@field name string
---@field opts znl.KeeperOptions
---@field subjects string[]
---@field retention "limits"|"workqueue"
---@field class table

--- An object of `class`, which has the methods of Keeper.
---@param parts znl.KeeperParts
---@return table|nil
---@return string? message
---@return string? code
function M.new(parts)
  local owner, message, code = sched.owner()
  if not owner then return nil, message, code end
  local opts, name = parts.opts, parts.name
  local self = setmetatable({
    name = name, opts = opts, owner = owner, parts = parts, counts = {}, title = ("%s %s"):format(parts.what, name),
    stream_name = ("%s_%s_%s"):format(opts.prefix, parts.kind, name), intakes = {},
    dead_name = ("%s_dead_%s_%s"):format(opts.prefix, parts.kind, name),
    dead_subject = ("%s.dead.%s.%s"):format(opts.prefix, parts.kind, name),
  }, parts.class)
  for _, count in ipairs(COUNTS) do self.counts[count] = 0 end
  role.init(self, { what = parts.what, name = name, events = M.EVENTS })
  self.wanted = stream.configuration(self.stream_name, parts.subjects, parts.retention, opts)
  -- Letters of a topic carry the name of the group behind that of the topic.
  local filter = parts.retention == "workqueue" and self.dead_subject or self.dead_subject .. ".*"
  self.dead_wanted = stream.configuration(self.dead_name, { filter }, "limits", {
    storage = opts.storage, replicas = opts.replicas, duplicate_window_ms = opts.duplicate_window_ms, discard = "new",
  })
  self.letters = dead_letters.new {
    what = self.title .. ": dead letters", api = function() return self.api end, stream = self.dead_name,
    filter = filter, source = "^" .. parts.subjects[1]:gsub("%p", "%%%0") .. "%f[.%z]", timeout_ms = opts.timeout_ms,
    on_missing = function() self:heal() end,
  }
  return self
end

--- Called once with the stream there. Yields.
local function open(self)
  local opts = self.opts
  local opened, bus, is_own = pcall(buses.open, opts.bus, self.parts.what)
  if not opened then
    self.misuse = bus
    return nil, bus, "INVALID"
  end
  self.bus, self.is_own_bus = bus, is_own
  self.off_connected = bus:on("connected", function() self:heal() end)
  local ok, message, code = jetstream.await_bus(self.bus, opts.connect_ms)
  if not ok then return nil, message, code end
  local api = jetstream.new(self.bus, opts.domain, opts.timeout_ms)
  ok, message, code = api:check()
  if not ok then return nil, message, code end
  ok, message, code = stream.ensure(api, self.wanted, opts.update)
  if not ok then return nil, message, code end
  self.api = api
  self.publisher = publisher.new {
    what = self.title, bus = self.bus, owner = self.owner, timeout_ms = opts.timeout_ms,
    max_pending = opts.max_pending, counts = self.counts, on_missing = function() self:heal() end,
  }
  return self:opened()
end

local function close_bus(self)
  if self.off_connected then self.off_connected() end
  self.off_connected = nil
  if self.is_own_bus then self.bus:close() end
  self.bus, self.is_own_bus, self.api, self.publisher = nil, nil, nil, nil
end

--- Makes sure that there is a place for dead letters. Yields.
---@return true|nil ok
---@return string? message
---@return string? code
function Keeper:ensure_dead()
  local info, message, code = stream.ensure(self.api, self.dead_wanted, self.opts.update)
  if not info then return nil, message, code end
  self.has_dead = true
  return true
end

--- Opens, and is running then or stopped again. In a task of its own: the connection and what it subscribes to are
--- not of the version of code that starts it, and whoever waits for it may give up. Yields.
local function begin(self, started)
  local ok, message, code = open(self)
  self.starting = nil
  if ok and self.state ~= "starting" then
    ok, message, code = nil, "it was stopped", "STOPPED"
  end
  if ok then
    self.state = "running"
    self.forget_stop = runtime.on_stop(function() self:stop(math.max(0, runtime.drain_ms() - LEAVE_MS)) end)
    self:began()
    return started:set(true)
  end
  for _, intake in pairs(self.intakes) do intake:stop(0) end
  self.intakes = {}
  close_bus(self)
  self.state = "stopped"
  started:set(nil, self.misuse and message or ("%s: %s"):format(self.title, message), code)
end

--- Connects, makes the stream or checks the one that is there, and begins to take messages. Harmless when it
--- runs. It stops by itself when the process is told to end. Yields.
---@return true|nil ok
---@return string? message
---@return "UNREACHABLE"|"UNSUPPORTED"|"EXISTS"|"LIMIT"|"STOPPED"|"CANCELLED"|string? code  UNREACHABLE: no NATS;
--- UNSUPPORTED: no JetStream; EXISTS: what is there is configured differently
function Keeper:start()
  if self.state == "running" then return true end
  if self.starting then
    local ok, message, code = self.starting:wait()
    return ok, message, code
  end
  estate.make_room(self)
  if self.stopping then self.stopping:wait() end
  local started = sched.event()
  self.starting, self.state = started, "starting"
  self.misuse = nil
  local opening, message, code = task.background(self.owner, begin, self, started)
  if not opening then
    self.starting, self.state = nil, "stopped"
    started:set(nil, message, code)
    return nil, ("%s: %s"):format(self.title, message), code
  end
  local ok
  ok, message, code = started:wait()
  if not ok and self.starting == started then self.state = "stopping" end -- nobody waits for it any more
  if self.misuse and code == "INVALID" then
    message = message:gsub("^[^\n]-:%d+: ", "", 1)
    error(message, 2)
  end
  return ok, message, code
end

--- Takes no more messages, waits for handlers, and gives back what they are not through with, at once. Harmless
--- when it is stopped. Yields.
---@param drain_ms? integer  how long it waits; default: the option
function Keeper:stop(drain_ms)
  if drain_ms == nil then drain_ms = self.opts.drain_ms end
  if not options.accepts(TIME_RULE, drain_ms) then
    error(self.parts.what .. ":stop: drain_ms must be a whole number in 0..86400000", 2)
  end
  if self.state == "starting" then
    self.state = "stopping"
    if self.starting then self.starting:wait() end
    return
  end
  if self.stopping then self.stopping:wait() end
  if self.state ~= "running" then return end
  local stopped = sched.event()
  self.stopping, self.state = stopped, "stopping"
  if self.forget_stop then self.forget_stop() end
  self.forget_stop = nil
  local ends_ms = sched.now_ms() + drain_ms
  local stops = {}
  for _, intake in pairs(self.intakes) do
    stops[#stops + 1] = task.background(self.owner, intake.stop, intake, drain_ms)
  end
  for _, stop in ipairs(stops) do stop:wait() end
  if self.publisher.pending > 0 then
    self.publisher:flush(math.max(1, math.ceil(ends_ms - sched.now_ms())))
  end
  self.intakes = {}
  close_bus(self)
  self.stopping, self.state = nil, "stopped"
  stopped:set(true)
end

---@return boolean
function Keeper:running() return self.state == "running" end

--- The publisher; nil, message, code while there is none.
function Keeper:writer()
  if self.publisher then return self.publisher end
  return nil, self.title .. ": it is not started", "STOPPED"
end

--- Waits for the answers to all that was published by `*_async`. Yields.
---@param timeout_ms? integer
---@return true|nil ok
---@return string? message  how many JetStream did not keep, and why the last one
---@return string? code
function Keeper:flush(timeout_ms)
  timeout_ms = timeout_ms or self.opts.timeout_ms
  if not options.accepts(TIME_RULE, timeout_ms) then
    error(self.parts.what .. ":flush: timeout_ms must be a whole number in 0..86400000", 2)
  end
  local writer, message, code = self:writer()
  if not writer then return nil, message, code end
  return writer:flush(timeout_ms)
end

--- Messages that could not be handled.
---@return znl.DeadLetters
function Keeper:dead() return self.letters end

--- Puts a message to the dead letters and tells of it. Yields.
function Keeper:bury(subject, message, reason, code)
  local ack, problem, why = self.letters:put(subject, message, reason, code)
  if not ack then return nil, problem, why end
  self.counts.dead = self.counts.dead + 1
  self.log.warn("a message is a dead letter now", { seq = message.seq, reason = reason, code = code })
  tell(self, "dead", ack.seq, reason, code)
  return true
end

---@class znl.StreamInfo
---@field messages integer  in the stream
---@field bytes integer
---@field first_seq integer
---@field last_seq integer
---@field consumers integer

--- What JetStream says of the stream. Yields.
---@return znl.StreamInfo|nil info
---@return string? message
---@return string? code
function Keeper:info()
  if not self.api then return nil, self.title .. ": it is not started", "STOPPED" end
  local info, message, code = self.api:ask("STREAM.INFO." .. self.stream_name)
  if not info then return nil, ("%s: %s"):format(self.title, message), code end
  local state = type(info.state) == "table" and info.state or {}
  return {
    messages = tonumber(state.messages) or 0, bytes = tonumber(state.bytes) or 0,
    first_seq = tonumber(state.first_seq) or 0, last_seq = tonumber(state.last_seq) or 0,
    consumers = tonumber(state.consumer_count) or 0,
  }
end

--- How often what happened since it was made, and what there is now.
---@return table<string, integer>
function Keeper:counters()
  local result = { running = 0, waiting = 0, asked = 0, pending = 0 }
  for name, value in pairs(self.counts) do result[name] = value end
  for _, intake in pairs(self.intakes) do
    result.running = result.running + intake.running
    result.waiting = result.waiting + intake.waiting
    result.asked = result.asked + intake.asked
  end
  if self.publisher then result.pending = self.publisher.pending end
  return result
end

--- For `estate`: a connection is compared by what it is, not by what it holds.
---@param name string
---@param opts table
---@return table
function M.declaration(name, opts)
  local declared = { name = name }
  for option, value in pairs(opts) do declared[option] = value end
  if type(opts.bus) == "table" and getmetatable(opts.bus) then declared.bus = opts.bus.core or tostring(opts.bus) end
  return declared
end

return M
