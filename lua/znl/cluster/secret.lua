--- znl.cluster.secret: how leader and follower show each other that both have the same secret
--- (docs/SECURITY.md, "Leaders and followers").
---
--- In the extension of the registration: { v = 1, proof = "…" }, a znl.security.proof for the channel. The
--- answer's has an HMAC over the nonce of that proof, so that a follower talks to no leader without it.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local proof = require("znl.security.proof")

local M = {}

local PURPOSE = "znl-cluster-proof"
local ANSWER_PURPOSE = "znl-cluster-answer"

--- What a follower adds to its registration, and what to expect in the answer; nothing without a secret.
---@param secrets string[]|nil  the first one is shown
---@param channel string
---@return table|nil extension
---@return table? expected  for `is_answered`
function M.extension(secrets, channel)
  if not secrets then return nil end
  local text, nonce = proof.make(PURPOSE, secrets[1], channel)
  local unix_ms = proof.parts(text)
  return { v = 1, proof = text }, { mac = proof.mac(ANSWER_PURPOSE, secrets[1], unix_ms, nonce, channel) }
end

--- Whether the leader has the secret as well.
---@param expected table|nil  of one of the registrations
---@param extension table|nil  of the answer
---@return boolean
function M.is_answered(expected, extension)
  if not expected then return true end
  local given = type(extension) == "table" and extension.proof
  return type(given) == "string" and proof.is_equal(crypto.random(32), given, expected.mac)
end

--- What a leader lets in. nil without a secret: everybody.
---@param secrets string[]|nil
---@return znl.ProofChecker|nil
function M.checker(secrets)
  return secrets and proof.checker { purpose = PURPOSE, what = "leader", secrets = secrets }
end

--- Whether a registration is good, and what to add to the answer.
---@param checker znl.ProofChecker
---@param channel string
---@param extension table|nil  of the registration
---@return true|nil ok
---@return table|string extension_or_reason
function M.check(checker, channel, extension)
  local given = type(extension) == "table" and extension.proof or nil
  local ok, found, nonce = checker:check(given, channel)
  if not ok then return nil, found end
  local unix_ms = proof.parts(given)
  return true, { proof = proof.mac(ANSWER_PURPOSE, found, unix_ms, nonce, channel) }
end

return M
