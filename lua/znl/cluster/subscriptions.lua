--- znl.cluster.subscriptions: the listeners of this process, by key, and what they have been told last.
---
--- A listener may wait. While it does, values queue for it, in order; beyond `max_waiting` the oldest are
--- dropped and counted. They outlive the connection: `keys` says what a new leader must be asked for.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local where = require("znl.where")

local M = {}

---@class znl.ClusterListener
---@field key string
---@field fn fun(value: any)
---@field owner any  its calls run for it
---@field is_busy boolean
---@field is_removed boolean
---@field has_received boolean

---@class znl.ClusterSubscription
---@field key string
---@field text string|nil  of the registration
---@field listeners znl.ClusterListener[]  replaced, never changed
---@field has_value boolean
---@field value any  the last one
---@field was_told? boolean  a value has come

---@class znl.ClusterSubscriptions
---@field by_key table<string, znl.ClusterSubscription>
---@field count integer  keys
---@field received integer  values
---@field dropped integer  of those, for listeners that were busy for too long
local Subscriptions = {}
Subscriptions.__index = Subscriptions

---@class znl.ClusterSubscriptionsOptions
---@field max_waiting integer
---@field keeps boolean  a later listener gets the last value
---@field on_error fun(message: string, where: string|nil)

---@param opts znl.ClusterSubscriptionsOptions
---@return znl.ClusterSubscriptions
function M.new(opts)
  return setmetatable({ opts = opts, by_key = {}, count = 0, received = 0, dropped = 0 }, Subscriptions)
end

local function take(listener)
  local queue = listener.queue
  if not queue or queue.first > queue.last then return false end
  local value = queue[queue.first]
  queue[queue.first] = nil
  queue.first = queue.first + 1
  return true, value
end

--- In a task of its own: calls the listener until nothing waits for it.
local function run(self, listener, value)
  local has = true
  while has and not listener.is_removed do
    local ok, message = xpcall(listener.fn, where.locate, value)
    if not ok then self.opts.on_error("listener: " .. message, where.of(listener.fn)) end
    has, value = take(listener)
  end
  listener.is_busy = false
end

local function wait_in_line(self, listener, value)
  local queue = listener.queue
  if not queue then
    queue = { first = 1, last = 0 }
    listener.queue = queue
  end
  queue.last = queue.last + 1
  queue[queue.last] = value
  if queue.last - queue.first < self.opts.max_waiting then return end
  take(listener)
  self.dropped = self.dropped + 1
end

local function give(self, listener, value)
  listener.has_received = true
  if listener.is_busy then return wait_in_line(self, listener, value) end
  listener.is_busy = true
  local ok, message = sched.spawn_background(listener.owner, run, self, listener, value)
  if not ok then
    listener.is_busy = false
    self.dropped = self.dropped + 1
    self.opts.on_error("listener: " .. tostring(message), where.of(listener.fn))
  end
end

--- The last value, unless a newer one came first.
local function give_last(self, listener, subscription)
  sched.sleep(0)
  if listener.is_removed or listener.has_received or not subscription.has_value then return end
  give(self, listener, subscription.value)
end

---@param listener znl.ClusterListener
---@param text string|nil  of the registration
---@return boolean is_first  of its key
function Subscriptions:add(listener, text)
  local subscription = self.by_key[listener.key]
  if not subscription then
    self.by_key[listener.key] = { key = listener.key, text = text, listeners = { listener }, has_value = false }
    self.count = self.count + 1
    return true
  end
  local list = {}
  for index, other in ipairs(subscription.listeners) do list[index] = other end
  list[#list + 1] = listener
  subscription.listeners = list
  if subscription.has_value then sched.spawn_background(listener.owner, give_last, self, listener, subscription) end
  return false
end

---@param listener znl.ClusterListener
---@return boolean is_last  of its key
function Subscriptions:remove(listener)
  local subscription = self.by_key[listener.key]
  if listener.is_removed or not subscription then return false end
  listener.is_removed, listener.queue = true, nil
  local list = {}
  for _, other in ipairs(subscription.listeners) do
    if other ~= listener then list[#list + 1] = other end
  end
  subscription.listeners = list
  if #list > 0 then return false end
  self.by_key[listener.key] = nil
  self.count = self.count - 1
  return true
end

--- Listeners of a key; with `fn` those that call it.
---@return znl.ClusterListener[]
function Subscriptions:listeners(key, fn)
  local subscription, list = self.by_key[key], {}
  for _, listener in ipairs(subscription and subscription.listeners or {}) do
    if fn == nil or listener.fn == fn then list[#list + 1] = listener end
  end
  return list
end

--- A value has come. Does not yield.
---@param key string
---@param value any
function Subscriptions:deliver(key, value)
  local subscription = self.by_key[key]
  if not subscription then return end
  self.received = self.received + 1
  subscription.was_told = true
  if self.opts.keeps then subscription.has_value, subscription.value = true, value end
  local list = subscription.listeners
  for index = 1, #list do
    local listener = list[index]
    if not listener.is_removed then give(self, listener, value) end
  end
end

return M
