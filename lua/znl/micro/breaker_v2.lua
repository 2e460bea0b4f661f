--- znl.micro.breaker_v2: which instances of a namespace a caller leaves alone for now (spec, section 16).
---
---   closed     requests pass; `failure_threshold` failures, none longer than `failure_window_ms` after
---              the one before, open it; a success forgets them
---   open       nothing passes for the cooldown
---   half-open  `half_open_max_probes` requests pass at once; `success_threshold` successes close it, a
---              failure opens it for twice as long
---
--- An instance without a record is closed and has not failed. Plain state: it waits only in `get`.
--- SPDX-License-Identifier: MIT

local M = {}

--- Asks for an instance: `exclude` is an array of keys or nil; with `fallback` false it must not be one of
--- those even when there is no other.
---@class znl.InstanceSource
---@field get fun(self, namespace: string, exclude: string[]|nil, fallback: boolean|nil): table|nil, string?, string?

---@class znl.BreakerV2
---@field count integer  of records; 0: every instance is closed and has not failed
local Breaker = {}
Breaker.__index = Breaker

--- A request that began while its instance was closed: all of them share this.
local CLOSED = {}
M.CLOSED = CLOSED

---@param opts znl.BreakerOptions  read
---@param now_ms fun(): number
---@param on_change? fun(key: string, status: "closed"|"open"|"half-open")
function M.new(opts, now_ms, on_change)
  return setmetatable({
    opts = opts, now_ms = now_ms, on_change = on_change or function() end, records = {}, count = 0,
    max_cooldown_ms = math.max(opts.cooldown_ms, opts.max_cooldown_ms),
  }, Breaker)
end

local function drop(self, key, record)
  self.records[key] = nil
  self.count = self.count - 1
  if record.status ~= "closed" then self.on_change(key, "closed") end
end

local function open(self, key, record, cooldown_ms)
  local now = self.now_ms()
  record.status, record.successes, record.probes = "open", 0, 0
  record.cooldown_ms, record.next_ms, record.failed_ms = cooldown_ms, now + cooldown_ms, now
  self.on_change(key, "open")
end

--- The instances to leave out of the next choice. This is where time acts.
---@return string[] keys
---@return boolean limited  one of them only because enough probes are out
function Breaker:excludes()
  local keys, limited = {}, false
  if self.count == 0 then return keys, limited end
  local now = self.now_ms()
  for key, record in pairs(self.records) do
    if record.status == "closed" and now - record.failed_ms >= self.opts.failure_window_ms then
      drop(self, key, record)
    elseif record.status == "open" and now >= record.next_ms then
      record.status, record.successes, record.probes, record.next_ms = "half-open", 0, 0, nil
      self.on_change(key, "half-open")
    end
    if record.status == "open" then
      keys[#keys + 1] = key
    elseif record.status == "half-open" and record.probes >= self.opts.half_open_max_probes then
      keys[#keys + 1] = key
      limited = true
    end
  end
  return keys, limited
end

--- Asks to send one request to an instance.
---@param key string
---@return table|nil ticket  give it to `succeed`, `fail` or `release`; nil: refused
---@return boolean? was_half_open  why it was refused
function Breaker:probe(key)
  local record = self.count > 0 and self.records[key]
  if not record or record.status == "closed" then return CLOSED end
  if record.status == "open" then return nil, false end
  if record.probes >= self.opts.half_open_max_probes then return nil, true end
  record.probes = record.probes + 1
  return { record = record, cooldown_ms = record.cooldown_ms }
end

--- The request has ended, whatever its outcome. Twice is harmless.
function Breaker:release(ticket) -- luacheck: ignore self
  local record = ticket.record
  if not record then return end
  if not ticket.is_back and record.status == "half-open" and record.probes > 0 then
    record.probes = record.probes - 1
  end
  ticket.is_back = true
end

--- The ticket of a request that was sent without asking, because nothing had failed.
function Breaker:closed_ticket() return CLOSED end -- luacheck: ignore self

function Breaker:succeed(key, ticket)
  local record = self.count > 0 and self.records[key]
  if record and ticket == CLOSED then
    if record.status == "closed" then drop(self, key, record) end
  elseif record and record.status == "half-open" then
    record.failures, record.successes = 0, record.successes + 1
    if record.successes >= self.opts.success_threshold then drop(self, key, record) end
  end
  self:release(ticket)
end

local function count_failure(self, key)
  local record, now = self.records[key], self.now_ms()
  if not record then
    record = {
      status = "closed", failures = 0, successes = 0, probes = 0, failed_ms = now,
      cooldown_ms = self.opts.cooldown_ms,
    }
    self.records[key] = record
    self.count = self.count + 1
  elseif record.status ~= "closed" then
    return
  end
  if now - record.failed_ms >= self.opts.failure_window_ms then record.failures = 0 end
  record.failures, record.failed_ms = record.failures + 1, now
  if record.failures >= self.opts.failure_threshold then open(self, key, record, self.opts.cooldown_ms) end
end

function Breaker:fail(key, ticket)
  if ticket == CLOSED then
    count_failure(self, key)
  else
    local record = self.records[key]
    if record and record.status == "half-open" then
      record.failures = math.max(1, record.failures)
      local cooldown_ms = 2 * math.max(record.cooldown_ms, ticket.cooldown_ms)
      open(self, key, record, math.min(cooldown_ms, self.max_cooldown_ms))
    end
  end
  self:release(ticket)
end

--- Forgets everything: all of the namespace is closed.
function Breaker:reset()
  for key, record in pairs(self.records) do drop(self, key, record) end
end

--- An array of both, each once.
local function union(excludes, tried)
  if not tried then return excludes end
  local all, known = {}, {}
  for _, list in ipairs { excludes, tried } do
    for _, key in ipairs(list) do
      if not known[key] then
        known[key] = true
        all[#all + 1] = key
      end
    end
  end
  return all
end

local function pick(self, source, namespace, fallback, tried, until_ms)
  local excludes, limited = self:excludes()
  if tried then
    -- Rather one that has not just failed; when there is none, as if nothing had been tried.
    local client = source:get(namespace, union(excludes, tried), false, until_ms)
    if client then return client end
  end
  local client, message, code = source:get(namespace, excludes, fallback and not limited, until_ms)
  if client or not fallback or limited then return client, message, code end
  self:reset()
  return source:get(namespace, nil, nil, until_ms)
end

--- Chooses an instance and asks to send to it. Yields.
---@param source znl.InstanceSource
---@param namespace string
---@param reset_allowed boolean  a first attempt: when all are left out, forget why
---@param tried? string[]  keys that failed in this call; chosen only when there is no other
---@return table|nil client
---@return any ticket  or a message
---@return string? code
function Breaker:select(source, namespace, reset_allowed, tried, until_ms)
  local client, message, code = pick(self, source, namespace, reset_allowed, tried, until_ms)
  if not client then return nil, message, code end
  local ticket, half = self:probe(client.key)
  if ticket then return client, ticket end
  local spare = not half and client or nil

  client, message, code = pick(self, source, namespace, false, tried, until_ms)
  if client then
    local was_half
    ticket, was_half = self:probe(client.key)
    if ticket then return client, ticket end
    half = half or was_half
    if not was_half then spare = client end
  elseif not reset_allowed then
    return nil, message, code
  end
  if not reset_allowed or half then
    return nil, "Circuit breaker probe unavailable for " .. namespace, "BREAKER_OPEN"
  end
  self:reset()
  client, message, code = spare, nil, nil
  if not client then client, message, code = source:get(namespace, nil, nil, until_ms) end
  if not client then return nil, message, code end
  return client, self:probe(client.key)
end

return M
