--- znl.events: who wants to hear of what.
---
--- Listeners of an event run one after the other, in the order they were added, in the coroutine
--- of `emit`; they may yield. One that raises is logged with file and line and the next one runs.
--- A listener removed while an event is under way is not called any more; one added then waits
--- for the next event. A listener that a version of a handler file adds is called from when that
--- version goes into service until it is replaced, in a background task of it.
--- SPDX-License-Identifier: MIT

local scope = require("znl.versions.scope")
local where = require("znl.where")

local M = {}

---@class znl.Emitter
---@field private lists table<string, table[]>
---@field private known table<string, boolean>
---@field private staged table<table, boolean>  listeners of versions that are not in service yet
local Emitter = {}
Emitter.__index = Emitter

---@class znl.EmitterOptions
---@field names string[]  every event there is; another name is misuse
---@field what string  begins an error: "master-1"
---@field on_error fun(message: string, event: string)  a listener raised; message has file and line
---@field on_interest? fun(event: string, wanted: boolean)  first listener added, last one removed

---@param opts znl.EmitterOptions
---@return znl.Emitter
function M.new(opts)
  local known = {}
  for _, name in ipairs(opts.names) do known[name] = true end
  return setmetatable({
    known = known, names = opts.names, what = opts.what,
    on_error = opts.on_error, on_interest = opts.on_interest, lists = {},
    staged = setmetatable({}, { __mode = "k" }),
  }, Emitter)
end

local function check(self, event, fn, level)
  if not self.known[event] then
    error(("%s: there is no event %s (events: %s)"):format(
      self.what, type(event) == "string" and ("%q"):format(event) or tostring(event),
      table.concat(self.names, ", ")), level + 1)
  end
  if type(fn) ~= "function" then
    error(("%s: the listener of %q must be a function, not a %s"):format(
      self.what, event, type(fn)), level + 1)
  end
end

--- Lists are replaced, never changed: an `emit` under way keeps the one it began with.
local function replace(self, event, list)
  local before = self.lists[event]
  self.lists[event] = #list > 0 and list or nil
  if self.on_interest and (before == nil) ~= (#list == 0) then
    self.on_interest(event, #list > 0)
  end
end

local function remove(self, event, entry)
  local kept = {}
  for _, other in ipairs(self.lists[event] or {}) do
    if other ~= entry then kept[#kept + 1] = other end
  end
  replace(self, event, kept)
end

local function add(self, event, entry)
  local list = {}
  for index, other in ipairs(self.lists[event] or {}) do list[index] = other end
  list[#list + 1] = entry
  replace(self, event, list)
end

--- A listener is a registration of znl.scope.
local Listener = {}
Listener.__index = Listener
function Listener:start() add(self.emitter, self.event, self) end
function Listener:undo() remove(self.emitter, self.event, self) end

local function listen(self, event, fn, once)
  local entry = setmetatable({ emitter = self, event = event, fn = fn, once = once, removed = false }, Listener)
  if scope.add(entry) and not entry.started then self.staged[entry] = true end
  return function() scope.remove(entry) end
end

--- Calls `fn` at every `event`.
---@param event string
---@param fn fun(...)
---@param level? integer  whom to blame for misuse; 2 is the caller
---@return fun() off  stops it; calling it again does nothing
function Emitter:on(event, fn, level)
  check(self, event, fn, level or 2)
  return listen(self, event, fn, false)
end

--- Calls `fn` at the next `event` only.
---@param event string
---@param fn fun(...)
---@param level? integer
---@return fun() off
function Emitter:once(event, fn, level)
  check(self, event, fn, level or 2)
  return listen(self, event, fn, true)
end

--- Removes `fn` from `event`, however often it was added.
---@param event string
---@param fn fun(...)
---@param level? integer
function Emitter:off(event, fn, level)
  check(self, event, fn, level or 2)
  for _, entry in ipairs(self.lists[event] or {}) do
    if entry.fn == fn then scope.remove(entry) end
  end
  for entry in pairs(self.staged) do
    if entry.fn == fn and entry.event == event then scope.remove(entry) end
  end
end

---@param event string
---@return boolean
function Emitter:wanted(event)
  return self.lists[event] ~= nil
end

local function call(entry, ...)
  if entry.home then return entry.home:run(entry.fn, ...) end
  return xpcall(entry.fn, where.locate, ...)
end

--- Calls the listeners of `event`. Never raises. Yields when a listener does.
---@param event string
---@param ... any
function Emitter:emit(event, ...)
  local list = self.lists[event]
  if list == nil then return end
  for index = 1, #list do
    local entry = list[index]
    if not entry.removed then
      if entry.once then scope.remove(entry) end
      local ok, message = call(entry, ...)
      if not ok then self.on_error(message, event) end
    end
  end
end

return M
