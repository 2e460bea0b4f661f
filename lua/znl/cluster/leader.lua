--- znl.cluster.leader: a channel that this process leads: followers, subscriptions and calls of the core on
--- one side, the real client on the other (spec cluster-client, section 6).
---
---   new --open: the real client starts--> serving --close--> closed
---                              \--failed--> refusing --close--> closed
--- SPDX-License-Identifier: MIT

local real_client = require("znl.cluster.real_client")
local sched = require("znl.core.sched")
local secret = require("znl.cluster.secret")

local M = {}

local QUIET_MS = 10000

--- A term: what a client is while it leads or follows. `gone` is set when it has ended by itself.
---@class znl.ClusterTerm
---@field role "leader"|"follower"
---@field gone znl.Event
---@field link any  of a follower, for calls without detours

---@class znl.ClusterTermHost
---@field on_value fun(key: string, value: any)
---@field on_lost fun(term: znl.ClusterTerm, reason: string, code: string|nil)
---@field on_error fun(message: string, where: string|nil)
---@field on_trouble fun(message: string, code: string|nil)
---@field on_joined fun(from: string)
---@field on_left fun(from: string, reason: string|nil)

---@class znl.ClusterLeader : znl.ClusterTerm
---@field channel any  of znl.core.cluster
---@field real znl.RealClient
local Leader = {}
Leader.__index = Leader

local REACTIONS = {}

--- Who is refused comes again and again: one line for each reason in a while, with how many there were.
local function say_refused(self, reason, remote)
  local now_ms, entry = sched.now_ms(), self.refusals[reason] or { until_ms = -math.huge, held = 0 }
  self.refusals[reason] = entry
  if now_ms < entry.until_ms then
    entry.held = entry.held + 1
    return
  end
  local more = entry.held > 0 and (" (and %d more)"):format(entry.held) or ""
  entry.until_ms, entry.held = now_ms + QUIET_MS, 0
  self.host.on_trouble(("the registration of %s is refused: %s%s"):format(tostring(remote), reason, more), "DENIED")
end

function REACTIONS.registration(self, _, extension, remote)
  if not self.proofs then return true end
  local ok, found = secret.check(self.proofs, self.name, extension)
  if ok then return true, found end
  say_refused(self, found, remote)
  return nil, found
end

function REACTIONS.joined(self, _, remote) self.host.on_joined(remote) end
function REACTIONS.left(self, _, remote, reason) self.host.on_left(remote, reason) end
function REACTIONS.key(self, key, reg) self.real:subscribe(key, reg) end
function REACTIONS.value(self, key, value) self.host.on_value(key, value) end
function REACTIONS.trouble(self, text, code) self.host.on_trouble(text, code) end

function REACTIONS.error(self, message, place, method, from)
  self.host.on_error(method and ("%s: %s"):format(method, message) or message, method or place, from)
  return true -- so that the core does not log it as well
end

--- The options of a channel that the core knows by the same name.
local CHANNEL_OPTIONS = {
  "broadcast", "response_timeout_ms", "heartbeat_ms", "check_heartbeat", "max_keys", "max_member_keys",
  "max_values_bytes", "max_slow_bytes", "max_depth", "max_concurrency", "max_queue", "max_queue_job_bytes",
  "handler_timeout_ms",
}

---@class znl.ClusterLeaderOptions
---@field name string
---@field place znl.ClusterPlace  on which this process listens
---@field config table  of the role
---@field secrets string[]|nil
---@field pair znl.ClusterTranscode|nil
---@field exports znl.ClusterExports
---@field source znl.RealClientSource
---@field owner any
---@field host znl.ClusterTermHost

--- Opens the channel; registrations wait. Does not yield: nobody can be turned away between listening and this.
---@param opts znl.ClusterLeaderOptions
---@return znl.ClusterLeader|nil leader
---@return string? message
---@return string? code
function M.new(opts)
  local self = setmetatable({
    role = "leader", name = opts.name, place = opts.place, host = opts.host, gone = sched.event(),
    proofs = secret.checker(opts.secrets), refusals = {},
  }, Leader)
  local config = { name = opts.name, transcode = opts.pair, check_registration = self.proofs ~= nil }
  for _, name in ipairs(CHANNEL_OPTIONS) do config[name] = opts.config[name] end
  config.on_event = function(kind, ...)
    local react = not self.is_closed and REACTIONS[kind]
    if react then return react(self, ...) end
  end
  local channel, message, code = opts.place.server:channel(config)
  if not channel then return nil, message, code end
  self.channel = channel
  self.real = real_client.new({
    name = opts.name, exports = opts.exports, owner = opts.owner, pair = opts.pair, on_error = opts.host.on_error,
    on_value = function(key, value) return channel:publish(key, value) end,
  }, opts.source)
  self:serve(opts.source)
  opts.place:lead(opts.name, self)
  return self
end

--- Calls of followers are answered by the real client, for the version of code it belongs to.
function Leader:serve(source)
  local real = self.real
  self.channel:set_handler(function(req)
    local args = req.args
    local n = args and args.n or 0
    if n == 0 then return real:call(req.method, 0) end
    return real:call(req.method, n, unpack(args, 1, n))
  end, source.owner, self.name)
end

--- For the operator of this process: with file and line, when it was raised.
local function told_here(err)
  local line = type(err.stack) == "string" and err.stack:match("^[^\n]*")
  return line and line:find("^[^:]+:%d+: ") and line or err.message
end

--- Starts the real client, then answers registrations. Yields.
---@return true|nil ok
---@return string? message
---@return any code
---@return boolean? is_refusal  followers are refused until it is closed
function Leader:open()
  local ok, err = self.real:start()
  if self.is_closed then return nil, self.name .. ": closed while it started", "STOPPED" end
  if ok then
    local message, code
    ok, message, code = self.channel:ready(true)
    if ok then return true end
    return nil, ("%s: registrations cannot be answered: %s"):format(self.name, message), code, true
  end
  self.channel:ready(false, err)
  return nil, ("%s: the client is not ready: %s"):format(self.name, told_here(err)), err.code or "REFUSED", true
end

--- The code has a new version: its client takes over. Yields.
---@param source znl.RealClientSource
function Leader:replace(source)
  self.real:replace(source)
  if not self.is_closed then self:serve(self.real.source) end
end

--- As over a connection. Yields.
function Leader:invoke(method, timeout_ms, n, ...)
  return self.real:invoke(method, timeout_ms, n, ...)
end

function Leader:oneway(method, _, n, ...)
  return self.real:oneway(method, n, ...)
end

---@param key string
---@param text string|nil
---@return true|nil ok
---@return string? message
---@return string? code
function Leader:subscribe(key, text) return self.channel:subscribe(key, text) end

function Leader:unsubscribe(key, text) return self.channel:unsubscribe(key, text) end

--- Refuses new calls; how many are at work.
---@return integer
function Leader:drain() return self.channel:drain() end

--- Disconnects the followers, lets go of the port when nothing else is led on it, closes the real client.
function Leader:close()
  if self.is_closed then return end
  self.is_closed = true
  self.channel:close()
  self.place:resign(self.name, self)
  self.real:close()
  self.gone:set("closed")
end

function Leader:counters() return self.channel:counters() end
function Leader:keys() return self.channel:keys() end

return M
