--- znl.micro.replica: how registries of one cluster keep each other up to date (codec/WIRE.md, "Registries of one
--- cluster").
---
---   unknown --heard--> up (behind --all pages--> in step) --silent, or bye--> gone --`grace_ms`--> forgotten
---                        \------ gap, other count --/         \--heard--> up
---
--- Each registry tells all others its own changes, numbered, and nothing that it heard from others: there are no
--- loops, and nothing to merge. A heartbeat names the newest number, so that whoever missed one asks for what
--- came after the last it has. The one that asks sets the pace: a page for each question.
---
--- Plain state: never yields, sees time through `now`, and the bus through `publish`. Who cannot reach the bus
--- keeps what it knows, and nobody's time runs out meanwhile. SPDX-License-Identifier: MIT

local json = require("znl.json")
local replica_wire = require("znl.micro.replica_wire")

local M = {}

local PEERS_MAX = 64
local PAGE_BYTES = 256 * 1024
--- Pages for others in one second: more than 64 peers that ask at once need, and bounded.
local PAGES_PER_S = 1000
--- Asked again when no page came for so long.
local PAGE_MS = 1000
--- Answers to a newcomer come within this time, not all at the same moment.
local ANSWER_MS = 50
--- A count that differs is looked into that often.
local RECOUNT_MS = 10000
local ADDRESS_BYTES_MAX = 300
local TTL_MIN_MS, TTL_MAX_MS = 100, 3600000
local NUMBER_MAX = 2 ^ 52

---@class znl.ReplicaOptions
---@field id string
---@field address fun(): string  for people
---@field wire znl.ReplicaWire
---@field log znl.ReplicaLog
---@field rows znl.ReplicaRows
---@field ttl_ms integer  silence after which others take this registry for gone
---@field grace_ms integer
---@field now fun(): number
---@field draw fun(most: integer): integer  in 1..most
---@field publish fun(subject: string, packet: string): true|nil, string?, string?
---@field max_payload fun(): integer
---@field is_online fun(): boolean
---@field schedule fun()  `flush` is to be called soon
---@field on_value fun(topic: string, payload: string|nil)
---@field on_event fun(name: "up"|"gone"|"forgotten"|"bad", ...)

---@class znl.ReplicaPeer
---@field id string
---@field address string
---@field n integer  everything up to this change is known
---@field seen_ms number
---@field gone_ms number|nil
---@field sync table|nil  while it is behind

---@class znl.Replica
---@field peers table<string, znl.ReplicaPeer>
local Replica = {}
Replica.__index = Replica

---@param opts znl.ReplicaOptions
---@return znl.Replica
function M.new(opts)
  local now = opts.now()
  return setmetatable({
    opts = opts, peers = {}, count = 0, flushed = 0, tokens = 0, tick_ms = now, beat_ms = now, page_ms = now,
    pages = 0, wants_orphans = true,
    counters = { received = 0, sent = 0, bad = 0, dropped = 0, gaps = 0, syncs = 0, pages = 0, refused_peers = 0 },
  }, Replica)
end

local function is_number(value)
  return type(value) == "number" and value >= 0 and value <= NUMBER_MAX and value == math.floor(value)
end

-- --- sending -------------------------------------------------------------------------------------

local function send(self, subject, message)
  local packets = self.opts.wire:seal(message, self.opts.max_payload(), subject)
  if not packets then return nil, "TOO_BIG" end
  for _, packet in ipairs(packets) do
    local ok, _, code = self.opts.publish(subject, packet)
    if not ok then
      self.counters.dropped = self.counters.dropped + 1
      return nil, code
    end
    self.counters.sent = self.counters.sent + 1
  end
  return true
end

local function send_to(self, id, message) return send(self, "to." .. id, message) end

local function beat(self, asks)
  local opts = self.opts
  if not self.is_stuck then self:flush() end
  self.beat_ms, self.answer_ms = opts.now(), nil
  -- Earlier than due by chance: registries that were started together do not stay in step.
  self.next_ms = self.beat_ms + opts.ttl_ms / 3 * (0.9 + 0.1 * opts.draw(1000) / 1000)
  send(self, "all", {
    t = "hb", a = opts.address(), n = self.flushed, c = opts.log.count, l = opts.ttl_ms, q = asks or nil,
  })
end

--- Tells what has changed. What cannot be told is asked for when the next heartbeat is heard.
function Replica:flush()
  local log = self.opts.log
  self.is_due, self.is_stuck = false, false
  if not self.opts.is_online() then
    self.flushed = log.n
    return
  end
  while self.flushed < log.n do
    local texts, upto = log:since(self.flushed, PAGE_BYTES)
    local ok, code = send(self, "all", ('{"t":"ops","b":%d,"u":%d,"r":[%s]}'):format(
      self.flushed, upto, table.concat(texts, ",")))
    if not ok and code == "BUSY" then
      self.is_stuck = true
      return
    end
    self.flushed = upto
  end
end

--- Own rows have changed.
function Replica:touch()
  if self.is_due or self.is_stuck then return end
  self.is_due = true
  self.opts.schedule()
end

--- Tells a value that is kept nowhere.
---@param topic string
---@param payload string|nil
function Replica:tell(topic, payload)
  self:flush() -- in the order in which things happened
  send(self, "all", { t = "val", p = topic, v = payload })
end

-- --- asking for what is missing ------------------------------------------------------------------

local function ask_page(self, peer)
  local sync = peer.sync
  sync.asked_ms = self.opts.now()
  send_to(self, peer.id, { t = "sync", k = sync.token, s = sync.since, a = sync.after, f = sync.is_full or nil })
end

--- Asks a peer for everything after a change.
local function ask(self, peer, since)
  self.tokens = self.tokens + 1
  self.counters.syncs = self.counters.syncs + 1
  peer.sync = { token = self.tokens, since = since, after = since, is_full = false }
  self.opts.rows:begin(self.opts.rows:owner(peer.id), false)
  ask_page(self, peer)
end

--- Asks for what is left of those who cannot be heard here.
local function ask_orphans(self, peer)
  local orphans = peer.orphans
  orphans.asked_ms = self.opts.now()
  local heard_ids = { self.opts.id }
  for id, other in pairs(self.peers) do
    if not other.gone_ms then heard_ids[#heard_ids + 1] = id end
  end
  send_to(self, peer.id, {
    t = "orphans", k = orphans.token, o = orphans.owner, a = orphans.after, x = heard_ids,
  })
end

local function in_step(self, peer)
  peer.is_in_step = true
  if not self.wants_orphans or peer.orphans then return end
  self.tokens = self.tokens + 1
  peer.orphans = { token = self.tokens, owner = "", after = 0 }
  ask_orphans(self, peer)
end

--- `known`: what came up to this change is known, and what is gone since does not come back.
local function apply(self, owner, rows, known)
  if type(rows) ~= "table" then return end
  for _, fields in ipairs(rows) do
    local is_old = known and type(fields) == "table" and is_number(fields[1]) and fields[1] > 0 and fields[1] <= known
    if not is_old and (type(fields) ~= "table" or self.opts.rows:put(owner, fields) == nil) then
      self.counters.bad = self.counters.bad + 1
    end
  end
end

-- --- who is there --------------------------------------------------------------------------------

local forget

--- Who is gone makes room for who is there, the one that went first: a registry that cannot stay up has many lives
--- within the time of grace.
local function make_room(self)
  local first
  for _, peer in pairs(self.peers) do
    if peer.gone_ms and (not first or peer.gone_ms < first.gone_ms) then first = peer end
  end
  if first then forget(self, first) end
end

local function add_peer(self, id, is_there)
  if is_there and self.count >= PEERS_MAX then make_room(self) end
  if self.count >= PEERS_MAX then
    self.counters.refused_peers = self.counters.refused_peers + 1
    return nil
  end
  local peer = { id = id, address = "?", n = 0, seen_ms = self.opts.now(), ttl_ms = self.opts.ttl_ms, counted_ms = 0 }
  self.peers[id], self.count = peer, self.count + 1
  return peer
end

--- A peer has said something.
local function heard(self, id)
  local peer = self.peers[id]
  local is_new = not peer
  peer = peer or add_peer(self, id, true)
  if not peer then return nil end
  peer.seen_ms = self.opts.now()
  if peer.gone_ms then
    peer.gone_ms, is_new = nil, true
    self.opts.rows:revive(self.opts.rows:owner(id))
  end
  return peer, is_new
end

local function lose(self, peer, reason)
  peer.gone_ms, peer.sync, peer.orphans, peer.is_in_step = self.opts.now(), nil, nil, false
  peer.n = 0 -- orphans may be dropped: should it be back, it tells everything anew
  self.opts.wire:forget(peer.id)
  self.opts.rows:orphan(self.opts.rows:owner(peer.id))
  self.opts.on_event("gone", peer, reason)
end

function forget(self, peer)
  local owner = self.opts.rows:owner(peer.id)
  local count = owner.registrations
  self.opts.rows:forget(owner)
  self:touch() -- it may have taken rows over
  self.peers[peer.id], self.count = nil, self.count - 1
  self.opts.on_event("forgotten", peer, count)
end

-- --- receiving -----------------------------------------------------------------------------------

local ON = {}

function ON.hb(self, message, id)
  local n, count, ttl_ms, text = message.n, message.c, message.l, message.a
  if not (is_number(n) and is_number(count) and is_number(ttl_ms)) then return false end
  local peer, is_new = heard(self, id)
  if not peer then return end
  if type(text) == "string" and #text <= ADDRESS_BYTES_MAX then peer.address = text end
  peer.ttl_ms = math.min(TTL_MAX_MS, math.max(TTL_MIN_MS, ttl_ms))
  if is_new then self.opts.on_event("up", peer) end
  local now = self.opts.now()
  if message.q and not self.answer_ms then self.answer_ms = now + self.opts.draw(ANSWER_MS) end
  if peer.sync then return end
  if n > peer.n then return ask(self, peer, peer.n) end
  if n < peer.n then return end -- a page was quicker than what it tells everybody
  local owner = self.opts.rows:owner(id)
  if count ~= owner.count and not owner.is_cut and now - peer.counted_ms >= RECOUNT_MS then
    peer.counted_ms = now
    ask(self, peer, 0)
  elseif not peer.is_in_step then
    in_step(self, peer)
  end
end

function ON.ops(self, message, id)
  local before, upto = message.b, message.u
  if not (is_number(before) and is_number(upto)) or upto < before then return false end
  local peer, is_new = heard(self, id)
  if not peer then return end
  if is_new then self.opts.on_event("up", peer) end
  if not peer.sync and before > peer.n then
    self.counters.gaps = self.counters.gaps + 1
    ask(self, peer, peer.n)
  end
  local sync = peer.sync
  apply(self, self.opts.rows:owner(id), message.r, not sync and peer.n or nil)
  if not sync then
    peer.n = math.max(peer.n, upto)
  elseif sync.last == before then
    sync.last = upto
  else
    sync.first, sync.last = before, upto
  end
end

--- One page for who asks.
function ON.sync(self, message, id)
  local log, full = self.opts.log, message.f == true
  if not (is_number(message.k) and is_number(message.s) and is_number(message.a)) then return false end
  local after = message.a
  if not full and (message.s == 0 or not log:covers(math.min(message.s, after))) then full, after = true, 0 end
  local texts, upto, is_all = log:since(after, PAGE_BYTES)
  send_to(self, id, ('{"t":"page","k":%d,"f":%s,"a":%d,"d":%s,"r":[%s]}'):format(
    message.k, tostring(full), upto, tostring(is_all), table.concat(texts, ",")))
end

function ON.page(self, message, id)
  local peer = self.peers[id]
  local sync = peer and peer.sync
  if not sync or message.k ~= sync.token then return end
  if not is_number(message.a) then return false end
  heard(self, id)
  self.counters.pages = self.counters.pages + 1
  local owner = self.opts.rows:owner(id)
  if message.f == true and not sync.is_full then
    sync.is_full, sync.after = true, 0
    self.opts.rows:begin(owner, true)
  end
  apply(self, owner, message.r)
  if message.d ~= true then
    if message.a <= sync.after then return false end -- no end in sight
    sync.after = message.a
    return ask_page(self, peer)
  end
  self.opts.rows:finish(owner, message.a)
  peer.sync, peer.n = nil, message.a
  if sync.last then
    if sync.first > peer.n then return ask(self, peer, peer.n) end
    peer.n = math.max(peer.n, sync.last)
  end
  in_step(self, peer)
end

--- What is left of registries that a newcomer has not heard: they may be gone, known here or not yet.
function ON.orphans(self, message, id)
  if not is_number(message.k) or type(message.o) ~= "string" or not is_number(message.a)
      or type(message.x) ~= "table" then
    return false
  end
  local is_heard, best = { [id] = true }, nil
  for _, other_id in ipairs(message.x) do is_heard[other_id] = true end
  for other_id, peer in pairs(self.peers) do
    if not is_heard[other_id] and other_id >= message.o and (not best or other_id < best.id) then best = peer end
  end
  if not best then return send_to(self, id, { t = "orphan", k = message.k }) end
  local after = best.id == message.o and message.a or 0
  local texts, upto, is_all = self.opts.rows:since(self.opts.rows:owner(best.id), after, PAGE_BYTES)
  local now = self.opts.now()
  send_to(self, id, ('{"t":"orphan","k":%d,"o":"%s","g":%d,"m":%s,"a":%d,"d":%s,"r":[%s]}'):format(
    message.k, best.id, math.max(0, now - (best.gone_ms or now)), json.encode(best.address), upto, tostring(is_all),
    table.concat(texts, ",")))
end

function ON.orphan(self, message, id)
  local asked = self.peers[id]
  local orphans = asked and asked.orphans
  if not orphans or orphans.is_done or message.k ~= orphans.token then return end
  local owner_id = message.o
  if owner_id == nil then
    orphans.is_done = true
    return
  end
  if not replica_wire.is_origin(owner_id) or not is_number(message.a) or not is_number(message.g)
      or owner_id < orphans.owner then
    return false
  end
  local peer = self.peers[owner_id]
  if owner_id ~= self.opts.id and not peer then
    peer = add_peer(self, owner_id)
    if peer then
      peer.gone_ms = self.opts.now() - math.min(message.g, self.opts.grace_ms)
      if type(message.m) == "string" and #message.m <= ADDRESS_BYTES_MAX then peer.address = message.m end
      self.opts.rows:owner(owner_id).is_gone = true
    end
  end
  if peer and peer.gone_ms then apply(self, self.opts.rows:owner(owner_id), message.r) end
  if message.d == true then
    orphans.owner, orphans.after = owner_id .. "~", 0
  elseif owner_id == orphans.owner and message.a <= orphans.after then
    return false
  else
    orphans.owner, orphans.after = owner_id, message.a
  end
  ask_orphans(self, asked)
end

function ON.val(self, message, id)
  local topic, payload = message.p, message.v
  if type(topic) ~= "string" or payload ~= nil and type(payload) ~= "string" then return false end
  if heard(self, id) then self.opts.on_value(topic, payload) end
end

function ON.bye(self, _, id)
  local peer = self.peers[id]
  if peer and not peer.gone_ms then lose(self, peer, "stopped") end
end

--- Questions that cost an answer; too many in one second are left to be asked again.
local COSTLY = { sync = true, orphans = true }

--- A packet from the bus.
---@param packet string
---@param to string  the subject it was published to, as given to `publish`
function Replica:receive(packet, to)
  self.counters.received = self.counters.received + 1
  local message, origin = self.opts.wire:open(packet, to)
  if message then
    local on = ON[message.t]
    if not on then return end -- of a later release
    if COSTLY[message.t] then
      self.pages = self.pages + 1
      if self.pages > PAGES_PER_S then return end
    end
    if on(self, message, origin) ~= false then return end
    origin = "what it says makes no sense"
  elseif origin == "" then
    return
  end
  self.counters.bad = self.counters.bad + 1
  self.opts.on_event("bad", origin)
end

-- --- time ----------------------------------------------------------------------------------------

--- To be called now and then; more often than ten times in `ttl_ms`.
function Replica:tick()
  local opts, now = self.opts, self.opts.now()
  local slept_ms = now - self.tick_ms
  self.tick_ms = now
  if now - self.page_ms >= 1000 then self.pages, self.page_ms = 0, now end
  -- After a stall nobody can be blamed for silence; without a bus nobody can be heard.
  local is_online = opts.is_online()
  if not is_online or slept_ms > opts.ttl_ms / 2 then
    for _, peer in pairs(self.peers) do
      peer.seen_ms = peer.seen_ms + slept_ms
      if peer.gone_ms then peer.gone_ms = peer.gone_ms + slept_ms end
    end
    if not is_online then return end
  end
  if self.is_stuck then self:flush() end
  if now >= (self.next_ms or 0) or self.answer_ms and now >= self.answer_ms then beat(self) end
  local silent, over = {}, {}
  for _, peer in pairs(self.peers) do
    if peer.gone_ms then
      if now - peer.gone_ms >= opts.grace_ms then over[#over + 1] = peer end
    elseif now - peer.seen_ms >= peer.ttl_ms then
      silent[#silent + 1] = peer
    elseif peer.sync then
      if now - peer.sync.asked_ms >= PAGE_MS then ask_page(self, peer) end
    elseif peer.orphans and not peer.orphans.is_done and now - peer.orphans.asked_ms >= PAGE_MS then
      ask_orphans(self, peer)
    end
  end
  for _, peer in ipairs(silent) do lose(self, peer, "silent") end
  for _, peer in ipairs(over) do forget(self, peer) end
end

--- The bus can be reached, or can be again.
function Replica:connected()
  self.tick_ms, self.flushed = self.opts.now(), self.opts.log.n
  beat(self, true)
end

--- Says goodbye: what is held here stays at the others for their `grace_ms`.
function Replica:leave()
  if not self.opts.is_online() then return end
  self:flush()
  send(self, "all", { t = "bye" })
end

--- Whether everybody who was heard has told everything.
---@return boolean
function Replica:is_settled()
  for _, peer in pairs(self.peers) do
    if not peer.gone_ms and not (peer.is_in_step and (not peer.orphans or peer.orphans.is_done)) then return false end
  end
  return true
end

return M
