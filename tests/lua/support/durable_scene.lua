--- What tests of queues and topics need around them: a nats-server with JetStream, a connection to it, and an end for
--- what they open. SPDX-License-Identifier: MIT

local nats = require("znl.nats")
local nats_server = require("support.nats_server")
local znl = require("znl")

local Scene = {}
Scene.__index = Scene

local M = {}

function M.new() return setmetatable({ count = 0 }, Scene) end

--- Before all tests; quiet, since they break things on purpose. Yields.
function Scene:open()
  self.level = znl.log.level()
  znl.log.set_level("off")
  self.server = nats_server.start { jetstream = true }
  self.bus = assert(nats.connect { servers = self.server.url })
  return self.server, self.bus
end

--- After all tests.
function Scene:close()
  self.bus:close()
  self.server:remove()
  znl.log.set_level(self.level)
end

--- Before each test: a list for what it opens, and a number nobody had.
function Scene:begin()
  self.opened, self.count = {}, self.count + 1
  return self.opened, self.count
end

--- After each test.
function Scene:finish()
  for _, one in ipairs(self.opened) do one:stop(0) end
end

return M
