--- znl.fleet.letters: what the masters of a fleet write each other over NATS (runtime/codec/WIRE.md, "Fleets").
---
---     packed frames: head, origin, slave id, name, payload frames …   and behind them, with a secret, 64 hex digits
---     head: "1 <kind> <flags> <timeout_ms> <unix_ms> <number>"
---
--- With a secret a letter is good once: the HMAC covers where it goes; its time must be near the reader's clock, and
--- its number above those that came from the same origin before (NATS keeps the order of one publisher).
--- Plain state: never yields, sees time only through `clock_ms`.
--- SPDX-License-Identifier: MIT

local bit = require("bit")
local crypto = require("znl.core.crypto")
local proof = require("znl.security.proof")
local sched = require("znl.core.sched")

local M = {}

local KINDS = { request = true, call = true, service = true, cancel = true, publish = true, answer = true }
local FIXED = 4 -- frames before the payload
local FRAMES_MAX = 65536 + FIXED
local MAC_BYTES = 64
local SKEW_MS = 30000
--- Publishes of before the reader started may have been read already: it remembers none of them.
local START_ALLOWANCE_MS = 2000
local ORIGINS_MAX = 10000
local PURPOSE = "znl-fleet 1\n"

local char, band, rshift = string.char, bit.band, bit.rshift

local function u32(number)
  return char(rshift(number, 24), band(rshift(number, 16), 255), band(rshift(number, 8), 255), band(number, 255))
end

local function u32_at(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  return d and ((a * 256 + b) * 256 + c) * 256 + d
end

--- The frames as one text; runtime/codec/WIRE.md, "Packed frames".
---@param frames string[]
---@return string
function M.pack(frames)
  local parts = { u32(#frames) }
  for index = 1, #frames do
    parts[2 * index] = u32(#frames[index])
    parts[2 * index + 1] = frames[index]
  end
  return table.concat(parts)
end

--- The way back; nil when the text is not that, to the byte.
---@param text string
---@return string[]|nil frames
function M.unpack(text)
  local count = u32_at(text, 1)
  if not count or count > FRAMES_MAX then return nil end
  local frames, at = {}, 5
  for index = 1, count do
    local size = u32_at(text, at)
    if not size or size > #text - at - 3 then return nil end
    frames[index] = text:sub(at + 4, at + 3 + size)
    at = at + 4 + size
  end
  return at == #text + 1 and frames or nil
end

---@class znl.FleetLetter
---@field kind "request"|"call"|"service"|"cancel"|"publish"|"answer"
---@field origin string  the instance that wrote it
---@field number integer  of the letters of that instance; an answer's is that of the question
---@field slave_id string  of an answer that is an error: its code
---@field name string  route, service or topic; of an answer that is an error: its message
---@field timeout_ms integer  what was left of the asker's time
---@field is_json boolean  the payload of a call
---@field is_limited boolean  the asker's task has a deadline
---@field is_error boolean
---@field is_elsewhere boolean  an error: the slave is not with this master, and nothing was done
---@field payload string|string[]

---@class znl.FleetLetters
---@field origin string
local Letters = {}
Letters.__index = Letters

---@param opts {origin: string, secret: string|nil, clock_ms: (fun(): number)|nil}  clock_ms: since 1970
---@return znl.FleetLetters
function M.new(opts)
  local clock_ms = opts.clock_ms or sched.unix_ms
  return setmetatable({
    origin = opts.origin, secret = opts.secret, clock_ms = clock_ms, start_ms = clock_ms(), number = 0,
    key = crypto.random(32), seen = {}, older = {}, count = 0, turned_ms = clock_ms(),
  }, Letters)
end

--- A payload as frames; nil when it is none.
local function frames_of(payload)
  if payload == nil then return { "" } end
  if type(payload) == "string" then return { payload } end
  if type(payload) ~= "table" then return nil end
  for index = 1, #payload do
    if type(payload[index]) ~= "string" then return nil end
  end
  return payload
end

M.is_payload = function(payload) return frames_of(payload) ~= nil end

local FLAGS = { j = "is_json", d = "is_limited", e = "is_error", n = "is_elsewhere" }
local FLAG_ORDER = { "j", "d", "e", "n" }

local function flags_of(fields)
  local flags = "-"
  for _, flag in ipairs(FLAG_ORDER) do
    if fields[FLAGS[flag]] then flags = flags .. flag end
  end
  return flags
end

--- Writes a letter to `target`, a subject, or for an answer what `question` says of the question.
---@param target string
---@param kind string
---@param fields table  of znl.FleetLetter; without `number` it has the next one
---@return string text
---@return integer number
function Letters:write(target, kind, fields)
  local number = fields.number
  if not number then
    number = self.number + 1
    self.number = number
  end
  local frames = {
    ("1 %s %s %d %d %d"):format(kind, flags_of(fields), fields.timeout_ms or 0, self.clock_ms(), number),
    self.origin, fields.slave_id or "", fields.name or "",
  }
  for _, frame in ipairs(frames_of(fields.payload)) do frames[#frames + 1] = frame end
  local text = M.pack(frames)
  if self.secret then text = text .. crypto.hmac(self.secret, PURPOSE .. target .. "\n" .. text) end
  return text, number
end

--- Where the answer to a question goes, for `write` and `read`.
---@param origin string  who asked
---@param number integer
---@return string target
function M.question(origin, number)
  return ("answer %s %d"):format(origin, number)
end

--- Each origin is remembered for as long as its letters are not too old.
local function turn(self, now_ms)
  if math.abs(now_ms - self.turned_ms) <= 2 * SKEW_MS + 1000 then return end
  self.older, self.seen, self.count, self.turned_ms = self.seen, {}, 0, now_ms
end

--- Whether a letter that was signed well is new; nil, reason when not.
local function is_new(self, target, letter, unix_ms)
  local now_ms = self.clock_ms()
  if math.abs(now_ms - unix_ms) > SKEW_MS then return nil, "it is too old, or the clocks differ" end
  if letter.kind == "publish" and unix_ms < self.start_ms - START_ALLOWANCE_MS then
    return nil, "it is from before this master started"
  end
  turn(self, now_ms)
  local key = letter.origin .. " " .. target
  local last = self.seen[key] or self.older[key]
  if last and letter.number <= last then return nil, "it has been read already" end
  if not self.seen[key] then
    if self.count >= ORIGINS_MAX then return nil, "too many masters" end
    self.count = self.count + 1
  end
  self.seen[key] = letter.number
  return true
end

--- The frames of a letter behind its signature; nil, reason when that is not good.
local function open(self, target, text)
  if self.secret then
    local mac = text:sub(-MAC_BYTES)
    text = text:sub(1, -MAC_BYTES - 1)
    local good = crypto.hmac(self.secret, PURPOSE .. target .. "\n" .. text)
    if not proof.is_equal(self.key, good, mac) then return nil, "it is not signed with this secret" end
  end
  local frames = M.unpack(text)
  if not frames or #frames < FIXED then return nil, "it cannot be read" end
  return frames
end

--- Reads a letter that came to `target`.
---@param target string
---@param text string
---@return znl.FleetLetter|nil
---@return string? reason
function Letters:read(target, text)
  local frames, reason = open(self, target, text)
  if not frames then return nil, reason end
  local kind, flags, timeout_ms, unix_ms, number = frames[1]:match("^1 (%l+) %-(%l*) (%d+) (%d+) (%d+)$")
  if not kind or not KINDS[kind] or #timeout_ms > 9 or #unix_ms > 15 or #number > 15
      or not frames[2]:find("^%w+$") or #frames[2] > 64 then
    return nil, "it cannot be read"
  end
  local letter = {
    kind = kind, timeout_ms = tonumber(timeout_ms), number = tonumber(number), origin = frames[2],
    slave_id = frames[3], name = frames[4],
  }
  for flag, name in pairs(FLAGS) do letter[name] = flags:find(flag, 1, true) ~= nil end
  if self.secret and kind ~= "answer" then
    local ok, why = is_new(self, target, letter, tonumber(unix_ms))
    if not ok then return nil, why end
  end
  local count = #frames - FIXED
  if count <= 1 then
    letter.payload = frames[FIXED + 1] or ""
  else
    letter.payload = {}
    for index = 1, count do letter.payload[index] = frames[FIXED + index] end
  end
  return letter
end

return M
