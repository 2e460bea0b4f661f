--- znl.durable.intake: takes messages from a consumer of JetStream and hands them to a handler.
---
---   idle --start--> taking --stop--> stopping --> idle
---
--- It asks for as many messages as it has room for, ahead of need: those at work, waiting and asked for are
--- never more than `max_in_flight`. What a handler returns settles its message; while it works the server hears of
--- that before `ack_wait_ms` are over. Requests that were lost, with a connection, a server or a consumer, are
--- noticed by silence and asked anew, from another inbox: the server drops those of an inbox that nobody listens to.
---
--- Numbers of messages mean something in one stream alone. After an outage nothing is acknowledged before it is
--- known that the stream is the same; what belongs to one that is gone is acknowledged to nobody.
--- SPDX-License-Identifier: MIT

local ack_subject = require("znl.durable.ack_subject")
local delivery = require("znl.durable.delivery")
local jetstream = require("znl.durable.jetstream")
local role = require("znl.roles.role")
local sched = require("znl.core.sched")
local token = require("znl.core.token")

local M = {}

local NS_PER_MS = 1000000
--- A request for messages stays with the server that long, and the server says so in between.
local EXPIRES_MS = 30000
local HEARTBEAT_MS = 2000
local SILENCE_MS = 5000
--- Between attempts to find the consumer again: doubled up to the last.
local RETRY_MS, RETRY_MAX_MS = 50, 2000
--- The server answers a request that it has no room for with this much patience of ours.
local REFUSED_MS = 250
local CONFIRM_TIMES = 5
local FLUSH_MS = 1000

---@class znl.IntakeOptions
---@field max_in_flight integer
---@field ack_wait_ms integer
---@field max_deliver integer  0: as often as it takes
---@field backoff_ms integer[]
---@field exactly_acked boolean
---@field max_run_ms integer

---@class znl.IntakeParts
---@field name string  for errors
---@field api znl.JetStream
---@field consumer znl.Consumer
---@field opts znl.IntakeOptions
---@field counts table<string, integer>
---@field fail fun(message: string, code: string|nil)  tells of trouble
---@field on_missing fun()  there is no stream
---@field bury fun(message: znl.DurableMessage, reason: string, code: string): true|nil, string?, string?  yields
---@field remembers boolean  where it was, for a consumer that gets lost

---@class znl.Intake
---@field running integer  messages at work
---@field waiting integer  those that are here and wait
---@field asked integer  those that are to come
local Intake = {}
Intake.__index = Intake

---@param parts znl.IntakeParts
---@return znl.Intake
function M.new(parts)
  local opts = parts.opts
  return setmetatable({
    parts = parts, name = parts.name, bus = parts.api.bus, counts = parts.counts, consumer = parts.consumer,
    max_in_flight = opts.max_in_flight, ack_wait_ms = opts.ack_wait_ms, state = "idle", refused_ms = REFUSED_MS,
    running = 0, waiting = 0, asked = 0, queue = {}, first_waiting = 1, unsent = {}, next_seq = 0, given_back = {},
    next_subject = parts.api:subject(("CONSUMER.MSG.NEXT.%s.%s"):format(parts.consumer.stream, parts.consumer.name)),
  }, Intake)
end

-- --- asking --------------------------------------------------------------------------------------

local function request_text(self, count)
  if self.text_count ~= count then
    self.text_count = count
    self.text = ('{"batch":%d,"expires":%d,"idle_heartbeat":%d}'):format(
      count, EXPIRES_MS * NS_PER_MS, HEARTBEAT_MS * NS_PER_MS)
  end
  return self.text
end

--- Asks for what there is room for; a little more room is not worth a request while messages are on their way.
local function ask(self)
  local free = self.max_in_flight - self.running - self.waiting - self.asked
  if free <= 0 or (self.asked > 0 and free * 2 < self.max_in_flight) then return end
  if self.state ~= "taking" or not self.is_ready or not self.handler then return end
  local ok = self.bus:publish(self.next_subject, request_text(self, free), { reply = self.reply })
  if ok then
    self.asked = self.asked + free
    self.counts.requests = self.counts.requests + 1
  end -- else it is off line, and asks when it is back
end

-- --- settling ------------------------------------------------------------------------------------

local function link(self, message)
  local last = self.last
  message.before, message.after = last, false
  if last then last.after = message else self.first = message end
  self.last = message
end

local function unlink(self, message)
  local before, after = message.before, message.after
  if before then before.after = after else self.first = after end
  if after then after.before = before else self.last = before end
  message.before, message.after = false, false
end

--- Sends an acknowledgement, now or when that is possible again.
local function tell(self, reply, text)
  if self.is_ready then
    -- Once for each message: not by way of znl.nats, which checks what is known to be right here.
    local ok, _, code = self.bus.core:publish(reply, text)
    if ok or code == "CLOSED" then return end
  end
  local unsent = self.unsent
  unsent[#unsent + 1] = reply
  unsent[#unsent + 1] = text
end

local function tell_unsent(self)
  local unsent = self.unsent
  if #unsent == 0 then return end
  self.unsent = {}
  for index = 1, #unsent, 2 do tell(self, unsent[index], unsent[index + 1]) end
end

local start_waiting

--- The message is no concern of ours any more.
local function settle(self, message)
  if message.is_settled then return false end
  message.is_settled = true
  unlink(self, message)
  self.running = self.running - 1
  if self.waiting > 0 and self.state == "taking" then sched.spawn_owned(self.owner, start_waiting, self) end
  ask(self)
  if self.emptied and self.running == 0 then self.emptied:set(true) end
  return true
end

local function acknowledge(self, message)
  if not settle(self, message) or message.is_lost then return end
  self.counts.acked = self.counts.acked + 1
  if self.parts.remembers then self.given_back[message.seq] = nil end
  tell(self, message.reply, "+ACK")
end

--- It comes again, after `delay_ms`.
local function give_back(self, message, delay_ms)
  if not settle(self, message) or message.is_lost then return end
  self.counts.given_back = self.counts.given_back + 1
  if self.parts.remembers and not self.consumer.is_shared then self.given_back[message.seq] = true end
  local text = delay_ms > 0 and ('-NAK {"delay":%d}'):format(delay_ms * NS_PER_MS) or "-NAK"
  self.bus:publish(message.reply, text) -- unsent it comes again by itself, later
end

--- It never comes again.
local function terminate(self, message)
  if not settle(self, message) or message.is_lost then return end
  if self.parts.remembers then self.given_back[message.seq] = nil end
  tell(self, message.reply, "+TERM")
end

--- Waits until the server has said that it knows.
local function confirm(self, message)
  local problem, code
  local attempt = 0
  while attempt < CONFIRM_TIMES do
    local answer
    if message.is_lost then return acknowledge(self, message) end
    if self.is_ready then
      answer, problem, code = self.bus:request(message.reply, "+ACK", { timeout_ms = self.ack_wait_ms })
    else
      problem, code = "JetStream is away", "OFFLINE"
    end
    if answer then
      self.counts.confirmed = self.counts.confirmed + 1
      if settle(self, message) then self.counts.acked = self.counts.acked + 1 end
      if self.parts.remembers then self.given_back[message.seq] = nil end
      return
    end
    if message.is_settled or code == "CLOSED" then break end
    if code ~= "OFFLINE" then attempt = attempt + 1 end
    if not sched.sleep(RETRY_MS * (attempt + 1)) then break end
  end
  if message.is_settled then return end
  self.parts.fail(("message %d may be delivered again, its acknowledgement is not confirmed: %s"):format(
    message.seq, problem), code)
  give_back(self, message, 0)
end

local function backoff_of(self, message)
  local list = self.parts.opts.backoff_ms
  return list[math.min(message.deliveries, #list)] or 0
end

--- To the dead letters, and only then away from here.
local function bury(self, message, reason, code)
  local ok, problem, why = self.parts.bury(message, reason, code)
  if ok then return terminate(self, message) end
  self.counts.dead_failed = self.counts.dead_failed + 1
  self.parts.fail(("message %d cannot be put to the dead letters, it stays: %s"):format(message.seq, problem), why)
  local list = self.parts.opts.backoff_ms
  give_back(self, message, list[#list] or 0)
end

local function fail(self, message, reason, code)
  local max_deliver = self.parts.opts.max_deliver
  if code == "TERM" or (max_deliver > 0 and message.deliveries >= max_deliver) then
    if not sched.spawn_background(self.owner, bury, self, message, reason, code) then give_back(self, message, 0) end
    return
  end
  give_back(self, message, backoff_of(self, message))
end

--- The handler is through with it. Cannot wait.
---@private
function Intake:handled(message, ok, first, reason, code)
  message[1], message[2] = 0, 0
  if message.is_settled then return end
  if ok and (first ~= nil or reason == nil) then
    if not self.parts.opts.exactly_acked then return acknowledge(self, message) end
    if not sched.spawn_background(self.owner, confirm, self, message) then acknowledge(self, message) end
    return
  end
  if ok == nil then return give_back(self, message, 0) end -- its version of the code has gone
  if ok then
    self.counts.refused = self.counts.refused + 1
    return fail(self, message, tostring(reason), type(code) == "string" and code or "REFUSED")
  end
  self.counts.handler_errors = self.counts.handler_errors + 1
  local problem = role.without_our_trace(tostring(first))
  self.parts.fail("handler failed: " .. problem, "HANDLER_ERROR")
  fail(self, message, problem:match("^[^\n]*"), "HANDLER_ERROR")
end

-- --- taking --------------------------------------------------------------------------------------

local function run(message, fn, owner)
  if owner then
    local ok, problem, code = sched.become(owner)
    if not ok then return nil, problem, code end
  end
  return fn(message)
end

--- Handed out too often, without an end that anybody heard of: it may be what killed those before.
local function is_worn_out(self, message)
  local max_deliver = self.parts.opts.max_deliver
  return max_deliver > 0 and message.deliveries > max_deliver
end

--- In a foreground task of `owner`, which that of the handler takes after: it ends when the handler is through,
--- also when the code was replaced meanwhile.
local function begin(self, message)
  self.running = self.running + 1
  message.began_ms = sched.now_ms()
  link(self, message)
  local is_first = message.reply:find(".1.", self.deliveries_at, true) == self.deliveries_at
  if not is_first and message.deliveries > 1 then
    self.counts.redelivered = self.counts.redelivered + 1
    if is_worn_out(self, message) then
      local reason = ("delivered %d times without an end"):format(message.deliveries - 1)
      if not sched.spawn_background(self.owner, bury, self, message, reason, "MAX_DELIVER") then
        give_back(self, message, 0)
      end
      return
    end
  end
  local index, problem, code = sched.start(message, nil, run, message, self.handler, self.handler_owner)
  if not index then
    self.parts.fail("no task for a message: " .. tostring(problem), code)
    return give_back(self, message, backoff_of(self, message))
  end
  if not message.is_settled then message[1], message[2] = index, problem end
end

function start_waiting(self)
  while self.waiting > 0 and self.running < self.max_in_flight and self.handler and self.state == "taking" do
    local index = self.first_waiting
    local message = self.queue[index]
    self.queue[index] = nil
    self.waiting = self.waiting - 1
    self.first_waiting = self.waiting > 0 and index + 1 or 1
    unlink(self, message)
    begin(self, message)
  end
end

--- Those that wait go back at once.
local function give_back_waiting(self)
  while self.waiting > 0 do
    local index = self.first_waiting
    local message = self.queue[index]
    self.queue[index] = nil
    self.waiting = self.waiting - 1
    self.first_waiting = self.waiting > 0 and index + 1 or 1
    self.running = self.running + 1 -- as `settle` expects
    give_back(self, message, 0)
  end
end

local function on_message(self, raw, is_asked_for)
  self.counts.received = self.counts.received + 1
  if is_asked_for and self.asked > 0 then self.asked = self.asked - 1 end
  self.refused_ms, self.told = REFUSED_MS, nil
  local message = delivery.new(self, raw, sched.now_ms())
  if self.parts.remembers and message.seq >= self.next_seq then self.next_seq = message.seq + 1 end
  if self.state ~= "taking" or not self.handler then
    self.running = self.running + 1
    link(self, message)
    return give_back(self, message, 0)
  end
  if self.running < self.max_in_flight and self.waiting == 0 then
    begin(self, message)
    return ask(self)
  end
  self.waiting = self.waiting + 1
  self.queue[self.first_waiting + self.waiting - 1] = message
  link(self, message)
end

local receive

--- The requests that are under way are lost, here and on the server: what they were answered is taken, no more comes.
local function forget_requests(self)
  self.asked = 0
  local inbox, before = self.bus:new_inbox(), self.subscription
  local subscription = self.bus:subscribe(inbox, nil, { max_messages = 2 * self.max_in_flight + 1000 })
  if not subscription then return end -- it is closed
  self.reply, self.subscription = inbox, subscription
  sched.spawn_owned(self.owner, receive, self, subscription)
  if not before then return end
  if not sched.spawn_background(self.owner, before.drain, before, FLUSH_MS) then before:unsubscribe() end
end

--- Where to go on, should the consumer have to be made again.
local function resume_point(self)
  local seq, message = self.next_seq, self.first
  while message do
    if not message.is_lost then seq = math.min(seq, message.seq) end
    message = message.after
  end
  for other in pairs(self.given_back) do seq = math.min(seq, other) end
  return seq
end

--- Whether the stream is the one that it was; what came of another is lost. Yields.
---@return true|nil ok  nil: it is not known
---@return string? message
---@return string? code
local function check_stream(self)
  local born, message, code = self.consumer:stream_born()
  if not born then return nil, message, code end
  if self.born and born ~= self.born then
    local lost = self.first
    while lost do
      lost.is_lost = true
      lost = lost.after
    end
    self.unsent, self.given_back = {}, {}
    if self.parts.remembers then self.next_seq = 1 end
  end
  self.born = born
  return true
end

--- Finds the consumer, or makes it again, and goes on asking. Yields.
local function recover(self, patience_ms)
  local wait_ms, told = RETRY_MS, nil
  if patience_ms > 0 then sched.sleep(patience_ms) end
  while self.state == "taking" do
    local info, is_new
    local ok, message, code = check_stream(self)
    if ok then
      if self.parts.remembers and self.next_seq > 0 then self.consumer:resume_at(resume_point(self)) end
      info, message, code, is_new = self.consumer:ensure()
    end
    if info then
      if is_new and self.next_seq > 0 then
        self.parts.fail("the consumer was lost, and is made again", "GONE")
        self.given_back = {}
      end
      break
    end
    if code == "NOT_FOUND" then
      self.parts.on_missing()
    elseif not jetstream.is_away(code) and message ~= told then
      told = message
      self.parts.fail(message, code)
    end
    if code == "CLOSED" or not sched.sleep(wait_ms) then
      self.is_recovering = false
      return
    end
    wait_ms = math.min(2 * wait_ms, RETRY_MAX_MS)
  end
  self.is_recovering = false
  if self.state ~= "taking" then return end
  self.is_ready = true
  tell_unsent(self)
  ask(self)
end

local function lose(self, patience_ms)
  if self.state ~= "taking" then return end
  forget_requests(self)
  if self.is_recovering then return end
  self.is_recovering, self.is_ready = true, false
  self.counts.recoveries = self.counts.recoveries + 1
  if not sched.spawn_background(self.owner, recover, self, patience_ms or 0) then self.is_recovering = false end
end

--- What the server says of a request of ours; of an earlier inbox we know.
local function on_status(self, message)
  local status = message.status
  if message.subject ~= self.reply or status == 100 then return end
  if status == 408 or status == 404 then
    -- Its time is over. Servers before 2.9 do not say what is left of it.
    local left = tonumber(message:header("Nats-Pending-Messages")) or self.asked
    self.asked = math.max(0, self.asked - left)
    return ask(self)
  end
  local text = message.status_text or ""
  if (text:find("Exceeded", 1, true) or status == 400) and self.told ~= text then
    self.told = text
    self.parts.fail("JetStream: " .. text, "LIMIT")
  end
  lose(self, self.refused_ms)
  self.refused_ms = math.min(2 * self.refused_ms, RETRY_MAX_MS)
end

function receive(self, subscription)
  token.enter(nil, true) -- what runs for messages is under no token of who started this
  local core = subscription.core
  while true do
    local message, _, code = core:next(SILENCE_MS)
    while message == true do message, _, code = core:next(SILENCE_MS) end -- it was woken
    if message then
      if (message.status or 0) ~= 0 then
        on_status(self, message)
      elseif ack_subject.is(message.reply) then
        on_message(self, message, self.subscription == subscription)
      else
        self.counts.malformed = self.counts.malformed + 1
      end
    elseif code == "TIMEOUT" then
      if self.subscription ~= subscription then break end
      if self.asked > 0 and self.bus:is_connected() then lose(self) end
    else
      break
    end
  end
end

-- --- while it works ------------------------------------------------------------------------------

--- Tells the server of messages that take long, before it hands them to somebody else; the oldest come first.
local function renew(self, now_ms)
  local message, max_run_ms = self.first, self.parts.opts.max_run_ms
  while message and now_ms - message.touched_ms >= self.ack_wait_ms / 2 do
    local after = message.after
    if now_ms - message.began_ms >= max_run_ms then
      if message[2] ~= 0 and not message.is_overdue then
        message.is_overdue = true
        self.parts.fail(("message %d is at work for more than %d ms: it is cancelled, and will come again"):format(
          message.seq, max_run_ms), "HANDLER_TIMEOUT")
        sched.cancel(message[1], message[2], "max_run_ms is over")
      end
      message.touched_ms = now_ms
    else
      message.touched_ms = now_ms
      self.bus:publish(message.reply, "+WPI")
      self.counts.renewed = self.counts.renewed + 1
    end
    unlink(self, message)
    link(self, message)
    message = after
  end
end

local function pulse(self)
  local period_ms = math.max(20, math.min(1000, math.floor(self.ack_wait_ms / 4)))
  while sched.sleep(period_ms) and self.state ~= "idle" do
    if self.bus:is_connected() then
      if self.is_ready then tell_unsent(self) end
      renew(self, sched.now_ms())
      ask(self) -- what could not be asked for when there was room
    end
  end
end

-- --- life ----------------------------------------------------------------------------------------

--- What messages are handed to from now on; nil: to nobody, those at work go on.
---@param fn fun(message: znl.DurableMessage): ...|nil
---@param owner any  its tasks run for it
function Intake:set_handler(fn, owner)
  self.handler, self.handler_owner = fn, owner
  if self.state ~= "taking" or not self.subscription then return end
  if fn then return ask(self) end
  -- What is given back is not to come here again.
  if self.asked > 0 then forget_requests(self) end
  give_back_waiting(self)
end

--- Begins to take messages. Yields.
---@return true|nil ok
---@return string? message
---@return "EXISTS"|"NOT_FOUND"|"UNREACHABLE"|string? code
function Intake:start()
  if self.state ~= "idle" then return true end
  self.state = "taking"
  local info
  local ok, message, code = check_stream(self)
  if ok then info, message, code = self.consumer:ensure() end
  if not info then
    self.state = "idle"
    return nil, message, code
  end
  if self.state ~= "taking" then return nil, "it was stopped", "STOPPED" end
  local owner
  owner, message, code = sched.owner()
  if not owner then
    self.state = "idle"
    return nil, message, code
  end
  self.owner = owner
  -- Where the number of deliveries stands in the subject of an acknowledgement.
  self.deliveries_at = #("$JS.ACK.") + #self.consumer.stream + 1 + #self.consumer.name + 1
  if type(info.delivered) == "table" and self.parts.remembers then
    self.next_seq = (tonumber(info.delivered.stream_seq) or 0) + 1
  end
  forget_requests(self)
  if not self.subscription then
    self.state = "idle"
    owner:end_background()
    return nil, "the connection to NATS is closed", "CLOSED"
  end
  local off_connected = self.bus:on("connected", function() lose(self) end)
  local off_disconnected = self.bus:on("disconnected", function()
    self.is_ready = false
    if self.state == "taking" then forget_requests(self) end
  end)
  self.off = function()
    off_connected()
    off_disconnected()
  end
  self.is_ready = true
  sched.spawn_background(owner, pulse, self)
  ask(self)
  return true
end

--- Takes no more, gives back what waits, and waits for handlers; those that are not through in time are
--- cancelled and their messages given back too. Yields.
---@param drain_ms integer
function Intake:stop(drain_ms)
  if self.state ~= "taking" then return end
  if not self.subscription then
    self.state = "idle" -- `start` notices
    return
  end
  self.state = "stopping"
  local ends_ms = sched.now_ms() + drain_ms
  self.off()
  give_back_waiting(self)
  -- What is on its way still arrives, and goes back.
  self.subscription:drain(FLUSH_MS)
  if self.running > 0 and drain_ms > 0 then
    self.emptied = sched.event()
    self.emptied:wait(math.max(1, math.ceil(ends_ms - sched.now_ms())))
    self.emptied = nil
  end
  local message = self.first
  while message do
    local after, index, serial = message.after, message[1], message[2]
    give_back(self, message, 0)
    if serial ~= 0 then sched.cancel(index, serial, "stopped") end
    message = after
  end
  self.subscription = nil
  if self.bus:is_connected() then
    if not self.is_ready and #self.unsent > 0 then self.is_ready = check_stream(self) end
    if self.is_ready then tell_unsent(self) end
    self.consumer:leave()
    self.bus:flush(FLUSH_MS)
  end
  self.state, self.unsent, self.is_ready = "idle", {}, false
  self.owner:end_background()
end

return M
