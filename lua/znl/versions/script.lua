--- znl.versions.script: `znlrun --watch`: runs a script again whenever it or a module of it changes.
---
---   staged    the new text runs; what it registers waits, nodes it declares again go on as they are
---   serving   its main chunk ended, or waited for `SETTLE_MS`, without an error
---   retiring  replaced; requests that its functions began with still run
---   ended     the last of them ended, or was cut after `DRAIN_MS`
---
--- A version that fails while staged changes nothing. The first version has nothing to fall back on: it
--- starts at once, and when it fails the script waits to be mended.
--- SPDX-License-Identifier: MIT

local estate = require("znl.versions.estate")
local events = require("znl.events")
local folders = require("znl.versions.folders")
local hangup = require("znl.versions.hangup")
local log = require("znl.log").new("script")
local modules = require("znl.versions.modules")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local snapshot = require("znl.versions.snapshot")
local source = require("znl.versions.source")
local uv = require("luv")
local where = require("znl.where")

local M = {}

--- The script that runs under `--watch`.
---@type znl.Script|nil
M.running = nil

local DEBOUNCE_MS = 20
local SETTLE_MS = 500
local DRAIN_MS = 60000

local EVENTS = { "cut", "reload", "reload_failed", "retired" }

--- What `znl.script` is under `znlrun --watch`.
---@class znl.Script
---@field path string
---@field generation integer  versions put into service so far
---@field private counts table<string, integer>
local Script = {}
Script.__index = Script

--- Hears of events, as of `znl.handlers`: "reload" (generation), "reload_failed" (message), "retired"
--- (generation), "cut" (generation, requests). They may yield.
---@param event "reload"|"reload_failed"|"retired"|"cut"
---@param fn fun(...)
---@return fun() off
function Script:on(event, fn)
  local off = self.emitter:on(event, fn, 3)
  return off
end

--- How often what happened, and what is there now.
---@return table<string, integer>
function Script:counters()
  local counters = { generation = self.generation }
  for name, value in pairs(self.counts) do counters[name] = value end
  return counters
end

--- Runs the script again, changed or not. Returns at once.
function Script:reload()
  self.is_forced = true
  self.changed:set(true)
end

--- --- one version ---------------------------------------------------------------------------------

--- Starts the main chunk. The event is set with true, or false and a message, when it ended.
local function start(self, version)
  local chunk, message = source.compile(self.path, version.text,
    source.environment(modules.require_for(version.user), version.scope.owner))
  local done = sched.event()
  if not chunk then
    done:set(false, message)
    return done
  end
  local ok
  ok, message = sched.spawn_background(version.scope.owner, function()
    local ended, problem = xpcall(chunk, where.locate, unpack(self.arguments))
    version.has_ended = true
    if version.is_settled and not ended then -- before that, who waits for `done` reports it
      log.error("the script failed; it is run again when it changes", { file = self.path, error = problem })
    end
    done:set(ended, problem)
  end)
  if not ok then done:set(false, message) end
  return done
end

--- `stage` is nil for a version that has none before it: what it requires is in use at once.
local function new_version(self, text, stage)
  local before = self.current
  local its_scope, message = scope.new { name = self.path, previous = before and before.scope }
  if not its_scope then return nil, message end
  local version = {
    text = text, state = "staged", stage = stage, scope = its_scope,
    estate = estate.new(before and before.estate), user = self.modules:user(self.path, stage),
  }
  its_scope.estate = version.estate
  return version
end

local function serve(self, version)
  version.state = "serving"
  version.user.stage, version.stage = nil, nil
  version.estate:commit()
  self.current = version
  self.generation = self.generation + 1
  version.generation = self.generation
  self.counts.live_versions = self.counts.live_versions + 1
end

local function retire(self, version)
  version.state = "retiring"
  sched.spawn_owned(self.owner, function()
    local idle = sched.event()
    version.scope.owner:on_idle(function() idle:set(true) end)
    if not idle:wait(DRAIN_MS) then
      local count = version.scope.owner:active()
      version.scope.owner:cut(("%s: replaced, and not done within %d ms"):format(self.path, DRAIN_MS))
      log.warn("a version did not drain and was cut", { file = self.path, requests = count })
      self.counts.cut, self.counts.cut_requests = self.counts.cut + 1, self.counts.cut_requests + count
      self.emitter:emit("cut", version.generation, count)
    end
    version.state = "ended"
    version.scope:finish()
    modules.release(version.user)
    self.counts.live_versions, self.counts.retired = self.counts.live_versions - 1, self.counts.retired + 1
    self.emitter:emit("retired", version.generation)
  end)
end

local function give_up(self, version)
  version.state = "ended"
  if version.scope.state == "staged" then version.scope:abandon() else version.scope:finish() end
  version.stage:abandon()
  modules.release(version.user)
  local message = version.estate:abandon()
  if message then
    log.error("a node did not come back after the failed reload", { file = self.path, error = message })
  end
end

local function report_failure(self, message)
  log.error(self.current and "reload failed, the version before keeps running"
    or "the script failed; it is run again when it changes", { file = self.path, error = message })
  self.counts.failures = self.counts.failures + 1
  self.emitter:emit("reload_failed", message)
end

--- Runs a version that has none before it: there is nothing to fall back on, so it serves at once.
local function run_first(self, text)
  local version, message = new_version(self, text)
  if not version then return report_failure(self, message) end
  version.scope:commit()
  serve(self, version)
  local ended
  ended, message = start(self, version):wait(SETTLE_MS)
  if ended ~= false then
    version.is_settled = true
    return self.emitter:emit("reload", self.generation)
  end
  self.current = nil
  version.scope:halt()
  version.estate:abandon()
  retire(self, version)
  report_failure(self, message)
end

--- Runs the text beside the version in service, and lets it take over if it does not fail.
local function replace(self, text, replaced)
  local before, stage = self.current, self.modules:stage(replaced)
  local version, message = new_version(self, text, stage)
  if not version then return report_failure(self, message) end
  local ended
  ended, message = start(self, version):wait(SETTLE_MS)
  local ok = ended ~= false
  if ok then ok, message = stage:commit() end
  if ok then ok, message = version.scope:commit() end
  if not ok then
    give_up(self, version)
    return report_failure(self, message)
  end
  stage:swap()
  before.scope:halt()
  serve(self, version)
  version.is_settled = true
  retire(self, before)
  self.counts.reloads = self.counts.reloads + 1
  log.info("script reloaded", { file = self.path, generation = self.generation })
  self.emitter:emit("reload", self.generation)
end

--- --- watching ------------------------------------------------------------------------------------

--- What is watched: the folders of the script and of every module in use or in the way of a mend; of a
--- symbolic link that of the file, too.
local function wanted_folders(self)
  local wanted = {}
  local function add(path)
    for _, one in ipairs { path, uv.fs_realpath(path) } do
      local folder, name = source.split(one)
      wanted[folder] = wanted[folder] or {}
      wanted[folder][name] = true
    end
  end
  add(self.path)
  for path in pairs(self.modules.live) do add(path) end
  for path in pairs(self.tried) do add(path) end
  return wanted
end

local function is_same_attempt(self)
  for path, text in pairs(self.tried) do
    if (self.snapshot:read(path) or false) ~= text then return false end
  end
  return next(self.tried) ~= nil
end

--- Runs the text. What it read is remembered if it fails: it is not tried again before some of that
--- changes.
local function attempt(self, text, changed)
  local generation, seen = self.generation, { [self.path] = text }
  for path in pairs(changed) do seen[path] = self.snapshot:read(path) end
  self.reading = seen
  if self.current then
    replace(self, text, self.modules:affected(changed))
  else
    run_first(self, text)
  end
  self.reading = nil
  self.tried = (self.current and self.generation > generation) and {} or seen
end

--- Looks once at all files and runs the script again if one differs, or if it is told to.
local function look(self)
  local is_forced = self.is_forced
  self.is_forced = false
  self.snapshot:renew()
  local text = self.snapshot:read(self.path)
  if not text then
    if not self.is_gone then log.warn("the script is gone, its last version keeps running", { file = self.path }) end
    self.is_gone = true
    return
  end
  self.is_gone = nil
  local changed, differs = {}, self.current == nil or text ~= self.current.text
  for path, instance in pairs(self.modules.live) do
    local now = self.snapshot:read(path)
    if now and now ~= instance.text then changed[path], differs = true, true end
  end
  if not differs and not is_forced then
    self.tried = {}
    return
  end
  if is_same_attempt(self) and not is_forced then return end
  attempt(self, text, changed)
end

local function watch(self)
  local changed = self.changed
  self.folders = folders.new(function() changed:set(true) end)
  sched.spawn_owned(self.owner, function()
    while true do
      local opened = self.folders:want(wanted_folders(self))
      if opened > 0 then changed:set(true) end -- a file may have changed before it was watched
      changed:wait()
      repeat
        changed:clear()
        sched.sleep(DEBOUNCE_MS)
      until not changed:is_set()
      local ok, message = xpcall(look, where.locate, self)
      if not ok then log.error("looking for changes failed", { file = self.path, error = message }) end
    end
  end)
end

--- Runs the script at `path` and keeps it running as it changes. Returns at once.
---@param path string
---@param ... string  its arguments
---@return znl.Script
function M.main(path, ...)
  local root = source.split(path)
  local self = setmetatable({
    path = path, arguments = { ... }, generation = 0, tried = {}, changed = sched.event(), is_forced = false,
    counts = { cut = 0, cut_requests = 0, failures = 0, live_versions = 0, reloads = 0, retired = 0 },
    snapshot = snapshot.new(), owner = assert(sched.owner()),
  }, Script)
  self.emitter = events.new {
    names = EVENTS, what = "znl.script",
    on_error = function(message, event)
      log.error("listener failed", { file = path, event = event, error = message })
    end,
  }
  M.running = self
  self.modules = modules.new {
    root = root, event = sched.event,
    read = function(file)
      local text, message = self.snapshot:read(file)
      if self.reading then self.reading[file] = text or false end
      return text, message
    end,
    scope = function(file, previous) return scope.new { name = file, previous = previous } end,
  }
  self.snapshot:renew()
  local text, message = self.snapshot:read(path)
  if not text then error(message, 0) end
  attempt(self, text, {})
  watch(self)
  assert(runtime.hold())
  hangup.register(function()
    log.info("told by SIGHUP to run the script again", { file = path })
    self:reload()
  end)
  runtime.on_stop(function()
    self.folders:close()
    runtime.unhold()
  end, true)
  return self
end

return M
