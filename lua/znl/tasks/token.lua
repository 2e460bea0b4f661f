--- znl.tasks.token: cancellation and deadlines that reach everything started on behalf of something.
---
---   local token = znl.token { timeout_ms = 2000 }
---   znl.with(token, function() … end)     what waits in there ends when the token is cancelled
---   token:cancel("not needed any more")
---
--- A task runs under one token or none, and what it spawns inherits it. Tokens form a tree: whatever
--- cancels one cancels those below. A wait that is cancelled returns nil, message, and "CANCELLED", or
--- "DEADLINE" when time was the reason; so does every later wait under that token.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.token")
local options = require("znl.options")

local M = {}

---@class znl.Token
---@field cancel fun(self, reason?: string): boolean  false when it was cancelled already
---@field cancelled fun(self): boolean
---@field reason fun(self): string|nil, "CANCELLED"|"DEADLINE"|nil  why, and the code; nil while it is not
---@field deadline_ms fun(self): number|nil  monotonic instant; nil: none
---@field remaining_ms fun(self): number|nil  milliseconds until then, at least 0; nil: no deadline
---@field on_cancel fun(self, fn: fun()): fun()  calls fn in a coroutine when it is cancelled, or soon when it is

---@class znl.TokenOptions
---@field timeout_ms? integer  it is cancelled after that long
---@field parent? znl.Token  default: the token of the running code
local TIMEOUT = { type = "integer", min = 0, max = 86400000 }
local SPEC = {
  timeout_ms = TIMEOUT,
  parent = { type = "any", check = core.is, allowed = "a token" },
}

--- Makes a token.
---@param opts? znl.TokenOptions
---@return znl.Token|nil token
---@return string? message
---@return "NO_MEMORY"? code
function M.new(opts)
  opts = options.read(SPEC, opts, "znl.token", 2)
  return core.new(opts.parent or core.current(), opts.timeout_ms)
end

---@param value any
---@return boolean
M.is = core.is

--- The token of the running code; nil without.
---@type fun(): znl.Token|nil
M.current = core.current

local function leave(before, shielded, made, ok, ...)
  core.enter(before, shielded)
  if made then made:close() end
  if not ok then error((...), 0) end
  return ...
end

local function check_function(fn, what)
  if type(fn) ~= "function" then error(what .. ": there must be a function to run, not a " .. type(fn), 3) end
end

--- Runs `fn(...)` in this coroutine under the token, and under that of the running code as well.
---@param token znl.Token
---@param fn function
---@param ... any
---@return any ...  of fn; what it raises goes on
function M.with(token, fn, ...)
  if not core.is(token) then error("znl.with: the first argument must be a token, not a " .. type(token), 2) end
  check_function(fn, "znl.with")
  local current = core.current()
  local inner, message, code = token, nil, nil
  if current then inner, message, code = core.join(current, token) end
  if not inner then return nil, message, code end
  local made = inner ~= token and inner ~= current and inner or nil
  local before, shielded = core.enter(inner)
  return leave(before, shielded, made, pcall(fn, ...))
end

--- Runs `fn(...)` in this coroutine; what it still waits for after that long ends with "DEADLINE".
---@param timeout_ms integer
---@param fn function
---@param ... any
---@return any ...  of fn; what it raises goes on
function M.with_timeout(timeout_ms, fn, ...)
  if not options.accepts(TIMEOUT, timeout_ms) then
    error(("znl.with_timeout: timeout_ms must be a whole number in 0..%d"):format(TIMEOUT.max), 2)
  end
  check_function(fn, "znl.with_timeout")
  local made, message, code = core.new(core.current(), timeout_ms)
  if not made then return nil, message, code end
  local before, shielded = core.enter(made)
  return leave(before, shielded, made, pcall(fn, ...))
end

--- Runs `fn(...)` in this coroutine without a token: for clean-up that must wait though all around it is
--- cancelled.
---@param fn function
---@param ... any
---@return any ...  of fn; what it raises goes on
function M.shield(fn, ...)
  check_function(fn, "znl.shield")
  local before, shielded = core.enter(nil, true)
  return leave(before, shielded, nil, pcall(fn, ...))
end

return M
