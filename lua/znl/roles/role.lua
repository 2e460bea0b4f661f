--- znl.roles.role: what the objects that serve have in common, whatever their protocol: life cycle, handler,
--- middleware, events.
---
---   stopped --start--> running --stop--> stopped
---
--- Handlers, listeners and whatever else a script gives an object belong to it and outlive a stop.
--- SPDX-License-Identifier: MIT

local events = require("znl.events")
local log = require("znl.log")
local middleware = require("znl.routing.middleware")
local estate = require("znl.versions.estate")
local options = require("znl.options")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local slots = require("znl.versions.slots")
local where = require("znl.where")

local M = {}

local DRAIN_RULE = { type = "integer", min = 0, max = 86400000, default = 5000 }
local DRAIN_LOOK_MS = 5
--- What an object keeps of the time a stopping process has, to say goodbye.
local LEAVE_MS = 300
--- How long it still refuses requests after its last answers, before it closes. libzmq at the other end forgets
--- what it has received and not handed over when it sees the end of the connection at the same moment.
local READ_MS = 100

---@class znl.Role
---@field what string  begins errors: "znl.master"
---@field core userdata  of znl.core
---@field log znl.Logger
---@field emitter znl.Emitter
local Role = {}
Role.__index = Role
M.Role = Role

--- A traceback with lines of ours alone says nothing about what the handler did.
---@param message string
---@return string
function M.without_our_trace(message)
  local text, trace = message:match("^(.-)\nstack traceback:\n(.*)$")
  if not text or text:find("^znl/") then return message end
  for line in trace:gmatch("[^\n]+") do
    if not line:find("^%s+%[C%]: ") and not line:find("^%s+znl/") then return message end
  end
  return text
end

--- A function for the core to call, which does not keep `self` alive: the core holds what it calls
--- for as long as it lives, and `self` holds the core. One that runs is held by `on_stop`.
function M.weakly(self, fn)
  local held = setmetatable({ self }, { __mode = "v" })
  return function(...)
    local node = held[1]
    if node then return fn(node, ...) end
  end
end

---@class znl.RoleParts
---@field what string  "znl.master"
---@field name string  of this one, for errors and the log
---@field events string[]
---@field on_interest? fun(event: string, wanted: boolean)
---@field on_attach? fun(self: znl.Role)  before it starts: what else the core is given
---@field on_detach? fun(self: znl.Role)  after it stopped
---@field around? fun(self: znl.Role, handler: function): function  goes around the handler and its middleware

--- Fills `self`, whose class inherits from Role, but for `core`.
---@param self table
---@param parts znl.RoleParts
function M.init(self, parts)
  self.what, self.hooks, self.log = parts.what, parts, log.new(parts.name)
  self.middleware, self.slots = {}, slots.new()
  self.emitter = events.new {
    names = parts.events,
    what = parts.what .. " " .. parts.name,
    on_error = function(message, event)
      self.log.error("listener failed", { event = event, error = message })
    end,
    on_interest = parts.on_interest,
  }
end

--- Refuses what is no handler.
---@param handler znl.Handler|znl.HandlerSource
function M.check_handler(handler, what, level)
  if type(handler) == "function" or (type(handler) == "table" and type(handler.attach) == "function") then return end
  error(("%s: the handler must be a function, znl.handlers(path) or znl.router(), not a %s"):format(
    what, type(handler)), level + 1)
end

--- Hands `apply(fn, owner, place)` what `handler` is: a function, or what can be attached, such as
--- handlers that may change. `place` is where it was written, a znl.Origin; requests of a function run for `owner`,
--- the version of code it belongs to. Returns how to let go of it.
---@param handler znl.Handler|znl.HandlerSource
---@param owner any
function M.follow(handler, owner, apply)
  if type(handler) == "table" then
    return handler:attach(function(fn, its_owner, origin)
      apply(fn, its_owner, fn and (origin or where.of(fn)))
    end) or function() end
  end
  apply(handler, owner, where.of(handler))
  return function() end
end

--- The owner of the version of code that runs, for requests of the functions it gives.
function M.current_owner()
  local current = scope.current()
  return current and current.owner
end

--- Gives the core the handler of now, with the middleware around it. A stopped node gives it nothing:
--- handlers lead to their node, which would never be collected.
local function install(self)
  if not self.is_attached then return end
  local fn = self.handler
  if fn and #self.middleware > 0 then fn = middleware.compose(self.middleware, fn) end
  local around = self.hooks.around
  if fn and around then fn = around(self, fn) end
  self.core:set_handler(fn, fn and self.handler_owner, self.place)
end

--- Gives the core what it calls while the object runs, and takes it back.
local function attach(self)
  if self.is_attached then return end
  self.is_attached = true
  install(self)
  local more = self.hooks.on_attach
  if more then more(self) end
end

local function detach(self)
  if not self.is_attached then return end
  self.is_attached = false
  self.core:set_handler(nil)
  local more = self.hooks.on_detach
  if more then more(self) end
end

--- Answers requests with `handler`; the last one set wins, nil removes it. A handler gets a request
--- and returns the payload of the answer, or `nil, message, code` to refuse; it runs in its own
--- coroutine and may yield.
---@param handler znl.Handler|znl.HandlerSource|nil
function Role:handle(handler)
  if handler == nil then return self.slots:clear("handler") end
  M.check_handler(handler, self.what .. ":handle", 2)
  local owner = M.current_owner()
  local function apply(fn, its_owner, place)
    self.handler, self.handler_owner, self.place = fn, its_owner, place
    install(self)
  end
  self.slots:put("handler", function()
    self.source = handler
    local unfollow = M.follow(handler, owner, apply)
    return function(is_holder)
      unfollow()
      if is_holder then
        self.source = nil
        apply(nil)
      end
    end
  end)
end

--- Runs `fn(req, next)` around whatever answers the requests of this node, the first one added
--- outermost.
---@param fn znl.Middleware
function Role:use(fn)
  if type(fn) ~= "function" then
    error(("%s:use: a middleware is a function(req, next), not a %s"):format(self.what, type(fn)), 2)
  end
  scope.register(function()
    local list = self.middleware
    list[#list + 1] = fn
    install(self)
    return function()
      for index, other in ipairs(list) do
        if other == fn then
          table.remove(list, index)
          break
        end
      end
      install(self)
    end
  end)
end

--- Calls `fn` at every `event`, in the event's coroutine: it may yield.
---@param event string
---@param fn fun(...)
---@return fun() off
function Role:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

---@param event string
---@param fn fun(...)
---@return fun() off
function Role:once(event, fn)
  local off = self.emitter:once(event, fn, 3)
  return off
end

---@param event string
---@param fn fun(...)
function Role:off(event, fn)
  self.emitter:off(event, fn, 3)
end

--- Starts it; harmless when it runs. It stops by itself when the process is told to end.
---@return true|nil ok
---@return string? message
---@return string? code  "ADDRESS_IN_USE", "ADDRESS", …
function Role:start()
  estate.make_room(self)
  attach(self)
  local ok, message, code = self.core:start()
  if not ok then
    detach(self)
    return nil, message, code
  end
  if not self.forget_stop then
    self.forget_stop = runtime.on_stop(function()
      local had_work = self.core:drain() > 0
      self:drain(math.max(0, runtime.drain_ms() - LEAVE_MS))
      if had_work then sched.sleep(READ_MS) end
      self:stop()
    end)
  end
  return true
end

--- Refuses new requests with code "STOPPED" until the next `start`, and waits until those that came
--- before have their answers. Yields.
---@param timeout_ms? integer  0..86400000, default 5000
---@return true|nil ok
---@return string? message
---@return "TIMEOUT"? code  some are still at work
function Role:drain(timeout_ms)
  if timeout_ms == nil then timeout_ms = DRAIN_RULE.default end
  if not options.accepts(DRAIN_RULE, timeout_ms) then
    error("drain: timeout_ms must be a whole number in 0..86400000", 2)
  end
  local ends = sched.now_ms() + timeout_ms
  while true do
    local count = self.core:drain()
    if count == 0 then return true end
    local left = ends - sched.now_ms()
    if left <= 0 then return nil, ("drain: %d requests are still at work"):format(count), "TIMEOUT" end
    local ok, message, code = sched.sleep(math.min(left, DRAIN_LOOK_MS))
    if not ok then return nil, message, code end
  end
end

--- Stops the node: requests that wait end with code "STOPPED", here and at those that asked this node.
--- Harmless when it is stopped.
function Role:stop()
  if self.forget_stop then
    self.forget_stop()
    self.forget_stop = nil
  end
  self.core:stop()
  detach(self)
end

--- Stops and starts.
---@return true|nil ok
---@return string? message
---@return string? code
function Role:restart()
  self:stop()
  return self:start()
end

---@return boolean
function Role:running() return self.core:running() end

--- The endpoint in use, with the port that the system chose for "tcp://host:*".
---@return string
function Role:endpoint() return self.core:endpoint() end

--- How often what happened since the node was made.
---@return table<string, number>
function Role:counters() return self.core:counters() end

return M
