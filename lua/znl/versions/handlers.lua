--- znl.versions.handlers: the code that answers requests, loaded from a file or from a folder of files, and
--- replaced while it runs.
---
--- A folder serves each `*.msg.lua` below it at the route its name stands for. Files are watched, and
--- looked at when they have been left alone for a moment; what differs is loaded beside what is in
--- service and takes its place when all of it works (znl.reload; the states of one version are in
--- znl.version). Looks run one after the other. Where requests come from is not known here: whoever
--- serves them attaches with a function that is given what to call with each request, and the owner
--- its task runs for.
--- SPDX-License-Identifier: MIT

local estate = require("znl.versions.estate")
local events = require("znl.events")
local folders = require("znl.versions.folders")
local hangup = require("znl.versions.hangup")
local log = require("znl.log")
local options = require("znl.options")
local reload = require("znl.versions.reload")
local router = require("znl.routing.router")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local source = require("znl.versions.source")
local task = require("znl.tasks.task")
local tree = require("znl.versions.tree")
local where = require("znl.where")
local worker_pool = require("znl.workers.pool")

local M = {}

--- Files under steady change are read after this long at the latest.
local SETTLE_MAX_MS = 1000
--- After a look that changed something there is another: the system drops notices when too many
--- files change at once.
local SECOND_LOOK_MS = 500

---@class znl.HandlersOptions
---@field debounce_ms? integer  quiet time after a change before files are read, milliseconds
---@field load_timeout_ms? integer  how long a file may take, and after it its `on_load`
---@field drain_ms? integer  how long requests of a replaced version may go on; then they are ended
---@field max_concurrency? integer  requests of one handler at work; nil: no limit of its own
---@field max_queue? integer  requests of one handler that wait for their turn
---@field suffix? string  of a folder: handler files end in ".<suffix>.lua"
---@field prefix? string  of a folder: put before every route
---@field strict? boolean  of a folder: opening it fails when one file does not load
---@field workers? integer  threads that run the handlers; 0: they run on the loop
local SPEC = {
  debounce_ms = { type = "integer", min = 0, max = 60000, default = 20 },
  load_timeout_ms = { type = "integer", min = 1, max = 600000, default = 10000 },
  drain_ms = { type = "integer", min = 1, max = 86400000, default = 60000 },
  max_concurrency = { type = "integer", min = 1, max = 1000000 },
  max_queue = { type = "integer", min = 0, max = 1000000, default = 1000 },
  suffix = {
    type = "string", min = 1, max = 64, pattern = "^[%w_-]+$", default = "msg",
    allowed = "a word such as msg",
  },
  prefix = {
    type = "string", min = 1, max = 256, pattern = "^/[^:*?()%[%]]*$", allowed = "a path such as /admin",
  },
  strict = { type = "boolean", default = false },
  workers = { type = "integer", min = 0, max = 256, default = 0 },
}

--- What the workers have, after the requests of the last version, for its `on_unload`.
local STOP_MS = 10000

local EVENTS = { "added", "cut", "reload", "reload_failed", "removed", "retired" }

---@class znl.Request
---@field payload string|string[]  one frame is a string, several are an array
---@field from string  the id of the sender; on a slave in plain mode ""
---@field id string  the request id, while the handler runs
---@field service? string  of a service request, while the handler runs
---@field route? string  of a call: "/users/7?all=1"
---@field params? table<string, string>  what a router took from the route
---@field data? any  of a call with JSON: the value
---@field user? any  what `znl.middleware.auth` found
---@field deadline_ms fun(self): number|nil  when the caller stops waiting, as `znl.now_ms()`; nil: nobody said
---@field remaining_ms fun(self): number|nil  milliseconds until then, at least 0
---@field cancelled fun(self): boolean  nobody waits for the answer any more

---@alias znl.Payload string|string[]|nil

--- Returns the payload of the answer, of a call with JSON any value that JSON can carry; or nil,
--- message, code: it refuses.
---@alias znl.Handler fun(req: znl.Request, state: any): any, string?, string?

--- What a handler file returns, unless it is just the function `handle`.
---@class znl.HandlerTable
---@field handle znl.Handler  runs in a coroutine of its own; may yield
---@field on_load? fun(previous_state: any): any  returns the state of this version; may yield
---@field on_unload? fun(state: any)  after the last request of this version; may yield
---@field max_concurrency? integer  requests at work at once; the others wait in line
---@field max_queue? integer  requests that wait; more are refused with code "OVERLOADED"

---@class znl.Handlers
---@field path string
---@field generation integer  versions put into service so far
local Handlers = {}
Handlers.__index = Handlers

--- Tells listeners what happened. They may yield, and may ask for a reload.
local function tell(self)
  for _, item in ipairs(self.core:take_news()) do self.emitter:emit(unpack(item)) end
end

local look_again

--- Watches the folders that matter by now.
local function watch(self)
  local wanted, own = self.core:watched()
  local opened, failed = self.folders:want(wanted, own)
  for folder, message in pairs(failed) do
    if wanted[folder] == true and not self.unwatched[folder] then
      self.unwatched[folder] = true
      self.log.warn("a folder is not watched, edits need reload()", { folder = folder, error = message })
    end
  end
  if opened > 0 then look_again(self, 0) end
end

--- One at a time: a look during a look waits, then reads what is there by then.
---@return string|nil message
---@return znl.Unit|nil held
local function look(self, forced)
  while self.looking do self.looking:wait() end
  if self.closed then return self.path .. ": the handlers are closed" end
  local turn, before = sched.event(), self.generation
  self.looking = turn
  local ok, message, held = xpcall(self.core.look, where.locate, self.core, forced)
  self.looking = nil
  turn:set()
  if not ok then self.log.error("looking for changes failed", { path = self.path, error = message }) end
  if not self.closed then watch(self) end
  if self.generation ~= before and before > 0 then look_again(self, SECOND_LOOK_MS) end
  tell(self)
  return message, held
end

--- Waits until the files are left alone for a moment, then looks at them.
local function settle(self)
  local latest = sched.now_ms() + SETTLE_MAX_MS
  local due = self.changed_ms + self.opts.debounce_ms
  local now = sched.now_ms()
  while now < due and now < latest and not self.closed do
    self.closing:wait(math.min(due, latest) - now)
    now = sched.now_ms()
    due = self.changed_ms + self.opts.debounce_ms
  end
  self.settling = false -- a change from here on counts as a new one
  if not self.closed then look(self, {}) end
end

local function on_change(self)
  if self.closed then return end
  self.changed_ms = sched.now_ms()
  if self.settling then return end
  self.settling = true
  task.background(self.owner, settle, self)
end

--- Looks once more in `ms`, and reports what happened meanwhile.
function look_again(self, ms)
  if self.again[ms] then return end
  self.again[ms] = true
  task.background(self.owner, function()
    self.closing:wait(ms)
    self.again[ms] = nil
    if self.closed then tell(self) else on_change(self) end
  end)
end

local function reload_now(self, forced, asking)
  local first_message
  while true do
    local message, held = look(self, forced)
    if self.closed then return nil, self.path .. ": the handlers are closed", "CLOSED" end
    first_message = first_message or message
    if not held then break end
    if asking ~= nil and asking == held.draining.owner then
      return nil, held.path .. ": a request of a version that is being replaced cannot wait for its own end", "BUSY"
    end
    held:wait_drained()
  end
  if first_message then return nil, first_message, "RELOAD_FAILED" end
  local left = next(forced)
  if left then return nil, ("%s: No such file or directory"):format(left), "NOT_FOUND" end
  return true
end

--- Reads the files again and puts them into service, changed or not: all of them, or the one named, a
--- handler or a module. Waits while a handler still has two versions at work. Yields.
---@param path? string  as in `routes()`, or below the folder
---@return true|nil ok  nil: what is in service stays
---@return string? message  with file and line
---@return "RELOAD_FAILED"|"NOT_FOUND"|"CLOSED"|"BUSY"? code
function Handlers:reload(path)
  if path ~= nil and type(path) ~= "string" then
    error("znl.handlers: reload: path must be a text, not a " .. type(path), 2)
  end
  if self.closed then return nil, self.path .. ": the handlers are closed", "CLOSED" end
  local core, forced = self.core, {}
  if path then
    local found = core:find(path)
    if not found then return nil, ("%s: %s is no handler or module of it"):format(self.path, path), "NOT_FOUND" end
    forced[found] = true
  else
    for known in pairs(core.units) do forced[known] = true end
  end
  -- In a task of its own: the request that asks may have a deadline, a reload has none.
  local run, problem = task.background(self.owner, reload_now, self, forced, sched.current_owner())
  if not run then return nil, problem, "RELOAD_FAILED" end
  local ok, message, code = run:wait()
  return ok, message, code
end

--- Hears of events:
---   "reload"         generation, path: a version is in service
---   "reload_failed"  message with file and line, path: what was in service stays
---   "added"          path, route: a new file of a folder is in service
---   "removed"        path, route: a file is gone and so is its route
---   "retired"        generation, path: the last request of a replaced version ended
---   "cut"            generation, path, requests: they did not end within `drain_ms`
---@param event "reload"|"reload_failed"|"added"|"removed"|"retired"|"cut"
---@param fn fun(...)
---@return fun() off
function Handlers:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

local function give(self, apply, ...)
  local ok, message = xpcall(apply, where.locate, ...)
  if not ok then self.log.error("a node refused the handler", { path = self.path, error = message }) end
end

--- What requests are to call now. A single file without a limit is called directly, in a task that is
--- counted for its version; everything else finds its version by itself.
---@return fun(req: znl.Request): ... call
---@return any owner
---@return znl.Origin origin
local function entry(self)
  if self.router then return self.dispatch, nil, self.origin end
  local of = self.core.units[self.path]
  if of.limit or not of.current then return of.answer, nil, of:origin() end
  return of.current.call, of.current.owner, of:origin()
end

--- No yield between the swap and the last node: every request finds the same version.
local function swapped(self)
  self.generation = self.core.generation
  if self.router then return end
  for apply in pairs(self.attached) do give(self, apply, entry(self)) end
end

--- Gives `apply` what to call with a request, the owner its task must run for (nil: none), and where
--- the handler was written, for messages, now and whenever that changes; nothing when the handlers close.
---@param apply fun(call: (fun(req: znl.Request): ...)|nil, owner: any, origin: znl.Origin)
---@return fun() detach
function Handlers:attach(apply)
  if self.closed then error(self.path .. ": the handlers are closed", 2) end
  -- A wrapper: the same function may attach twice.
  local function attached(...) apply(...) end
  self.attached[attached] = true
  attached(entry(self))
  return function() self.attached[attached] = nil end
end

--- Whether it can serve channels of znl.hub: what is in service has hooks, and runs here.
---@return boolean
---@return string? problem
function Handlers:serves_channels()
  if self.pool then return false, self.path .. ": channels are served on the loop: workers must be 0" end
  for _, of in pairs(self.core.units) do
    if of.current and not of.current.code.parts.is_channel then
      return false, of.path .. ": it answers requests; a channel is a table with on_connect, on_message, on_disconnect"
    end
  end
  return true
end

---@class znl.HandlerRoute
---@field path string  "/users/:id"; "/" for a single file
---@field file string
---@field where string  the same
---@field generation? integer  of the version in service
---@field error? string  why the file is not in service as it is

--- The handlers, by route.
---@return znl.HandlerRoute[]
function Handlers:routes()
  local list = {}
  for _, of in pairs(self.core.units) do
    list[#list + 1] = {
      path = of.route or (self.router and of.relative or "/"), file = of.path, where = of.path,
      generation = of.current and of.current.generation, error = of.failed,
    }
  end
  table.sort(list, function(a, b) return a.path < b.path or (a.path == b.path and a.file < b.file) end)
  return list
end

--- How often what happened, and what is there now.
---@return table<string, integer>
function Handlers:counters()
  local core = self.core
  local counters = {
    handlers = 0, broken = 0, draining = 0, modules = 0, running = 0, waiting = 0, folders = self.folders:count(),
  }
  for name, value in pairs(core.counts) do counters[name] = value end
  for _, of in pairs(core.units) do
    counters.handlers = counters.handlers + 1
    if of.failed then counters.broken = counters.broken + 1 end
    if of.draining then counters.draining = counters.draining + 1 end
    if of.limit then
      counters.running = counters.running + of.limit.running
      counters.waiting = counters.waiting + of.limit.waiting
    end
    counters.overloaded = counters.overloaded + of.refused
  end
  for _ in pairs(core.modules.live) do counters.modules = counters.modules + 1 end
  if self.pool then
    for name, value in pairs(self.pool:counters()) do counters["workers_" .. name] = value end
  end
  return counters
end

--- Stops watching, takes the handlers from their nodes and lets them retire. Closing twice is harmless.
function Handlers:close()
  if self.closed then return end
  self.closed = true
  self.closing:set(true)
  self.folders:close()
  self.forget_stop()
  self.forget_hangup()
  for apply in pairs(self.attached) do give(self, apply, nil) end
  self.attached = {}
  self.core:close()
  if self.pool then task.background(self.owner, self.pool.stop, self.pool, self.opts.drain_ms + STOP_MS) end
end

---@param value any
---@return boolean
function M.is(value)
  return getmetatable(value) == Handlers
end

local function why_not_open(self)
  local list = self:routes()
  if #list == 0 then
    return ("%s: no handler files (*.%s.lua) in this folder"):format(self.path, self.opts.suffix)
  end
  local broken, first = 0, nil
  for _, route in ipairs(list) do
    if not route.generation then
      broken = broken + 1
      first = first or route.error
    end
  end
  if broken == 0 or (broken < #list and not self.opts.strict) then return nil end
  if not self.router then return first end
  return ("%s: %d of %d handler files did not load; the first: %s"):format(self.path, broken, #list, tostring(first))
end

local function close(self) self:close() end

--- Loads and watches; nil, message when there is nothing to serve.
local function build(path, opts)
  local is_folder = tree.is_folder(path)
  local self = setmetatable({
    path = path, opts = opts, generation = 0, attached = {}, closed = false, again = {}, unwatched = {},
    log = log.new("handlers"), owner = sched.owner(), closing = sched.event(),
    router = is_folder and router.new() or nil,
  }, Handlers)
  if is_folder then
    local routes = self.router
    self.dispatch = function(req) return routes:dispatch(req) end
    self.origin = function(route) return routes:origin(route) or path end
  end
  self.emitter = events.new {
    names = EVENTS,
    what = "handlers",
    on_error = function(message, event)
      self.log.error("listener failed", { path = path, event = event, error = message })
    end,
  }
  self.folders = folders.new(function() on_change(self) end)
  if opts.workers > 0 then
    local refusal
    self.pool, refusal = worker_pool.open {
      count = opts.workers, name = "handlers", root = is_folder and path or (source.split(path)),
    }
    if not self.pool then error("znl.handlers: " .. refusal, 2) end
  end
  self.core = reload.new {
    backend = self.pool and self.pool.backend,
    path = path, is_folder = is_folder, settings = opts, owner = self.owner, log = self.log, router = self.router,
    swapped = function() swapped(self) end,
    look_again = function(ms) look_again(self, ms) end,
    is_closed = function() return self.closed end,
  }
  if self.pool then self.pool:follow(self.core.modules) end
  -- Late: nodes finish their requests first.
  self.forget_stop = runtime.on_stop(function()
    self:close()
    if self.pool then self.pool:wait_stopped() end
  end, true)
  self.forget_hangup = hangup.register(function()
    self.log.info("told by SIGHUP to load the handlers again", { path = path })
    self:reload() -- what fails is logged there
  end)
  local trouble = look(self, {})
  local message = why_not_open(self) or (is_folder and self.generation == 0 and trouble) or nil
  if not message then return self end
  self:close()
  return nil, message
end

--- Loads handlers and serves them as their files change. `path` is a Lua file, or a folder whose
--- `*.msg.lua` files are served by route. Raises when there is nothing to serve: a file that does not
--- load, a folder of which nothing loads. Under `znlrun --watch` it gives back those that the version of
--- the script before opened with the same options. Yields.
---@param path string
---@param opts? znl.HandlersOptions
---@return znl.Handlers
function M.open(path, opts)
  if type(path) ~= "string" or path == "" then
    error("znl.handlers: path must be the name of a file or a folder", 2)
  end
  opts = options.read(SPEC, opts, "znl.handlers", 2)
  if #path > 1 and tree.is_folder(path) then path = path:gsub("/+$", "") end
  local self, message = estate.take("znl.handlers", path, opts, function() return build(path, opts) end, close)
  if not self then error("znl.handlers: " .. message, 2) end
  return self
end

return M
