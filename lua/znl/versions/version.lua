--- znl.versions.version: one version of one handler file, from its text to its end.
---
---   staged    compiled in its own environment, `on_load` under way; nobody sees it yet
---   serving   new requests go to it; at most one version of a file does
---   retiring  replaced; the requests it began with still run
---   retired   the last of them ended; `on_unload` is called, once
---   cut       the same, but its requests did not end within `drain_ms` and were ended where they waited
---   dropped   failed while staged, or the others it was staged with did
---
--- SPDX-License-Identifier: MIT

local here = require("znl.versions.code")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")

local M = {}

---@class znl.VersionOptions
---@field path string
---@field text string
---@field generation? integer
---@field stage znl.ModuleStage
---@field previous znl.Version|nil  the one in service
---@field backend? { new: fun(opts: znl.CodeOptions): znl.Code|nil, string? }  where its code runs; default: here
---@field load_timeout_ms integer
---@field drain_ms integer
---@field owner any  the loader's: what runs for it is no request
---@field on_end fun(version: znl.Version, cut_requests: integer|nil)  its last request ended, or was cut
---@field on_trouble fun(version: znl.Version, what: string, message: string)

---@class znl.Version
---@field state string
---@field path string
---@field text string
---@field generation integer  set by who puts it into service
---@field code znl.Code
---@field held table<znl.Limit, integer>  places its requests hold
local Version = {}
Version.__index = Version

---@param opts znl.VersionOptions
---@return znl.Version|nil
---@return string? message
function M.new(opts)
  local loaded, message = (opts.backend or here).new {
    path = opts.path, text = opts.text, stage = opts.stage,
    previous = opts.previous and opts.previous.code,
  }
  if not loaded then return nil, message end
  return setmetatable({
    state = "staged", path = opts.path, text = opts.text, opts = opts, held = {}, code = loaded,
  }, Version)
end

--- Runs `method` of the code in a task of its own, so that a file that never ends cannot hold up who
--- loads it.
local function in_time(self, method, ...)
  local run, message = task.background(self.opts.owner, self.code[method], self.code, ...)
  if not run then return nil, message end
  local ok, code
  ok, message, code = run:wait(self.opts.load_timeout_ms)
  if code == "TIMEOUT" then
    message = ("%s: still loading after %d ms"):format(self.path, self.opts.load_timeout_ms)
  end
  return ok, message
end

--- Compiles, runs and checks the text. Yields.
---@return true|nil ok
---@return string? message  with file and line
function Version:load()
  local previous = self.opts.previous
  return in_time(self, "load", previous and previous.code)
end

--- Runs `on_load`. Yields.
---@return true|nil ok
---@return string? message
function Version:prepare()
  local previous = self.opts.previous
  return in_time(self, "prepare", previous and previous.code.state)
end

--- Starts what it registered: the last thing that can fail. Does not yield. Its modules were
--- committed before.
---@return true|nil ok
---@return string? message
function Version:commit()
  local ok, message = self.code:commit()
  return ok, message
end

--- Puts it into service. Does not yield. It was committed.
function Version:serve()
  self.state = "serving"
  self.opts.previous, self.opts.stage = nil, nil
  self.call, self.owner = self.code.call, self.code.owner
  runtime.loaded(self.path)
end

--- Ends what it registered. What the next version registered in its place was started before.
function Version:halt()
  self.state = "retiring"
  self.code:halt()
end

local function unload(self)
  if self.code.parts.on_unload then
    -- For an owner of its own: `on_unload` may wait, but must not count as a request, nor for ever.
    local owner = sched.owner()
    local run, message = task.background(owner, self.code.unload, self.code)
    local ok, code
    if run then ok, message, code = run:wait(self.opts.load_timeout_ms) end
    if code == "TIMEOUT" then
      owner:cut(self.path .. ": on_unload did not end")
      message = ("%s: still unloading after %d ms"):format(self.path, self.opts.load_timeout_ms)
    end
    if not ok then self.opts.on_trouble(self, "on_unload failed", message) end
  end
  self.code:release()
end

local function drain(self)
  local owner, idle = self.owner, sched.event()
  owner:on_idle(function() idle:set(true) end)
  local count
  if not idle:wait(self.opts.drain_ms) then
    count = owner:active()
    owner:cut(("%s: replaced, and not done within %d ms"):format(self.path, self.opts.drain_ms))
  end
  self.code:finish()
  self.state = count and "cut" or "retired"
  self.opts.on_end(self, count)
  unload(self)
end

--- Lets its requests end, then it. Goes on in the background.
function Version:retire()
  task.background(self.opts.owner, drain, self)
end

--- Gives it up before it served. `current` is the version that goes on: a state that both have is
--- left alone.
---@param current znl.Version|nil
function Version:drop(current)
  self.state = "dropped"
  local theirs = self.code
  theirs:abandon()
  local shared = current ~= nil and theirs.state ~= nil and theirs.state == current.code.state
  if theirs.is_prepared and not shared then
    task.background(self.opts.owner, unload, self)
  else
    theirs:release()
  end
end

return M
