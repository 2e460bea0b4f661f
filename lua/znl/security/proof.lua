--- znl.security.proof: how one end of a connection shows the other that both have the same secret
--- (docs/SECURITY.md, "Registries", "Leaders and followers").
---
---     1 <unix_ms> <nonce: 32 hex digits> <HMAC-SHA256, 64 hex digits>
---
--- over "<purpose> 1\n<unix_ms>\n<nonce>\n<context>": a proof is good for one purpose and one context, such
--- as the path of a connection. Who checks takes each nonce once, and no proof whose time is far from its
--- clock. SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local sched = require("znl.core.sched")

local M = {}

local NONCE_BYTES = 16
local SKEW_MS = 30000
--- Proofs of before the checker started may have been used already: it remembers none of them.
local START_ALLOWANCE_MS = 2000
--- Nonces of one window; only who has the secret can fill it.
local NONCES_MAX = 200000

local function hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

--- The HMAC of a proof.
---@param purpose string
---@param secret string
---@param unix_ms string|number
---@param nonce string
---@param context string
---@return string  64 hex digits
function M.mac(purpose, secret, unix_ms, nonce, context)
  return crypto.hmac(secret, ("%s 1\n%s\n%s\n%s"):format(purpose, unix_ms, nonce, context))
end

--- A proof: one of its own for each use.
---@param purpose string
---@param secret string
---@param context string
---@return string proof
---@return string nonce
function M.make(purpose, secret, context)
  local unix_ms, nonce = ("%d"):format(sched.unix_ms()), hex(crypto.random(NONCE_BYTES))
  return ("1 %s %s %s"):format(unix_ms, nonce, M.mac(purpose, secret, unix_ms, nonce, context)), nonce
end

--- The parts of a proof; nil when it is none.
---@param value any
---@return string|nil unix_ms
---@return string? nonce
---@return string? mac
function M.parts(value)
  if type(value) ~= "string" then return nil end
  local unix_ms, nonce, given = value:match("^1 (%d+) (%x+) (%x+)$")
  if not unix_ms or #unix_ms > 15 or #nonce ~= 2 * NONCE_BYTES or #given ~= 64 then return nil end
  return unix_ms, nonce, given
end

--- Compares in constant time: what differs is the HMACs under a key that nobody else knows.
---@param key string
---@param a string
---@param b string
---@return boolean
function M.is_equal(key, a, b)
  return crypto.hmac(key, a) == crypto.hmac(key, b)
end

---@class znl.ProofCheckerOptions
---@field purpose string
---@field what string  who checks, for messages: "registry"
---@field secrets string[]  a proof is made with one of them
---@field clock_ms? fun(): number  milliseconds since 1970; tests pass a fake

---@class znl.ProofChecker
local Checker = {}
Checker.__index = Checker

---@param opts znl.ProofCheckerOptions
---@return znl.ProofChecker
function M.checker(opts)
  local clock_ms = opts.clock_ms or sched.unix_ms
  return setmetatable({
    purpose = opts.purpose, what = opts.what, secrets = opts.secrets, clock_ms = clock_ms, start_ms = clock_ms(),
    key = crypto.random(32), nonces = {}, count = 0, older = {}, turned_ms = clock_ms(),
  }, Checker)
end

--- The secret it was made with. All are tried, whichever it is.
local function signed_with(self, unix_ms, nonce, context, given)
  local found
  for _, secret in ipairs(self.secrets) do
    if M.is_equal(self.key, M.mac(self.purpose, secret, unix_ms, nonce, context), given) then found = secret end
  end
  return found
end

--- Two tables, so that forgetting costs nothing: each nonce is kept for one window at least.
local function turn(self, now_ms)
  if math.abs(now_ms - self.turned_ms) < 2 * SKEW_MS then return end
  self.older, self.nonces, self.count, self.turned_ms = self.nonces, {}, 0, now_ms
end

--- Whether the proof is good for this context.
---@param value any  as the other end sent it
---@param context string
---@return true|nil ok
---@return string reason_or_secret  why not, or the secret it was made with
---@return string? nonce  when it is good
function Checker:check(value, context)
  if type(value) ~= "string" then return nil, "no proof" end
  local unix_ms, nonce, given = M.parts(value)
  if not unix_ms then return nil, "the proof is malformed" end
  local secret = signed_with(self, unix_ms, nonce, context, given)
  if not secret then return nil, "the proof is not made with this secret" end
  local now_ms, made_ms = self.clock_ms(), tonumber(unix_ms)
  if math.abs(now_ms - made_ms) > SKEW_MS then return nil, "the proof is too old, or the clocks differ" end
  if made_ms < self.start_ms - START_ALLOWANCE_MS then
    return nil, ("the proof is from before this %s started"):format(self.what)
  end
  turn(self, now_ms)
  if self.nonces[nonce] or self.older[nonce] then return nil, "the proof has been used" end
  if self.count >= NONCES_MAX then return nil, "too many proofs at once" end
  self.nonces[nonce], self.count = true, self.count + 1
  return true, secret, nonce
end

return M
