--- znl.test.suite: finds the tests of files and runs them, one after the other.
---
--- A file registers its tests while it is run, in an environment and with modules of its own. Each
--- test then gets a stage of its own.
--- SPDX-License-Identifier: MIT

local assertions = require("znl.test.assertions")
local stage = require("znl.test.stage")
local testing = require("znl.core.testing")
local uv = require("luv")
local where = require("znl.where")

local M = {}

---@class znl.TestResult
---@field file string
---@field name string  groups and name, joined by " > "
---@field line integer
---@field status "passed"|"failed"|"skipped"
---@field ms number  of real time
---@field message? string
---@field detail? string
---@field source? string  the line that failed
---@field at? integer
---@field log? string  what was logged meanwhile, when it failed

---@class znl.TestSuite
---@field cases table[]
local Suite = {}
Suite.__index = Suite

---@class znl.TestSuiteOptions
---@field limit_ms integer  real time a test may take

---@param opts znl.TestSuiteOptions
---@return znl.TestSuite
function M.new(opts)
  return setmetatable({ opts = opts, cases = {} }, Suite)
end

--- Modules of the project are loaded anew for each file; those of znlrun stay.
local function snapshot()
  local names = {}
  for name in pairs(package.loaded) do names[name] = true end
  return names
end

local carried = package.loaders[2]

local function is_carried(name)
  if package.preload[name] then return true end
  local ok, loader = pcall(carried, name)
  return ok and type(loader) == "function"
end

local function forget_modules(names)
  for name in pairs(package.loaded) do
    -- A module in C keeps state that a second load would not expect.
    local value = package.loaded[name]
    if not names[name] and not is_carried(name) and type(value) ~= "userdata" then
      package.loaded[name] = nil
    end
  end
end

local function line_of(fn)
  return debug.getinfo(fn, "S").linedefined
end

--- Registers a test of the file being loaded.
function Suite:add(name, opts, fn)
  local group = self.group
  self.cases[#self.cases + 1] = {
    file = self.file, name = group.prefix .. name, group = group, fn = fn, line = line_of(fn),
    limit_ms = opts.timeout_ms, skip = opts.skip,
  }
end

--- Registers what `fn` registers under a common name.
function Suite:nest(name, fn)
  local outer = self.group
  self.group = { prefix = outer.prefix .. name .. " > ", outer = outer, before = {}, after = {} }
  local ok, err = xpcall(fn, where.locate)
  self.group = outer
  if not ok then error(err, 0) end
end

--- The file being loaded, or the test being run; raises when there is neither.
function Suite:hook(kind, fn)
  local hooks = self.group[kind]
  hooks[#hooks + 1] = fn
end

--- What `znl.test` works on; nil outside of a run.
---@return znl.TestSuite|nil
function M.current() return M.running end

local function describe(err)
  if assertions.is_failure(err) then
    return { message = err.message, detail = err.detail, source = err.source, at = err.line }
  end
  local source, line, message = tostring(err):match("^([^\n]-):(%d+): (.*)$")
  return { message = message or tostring(err), source = source, at = tonumber(line) }
end

--- Message handler: keeps failures, locates everything else and says by which way it came.
local function on_error(err)
  if assertions.is_failure(err) then return err end
  return where.locate(err)
end

local function load_file(path)
  local environment = setmetatable({}, { __index = _G })
  environment._G = environment
  local chunk, message = loadfile(path, "t", environment)
  if not chunk then error(message, 0) end
  chunk()
end

--- Runs a file, which registers its tests. Yields.
---@param path string
---@return znl.TestResult|nil failure  when it cannot be run
function Suite:load(path)
  self.file = path
  self.group = { prefix = "", before = {}, after = {} }
  local first = #self.cases + 1
  local modules = snapshot()
  local at = stage.open()
  M.running, self.is_loading = self, true
  local ok, err = at:run(self.opts.limit_ms, on_error, load_file, path)
  self.is_loading = false
  local problem = at:close(self.opts.limit_ms)
  self.group = nil
  for index = first, #self.cases do self.cases[index].modules = modules end
  if ok and not problem then return nil end
  while #self.cases >= first do table.remove(self.cases) end
  local failure = ok and { message = problem } or describe(ok == nil and
    ("the file was still running after %d ms"):format(self.opts.limit_ms) or err)
  failure.file, failure.name, failure.line = path, "(the file itself)", failure.at or 1
  failure.status, failure.ms = "failed", 0
  return failure
end

local function chain(group)
  local list = {}
  while group do
    table.insert(list, 1, group)
    group = group.outer
  end
  return list
end

local function run_case(case)
  local groups = chain(case.group)
  for _, group in ipairs(groups) do
    for _, fn in ipairs(group.before) do fn() end
  end
  case.fn()
end

local function run_after(case)
  local groups = chain(case.group)
  for index = #groups, 1, -1 do
    for _, fn in ipairs(groups[index].after) do fn() end
  end
end

local function judge(case, at, limit_ms)
  local foreign
  assertions.listen(function(failure)
    if coroutine.running() ~= at.thread then foreign = foreign or failure end
  end)
  local ok, err = at:run(limit_ms, on_error, run_case, case)
  local failure
  if ok == nil then
    failure = { message = ("still running after %d ms"):format(limit_ms) }
  elseif not ok then
    failure = describe(err)
  end
  ok, err = at:run(limit_ms, on_error, run_after, case)
  if not failure and ok ~= true then
    failure = ok == nil and { message = ("after_each took more than %d ms"):format(limit_ms) } or describe(err)
  end
  local problem = at:close(limit_ms)
  if not failure and foreign then failure = describe(foreign) end
  if not failure and problem then failure = describe(problem) end
  assertions.listen(nil)
  return failure
end

--- Runs one test. Yields.
---@return znl.TestResult
function Suite:run(case)
  local result = { file = case.file, name = case.name, line = case.line, status = "passed", ms = 0 }
  if case.skip then
    result.status, result.message = "skipped", case.skip
    return result
  end
  M.running = self
  local began = uv.hrtime()
  local at = stage.open()
  self.stage = at
  local failure = judge(case, at, case.limit_ms or self.opts.limit_ms)
  self.stage = nil
  result.ms = (uv.hrtime() - began) / 1e6
  local log = testing.take_log()
  if not failure then return result end
  for name, value in pairs(failure) do result[name] = value end
  result.status = "failed"
  result.at, result.source = result.at or result.line, result.source or result.file
  if log ~= "" then result.log = log end
  return result
end

--- After the last test of a file: its modules are forgotten.
---@param first integer  its first case
function Suite:forget(first)
  local case = self.cases[first]
  if case then forget_modules(case.modules) end
end

return M
