--- znl.micro.breaker: options of the breakers, and which failures they count.
--- SPDX-License-Identifier: MIT

local breaker_v1 = require("znl.micro.breaker_v1")
local breaker_v2 = require("znl.micro.breaker_v2")
local options = require("znl.options")

local M = {}

---@class znl.CallFailure
---@field message string
---@field code string|number  a status of the handler over there, or one of ours: "TIMEOUT", "CLOSED", …
---@field is_remote boolean  the other side answered this
---@field key string  "host:port" of the instance
---@field namespace string
---@field url string

---@class znl.BreakerOptions
---@field version? 1|2  of the originals whose rules it follows
---@field failure_threshold? integer  failures that open it
---@field failure_window_ms? integer  a failure later than that after the one before begins a new count
---@field success_threshold? integer  successes that close it again
---@field cooldown_ms? integer  how long it stays open at first; default of version 1: 30000
---@field max_cooldown_ms? integer
---@field half_open_max_probes? integer  requests at once to find out whether it is well again
---@field should_record_failure? fun(failure: znl.CallFailure): boolean
---@field should_retry? fun(failure: znl.CallFailure): boolean  as the option `retry` of the application
local SPEC = {
  version = { type = "integer", min = 1, max = 2, default = 2 },
  failure_threshold = { type = "integer", min = 1, max = 1000000, default = 3 },
  failure_window_ms = { type = "integer", min = 1, max = 86400000, default = 60000 },
  success_threshold = { type = "integer", min = 1, max = 1000000, default = 2 },
  cooldown_ms = { type = "integer", min = 1, max = 86400000 },
  max_cooldown_ms = { type = "integer", min = 1, max = 86400000, default = 120000 },
  half_open_max_probes = { type = "integer", min = 1, max = 1000000, default = 1 },
  should_record_failure = { type = "function" },
  should_retry = { type = "function" },
}

local COOLDOWN_MS = { 30000, 10000 }

--- What the caller did itself, or may not do: no fault of the instance.
local OWN_DOING = { CANCELLED = true, DEADLINE = true, INVALID = true, LIMIT = true, TOO_BIG = true, STOPPED = true }

--- Statuses by which an instance says that it is not well; by any other the handler speaks.
local UNWELL = { [500] = true, OVERLOADED = true, HANDLER_ERROR = true, HANDLER_TIMEOUT = true, STOPPED = true }

--- How a failed request is counted: "failure"; "success", the instance is well and said no; "neither".
---@param code string|number
---@param is_remote boolean
---@return "failure"|"success"|"neither"
function M.judge(code, is_remote)
  if is_remote then return UNWELL[code] and "failure" or "success" end
  return OWN_DOING[code] and "neither" or "failure"
end

---@param given znl.BreakerOptions|nil
---@param version 1|2  when it is not given
---@param what string
---@param level integer
---@return znl.BreakerOptions
function M.read(given, version, what, level)
  local opts = options.read(SPEC, given, what, level + 1)
  if given == nil or given.version == nil then opts.version = version end
  opts.cooldown_ms = opts.cooldown_ms or COOLDOWN_MS[opts.version]
  return opts
end

---@param opts znl.BreakerOptions  read
---@param now_ms fun(): number
---@param on_change? fun(key: string, status: string)
function M.new(opts, now_ms, on_change)
  return (opts.version == 1 and breaker_v1 or breaker_v2).new(opts, now_ms, on_change)
end

return M
