--- znl.micro.balance: which of several connections takes the next request.
---
---   two_choices      the one of two drawn at random with fewer requests under way
---   round_robin      one after the other
---   least_in_flight  the one with the fewest requests under way
---   sticky           always the same while it lasts, as the originals do
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")

local M = {}

---@alias znl.Balance "two_choices"|"round_robin"|"least_in_flight"|"sticky"

--- Park and Miller; math.random begins alike in every process, and all would draw the same.
local state = 0

---@param count integer
---@return integer  in 1..count
local function draw(count)
  if state == 0 then
    local a, b, c = crypto.random(3):byte(1, 3)
    state = 1 + a * 65536 + b * 256 + c
  end
  state = state * 16807 % 2147483647
  return 1 + state % count
end
M.draw = draw

--- Requests and streams under way on the connection of a client.
local function load_of(client) return client.conn:pending() end

local CHOICES = {}
M.CHOICES = CHOICES

function CHOICES.sticky(list) return list[1] end

function CHOICES.round_robin(list, count)
  local turn = (list.turn or draw(count)) % count + 1
  list.turn = turn
  return list[turn]
end

function CHOICES.least_in_flight(list, count)
  -- From another place each time: else the first of those that are idle gets everything.
  local at = CHOICES.round_robin(list, count)
  local best, least = at, load_of(at)
  for index = 1, count do
    if least == 0 then return best end
    local load = load_of(list[index])
    if load < least then best, least = list[index], load end
  end
  return best
end

function CHOICES.two_choices(list, count)
  local first = draw(count)
  local second = draw(count - 1)
  if second >= first then second = second + 1 end
  local a, b = list[first], list[second]
  return load_of(b) < load_of(a) and b or a
end

return M
