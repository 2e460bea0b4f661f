--- znl.micro.hedge: asks a second instance when the first takes long; the first answer counts.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local task = require("znl.tasks.task")

local M = {}

--- One request of the two, in a task of its own.
local function ask(race, client, ticket, url, data, timeout_ms)
  local result, message, code, is_remote = client.conn:request(url, data, timeout_ms)
  race.under_way = race.under_way - 1
  if code == nil then
    race.done:set(true, client, ticket, result)
  elseif client ~= race.first then
    race.on_failure(client, ticket, message, code, is_remote)
    if race.failure then race.done:set(false) end
  else
    race.failure = { message, code, is_remote }
    if race.under_way == 0 then race.done:set(false) end
  end
end

local function begin(race, client, ticket, ...)
  local handle, message, code = task.spawn(ask, race, client, ticket, ...)
  if not handle then return nil, message, code end
  race.under_way = race.under_way + 1
  race.tasks[client] = handle
  return true
end

--- Ends what still runs: it sends its abort frame.
local function leave(race, winner, breaker, tickets)
  for client, handle in pairs(race.tasks) do
    if client ~= winner and handle:cancel("another instance answered first") then
      breaker:release(tickets[client])
    end
  end
end

---@class znl.HedgeParts
---@field breaker table
---@field hedge_ms integer
---@field second fun(): table|nil, any  another instance and its ticket; nil: there is none
---@field on_failure fun(client: table, ticket: any, message: string, code: any, is_remote: boolean)  of the second

--- Sends to `client`, and after `hedge_ms` without an answer to a second one as well. Yields.
---@param parts znl.HedgeParts
---@return any result
---@return string? message
---@return any code
---@return boolean? is_remote
---@return table client  that of the answer; of a failure the first
---@return any ticket
function M.request(parts, client, ticket, url, data, timeout_ms)
  local race = { done = sched.event(), under_way = 0, tasks = {}, first = client, on_failure = parts.on_failure }
  local tickets = { [client] = ticket }
  local begun, problem, problem_code = begin(race, client, ticket, url, data, timeout_ms)
  if not begun then return nil, problem, problem_code, false, client, ticket end
  local ok, winner, won_ticket, result = race.done:wait(parts.hedge_ms)
  if ok == nil and won_ticket == "TIMEOUT" then
    local second, second_ticket = parts.second()
    if second then
      tickets[second] = second_ticket
      if not begin(race, second, second_ticket, url, data, timeout_ms) then parts.breaker:release(second_ticket) end
    end
    ok, winner, won_ticket, result = race.done:wait()
  end
  if ok == nil then -- this task was cancelled
    leave(race, client, parts.breaker, tickets)
    race.tasks[client]:cancel(winner)
    return nil, winner, won_ticket, false, client, ticket
  end
  leave(race, winner, parts.breaker, tickets)
  if ok then return result, nil, nil, nil, winner, won_ticket end
  local failure = race.failure
  return nil, failure[1], failure[2], failure[3], client, ticket
end

return M
