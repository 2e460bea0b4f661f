--- znl.micro.proof: how an application shows a registry that both have the same secret (docs/SECURITY.md,
--- "Registries").
---
--- A header of the upgrade request:
---
---     Znl-Proof: 1 <unix_ms> <nonce: 32 hex digits> <HMAC-SHA256, 64 hex digits>
---
--- over "znl-registry-proof 1\n<unix_ms>\n<nonce>\n<path>", the path as it stands in the request. A registry
--- takes each nonce once, and no proof whose time is far from its clock.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local sched = require("znl.core.sched")

local M = {}

--- The name of the header, as it is sent; registries see it in lower case.
M.NAME = "Znl-Proof"

local NONCE_BYTES = 16
local SKEW_MS = 30000
--- Proofs of before a registry started may have been used already: it remembers none of them.
local START_ALLOWANCE_MS = 2000
--- Nonces of one window; only who has the secret can fill it.
local NONCES_MAX = 200000

local function hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local function mac(secret, unix_ms, nonce, path)
  return crypto.hmac(secret, ("znl-registry-proof 1\n%s\n%s\n%s"):format(unix_ms, nonce, path))
end

--- The header for a connection to `path`: one of its own for each attempt.
---@param secret string
---@param path string  "/host/port/namespace"
---@return string name
---@return string value
function M.header(secret, path)
  local unix_ms, nonce = ("%d"):format(sched.unix_ms()), hex(crypto.random(NONCE_BYTES))
  return M.NAME, ("1 %s %s %s"):format(unix_ms, nonce, mac(secret, unix_ms, nonce, path))
end

---@class znl.ProofChecker
local Checker = {}
Checker.__index = Checker

--- Checks proofs made with one of the secrets.
---@param secrets string[]
---@param clock_ms? fun(): number  milliseconds since 1970; tests pass a fake
---@return znl.ProofChecker
function M.checker(secrets, clock_ms)
  clock_ms = clock_ms or sched.unix_ms
  return setmetatable({
    secrets = secrets, clock_ms = clock_ms, start_ms = clock_ms(), key = crypto.random(32),
    nonces = {}, count = 0, older = {}, turned_ms = clock_ms(),
  }, Checker)
end

--- In constant time: what differs is the HMACs under a key that nobody else knows.
local function is_equal(self, a, b)
  return crypto.hmac(self.key, a) == crypto.hmac(self.key, b)
end

local function is_signed(self, unix_ms, nonce, path, given)
  local found = false
  for _, secret in ipairs(self.secrets) do
    if is_equal(self, mac(secret, unix_ms, nonce, path), given) then found = true end
  end
  return found
end

--- Two tables, so that forgetting costs nothing: each nonce is kept for one window at least.
local function turn(self, now_ms)
  if math.abs(now_ms - self.turned_ms) < 2 * SKEW_MS then return end
  self.older, self.nonces, self.count, self.turned_ms = self.nonces, {}, 0, now_ms
end

--- Whether the proof is good for a connection to `path`.
---@param value string|nil  of the header
---@param path string
---@return true|nil ok
---@return string? reason
function Checker:check(value, path)
  if type(value) ~= "string" then return nil, "no proof" end
  local unix_ms, nonce, given = value:match("^1 (%d+) (%x+) (%x+)$")
  if not unix_ms or #unix_ms > 15 or #nonce ~= 2 * NONCE_BYTES or #given ~= 64 then
    return nil, "the proof is malformed"
  end
  if not is_signed(self, unix_ms, nonce, path, given) then return nil, "the proof is not made with this secret" end
  local now_ms, made_ms = self.clock_ms(), tonumber(unix_ms)
  if math.abs(now_ms - made_ms) > SKEW_MS then return nil, "the proof is too old, or the clocks differ" end
  if made_ms < self.start_ms - START_ALLOWANCE_MS then return nil, "the proof is from before this registry started" end
  turn(self, now_ms)
  if self.nonces[nonce] or self.older[nonce] then return nil, "the proof has been used" end
  if self.count >= NONCES_MAX then return nil, "too many proofs at once" end
  self.nonces[nonce], self.count = true, self.count + 1
  return true
end

local REFUSALS = {
  ["401"] = "it wants a secret that was not given here, or another one (status 401)",
  ["403"] = "it does not let this host in (status 403)",
}

--- Why a registry lets nobody in, in words that help; other messages as they are.
---@param message string
---@return string
function M.explain(message)
  return (message:gsub("the server answered (%d+) instead of a WebSocket", REFUSALS))
end

return M
