--- znl.routing.middleware.rate_limit: a bucket of tokens for each key; a request takes one.
---
--- A bucket nobody took from for as long as it takes to fill is full, and is forgotten: they are
--- kept in two tables, of which the older one is dropped when that time has passed. With
--- `max_keys` in use all further keys share one bucket, so that invented keys gain nothing.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local sched = require("znl.core.sched")

local M = {}

---@class znl.RateLimitOptions
---@field per_second number  requests a key may make, over time
---@field burst? integer  how many of them at once; default: what comes in a second, at least 1
---@field key? fun(req: znl.Request): string  whose bucket; default: the sender, `req.from`
---@field max_keys? integer  buckets kept
---@field clock_ms? fun(): number  tests pass a fake
local SPEC = {
  per_second = { type = "number", min = 0.001, max = 1000000, required = true },
  burst = { type = "integer", min = 1, max = 1000000 },
  key = { type = "function", default = function(req) return req.from or "" end },
  max_keys = { type = "integer", min = 1, max = 1000000, default = 10000 },
  clock_ms = { type = "function", default = sched.now_ms },
}

---@param opts znl.RateLimitOptions
---@return znl.Middleware
function M.new(opts)
  opts = options.read(SPEC, opts, "rate_limit")
  local burst = opts.burst or math.max(1, math.floor(opts.per_second))
  local per_ms = opts.per_second / 1000
  local recent, recent_count, older, older_count = {}, 0, {}, 0
  local turned_ms = opts.clock_ms()
  local shared = { tokens = burst, at_ms = turned_ms }

  local function bucket_of(key, now_ms)
    if now_ms - turned_ms >= burst / per_ms then
      recent, recent_count, older, older_count = {}, 0, recent, recent_count
      turned_ms = now_ms
    end
    local bucket = recent[key]
    if bucket then return bucket end
    bucket = older[key]
    if bucket then
      older[key], older_count = nil, older_count - 1
    elseif recent_count + older_count >= opts.max_keys then
      return shared
    end
    bucket = bucket or { tokens = burst, at_ms = now_ms }
    recent[key], recent_count = bucket, recent_count + 1
    return bucket
  end

  return function(req, next)
    local now_ms = opts.clock_ms()
    local bucket = bucket_of(opts.key(req) or "", now_ms)
    local tokens = math.min(burst, bucket.tokens + (now_ms - bucket.at_ms) * per_ms)
    bucket.at_ms = now_ms
    bucket.tokens = tokens >= 1 and tokens - 1 or tokens
    if tokens >= 1 then return next(req) end
    local wait_ms = math.ceil((1 - tokens) / per_ms)
    return nil, ("rate_limit: too many requests, the next one in %d ms"):format(wait_ms), "RATE_LIMITED"
  end
end

return M
