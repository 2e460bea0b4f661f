--- znl.roles.retry: asks again when asking again is safe.
---
---     local reply, message, code = znl.retry({ attempts = 4 }, function()
---       return master:request("slave-1", "ping")
---     end)
---
--- Safe is what a peer has certainly not begun with: no connection, a full queue, a refusal. After a
--- timeout the peer may have done the work; say `idempotent = true` when doing it twice does no harm.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local options = require("znl.options")
local sched = require("znl.core.sched")
local token = require("znl.core.token")

local M = {}

M.SAFE = { "BUSY", "LIMIT", "OVERLOADED", "RATE_LIMITED", "UNREACHABLE" }
M.IDEMPOTENT = { "BUSY", "CLOSED", "GONE", "LIMIT", "OVERLOADED", "RATE_LIMITED", "REBUILT", "TIMEOUT", "UNREACHABLE" }

--- Not math.random: that begins alike in every process, and all would come back at the same moment.
local function random()
  local high, low = crypto.random(2):byte(1, 2)
  return (high * 256 + low) / 65535
end

---@class znl.RetryOptions
---@field attempts? integer  calls of the function, the first one included
---@field backoff_ms? integer  wait after the first failure; doubles each time, and varies by half
---@field max_backoff_ms? integer
---@field timeout_ms? integer  for all of it: no attempt begins later; the one under way is not cut
---@field idempotent? boolean  repeats also what may have been done already
---@field codes? string[]  which codes to repeat, in place of those
---@field random? fun(): number  in 0..1; tests pass a fake
local SPEC = {
  attempts = { type = "integer", min = 1, max = 1000, default = 3 },
  backoff_ms = { type = "integer", min = 0, max = 3600000, default = 100 },
  max_backoff_ms = { type = "integer", min = 0, max = 3600000, default = 5000 },
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
  idempotent = { type = "boolean", default = false },
  codes = { type = "table", check = function(codes) return #codes > 0 end, allowed = "an array of codes" },
  random = { type = "function", default = random },
}

--- Milliseconds until no further attempt makes sense: the own limit, the deadline of the task.
local function left_ms(ends_ms)
  local current = token.current()
  local deadline_ms = current and current:deadline_ms()
  if deadline_ms and deadline_ms < ends_ms then ends_ms = deadline_ms end
  return ends_ms - sched.now_ms()
end

--- Calls `fn()` until it returns something, fails with a code not worth repeating, or the attempts
--- or the time are used up. What it raises is not caught. Yields.
---@param opts znl.RetryOptions|nil
---@param fn fun(attempt: integer): ...  as anything here: results, or nil, message, code
---@return any ...  of the last attempt
function M.run(opts, fn)
  opts = options.read(SPEC, opts, "retry")
  if type(fn) ~= "function" then error("retry: there must be a function to call, not a " .. type(fn), 2) end
  local repeats = {}
  for _, code in ipairs(opts.codes or (opts.idempotent and M.IDEMPOTENT or M.SAFE)) do repeats[code] = true end
  local ends_ms = opts.timeout_ms and sched.now_ms() + opts.timeout_ms or math.huge

  local function step(attempt, ...)
    local result, _, code = ...
    if result ~= nil or not repeats[code] or attempt >= opts.attempts then return ... end
    local backoff_ms = math.min(opts.max_backoff_ms, opts.backoff_ms * 2 ^ math.min(attempt - 1, 30))
    local wait_ms = math.floor(backoff_ms * (1 - opts.random() / 2) + 0.5)
    if wait_ms >= left_ms(ends_ms) then return ... end
    local slept, message, cut = sched.sleep(wait_ms)
    if slept == nil and cut then return nil, message, cut end
    return step(attempt + 1, fn(attempt + 1))
  end
  return step(1, fn(1))
end

return M
