--- znl.cluster.real_client: the object that all processes share, at the leader: made, called, subscribed and
--- closed here.
---
---   absent --start--> starting --ready--> serving --close--> closed
---                                  \--failed--> absent
---
--- Only exported methods are called. A subscription that fails is tried again for as long as it serves; it is
--- never taken back, for followers come and go (spec cluster-client, section 6.4). A new version of the code
--- may `replace` the object: the new one is subscribed to everything before the old one is closed.
--- SPDX-License-Identifier: MIT

local failure = require("znl.cluster.failure")
local registration = require("znl.cluster.registration")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local values = require("znl.cluster.values")
local where = require("znl.where")

local M = {}

local RETRY_MS, RETRY_MS_MAX = 1000, 30000

---@class znl.RealClientOptions
---@field name string  of the channel
---@field exports znl.ClusterExports
---@field owner any  of the tasks, when the source has none
---@field pair znl.ClusterTranscode|nil
---@field on_value fun(key: string, value: any): any, string?, string?
---@field on_error fun(message: string, where: string|nil)

---@class znl.RealClientSource
---@field client table|fun(): table|nil, string?, string?
---@field owner any  the version of code it belongs to

---@class znl.RealClient
---@field object any  while it serves
local Real = {}
Real.__index = Real

---@param opts znl.RealClientOptions
---@param source znl.RealClientSource
---@return znl.RealClient
function M.new(opts, source)
  return setmetatable({
    opts = opts, source = source, methods = opts.exports.methods, generation = 0, upstreams = {}, calls = 0,
  }, Real)
end

local function owner_of(self) return self.source.owner or self.opts.owner end

--- What a step of the start came to: true, or an error.
local function judge(ok, result, message, code)
  if not ok then return nil, failure.of_raised(result) end
  if (result == nil or result == false) and message ~= nil then return nil, failure.of_refusal(message, code) end
  return true
end

--- The method of an object; nil when there is none. Looking must not raise: it may be userdata.
local function method_of(object, name)
  local ok, fn = pcall(function() return object[name] end)
  return ok and type(fn) == "function" and fn or nil
end

local function make(self)
  local client = self.source.client
  if type(client) ~= "function" then return client end
  local ok, object, message, code = xpcall(client, failure.locate)
  if not ok then return nil, failure.of_raised(object) end
  if object == nil then
    return nil, failure.of_refusal(message or "the function that makes it returned nothing", code)
  end
  if type(object) ~= "table" and type(object) ~= "userdata" then
    return nil, failure.of_refusal("the function that makes it returned a " .. type(object), "INVALID")
  end
  return object
end

local function listen_to_errors(self, object)
  local on_error = method_of(object, "on_error")
  if not on_error then return end
  local ok, message = xpcall(on_error, where.locate, object, function(text)
    self.opts.on_error(tostring(text), "client")
  end)
  if not ok then self.opts.on_error(message, "on_error") end
end

--- An object that is ready. Yields.
local function prepare(self)
  local object, err = make(self)
  if object == nil then return nil, err end
  listen_to_errors(self, object)
  local ready = method_of(object, "ready")
  if ready then
    local ok
    ok, err = judge(xpcall(ready, failure.locate, object))
    if not ok then return nil, err, object end
  end
  return object
end

local function close_object(self, object)
  local close = method_of(object, self.opts.exports.close)
  if not close then return end
  local owner = owner_of(self)
  if owner and owner:has_ended() then owner = self.opts.owner end
  task.background(owner, function()
    local ok, message = xpcall(close, where.locate, object)
    if not ok then self.opts.on_error(message, self.opts.exports.close) end
  end)
end

-- --- subscriptions -------------------------------------------------------------------------------

local function is_current(self, generation) return self.generation == generation end

local function subscribe_once(self, object, generation, upstream)
  local subscribe = method_of(object, self.opts.exports.subscribe)
  if not subscribe then return failure.no_method(self.opts.name, self.opts.exports.subscribe), true end
  local function listener(value)
    if not is_current(self, generation) then return end
    local ok, message = self.opts.on_value(upstream.key, value)
    if ok == nil and message ~= nil then
      local key = registration.shown(upstream.key)
      self.opts.on_error(("a value of %s cannot be passed on: %s"):format(key, message), "value")
    end
  end
  local _, err = judge(xpcall(subscribe, failure.locate, object, upstream.reg, listener))
  return err
end

--- Subscribes the object, and goes on trying. Yields.
local function keep_subscribing(self, object, generation, upstream)
  local pause_ms = RETRY_MS
  while is_current(self, generation) do
    local err, is_final = subscribe_once(self, object, generation, upstream)
    if not err or not is_current(self, generation) then return end
    self.opts.on_error(("%s: %s"):format(registration.shown(upstream.key), err.message), self.opts.exports.subscribe)
    if is_final or not sched.sleep(pause_ms) then return end
    pause_ms = math.min(RETRY_MS_MAX, pause_ms * 2)
  end
end

local function begin_upstream(self, object, upstream)
  local ok, message = task.background(owner_of(self), keep_subscribing, self, object, self.generation, upstream)
  if not ok then self.opts.on_error(tostring(message), self.opts.exports.subscribe) end
end

--- Subscribes the object to a key, now or when it is ready. Does not yield.
---@param key string
---@param reg any
function Real:subscribe(key, reg)
  local upstream = { key = key, reg = reg }
  self.upstreams[key] = upstream
  if self.object ~= nil then begin_upstream(self, self.object, upstream) end
end

-- --- life ----------------------------------------------------------------------------------------

local function serve(self, object)
  self.object = object
  for _, upstream in pairs(self.upstreams) do begin_upstream(self, object, upstream) end
end

local function cut_off(self, object)
  if object ~= nil then close_object(self, object) end
  return nil, failure.of_refusal("it was closed while it started", "STOPPED")
end

--- Makes the object and waits until it is ready. Yields.
---@return true|nil ok
---@return znl.ClusterError? err
function Real:start()
  self.generation = self.generation + 1
  local generation = self.generation
  while true do
    local source = self.source
    local object, err, half_made = prepare(self)
    if not is_current(self, generation) then return cut_off(self, object or half_made) end
    if self.source == source then
      if object ~= nil then
        serve(self, object)
        return true
      end
      if half_made ~= nil and type(source.client) == "function" then close_object(self, half_made) end
      return nil, err
    end
    -- The code has a new version meanwhile, and another client.
    if object ~= nil or half_made ~= nil then close_object(self, object or half_made) end
  end
end

--- Puts the object of another source in the place of this one; on failure the old one goes on. Yields.
---@param source znl.RealClientSource
function Real:replace(source)
  local before, before_object = self.source, self.object
  self.source = source
  if before_object == nil then return end -- it starts with the new one, or is about to
  local object, err = prepare(self)
  if self.object ~= before_object or self.source ~= source then
    if object ~= nil then close_object(self, object) end
    return
  end
  if object == nil then
    self.source = { client = before.client } -- its version has ended
    self.opts.on_error("the new client is not ready, the one before goes on: " .. err.message, "client")
    return
  end
  self.generation = self.generation + 1
  serve(self, object)
  if before_object ~= object then close_object(self, before_object) end
end

--- No method is called any more, and no value passed on.
function Real:close()
  local object = self.object
  self.generation, self.object, self.upstreams = self.generation + 1, nil, {}
  if object ~= nil then close_object(self, object) end
end

-- --- calls ---------------------------------------------------------------------------------------

local function refuse(err) return nil, err.message, err.code, err end

--- Calls an exported method in this task; what it raises goes on. Yields when the method does.
---@param name string
---@param n integer
---@return any result
---@return any message
---@return any code
---@return znl.ClusterError? err
function Real:call(name, n, a, ...)
  local entry, object = self.methods[name], self.object
  if not entry then return refuse(failure.no_method(self.opts.name, name)) end
  if object == nil then return refuse(failure.of_refusal(self.opts.name .. ": the client is not ready", "STOPPED")) end
  local fn = object[name]
  if type(fn) ~= "function" then return refuse(failure.no_method(self.opts.name, name)) end
  if n == 0 then return fn(object) end
  if n == 1 then return fn(object, a) end
  return fn(object, a, ...)
end

--- An object with a message is meant for the caller; anything else is a mistake, and told here.
local function report_raised(self, name, raised)
  if type(raised) == "table" and raised.message ~= nil then return end
  self.opts.on_error(("%s: %s"):format(name, tostring(raised)), name)
end

local function outcome(self, name, ok, result, message, code, err)
  if not ok then
    report_raised(self, name, result)
    return failure.give(failure.of_raised(result))
  end
  if result == nil and message ~= nil then return failure.give(failure.of_refusal(message, code, err)) end
  local value, problem = values.copy(self.opts.pair, result)
  if not problem then return value end
  problem = ("%s: returned what cannot be sent: %s"):format(self.opts.name, problem)
  self.opts.on_error(("%s: %s"):format(name, problem), name)
  return failure.give(failure.of_refusal(problem))
end

local function run(self, name, n, ...)
  return outcome(self, name, xpcall(self.call, failure.locate, self, name, n, ...))
end

--- Nobody waits for the result: what fails is reported.
local function run_oneway(self, name, n, ...)
  local ok, result, message = xpcall(self.call, failure.locate, self, name, n, ...)
  if not ok then
    report_raised(self, name, result)
  elseif result == nil and message ~= nil then
    self.opts.on_error(("%s: %s"):format(name, message), name)
  end
end

--- Arguments as they would arrive; nil, message, code when they cannot be sent.
local function copied(self, n, ...)
  local list = { ... }
  for index = 1, n do
    local value, message, code = values.copy(self.opts.pair, list[index])
    if message then return nil, ("argument %d: %s"):format(index, message), code end
    list[index] = value
  end
  return list
end

--- A call of this process: as over a connection, without one. Yields.
---@param name string
---@param timeout_ms integer
---@param n integer
---@param ... any
---@return any result
---@return string? message
---@return any code
---@return znl.ClusterError? err
function Real:invoke(name, timeout_ms, n, ...)
  local list, message, code = copied(self, n, ...)
  if not list then return nil, message, code end
  self.calls = self.calls + 1
  local handle
  handle, message, code = task.spawn(run, self, name, n, unpack(list, 1, n))
  if not handle then return nil, message, code end
  local result, problem, its_code, err = handle:wait(timeout_ms)
  if problem ~= nil and not handle:is_done() then
    handle:cancel("the call was given up")
    if its_code == "TIMEOUT" then problem = ("%s: no answer in %d ms"):format(name, timeout_ms) end
  end
  return result, problem, its_code, err
end

--- The same without an answer: what fails is reported.
---@param name string
---@param n integer
---@param ... any
---@return true|nil ok
---@return string? message
---@return string? code
function Real:oneway(name, n, ...)
  local list, message, code = copied(self, n, ...)
  if not list then return nil, message, code end
  self.calls = self.calls + 1
  local handle
  handle, message, code = task.background(owner_of(self), run_oneway, self, name, n, unpack(list, 1, n))
  if not handle then return nil, message, code end
  return true
end

return M
