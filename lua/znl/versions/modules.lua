--- znl.versions.modules: what handler files require, loaded for them and shared by them.
---
---   loading   its text runs; who requires it meanwhile waits
---   ready     it has a value, seen by the versions that are being staged with it
---   live      it serves every later `require` of its path
---   retiring  replaced, or no longer required; versions that began with it still use it
---   ended     nobody uses it
---
--- A module is a file: beside the handlers, in `lib/` there, or on package.path. It runs in an
--- environment and a scope of its own. A stage collects what must be replaced together; until it is
--- committed nobody else sees it. Users (handler versions and modules) hold the instances they
--- required, and keep them whatever is loaded later. Everything else a file requires, such as what is
--- built in or a C library, is the process's.
---
--- Works in any Lua state: reading, scopes and waiting are given by who makes it.
--- SPDX-License-Identifier: MIT

local runtime = require("znl.core.runtime")
local source = require("znl.versions.source")
local where = require("znl.where")

local M = {}

local BUILT_IN = {}
for name in ("_G bit coroutine debug ffi io jit math os package string table znl"):gmatch("%S+") do
  BUILT_IN[name] = true
end

--- Second in line after preload: what the binary carries.
local carried = package.loaders[2]

---@class znl.ModulesOptions
---@field root string  the folder handlers are in
---@field read fun(path: string): string|nil  the text of a file
---@field event? fun(): table  makes something to wait for; nil: nobody waits here
---@field scope? fun(path: string, previous: any): znl.Scope  nil: modules run in that of their user
---@field on_late? fun(path: string)  a module was loaded by a version in service

---@class znl.Modules
---@field live table<string, table>  the instance of each path
local Modules = {}
Modules.__index = Modules

---@class znl.ModuleStage
local Stage = {}
Stage.__index = Stage

---@param opts znl.ModulesOptions
---@return znl.Modules
function M.new(opts)
  return setmetatable({ opts = opts, live = {}, late = {} }, Modules)
end

--- Somebody who requires modules.
---@param what string  its path, for messages
---@param stage znl.ModuleStage|nil
---@return table user
function Modules:user(what, stage)
  return { path = what, modules = self, stage = stage, deps = {}, names = {}, awaits = {}, late = {} }
end

local function is_built_in(name)
  if BUILT_IN[name] or name:sub(1, 4) == "znl." or package.preload[name] ~= nil then return true end
  local ok, loader = pcall(carried, name)
  return ok and type(loader) == "function"
end

--- Where a module may be, in this order.
local function candidates(self, name)
  local file = name:gsub("%.", "/")
  local root = self.opts.root
  local list = {
    source.join(root, file .. ".lua"), source.join(root, file .. "/init.lua"),
    source.join(root, "lib/" .. file .. ".lua"), source.join(root, "lib/" .. file .. "/init.lua"),
  }
  for template in package.path:gmatch("[^;]+") do
    list[#list + 1] = (template:gsub("%?", (file:gsub("%%", "%%%%"))):gsub("^%./", ""))
  end
  return list
end

local function find(self, stage, name)
  local list = candidates(self, name)
  for _, path in ipairs(list) do
    local text = self.opts.read(path)
    if stage then stage.seen[path] = text or false end
    if text then return path, text end
  end
  return nil, list
end

--- The way from `from`, which is loading, to `to`, whose load it waits for; nil when there is none.
local function chain(from, to, visited)
  if from == to then return from.path end
  if visited[from] then return nil end
  visited[from] = true
  for next_one in pairs(from.awaits) do
    local rest = chain(next_one, to, visited)
    if rest then return from.path .. " -> " .. rest end
  end
  return nil
end

local function await(user, instance, step)
  local count = (user.awaits[instance] or 0) + step
  user.awaits[instance] = count > 0 and count or nil
end

local release

local function finish(instance)
  if instance.state == "ended" then return end
  instance.state = "ended"
  local scope = instance.scope
  if scope and scope.state == "staged" then scope:abandon() elseif scope then scope:finish() end
  release(instance)
end

--- Nobody new gets it; it ends with its last user.
local function supersede(self, instance)
  if self.live[instance.path] == instance then self.live[instance.path] = nil end
  if instance.state ~= "live" then return end
  instance.state = "retiring"
  if instance.scope then instance.scope:halt() end
  if instance.refs == 0 then finish(instance) end
end

--- Gives back what a user held. What nobody holds any more ends.
---@param user table
function release(user)
  local deps = user.deps
  user.deps, user.names = {}, {}
  for _, instance in pairs(deps) do
    instance.refs = instance.refs - 1
    if instance.refs == 0 then
      local self = instance.modules
      if self.live[instance.path] == instance then self.live[instance.path] = nil end
      finish(instance)
    end
  end
end
M.release = release

--- Its registrations start. Does not yield.
local function commit(instance)
  if not instance.scope then return true end
  local ok, message = instance.scope:commit()
  return ok, message
end

--- Later requires get it. It was committed.
local function go_live(self, instance)
  local old = self.live[instance.path]
  self.live[instance.path] = instance
  instance.state, instance.stage = "live", nil
  runtime.loaded(instance.path)
  if old and old ~= instance then
    old.is_replaced = true
    supersede(self, old)
  end
end

--- The line of `text` that requires `name`, or anything at all.
local function find_require(text, name)
  local number, first = 0, nil
  for line in (text .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    if line:find("%f[%w_]require%f[^%w_]") then
      if line:find(name, 1, true) then return number end
      first = first or number
    end
  end
  return first or 1
end

--- Raises for the line of the user that requires `name`. After a tail call, `return require("x")`, it is
--- no longer on the stack, and is looked for in the text.
local function blame(user, name, message)
  local level, source_name, line = 3, "@" .. user.path, nil
  local info = debug.getinfo(level, "Sl")
  while info and not line do
    if info.source == source_name and info.currentline > 0 then line = info.currentline end
    level = level + 1
    info = debug.getinfo(level, "Sl")
  end
  line = line or find_require(user.modules.opts.read(user.path) or "", tostring(name))
  error(("%s:%d: %s"):format(user.path, line, message), 0)
end

local require_for

--- Compiles and runs; never raises.
local function run(instance)
  local environment = source.environment(require_for(instance), instance.scope and instance.scope.owner)
  local chunk, message = source.compile(instance.path, instance.text, environment)
  local ok, value = false, message
  if chunk then ok, value = xpcall(chunk, where.locate, instance.name, instance.path) end
  if instance.state ~= "loading" then return end -- given up meanwhile
  if ok then
    instance.state, instance.value = "ready", value == nil and true or value
    if instance.stage == nil then ok, value = commit(instance) end
  end
  if not ok then instance.state, instance.message = "failed", value end
  if instance.stage == nil then
    instance.modules.late[instance.path] = nil
    if ok then go_live(instance.modules, instance) else release(instance) end
  end
  if instance.done then instance.done:set(true) end
end

local function load_fresh(self, user, name, path, text)
  local stage = user.stage
  local instance = self:user(path, stage)
  instance.name, instance.text, instance.state, instance.refs = name, text, "loading", 0
  if self.opts.scope then
    local old = self.live[path]
    local problem
    instance.scope, problem = self.opts.scope(path, old and old.scope)
    if not instance.scope then error(problem, 0) end
  end
  if stage then
    stage.fresh[path] = instance
    stage.order[#stage.order + 1] = instance
  else
    self.late[path] = instance
  end
  await(user, instance, 1)
  local ok, message = true, nil
  if instance.scope then ok, message = instance.scope:run(run, instance) else run(instance) end
  await(user, instance, -1)
  if instance.state == "loading" then
    instance.state = "failed"
    instance.message = ("%s: %s"):format(path, ok and "the load did not end" or tostring(message))
    if self.late[path] == instance then self.late[path] = nil end
    if instance.done then instance.done:set(true) end
  end
  if instance.state == "failed" and not stage and instance.scope then instance.scope:abandon() end
  return instance
end

local function wait_for(self, user, instance, name)
  local cycle = chain(instance, user, {})
  if cycle then
    blame(user, name, ("modules require each other in a circle: %s -> %s"):format(user.path, cycle))
  end
  if not self.opts.event then blame(user, name, ("module %q is being loaded"):format(name)) end
  instance.done = instance.done or self.opts.event()
  await(user, instance, 1)
  local _, message = instance.done:wait()
  await(user, instance, -1)
  if instance.state == "loading" then blame(user, name, ("module %q: %s"):format(name, tostring(message))) end
end

local function not_found(user, name, list)
  local ok, value = pcall(require, name)
  if ok then return value end
  -- Lua says what it tried; beside the handlers was tried, too.
  local text = tostring(value)
  if not text:find("not found", 1, true) then error(text, 0) end
  blame(user, name, ("module %q not found:\n\tno file '%s'"):format(name, table.concat(list, "'\n\tno file '")))
end

local function provide(self, user, name)
  local path, text = find(self, user.stage, name)
  if not path then return { value = not_found(user, name, text) } end
  local stage = user.stage
  local instance = user.deps[path]
  if not instance then
    if stage then
      instance = stage.fresh[path] or (not stage.replaced[path] and self.live[path]) or nil
    else
      instance = self.live[path] or self.late[path]
    end
    if not instance then
      instance = load_fresh(self, user, name, path, text)
    elseif instance.state == "loading" then
      wait_for(self, user, instance, name)
    end
    if instance.state == "failed" then
      error(("%s (required by %s)"):format(instance.message, user.path), 0)
    end
    -- Another task of the user may have brought it meanwhile.
    if not user.deps[path] then
      user.deps[path] = instance
      instance.refs = instance.refs + 1
    end
    instance = user.deps[path]
    if user.stage == nil then
      user.late[name] = path
      if self.opts.on_late then self.opts.on_late(path) end
    end
  end
  return instance
end

--- The `require` of a user. Yields when the module is not loaded yet.
---@param user table
---@return fun(name: string): any
function require_for(user)
  return function(name)
    local known = user.names[name]
    if known then return known.value end
    if type(name) ~= "string" then
      blame(user, "", ("require: the name of a module must be a text, not a %s"):format(type(name)))
    end
    if is_built_in(name) then return require(name) end
    local instance = provide(user.modules, user, name)
    user.names[name] = instance
    return instance.value
  end
end
M.require_for = require_for

--- Begins a stage in which the modules at these paths, and no others, are loaded afresh.
---@param replaced? table<string, true>
---@return znl.ModuleStage
function Modules:stage(replaced)
  return setmetatable({ modules = self, replaced = replaced or {}, fresh = {}, order = {}, seen = {} }, Stage)
end

--- Lets `user` have what `before`, the version it replaces, required while it served: the new version
--- will want it too, and a module that does not load must keep the old version. Raises.
---@param user table
---@param before table|nil
function Stage:carry(user, before)
  if not before then return end
  local fetch = require_for(user)
  for name, path in pairs(before.late) do
    if self.modules.opts.read(path) then
      fetch(name)
      user.late[name] = path
    end
  end
end

--- Starts what the modules registered while they loaded; the first half of a swap. Does not yield.
---@return true|nil ok  nil: abandon the stage
---@return string? message
function Stage:commit()
  for _, instance in ipairs(self.order) do
    if instance.state == "ready" then
      local ok, message = commit(instance)
      if not ok then return nil, message end
    end
  end
  return true
end

--- Puts what was committed in place of what was there. Does not yield.
function Stage:swap()
  local modules = self.modules
  for _, instance in ipairs(self.order) do
    if instance.state == "ready" then
      go_live(modules, instance)
      if instance.refs == 0 then supersede(modules, instance) end
    elseif instance.state ~= "ended" then
      finish(instance)
    end
  end
  -- Nobody required these again.
  for path in pairs(self.replaced) do
    local old = modules.live[path]
    if old and not self.fresh[path] then
      old.is_replaced = true
      supersede(modules, old)
    end
  end
end

--- Throws away what was loaded.
function Stage:abandon()
  for index = #self.order, 1, -1 do finish(self.order[index]) end
end

--- The paths of `changed` and of every live module that uses one of them, also through others.
---@param changed table<string, true>
---@return table<string, true> affected
function Modules:affected(changed)
  local affected = {}
  for path in pairs(changed) do affected[path] = true end
  local grew
  repeat
    grew = false
    for path, instance in pairs(self.live) do
      if not affected[path] then
        for used in pairs(instance.deps) do
          if affected[used] then
            affected[path], grew = true, true
            break
          end
        end
      end
    end
  until not grew
  return affected
end

--- True when `user` holds a module that has been replaced since.
---@param user table
---@return boolean
function M.is_stale(user)
  for path, instance in pairs(user.deps) do
    if instance.is_replaced and instance.modules.live[path] then return true end
  end
  return false
end

return M
