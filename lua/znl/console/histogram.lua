--- znl.console.histogram: durations in a bounded table, with percentiles exact to 1.6 %.
---
--- Whole microseconds below 128 have a step each; above, every power of two is split into 64 steps.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.Histogram
---@field count integer
---@field max_us number
---@field private sum_us number
---@field private steps table<integer, integer>
---@field private last integer  the highest step in use
local Histogram = {}
Histogram.__index = Histogram

local SUB_STEPS = 64
local floor, frexp = math.floor, math.frexp

---@return znl.Histogram
function M.new()
  return setmetatable({ count = 0, max_us = 0, sum_us = 0, steps = {}, last = 0 }, Histogram)
end

---@param us number  0 or more
function Histogram:add(us)
  local whole = floor(us)
  local step = whole
  if whole >= 2 * SUB_STEPS then
    local _, exponent = frexp(whole)
    local shift = exponent - 7 -- leaves 64..127 of the highest bits
    step = shift * SUB_STEPS + floor(whole / 2 ^ shift)
  end
  self.steps[step] = (self.steps[step] or 0) + 1
  if step > self.last then self.last = step end
  self.count = self.count + 1
  self.sum_us = self.sum_us + us
  if us > self.max_us then self.max_us = us end
end

--- The first value above a step.
local function upper_us(step)
  if step < 2 * SUB_STEPS then return step + 1 end
  local shift = floor(step / SUB_STEPS) - 1
  return (step - shift * SUB_STEPS + 1) * 2 ^ shift
end

--- What `share` (0..1) of the values do not exceed; 0 without values.
---@param share number
---@return number us
function Histogram:percentile_us(share)
  local wanted, seen = math.ceil(share * self.count), 0
  for step = 0, self.last do
    seen = seen + (self.steps[step] or 0)
    if seen >= wanted and seen > 0 then return math.min(upper_us(step), self.max_us) end
  end
  return 0
end

---@return number us
function Histogram:mean_us()
  return self.count > 0 and self.sum_us / self.count or 0
end

--- A histogram with the values of both.
---@param a znl.Histogram
---@param b znl.Histogram
---@return znl.Histogram
function M.sum(a, b)
  local both = M.new()
  for _, h in ipairs { a, b } do
    for step, count in pairs(h.steps) do both.steps[step] = (both.steps[step] or 0) + count end
    both.count, both.sum_us = both.count + h.count, both.sum_us + h.sum_us
    both.max_us, both.last = math.max(both.max_us, h.max_us), math.max(both.last, h.last)
  end
  return both
end

return M
