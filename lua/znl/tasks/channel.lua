--- znl.tasks.channel: hands values from tasks to tasks, in order.
---
---   local jobs = znl.channel(100)        holds up to 100 values; without a number a sender waits until
---   jobs:send(job)                       its value is taken
---   for job in jobs:each() do … end      until it is closed and empty
---
--- A value is any but nil. After `close` what the channel holds can still be received; senders that
--- wait are refused.
--- SPDX-License-Identifier: MIT

local line = require("znl.tasks.line")
local options = require("znl.options")

local M = {}

local CAPACITY = { type = "integer", min = 0, max = 1000000 }

---@class znl.Channel
---@field private capacity integer
---@field private held table  values by number, from `first` on
---@field private first integer
---@field private count integer
---@field private senders znl.Line
---@field private receivers znl.Line
---@field private closed boolean
local Channel = {}
Channel.__index = Channel

---@param capacity? integer  values it holds, 0..1000000; default 0
---@return znl.Channel
function M.new(capacity)
  if capacity ~= nil and not options.accepts(CAPACITY, capacity) then
    error(("znl.channel: capacity must be a whole number in 0..%d"):format(CAPACITY.max), 2)
  end
  return setmetatable({
    capacity = capacity or 0, held = {}, first = 1, count = 0, closed = false,
    senders = line.new(), receivers = line.new(),
  }, Channel)
end

local function closed() return nil, "channel: closed", "CLOSED" end

local function put(self, value)
  self.held[self.first + self.count] = value
  self.count = self.count + 1
end

local function take(self)
  local value = self.held[self.first]
  self.held[self.first] = nil
  self.count = self.count - 1
  self.first = self.count > 0 and self.first + 1 or 1
  return value
end

local function check_value(value, what)
  if value == nil then error(what .. ": the value must not be nil", 3) end
end

--- True when the value went to a receiver or into the channel.
local function offer(self, value)
  local receiver = self.receivers:wake()
  if receiver then
    receiver.value = value
    return true
  end
  if self.count == self.capacity then return false end
  put(self, value)
  return true
end

--- Hands a value over; waits while the channel is full. Yields.
---@param value any  not nil
---@param timeout_ms? integer  without it as long as it takes
---@return true|nil ok
---@return string? message
---@return "CLOSED"|"TIMEOUT"|"CANCELLED"|"DEADLINE"? code  the value was not handed over
function Channel:send(value, timeout_ms)
  check_value(value, "channel:send")
  line.check("channel:send", timeout_ms, 2)
  if self.closed then return closed() end
  if offer(self, value) then return true end
  local entry, message, code = self.senders:wait("channel", timeout_ms, value)
  if not entry then return nil, message, code end
  if entry.closed then return closed() end
  return true
end

--- Hands a value over if that is possible at once.
---@param value any  not nil
---@return true|nil ok
---@return string? message
---@return "BUSY"|"CLOSED"? code
function Channel:try_send(value)
  check_value(value, "channel:try_send")
  if self.closed then return closed() end
  if offer(self, value) then return true end
  return nil, "channel: full", "BUSY"
end

--- A value that is there now; nil when there is none.
local function next_value(self)
  if self.count > 0 then
    local value = take(self)
    local sender = self.senders:wake()
    if sender then put(self, sender.value) end
    return value
  end
  local sender = self.senders:wake()
  if sender then return sender.value end
  return nil
end

--- Takes the oldest value; waits while there is none. Yields.
---@param timeout_ms? integer  without it as long as it takes
---@return any|nil value
---@return string? message
---@return "CLOSED"|"TIMEOUT"|"CANCELLED"|"DEADLINE"? code
function Channel:recv(timeout_ms)
  line.check("channel:recv", timeout_ms, 2)
  local value = next_value(self)
  if value ~= nil then return value end
  if self.closed then return closed() end
  local entry, message, code = self.receivers:wait("channel", timeout_ms)
  if not entry then return nil, message, code end
  if entry.closed then return closed() end
  return entry.value
end

--- Takes the oldest value if there is one.
---@return any|nil value  nil without a code: there is none now
---@return string? message
---@return "CLOSED"? code
function Channel:try_recv()
  local value = next_value(self)
  if value ~= nil then return value end
  if self.closed then return closed() end
  return nil
end

--- Ends it: senders are refused from now on, receivers get what is left. Closing twice is harmless.
function Channel:close()
  if self.closed then return end
  self.closed = true
  for _, waiting in ipairs { self.senders, self.receivers } do
    local entry = waiting:wake()
    while entry do
      entry.closed = true
      entry = waiting:wake()
    end
  end
end

---@return boolean
function Channel:is_closed() return self.closed end

--- Values it holds.
---@return integer
function Channel:len() return self.count end

--- For `for value in channel:each() do`: ends when it is closed and empty, or the task is cancelled.
---@return fun(): any
function Channel:each()
  return function() return (self:recv()) end
end

return M
