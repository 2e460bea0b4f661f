--- znl.durable.publisher: gives messages to JetStream and hears that it keeps them.
---
--- A message with an id is sent again until its time is over: JetStream keeps the first of an id. Without an id
--- nobody could tell whether a message whose answer was lost is there, so it is sent once.
--- SPDX-License-Identifier: MIT

local jetstream = require("znl.durable.jetstream")
local options = require("znl.options")
local sched = require("znl.core.sched")
local semaphore = require("znl.tasks.semaphore")
local task = require("znl.tasks.task")

local M = {}

--- What of `max_payload` stays free: a message that becomes a dead letter gets headers that say why.
M.RESERVED_BYTES = 2048
--- One attempt for a message with an id.
local ATTEMPT_MS = 2000
local RETRY_MS, RETRY_MAX_MS = 20, 500
local ID_BYTES = 256
--- Ours and the server's.
local HEADER = "^[%w!#$%%&'*+%-.^_`|~]+$"

---@class znl.PublishOptions
---@field msg_id? string  of messages with the same one JetStream keeps the first
---@field headers? table<string, string|string[]>
---@field timeout_ms? integer
local SPEC = {
  msg_id = {
    type = "string", min = 1, max = ID_BYTES, check = function(text) return not text:find("[%z\1-\31\127]") end,
    allowed = ("a text of 1 to %d bytes without control characters"):format(ID_BYTES),
  },
  headers = { type = "table" },
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
}
M.SPEC = SPEC

---@class znl.Publisher
---@field pending integer  messages without an answer
local Publisher = {}
Publisher.__index = Publisher

---@class znl.PublisherParts
---@field what string  begins errors
---@field bus znl.Nats
---@field owner any
---@field timeout_ms integer
---@field max_pending integer
---@field counts table<string, integer>
---@field on_missing fun()  no stream takes the subject

---@param parts znl.PublisherParts
---@return znl.Publisher
function M.new(parts)
  return setmetatable({
    parts = parts, bus = parts.bus, counts = parts.counts, pending = 0, failed = 0,
    window = semaphore.new(parts.max_pending),
  }, Publisher)
end

local function header_bytes(headers)
  local size = 0
  for name, value in pairs(headers) do
    for _, text in ipairs(type(value) == "table" and value or { value }) do size = size + #name + #text + 4 end
  end
  return size
end

--- The headers to send, and how large they are; raises what is wrong with them.
local function headers_of(opts, what, level)
  if not opts.headers then
    if not opts.msg_id then return nil, 0 end
    return { ["Nats-Msg-Id"] = opts.msg_id }, 20 + #opts.msg_id
  end
  local headers = {}
  for name, value in pairs(opts.headers) do
    if type(name) ~= "string" or not name:find(HEADER) then
      error(("%s: %s is no name of a header"):format(what, tostring(name)), level + 1)
    end
    if name:lower():find("^nats%-") or name:lower():find("^znl%-dead%-") then
      error(("%s: the header %s is not yours to set"):format(what, name), level + 1)
    end
    for _, text in ipairs(type(value) == "table" and value or { value }) do
      if type(text) ~= "string" or text:find("[%z\1-\8\10-\31\127]") then
        error(("%s: the header %s must be a text without control characters"):format(what, name), level + 1)
      end
    end
    headers[name] = value
  end
  headers["Nats-Msg-Id"] = opts.msg_id
  return headers, header_bytes(headers)
end

---@param what string
---@param data any
---@param opts znl.PublishOptions|nil
---@param spec table
---@param level integer  whom to blame
---@return znl.PublishOptions
function M.check(what, data, opts, spec, level)
  if type(data) ~= "string" then
    error(("%s: the message must be a text, not a %s"):format(what, type(data)), level + 1)
  end
  opts = options.read(spec, opts, what, level + 1)
  return opts
end

local function ask(bus, subject, data, headers, timeout_ms, on_missing)
  local message, problem, code = bus:request(subject, data, { timeout_ms = timeout_ms, headers = headers })
  if not message then
    if code == "UNREACHABLE" then
      problem = "no stream takes " .. subject
      if on_missing then on_missing() end
    end
    return nil, problem, code
  end
  local answer
  answer, problem, code = jetstream.read(message.data)
  if not answer then return nil, problem, code end
  local seq = tonumber(answer.seq)
  if not seq then return nil, "JetStream: the answer has no sequence number", "PROTO" end
  return { seq = seq, duplicate = answer.duplicate == true }
end

--- Sends until JetStream keeps the message, or `timeout_ms` are over. Yields.
---@param bus znl.Nats
---@param subject string
---@param data string
---@param headers table<string, string|string[]>  with an id
---@param timeout_ms integer
---@param on_missing? fun()  called when no stream takes the subject
---@return znl.PublishAck|nil ack
---@return string? message
---@return string? code
function M.insist(bus, subject, data, headers, timeout_ms, on_missing)
  local ends_ms, wait_ms = sched.now_ms() + timeout_ms, RETRY_MS
  while true do
    local left_ms = math.max(1, math.ceil(ends_ms - sched.now_ms()))
    local ack, message, code = ask(bus, subject, data, headers, math.min(left_ms, ATTEMPT_MS), on_missing)
    if ack or not jetstream.is_away(code) then return ack, message, code end
    left_ms = ends_ms - sched.now_ms()
    if left_ms <= 0 then return nil, message, code end
    if not sched.sleep(math.min(wait_ms, math.ceil(left_ms))) then return nil, message, code end
    wait_ms = math.min(2 * wait_ms, RETRY_MAX_MS)
  end
end

local function send(self, subject, data, headers, opts)
  local timeout_ms = opts.timeout_ms or self.parts.timeout_ms
  local publish = opts.msg_id and M.insist or ask
  local ack, message, code = publish(self.bus, subject, data, headers, timeout_ms, self.parts.on_missing)
  if not ack then
    self.counts.publish_failed = self.counts.publish_failed + 1
    return nil, ("%s: %s"):format(self.parts.what, message), code
  end
  self.counts.published = self.counts.published + 1
  if ack.duplicate then self.counts.duplicates = self.counts.duplicates + 1 end
  return ack
end

local function too_big(self, data, header_size)
  local max = self.bus:max_payload()
  if max == 0 or #data + header_size + M.RESERVED_BYTES <= max then return nil end
  return ("%s: a message of %d bytes is larger than max_payload of the NATS server, %d bytes, less %d for headers")
      :format(self.parts.what, #data + header_size, max, M.RESERVED_BYTES)
end

---@class znl.PublishAck
---@field seq integer  the number of the message in the stream
---@field duplicate boolean  its id was there already: the number is that of the first

--- Returns when JetStream keeps the message. Yields.
---@param subject string
---@param data string
---@param opts znl.PublishOptions  read
---@param level integer
---@return znl.PublishAck|nil ack
---@return string? message
---@return "OFFLINE"|"TIMEOUT"|"LIMIT"|"TOO_BIG"|"UNREACHABLE"|string? code
function Publisher:publish(subject, data, opts, level)
  local headers, size = headers_of(opts, self.parts.what, level + 1)
  local problem = too_big(self, data, size)
  if problem then return nil, problem, "TOO_BIG" end
  return send(self, subject, data, headers, opts)
end

local function send_later(self, subject, data, headers, opts)
  local ack, message, code = send(self, subject, data, headers, opts)
  self.pending = self.pending - 1
  self.window:release()
  if not ack then
    self.failed, self.failure, self.failure_code = self.failed + 1, message, code
  end
  if self.pending == 0 and self.emptied then
    self.emptied:set(true)
    self.emptied = nil
  end
  return ack, message, code
end

--- Returns when it is on its way; waits while too many are. Messages stay in order. Yields.
---@param subject string
---@param data string
---@param opts znl.PublishOptions
---@param level integer
---@return znl.Task|nil task  its `wait` returns what `publish` does
---@return string? message
---@return string? code
function Publisher:publish_async(subject, data, opts, level)
  local headers, size = headers_of(opts, self.parts.what, level + 1)
  local problem = too_big(self, data, size)
  if problem then return nil, problem, "TOO_BIG" end
  local ok, message, code = self.window:acquire()
  if not ok then return nil, message, code end
  self.pending = self.pending + 1
  local run
  run, message, code = task.background(self.parts.owner, send_later, self, subject, data, headers, opts)
  if run then return run end
  self.pending = self.pending - 1
  self.window:release()
  return nil, message, code
end

--- Waits for the answers to all that is on its way. Yields.
---@param timeout_ms integer
---@return true|nil ok
---@return string? message  how many were refused since the last time, and why the last one
---@return string? code
function Publisher:flush(timeout_ms)
  if self.pending > 0 then
    self.emptied = self.emptied or sched.event()
    local ok, message, code = self.emptied:wait(timeout_ms)
    if not ok then
      if code == "TIMEOUT" then
        message = ("%s: %d messages have no answer yet"):format(self.parts.what, self.pending)
      end
      return nil, message, code
    end
  end
  if self.failed == 0 then return true end
  local message = ("%s: %d messages are not kept; the last: %s"):format(self.parts.what, self.failed, self.failure)
  self.failed = 0
  return nil, message, self.failure_code
end

return M
