--- znl.roles.topic: messages that JetStream keeps for all who want them, also later.
---
---     local orders = znl.topic("orders", { durable = true, bus = "nats://127.0.0.1:4222", max_age_ms = 86400000 })
---     orders:subscribe(function(message) print(message.seq, message.data) end, { group = "billing", from = "first" })
---     assert(orders:start())
---     assert(orders:publish("a book", { subject = "eu" }))
---
--- Each group gets every message once more than it fails; who has no group gets every message too, and is
--- forgotten when he is gone. Messages stay until the limits of the topic take them.
--- SPDX-License-Identifier: MIT

local consumer = require("znl.durable.consumer")
local estate = require("znl.versions.estate")
local intake = require("znl.durable.intake")
local keeper = require("znl.durable.keeper")
local options = require("znl.options")
local publisher = require("znl.durable.publisher")
local role = require("znl.roles.role")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local task = require("znl.tasks.task")

local M = {}

local SUBJECT_BYTES = 200

local function tokens_are(text, is_token)
  if type(text) ~= "string" or #text == 0 or #text > SUBJECT_BYTES then return false end
  for token in (text .. "."):gmatch("([^.]*)%.") do
    if not is_token(token) then return false end
  end
  return true
end

local function is_word(token) return token ~= "" and not token:find("[%s%c*>]") end

local function is_subject(text) return tokens_are(text, is_word) end

local function is_filter(text)
  if type(text) == "string" then text = text:gsub("^>$", "x"):gsub("%.>$", ".x") end
  return tokens_are(text, function(token) return token == "*" or is_word(token) end)
end

local function is_from(from)
  if from == "new" or from == "first" or from == "last" then return true end
  if type(from) == "number" then return from >= 1 and from % 1 == 0 and from <= 2 ^ 53 end
  if type(from) ~= "table" or (from.seq == nil) == (from.time_ms == nil) then return false end
  local number = from.seq or from.time_ms
  for name in pairs(from) do
    if name ~= "seq" and name ~= "time_ms" then return false end
  end
  return type(number) == "number" and number % 1 == 0 and number >= 0 and number <= 2 ^ 47
end

---@class znl.TopicOptions: znl.KeeperOptions
---@field durable true
local SPEC = options.extend(keeper.SPEC, {
  durable = {
    type = "boolean", required = true, check = function(value) return value end,
    allowed = "true (messages that nobody keeps: znl.nats)",
  },
})

---@class znl.TopicPublishOptions: znl.PublishOptions
---@field subject? string  "eu.created": subscribers can choose by it
local PUBLISH_SPEC = options.extend(publisher.SPEC, {
  subject = {
    type = "any", check = is_subject,
    allowed = ("words with dots between them, %d bytes at most"):format(SUBJECT_BYTES),
  },
})

---@class znl.SubscribeOptions: znl.HandleOptions
---@field group? string  its members share the messages, and it is remembered where they are
---@field from? "new"|"first"|"last"|integer|{seq: integer}|{time_ms: integer}  where it begins, when nobody remembers
---@field filter? string  subjects, as given to `publish`: "eu.*", "eu.>"
local SUBSCRIBE_SPEC = options.extend(keeper.HANDLE_SPEC, {
  group = keeper.NAME,
  from = {
    type = "any", default = "new", check = is_from,
    allowed = '"new", "first", "last", a sequence number, { seq = n } or { time_ms = unix milliseconds }',
  },
  filter = { type = "any", check = is_filter, allowed = 'a subject, where * stands for a word and a last > for all' },
})

---@class znl.Topic: znl.Keeper
local Topic = setmetatable({}, { __index = keeper.Keeper })
Topic.__index = Topic
M.Topic = Topic

local function subject_of(self, opts)
  return opts.subject and self.subject .. "." .. opts.subject or self.subject
end

--- Publishes; returns when JetStream keeps the message. Yields.
---@param data string
---@param opts? znl.TopicPublishOptions
---@return znl.PublishAck|nil ack
---@return string? message
---@return "OFFLINE"|"TIMEOUT"|"LIMIT"|"TOO_BIG"|"UNREACHABLE"|"STOPPED"|string? code
function Topic:publish(data, opts)
  opts = publisher.check("znl.topic:publish", data, opts, PUBLISH_SPEC, 2)
  local writer, message, code = self:writer()
  if not writer then return nil, message, code end
  local ack
  ack, message, code = writer:publish(subject_of(self, opts), data, opts, 2)
  return ack, message, code
end

--- Publishes and does not wait for JetStream, but when `max_pending` messages are on their way. `flush` says whether
--- all are kept. Yields.
---@param data string
---@param opts? znl.TopicPublishOptions
---@return znl.Task|nil task  its `wait` returns what `publish` does
---@return string? message
---@return string? code
function Topic:publish_async(data, opts)
  opts = publisher.check("znl.topic:publish_async", data, opts, PUBLISH_SPEC, 2)
  local writer, message, code = self:writer()
  if not writer then return nil, message, code end
  local run
  run, message, code = writer:publish_async(subject_of(self, opts), data, opts, 2)
  return run, message, code
end

-- --- subscriptions -------------------------------------------------------------------------------

--- A subscription is a registration of znl.versions.scope: it ends with the version of code that made it.
---@class znl.TopicSubscription
---@field private topic znl.Topic
---@field private opts znl.SubscribeOptions
local Subscription = {}
Subscription.__index = Subscription

local function bury(topic, group, opts)
  return function(message, reason, code)
    if opts.max_deliver > 0 then
      return topic:bury(("%s.%s"):format(topic.dead_subject, group or "none"), message, reason, code)
    end
    topic.counts.dead = topic.counts.dead + 1
    topic:fail(("message %d is ended: %s"):format(message.seq, reason), code)
    return true
  end
end

local function make_intake(self)
  local topic, opts = self.topic, self.opts
  local from = opts.from
  local made = intake.new {
    name = topic.title, api = topic.api, opts = opts, counts = topic.counts, remembers = true,
    consumer = consumer.new(topic.api, {
      stream = topic.stream_name, group = opts.group, from = type(from) == "number" and { seq = from } or from,
      filter = opts.filter and topic.subject .. "." .. opts.filter, ack_wait_ms = opts.ack_wait_ms,
      max_unacked = opts.max_unacked, is_update = topic.opts.update,
    }),
    fail = function(message, code) topic:fail(message, code) end,
    on_missing = function() topic:heal() end,
    bury = bury(topic, opts.group, opts),
  }
  if self.fn then made:set_handler(self.fn, self.fn_owner) end
  return made
end

--- Begins to take messages, while the topic has a stream. Yields.
local function begin(self)
  local topic = self.topic
  if topic.intakes[self] then return true end
  if self.opts.max_deliver > 0 then
    local ok, message, code = topic:ensure_dead()
    if not ok then return nil, message, code end
  end
  if not topic.api or self.is_removed then return nil, "it was stopped", "STOPPED" end
  local made = make_intake(self)
  topic.intakes[self] = made
  local ok, message, code = made:start()
  if ok then return true end
  if topic.intakes[self] == made then topic.intakes[self] = nil end
  return nil, message, code
end

--- The same for a topic that runs; `begun` tells how it went.
local function begin_later(self)
  local topic, begun = self.topic, sched.event()
  self.begun = begun
  local run = task.background(topic.owner, begin, self)
  if not run then return begun:set(nil, "no task", "LIMIT") end
  run:on_end(function()
    local ok, message, code = run:wait()
    if not ok and not self.is_removed then topic:fail(message, code) end
    begun:set(ok, message, code)
  end)
end

---@private
function Subscription:start()
  local topic = self.topic
  topic.subscriptions[self] = true
  self.unfollow = role.follow(self.handler, self.owner, function(fn, owner)
    self.fn, self.fn_owner = fn, owner
    local made = topic.intakes[self]
    if made then made:set_handler(fn, owner) end
  end)
  if topic.state == "running" then begin_later(self) end
end

---@private
function Subscription:undo()
  local topic = self.topic
  topic.subscriptions[self], self.is_removed = nil, true
  self.unfollow()
  local made = topic.intakes[self]
  topic.intakes[self] = nil
  if made then self.ending = task.background(topic.owner, made.stop, made, self.drain_ms or topic.opts.drain_ms) end
end

--- Ends it: waits for its handlers, and gives back what they are not through with. Stopping twice is harmless.
--- Yields.
---@param drain_ms? integer  default: that of the topic
function Subscription:stop(drain_ms)
  if drain_ms ~= nil and not options.accepts({ type = "integer", min = 0, max = 86400000 }, drain_ms) then
    error("znl.topic: stop: drain_ms must be a whole number in 0..86400000", 2)
  end
  self.drain_ms = drain_ms
  scope.remove(self)
  if self.ending then self.ending:wait() end
end

--- Hands every message to `handler`, those of other groups too. It runs in a coroutine of its own for each message and
--- may yield; what it returns means what it does in `znl.queue`. Without `max_deliver` a message comes again until it
--- is handled. While the topic runs this waits until JetStream knows of it.
---@param handler (fun(message: znl.DurableMessage): ...)|znl.HandlerSource
---@param opts? znl.SubscribeOptions
---@return znl.TopicSubscription|nil subscription
---@return string? message
---@return "EXISTS"|"UNREACHABLE"|"LIMIT"|string? code  EXISTS: the group is configured differently
function Topic:subscribe(handler, opts)
  opts = options.read(SUBSCRIBE_SPEC, opts, "znl.topic:subscribe", 2)
  role.check_handler(handler, "znl.topic:subscribe", 2)
  local self_ = setmetatable({ topic = self, opts = opts, handler = handler, owner = role.current_owner() },
    Subscription)
  scope.add(self_)
  if self_.begun then
    local ok, message, code = self_.begun:wait()
    if not ok then
      scope.remove(self_)
      return nil, ("%s: %s"):format(self.title, message), code
    end
  end
  return self_
end

--- For `start`. Yields.
---@private
function Topic:opened()
  local list = {}
  for subscription in pairs(self.subscriptions) do list[#list + 1] = subscription end
  for _, subscription in ipairs(list) do
    local ok, message, code = begin(subscription)
    if not ok and not subscription.is_removed then return nil, message, code end
  end
  return true
end

--- For `start`: subscriptions may have been added meanwhile.
---@private
function Topic:began()
  for subscription in pairs(self.subscriptions) do
    if not self.intakes[subscription] then begin_later(subscription) end
  end
end

local function build(name, opts)
  local subject = ("%s.topic.%s"):format(opts.prefix, name)
  opts.discard = opts.discard or "old"
  local self, message, code = keeper.new {
    what = "znl.topic", kind = "topic", name = name, opts = opts, subjects = { subject, subject .. ".>" },
    retention = "limits", class = Topic,
  }
  if not self then return nil, message, code end
  self.subject, self.subscriptions = subject, {}
  return self
end

local function close(self) task.background(self.owner, self.stop, self) end

--- A topic on JetStream. It does nothing until it is started.
---@param name string
---@param opts znl.TopicOptions
---@return znl.Topic
function M.new(name, opts)
  if not options.accepts(keeper.NAME, name) then
    error(("znl.topic: the name is %s; it must be a text of 1 to 64 letters, digits, _ and -"):format(
      type(name) == "string" and #name <= 80 and ("%q"):format(name) or "a " .. type(name)), 2)
  end
  opts = options.read(SPEC, opts, "znl.topic", 2)
  local self, message = estate.take("znl.topic", name, keeper.declaration(name, opts), function()
    return build(name, opts)
  end, close)
  if not self then error("znl.topic: " .. tostring(message), 2) end
  return self
end

return M
