--- znl.durable.consumer: JetStream's memory of who has got which messages of a stream.
---
--- A group shares one that lasts. Who belongs to no group has one of his own, which the server forgets a while
--- after he is gone; meanwhile he remembers himself where he was.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local settings = require("znl.durable.settings")

local M = {}

local NS_PER_MS = 1000000
--- How long the server keeps a consumer without a group whose process does not ask.
local FORGET_MS = 300000
--- Where it began says nothing about where it is now.
local BEGINNING = { deliver_policy = true, opt_start_seq = true, opt_start_time = true }

---@class znl.Consumer
---@field api znl.JetStream
---@field stream string
---@field name string
---@field is_shared boolean
---@field private config table
---@field private is_update boolean
local Consumer = {}
Consumer.__index = Consumer

local function utc(unix_ms)
  local seconds = math.floor(unix_ms / 1000)
  return os.date("!%Y-%m-%dT%H:%M:%S", seconds) .. (".%03dZ"):format(unix_ms - seconds * 1000)
end

--- Where to begin, in the words of JetStream.
local function begin_at(config, from)
  config.opt_start_seq, config.opt_start_time = nil, nil
  if from == "first" then
    config.deliver_policy = "all"
  elseif from == "new" or from == "last" then
    config.deliver_policy = from
  elseif from.seq then
    config.deliver_policy, config.opt_start_seq = "by_start_sequence", from.seq
  else
    config.deliver_policy, config.opt_start_time = "by_start_time", utc(from.time_ms)
  end
end

local function own_name()
  return "own-" .. crypto.random(12):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
end

---@class znl.ConsumerParts
---@field stream string
---@field group string|nil
---@field from "new"|"first"|"last"|{seq: integer}|{time_ms: integer}
---@field filter string|nil  subject
---@field ack_wait_ms integer
---@field max_unacked integer
---@field is_update boolean

---@param api znl.JetStream
---@param parts znl.ConsumerParts
---@return znl.Consumer
function M.new(api, parts)
  local name = parts.group or own_name()
  local config = {
    durable_name = name, ack_policy = "explicit", replay_policy = "instant", max_deliver = -1,
    ack_wait = parts.ack_wait_ms * NS_PER_MS, max_ack_pending = parts.max_unacked, filter_subject = parts.filter or "",
  }
  if not parts.group then
    config.inactive_threshold = math.max(FORGET_MS, 2 * parts.ack_wait_ms) * NS_PER_MS
    config.mem_storage, config.num_replicas = true, 1
  end
  begin_at(config, parts.from)
  return setmetatable({
    api = api, stream = parts.stream, name = name, is_shared = parts.group ~= nil, config = config,
    is_update = parts.is_update,
  }, Consumer)
end

local function differences(self, info)
  return settings.differences(self.config, type(info.config) == "table" and info.config or {}, BEGINNING)
end

--- By the older of two requests: the newer one has the filter in its subject, where wildcards have no place.
local function create(self, config)
  return self.api:ask(("CONSUMER.DURABLE.CREATE.%s.%s"):format(self.stream, self.name), {
    stream_name = self.stream, config = config,
  })
end

--- Says where the next one is made, should this one be lost.
---@param seq integer
function Consumer:resume_at(seq) begin_at(self.config, { seq = math.max(1, seq) }) end

--- Makes it, or checks the one that is there. Yields.
---@return table|nil info
---@return string? message
---@return "EXISTS"|"NOT_FOUND"|string? code  EXISTS: it differs; NOT_FOUND: the stream is gone
---@return boolean? is_new  with `info`
function Consumer:ensure()
  local info, message, code, number = self.api:ask(("CONSUMER.INFO.%s.%s"):format(self.stream, self.name))
  if not info then
    if code ~= "NOT_FOUND" or number == 10059 then return nil, message, code end
    info, message, code = create(self, self.config)
    if not info then return nil, message, code end
    -- Somebody may have been quicker, with another configuration.
    if not differences(self, info) then return info, nil, nil, true end
  end
  local differs = differences(self, info)
  if not differs then return info end
  if not self.is_update then
    return nil, ("consumer %s of stream %s is configured differently: %s"):format(
      self.name, self.stream, differs), "EXISTS"
  end
  local config = {}
  for name, value in pairs(self.config) do config[name] = value end
  for name in pairs(BEGINNING) do config[name] = info.config[name] end
  return create(self, config)
end

--- When its stream was made: one of the same name that was made later is another one. Yields.
---@return string|nil created
---@return string? message
---@return "NOT_FOUND"|string? code
function Consumer:stream_born()
  local info, message, code = self.api:ask("STREAM.INFO." .. self.stream)
  if not info then return nil, message, code end
  return tostring(info.created)
end

---@return table|nil info  as JetStream tells it
---@return string? message
---@return string? code
function Consumer:info() return self.api:ask(("CONSUMER.INFO.%s.%s"):format(self.stream, self.name)) end

--- Forgets it, unless others share it. Yields.
function Consumer:leave()
  if not self.is_shared then self.api:ask(("CONSUMER.DELETE.%s.%s"):format(self.stream, self.name)) end
end

return M
