--- znl.console: what a running node tells, and does, for the operator.
---
---     znl.master { id = "m", …, console = true }            -- or { eval = true }
---
--- It answers routed calls under "/-/", which only peers of our own kind can make; on an encrypted
--- node they have thereby proved who they are, on a plain one anybody may ask. Off by default.
---
---   /-/stats     counters, versions, memory, tasks, slaves, latencies, limits
---   /-/routes    the routes of the handler
---   /-/reload    loads handlers again; { path = … } only that file
---   /-/eval      runs Lua, { code = … }; only with eval = true: who may call it owns the process
---
--- SPDX-License-Identifier: MIT

local latency = require("znl.console.latency")
local options = require("znl.options")
local router = require("znl.routing.router")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

--- Slaves that are listed by name; all are counted.
local SLAVES_MAX = 500

--- Options of a node that are limits, so worth showing beside what is used of them.
local LIMITS = {
  "max_concurrency", "max_queue", "max_pending", "max_peers", "handler_timeout_ms", "outbox_messages", "outbox_bytes",
  "max_message_bytes", "heartbeat_ms",
}

--- Of the text that eval takes, and of what it gives.
local CODE_BYTES_MAX = 64 * 1024
local ANSWER_BYTES_MAX = 256 * 1024

---@class znl.ConsoleOptions
---@field eval? boolean  run the Lua that a caller sends
local SPEC = { eval = { type = "boolean", default = false } }

---@class znl.Console
---@field private node znl.Node
---@field private role "master"|"slave"
---@field private latency znl.Latency
---@field private asked integer  calls so far
local Console = {}
Console.__index = Console

--- Reads the option `console`; nil when it is off. Raises for whoever is at `level`.
---@param value boolean|znl.ConsoleOptions|nil
---@param what string  the role
---@param level integer  as in `error`
---@return {eval: boolean}|nil
function M.read(value, what, level)
  if not value then return nil end
  local opts = options.read(SPEC, value ~= true and value or nil, what .. ": console", level + 1)
  return opts
end

local function memory()
  local used = uv.getrusage()
  return {
    rss_bytes = uv.resident_set_memory(), lua_bytes = runtime.counters().lua_bytes,
    cpu_ms = used and (used.utime.sec + used.stime.sec) * 1000 + (used.utime.usec + used.stime.usec) / 1000 or nil,
  }
end

local function counters_of(object)
  if type(object) ~= "table" then return nil end
  local ok, counters = pcall(function() return object.counters and object:counters() end)
  return ok and counters or nil
end

local ROUTES = {}

ROUTES["/-/stats"] = function(self)
  local node = self.node
  local slaves, listed
  if self.role == "master" then
    local all = node:slaves()
    slaves, listed = #all, {}
    for index = 1, math.min(#all, SLAVES_MAX) do listed[index] = all[index] end
  end
  local process = memory()
  local unix_s, unix_us = uv.gettimeofday()
  process.pid = uv.os_getpid()
  return {
    id = node.id, role = self.role, endpoint = node:endpoint(), encrypted = self.encrypted,
    uptime_ms = math.floor(sched.now_ms() - self.began_ms),
    clock_ms = math.floor(unix_s * 1000 + unix_us / 1000),
    versions = runtime.version, process = process, runtime = runtime.counters(),
    scheduler = sched.counters and sched.counters() or nil,
    counters = node:counters(), console = { asked = self.asked }, limits = self.limits, latency = self.latency:report(),
    eval = self.evaluation ~= nil, slave_count = slaves, slaves = listed, handlers = counters_of(node.source),
    master_online = self.role == "slave" and node:master_online() or nil,
  }
end

ROUTES["/-/routes"] = function(self)
  local handler = self.node.source
  if handler == nil then return { routes = {} } end
  if type(handler) ~= "table" or type(handler.routes) ~= "function" then
    return { routes = { { path = "/" } } }
  end
  return { routes = handler:routes() }
end

ROUTES["/-/reload"] = function(self, req)
  local handler = self.node.source
  if type(handler) ~= "table" or type(handler.reload) ~= "function" then
    return nil, "console: the handler of this node is not loaded from files", "NOT_FOUND"
  end
  local path = type(req.data) == "table" and req.data.path or nil
  if path ~= nil and type(path) ~= "string" then
    return nil, "console: path must be a text", "INVALID"
  end
  self.node.log.info("reload asked for by the console", { from = req.from })
  local ok, message = handler:reload(path)
  if not ok then return nil, tostring(message), "FAILED" end
  return { reloaded = true }
end

--- A `print` that adds lines to `parts`.
local function printer(parts)
  local size = 0
  return function(...)
    local words = {}
    for index = 1, select("#", ...) do words[index] = tostring((select(index, ...))) end
    local line = table.concat(words, "\t") .. "\n"
    if size <= ANSWER_BYTES_MAX then parts[#parts + 1] = line end
    size = size + #line
  end
end

--- What a run prints goes to its caller; what it assigns stays for the runs that follow.
local function eval(self, req)
  local code = type(req.data) == "table" and req.data.code
  if type(code) ~= "string" then return nil, "console: eval takes { code = text }", "INVALID" end
  if #code > CODE_BYTES_MAX then
    return nil, ("console: eval takes at most %d bytes"):format(CODE_BYTES_MAX), "TOO_BIG"
  end
  self.node.log.info("the console runs Lua", { from = req.from, bytes = #code })
  local parts = {}
  local environment = setmetatable({ print = printer(parts) }, {
    __index = self.environment, __newindex = self.environment,
  })
  local chunk, message = self.evaluation.compile(code, environment)
  if not chunk then return { ok = false, text = message } end
  local ok, result = self.evaluation.run(chunk)
  local text = table.concat(parts) .. result
  if #text > ANSWER_BYTES_MAX then
    text = text:sub(1, ANSWER_BYTES_MAX) .. ("… %d bytes in all"):format(#text)
  end
  return { ok = ok, text = text }
end

--- Makes the console of a node and lets it answer.
---@param node znl.Node
---@param role "master"|"slave"
---@param config table  the options of the node, of which keys are not kept
---@param opts {eval: boolean}
---@return znl.Console
function M.install(node, role, config, opts)
  local self = setmetatable({
    node = node, role = role, encrypted = config.encrypted or false, latency = latency.new(),
    limits = {}, asked = 0, began_ms = sched.now_ms(), router = router.new(),
  }, Console)
  for _, name in ipairs(LIMITS) do self.limits[name] = config[name] end
  for path, handler in pairs(ROUTES) do
    self.router:route(path, function(req) return handler(self, req) end)
  end
  if opts.eval then
    -- Here, because it brings the library, of which this is a part.
    self.evaluation = require("znl.console.evaluation")
    self.environment = self.evaluation.environment()
    self.environment.node = node
    self.router:route("/-/eval", function(req) return eval(self, req) end)
    node.log.warn("the console runs Lua for whoever may call it", {
      endpoint = config.endpoint, encrypted = self.encrypted,
    })
  end
  self.answer = function(req)
    self.asked = self.asked + 1
    return self.router:dispatch(req)
  end
  return self
end

--- The handler, with its time taken.
---@param handler fun(req: znl.Request): ...
---@return fun(req: znl.Request): ...
function Console:measured(handler)
  local hrtime, latencies = uv.hrtime, self.latency
  local function finish(began, ...)
    latencies:add((hrtime() - began) / 1000)
    return ...
  end
  return function(req) return finish(hrtime(), handler(req)) end
end

return M
