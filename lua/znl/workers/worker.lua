--- znl.workers.worker: runs inside a worker thread: holds the versions of handler files and answers calls.
---
--- The main thread tells this one what to do, in order: `load`, `prepare`, `commit`, `halt`, `finish`,
--- `unload` for a version, as `znl.versions.code` has them, and `request`. A request names its version, so
--- whatever is loaded meanwhile, it runs in the one that was chosen for it.
--- SPDX-License-Identifier: MIT

local code = require("znl.versions.code")
local log = require("znl.log")
local modules = require("znl.versions.modules")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local source = require("znl.versions.source")
local token = require("znl.core.token")
local workers = require("znl.core.workers")

local M = {}

---@type table<integer, znl.Code>
local versions = {}
--- What is being staged, by the number the main thread gave it: { stage, count of its versions }.
local stages = {}
--- The modules of the handlers this thread works for.
local tree
--- Texts the first worker read for what is loaded at the moment: all workers load the same.
local texts
--- Tokens of requests that can be cancelled, by ticket.
local cancels = {}
local logger = log.new("worker")

local function read(path)
  local known = texts and texts[path]
  if known ~= nil then return known or nil end
  return (source.read(path))
end

local function names_of(users)
  local list = {}
  for name in pairs(users) do list[#list + 1] = name end
  return list
end

--- A version in service required another module: the main thread must watch it, too.
local function on_late(path)
  local module = tree.live[path]
  local of = { versions = {}, modules = {} }
  for id, version in pairs(versions) do
    if version:modules_used()[path] then of.versions[id] = true end
  end
  for other, instance in pairs(tree.live) do
    if instance.deps[path] then of.modules[other] = true end
  end
  local ok, message = workers.note("late", {
    path = path, name = module and module.name, text = module and module.text,
    deps = module and names_of(module.deps) or {},
    versions = names_of(of.versions), modules = names_of(of.modules),
  })
  if not ok then logger.warn("a module will not be watched", { file = path, error = message }) end
end

---@param req znl.Request
local Request = {}
Request.__index = Request

--- When the caller stops waiting, in monotonic milliseconds; nil: never.
---@return number|nil
function Request.deadline_ms(_)
  local current = token.current()
  return current and current:deadline_ms() or nil
end

---@return number|nil
function Request:remaining_ms()
  local deadline_ms = self:deadline_ms()
  return deadline_ms and math.max(0, deadline_ms - sched.now_ms()) or nil
end

--- Whether nobody waits for the answer any more.
---@return boolean
function Request.cancelled(_)
  local current = token.current()
  return current ~= nil and current:cancelled()
end

local function version_of(id)
  return versions[id] or error("znl.worker: that version is not here", 0)
end

local ops = {}

---@param settings { root: string, watchdog_ms: integer }
function ops.configure(_, settings)
  if runtime.watchdog_ms then
    local ok, message = runtime.watchdog_ms(settings.watchdog_ms)
    if not ok then logger.debug("the watchdog does not work here", { reason = message }) end
  end
  tree = modules.new {
    root = settings.root, read = read, event = sched.event, on_late = on_late,
    scope = function(path, previous) return scope.new { name = path, previous = previous } end,
  }
  return true
end

--- What the main thread must know of the modules a version uses.
local function report(version, stage, before)
  local fresh = {}
  for index = before + 1, #stage.order do
    local instance = stage.order[index]
    if instance.state == "ready" then
      fresh[#fresh + 1] = {
        path = instance.path, name = instance.name, text = instance.text, deps = names_of(instance.deps),
      }
    end
  end
  local parts = version.parts
  return {
    seen = stage.seen, fresh = fresh, deps = names_of(version:modules_used()),
    parts = {
      handle = ("%s:%d"):format(version.path, debug.getinfo(parts.handle, "S").linedefined),
      on_load = parts.on_load ~= nil, on_unload = parts.on_unload ~= nil,
      max_concurrency = parts.max_concurrency, max_queue = parts.max_queue,
    },
  }
end

---@param what { stage: integer, replaced: table<string, true>, path: string, text: string,
---  previous: integer|nil, texts: table<string, string|false>|nil }
function ops.load(_, id, what)
  local entry = stages[what.stage]
  if not entry then
    entry = { stage = tree:stage(what.replaced), count = 0 }
    stages[what.stage] = entry
  end
  local previous = what.previous and versions[what.previous]
  local version = code.new { path = what.path, text = what.text, stage = entry.stage, previous = previous }
  versions[id] = version
  version.entry, version.stage_id, entry.count = entry, what.stage, entry.count + 1
  local before = #entry.stage.order
  local mine = what.texts
  texts = mine
  local ok, message = version:load(previous)
  if texts == mine then texts = nil end -- else this one was given up, and the next is loading
  if not ok then return nil, message end
  return report(version, entry.stage, before)
end

function ops.prepare(_, id, previous)
  local before = previous and versions[previous]
  return version_of(id):prepare(before and before.state)
end

--- A version has left its stage, which ends with the last of them.
local function leave_stage(version)
  local entry = version.entry
  if not entry then return end
  version.entry = nil
  entry.count = entry.count - 1
  if entry.count > 0 then return end
  stages[version.stage_id] = nil
  if entry.is_committed then entry.stage:swap() else entry.stage:abandon() end
end

local function check_started(version, ok, message)
  if ok then return end
  logger.error("what a handler file registered could not be started in a worker",
    { file = version.path, error = message })
end

function ops.commit(_, id)
  local version = version_of(id)
  local entry = version.entry
  if not entry.is_committed then
    entry.is_committed = true
    check_started(version, entry.stage:commit())
  end
  check_started(version, version:commit())
  version.was_live = true
  -- Tracebacks may show the file's lines, unless it has changed since, and this worker is a late one.
  if source.read(version.path) == version.text then runtime.loaded(version.path) end
  leave_stage(version)
end

function ops.halt(_, id) version_of(id):halt() end

function ops.finish(_, id)
  local version = version_of(id)
  -- Requests still here were cut in the main thread: nobody waits for them.
  if version.owner:active() > 0 then version.owner:cut(version.path .. ": replaced, and not done in time") end
  version:finish()
end

function ops.unload(_, id)
  local version = version_of(id)
  versions[id] = nil
  local ok, message, is_due = true, nil, true
  if not version.was_live then
    -- Dropped before it served: perhaps because its `on_load` failed here; and a state that the
    -- version in service has, too, is not its to end.
    is_due = version.is_prepared
    for _, other in pairs(versions) do
      if version.state ~= nil and other.state == version.state then is_due = false end
    end
  end
  if is_due then ok, message = version:unload() end
  version:release()
  return ok, message
end

function ops.release(_, id)
  local version = versions[id]
  versions[id] = nil
  if version then version:release() end
end

--- Nothing when it was not loaded here, because it failed elsewhere.
function ops.abandon(_, id)
  local version = versions[id]
  if not version then return end
  version:abandon()
  leave_stage(version)
end

--- Lets go of versions that ended while this worker was told of them.
---@param live table<integer, true>
function ops.keep(_, live)
  for id, version in pairs(versions) do
    if not live[id] then
      versions[id] = nil
      if version.entry then
        version:abandon()
        leave_stage(version)
      else
        version:finish()
      end
      version:release()
    end
  end
end

local function finish(ticket, ...)
  cancels[ticket] = nil
  return ...
end

function ops.request(ticket, id, deadline_ms, is_cancellable, payload, from, request_id, service, route, params, data)
  local version = versions[id]
  if not version then return nil, "znl.worker: that version is not here", "NOT_FOUND" end
  sched.become(version.owner)
  local req = setmetatable({
    payload = payload, from = from, id = request_id, service = service, route = route,
    params = params, data = data,
  }, Request)
  if not is_cancellable then return version.call(req) end
  local mine, message, failure = token.new(nil, deadline_ms and math.max(0, deadline_ms - sched.now_ms()))
  if not mine then return nil, message, failure end
  token.enter(mine, false)
  cancels[ticket] = mine
  return finish(ticket, version.call(req))
end

workers.serve(
  function(ticket, op, ...) return ops[op](ticket, ...) end,
  function(ticket)
    local mine = cancels[ticket]
    if mine then mine:cancel("the caller does not wait any more") end
  end)

return M
