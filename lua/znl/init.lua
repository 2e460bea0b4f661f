--- znl: masters and slaves that exchange messages, scripted in Lua.
---
---     local znl = require("znl")
---     local master = znl.master { id = "master-1", endpoint = "tcp://127.0.0.1:6003" }
---     master:handle(znl.handlers("handlers/echo.lua"))
---     assert(master:start())
---
--- Whatever waits yields its coroutine and blocks nobody else. What can happen to a correct program
--- returns `nil, message, code`; misuse raises.
--- SPDX-License-Identifier: MIT

local application = require("znl.roles.application")
local channel = require("znl.tasks.channel")
local client = require("znl.roles.client")
local cluster_client = require("znl.roles.cluster_client")
local dns = require("znl.system.dns")
local estate = require("znl.versions.estate")
local file = require("znl.system.file")
local group = require("znl.tasks.group")
local handlers = require("znl.versions.handlers")
local hub = require("znl.roles.hub")
local json = require("znl.json")
local log = require("znl.log")
local master = require("znl.roles.master")
local nats = require("znl.nats")
local node = require("znl.roles.node")
local middleware = require("znl.routing.middleware")
local options = require("znl.options")
local process = require("znl.system.process")
local queue = require("znl.roles.queue")
local registry = require("znl.roles.registry")
local retry = require("znl.roles.retry")
local router = require("znl.routing.router")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")
local secret = require("znl.secret")
local semaphore = require("znl.tasks.semaphore")
local server = require("znl.roles.server")
local shared = require("znl.workers.shared")
local slave = require("znl.roles.slave")
local task = require("znl.tasks.task")
local tcp = require("znl.system.tcp")
local timer = require("znl.tasks.timer")
local token = require("znl.tasks.token")
local topic = require("znl.roles.topic")
local transcode = require("znl.transcode")
local wait_group = require("znl.tasks.wait_group")
local websocket = require("znl.websocket")
local workers = require("znl.workers")

---@class znl
local M = {}

M.master = master.new
M.slave = slave.new
M.application = application.new
M.server = server.new
M.registry = registry.new
M.client = client
M.cluster_client = cluster_client.new
M.hub = hub.new
M.fields = cluster_client.fields
M.queue = queue.new
M.topic = topic.new
M.handlers = handlers.open
M.router = router.new
M.middleware = middleware
M.compose = middleware.compose
M.retry = retry.run
M.secret = secret.new
M.shared = shared.open
M.workers = workers.open

--- Stands for null in data that is JSON, where nil cannot be.
M.null = json.null
M.json = json

--- Values of cluster-client that Lua has no type for.
M.transcode = transcode
M.undefined = transcode.undefined
M.bytes = transcode.bytes
M.date = transcode.date

M.file = file
M.process = process
M.dns = dns
M.tcp = tcp
M.websocket = websocket
M.nats = nats

--- The node of this process with that id, the one made last when there are several; nil without.
---@type fun(id: string): znl.Master|znl.Slave|nil
M.node = node.find

M.spawn = task.spawn
M.all = group.all
M.race = group.race
M.timer = timer.once
M.every = timer.every
M.channel = channel.new
M.wait_group = wait_group.new
M.semaphore = semaphore.new

M.token = token.new
M.current_token = token.current
M.with = token.with
M.with_timeout = token.with_timeout
M.shield = token.shield

--- Waits. Yields.
---@type fun(ms: integer): true|nil, string?, string?  nil, message, code: it was cancelled
M.sleep = sched.sleep

--- Monotonic milliseconds, for measuring time.
---@type fun(): number
M.now_ms = sched.now_ms

---@class znl.Event
---@field wait fun(self, timeout_ms?: integer): ...  the values of `set`; nil, message, "TIMEOUT"|"CANCELLED"|"DEADLINE"
---@field set fun(self, ...): boolean  wakes all who wait; false when it was set already
---@field clear fun(self)  later waits wait again
---@field is_set fun(self): boolean

--- Something to wait for.
---@type fun(): znl.Event
M.event = sched.event

--- Calls `fn` in a coroutine when the process is told to end; returns how to take that back. What a
--- version of a handler file asks for ends with that version.
---@param fn fun()
---@return fun() forget
function M.on_stop(fn)
  if type(fn) ~= "function" then
    error("znl.on_stop: the argument must be a function, not a " .. type(fn), 2)
  end
  local bound = scope.bind(fn)
  return scope.register(function() return runtime.on_stop(bound) end)
end

--- What the version of the script before kept under this name, else what `make` returns. Under
--- `znlrun --watch` a value outlives reloads this way; elsewhere it is `make()`.
---@generic T
---@param name string
---@param make fun(): T
---@return T
function M.keep(name, make)
  if type(name) ~= "string" then error("znl.keep: the name must be a text, not a " .. type(name), 2) end
  if type(make) ~= "function" then error("znl.keep: needs a function that makes the value", 2) end
  return estate.take("keep", name, true, make, function() end)
end

--- The script that runs under `znlrun --watch`; nil elsewhere.
---@return znl.Script|nil
function M.script()
  local watched = package.loaded["znl.versions.script"]
  return watched and watched.running
end

--- Ends the process as a signal would, with this exit code.
---@type fun(code?: integer)
M.exit = runtime.exit

--- Versions of znlrun and the libraries in it.
---@type table<string, string>
M.version = runtime.version

---@type znl.Logger
M.log = log.new("script")

--- The native modules, for those who build a role of their own: `znl.core.crypto`, …
---@type table<string, table>
M.core = setmetatable({}, {
  __index = function(self, name)
    local module = require("znl.core." .. name)
    rawset(self, name, module)
    return module
  end,
})

--- A name that is not there is a mistake; saying so costs nothing where there is one.
return setmetatable(M, {
  __index = function(_, name)
    local names = {}
    for known in pairs(M) do names[#names + 1] = known end
    local nearest = options.nearest(name, names)
    error(("znl has no member %s%s"):format(
      tostring(name), nearest and ("; did you mean %s?"):format(nearest) or ""), 2)
  end,
})
