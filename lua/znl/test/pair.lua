--- znl.test.pair: a master and slaves on a link in memory, for one test.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local testing = require("znl.core.testing")
local znl = require("znl")

local M = {}

local KEY = "the key of a test"

---@class znl.TestPairOptions
---@field encrypted? boolean  proofs and sealed payloads
---@field master? znl.MasterOptions  what differs from the usual options
---@field slave? znl.SlaveOptions
local PAIR_SPEC = {
  encrypted = { type = "boolean", default = false },
  master = { type = "table" },
  slave = { type = "table" },
}

---@class znl.TestPair
---@field master znl.Master  with the id "master"
---@field slave znl.Slave  with the id "slave"
---@field endpoint string  sim://…
local Pair = {}
Pair.__index = Pair

local function merge(defaults, more)
  local all = {}
  for name, value in pairs(defaults) do all[name] = value end
  for name, value in pairs(more or {}) do all[name] = value end
  return all
end

local function security(self)
  return { encrypted = self.encrypted, auth_key = self.encrypted and KEY or nil }
end

--- One more slave, started and connected. Yields.
---@param id string
---@param opts? znl.SlaveOptions
---@return znl.Slave
function Pair:add_slave(id, opts)
  local config = merge(security(self), opts)
  config.id, config.endpoint = config.id or id, self.endpoint
  local slave = znl.slave(config)
  assert(slave:start())
  testing.advance(0)
  if not self.master:is_online(config.id) then
    error(("t.pair: slave %s did not come on line"):format(config.id), 2)
  end
  return slave
end

--- While on, nothing passes; what was sent meanwhile arrives afterwards.
---@param on boolean
---@param slave_id? string  only between the master and this one
function Pair:partition(on, slave_id) testing.partition(self.endpoint, on, slave_id) end

--- Ends connections; slaves connect again by themselves.
---@param slave_id? string
---@return integer count
function Pair:disconnect(slave_id) return testing.disconnect(self.endpoint, slave_id) end

--- Messages get lost or take their time from now on; see znl.core.testing.
---@param faults {drop_permille?: integer, delay_ms?: integer, jitter_ms?: integer, seed?: integer}
function Pair:faults(faults) testing.faults(self.endpoint, faults) end

---@param opts? znl.TestPairOptions
---@param level integer
---@return znl.TestPair
function M.open(opts, level)
  opts = options.read(PAIR_SPEC, opts, "t.pair", level + 1)
  local self = setmetatable({ encrypted = opts.encrypted }, Pair)
  self.master = znl.master(merge(merge(security(self), { id = "master", endpoint = "sim://*" }), opts.master))
  assert(self.master:start())
  self.endpoint = self.master:endpoint()
  self.slave = self:add_slave("slave", opts.slave)
  return self
end

---@class znl.TestHandlersOptions : znl.TestPairOptions
---@field handlers? znl.HandlersOptions
---@field side? "master"|"slave"  who has the handlers; the other one asks
local HANDLERS_SPEC = options.extend(PAIR_SPEC, {
  handlers = { type = "table" },
  side = { type = "string", pattern = "^%l+$", default = "master", allowed = '"master" or "slave"',
    check = function(side) return side == "master" or side == "slave" end },
})

---@class znl.TestHandlers : znl.TestPair
---@field handlers znl.Handlers
local Handlers = setmetatable({}, { __index = Pair })
Handlers.__index = Handlers

--- Sends a request. Yields.
---@param payload? znl.Payload
---@param opts? znl.RequestOptions
---@return znl.Payload|nil answer
---@return string? message
---@return string? code
function Handlers:request(payload, opts)
  if self.side == "slave" then return self.master:request(self.slave.id, payload, opts) end
  return self.slave:request(payload, opts)
end

--- Calls a route, with JSON. Yields.
---@param route string
---@param data? any
---@param opts? table
---@return any answer
---@return string? message
---@return string? code
function Handlers:call(route, data, opts)
  if self.side == "slave" then return self.master:call(self.slave.id, route, data, opts) end
  return self.slave:call(route, data, opts)
end

---@param path string
---@param opts? znl.TestHandlersOptions
---@param level integer
---@return znl.TestHandlers
function M.handlers(path, opts, level)
  opts = options.read(HANDLERS_SPEC, opts, "t.handlers", level + 1)
  local ok, handlers = pcall(znl.handlers, path, opts.handlers)
  if not ok then error((tostring(handlers):gsub("^[^\n]-:%d+: ", "")), level) end
  local self = M.open({ encrypted = opts.encrypted, master = opts.master, slave = opts.slave }, level)
  self.handlers, self.side = handlers, opts.side
  self[opts.side]:handle(handlers)
  return setmetatable(self, Handlers)
end

return M
