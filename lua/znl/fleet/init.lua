--- znl.fleet: several masters that share their slaves, over NATS.
---
---   znl.fleet.<name>.roster          which slave is with which master (znl.fleet.directory)
---   znl.fleet.<name>.ask.<instance>  questions to slaves of that master (znl.fleet.asks)
---   znl.fleet.<name>.publish         to all masters, each of which publishes to its slaves
---
--- Without NATS each master goes on alone with its own slaves; the fleet is whole again when NATS is back.
--- SPDX-License-Identifier: MIT

local asks = require("znl.fleet.asks")
local bus = require("znl.bus")
local crypto = require("znl.core.crypto")
local directory = require("znl.fleet.directory")
local letters = require("znl.fleet.letters")
local options = require("znl.options")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local secret = require("znl.secret")

local M = {}

local PREFIX = "znl.fleet"
local LOOK_MS = 5
local BAD_LOG_MS = 10000

---@class znl.FleetOptions
---@field bus string|table|znl.Nats  where NATS is: an url, options of znl.nats.connect, or a connection
---@field name? string  masters with the same name share their slaves
---@field ttl_ms? integer  how long the slaves of a master that died stay known; the same on all masters
---@field secret? string|znl.Secret  signs what masters write each other; the same on all
---@field max_in_flight? integer  requests to other masters that wait; and of others at work here
---@field max_members? integer  slaves of all masters
M.SPEC = {
  bus = options.extend(bus.RULE, { required = true }),
  name = { type = "string", default = "default", min = 1, max = 100, pattern = "^[%w_-]+$",
    allowed = "a text of letters, digits, _ and -" },
  ttl_ms = { type = "integer", min = 2000, max = 3600000, default = 5000 },
  secret = { type = "secret" },
  max_in_flight = { type = "integer", min = 1, max = 1000000, default = 1000 },
  max_members = { type = "integer", min = 1, max = 1000000, default = 100000 },
}

--- Reads the option `cluster` of a master. Raises for whoever is at `level`.
---@param given table|nil
---@param what string
---@param level integer
---@return znl.FleetOptions|nil
function M.read(given, what, level)
  if given == nil then return nil end
  local opts = options.read(M.SPEC, given, what .. ": cluster", level + 1)
  if opts.secret then
    local ok, text = pcall(secret.text, opts.secret)
    if not ok then
      error(("%s: cluster: secret: %s"):format(what, (text:gsub("^[^\n]-:%d+: ", ""))), level + 1)
    end
    opts.secret = text
  end
  return opts
end

---@class znl.Fleet
---@field master znl.Master
---@field core userdata  of the master
---@field bus table|nil  of znl.nats, while it runs
---@field directory znl.FleetDirectory|nil  the same
---@field origin string  this instance; a new one for each start
local Fleet = {}
Fleet.__index = Fleet

---@param master znl.Master
---@param opts znl.FleetOptions
---@return znl.Fleet
function M.new(master, opts)
  local self = setmetatable({ master = master, opts = opts, log = master.log }, Fleet)
  self.counters_of_own = { published = 0, publishes_received = 0, publishes_lost = 0, bad = 0, moved = 0 }
  self.asks = asks.new(self)
  return self
end

---@return string
function Fleet:subject(rest)
  return ("%s.%s.%s"):format(PREFIX, self.opts.name, rest)
end

--- Whether NATS carries a message of so many bytes; false, message when not.
function Fleet:fits(size)
  local limit = self.bus and self.bus:max_payload() -- none when it was stopped while a question was at work
  if not limit or limit == 0 or size <= limit then return true end
  return false, ("%d bytes are more than NATS carries in one message (max_payload is %d)"):format(size, limit)
end

--- Something came from another master, or from whoever may publish there, that is not good.
function Fleet:report_bad(reason)
  self.counters_of_own.bad = self.counters_of_own.bad + 1
  local now_ms = sched.now_ms()
  if self.bad_logged_ms and now_ms - self.bad_logged_ms < BAD_LOG_MS then return end
  self.bad_logged_ms = now_ms
  self.log.warn("message of another master refused", { reason = reason, fleet = self.opts.name })
end

--- Raises an event of the master in a task of its own.
local function emit(self, event, ...)
  local emitter = self.master.emitter
  if emitter:wanted(event) then sched.spawn(emitter.emit, emitter, event, ...) end
end

local function open_directory(self)
  local made, message, code = directory.new {
    bus = self.bus.core, subject = self:subject("roster"), ttl_ms = self.opts.ttl_ms, origin = self.origin,
    master_id = self.master.id, max_members = self.opts.max_members, secret = self.opts.secret,
    on_added = function(id, master) emit(self, "slave_connected", id, master) end,
    on_removed = function(id, cause, master) emit(self, "slave_disconnected", id, cause, master) end,
    on_gone = function(id, owner) self.asks:gone(id, owner) end,
    on_displaced = function(id)
      self.counters_of_own.moved = self.counters_of_own.moved + 1
      self.log.info("a slave is with another master now", { slave = id })
      self.core:forget(id)
    end,
    on_disputed = function(id)
      self:report_bad("it takes a slave of ours, and is not signed with this secret")
      self:joined(id)
    end,
    on_partial = function(is_partial)
      self.log[is_partial and "warn" or "info"](
        is_partial and "slaves of other masters are not known: no NATS" or "slaves of other masters are known again",
        { fleet = self.opts.name })
    end,
  }
  if not made then return nil, message, code end
  self.directory = made
  for _, slave in ipairs(self.core:slaves()) do self:joined(slave.id) end
  return made:start()
end

--- What all masters publish.
local function on_publish(self, message)
  local letter, reason = self.letters:read(message.subject, message.data)
  if not letter or letter.kind ~= "publish" then return self:report_bad(reason or "it is no publish") end
  if letter.origin == self.origin then return end
  self.counters_of_own.publishes_received = self.counters_of_own.publishes_received + 1
  local ok, sent, why, code = pcall(self.core.publish, self.core, letter.name, letter.payload)
  if not ok or sent == nil then
    self.log.warn("publish of another master not passed on", { error = ok and why or sent, code = ok and code or nil })
  end
end

local function subscribe(self)
  local at_once = self.opts.max_in_flight + 64 -- refusals and cancellations do not wait
  local asked, message, code = self.bus:subscribe(self:subject("ask." .. self.origin),
    function(ask) self.asks:serve(ask) end, { max_concurrency = at_once })
  if not asked then return nil, message, code end
  self.subscriptions[1] = asked
  local published
  published, message, code = self.bus:subscribe(self:subject("publish"),
    function(publish) on_publish(self, publish) end, { max_concurrency = 1 })
  if not published then return nil, message, code end
  self.subscriptions[2] = published
  return true
end

local function join(self)
  local opened, is_own, code = bus.try(self.opts.bus, "znl.master: cluster")
  if not opened then return nil, is_own, code end
  self.bus, self.is_own_bus, self.subscriptions = opened, is_own, {}
  self.origin = crypto.random(16):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  self.letters = letters.new { origin = self.origin, secret = self.opts.secret }
  local ok, message
  ok, message, code = subscribe(self)
  if ok then ok, message, code = open_directory(self) end
  if not ok then
    self:stop()
    return nil, message, code
  end
  return true
end

--- Joins the fleet; NATS may come later.
---@return true|nil ok
---@return string? message
---@return string? code
function Fleet:start()
  if self.bus then return true end
  -- The next version of the script takes the master over, with all it has.
  return scope.outside(join, self)
end

--- Waits until the questions of other masters have their answers. Yields.
---@return true|nil ok
---@return string? message
---@return string? code
function Fleet:drain(timeout_ms)
  local ends_ms = sched.now_ms() + timeout_ms
  while self.asks.serving > 0 do
    local left_ms = ends_ms - sched.now_ms()
    if left_ms <= 0 then
      return nil, ("drain: %d requests of other masters are still at work"):format(self.asks.serving), "TIMEOUT"
    end
    local ok, message, code = sched.sleep(math.min(left_ms, LOOK_MS))
    if not ok then return nil, message, code end
  end
  return true
end

--- Leaves the fleet. Harmless when it is not in it.
function Fleet:stop()
  local left, known = self.bus, self.directory
  if not left then return end
  self.directory = nil -- what happens from here on is not announced
  if known then known:stop() end
  for _, subscription in ipairs(self.subscriptions) do subscription:unsubscribe() end
  self.subscriptions, self.bus = {}, nil
  if self.is_own_bus then left:close() end
end

--- A slave came on line with this master.
function Fleet:joined(id)
  if not self.directory or not self.core:is_online(id) then return end
  local ok, message, code = self.directory:join(id, self.core:reads_calls(id), sched.unix_ms())
  if not ok then self.log.warn("slave is not known to other masters", { slave = id, error = message, code = code }) end
end

--- It went.
function Fleet:left(id)
  if self.directory and not self.core:is_online(id) then self.directory:leave(id) end
end

--- Publishes to the slaves of all masters.
---@return integer|nil sent  to slaves of this master
---@return integer|string dropped
---@return string? code
function Fleet:publish(topic, payload)
  local core, text = self.core, nil
  if self.bus and type(topic) == "string" and letters.is_payload(payload) then
    local subject = self:subject("publish")
    text = self.letters:write(subject, "publish", { name = topic, payload = payload })
    local fits, message = self:fits(#text)
    if not fits then return nil, "publish: " .. message, "TOO_BIG" end
  end
  local sent, dropped, code = core:publish(topic, payload)
  if sent == nil or not text then return sent, dropped, code end
  local counters = self.counters_of_own
  if self.bus:publish(self:subject("publish"), text) then
    counters.published = counters.published + 1
  else
    counters.publishes_lost = counters.publishes_lost + 1
  end
  return sent, dropped
end

--- What there is to know.
---@return table
function Fleet:state()
  local counters = { waiting = self.asks.waiting, serving = self.asks.serving }
  for name, count in pairs(self.asks.counters) do counters[name] = count end
  for name, count in pairs(self.counters_of_own) do counters[name] = count end
  return {
    name = self.opts.name, instance = self.origin, bus = self.bus and self.bus:state() or "closed",
    is_partial = not self.directory or self.directory:is_partial(),
    masters = self.directory and self.directory:masters(self.core:counters().slaves) or {}, counters = counters,
  }
end

return M
