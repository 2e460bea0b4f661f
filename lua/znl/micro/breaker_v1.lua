--- znl.micro.breaker_v1: the breaker of release 1.0.5 (spec, section 15): one failure leaves an instance out
--- for `cooldown_ms`, a success takes it back in.
---
--- Plain state: it waits only in `get`. SPDX-License-Identifier: MIT

local M = {}

---@class znl.BreakerV1
---@field count integer  of instances that are left out
local Breaker = {}
Breaker.__index = Breaker

local NOTHING = {}

---@param opts znl.BreakerOptions  read
---@param now_ms fun(): number
---@param on_change? fun(key: string, status: "closed"|"open")
function M.new(opts, now_ms, on_change)
  return setmetatable({
    opts = opts, now_ms = now_ms, on_change = on_change or function() end, failed = {}, count = 0,
  }, Breaker)
end

local function forget(self, key)
  if not self.failed[key] then return end
  self.failed[key] = nil
  self.count = self.count - 1
  self.on_change(key, "closed")
end

---@return string[] keys
function Breaker:excludes()
  local keys = {}
  if self.count == 0 then return keys end
  local now = self.now_ms()
  for key, failed_ms in pairs(self.failed) do
    if now - failed_ms >= self.opts.cooldown_ms then
      forget(self, key)
    else
      keys[#keys + 1] = key
    end
  end
  return keys
end

function Breaker:probe() return NOTHING end -- luacheck: ignore self

function Breaker:release() end -- luacheck: ignore self

--- The ticket of a request that was sent without asking, because nothing had failed.
function Breaker:closed_ticket() return NOTHING end -- luacheck: ignore self

function Breaker:succeed(key)
  if self.count > 0 then forget(self, key) end
end

function Breaker:fail(key)
  if not self.failed[key] then
    self.count = self.count + 1
    self.on_change(key, "open")
  end
  self.failed[key] = self.now_ms()
end

function Breaker:reset()
  for key in pairs(self.failed) do forget(self, key) end
end

--- Chooses an instance. Yields. As that of znl.micro.breaker_v2.
function Breaker:select(source, namespace, _, _, until_ms)
  local client = source:get(namespace, self:excludes(), nil, until_ms)
  if client then return client, NOTHING end
  self:reset()
  local message, code
  client, message, code = source:get(namespace, nil, nil, until_ms)
  if client then return client, NOTHING end
  return nil, message, code
end

return M
