--- znl.roles.node: what master and slave share: options, life cycle, handler, events.
---
---   stopped --start--> running --stop--> stopped
---
--- Handlers, listeners, services and subscriptions belong to the object and outlive a stop.
--- SPDX-License-Identifier: MIT

local events = require("znl.events")
local handlers = require("znl.handlers")
local log = require("znl.log")
local options = require("znl.options")
local refusals = require("znl.roles.refusals")
local runtime = require("znl.core.runtime")
local secret = require("znl.secret")

local M = {}

local MIB = 1024 * 1024

---@class znl.NodeOptions
---@field id string  1 to 255 bytes; on a slave also its routing id
---@field endpoint? string  "tcp://host:port" or "ipc://path"; a master may ask for "tcp://host:*"
---@field encrypted? boolean  proofs and sealed payloads; must be said when a key is given
---@field auth_key? string|znl.Secret  a slave's key; a master's key for slaves without one of their own
---@field kdf_salt? string  must be the same on both sides
---@field require_digest? boolean  refuse proofs without payload digest; this side always sends one
---@field heartbeat_ms? integer  0 turns heartbeats off
---@field heartbeat_timeout_ms? integer  silence that means off line; 0: derived from heartbeat_ms
---@field max_pending? integer  requests waiting for an answer; 0: no limit of its own
---@field max_skew_ms? integer  difference of clocks that is accepted
---@field replay_window_ms? integer  how long a nonce is remembered; at least 2 * max_skew_ms
---@field start_allowance_ms? integer  how old a message may be when the node is made
---@field max_concurrency? integer  handlers at work at once
---@field max_replay_nonces? integer
---@field max_frame_bytes? integer
---@field max_frames? integer  in one message
---@field max_message_bytes? integer
---@field send_hwm? integer  messages queued per connection
---@field recv_hwm? integer
---@field outbox_messages? integer  messages that wait in the node for a connection or for room
---@field outbox_bytes? integer
M.SPEC = {
  id = {
    type = "string", required = true, allowed = "a text of 1 to 255 bytes that begins with no zero byte",
    min = 1, max = 255, check = function(id) return id:byte(1) ~= 0 end,
  },
  endpoint = {
    type = "string", default = "tcp://127.0.0.1:6003", max = 1024, pattern = "^%l+://[^%z]+$",
    allowed = "an endpoint such as tcp://127.0.0.1:6003",
  },
  encrypted = { type = "boolean" },
  auth_key = { type = "secret" },
  kdf_salt = { type = "string", max = 65536 },
  require_digest = { type = "boolean", default = false },
  heartbeat_ms = { type = "integer", min = 0, max = 3600000, default = 3000 },
  heartbeat_timeout_ms = { type = "integer", min = 0, max = 3600000, default = 0 },
  max_pending = { type = "integer", min = 0, max = 1000000, default = 1000 },
  max_skew_ms = { type = "integer", min = 1, max = 86400000, default = 30000 },
  replay_window_ms = { type = "integer", min = 10000, max = 86400000, default = 120000 },
  start_allowance_ms = { type = "integer", min = 0, max = 86400000, default = 10000 },
  max_concurrency = { type = "integer", min = 1, max = 1000000, default = 10000 },
  max_replay_nonces = { type = "integer", min = 1, max = 100000000, default = 16000000 },
  max_frame_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  max_frames = { type = "integer", min = 16, max = 65536, default = 1024 },
  max_message_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  send_hwm = { type = "integer", min = 1, max = 1000000, default = 10000 },
  recv_hwm = { type = "integer", min = 1, max = 1000000, default = 10000 },
  outbox_messages = { type = "integer", min = 1, max = 1000000, default = 10000 },
  outbox_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
}

--- Options of one request.
---@class znl.RequestOptions
---@field timeout_ms? integer  counted from the call
local REQUEST_SPEC = { timeout_ms = { type = "integer", min = 1, max = 86400000, default = 5000 } }

--- Events both roles have; those the core raises only while somebody listens.
M.EVENTS = { "auth_failed", "error", "message", "request", "response" }
local ON_DEMAND = {
  message = true, request = true, response = true, service_request = true, service_response = true,
}

---@class znl.Node
---@field id string
local Node = {}
Node.__index = Node
M.Node = Node

--- Reads the options of a request without a table per call: this is on the path of every request.
---@return integer timeout_ms
function M.timeout_ms(opts, what)
  if opts == nil then return REQUEST_SPEC.timeout_ms.default end
  local timeout_ms = type(opts) == "table" and opts.timeout_ms
  if timeout_ms and next(opts) == "timeout_ms" and next(opts, "timeout_ms") == nil
      and options.accepts(REQUEST_SPEC.timeout_ms, timeout_ms) then
    return timeout_ms
  end
  local read = options.read(REQUEST_SPEC, opts, what, 3)
  return read.timeout_ms
end

--- The text of a key; blames the caller of a public function when it cannot be had.
local function key_text(what, key, level)
  local ok, text = pcall(secret.text, key)
  if not ok then error(("%s: %s"):format(what, (text:gsub("^[^\n]-:%d+: ", ""))), level + 1) end
  return text
end
M.key_text = key_text

--- Rules that concern more than one option.
local function check_together(opts, what, level)
  local has_key = opts.auth_key ~= nil or (opts.auth_keys ~= nil and next(opts.auth_keys) ~= nil)
  if opts.encrypted == nil and has_key then
    error(what .. ": a key is given, so say encrypted = true (or false, to run in plain)", level + 1)
  end
  if opts.encrypted and opts.auth_key == nil and opts.auth_keys == nil then
    error(what .. ": encrypted = true needs a key: auth_key" ..
      (what == "znl.master" and " or auth_keys" or ""), level + 1)
  end
  if opts.replay_window_ms < 2 * opts.max_skew_ms then
    error(("%s: option replay_window_ms is %d; it must be at least 2 * max_skew_ms, %d"):format(
      what, opts.replay_window_ms, 2 * opts.max_skew_ms), level + 1)
  end
end

--- Reactions of both roles to what the core reports, before listeners hear of it.
local REACTIONS = {}

function REACTIONS.auth_failed(self, refusal) self.refusals:report(refusal) end

function REACTIONS.error(self, message, place)
  self.log.error((place or "node") .. " failed", { error = message })
end

--- Not an event of its own: something for the operator, already counted by the core.
function REACTIONS.trouble(self, text, code)
  self.log.warn(text, { code = code })
end

---@class znl.RoleDescription
---@field name "master"|"slave"
---@field spec table
---@field events string[]
---@field reactions table<string, fun(self: table, ...)>  run before the listeners of an event
---@field after? table<string, fun(self: table, ...)>  run after them
---@field create fun(config: table): userdata|nil, string?, string?  of znl.core.node

--- Makes a node of `class` as `role` describes it. Raises for its caller's caller.
---@param class table
---@param role znl.RoleDescription
---@param opts table
function M.open(class, role, opts)
  local what = "znl." .. role.name
  local config = options.read(role.spec, opts, what, 3)
  check_together(config, what, 3)
  if config.auth_key ~= nil then config.auth_key = key_text(what, config.auth_key, 3) end
  if config.auth_keys ~= nil then
    local keys = {}
    for id, key in pairs(config.auth_keys) do keys[id] = key_text(what, key, 3) end
    config.auth_keys = keys
  end
  config.encrypted = config.encrypted or false

  local self = setmetatable({ id = config.id, what = what, log = log.new(config.id) }, class)
  self.refusals = refusals.new(role.name, self.log)
  local emitter = events.new {
    names = role.events,
    what = what .. " " .. config.id,
    on_error = function(message, event)
      self.log.error("listener failed", { event = event, error = message })
    end,
    on_interest = function(event, wanted)
      if ON_DEMAND[event] then self.core:listen(event, wanted) end
    end,
  }
  self.emitter = emitter
  local reactions, after = role.reactions, role.after or {}
  config.on_event = function(kind, ...)
    local react = reactions[kind] or REACTIONS[kind]
    if react then react(self, ...) end
    emitter:emit(kind, ...)
    if after[kind] then after[kind](self, ...) end
  end
  local core, message = role.create(config)
  if not core then error(("%s: %s"):format(what, message), 3) end
  self.core = core
  return self
end

--- Hands `apply(fn, owner)` what `handler` is: a function, or handlers that may change. Returns how
--- to let go of it.
---@param handler znl.Handler|znl.Handlers
function M.follow(handler, apply, what, level)
  if handlers.is(handler) then return handler:attach(apply) end
  if type(handler) ~= "function" then
    error(("%s: the handler must be a function or znl.handlers(path), not a %s"):format(
      what, type(handler)), level + 1)
  end
  apply(handler, nil)
  return function() end
end

--- Answers requests with `handler`; the last one set wins, nil removes it. A handler gets a request
--- and returns the payload of the answer; it runs in its own coroutine and may yield.
---@param handler znl.Handler|znl.Handlers|nil
function Node:handle(handler)
  local core = self.core
  if handler ~= nil and not handlers.is(handler) and type(handler) ~= "function" then
    error(("%s:handle: the handler must be a function or znl.handlers(path), not a %s"):format(
      self.what, type(handler)), 2)
  end
  if self.unfollow then self.unfollow() end
  self.unfollow = nil
  if handler == nil then
    core:set_handler(nil)
  else
    self.unfollow = M.follow(handler, function(fn, owner) core:set_handler(fn, owner) end, self.what, 2)
  end
end

--- Calls `fn` at every `event`, in the event's coroutine: it may yield.
---@param event string
---@param fn fun(...)
---@return fun() off
function Node:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

---@param event string
---@param fn fun(...)
---@return fun() off
function Node:once(event, fn)
  local off = self.emitter:once(event, fn, 3)
  return off
end

---@param event string
---@param fn fun(...)
function Node:off(event, fn)
  self.emitter:off(event, fn, 3)
end

--- Starts the node; harmless when it runs. It stops by itself when the process is told to end.
---@return true|nil ok
---@return string? message
---@return string? code  "ADDRESS_IN_USE", "ADDRESS", …
function Node:start()
  local ok, message, code = self.core:start()
  if not ok then return nil, message, code end
  if not self.forget_stop then
    self.forget_stop = runtime.on_stop(function() self:stop() end)
  end
  return true
end

--- Stops the node: requests that wait end with code "STOPPED". Harmless when it is stopped.
function Node:stop()
  if self.forget_stop then
    self.forget_stop()
    self.forget_stop = nil
  end
  self.core:stop()
end

--- Stops and starts.
---@return true|nil ok
---@return string? message
---@return string? code
function Node:restart()
  self:stop()
  return self:start()
end

---@return boolean
function Node:running() return self.core:running() end

--- The endpoint in use, with the port that the system chose for "tcp://host:*".
---@return string
function Node:endpoint() return self.core:endpoint() end

--- How often what happened since the node was made.
---@return table<string, number>
function Node:counters() return self.core:counters() end

return M
