--- znl.cli.checkup: what is wrong with Lua files of a project, found without serving them.
---
--- A handler file is run as `znl.handlers` would: with the modules it requires, in a scope that is
--- given up afterwards, so that what it registers never starts. Its `on_load` is not called.
--- SPDX-License-Identifier: MIT

local code = require("znl.versions.code")
local global_names = require("znl.cli.global_names")
local modules = require("znl.versions.modules")
local options = require("znl.options")
local route_file = require("znl.routing.route_file")
local scope = require("znl.versions.scope")
local sched = require("znl.core.sched")
local source = require("znl.versions.source")
local uv = require("luv")

local M = {}

---@class znl.cli.Problem
---@field file string
---@field line? integer
---@field severity "error"|"warning"
---@field message string

---@class znl.cli.Checkup
---@field problems znl.cli.Problem[]
---@field routes {path: string, file: string}[]
local Checkup = {}
Checkup.__index = Checkup

---@class znl.cli.CheckupOptions
---@field limit_ms integer  how long running one file may take, real time
---@field is_run boolean  false: files are compiled only
---@field globals string[]  names that exist beside the usual ones

--- What every script finds, and some names of other programs that run the same files.
local function known_names(more)
  local known = {}
  for name in pairs(_G) do known[name] = true end
  for _, name in ipairs(more) do known[name] = true end
  return known
end

---@param opts znl.cli.CheckupOptions
---@return znl.cli.Checkup
function M.new(opts)
  return setmetatable({
    opts = opts, known = known_names(opts.globals), problems = {}, routes = {}, by_route = {}, seen = {},
  }, Checkup)
end

--- `message` may begin with a file and a line of its own, which then count.
local function add(self, severity, file, line, message)
  local at_file, at_line, rest = tostring(message):match("^([^\n:]+):(%d+): ([^\n]*)")
  if at_file and not line then
    message = rest
    -- A line of a module inside the binary, where a tail call left none of the file: no place at all.
    if uv.fs_stat(at_file) then file, line = at_file, tonumber(at_line) end
  end
  local prefix = file .. ": "
  if message:sub(1, #prefix) == prefix then message = message:sub(#prefix + 1) end
  local problem = { file = file, line = line, severity = severity, message = message:match("^[^\n]*") }
  local key = ("%s:%s:%s"):format(file, tostring(line), problem.message)
  if self.seen[key] then return end -- one module may fail for every file that requires it
  self.seen[key] = true
  self.problems[#self.problems + 1] = problem
end

local function check_globals(self, path, chunk)
  local set, told = {}, {}
  local uses = global_names.uses(chunk)
  for _, use in ipairs(uses) do
    if use.is_set then set[use.name] = true end
  end
  for _, use in ipairs(uses) do
    if not self.known[use.name] and not told[use.name] then
      if use.is_set then
        told[use.name] = true
        add(self, "warning", path, use.line, ("sets the global '%s'; is a local missing?"):format(use.name))
      elseif not set[use.name] then
        told[use.name] = true
        local names = {}
        for name in pairs(self.known) do names[#names + 1] = name end
        local nearest = options.nearest(use.name, names)
        add(self, "error", path, use.line, ("there is no global '%s'%s"):format(
          use.name, nearest and ("; is %s meant?"):format(nearest) or ""))
      end
    end
  end
end

--- Reads, compiles and lints a file; returns its text when it compiles.
local function check_text(self, path)
  local text, message = source.read(path)
  if not text then return nil, add(self, "error", path, nil, message) end
  local chunk
  chunk, message = load(text, "@" .. path, "t")
  if not chunk then return nil, add(self, "error", path, nil, message) end
  check_globals(self, path, chunk)
  return text
end

--- Calls `fn` in a task for at most `limit_ms` of real time. Yields.
local function in_time(limit_ms, fn)
  local done = sched.event()
  local timer = uv.new_timer()
  timer:start(limit_ms, 0, function() done:set(nil, ("is still running after %d ms"):format(limit_ms)) end)
  sched.spawn(function() done:set(fn()) end)
  local ok, message = done:wait()
  if not timer:is_closing() then timer:close() end
  return ok, message
end

local function run_handler(self, root, path, text)
  local store = modules.new {
    root = root, read = source.read, event = sched.event,
    scope = function(module_path, previous) return scope.new { name = module_path, previous = previous } end,
  }
  local stage = store:stage()
  local version, message = code.new { path = path, text = text, stage = stage }
  if not version then return add(self, "error", path, nil, message) end
  local ok
  ok, message = in_time(self.opts.limit_ms, function() return version:load(nil) end)
  version:abandon()
  stage:abandon()
  if not ok then add(self, "error", path, nil, message) end
end

--- Checks a handler file; `relative` is its name below the root of its handlers, if it has one. Yields.
---@param path string
---@param root string  where its modules are looked for first
---@param relative? string
function Checkup:handler(path, root, relative)
  if relative then self:route(path, relative) end
  local text = check_text(self, path)
  if text and self.opts.is_run then run_handler(self, root, path, text) end
end

--- Checks a file that is no handler: it is not run.
---@param path string
function Checkup:module(path)
  check_text(self, path)
end

--- Notes the route of a file.
---@param path string
---@param relative string
function Checkup:route(path, relative)
  local route, message = route_file.path(relative)
  if not route then
    return message and add(self, "error", path, nil, message)
  end
  local first = self.by_route[route]
  if first then
    return add(self, "error", path, nil, ("serves %s, which %s serves already"):format(route, first))
  end
  self.by_route[route] = path
  self.routes[#self.routes + 1] = { path = route, file = path }
end

--- How many problems of a severity there are.
---@param severity "error"|"warning"
---@return integer
function Checkup:count(severity)
  local count = 0
  for _, problem in ipairs(self.problems) do
    if problem.severity == severity then count = count + 1 end
  end
  return count
end

return M
