--- znl.workers.code: one text of a handler file, loaded in every worker of a pool. What `znl.versions.code` is
--- in one Lua state, with the same methods and fields.
---
--- The first worker reads the modules the file requires; the others are given the texts it read, so
--- that all of them run the same. What happens to the version is sent to all workers in the order it
--- happens here, and its requests take the same way: a worker has heard of `commit` before the first
--- request comes, and of no request after `finish`.
---
--- The modules that live in the workers are mirrored here, without their values, so that whoever
--- watches files sees what they use.
--- SPDX-License-Identifier: MIT

local modules = require("znl.versions.modules")
local sched = require("znl.core.sched")

local M = {}

---@class znl.WorkerCode : znl.Code
---@field id integer  names it in the workers
---@field loads table<table, integer>  requests under way, by member of the pool
---@field places table<table, true>  requests that wait for a worker
local WorkerCode = {}
WorkerCode.__index = WorkerCode

---@param pool znl.WorkerPool
---@param opts znl.CodeOptions
---@return znl.WorkerCode
function M.new(pool, opts)
  local self = setmetatable({
    pool = pool, path = opts.path, text = opts.text, stage = opts.stage, loads = {}, places = {},
    owner = sched.owner(), state = nil,
  }, WorkerCode)
  self.user = opts.stage.modules:user(opts.path, opts.stage)
  self.stage_id = pool:stage_id(opts.stage)
  self.replaced = opts.stage.replaced
  self.id = pool:add(self)
  self.call = function(req) return pool:request(self, req) end
  return self
end

local function use(user, instance)
  if instance and not user.deps[instance.path] then
    user.deps[instance.path] = instance
    instance.refs = instance.refs + 1
  end
end

--- A module that lives in the workers, as this side sees it.
local function mirror(tree, stage, one)
  local instance = tree:user(one.path, stage)
  instance.name, instance.text, instance.refs = one.name, one.text, 0
  instance.state = stage and "ready" or "live"
  return instance
end

local function note_modules(self, report)
  local stage = self.stage
  for path, text in pairs(report.seen) do stage.seen[path] = text end
  for _, one in ipairs(report.fresh) do
    if not stage.fresh[one.path] then
      local instance = mirror(stage.modules, stage, one)
      stage.fresh[one.path] = instance
      stage.order[#stage.order + 1] = instance
    end
  end
  local function find(path)
    return stage.fresh[path] or stage.modules.live[path]
  end
  for _, one in ipairs(report.fresh) do
    for _, path in ipairs(one.deps) do use(stage.fresh[one.path], find(path)) end
  end
  for _, path in ipairs(report.deps) do use(self.user, find(path)) end
end

--- What a worker is told to load.
local function description(self, texts)
  return {
    stage = self.stage_id, replaced = self.replaced, path = self.path, text = self.text,
    previous = self.previous_id, texts = texts,
  }
end

--- Compiles, runs and checks the text in every worker. Yields.
---@param previous znl.WorkerCode|nil
---@return true|nil ok
---@return string? message  with file and line
function WorkerCode:load(previous)
  self.previous_id = previous and previous.id
  local report, message = self.pool:load(self.id, description(self), function(seen)
    return description(self, seen)
  end)
  if not report then return nil, message end
  -- Not the functions, which are in the workers: file and line of `handle`, and which others there are.
  self.parts = report.parts
  note_modules(self, report)
  return true
end

--- Runs `on_load` in every worker, each with the state the version before has there. Yields.
---@return true|nil ok
---@return string? message
function WorkerCode:prepare()
  self.is_prepared = self.parts.on_load
  return self.pool:call_all("prepare", self.id, self.previous_id)
end

--- Cannot fail here: what cannot be started in a worker is logged there.
---@return true
function WorkerCode:commit()
  self.user.stage, self.stage = nil, nil
  self.pool:tell_all("commit", self.id)
  return true
end

function WorkerCode:halt() self.pool:tell_all("halt", self.id) end

--- Requests that are still under way were cut here, and are cut in the workers.
function WorkerCode:finish()
  self.pool:give_up(self)
  self.pool:tell_all("finish", self.id)
end

--- Runs `on_unload` in every worker. Yields.
---@return true|nil ok
---@return string? message
function WorkerCode:unload()
  self.is_unloaded = true
  return self.pool:call_all("unload", self.id)
end

function WorkerCode:release()
  if self.is_released then return end
  self.is_released = true
  if not self.is_unloaded then self.pool:tell_all("release", self.id) end
  self.pool:remove(self.id)
  modules.release(self.user)
end

function WorkerCode:abandon() self.pool:tell_all("abandon", self.id) end

function WorkerCode:is_stale() return modules.is_stale(self.user) end

function WorkerCode:modules_used() return self.user.deps end

--- Versions or modules in service required one more, in a worker. Returns the object that mirrors it.
---@param tree znl.Modules
---@param users table[]  what `modules:user()` returned for each of them
---@param one { path: string, name: string, text: string, deps: string[] }
function M.note_late(tree, users, one)
  local instance = tree.live[one.path]
  if not instance then
    instance = mirror(tree, nil, one)
    for _, path in ipairs(one.deps) do use(instance, tree.live[path]) end
    tree.live[one.path] = instance
  end
  for _, user in ipairs(users) do use(user, instance) end
end

return M
