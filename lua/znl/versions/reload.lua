--- znl.versions.reload: compares files with what is in service, and replaces what differs.
---
--- One look: read what is there, find what changed, and sort it into groups that must be replaced
--- together: a module and everything that uses it. Each group is staged and swapped by itself, whole
--- or not at all, and a swap does not yield: no request sees half of it. A group that failed is tried
--- again when one of the files it read changes. A handler whose version before last still has requests
--- waits for them: at most two versions of a file are alive, and the newest text wins.
--- SPDX-License-Identifier: MIT

local modules = require("znl.versions.modules")
local route_file = require("znl.routing.route_file")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local snapshot = require("znl.versions.snapshot")
local source = require("znl.versions.source")
local tree = require("znl.versions.tree")
local unit = require("znl.versions.unit")

local M = {}

--- A file that is away this long is deleted: long enough for editors and version control, which
--- delete a file and write it again.
local AWAY_MS = 100

---@class znl.Reload
---@field units table<string, znl.Unit>  by path
---@field generation integer  versions put into service so far
---@field counts table<string, integer>
---@field private has_looked? boolean  what comes from now on is news
local Reload = {}
Reload.__index = Reload

---@class znl.ReloadOptions
---@field path string
---@field is_folder boolean
---@field settings table  the options of znl.handlers
---@field owner any  what runs for it is no request
---@field backend? table  where the code of versions runs, see znl.version
---@field log znl.Logger
---@field router? znl.Router  of a folder
---@field backend? table  where versions run, see znl.code; default: in this Lua state
---@field swapped fun(unit: znl.Unit)  in the moment of the swap: must not yield
---@field look_again fun(ms: integer)  asks for another look
---@field is_closed fun(): boolean

---@param opts znl.ReloadOptions
---@return znl.Reload
function M.new(opts)
  local self = setmetatable({
    opts = opts, units = {}, claims = {}, attempts = {}, gone = {}, news = {}, generation = 0,
    snapshot = snapshot.new(), folders = {},
    counts = { reloads = 0, failures = 0, retired = 0, cut = 0, cut_requests = 0, live_versions = 0, overloaded = 0 },
  }, Reload)
  local function read(path) return (self.snapshot:read(path)) end
  self.read = read
  self.modules = modules.new {
    root = opts.is_folder and opts.path or source.split(opts.path),
    read = read,
    event = sched.event,
    scope = function(path, previous) return scope.new { name = path, previous = previous } end,
    on_late = function() opts.look_again(0) end, -- its folder is to be watched from now on
  }
  return self
end

local function report(self, event, ...)
  self.news[#self.news + 1] = { event, ... }
end

--- What happened since the last call: { event, arguments... } each. Taken outside a look, since
--- listeners may ask for the next one.
---@return table[]
function Reload:take_news()
  local news = self.news
  self.news = {}
  return news
end

-- Files and routes ------------------------------------------------------------------------------

--- Two paths that the same urls match: names of parameters do not count.
local function shape_of(route)
  return (route:gsub(":[%w_]+", ":"))
end

local function claim(self, of)
  local shape = of.route and shape_of(of.route)
  if not shape or self.claims[shape] then return end
  local function origin() return of:origin() end
  local ok, remove = pcall(self.opts.router.route, self.opts.router, of.route, of.answer, origin)
  if ok then
    self.claims[shape], of.remove_route = of, remove
  else
    of.problem = remove:gsub("^[^\n]-:%d+: ", "")
  end
end

local function give_up_claim(self, of)
  if not of.remove_route then return end
  of.remove_route()
  of.remove_route = nil
  self.claims[shape_of(of.route)] = nil
end

local function ended(self, of, version, cut_requests)
  local counts = self.counts
  counts.live_versions = counts.live_versions - 1
  counts.retired = counts.retired + 1
  if cut_requests then
    counts.cut = counts.cut + 1
    counts.cut_requests = counts.cut_requests + cut_requests
    self.opts.log.warn("a version did not drain and was cut", {
      file = of.path, generation = version.generation, requests = cut_requests,
      drain_ms = self.opts.settings.drain_ms,
    })
    report(self, "cut", version.generation, of.path, cut_requests)
  end
  report(self, "retired", version.generation, of.path)
  -- Reports this, and a reload may be waiting for it.
  self.opts.look_again(0)
end

local function add_unit(self, path, relative)
  local settings = self.opts.settings
  local of = unit.new(path, relative, {
    max_concurrency = settings.max_concurrency, max_queue = settings.max_queue,
    on_end = function(...) ended(self, ...) end,
  })
  self.units[path] = of
  if self.opts.is_folder then
    of.route, of.problem = route_file.path(relative, { suffix = settings.suffix, prefix = settings.prefix })
  end
  return of
end

local function remove_unit(self, of)
  self.units[of.path] = nil
  give_up_claim(self, of)
  self.counts.overloaded = self.counts.overloaded + of.refused
  if of.current then
    self.opts.log.info("handler removed", { file = of.path, route = of.route })
    report(self, "removed", of.path, of.route)
  end
  of:close()
end

local function warn_once(self, path, text)
  if self.gone[path] then return end
  self.gone[path] = true
  self.opts.log.warn(text, { file = path })
end

--- Brings the units in line with the files that are there.
local function find_files(self)
  local path = self.opts.path
  if not self.opts.is_folder then
    if not self.units[path] then add_unit(self, path, path) end
    self.folders = { (source.split(path)) }
    if self.read(path) then
      self.gone[path] = nil
    elseif self.units[path].current then
      warn_once(self, path, "handler file is gone, its last version keeps serving")
    end
    return true
  end
  local found, message = tree.scan(path, "." .. self.opts.settings.suffix .. ".lua")
  if not found then
    if next(self.units) then warn_once(self, path, "the folder cannot be read, its last versions keep serving") end
    return nil, message
  end
  self.gone[path], self.folders = nil, found.folders
  local is_there = {}
  for _, file in ipairs(found.files) do
    is_there[file.path] = true
    local of = self.units[file.path] or add_unit(self, file.path, file.relative)
    of.missing_ms = nil
  end
  local now = sched.now_ms()
  for _, of in pairs(self.units) do
    if not is_there[of.path] then
      if of.current and not of.missing_ms then
        of.missing_ms = now
        self.opts.look_again(AWAY_MS)
      elseif not of.current or now - of.missing_ms >= AWAY_MS then
        remove_unit(self, of)
      end
    end
  end
  for _, file in ipairs(found.files) do claim(self, self.units[file.path]) end
  return true
end

-- What differs ----------------------------------------------------------------------------------

local function changed_modules(self, forced)
  local changed = {}
  for path, instance in pairs(self.modules.live) do
    local text = self.read(path)
    if text then
      self.gone[path] = nil
      if text ~= instance.text or forced[path] or modules.is_stale(instance) then changed[path] = true end
    else
      warn_once(self, path, "a module is gone, its last version stays in use")
    end
  end
  return changed
end

local function differs(self, of, affected, forced)
  local current = of.current
  if not current then return true end
  local text = self.read(of.path)
  if text and (forced[of.path] or text ~= current.text) then return true end
  for path in pairs(current.code:modules_used()) do
    if affected[path] then return true end
  end
  return current.code:is_stale()
end

local function sorted_keys(set)
  local list = {}
  for key in pairs(set) do list[#list + 1] = key end
  table.sort(list)
  return list
end

---@class znl.ReloadGroup
---@field units znl.Unit[]
---@field replaced table<string, true>  modules
---@field key string  what changed

--- Sorts what differs into groups that share a module to be replaced.
local function group(self, dirty, affected, changed)
  local group_of = {} -- path -> group
  local function join(a, b)
    local into, from = group_of[a], group_of[b]
    if into == from then return end
    for path in pairs(from) do
      into[path] = true
      group_of[path] = into
    end
  end
  for path in pairs(affected) do group_of[path] = { [path] = true } end
  for path in pairs(dirty) do group_of[path] = { [path] = true } end
  for path in pairs(affected) do
    for used in pairs(self.modules.live[path].deps) do
      if affected[used] then join(path, used) end
    end
  end
  for path, of in pairs(dirty) do
    for used in pairs(of.current and of.current.code:modules_used() or {}) do
      if affected[used] then join(path, used) end
    end
  end
  local groups, made = {}, {}
  for _, path in ipairs(sorted_keys(group_of)) do
    local members = group_of[path]
    if not made[members] then
      made[members] = true
      local one, key = { units = {}, replaced = {} }, {}
      for _, member in ipairs(sorted_keys(members)) do
        if dirty[member] then one.units[#one.units + 1] = dirty[member] else one.replaced[member] = true end
        if dirty[member] or changed[member] then key[#key + 1] = member end
      end
      one.key = table.concat(key, "\n")
      groups[#groups + 1] = one
    end
  end
  -- Modules first: what is staged after them finds the new ones.
  table.sort(groups, function(a, b)
    local a_has, b_has = next(a.replaced) ~= nil, next(b.replaced) ~= nil
    if a_has ~= b_has then return a_has end
    return a.key < b.key
  end)
  return groups
end

-- Staging and swapping --------------------------------------------------------------------------

local function owner_of_route(self, of)
  return of.route and self.claims[shape_of(of.route)]
end

--- Everything that can fail. Versions are collected in `staged` as they are made.
local function stage_all(self, units, stage, staged)
  for _, of in ipairs(units) do
    local text, message = self.snapshot:read(of.path)
    stage.seen[of.path] = text or false
    text = text or (of.current and of.current.text)
    if not text or of.problem then return nil, of.problem or message, of end
    local holder = owner_of_route(self, of)
    if holder and holder ~= of and not holder.missing_ms then
      stage.seen[holder.path] = self.read(holder.path) or false
      return nil, ("%s: serves the route %s, which %s serves already"):format(of.path, of.route, holder.path), of
    end
    local version
    version, message = of:stage {
      text = text, stage = stage, owner = self.opts.owner, backend = self.opts.backend,
      load_timeout_ms = self.opts.settings.load_timeout_ms, drain_ms = self.opts.settings.drain_ms,
      on_trouble = function(_, what, trouble) self.opts.log.error(what, { file = of.path, error = trouble }) end,
    }
    if not version then return nil, message, of end
    staged[#staged + 1] = { unit = of, version = version }
    local ok
    ok, message = version:load()
    if not ok then return nil, message, of end
  end
  for _, entry in ipairs(staged) do
    local ok, message = entry.version:prepare()
    if not ok then return nil, message, entry.unit end
  end
  return true
end

local function drop_all(staged, stage)
  for _, entry in ipairs(staged) do entry.version:drop(entry.unit.current) end
  stage:abandon()
end

--- Starts what was registered, modules first. What was there before goes on until all of it works.
local function commit_all(units, staged, stage)
  local ok, message = stage:commit()
  if not ok then return nil, message, units[1] end
  for _, entry in ipairs(staged) do
    ok, message = entry.version:commit()
    if not ok then return nil, message, entry.unit end
  end
  return true
end

local function swap(self, staged, stage)
  stage:swap()
  for _, entry in ipairs(staged) do
    local of, version = entry.unit, entry.version
    local holder = owner_of_route(self, of)
    if holder and holder ~= of then remove_unit(self, holder) end -- its file went, this one came
    if of.route then claim(self, of) end
    self.generation = self.generation + 1
    version.generation = self.generation
    self.counts.live_versions = self.counts.live_versions + 1
    local is_first = of.current == nil
    of.failed = nil
    of:serve(version)
    if is_first then
      if self.opts.is_folder then report(self, "added", of.path, of.route) end
    else
      self.counts.reloads = self.counts.reloads + 1
    end
    report(self, "reload", version.generation, of.path)
    local is_start = is_first and not self.has_looked
    self.opts.log[is_start and "debug" or "info"](
      is_start and "handler loaded" or is_first and "handler added" or "handler reloaded",
      { file = of.path, route = of.route, generation = version.generation })
    self.opts.swapped(of)
  end
end

--- Loads a group and puts it into service.
---@return true|nil ok
---@return string? message
local function replace(self, one)
  local stage, staged = self.modules:stage(one.replaced), {}
  for path in pairs(one.replaced) do stage.seen[path] = self.read(path) or false end
  local ok, message, culprit = stage_all(self, one.units, stage, staged)
  if self.opts.is_closed() then ok, message = nil, self.opts.path .. ": the handlers are closed" end
  -- From here to the end of the swap nothing yields.
  if ok then ok, message, culprit = commit_all(one.units, staged, stage) end
  if not ok then
    drop_all(staged, stage)
    if self.opts.is_closed() then return nil, message end
    self.attempts[one.key] = stage.seen
    self.counts.failures = self.counts.failures + 1
    if not culprit then -- a module nobody uses
      self.opts.log.error("reload failed", { error = message })
      return nil, message
    end
    culprit.failed = message
    if culprit.current or self.opts.is_folder then -- else opening raises it
      self.opts.log.error(culprit.current and "reload failed, the version before keeps serving" or "handler not loaded",
        { file = culprit.path, error = message, generation = culprit.current and culprit.current.generation })
      report(self, "reload_failed", message, culprit.path)
    end
    return nil, message
  end
  self.attempts[one.key] = nil
  swap(self, staged, stage)
  return true
end

--- True when nothing that the last attempt at this group read has changed since.
local function is_same_attempt(self, one)
  local seen = self.attempts[one.key]
  if not seen then return false end
  for path, text in pairs(seen) do
    if (self.read(path) or false) ~= text then return false end
  end
  return true
end

local function is_held(self, one)
  for _, of in ipairs(one.units) do
    if of.draining then
      if not of.is_waiting then
        of.is_waiting = true
        self.opts.log.info("the next version waits for requests of the one before the last",
          { file = of.path, generation = of.draining.generation })
      end
      return of
    end
  end
  for _, of in ipairs(one.units) do of.is_waiting = nil end
  return nil
end

local function note_recovered(self, dirty)
  for path, of in pairs(self.units) do
    if of.failed and of.current and not dirty[path] then
      of.failed = nil
      self.opts.log.info("handler file is back to the version in service", { file = path })
    end
  end
end

--- Looks at all files once and replaces what differs, and the paths in `forced` in any case; those
--- that were tried are taken out of it. Yields. Never run twice at a time.
---@param forced table<string, true>
---@return string|nil message  of the first failure of these, or why the folder cannot be read
---@return znl.Unit|nil held  a forced one that waits for its version before last
function Reload:look(forced)
  self.snapshot:renew()
  local _, trouble = find_files(self)
  local changed = changed_modules(self, forced)
  local affected = self.modules:affected(changed)
  local dirty = {}
  for path, of in pairs(self.units) do
    if differs(self, of, affected, forced) then dirty[path] = of end
  end
  note_recovered(self, dirty)
  local attempts, first_message, first_held = {}, trouble, nil
  for _, one in ipairs(group(self, dirty, affected, changed)) do
    local wanted = false
    for _, of in ipairs(one.units) do wanted = wanted or forced[of.path] end
    for path in pairs(one.replaced) do wanted = wanted or forced[path] end
    local held = is_held(self, one)
    if held then
      if wanted then first_held = first_held or held end
    else
      for _, of in ipairs(one.units) do forced[of.path] = nil end
      for path in pairs(one.replaced) do forced[path] = nil end
      if wanted or not is_same_attempt(self, one) then
        local ok, message = replace(self, one)
        if not ok and wanted then first_message = first_message or message end
        if self.opts.is_closed() then break end
      end
    end
    attempts[one.key] = self.attempts[one.key]
  end
  self.has_looked = true
  self.attempts = attempts -- those of groups that are no longer wanted are forgotten
  return first_message, first_held
end

-- For who watches and reports -------------------------------------------------------------------

local function nearest_folder(path)
  local folder = source.split(path)
  for _ = 1, 64 do
    if folder == "." or folder == "/" or tree.is_folder(folder) then return folder end
    folder = source.split(folder)
  end
  return "."
end

--- The folders in which a change may matter, for `znl.versions.folders`.
---@return table<string, true|table<string, true>> folders
---@return table<string, table<string, true>> own
function Reload:watched()
  local folders, own, nearest = {}, {}, {}
  local function add(path)
    local above, name = source.split(path)
    nearest[above] = nearest[above] or nearest_folder(path)
    local folder = nearest[above]
    folders[folder] = true
    own[folder] = own[folder] or {}
    own[folder][name] = true
  end
  for _, folder in ipairs(self.folders) do folders[folder] = true end
  for path in pairs(self.units) do add(path) end
  for path in pairs(self.modules.live) do add(path) end
  for _, seen in pairs(self.attempts) do
    for path in pairs(seen) do add(path) end
  end
  local root = self.opts.is_folder and self.opts.path or source.split(self.opts.path)
  local above, name = source.split(root)
  -- The root itself may be replaced: "current" that points to another release.
  if name ~= "." and name ~= ".." and name ~= "" and folders[above] ~= true then folders[above] = { [name] = true } end
  return folders, own
end

--- Finds what a person means: the path of a handler file or a module, or its name below the root.
---@param name string
---@return string|nil path
function Reload:find(name)
  local below = source.join(self.opts.is_folder and self.opts.path or (source.split(self.opts.path)), name)
  for _, path in ipairs { name, below } do
    if self.units[path] or self.modules.live[path] then return path end
  end
  return nil
end

--- Takes everything out of service.
function Reload:close()
  for _, of in pairs(self.units) do
    give_up_claim(self, of)
    of:close()
  end
end

return M
