--- znl.versions.unit: one handler file: the version in service, and the one before it while that retires.
---
--- Requests come in one of two ways. A node that serves a single file calls the version itself and
--- counts its tasks for it. Everything else calls `answer`, which takes the version in service at that
--- moment, after the request had its turn where the handler has a limit.
--- SPDX-License-Identifier: MIT

local limit = require("znl.versions.limit")
local sched = require("znl.core.sched")
local version = require("znl.versions.version")
local where = require("znl.where")

local M = {}

---@class znl.Unit
---@field path string
---@field relative string  below the root of the handlers
---@field route? string  where it is served, in a folder of handlers
---@field problem? string  why its name is no route
---@field current? znl.Version
---@field draining? znl.Version  the one before, while its requests run
---@field failed? string  why the file is not in service as it is now
---@field missing_ms? number  since when the file is not there
---@field refused integer  requests turned away because too many waited
---@field answer fun(req: znl.Request): ...
local Unit = {}
Unit.__index = Unit

local function traced(err)
  return type(err) == "string" and debug.traceback(err, 2) or err
end

local function leave(place, serving, ok, ...)
  local held = serving.held[place]
  if held then -- else its places were given back when it was cut
    serving.held[place] = held > 1 and held - 1 or nil
    place:leave()
  end
  if not ok then error((...), 0) end
  return ...
end

local function refuse(self)
  return nil, ("%s: the handler of this route is not in service"):format(self.path), "HANDLER_ERROR"
end

local function answer_in_turn(self, place, req)
  local ok, message, code = place:enter()
  if not ok then
    if code == "OVERLOADED" then self.refused = self.refused + 1 end
    return nil, message, code
  end
  -- Whatever was in service when the request came: this is where it begins.
  local serving = self.current
  if not serving then
    place:leave()
    return refuse(self)
  end
  sched.become(serving.owner)
  serving.held[place] = (serving.held[place] or 0) + 1
  return leave(place, serving, xpcall(serving.call, traced, req))
end

---@class znl.UnitOptions
---@field max_concurrency? integer  when the file does not say
---@field max_queue integer  the same
---@field on_end fun(unit: znl.Unit, version: znl.Version, cut_requests: integer|nil)

---@param path string
---@param relative string
---@param opts znl.UnitOptions
---@return znl.Unit
function M.new(path, relative, opts)
  local self = setmetatable({ path = path, relative = relative, opts = opts, refused = 0 }, Unit)
  local become = sched.become
  self.answer = function(req)
    local serving = self.current
    if not serving then return refuse(self) end
    if self.limit then return answer_in_turn(self, self.limit, req) end
    become(serving.owner)
    return serving.call(req)
  end
  return self
end

--- A version to put into service, yet to be loaded.
---@param opts table  for `znl.versions.version`: text, stage, owner, …
---@return znl.Version|nil
---@return string? message
function Unit:stage(opts)
  opts.path, opts.previous = self.path, self.current
  opts.on_end = function(ended, cut_requests)
    -- Requests that were cut never leave by themselves.
    for place, count in pairs(ended.held) do
      for _ = 1, count do place:leave() end
    end
    ended.held = {}
    if self.draining == ended then self.draining = nil end
    if self.drained then self.drained:set(true) end
    self.drained = nil
    self.opts.on_end(self, ended, cut_requests)
  end
  local staged, message = version.new(opts)
  return staged, message
end

local function set_limit(self, parts)
  local most = parts.max_concurrency or self.opts.max_concurrency
  local queue = parts.max_queue or self.opts.max_queue
  if most then
    if self.limit then self.limit:set(most, queue) else self.limit = limit.new(self.path, most, queue) end
  elseif self.limit then
    self.limit:set(math.huge, queue) -- lets go who waits in it
    self.limit = nil
  end
end

--- Puts a committed version in place of the one in service. Does not yield.
---@param fresh znl.Version
function Unit:serve(fresh)
  local old = self.current
  if old then old:halt() end
  fresh:serve()
  self.current = fresh
  set_limit(self, fresh.code.parts)
  if old then
    self.draining = old
    old:retire()
  end
end

--- Takes the version out of service and lets it retire.
function Unit:close()
  local old = self.current
  if not old then return end
  self.current = nil
  old:halt()
  self.draining = old
  old:retire()
end

--- Where the handler in service was written, "handlers/echo.lua:3"; at least the file.
---@return string
function Unit:origin()
  local parts = self.current and self.current.code.parts
  local handle = parts and not parts.is_channel and parts.handle
  if type(handle) == "function" then handle = where.of(handle) end -- a text when it is in workers
  return handle or self.path
end

--- Waits until a version that retires has gone. Yields.
function Unit:wait_drained()
  while self.draining do
    self.drained = self.drained or sched.event()
    if not self.drained:wait() then return end
  end
end

return M
