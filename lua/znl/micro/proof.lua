--- znl.micro.proof: how an application shows a registry that both have the same secret (docs/SECURITY.md,
--- "Registries"): the header `Znl-Proof` of the upgrade request, a znl.security.proof for the path as it
--- stands in the request. SPDX-License-Identifier: MIT

local security = require("znl.security.proof")

local M = {}

--- The name of the header, as it is sent; registries see it in lower case.
M.NAME = "Znl-Proof"

local PURPOSE = "znl-registry-proof"

--- The header for a connection to `path`: one of its own for each attempt.
---@param secret string
---@param path string  "/host/port/namespace"
---@return string name
---@return string value
function M.header(secret, path)
  return M.NAME, (security.make(PURPOSE, secret, path))
end

--- Checks proofs made with one of the secrets: `checker:check(value, path)`.
---@param secrets string[]
---@param clock_ms? fun(): number  milliseconds since 1970; tests pass a fake
---@return znl.ProofChecker
function M.checker(secrets, clock_ms)
  return security.checker { purpose = PURPOSE, what = "registry", secrets = secrets, clock_ms = clock_ms }
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
