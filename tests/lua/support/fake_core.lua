--- Stands in for znl.core.*, so that the library is tested without a loop, a network or a clock.
---
---   local fake = fake_core.new()
---   local handlers = fake:require("znl.handlers")   -- a copy that uses the fakes
---   fake:run(function() ... end)                    -- the body may wait; time passes by itself
--- SPDX-License-Identifier: MIT

local M = {}

---@class FakeCore
local Fake = {}
Fake.__index = Fake

local function pack(...) return { n = select("#", ...), ... } end

local Owner = {}
Owner.__index = Owner
function Owner:active() return self.count end

function Owner:on_idle(fn)
  self.idle = fn
  if self.count == 0 then self:settle() end
end

function Owner:settle()
  local fn = self.idle
  self.idle = nil
  if fn then self.fake:later(0, fn) end
end

local Event = {}
Event.__index = Event

function Event:set(...)
  if self.values then return end
  self.values = pack(...)
  for task, ticket in pairs(self.waiting) do
    local values = self.values
    self.fake:later(0, function() self.fake:wake(task, ticket, unpack(values, 1, values.n)) end)
  end
end

function Event:wait(timeout_ms)
  if self.values then return unpack(self.values, 1, self.values.n) end
  local fake = self.fake
  local task, ticket = fake:park()
  self.waiting[task] = ticket
  if timeout_ms then
    fake:later(timeout_ms, function() fake:wake(task, ticket, nil, "event: no answer in time", "TIMEOUT") end)
  end
  return coroutine.yield()
end

--- A task that ended takes its owner's count with it.
function Fake:resume(task, ...)
  local before = self.current
  self.current = task
  local ok, message = coroutine.resume(task.co, ...)
  self.current = before
  if coroutine.status(task.co) ~= "dead" then return end
  if not ok then self.errors[#self.errors + 1] = message end
  if task.owner then
    task.owner.count = task.owner.count - 1
    if task.owner.count == 0 then task.owner:settle() end
  end
end

function Fake:spawn(owner, fn, ...)
  owner = owner or (self.current and self.current.owner)
  local task = { co = coroutine.create(fn), owner = owner, ticket = 0 }
  if owner then owner.count = owner.count + 1 end
  self:resume(task, ...)
end

function Fake:park()
  local task = assert(self.current, "must be called from a task")
  task.ticket = task.ticket + 1
  return task, task.ticket
end

function Fake:wake(task, ticket, ...)
  if task.ticket ~= ticket or coroutine.status(task.co) ~= "suspended" then return end
  task.ticket = ticket + 1
  self:resume(task, ...)
end

function Fake:later(ms, fn)
  self.serial = self.serial + 1
  self.due[#self.due + 1] = { at = self.now + ms, serial = self.serial, fn = fn }
end

--- Lets `ms` pass, doing what falls due in order.
function Fake:advance(ms)
  local goal = self.now + ms
  while true do
    table.sort(self.due, function(a, b)
      return a.at < b.at or (a.at == b.at and a.serial < b.serial)
    end)
    local first = self.due[1]
    if not first or first.at > goal then break end
    table.remove(self.due, 1)
    self.now = math.max(self.now, first.at)
    self:spawn(nil, first.fn)
  end
  self.now = goal
end

--- Runs `fn` as a task until it ends; waits cost no real time. Raises what it raises.
function Fake:run(fn)
  local ended, ok, message
  self:spawn(nil, function()
    ok, message = xpcall(fn, function(err)
      return type(err) == "string" and debug.traceback(err, 2) or err
    end)
    ended = true
  end)
  for _ = 1, 100000 do
    if ended then break end
    self:advance(1)
  end
  if not ended then error("the test body never ended", 2) end
  if not ok then error(message, 0) end
  if #self.errors > 0 then error("a task failed: " .. tostring(self.errors[1]), 2) end
end

--- Tells every watcher that a name in its directory changed.
function Fake:changed(name)
  for watcher in pairs(self.watchers) do self:spawn(nil, watcher.fn, name) end
end

--- What a signal does.
function Fake:signal()
  for fn in pairs(self.stops) do self:spawn(nil, fn) end
end

--- Lines written to the log whose message contains `text`.
function Fake:logged(text)
  local found = {}
  for _, line in ipairs(self.lines) do
    if line.message:find(text, 1, true) then found[#found + 1] = line end
  end
  return found
end

local function modules(fake)
  local sched = {}
  function sched.spawn(fn, ...) fake:spawn(nil, fn, ...) end
  function sched.spawn_owned(owner, fn, ...) fake:spawn(owner, fn, ...) end
  function sched.owner() return setmetatable({ count = 0, fake = fake }, Owner) end
  function sched.event() return setmetatable({ waiting = {}, fake = fake }, Event) end
  function sched.now_ms() return fake.now end
  function sched.unix_ms() return fake.now end
  function sched.sleep(ms)
    local task, ticket = fake:park()
    fake:later(ms, function() fake:wake(task, ticket) end)
    return coroutine.yield()
  end

  local log = {}
  function log.write(level, area, message, fields)
    fake.lines[#fake.lines + 1] = { level = level, area = area, message = message, fields = fields or {} }
  end
  function log.enabled() return true end
  function log.level() return "trace" end
  function log.set_level() end

  local watch = {}
  function watch.watch(directory, fn)
    if fake.watch_fails then return nil, "watch: no more watches", "SYSTEM" end
    local watcher = { directory = directory, fn = fn }
    function watcher:close() fake.watchers[self] = nil end
    fake.watchers[watcher] = true
    return watcher
  end

  local runtime = { version = { znlrun = "test" } }
  function runtime.on_stop(fn)
    fake.stops[fn] = true
    return function() fake.stops[fn] = nil end
  end
  function runtime.exit() end

  --- Records what a role asks of its node.
  local node = {}
  local function new_node(config)
    local native = { config = config, listening = {}, services = {}, keys = {}, calls = {}, on = false }
    function native:start()
      if fake.start_fails then return nil, "start: in use", "ADDRESS_IN_USE" end
      self.on = true
      return true
    end
    function native:stop() self.on = false end
    function native:running() return self.on end
    function native.endpoint() return config.endpoint end
    function native.counters() return {} end
    function native:set_handler(fn, owner) self.handler, self.owner = fn, owner end
    function native:set_service(name, fn) self.services[name] = fn end
    function native:listen(kind, on) self.listening[kind] = on or nil end
    function native:add_key(id, key) self.keys[id] = key; return true end
    function native:remove_key(id) self.keys[id] = nil; return true end
    function native:request(...) self.calls[#self.calls + 1] = pack(...); return "answer" end
    native.service_request = native.request
    native.publish, native.push = native.request, native.request
    function native.slaves() return {} end
    function native.is_online() return false end
    function native.is_master_online() return false end
    function native.master_id() return nil end
    --- What the core does for an event: a call in a task of its own.
    function native.raise(...) fake:spawn(nil, config.on_event, ...) end
    fake.nodes[#fake.nodes + 1] = native
    return native
  end
  node.master, node.slave = new_node, new_node

  return {
    ["znl.core.sched"] = sched, ["znl.core.log"] = log, ["znl.core.watch"] = watch,
    ["znl.core.runtime"] = runtime, ["znl.core.node"] = node,
  }
end

---@return FakeCore
function M.new()
  local fake = setmetatable({
    now = 1000, due = {}, serial = 0, errors = {}, lines = {}, watchers = {}, stops = {}, nodes = {},
  }, Fake)
  fake.modules = modules(fake)
  fake.loaded = {}
  return fake
end

--- Loads a fresh copy of a library module on top of the fakes; what is loaded elsewhere stays.
function Fake:require(name)
  local saved = {}
  for module in pairs(package.loaded) do
    if module == "znl" or module:find("^znl%.") then
      saved[module] = package.loaded[module]
      package.loaded[module] = nil
    end
  end
  for module, value in pairs(self.loaded) do package.loaded[module] = value end
  for module, value in pairs(self.modules) do package.loaded[module] = value end
  local ok, result = pcall(require, name)
  for module in pairs(package.loaded) do
    if module == "znl" or module:find("^znl%.") then
      self.loaded[module] = package.loaded[module]
      package.loaded[module] = nil
    end
  end
  for module, value in pairs(saved) do package.loaded[module] = value end
  if not ok then error(result, 2) end
  return result
end

return M
