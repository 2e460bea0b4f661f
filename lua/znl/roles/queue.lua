--- znl.roles.queue: work that must be done, kept by JetStream until a handler has done it.
---
---     local queue = znl.queue("mails", { bus = "nats://127.0.0.1:4222" })
---     queue:handle(function(message) send_mail(message.data) end, { max_in_flight = 10 })
---     assert(queue:start())
---     assert(queue:push("to: ada"))
---
--- Each message goes to one of the handlers of all processes. It is gone when a handler returned and the server has
--- heard of that; until then it comes again: after an error, when a process dies, when one is silent too long.
--- SPDX-License-Identifier: MIT

local consumer = require("znl.durable.consumer")
local estate = require("znl.versions.estate")
local intake = require("znl.durable.intake")
local keeper = require("znl.durable.keeper")
local options = require("znl.options")
local publisher = require("znl.durable.publisher")
local role = require("znl.roles.role")
local task = require("znl.tasks.task")

local M = {}

local CONSUMER = "workers"
local SPEC = keeper.SPEC
local HANDLE_SPEC = options.extend(keeper.HANDLE_SPEC, {
  max_deliver = { type = "integer", min = 0, max = 1000000, default = 5 },
})

---@class znl.Queue: znl.Keeper
local Queue = setmetatable({}, { __index = keeper.Keeper })
Queue.__index = Queue
M.Queue = Queue

--- Puts a message into the queue; returns when JetStream keeps it. Yields.
---@param data string
---@param opts? znl.PublishOptions
---@return znl.PublishAck|nil ack
---@return string? message
---@return "OFFLINE"|"TIMEOUT"|"LIMIT"|"TOO_BIG"|"UNREACHABLE"|"STOPPED"|string? code  LIMIT: the queue is full
function Queue:push(data, opts)
  opts = publisher.check("znl.queue:push", data, opts, publisher.SPEC, 2)
  local writer, message, code = self:writer()
  if not writer then return nil, message, code end
  local ack
  ack, message, code = writer:publish(self.subject, data, opts, 2)
  return ack, message, code
end

--- Puts a message into the queue and does not wait for JetStream, but when `max_pending` are on their way. `flush`
--- says whether all are kept. Yields.
---@param data string
---@param opts? znl.PublishOptions
---@return znl.Task|nil task  its `wait` returns what `push` does
---@return string? message
---@return string? code
function Queue:push_async(data, opts)
  opts = publisher.check("znl.queue:push_async", data, opts, publisher.SPEC, 2)
  local writer, message, code = self:writer()
  if not writer then return nil, message, code end
  local run
  run, message, code = writer:publish_async(self.subject, data, opts, 2)
  return run, message, code
end

--- Takes messages for the handler of now. Yields.
local function take(self)
  local handling = self.handling
  if not handling or self.intakes[1] then return true end
  local opts = handling.opts
  local made = intake.new {
    name = self.title, api = self.api, opts = opts, counts = self.counts, remembers = false,
    consumer = consumer.new(self.api, {
      stream = self.stream_name, group = CONSUMER, from = "first", ack_wait_ms = opts.ack_wait_ms,
      max_unacked = opts.max_unacked, is_update = self.opts.update,
    }),
    fail = function(message, code) self:fail(message, code) end,
    on_missing = function() self:heal() end,
    bury = function(message, reason, code) return self:bury(self.dead_subject, message, reason, code) end,
  }
  self.intakes[1] = made
  made:set_handler(handling.fn, handling.owner)
  local ok, message, code = made:start()
  if ok then return true end
  if self.intakes[1] == made then self.intakes[1] = nil end
  return nil, message, code
end

--- For `start`. Yields.
---@private
function Queue:opened()
  local ok, message, code = self:ensure_dead()
  if not ok then return nil, message, code end
  return take(self)
end

local function equal(a, b)
  for name in pairs(HANDLE_SPEC) do
    if a[name] ~= b[name] then return false end
  end
  return true
end

--- The handler is another one from now on, or none.
local function follow(self)
  local handling, at = self.handling, self.intakes[1]
  if self.state ~= "running" then return end
  if at and handling and equal(handling.opts, at.parts.opts) then
    return at:set_handler(handling.fn, handling.owner)
  end
  self.intakes[1] = nil
  task.background(self.owner, function()
    if at then at:stop(self.opts.drain_ms) end
    if self.state ~= "running" then return end
    local ok, message, code = take(self)
    if not ok then self:fail(message, code) end
  end)
end

--- For `start`: the handler may have become another one meanwhile.
---@private
function Queue:began() follow(self) end

--- Hands messages to `handler`, of this process as of all others; the last one set wins, nil takes none any more. It
--- runs in a coroutine of its own for each message and may yield.
---   it returns                   the message is done
---   it raises, or returns nil and a message   it comes again, after `backoff_ms`; the `max_deliver`th time it
---                                becomes a dead letter
---   nil, message, "TERM"         it becomes a dead letter at once
---@param handler (fun(message: znl.DurableMessage): ...)|znl.HandlerSource|nil
---@param opts? znl.HandleOptions
function Queue:handle(handler, opts)
  opts = options.read(HANDLE_SPEC, opts, "znl.queue:handle", 2)
  if handler == nil then return self.slots:clear("handler") end
  role.check_handler(handler, "znl.queue:handle", 2)
  local owner = role.current_owner()
  self.slots:put("handler", function()
    local function apply(fn, its_owner)
      self.handling = fn and { fn = fn, owner = its_owner, opts = opts } or nil
      follow(self)
    end
    local unfollow = role.follow(handler, owner, apply)
    return function(is_holder)
      unfollow()
      if is_holder then apply(nil) end
    end
  end)
end

local function build(name, opts)
  local subject = ("%s.queue.%s"):format(opts.prefix, name)
  opts.discard = opts.discard or "new"
  local self, message, code = keeper.new {
    what = "znl.queue", kind = "queue", name = name, opts = opts, subjects = { subject }, retention = "workqueue",
    class = Queue,
  }
  if not self then return nil, message, code end
  self.subject = subject
  return self
end

local function close(self)
  task.background(self.owner, self.stop, self)
end

--- A queue on JetStream. It does nothing until it is started.
---@param name string
---@param opts znl.KeeperOptions
---@return znl.Queue
function M.new(name, opts)
  if not options.accepts(keeper.NAME, name) then
    error(("znl.queue: the name is %s; it must be a text of 1 to 64 letters, digits, _ and -"):format(
      type(name) == "string" and #name <= 80 and ("%q"):format(name) or "a " .. type(name)), 2)
  end
  opts = options.read(SPEC, opts, "znl.queue", 2)
  local self, message = estate.take("znl.queue", name, keeper.declaration(name, opts), function()
    return build(name, opts)
  end, close)
  if not self then error("znl.queue: " .. tostring(message), 2) end
  return self
end

return M
