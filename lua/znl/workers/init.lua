--- znl.workers: a pool of threads that run handlers, for work that needs the processor.
---
---     local pool = znl.workers { count = 2 }
---     assert(pool:stage { id = "v1", path = "resize.lua" })
---     local small, message, code = pool:call("v1", { payload = image })
---
--- Each thread has a Lua state of its own, in which the file is loaded; what all of them must see goes
--- into `znl.shared`. `znl.handlers(path, { workers = 2 })` does this for files that answer requests.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.workers")
local log = require("znl.log")
local modules = require("znl.versions.modules")
local options = require("znl.options")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local source = require("znl.versions.source")
local version = require("znl.versions.version")
local worker_pool = require("znl.workers.pool")

local M = {}

---@class znl.WorkersStageOptions
---@field id string  what `call` names it by
---@field path string  a handler file; the name in messages
---@field text? string  what is in it; absent: read from the file
---@field previous? string  the version it replaces: `on_load` gets its state
---@field load_timeout_ms? integer  how long the file may take, and after it its `on_load`
local STAGE_SPEC = {
  id = { type = "string", min = 1, max = 255, required = true },
  path = { type = "string", min = 1, required = true },
  text = { type = "string" },
  previous = { type = "string" },
  load_timeout_ms = { type = "integer", min = 1, max = 600000, default = 10000 },
}

--- How long requests of a version may go on that is being retired.
local DRAIN_MS = 60000

---@class znl.Workers
local Workers = {}
Workers.__index = Workers

local function check_name(self, id, what)
  if type(id) ~= "string" then
    error(("znl.workers: %s: the id of a version must be a text, not a %s"):format(what, type(id)), 3)
  end
  return self.versions[id]
end

--- Loads a version in every worker: compiles, checks, calls `on_load`. All of them, or none. Yields.
---@param opts znl.WorkersStageOptions
---@return true|nil ok
---@return string? message  with file and line
---@return "FAILED"|"EXISTS"|"CLOSED"? code
function Workers:stage(opts)
  opts = options.read(STAGE_SPEC, opts, "znl.workers: stage", 2)
  if self.is_closed then return nil, "znl.workers: the pool is closed", "CLOSED" end
  if self.versions[opts.id] then
    return nil, ("znl.workers: there is a version %q"):format(opts.id), "EXISTS"
  end
  local text = opts.text
  if not text then
    local unread
    text, unread = source.read(opts.path)
    if not text then return nil, unread, "FAILED" end
  end
  local previous = opts.previous and self.versions[opts.previous]
  local stage = self.tree:stage()
  local fresh, message = version.new {
    path = opts.path, text = text, stage = stage, previous = previous, backend = self.pool.backend,
    load_timeout_ms = opts.load_timeout_ms, drain_ms = DRAIN_MS, owner = self.owner,
    on_end = function() end,
    on_trouble = function(_, what, trouble) self.log.error(what, { file = opts.path, error = trouble }) end,
  }
  if not fresh then return nil, message, "FAILED" end
  self.versions[opts.id] = fresh -- the name is taken from here on
  local ok
  ok, message = fresh:load()
  if ok then ok, message = fresh:prepare() end
  if not ok or self.is_closed then
    self.versions[opts.id] = nil
    fresh:drop(previous)
    stage:abandon()
    return nil, message or "znl.workers: the pool is closed", ok and "CLOSED" or "FAILED"
  end
  stage:commit()
  fresh:commit()
  stage:swap()
  fresh:serve()
  fresh.running = 0
  return true
end

local function finish(of, ok, ...)
  of.running = of.running - 1
  if of.running == 0 and of.idle then of.idle:set(true) end
  if not ok then error((...), 0) end
  return ...
end

--- Runs the handler of a version in the worker that has least to do. Yields. Raises what the handler
--- raised, with the file and line there.
---@param id string
---@param req table  what the handler gets: payload, and any of from, id, service, route, params, data
---@return any ...  what the handler returned; or nil, message, code
function Workers:call(id, req)
  local of = check_name(self, id, "call")
  if type(req) ~= "table" then
    error(("znl.workers: call: the request must be a table, not a %s"):format(type(req)), 2)
  end
  if not of or not of.running or of.idle then
    return nil, ("znl.workers: there is no version %q in service"):format(id), "NOT_FOUND"
  end
  of.running = of.running + 1
  return finish(of, pcall(of.call, req))
end

--- Takes a version out of service: its requests have `drain_ms` to end, then `on_unload` runs in every
--- worker. Yields.
---@param id string
---@param drain_ms? integer
---@return true|nil ok
---@return string? message
---@return "NOT_FOUND"? code
function Workers:retire(id, drain_ms)
  local of = check_name(self, id, "retire")
  if not of or not of.running or of.idle then
    return nil, ("znl.workers: there is no version %q in service"):format(id), "NOT_FOUND"
  end
  of.idle = sched.event()
  if of.running > 0 and not of.idle:wait(drain_ms or DRAIN_MS) then
    self.log.warn("a version did not drain and was cut", { file = of.path, version = id, requests = of.running })
  end
  of:halt()
  of:retire()
  self.versions[id] = nil
  return true
end

---@return table<string, integer>
function Workers:counters() return self.pool:counters() end

--- Retires all versions and ends the threads. Closing twice is harmless. Yields.
---@param drain_ms? integer
function Workers:close(drain_ms)
  if self.is_closed then return end
  self.is_closed = true
  self.forget_stop()
  for id, of in pairs(self.versions) do
    if of.running then sched.spawn_owned(self.owner, self.retire, self, id, drain_ms) end
  end
  self.pool:stop(drain_ms or DRAIN_MS)
end

--- Starts the threads and waits until they are up. Raises when one cannot be set up. Yields.
---@param opts znl.WorkersOptions
---@return znl.Workers
function M.open(opts)
  opts = options.read(worker_pool.SPEC, opts, "znl.workers", 2)
  if core.is_worker() then error("znl.workers: a worker cannot have workers of its own", 2) end
  local self = setmetatable({
    versions = {}, owner = sched.owner(), log = log.new(opts.name),
    tree = modules.new { root = opts.root, read = function(path) return (source.read(path)) end },
  }, Workers)
  local message
  self.pool, message = worker_pool.open(opts)
  if not self.pool then error("znl.workers: " .. message, 2) end
  self.pool:follow(self.tree)
  self.forget_stop = runtime.on_stop(function() self:close() end, true) -- after the requests of nodes
  return self
end

return M
