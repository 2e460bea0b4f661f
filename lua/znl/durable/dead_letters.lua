--- znl.durable.dead_letters: messages that could not be handled, in a stream of their own, with headers that say
--- why.
---
--- They stay until somebody has them handled again (`redrive`) or throws them away (`purge`).
--- SPDX-License-Identifier: MIT

local publisher = require("znl.durable.publisher")
local sched = require("znl.core.sched")

local M = {}

local REASON_BYTES = 512
local CODE_BYTES = 64
local LIST_MAX = 10000
local SUBJECT_BYTES = 512
local PREFIX = "Znl-Dead-"
--- Headers of the message itself that mean something to JetStream.
local FOREIGN = "^[Nn][Aa][Tt][Ss]%-"

---@class znl.DeadLetter
---@field seq integer  among the dead letters
---@field data string
---@field subject string  it was published to
---@field source_seq integer  its number in the stream it comes from
---@field stream string  that stream
---@field consumer string  whose handlers failed
---@field deliveries integer
---@field reason string
---@field code string  HANDLER_ERROR, TERM, MAX_DELIVER, or of the handler
---@field time_ms integer  when it was published
---@field died_ms integer
---@field headers table<string, string|string[]>  of the message

---@class znl.DeadLetters
---@field private api znl.JetStream
---@field private stream string
local DeadLetters = {}
DeadLetters.__index = DeadLetters

---@class znl.DeadLettersParts
---@field what string  begins errors
---@field api fun(): znl.JetStream|nil  nil while it is stopped
---@field stream string
---@field filter string  the subjects of its letters
---@field source string  pattern of the subjects they may go back to
---@field timeout_ms integer
---@field on_missing fun()  no stream takes a letter, or what is redriven

---@param parts znl.DeadLettersParts
---@return znl.DeadLetters
function M.new(parts)
  return setmetatable({ parts = parts, what = parts.what, stream = parts.stream }, DeadLetters)
end

local function clean(text, max) return (text:sub(1, max):gsub("[%z\1-\31\127]", " ")) end

--- Puts a message there; it is safe to do so again. Yields.
---@param subject string  of the letter
---@param message znl.DurableMessage
---@param reason string
---@param code string
---@return znl.PublishAck|nil ack
---@return string? message
---@return string? code
function DeadLetters:put(subject, message, reason, code)
  local api = self.parts.api()
  if not api then return nil, self.what .. ": it is stopped", "STOPPED" end
  local headers = {}
  for name, value in pairs(message:headers() or {}) do
    if not name:find(FOREIGN) and name:sub(1, #PREFIX) ~= PREFIX then headers[name] = value end
  end
  headers["Znl-Msg-Id"] = message:header("Nats-Msg-Id")
  headers["Nats-Msg-Id"] = ("dead.%s.%s.%d.%.0f"):format(
    message.stream, message.consumer, message.seq, message.time_ms) -- numbers begin anew with the stream
  local said = {
    Reason = clean(reason, REASON_BYTES), Code = clean(code, CODE_BYTES), Subject = message.subject,
    Stream = message.stream, Consumer = message.consumer, Seq = ("%d"):format(message.seq),
    Deliveries = ("%d"):format(message.deliveries), Time = ("%d"):format(message.time_ms),
    At = ("%d"):format(sched.unix_ms()),
  }
  for name, value in pairs(said) do headers[PREFIX .. name] = value end
  return publisher.insist(api.bus, subject, message.data, headers, self.parts.timeout_ms, self.parts.on_missing)
end

local function api_of(self)
  local api = self.parts.api()
  if api then return api end
  return nil, self.what .. ": it is not started", "STOPPED"
end

--- `seq`: what was asked for; what the headers say is not believed beyond reason.
local function letter_of(message, seq)
  local headers = {}
  for name, value in pairs(message:headers() or {}) do
    if not name:find(FOREIGN) and name:sub(1, #PREFIX) ~= PREFIX then headers[name] = value end
  end
  local function said(name) return message:header(PREFIX .. name) or "" end
  local function number(name) return tonumber(said(name)) or 0 end
  return {
    seq = math.max(seq, tonumber(message:header("Nats-Sequence")) or 0), data = message.data, subject = said("Subject"),
    stream = said("Stream"), source_seq = number("Seq"), consumer = said("Consumer"),
    deliveries = number("Deliveries"), reason = said("Reason"), code = said("Code"), time_ms = number("Time"),
    died_ms = number("At"), headers = headers,
  }
end

--- The first letter from that number on; nil when there is none.
local function next_letter(self, api, seq)
  local message, problem, code = api:get(self.stream, { seq = seq, next_by_subj = self.parts.filter })
  if message then return letter_of(message, seq) end
  return nil, problem, code
end

local function check_seq(self, seq, what)
  if type(seq) == "number" and seq >= 1 and seq % 1 == 0 then return end
  error(("%s:%s: seq must be a whole number of at least 1"):format(self.what, what), 3)
end

--- How many there are. Yields.
---@return integer|nil count
---@return string? message
---@return string? code
function DeadLetters:count()
  local api, message, code = api_of(self)
  if not api then return nil, message, code end
  local info
  info, message, code = api:ask("STREAM.INFO." .. self.stream)
  if not info then return nil, message, code end
  return tonumber(info.state and info.state.messages) or 0
end

--- One letter. Yields.
---@param seq integer
---@return znl.DeadLetter|nil letter
---@return string? message
---@return "NOT_FOUND"|string? code
function DeadLetters:get(seq)
  check_seq(self, seq, "get")
  local api, message, code = api_of(self)
  if not api then return nil, message, code end
  local found
  found, message, code = api:get(self.stream, { seq = seq })
  if not found then return nil, message, code end
  return letter_of(found, seq)
end

--- Letters, oldest first. Yields.
---@param from? integer  the first number; default 1
---@param limit? integer  1..10000, default 100
---@return znl.DeadLetter[]|nil letters
---@return string? message
---@return string? code
function DeadLetters:list(from, limit)
  if from ~= nil then check_seq(self, from, "list") end
  limit = limit or 100
  if type(limit) ~= "number" or limit % 1 ~= 0 or limit < 1 or limit > LIST_MAX then
    error(("%s:list: limit must be a whole number in 1..%d"):format(self.what, LIST_MAX), 2)
  end
  local api, message, code = api_of(self)
  if not api then return nil, message, code end
  local letters, seq = {}, from or 1
  while #letters < limit do
    local letter
    letter, message, code = next_letter(self, api, seq)
    if not letter then
      if code == "NOT_FOUND" then break end
      return nil, message, code
    end
    letters[#letters + 1] = letter
    seq = letter.seq + 1
  end
  return letters
end

local function remove(self, api, seq)
  local ok, message, code = api:ask("STREAM.MSG.DELETE." .. self.stream, { seq = seq, no_erase = true })
  if ok or code == "NOT_FOUND" then return true end
  return nil, message, code
end

--- Whether one can publish to it; anybody may have written the letter.
local function is_subject(text)
  return #text <= SUBJECT_BYTES and not text:find("[%s%c*>]") and not (text .. "."):find("..", 1, true)
end

--- Publishes a letter again and takes it away, in this order: when this is cut short it may be done again, and
--- JetStream keeps the first only.
local function redrive(self, api, letter)
  if not letter.subject:find(self.parts.source) or not is_subject(letter.subject) then
    return nil, ("%s: letter %d says it was published to %q, which is not ours"):format(
      self.what, letter.seq, letter.subject), "REFUSED"
  end
  letter.headers["Nats-Msg-Id"] = ("redrive.%s.%d.%.0f"):format(self.stream, letter.seq, letter.died_ms)
  local ack, message, code = publisher.insist(
    api.bus, letter.subject, letter.data, letter.headers, self.parts.timeout_ms, self.parts.on_missing)
  if not ack then return nil, message, code end
  return remove(self, api, letter.seq)
end

--- Has letters handled again: the one of that number, or all there are now. Yields.
---@param seq? integer
---@return integer|nil count
---@return string? message
---@return string? code
---@return integer? done  how many before that happened
function DeadLetters:redrive(seq)
  if seq ~= nil then check_seq(self, seq, "redrive") end
  local api, message, code = api_of(self)
  if not api then return nil, message, code end
  if seq then
    local letter, ok
    letter, message, code = self:get(seq)
    if not letter then return nil, message, code, 0 end
    ok, message, code = redrive(self, api, letter)
    if not ok then return nil, message, code, 0 end
    return 1
  end
  local info
  info, message, code = api:ask("STREAM.INFO." .. self.stream)
  if not info then return nil, message, code, 0 end
  -- What dies of it again comes behind the last of now.
  local last, count = tonumber(info.state and info.state.last_seq) or 0, 0
  local at = 1
  while at <= last do
    local letter, ok
    letter, message, code = next_letter(self, api, at)
    if not letter then
      if code == "NOT_FOUND" then break end
      return nil, message, code, count
    end
    if letter.seq > last then break end
    ok, message, code = redrive(self, api, letter)
    if not ok then return nil, message, code, count end
    count, at = count + 1, letter.seq + 1
  end
  return count
end

--- Throws letters away: the one of that number, or all. Yields.
---@param seq? integer
---@return integer|nil count
---@return string? message
---@return "NOT_FOUND"|string? code
function DeadLetters:purge(seq)
  if seq ~= nil then check_seq(self, seq, "purge") end
  local api, message, code = api_of(self)
  if not api then return nil, message, code end
  local answer
  if seq then
    answer, message, code = api:ask("STREAM.MSG.DELETE." .. self.stream, { seq = seq })
    if not answer then return nil, message, code end
    return 1
  end
  answer, message, code = api:ask("STREAM.PURGE." .. self.stream)
  if not answer then return nil, message, code end
  return tonumber(answer.purged) or 0
end

return M
