--- znl.durable.delivery: a message that JetStream has handed out and waits to hear of.
---
---   open --handler returns--> settled     acknowledged, given back (with a delay), or ended
---
--- Nobody settles twice: what comes later changes nothing.
--- SPDX-License-Identifier: MIT

local ack_subject = require("znl.durable.ack_subject")

local M = {}

---@class znl.DurableMessage
---@field data string
---@field payload string  the same
---@field subject string
---@field seq integer  its number in the stream
---@field deliveries integer  how often it was handed out; 1 the first time
---@field time_ms integer  when the stream took it, milliseconds since 1970
---@field pending integer  how many were to come behind it then
---@field stream string
---@field consumer string
---@field private raw znl.NatsMessage
---@field private reply string
---@field private intake znl.Intake
---@field private touched_ms number  when the server last heard that it is being worked on
---@field private began_ms number
---@field private is_settled boolean
local METHODS = {}

local function read(self)
  local stream, consumer, deliveries, seq, time_ms, pending = ack_subject.read(self.reply)
  self.stream, self.consumer, self.deliveries = stream or "", consumer or "", deliveries or 1
  self.seq, self.time_ms, self.pending = seq or 0, time_ms or 0, pending or 0
end

local FIELDS = {
  data = function(self) return self.raw.data end,
  payload = function(self) return self.raw.data end,
  subject = function(self) return self.raw.subject end,
}
for _, name in ipairs { "stream", "consumer", "deliveries", "seq", "time_ms", "pending" } do
  FIELDS[name] = function(self)
    read(self)
    return rawget(self, name)
  end
end

local Delivery = {}
M.METHODS = METHODS

--- Most handlers look at the data alone: the rest is read when it is asked for.
function Delivery.__index(self, key)
  local method = METHODS[key]
  if method then return method end
  local field = FIELDS[key]
  return field and field(self)
end

---@param intake znl.Intake
---@param raw znl.NatsMessage
---@param now_ms number
---@return znl.DurableMessage
function M.new(intake, raw, now_ms)
  return setmetatable({
    0, 0, -- name its task to the core
    -- With room for what every message gets: a table that grows costs as much as all the rest.
    raw = raw, reply = raw.reply, intake = intake, touched_ms = now_ms, began_ms = now_ms, is_settled = false,
    before = false, after = false, -- in the list of the intake
  }, Delivery)
end

--- A header of the message; nil without.
---@param name string
---@return string|nil
function METHODS:header(name) return self.raw:header(name) end

---@return table<string, string|string[]>
function METHODS:headers() return self.raw:headers() end

--- The core calls this when the task of the handler has ended. Cannot wait.
---@private
function METHODS:ended(ok, ...)
  self.intake:handled(self, ok, ...)
end

return M
