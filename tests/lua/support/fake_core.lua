--- Stands in for znl.core.*, so that the library is tested without a loop, a network or a clock.
---
---   local fake = fake_core.new()
---   local handlers = fake:require("znl.versions.handlers")   -- a copy that uses the fakes
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
function Owner:background() return self.background_count end
function Owner:has_ended() return self.ended end
function Owner.claim() end

function Owner:on_idle(fn)
  self.idle = fn
  if self.count == 0 then self:settle() end
end

function Owner:settle()
  local fn = self.idle
  self.idle = nil
  if fn then self.fake:later(0, fn) end
end

--- Dropped where they wait: their coroutines are never resumed again.
local function drop(self, background, message)
  for task in pairs(self.tasks) do
    if background == nil or task.background == background then
      task.ticket = task.ticket + 1
      self.fake:finish(task, nil, message)
    end
  end
end

function Owner:end_background()
  self.ended = true
  drop(self, true, "cut: what it ran for has ended")
end

function Owner:cut(message)
  self.ended, self.is_cut = true, true
  drop(self, nil, message)
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

local function count(task, change)
  local owner = task.owner
  if not owner then return end
  owner.tasks[task] = change > 0 and true or nil
  if task.background then
    owner.background_count = owner.background_count + change
    return
  end
  owner.count = owner.count + change
  if owner.count == 0 then owner:settle() end
end

--- `ok` is nil for a task that is dropped.
function Fake.finish(_, task, ok, ...)
  if task.done then return end
  task.done = true
  if task.handle then task.handle:ended(ok, ...) end
  count(task, -1)
end

--- A task that ended takes its owner's count with it.
function Fake:resume(task, ...)
  local before = self.current
  self.current = task
  local results = pack(coroutine.resume(task.co, ...))
  self.current = before
  if coroutine.status(task.co) ~= "dead" then return end
  if not results[1] and not task.handle then self.errors[#self.errors + 1] = results[2] end
  self:finish(task, unpack(results, 1, results.n))
end

--- `how`: owner, background, handle; what is not given is inherited, unless `alone`.
function Fake:spawn_as(how, fn, ...)
  local parent = not how.alone and self.current or {}
  local background = how.background
  if background == nil then background = parent.background end
  local task = {
    co = coroutine.create(fn), ticket = 0, handle = how.handle, fake = self,
    owner = how.owner or parent.owner, background = background or false,
  }
  if task.owner and (task.owner.is_cut or task.background and task.owner.ended) then
    return nil, "spawn: stopped", "STOPPED"
  end
  if how.number then self.numbered[how.number] = task end
  count(task, 1)
  self:resume(task, ...)
  return true
end

function Fake:spawn(owner, fn, ...)
  return self:spawn_as({ owner = owner, background = owner and false }, fn, ...)
end

--- Runs a task that inherits nothing.
function Fake:apart(fn, ...) return self:spawn_as({ alone = true }, fn, ...) end

function Fake:park()
  local task = assert(self.current, "must be called from a task")
  task.ticket = task.ticket + 1
  return task, task.ticket
end

function Fake:wake(task, ticket, ...)
  if task.done or task.ticket ~= ticket or coroutine.status(task.co) ~= "suspended" then return end
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
    self:spawn_as({ alone = true }, first.fn)
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
  for watcher in pairs(self.watchers) do self:apart(watcher.fn, name) end
end

--- What a signal does: late functions run when the others have had a moment to end.
function Fake:signal()
  local late = {}
  for fn, is_late in pairs(self.stops) do
    if is_late then late[#late + 1] = fn else self:spawn(nil, fn) end
  end
  self:spawn(nil, function()
    self.modules["znl.core.sched"].sleep(1)
    for _, fn in ipairs(late) do self:spawn(nil, fn) end
  end)
end

--- Lines written to the log whose message contains `text`; with `level`, of that level.
function Fake:logged(text, level)
  local found = {}
  for _, line in ipairs(self.lines) do
    if line.message:find(text, 1, true) and (level == nil or line.level == level) then found[#found + 1] = line end
  end
  return found
end

local function modules(fake)
  local sched = {}
  function sched.spawn(fn, ...) return fake:spawn(nil, fn, ...) end
  function sched.spawn_owned(owner, fn, ...) return fake:spawn(owner, fn, ...) end
  function sched.spawn_background(owner, fn, ...)
    return fake:spawn_as({ owner = owner, background = true }, fn, ...)
  end
  function sched.start(handle, owner, fn, ...)
    local number = #fake.numbered + 1
    fake.numbered[number] = false
    local how = {
      handle = handle, owner = owner, background = owner and true, alone = owner ~= nil, number = number,
    }
    local ok, message, code = fake:spawn_as(how, fn, ...)
    if not ok then return nil, message, code end
    return number, 0
  end
  --- What the task waits for ends; later waits do not.
  function sched.cancel(number)
    local task = fake.numbered[number]
    if not task or task.done then return false end
    local ticket = task.ticket
    fake:later(0, function() fake:wake(task, ticket, nil, "cancelled", "CANCELLED") end)
    return true
  end
  function sched.is_task() return fake.current ~= nil end
  function sched.current_owner() return fake.current and fake.current.owner end
  function sched.become(owner)
    local task = assert(fake.current, "must be called from a task")
    if owner and (owner.is_cut or task.background and owner.ended) then
      return nil, "become: stopped", "STOPPED"
    end
    count(task, -1)
    task.owner = owner
    count(task, 1)
    return true
  end
  function sched.park(entry, timeout_ms, name)
    entry[1], entry[2] = fake:park()
    local task, ticket = entry[1], entry[2]
    if timeout_ms then
      fake:later(timeout_ms, function()
        fake:wake(task, ticket, nil, (name or "wait") .. ": no answer in time", "TIMEOUT")
      end)
    end
    return coroutine.yield()
  end
  function sched.unpark(entry)
    local task, ticket = entry[1], entry[2]
    if task.done or task.ticket ~= ticket then return false end
    task.ticket = ticket + 1
    fake:later(0, function() fake:wake(task, ticket + 1, true) end)
    return true
  end
  function sched.owner()
    return setmetatable({
      count = 0, background_count = 0, tasks = {}, ended = false, fake = fake,
    }, Owner)
  end
  function sched.event() return setmetatable({ waiting = {}, fake = fake }, Event) end
  function sched.now_ms() return fake.now end
  function sched.unix_ms() return fake.now end
  function sched.sleep(ms)
    local task, ticket = fake:park()
    fake:later(ms, function() fake:wake(task, ticket, true) end)
    return coroutine.yield()
  end

  local timer = {}
  function timer.start(fn, arg, delay_ms, period_ms, owner)
    fake.last_timer = fake.last_timer + 1
    local id = fake.last_timer
    fake.timers[id] = fake.now + delay_ms
    local function fire()
      if not fake.timers[id] then return end
      fake.timers[id] = period_ms and fake.now + period_ms
      if period_ms then fake:later(period_ms, fire) end
      fake:spawn_as({ owner = owner, background = true, alone = true }, fn, arg)
    end
    fake:later(delay_ms, fire)
    return id
  end
  function timer.stop(id)
    local was = fake.timers[id] ~= nil
    fake.timers[id] = nil
    return was
  end
  function timer.due_ms(id) return fake.timers[id] end

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
  function runtime.on_hangup(fn) fake.hangup = fn end
  function runtime.drain_ms() return 5000 end
  function runtime.on_stop(fn, is_late)
    fake.stops[fn] = is_late or false
    return function() fake.stops[fn] = nil end
  end
  function runtime.exit() end
  function runtime.loaded() end

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
    function native.drain() return 0 end
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
    ["znl.core.sched"] = sched, ["znl.core.timer"] = timer, ["znl.core.log"] = log, ["znl.core.watch"] = watch,
    ["znl.core.runtime"] = runtime, ["znl.core.node"] = node,
  }
end

---@return FakeCore
function M.new()
  local fake = setmetatable({
    now = 1000, due = {}, serial = 0, errors = {}, lines = {}, watchers = {}, stops = {}, nodes = {},
    timers = {}, last_timer = 0, numbered = {},
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
