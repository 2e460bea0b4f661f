--- znl.test.stage: the world of one test: a clock that stands, links without faults, a log that is
--- kept back, and everything stopped at its end.
---
--- What registers with `on_stop`, as nodes and handlers do, is stopped with the test, as the end of
--- the process would. Timers, listeners and tasks belong to the scope of the test and end with it.
--- SPDX-License-Identifier: MIT

local runtime = require("znl.core.runtime")
local scope = require("znl.versions.scope")
local sched = require("znl.core.sched")
local testing = require("znl.core.testing")
local uv = require("luv")
local where = require("znl.where")
local znl = require("znl")

local M = {}

--- Each test begins at this instant, 2024-01-01 00:00 UTC: what it does with time is the same every day.
M.START_UNIX_MS = 1704067200000

---@class znl.TestStage
---@field thread thread  the coroutine of the test
local Stage = {}
Stage.__index = Stage

local os_time, os_date = os.time, os.date

--- The two that read the system's clock and that scripts ask most.
local function follow_clock()
  os.time = function(value)
    if value ~= nil then return os_time(value) end
    return math.floor(sched.unix_ms() / 1000)
  end
  os.date = function(format, time)
    return os_date(format, time or os.time())
  end
end

local exit, os_exit = runtime.exit, os.exit

local function refuse_exit()
  error("a test cannot end the process: exit was called", 2)
end

--- A test that left would take those after it along, and all would seem well.
local function forbid_exit()
  runtime.exit, znl.exit, os.exit = refuse_exit, refuse_exit, refuse_exit
end

local function watch_stops(self)
  local on_stop = runtime.on_stop
  self.on_stop = on_stop
  local function register(fn)
    local forget = on_stop(fn)
    local entry = { fn = fn, forget = forget }
    self.stops[#self.stops + 1] = entry
    return function()
      entry.fn = nil
      forget()
    end
  end
  runtime.on_stop, znl.on_stop = register, register
end

---@return znl.TestStage
function M.open()
  local self = setmetatable({ stops = {}, deferred = {}, scope = assert(scope.new { name = "test" }) }, Stage)
  self.scope:commit()
  testing.reset()
  testing.freeze(M.START_UNIX_MS)
  testing.auto(true)
  testing.divert_log(true)
  follow_clock()
  forbid_exit()
  watch_stops(self)
  return self
end

--- Runs `fn()` at the end, before anything is stopped; the last one given comes first.
---@param fn fun()
function Stage:defer(fn)
  self.deferred[#self.deferred + 1] = fn
end

--- Runs `fn(...)` in a task of its own for at most `limit_ms` of real time. Yields.
---@param limit_ms integer
---@return boolean|nil ok  nil: it still runs
---@return any err  what it raised, as `handler` made it
function Stage:run(limit_ms, handler, fn, ...)
  local done = sched.event()
  local timer = uv.new_timer()
  timer:start(limit_ms, 0, function() done:set(nil) end)
  timer:unref() -- it is not what the clock waits for
  sched.spawn_owned(self.scope.owner, function(...)
    self.thread = coroutine.running()
    done:set(xpcall(fn, handler, ...))
  end, ...)
  local ok, err = done:wait()
  if not timer:is_closing() then timer:close() end
  return ok, err
end

local function each_newest(list, fn)
  for index = #list, 1, -1 do
    local ok, err = xpcall(fn, where.locate, list[index])
    list[index] = nil
    if not ok then return err end
  end
end

local function stop_all(stops)
  local left, done = 1, sched.event()
  local function one_less()
    left = left - 1
    if left == 0 then done:set() end
  end
  for index = #stops, 1, -1 do
    local entry = stops[index]
    if entry.fn then
      left = left + 1
      sched.spawn(function()
        local fn = entry.fn
        if fn then
          entry.forget()
          pcall(fn)
        end
        one_less()
      end)
    end
  end
  one_less()
  done:wait()
end

local function clean_up(self)
  local problem = each_newest(self.deferred, function(fn) fn() end)
  stop_all(self.stops)
  testing.advance(0) -- goodbyes are on their way
  return problem
end

--- Ends what the test began. Returns what went wrong on the way. Yields.
---@param limit_ms integer
---@return string|nil problem
function Stage:close(limit_ms)
  local problem
  local ok, err = self:run(limit_ms, where.locate, function() problem = clean_up(self) end)
  if ok == nil then problem = ("cleaning up took more than %d ms"):format(limit_ms) end
  if ok == false then problem = err end
  os.time, os.date = os_time, os_date
  runtime.exit, znl.exit, os.exit = exit, exit, os_exit
  runtime.on_stop, znl.on_stop = self.on_stop, self.on_stop
  self.scope:halt()
  self.scope.owner:cut("the test has ended")
  self.scope:finish()
  return problem
end

--- After the last test: time runs again, and the log goes where it went.
function M.leave()
  testing.reset()
  testing.thaw()
  testing.divert_log(false)
end

return M
