--- Cores of znl.core.micro for one test: a server, a client, and what they reported.
--- SPDX-License-Identifier: MIT

local eventually = require("tests.lua.support.eventually")
local log = require("znl.core.log")
local micro = require("znl.core.micro")
local sched = require("znl.core.sched")
local znl = require("znl")

local Scene = {}
Scene.__index = Scene

local M = {}

--- A new scene; the log is silent until `close`.
function M.new()
  local self = setmetatable({ cores = {}, server_events = {}, client_events = {} }, Scene)
  self.level = znl.log.level()
  log.set_level("off")
  return self
end

--- A core that is stopped at the end; its events go to `list`, or to `options.on_event`.
function Scene:core(list, options)
  options = options or {}
  options.on_event = options.on_event or function(...) list[#list + 1] = { ... } end
  local core = assert(micro.new(options))
  self.cores[#self.cores + 1] = core
  return core
end

--- The server: it listens, and answers with `handler`.
function Scene:serve(handler, options)
  options = options or {}
  options.listen_host, options.listen_port = "127.0.0.1", 0
  self.server = self:core(self.server_events, options)
  self.server:set_handler(handler)
  assert(self.server:start())
  return self.server
end

--- A connection of the client to the server; or nil, message, code.
function Scene:connect(options)
  self.client = self.client or self:core(self.client_events)
  options = options or {}
  options.host, options.port = "127.0.0.1", self.server:port()
  return self.client:connect(options)
end

--- Server and client, and the connection of both.
function Scene:pair(handler, options, client_options)
  self:serve(handler, options)
  self.client = self.client or self:core(self.client_events, client_options)
  return assert(self:connect())
end

--- How often `name` was reported, and the last one.
function M.seen(list, name)
  local count, last = 0
  for _, event in ipairs(list) do
    if event[1] == name then count, last = count + 1, event end
  end
  return count, last
end

--- The other end, at the server, of the connection made last.
function Scene:inbound()
  eventually(function() return M.seen(self.server_events, "connection") > 0 end)
  return select(2, M.seen(self.server_events, "connection"))[2]
end

function Scene:close()
  for _, core in ipairs(self.cores) do core:stop() end
  sched.sleep(5)
  log.set_level(self.level)
end

return M
