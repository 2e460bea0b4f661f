--- znl.micro.caller: one call over as many attempts as it takes (spec, section 14).
---
--- Who asks again, and where: an attempt that failed is judged by the breaker and by the predicate of the
--- plan; the next one goes to another instance if there is one. The failure that counts is the last one
--- for which a request went out.
--- SPDX-License-Identifier: MIT

local breakers = require("znl.micro.breaker")
local hedge = require("znl.micro.hedge")
local sched = require("znl.core.sched")
local token = require("znl.core.token")

local M = {}

---@class znl.CallPlan
---@field timeout_ms integer  of each attempt
---@field deadline_ms? number  monotonic; of all of them
---@field retries integer  attempts after the first
---@field retry fun(failure: znl.CallFailure): boolean
---@field should_record? fun(failure: znl.CallFailure): boolean  nil: as znl.micro.breaker judges
---@field elsewhere boolean  attempts prefer instances that have not failed in this call
---@field hedge_ms? integer
---@field exact? boolean  as the originals: statuses stay as they came
---@field on_hook_error fun(message: string)

--- What an instance did not begin with, as it says itself.
local UNTOUCHED = { OVERLOADED = true, STOPPED = true, RATE_LIMITED = true }
local OWN_DOING = { CANCELLED = true, DEADLINE = true, INVALID = true, TOO_BIG = true, STOPPED = true }

--- Whether to ask again by default: not what a handler over there has said, which would be done twice.
---@param failure znl.CallFailure
---@return boolean
function M.is_worth_repeating(failure)
  local code = failure.code
  if failure.is_remote then
    return UNTOUCHED[code] == true or (code == 500 and failure.message == "Client is not online")
  end
  return not OWN_DOING[code]
end

--- The three words for a predicate.
M.PREDICATES = {
  safe = M.is_worth_repeating,
  always = function() return true end,
  never = function() return false end,
}

--- What a hook says; one that raises says `otherwise`.
local function ask_hook(plan, hook, failure, otherwise)
  local ok, answer = pcall(hook, failure)
  if ok then return answer and true or false end
  plan.on_hook_error(tostring(answer))
  return otherwise
end

--- Tells the breaker about a failed attempt.
function M.record(plan, breaker, client, ticket, failure)
  local verdict
  if plan.should_record then
    verdict = ask_hook(plan, plan.should_record, failure, true) and "failure" or "neither"
  else
    verdict = breakers.judge(failure.code, failure.is_remote)
    -- A connection that ends fails all that was asked on it; that is one failure of the instance.
    if failure.code == "CLOSED" and not failure.is_remote then
      if client.is_blamed then verdict = "neither" end
      client.is_blamed = true
    end
  end
  if verdict == "failure" then
    breaker:fail(client.key, ticket)
  elseif verdict == "success" then
    breaker:succeed(client.key, ticket)
  else
    breaker:release(ticket)
  end
end

local function failure_of(plan, client, namespace, url, message, code, is_remote)
  -- An original node has no route there; a handler that says its own url is not to be expected.
  if is_remote and code == 500 and message == url and not plan.exact then code = "NOT_FOUND" end
  return {
    message = message, code = code, is_remote = is_remote == true, key = client.key, namespace = namespace, url = url,
  }
end
M.failure_of = failure_of

--- Milliseconds for the next attempt; 0 when there is no time left.
---@param plan znl.CallPlan
---@return integer
function M.time_for(plan)
  local ends_ms = plan.deadline_ms
  if not ends_ms then return plan.timeout_ms end
  return math.max(0, math.min(plan.timeout_ms, math.ceil(ends_ms - sched.now_ms())))
end

local function request_hedged(source, breaker, namespace, url, data, plan, client, ticket, timeout_ms)
  return hedge.request({
    breaker = breaker, hedge_ms = plan.hedge_ms,
    second = function()
      local excludes = breaker:excludes()
      excludes[#excludes + 1] = client.key
      local other = source:get(namespace, excludes, false)
      if not other or other.key == client.key then return nil end
      local its_ticket = breaker:probe(other.key)
      return its_ticket and other, its_ticket
    end,
    on_failure = function(other, its_ticket, message, code, is_remote)
      M.record(plan, breaker, other, its_ticket, failure_of(plan, other, namespace, url, message, code, is_remote))
    end,
  }, client, ticket, url, data, timeout_ms)
end

--- Calls, or goes on after a first attempt that failed: then `client` and what follows tell of it. Yields.
---@param source znl.InstanceSource
---@param breaker table
---@param namespace string
---@param url string
---@param data any
---@param plan znl.CallPlan
---@return any data
---@return string? message
---@return string|number? code
---@return boolean? is_remote
function M.run(source, breaker, namespace, url, data, plan, client, ticket, message, code, is_remote)
  local retries, tried = plan.retries, nil
  while true do
    local last = client
    if last then
      local failure = failure_of(plan, last, namespace, url, message, code, is_remote)
      M.record(plan, breaker, last, ticket, failure)
      code, is_remote = failure.code, failure.is_remote
      if retries <= 0 or not ask_hook(plan, plan.retry, failure, false) then return nil, message, code, is_remote end
      retries = retries - 1
      if plan.elsewhere then
        tried = tried or {}
        tried[#tried + 1] = last.key
      end
    end
    -- Finding an instance is part of the attempt; the originals take what time it takes.
    local until_ms = not plan.exact and sched.now_ms() + M.time_for(plan) or nil
    local chosen, its_ticket, problem = breaker:select(source, namespace, last == nil, tried, until_ms)
    if not chosen then
      if problem == "TIMEOUT" and M.time_for(plan) == 0 then problem = "DEADLINE" end
      if last then return nil, message, code, is_remote end
      return nil, its_ticket, problem, false
    end
    local timeout_ms = M.time_for(plan)
    if until_ms and timeout_ms > 0 then timeout_ms = math.max(1, math.ceil(until_ms - sched.now_ms())) end
    if timeout_ms == 0 then
      breaker:release(its_ticket)
      if last then return nil, message, code, is_remote end
      return nil, "call: the deadline has passed", "DEADLINE", false
    end
    local result
    client, ticket = chosen, its_ticket
    if plan.hedge_ms then
      result, message, code, is_remote, client, ticket =
        request_hedged(source, breaker, namespace, url, data, plan, client, ticket, timeout_ms)
    else
      result, message, code, is_remote = client.conn:request(url, data, timeout_ms)
    end
    if code == nil then
      breaker:succeed(client.key, ticket)
      return result
    end
    -- A task that is cancelled for good asks nobody any more, whatever the predicate says.
    local current = not plan.exact and token.current()
    if current and current:cancelled() then
      M.record(plan, breaker, client, ticket, failure_of(plan, client, namespace, url, message, code, is_remote))
      return nil, message, code, is_remote == true
    end
  end
end

return M
