--- znl.hub.bucket: how much one connection may send: so much in a second, and so much at once.
---
--- Plain state; time is passed in.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.HubBucket
---@field private messages number  that may come now
---@field private bytes number  the same; below 0 after a message that was larger
---@field private at_ms number
local Bucket = {}
Bucket.__index = Bucket

---@param rate znl.HubRate  read
---@param now_ms number
---@return znl.HubBucket
function M.new(rate, now_ms)
  local per_s, bytes_per_s = rate.messages_per_s or math.huge, rate.bytes_per_s or math.huge
  local burst = rate.burst or math.max(1, per_s)
  return setmetatable({
    per_ms = per_s / 1000, burst = burst, messages = burst,
    bytes_per_ms = bytes_per_s / 1000, bytes_burst = bytes_per_s, bytes = bytes_per_s, at_ms = now_ms,
  }, Bucket)
end

--- Takes a message; false: it is too much. A message larger than the bytes of a second is taken from a full
--- bucket, or none could ever pass.
---@param size integer
---@param now_ms number
---@return boolean
function Bucket:take(size, now_ms)
  local passed_ms = now_ms - self.at_ms
  if passed_ms > 0 then
    self.at_ms = now_ms
    self.messages = math.min(self.burst, self.messages + passed_ms * self.per_ms)
    self.bytes = math.min(self.bytes_burst, self.bytes + passed_ms * self.bytes_per_ms)
  end
  if self.messages < 1 or (self.bytes < size and self.bytes < self.bytes_burst) then return false end
  self.messages, self.bytes = self.messages - 1, self.bytes - size
  return true
end

return M
