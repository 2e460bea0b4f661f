--- znl.test: tests of handlers and nodes, run by `znlrun test`.
---
---     local t = require("znl.test")
---
---     t.test("greets by name", function()
---       local app = t.handlers("handlers")
---       t.same(app:call("/greet", { name = "Ada" }), { greeting = "hello Ada" })
---     end)
---
--- A test runs in a task and may wait. The clock stands still and moves by itself, to the next
--- deadline, when everything waits: a handler that sleeps an hour answers at once. What a test starts
--- is stopped at its end.
--- SPDX-License-Identifier: MIT

local assertions = require("znl.test.assertions")
local options = require("znl.options")
local pair = require("znl.test.pair")
local sched = require("znl.core.sched")
local suite = require("znl.test.suite")
local testing = require("znl.core.testing")

local M = {
  fail = assertions.fail, equal = assertions.equal, not_equal = assertions.not_equal,
  same = assertions.same, ok = assertions.ok, fails = assertions.fails, error = assertions.error,
  match = assertions.match,
}

local function current(what)
  return suite.current() or error(what .. ": this file is run with: znlrun test FILE", 3)
end

local function loading(what)
  local running = current(what)
  if not running.is_loading then error(what .. " stands outside of tests", 3) end
  return running
end

local function in_test(what)
  local running = current(what)
  if not running.stage then error(what .. " stands inside of a test", 3) end
  return running.stage
end

local function check_name(what, name, fn)
  if type(name) ~= "string" or name == "" then error(what .. ": the name must be a text that is not empty", 3) end
  if type(fn) ~= "function" then error(("%s %q: needs a function, not a %s"):format(what, name, type(fn)), 3) end
end

---@class znl.TestOptions
---@field timeout_ms? integer  real time it may take, in place of --timeout-ms
---@field skip? string  why it is not run
local TEST_SPEC = {
  timeout_ms = { type = "integer", min = 1, max = 3600000 },
  skip = { type = "string", min = 1, max = 200 },
}

--- A test.
---@overload fun(name: string, fn: fun())
---@param name string
---@param opts znl.TestOptions
---@param fn fun()
function M.test(name, opts, fn)
  if fn == nil then opts, fn = nil, opts end
  check_name("t.test", name, fn)
  opts = options.read(TEST_SPEC, opts, "t.test", 2)
  loading("t.test"):add(name, opts, fn)
end

--- Tests that belong together; `before_each` and `after_each` inside concern only them.
---@param name string
---@param fn fun()
function M.group(name, fn)
  check_name("t.group", name, fn)
  loading("t.group"):nest(name, fn)
end

--- Runs `fn` before each test of the file, or of the group.
---@param fn fun()
function M.before_each(fn)
  if type(fn) ~= "function" then error("t.before_each: needs a function, not a " .. type(fn), 2) end
  loading("t.before_each"):hook("before", fn)
end

--- Runs `fn` after each test of the file, or of the group, also after a failed one.
---@param fn fun()
function M.after_each(fn)
  if type(fn) ~= "function" then error("t.after_each: needs a function, not a " .. type(fn), 2) end
  loading("t.after_each"):hook("after", fn)
end

--- Runs `fn` at the end of this test, the last one given first.
---@param fn fun()
function M.defer(fn)
  if type(fn) ~= "function" then error("t.defer: needs a function, not a " .. type(fn), 2) end
  in_test("t.defer"):defer(fn)
end

--- A master and a slave, started and connected in memory. Yields.
---@param opts? znl.TestPairOptions
---@return znl.TestPair
function M.pair(opts)
  in_test("t.pair")
  return pair.open(opts, 2)
end

--- Handlers behind a master, and a slave that asks it. Yields. Raises when they do not load.
---@param path string  a file or a folder, as for znl.handlers
---@param opts? znl.TestHandlersOptions
---@return znl.TestHandlers
function M.handlers(path, opts)
  in_test("t.handlers")
  return pair.handlers(path, opts, 2)
end

---@class znl.TestClock
local Clock = {}

--- Moves the time, and lets everything happen that is due meanwhile, in order. Yields.
---@param ms integer
function Clock.advance(_, ms) testing.advance(ms) end

--- Monotonic milliseconds.
---@return number
function Clock.now_ms() return sched.now_ms() end

--- Milliseconds since 1970.
---@return number
function Clock.unix_ms() return sched.unix_ms() end

--- Sets the wall clock.
---@param unix_ms number
function Clock.set(_, unix_ms) testing.freeze(unix_ms) end

M.clock = Clock

return M
