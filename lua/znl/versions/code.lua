--- znl.versions.code: one text of a handler file, loaded in this Lua state.
---
---   new -> load -> prepare -> commit -> halt -> finish -> unload -> release
---             \________\_________\_____> abandon -> release
---
--- What a version needs of the place its code runs in. Another place (znl.reload takes one as
--- `backend`) offers `new` and the same methods, and as fields `call(req)`, `owner` (counts the
--- requests), `parts` (limits and whether there is an `on_unload`), `state` and `is_prepared`.
--- SPDX-License-Identifier: MIT

local modules = require("znl.versions.modules")
local scope = require("znl.versions.scope")
local source = require("znl.versions.source")
local where = require("znl.where")

local M = {}

---@class znl.Code
---@field call fun(req: znl.Request): ...  after `prepare`
---@field owner any  its requests run for it
---@field parts znl.HandlerParts  after `load`
---@field state any  what `on_load` returned
local Code = {}
Code.__index = Code

---@class znl.CodeOptions
---@field path string
---@field text string
---@field stage znl.ModuleStage  where its modules come from
---@field previous? znl.Code  the one in service

---@param opts znl.CodeOptions
---@return znl.Code|nil
---@return string? message
function M.new(opts)
  local self = setmetatable({ path = opts.path, text = opts.text }, Code)
  local message
  self.scope, message = scope.new { name = opts.path, previous = opts.previous and opts.previous.scope }
  if not self.scope then return nil, message end
  self.owner = self.scope.owner
  self.stage = opts.stage
  self.user = opts.stage.modules:user(opts.path, opts.stage)
  return self
end

local function load_here(self, before)
  local environment = source.environment(modules.require_for(self.user), self.owner)
  local chunk, message = source.compile(self.path, self.text, environment)
  if not chunk then return nil, message end
  local ok, product = xpcall(chunk, where.locate)
  if not ok then return nil, product end
  local parts
  parts, message = source.shape(self.path, product)
  if not parts then return nil, message end
  ok, message = xpcall(self.stage.carry, where.locate, self.stage, self.user, before)
  if not ok then return nil, message end
  return parts
end

local function in_scope(self, fn, ...)
  local ok, result, message = self.scope:run(fn, ...)
  if not ok then return nil, tostring(result) end
  return result, message
end

--- Compiles, runs and checks the text. Yields.
---@param previous znl.Code|nil
---@return true|nil ok
---@return string? message  with file and line
function Code:load(previous)
  local parts, message = in_scope(self, load_here, self, previous and previous.user)
  self.parts = parts
  return parts and true, message
end

local function prepare_here(self, state)
  if not self.parts.on_load then return true end
  local ok, result = xpcall(self.parts.on_load, where.locate, state)
  if not ok then return nil, result end
  self.state, self.is_prepared = result, true
  return true
end

--- Runs `on_load` with the state of the version in service. Yields.
---@param state any
---@return true|nil ok
---@return string? message
function Code:prepare(state)
  local ok, message = in_scope(self, prepare_here, self, state)
  if not ok then return nil, message end
  local handle = self.parts.handle
  local mine = self.state
  self.call = mine == nil and handle or function(req) return handle(req, mine) end
  return true
end

--- Starts what it registered while it loaded: the last thing that can fail. Does not yield. Its
--- modules were committed before.
---@return true|nil ok
---@return string? message
function Code:commit()
  local ok, message = self.scope:commit()
  if ok then self.user.stage, self.stage = nil, nil end
  return ok, message
end

--- Out of service: its timers, listeners and subscriptions end.
function Code:halt() self.scope:halt() end

--- Its last request ended: what runs in the background ends, too, and handles of luv, unless `on_unload`
--- is to find them open.
function Code:finish() self.scope:finish(self.parts.on_unload ~= nil) end

--- Runs `on_unload`. Yields.
---@return true|nil ok
---@return string? message
function Code:unload()
  local ok, message = xpcall(self.parts.on_unload, where.locate, self.state)
  return ok or nil, not ok and message or nil
end

--- Gives up its modules: the last thing that happens to it.
function Code:release()
  self.scope:close_handles()
  modules.release(self.user)
end

--- Never in service: what it began is dropped. `on_unload` is left to the caller.
function Code:abandon()
  local keeps_handles = self.is_prepared and self.parts.on_unload ~= nil
  if self.scope.state == "staged" then self.scope:abandon(keeps_handles) else self.scope:finish(keeps_handles) end
end

--- True when a module it uses was replaced without it.
function Code:is_stale() return modules.is_stale(self.user) end

--- The paths of the modules it required itself.
---@return table<string, any>
function Code:modules_used() return self.user.deps end

return M
