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

local dns = require("znl.dns")
local file = require("znl.file")
local handlers = require("znl.handlers")
local log = require("znl.log")
local master = require("znl.roles.master")
local node = require("znl.roles.node")
local middleware = require("znl.middleware")
local process = require("znl.process")
local retry = require("znl.retry")
local router = require("znl.router")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local secret = require("znl.secret")
local shared = require("znl.shared")
local slave = require("znl.roles.slave")
local tcp = require("znl.tcp")

---@class znl
local M = {}

M.master = master.new
M.slave = slave.new
M.handlers = handlers.open
M.router = router.new
M.middleware = middleware
M.compose = middleware.compose
M.retry = retry.run
M.secret = secret.new
M.shared = shared.open

M.file = file
M.process = process
M.dns = dns
M.tcp = tcp

--- The node of this process with that id, the one made last when there are several; nil without.
---@type fun(id: string): znl.Master|znl.Slave|nil
M.node = node.find

--- Runs `fn(...)` in a coroutine of its own, at once until it first waits.
---@type fun(fn: function, ...: any)
M.spawn = sched.spawn

--- Waits. Yields.
---@type fun(ms: integer)
M.sleep = sched.sleep

--- Monotonic milliseconds, for measuring time.
---@type fun(): number
M.now_ms = sched.now_ms

--- Something to wait for: `e:wait(timeout_ms)` yields until `e:set(...)` was called and returns its
--- values; nil, message, "TIMEOUT" when it was not in time.
---@type fun(): table
M.event = sched.event

--- Calls `fn` in a coroutine when the process is told to end; returns how to take that back.
---@type fun(fn: fun()): fun()
M.on_stop = runtime.on_stop

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

return M
