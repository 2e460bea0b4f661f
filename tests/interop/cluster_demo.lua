--- The real client that the recordings of cluster-client were made with; cluster_demo.mjs is its original.
--- SPDX-License-Identifier: MIT

local json = require "znl.json"
local values = require "cluster_values"
local znl = require "znl"

local UPSTREAM_MS = 15

local Demo = {}
Demo.__index = Demo

--- An error whose stack is the same everywhere.
local function failure(message, more)
  local err = more or {}
  err.message, err.name = message, err.name or "Error"
  err.stack = err.stack or ("%s: %s\n    at fixed (stack)"):format(err.name, message)
  return err
end

local FAILURES = {
  plain = function() return failure "plain failure" end,
  type = function() return failure("type failure", { name = "TypeError" }) end,
  coded = function() return failure("coded failure", { name = "CodedError", code = "E_CODED" }) end,
  numcode = function() return failure("numeric code", { code = 404 }) end,
  string = function() return "just a string" end,
}

local function read(path)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return text
end

--- `how` is that of cluster_demo.mjs.
local function new(how)
  local self = setmetatable({
    values = {}, listeners = {}, how = how,
    counters = { oneway = 0, upstreamSubscribes = 0 },
  }, Demo)
  for id, value in pairs(how.values or {}) do self.values[id] = values.unpack(value) end
  if how.upstream then
    znl.spawn(function()
      local last
      while not self.closed do
        local text = read(how.upstream)
        if text ~= last then
          last = text
          self:set("up", tonumber(text))
        end
        znl.sleep(UPSTREAM_MS)
      end
    end)
  end
  return self
end

function Demo:set(id, value)
  if value == nil then value = znl.undefined end
  self.values[id] = value
  for _, listener in ipairs(self.listeners[id] or {}) do listener(value) end
end

function Demo:ready()
  znl.sleep(self.how.ready_after_ms or 0)
  if not self.how.ready_error then return true end
  error(failure("upstream refused", { name = "UpstreamError", code = "E_UPSTREAM" }), 0)
end

function Demo:subscribe(reg, listener)
  self.counters.upstreamSubscribes = self.counters.upstreamSubscribes + 1
  local id = type(reg) == "table" and reg.dataId or ""
  self.listeners[id] = self.listeners[id] or {}
  table.insert(self.listeners[id], listener)
  if self.values[id] ~= nil then listener(self.values[id]) end
end

function Demo:publish(reg) self:set(reg.dataId, reg.value) end

function Demo:unPublish(reg) self:set(reg.dataId, json.null) end

function Demo:close() self.closed = true end

function Demo.ping() return "pong" end

function Demo.echoOne(_, value) return value end

function Demo.echo(_, ...)
  local list = json.array {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    if value == nil then value = znl.undefined end
    list[i] = value
  end
  return list
end

function Demo.argc(_, ...) return select("#", ...) end

function Demo.nothing() end

function Demo.nul() return json.null end

function Demo.slow(_, ms)
  znl.sleep(ms)
  return ("slept %d"):format(ms)
end

function Demo:get(id)
  if self.values[id] ~= nil then return self.values[id] end
  error(failure("no such id: " .. id, { name = "NotFoundError", code = "E_NOT_FOUND" }), 0)
end

function Demo.fail(_, kind) error(FAILURES[kind](), 0) end

function Demo.withCallback(_, a, b) return a + b end

function Demo.withCallbackErr(_, a)
  local stack = "Error: cb failure\n    at fixed (stack)"
  error(failure("cb failure " .. a, { code = "E_CB", stack = stack }), 0)
end

function Demo.never() znl.sleep(3600000) end

function Demo.throwNow() error(failure "thrown at once", 0) end

function Demo:note() self.counters.oneway = self.counters.oneway + 1 end

function Demo.noteReject() error(failure "rejected oneway", 0) end

function Demo:getCounters() return self.counters end

function Demo:flood(id, count, batch, size)
  local pad = ("x"):rep(size)
  for seq = 1, count do
    self:set(id, { seq = seq, t = znl.now_ms(), pad = pad })
    if seq % batch == 0 then znl.sleep(0) end
  end
  return count
end

--- What its methods are, as znl.cluster_client takes it.
local METHODS = {
  subscribe = "subscribe", publish = "publish", close = "close",
  note = "oneway", noteReject = "oneway", unPublish = "oneway",
}
for _, name in ipairs { "ping", "echoOne", "echo", "argc", "nothing", "nul", "slow", "get", "fail", "withCallback",
  "withCallbackErr", "never", "throwNow", "getCounters", "flood" } do
  METHODS[name] = "invoke"
end

return { new = new, METHODS = METHODS }
