--- znl.roles.refusals: says why messages are refused, in words and not too often.
---
--- At the peer a refused message looks like a timeout, so the log here is where the cause is found.
--- A peer that keeps trying costs one line per reason and 10 seconds.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")

local M = {}

local QUIET_MS = 10000

--- Peers name themselves before they prove anything: an attacker must not grow the table.
local ENTRIES_MAX = 1000

--- What usually causes a reason, and the cure (spec, section 18).
local CAUSES = {
  missing_proof = "the peer is plain and this node encrypted: set encrypted = true on both",
  unexpected_proof = "the peer is encrypted and this node plain: set encrypted = true on both",
  bad_signature = "the keys differ, or kdf_salt does",
  gcm_failed = "the keys differ, or the message was changed on its way",
  bad_envelope = "the payload is not sealed: is the peer encrypted?",
  stale_timestamp = "the clocks are further apart than max_skew_ms, or the message is an old one",
  digest_mismatch = "this node has require_digest and the peer sends none, or the payload was changed",
  no_key_for_peer = "this node has no key for that id: add it to auth_keys",
  replay = "the same message came twice: somebody repeats recorded traffic",
  reflected = "a message of this node came back to it: the peer has its key, or traffic is mirrored",
  replay_full = "more messages than max_replay_nonces within replay_window_ms",
}

local CAUSES_OF = {
  slave = {
    node_mismatch = "another master holds this key: restart the slave to accept it, or set master_id",
  },
  master = {
    node_mismatch = "the peer proves another id than the one it connected with",
  },
}

---@class znl.Refusals
local Refusals = {}
Refusals.__index = Refusals

---@param role "master"|"slave"
---@param log znl.Logger
---@param now_ms? fun(): number  monotonic; tests pass a fake
function M.new(role, log, now_ms)
  return setmetatable({
    causes = CAUSES_OF[role], log = log, now_ms = now_ms or sched.now_ms, entries = {}, count = 0,
  }, Refusals)
end

local function forget_old(self, now)
  for key, entry in pairs(self.entries) do
    if now >= entry.until_ms then
      self.entries[key] = nil
      self.count = self.count - 1
    end
  end
end

local function entry_for(self, key, now)
  local entry = self.entries[key]
  if entry then return entry end
  if self.count >= ENTRIES_MAX then
    -- Sweeping at most once per period keeps a flood from paying a full pass per message.
    if now >= (self.swept_ms or -math.huge) + QUIET_MS then
      self.swept_ms = now
      forget_old(self, now)
    end
    if self.count >= ENTRIES_MAX then key = "" end
    entry = self.entries[key]
    if entry then return entry end
  end
  entry = { until_ms = -math.huge, held = 0 }
  self.entries[key] = entry
  self.count = self.count + 1
  return entry
end

--- Writes one refusal to the log, or counts it for the next line.
---@param refusal {reason: string, text: string, from?: string, kind?: string}
function Refusals:report(refusal)
  local now = self.now_ms()
  local entry = entry_for(self, refusal.reason .. "\0" .. (refusal.from or ""), now)
  if now < entry.until_ms then
    entry.held = entry.held + 1
    return
  end
  local held = entry.held
  entry.until_ms, entry.held = now + QUIET_MS, 0
  self.log.warn("message refused", {
    from = refusal.from or "unknown",
    kind = refusal.kind,
    reason = refusal.reason,
    cause = self.causes[refusal.reason] or CAUSES[refusal.reason] or refusal.text,
    more = held > 0 and held or nil,
  })
end

return M
