--- znl.console.latency: how long requests took, since the start and lately.
---
--- "Lately" is the span that is filling and the one before it, so 5 to 10 seconds.
--- SPDX-License-Identifier: MIT

local histogram = require("znl.console.histogram")
local sched = require("znl.core.sched")

local M = {}

local SPAN_MS = 5000

---@class znl.Latency
---@field total znl.Histogram
---@field private spans {[1]: znl.Histogram, [2]: znl.Histogram}  filling, the one before
---@field private span_began_ms number
local Latency = {}
Latency.__index = Latency

---@param now_ms? fun(): number  monotonic; tests pass a fake
---@return znl.Latency
function M.new(now_ms)
  local self = setmetatable({ now_ms = now_ms or sched.now_ms, total = histogram.new() }, Latency)
  self.spans = { histogram.new(), histogram.new() }
  self.span_began_ms = self.now_ms()
  return self
end

local function turn(self)
  local passed = self.now_ms() - self.span_began_ms
  if passed < SPAN_MS then return end
  self.spans = { histogram.new(), passed < 2 * SPAN_MS and self.spans[1] or histogram.new() }
  self.span_began_ms = self.span_began_ms + math.floor(passed / SPAN_MS) * SPAN_MS
end

---@param us number
function Latency:add(us)
  turn(self)
  self.total:add(us)
  self.spans[1]:add(us)
end

local function summary(h)
  return {
    count = h.count, mean_ms = h:mean_us() / 1000, p50_ms = h:percentile_us(0.5) / 1000,
    p90_ms = h:percentile_us(0.9) / 1000, p99_ms = h:percentile_us(0.99) / 1000,
    max_ms = h.max_us / 1000,
  }
end

--- The figures as a table for people and JSON.
---@return {total: table, recent: table}
function Latency:report()
  turn(self)
  return {
    total = summary(self.total),
    recent = summary(histogram.sum(self.spans[1], self.spans[2])),
  }
end

return M
