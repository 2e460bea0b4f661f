--- znl.handlers: the code that answers requests, loaded from a file and replaced while it runs.
---
---   staged    compiled in its own environment, `on_load` under way; nobody sees it yet
---   serving   new requests go to it; at most one version does
---   retiring  replaced; the requests it began with still run
---   retired   the last of them ended and `on_unload` was called, once
---
--- A version that fails while staged changes nothing: the old one goes on serving. Reloads run one
--- after the other. Where requests come from is not known here: whoever serves them attaches with a
--- function that is given each version in turn, and counts its requests with the owner of the version.
--- SPDX-License-Identifier: MIT

local events = require("znl.events")
local log = require("znl.log")
local options = require("znl.options")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local source = require("znl.source")
local watch = require("znl.core.watch")
local where = require("znl.where")

local M = {}

--- A file under steady change is read after this long at the latest.
local SETTLE_MAX_MS = 1000

---@class znl.HandlersOptions
---@field debounce_ms? integer  quiet time after a change before the file is read, milliseconds
---@field load_timeout_ms? integer  how long the file and its `on_load` may take, milliseconds
local SPEC = {
  debounce_ms = { type = "integer", min = 0, max = 60000, default = 50 },
  load_timeout_ms = { type = "integer", min = 1, max = 600000, default = 10000 },
}

---@class znl.Request
---@field payload string|string[]  one frame is a string, several are an array
---@field from string  the id of the sender
---@field id string  the request id, while the handler runs
---@field service? string  of a service request

---@alias znl.Payload string|string[]|nil
---@alias znl.Handler fun(req: znl.Request, state: any): znl.Payload

--- What a handler file returns, unless it is just the function `handle`.
---@class znl.HandlerTable
---@field handle znl.Handler  runs in a coroutine of its own; may yield
---@field on_load? fun(previous_state: any): any  returns the state of this version; may yield
---@field on_unload? fun(state: any)  after the last request of this version; may yield

---@class znl.Handlers
---@field path string
---@field generation integer  versions put into service so far
local Handlers = {}
Handlers.__index = Handlers

local function log_fields(self, more)
  more = more or {}
  more.file = self.path
  more.generation = self.generation
  return more
end

--- Runs in the loader's task: compiles, checks, loads.
local function stage(self, text, previous)
  local parts, message = source.compile(self.path, text)
  if not parts then return nil, message end
  local version = { text = text, on_unload = parts.on_unload, owner = sched.owner() }
  local handle = parts.handle
  if parts.on_load then
    local ok, state = xpcall(parts.on_load, where.locate, previous)
    if not ok then return nil, state end
    version.state = state
  end
  version.call = function(req) return handle(req, version.state) end
  return version
end

local function unload(self, version)
  if version.unloaded then return end
  version.unloaded = true
  if not version.on_unload then return end
  -- A task of its own: `on_unload` may wait, and must not count as a request of any version.
  sched.spawn_owned(self.owner, function()
    local ok, message = xpcall(version.on_unload, where.locate, version.state)
    if not ok then self.log.error("on_unload failed", log_fields(self, { error = message })) end
  end)
end

local function retire(self, version)
  version.owner:on_idle(function() unload(self, version) end)
end

--- Stages in a task of its own, so that a file that never ends cannot hold up its caller. It runs
--- for the loader, not for a version: what `on_load` starts in the background is no request.
local function stage_in_time(self, text, previous)
  local done = sched.event()
  local abandoned = false
  sched.spawn_owned(self.owner, function()
    local version, message = stage(self, text, previous)
    if abandoned and version then unload(self, version) end
    done:set(version or false, message)
  end)
  local version, message = done:wait(self.opts.load_timeout_ms)
  if version == nil then
    abandoned = true
    message = ("%s: still loading after %d ms"):format(self.path, self.opts.load_timeout_ms)
  end
  return version or nil, message
end

local function give(self, apply, version)
  local ok, message = xpcall(apply, where.locate, version and version.call, version and version.owner)
  if not ok then self.log.error("a node refused the handler", log_fields(self, { error = message })) end
end

local function swap(self, version)
  local old = self.current
  self.current = version
  self.generation = self.generation + 1
  -- No yield between here and the last node: every request finds the same version.
  for apply in pairs(self.attached) do give(self, apply, version) end
  if old then retire(self, old) end
end

--- Reads the file and puts it into service if it differs, or in any case with `force`.
local function load_once(self, force)
  if self.closed then return nil, self.path .. ": the handlers are closed", "CLOSED" end
  local text, message = source.read(self.path)
  local current = self.current
  if not text then
    -- Editors delete and write anew; a file that stays away keeps its last version in service.
    if not self.missing and current then
      self.log.warn("handler file is gone, its last version keeps serving", log_fields(self))
    end
    self.missing, self.tried = true, nil
    return nil, message, "NOT_FOUND"
  end
  self.missing = false
  if not force and (text == self.tried or (current and text == current.text)) then
    if self.failed and text ~= self.tried then
      self.log.info("handler file is back to the version in service", log_fields(self))
    end
    self.tried = text
    return true
  end
  self.tried = text
  local version
  version, message = stage_in_time(self, text, current and current.state)
  if self.closed then
    if version then unload(self, version) end
    return nil, self.path .. ": the handlers are closed", "CLOSED"
  end
  self.failed = version == nil
  if not version then
    if current then -- else `open` raises it
      self.log.error("reload failed", log_fields(self, { error = message }))
      self.emitter:emit("reload_failed", message)
    end
    return nil, message, "RELOAD_FAILED"
  end
  swap(self, version)
  if self.generation > 1 then self.log.info("handlers reloaded", log_fields(self)) end
  self.emitter:emit("reload", self.generation)
  return true
end

--- One at a time: a reload during a reload waits, then reads what is there by then.
local function load_in_turn(self, force)
  while self.loading do self.loading:wait() end
  local turn = sched.event()
  self.loading = turn
  local ok, result, message, code = xpcall(load_once, where.locate, self, force)
  self.loading = nil
  turn:set()
  if not ok then return nil, result, "RELOAD_FAILED" end
  return result, message, code
end

--- Waits until the file is left alone for a moment, then looks at it.
local function settle(self)
  local latest = sched.now_ms() + SETTLE_MAX_MS
  local due = self.changed_ms + self.opts.debounce_ms
  local now = sched.now_ms()
  while now < due and now < latest do
    sched.sleep(math.min(due, latest) - now)
    now = sched.now_ms()
    due = self.changed_ms + self.opts.debounce_ms
  end
  self.settling = false -- a change from here on counts as a new one
  if not self.closed then load_in_turn(self, false) end
end

local function on_change(self, name)
  if self.closed or (name ~= nil and name ~= self.name) then return end
  self.changed_ms = sched.now_ms()
  if self.settling then return end
  self.settling = true
  sched.spawn_owned(self.owner, settle, self)
end

--- Reads the file again and puts it into service, changed or not. Yields.
---@return true|nil ok  nil: the version in service stays
---@return string? message  with file and line
---@return "RELOAD_FAILED"|"NOT_FOUND"|"CLOSED"? code
function Handlers:reload()
  return load_in_turn(self, true)
end

--- Hears of events: `reload(generation)`, and `reload_failed(message)` with file and line.
---@param event "reload"|"reload_failed"
---@param fn fun(...)
---@return fun() off
function Handlers:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

--- Gives `apply` the version in service now and each later one, as a function to call with a
--- request and the owner its tasks must run for; nothing when the handlers close.
---@param apply fun(call: fun(req: znl.Request)|nil, owner: any)
---@return fun() detach
function Handlers:attach(apply)
  if self.closed then error(self.path .. ": the handlers are closed", 2) end
  -- A wrapper: the same function may attach twice.
  local function entry(call, owner) apply(call, owner) end
  self.attached[entry] = true
  entry(self.current.call, self.current.owner)
  return function() self.attached[entry] = nil end
end

--- Stops watching, takes the handler from its nodes and lets it retire. Closing twice is harmless.
function Handlers:close()
  if self.closed then return end
  self.closed = true
  if self.watcher then self.watcher:close() end
  self.forget_stop()
  for apply in pairs(self.attached) do give(self, apply, nil) end
  self.attached = {}
  if self.current then retire(self, self.current) end
end

---@param value any
---@return boolean
function M.is(value)
  return getmetatable(value) == Handlers
end

--- Loads a handler file and keeps it loaded as it changes. Raises when its first version fails:
--- there is nothing to serve then. Yields.
---@param path string
---@param opts? znl.HandlersOptions
---@return znl.Handlers
function M.open(path, opts)
  if type(path) ~= "string" or path == "" then
    error("znl.handlers: path must be the name of a file", 2)
  end
  opts = options.read(SPEC, opts, "znl.handlers", 2)
  local directory, name = source.split(path)
  local self = setmetatable({
    path = path, name = name, opts = opts, generation = 0, attached = {}, closed = false,
    log = log.new("handlers"), owner = sched.owner(),
  }, Handlers)
  self.emitter = events.new {
    names = { "reload", "reload_failed" },
    what = "handlers",
    on_error = function(message, event)
      self.log.error("listener failed", log_fields(self, { event = event, error = message }))
    end,
  }
  self.forget_stop = runtime.on_stop(function()
    -- Nodes stop in tasks beside this one: let them end first, so that none goes without handler.
    sched.sleep(1)
    self:close()
  end)
  -- The directory, since a file that is renamed over loses its watch. Before the first read, so
  -- that no edit is missed.
  local watcher, message = watch.watch(directory, function(changed) on_change(self, changed) end)
  self.watcher = watcher
  if not watcher then
    self.log.warn("handlers are not watched, edits need reload()", log_fields(self, { error = message }))
  end
  local ok
  ok, message = load_in_turn(self, true)
  if not ok then
    self:close()
    error("znl.handlers: " .. message, 2)
  end
  return self
end

return M
