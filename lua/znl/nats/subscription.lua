--- znl.nats.subscription: a subscription of NATS: messages with a handler, or taken one by one.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local scope = require("znl.versions.scope")
local sched = require("znl.core.sched")

local M = {}

---@class znl.NatsSubscribeOptions
---@field queue? string  the group: each message goes to one of its members
---@field max_messages? integer  that wait here; beyond it they are lost, and "error" says so
---@field max_bytes? integer  of those
---@field max_concurrency? integer  handlers at work; messages wait beyond it
local SPEC = {
  queue = { type = "string", min = 1, max = 1024 },
  max_messages = { type = "integer", min = 1, max = 1000000000, default = 65536 },
  max_bytes = { type = "integer", min = 1024, max = 4294967295, default = 64 * 1024 * 1024 },
  max_concurrency = { type = "integer", min = 1, max = 1000000, default = 1000 },
}

---@class znl.NatsSubscription
---@field subject string
---@field private nats znl.Nats
---@field private core userdata|nil  nil: of a version that is not in service yet
local Subscription = {}
Subscription.__index = Subscription

local function closed() return nil, "nats: the subscription has ended", "CLOSED" end

-- --- a registration of znl.versions.scope --------------------------------------------------------

local function open(self)
  local opts = self.opts
  local raw, message, code = self.nats.core:subscribe(self.subject, {
    fn = self.fn, owner = self.home and self.home.owner or nil, queue = opts.queue,
    max_messages = opts.max_messages, max_bytes = opts.max_bytes, max_concurrency = opts.max_concurrency,
  })
  self.core = raw
  return raw ~= nil, message, code
end

function Subscription:start()
  if self.nats.is_closed then return end
  local ok, message = open(self)
  if not ok then error(message, 0) end
  self.nats.handled[self] = true
  if self.wants_pause then self.core:pause(true) end
end

function Subscription:undo()
  self.nats.handled[self] = nil
  if self.core then self.core:unsubscribe() end
end

-- --- methods -------------------------------------------------------------------------------------

--- The next message, of a subscription without handler. Yields while there is none.
---@param timeout_ms? integer  for ever without
---@return znl.NatsMessage|nil message
---@return string? text
---@return "TIMEOUT"|"CLOSED"|"BUSY"|"CANCELLED"|"DEADLINE"? code
function Subscription:next(timeout_ms)
  if self.fn then error("nats.next: messages of this subscription have a handler", 2) end
  if timeout_ms ~= nil and (type(timeout_ms) ~= "number" or timeout_ms < 0 or timeout_ms % 1 ~= 0) then
    error("nats.next: timeout_ms must be a whole number of at least 0", 2)
  end
  while true do
    local message, text, code = self.core:next(timeout_ms)
    if message ~= true then return message, text, code end
  end
end

--- For a loop: the messages until the subscription ends.
---@return fun(): znl.NatsMessage|nil
function Subscription:messages()
  if self.fn then error("nats.messages: messages of this subscription have a handler", 2) end
  return function() return (self:next()) end
end

--- Ends it: messages that wait are dropped, handlers at work go on. Twice is harmless.
function Subscription:unsubscribe()
  if self.fn then
    scope.remove(self)
  else
    self.core:unsubscribe()
  end
end

local function left_ms(until_ms) return math.max(1, math.ceil(until_ms - sched.now_ms())) end

local function drain(self, until_ms)
  if not self.core then
    self:unsubscribe()
    return true
  end
  self.core:stop()
  local ok, message, code = true, nil, nil
  if self.nats:is_connected() then ok, message, code = self.nats.core:flush(left_ms(until_ms)) end
  if ok or code == "OFFLINE" then ok, message, code = self.core:wait_idle(left_ms(until_ms)) end
  self:unsubscribe()
  return ok, message, code
end

--- Takes no more messages, waits until those that are here are handled or taken, and ends it. Yields.
---@param timeout_ms? integer  5000 without
---@return true|nil ok  nil: it has ended all the same
---@return string? message
---@return "TIMEOUT"|"CANCELLED"|"DEADLINE"? code
function Subscription:drain(timeout_ms)
  timeout_ms = timeout_ms or 5000
  if type(timeout_ms) ~= "number" or timeout_ms < 1 then error("nats.drain: timeout_ms must be at least 1", 2) end
  return drain(self, sched.now_ms() + timeout_ms)
end

--- Messages wait, and go on.
---@param on boolean
function Subscription:pause(on)
  self.wants_pause = on and true or false
  if self.core then self.core:pause(self.wants_pause) end
end

--- Messages that wait, their bytes, and handlers at work.
---@return integer messages
---@return integer bytes
---@return integer at_work
function Subscription:pending()
  if not self.core then return 0, 0, 0 end
  return self.core:pending()
end

-- --- for znl.nats --------------------------------------------------------------------------------

---@param nats znl.Nats
---@param subject string
---@param fn? fun(message: znl.NatsMessage)
---@param given? znl.NatsSubscribeOptions
---@param level integer  whom to blame
---@return znl.NatsSubscription|nil
---@return string? message
---@return string? code
function M.new(nats, subject, fn, given, level)
  if nats.is_closed then return closed() end
  local opts = options.read(SPEC, given, "nats.subscribe", level + 1)
  local self = setmetatable({ nats = nats, subject = subject, fn = fn, opts = opts }, Subscription)
  if not fn then
    local ok, message, code = open(self)
    if not ok and code == "INVALID" then error(message, level + 1) end
    if not ok then return nil, message, code end
    nats.taken[self] = true
    return self
  end
  local ok, message = pcall(scope.add, self)
  if not ok then error(message, level + 1) end
  return self
end

--- Drains all. Yields.
function M.drain_all(nats, until_ms)
  local list = {}
  for one in pairs(nats.handled) do list[#list + 1] = one end
  for one in pairs(nats.taken) do list[#list + 1] = one end
  for _, one in ipairs(list) do
    if one.core then one.core:stop() end
  end
  local ok, message, code = true, nil, nil
  for _, one in ipairs(list) do
    local done, why, its_code = drain(one, until_ms)
    if not done and ok then ok, message, code = nil, why, its_code end
  end
  return ok, message, code
end

--- The connection is closed.
function M.forget_all(nats)
  local list = {}
  for one in pairs(nats.handled) do list[#list + 1] = one end
  for _, one in ipairs(list) do scope.remove(one) end
end

return M
