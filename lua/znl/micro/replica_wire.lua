--- znl.micro.replica_wire: the messages that the registries of a cluster send each other (codec/WIRE.md,
--- "Registries of one cluster").
---
---     ZNLR1 <origin> <unix_ms> <message> <part> <parts> <mac>\n<bytes>
---
--- A message is one JSON object. One that is larger than NATS takes is sent in parts, one after the other.
--- With a secret, `mac` is the HMAC-SHA256 over the name of the cluster, whom it is for, the line before it and the
--- bytes; a packet is good once, and not for long. Without, it is "-". SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local json = require("znl.json")
local proof = require("znl.security.proof")
local sched = require("znl.core.sched")

local M = {}

local PURPOSE = "znl-registry-cluster 1"
--- Room for the line before the bytes.
local LINE_BYTES = 256
local LINE = "^(ZNLR1 (%x+) (%d+) (%d+) (%d+) (%d+)) ([%x-]+)\n()"
local ORIGIN_DIGITS = 32
local MIB = 1024 * 1024
--- Time that may pass between clocks of registries with a secret; messages from further away are replays.
local SKEW_MS = 30000

--- An id for the life of one registry.
---@return string
function M.new_origin()
  return (crypto.random(ORIGIN_DIGITS / 2):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

---@param value any
---@return boolean
function M.is_origin(value) return type(value) == "string" and #value == ORIGIN_DIGITS and not value:find("%X") end

---@class znl.ReplicaWireOptions
---@field name string  of the cluster
---@field origin string
---@field secrets? string[]  the first one signs, all are accepted
---@field max_bytes integer  of one message in all its parts
---@field unix_ms? fun(): number

---@class znl.ReplicaWire
local Wire = {}
Wire.__index = Wire

---@param opts znl.ReplicaWireOptions
---@return znl.ReplicaWire
function M.new(opts)
  return setmetatable({
    opts = opts, sent = 0, unix_ms = opts.unix_ms or sched.unix_ms, key = crypto.random(32),
    parts = {}, held_bytes = 0, torn = 0, seen = {}, older = {}, turned_ms = (opts.unix_ms or sched.unix_ms)(),
  }, Wire)
end

local function mac(self, secret, to, line, bytes)
  return crypto.hmac(secret, ("%s\n%s\n%s\n%s\n%s"):format(PURPOSE, self.opts.name, to, line, bytes))
end

--- The packets of a message.
---@param message table|string  or its JSON
---@param max_payload integer  of one packet
---@param to string  whom it is for: "all", or "to." and an id
---@return string[]|nil packets  nil: it is larger than any reader takes
function Wire:seal(message, max_payload, to)
  local text = type(message) == "string" and message or json.encode(message)
  if #text > self.opts.max_bytes then return nil end
  self.sent = self.sent + 1
  local room = math.max(1, max_payload - LINE_BYTES)
  local parts = math.max(1, math.ceil(#text / room))
  local packets, secrets = {}, self.opts.secrets
  for part = 1, parts do
    local bytes = text:sub((part - 1) * room + 1, part * room)
    local line = ("ZNLR1 %s %d %d %d %d"):format(self.opts.origin, self.unix_ms(), self.sent, part, parts)
    packets[part] = ("%s %s\n%s"):format(line, secrets and mac(self, secrets[1], to, line, bytes) or "-", bytes)
  end
  return packets
end

--- Forgets the parts that have come of an origin.
---@param origin string
function Wire:forget(origin)
  local held = self.parts[origin]
  if not held then return end
  self.parts[origin], self.held_bytes = nil, self.held_bytes - held.bytes
end

--- Keeps a part. Returns the whole, or nil and a reason; "" when more is to come. The parts of a message follow
--- each other; one message of each origin is kept, and no more than two of the largest in all.
local function collect(self, origin, number, part, parts, bytes)
  local held = self.parts[origin]
  if part == 1 then
    self:forget(origin)
    held = { number = number, parts = parts, bytes = 0 }
    self.parts[origin] = held
  elseif not held or held.number ~= number or held.parts ~= parts or #held + 1 ~= part then
    self:forget(origin)
    self.torn = self.torn + 1 -- the bus has lost some; what is missing will be asked for
    return nil, ""
  end
  local cost = #bytes + LINE_BYTES
  held[part], held.bytes, self.held_bytes = bytes, held.bytes + cost, self.held_bytes + cost
  if held.bytes > self.opts.max_bytes + LINE_BYTES * (part + 1) or self.held_bytes > 2 * self.opts.max_bytes + MIB then
    self:forget(origin)
    return nil, "it is too large"
  end
  if part < parts then return nil, "" end
  self:forget(origin)
  return table.concat(held)
end

local function is_signed(self, given, to, line, bytes)
  for _, secret in ipairs(self.opts.secrets) do
    if proof.is_equal(self.key, mac(self, secret, to, line, bytes), given) then return true end
  end
  return false
end

--- Whether a packet that was signed well comes behind those of its origin: NATS keeps the order of one sender. Each
--- origin is remembered for as long as its packets are not too old.
local function is_new(self, key, number, part, now_ms)
  if math.abs(now_ms - self.turned_ms) > 2 * SKEW_MS + 1000 then
    self.older, self.seen, self.turned_ms = self.seen, {}, now_ms
  end
  local last = self.seen[key] or self.older[key]
  if last and (number < last.number or number == last.number and part <= last.part) then return false end
  self.seen[key] = { number = number, part = part }
  return true
end

--- Takes a packet.
---@param packet string
---@param to string  whom it came for
---@return table|nil message  nil: more parts are to come, it is our own, or, with a reason, it is bad
---@return string origin_or_reason
function Wire:open(packet, to)
  local line, origin, unix_ms, number, part, parts, given, at = packet:sub(1, LINE_BYTES):match(LINE)
  if not line or #origin ~= ORIGIN_DIGITS then return nil, "it is malformed" end
  if origin == self.opts.origin then return nil, "" end
  local bytes = packet:sub(at)
  if self.opts.secrets then
    if not is_signed(self, given, to, line, bytes) then return nil, "it is not made with this secret" end
    local now_ms = self.unix_ms()
    if math.abs(now_ms - tonumber(unix_ms)) > SKEW_MS then return nil, "it is too old, or the clocks differ" end
    if not is_new(self, origin .. to, tonumber(number), tonumber(part), now_ms) then
      return nil, "it has come before"
    end
  end
  part, parts = tonumber(part), tonumber(parts)
  local text = bytes
  if parts ~= 1 then
    local reason
    text, reason = collect(self, origin, number, part, parts, bytes)
    if not text then return nil, reason end
  end
  local ok, message = json.decode(text)
  if not ok or type(message) ~= "table" or type(message.t) ~= "string" then return nil, "it is no message" end
  return message, origin
end

return M
