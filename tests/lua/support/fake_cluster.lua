--- Stands in for znl.core.cluster: servers, channels and links of several processes in one, over the clock of a
--- fake_core. What crosses a connection is copied.
---
---   local net = fake_cluster.new()
---   local a, b = net:process(), net:process()
---   net.fake:run(function()
---     local client = a.cluster_client.new { … }
---     a:kill()                    -- as SIGKILL: its connections end, it does nothing any more
---   end)
--- SPDX-License-Identifier: MIT

local fake_core = require("support.fake_core")
local json = require("znl.json")

local M = {}

---@class FakeNet
---@field fake FakeCore
local Net = {}
Net.__index = Net

local function copy(value)
  if type(value) == "function" or type(value) == "thread" then return nil, "a " .. type(value) end
  if type(value) ~= "table" then return value end
  local result = {}
  for key, inner in pairs(value) do
    local its, problem = copy(inner)
    if problem then return nil, problem .. " at " .. tostring(key) end
    result[key] = its
  end
  return result
end

-- --- server and channel --------------------------------------------------------------------------

local Server, Channel, Link = {}, {}, {}
Server.__index, Channel.__index, Link.__index = Server, Channel, Link

local function is_dead(process) return process.is_dead end

function Server:close()
  local net = self.net
  if net.servers[self.key] == self then net.servers[self.key] = nil end
  for link in pairs(self.links) do link:break_off("the leader closed it") end
end

function Server:channel(opts)
  if self.channels[opts.name] then return nil, "channel: it exists", "EXISTS" end
  local channel = setmetatable({
    server = self, opts = opts, waiting = {}, members = {}, keys_by_name = {}, process = self.process, at_work = 0,
  }, Channel)
  self.channels[opts.name] = channel
  return channel
end

function Channel:raise(...)
  if is_dead(self.process) then return end
  return self.opts.on_event(...)
end

function Channel:set_handler(fn, owner) self.handler, self.owner = fn, owner end

function Channel:answer()
  local waiting = self.waiting
  self.waiting = {}
  for _, link in ipairs(waiting) do self:register(link) end
end

function Channel:register(link)
  if self.state == nil then
    self.waiting[#self.waiting + 1] = link
  elseif self.state then
    self.members[link] = true
    link.registered:set({ success = true }, link.answer_extension)
    self:raise("joined", 1, link.name)
  else
    link.registered:set({ success = false, error = self.refusal })
  end
end

function Channel:ready(ok, err)
  if self.server.net.ready_fails then return nil, "ready: the task failed", "FAILED" end
  self.state, self.refusal = ok, err
  self:answer()
  return true
end

local function tell(member, channel, key, value)
  if member == channel then return channel:raise("value", key, copy(value)) end
  channel.server.net.fake:later(0, function() member:raise("value", key, copy(value)) end)
end

function Channel:subscribe_member(member, key, text)
  local entry = self.keys_by_name[key]
  if not entry then
    entry = { members = {} }
    self.keys_by_name[key] = entry
    entry.members[member] = true
    local reg
    if text then reg = select(2, json.decode(text)) end
    self:raise("key", key, reg, text)
    return true
  end
  entry.members[member] = true
  if entry.has_value then tell(member, self, key, entry.value) end
  return true
end

function Channel:subscribe(key, text) return self:subscribe_member(self, key, text) end
function Channel:unsubscribe(key)
  local entry = self.keys_by_name[key]
  if entry then entry.members[self] = nil end
  return true
end

function Channel:publish(key, value)
  local entry = self.keys_by_name[key]
  if not entry then return nil, "publish: nobody", "NOT_FOUND" end
  local copied, problem = copy(value)
  if problem then return nil, problem, "INVALID" end
  entry.has_value, entry.value = true, copied
  local count = 0
  for member in pairs(entry.members) do
    count = count + 1
    tell(member, self, key, copied)
  end
  return count
end

function Channel:drain() return self.at_work end
function Channel.counters() return { joined = 0 } end
function Channel:keys()
  local list = {}
  for key in pairs(self.keys_by_name) do list[#list + 1] = { key = key } end
  return list
end

function Channel:close()
  if self.server.channels[self.opts.name] == self then self.server.channels[self.opts.name] = nil end
  for link in pairs(self.members) do link:break_off("the leader closed it") end
  for _, link in ipairs(self.waiting) do link:break_off("the leader closed it") end
end

-- --- link ----------------------------------------------------------------------------------------

function Link:raise(...)
  if is_dead(self.process) or self.is_silent then return end
  return self.on_event(...)
end

function Link:break_off(reason)
  if not self.open then return end
  self.open = false
  self.server.links[self] = nil
  local channel = self.channel
  if channel then
    if channel.members[self] then channel:raise("left", 1, self.name, reason) end
    channel.members[self] = nil
    for _, entry in pairs(channel.keys_by_name) do entry.members[self] = nil end
  end
  self.net.fake:later(0, function()
    self:raise("closed", reason, "CLOSED")
    for pending in pairs(self.calls) do pending:set(nil, "link: " .. reason, "CLOSED") end
    self.registered:set(nil, "link: " .. reason, "CLOSED")
  end)
end

function Link:close()
  self.is_silent = true
  self:break_off("closed here")
end

function Link:is_open() return self.open end
function Link:begin() self.beats = true end
function Link.counters() return { sent = 0 } end

function Link:register(name, timeout_ms, extension)
  self.net.registrations = self.net.registrations + 1
  local channel = self.channel or self.server.channels[name]
  if channel and not self.channel then
    if channel.opts.check_registration then
      local ok, found = channel:raise("registration", 1, copy(extension), self.name)
      if not ok then return { success = false, error = { name = "AuthenticationError", message = found } } end
      self.answer_extension = found
    end
    self.channel = channel
    channel:register(self)
  elseif not channel and not is_dead(self.server.process) then
    self.server.on_event("unclaimed", name, self.name)
  end
  return self.registered:wait(timeout_ms)
end

local function run_method(link, method, n, arguments, done)
  local channel = link.channel
  channel.at_work = channel.at_work + 1
  local request = { method = method, args = arguments, from = link.name }
  request.args.n = n
  local results = { pcall(channel.handler, request) }
  channel.at_work = channel.at_work - 1
  if is_dead(channel.process) then return end
  if not results[1] then
    local raised = results[2]
    local err = type(raised) == "table" and raised or { message = tostring(raised), name = "Error" }
    channel:raise("error", tostring(err.message), "handler", method, link.name)
    return done(nil, err.message, err.code, copy(err))
  end
  if results[2] == nil and (results[3] or results[4]) then
    local err = results[5] or { message = results[3], code = results[4], name = "Error" }
    return done(nil, err.message, err.code, copy(err))
  end
  done((copy(results[2])))
end

local function arguments_of(n, ...)
  local list = { ... }
  for index = 1, n do
    local value, problem = copy(list[index])
    if problem then return nil, problem end
    list[index] = value
  end
  return list
end

function Link:invoke(method, timeout_ms, n, ...)
  if not self.open then return nil, "link: closed", "CLOSED" end
  local arguments, problem = arguments_of(n, ...)
  if not arguments then return nil, problem, "INVALID" end
  local fake = self.net.fake
  local answered = self.process.sched.event()
  self.calls[answered] = true
  fake:later(1, function()
    if is_dead(self.server.process) then return end
    self.net.calls[#self.net.calls + 1] = method
    run_method(self, method, n, arguments, function(...)
      if self.open then answered:set(true, ...) end
    end)
  end)
  local function finish(ok, ...)
    self.calls[answered] = nil
    if ok == true then return ... end
    return nil, ...
  end
  return finish(answered:wait(timeout_ms))
end

--- `net.room`: how many requests a link takes in the same millisecond.
local function is_full(link)
  local net = link.net
  if not net.room then return false end
  if link.full_at ~= net.fake.now then link.full_at, link.taken = net.fake.now, 0 end
  link.taken = link.taken + 1
  return link.taken > net.room
end

function Link:oneway(method, _, n, ...)
  if not self.open then return nil, "link: closed", "CLOSED" end
  if is_full(self) then return nil, "link: no room", "BUSY" end
  local arguments, problem = arguments_of(n, ...)
  if not arguments then return nil, problem, "INVALID" end
  self.net.fake:later(0, function()
    if is_dead(self.server.process) then return end
    self.net.calls[#self.net.calls + 1] = method
    run_method(self, method, n, arguments, function() end)
  end)
  return true
end

function Link:subscribe(key, text)
  if not self.open then return nil, "link: closed", "CLOSED" end
  if is_full(self) then return nil, "link: no room", "BUSY" end
  self.net.fake:later(0, function()
    if self.open then self.channel:subscribe_member(self, key, text) end
  end)
  return true
end

function Link:unsubscribe(key)
  local entry = self.channel and self.channel.keys_by_name[key]
  if entry then entry.members[self] = nil end
  return true
end

-- --- processes -----------------------------------------------------------------------------------

local function key_of(opts) return opts.path or opts.host .. ":" .. opts.port end

local function core_of(net, process)
  local core = {}
  function core.listen(opts)
    if is_dead(process) then return nil, "listen: dead", "SYSTEM" end
    local key = key_of(opts)
    if net.listen_fails then return nil, "listen: not here", "ADDRESS" end
    if net.servers[key] then return nil, "listen: in use", "ADDRESS_IN_USE" end
    local server = setmetatable({
      net = net, key = key, process = process, channels = {}, links = {}, on_event = opts.on_event, opts = opts,
    }, Server)
    net.servers[key] = server
    net.elections[#net.elections + 1] = process
    return server
  end
  function core.connect(opts)
    net.connects = net.connects + 1
    process.sched.sleep(1)
    local server = net.servers[key_of(opts)]
    if not server then return nil, "connect: refused", "UNREACHABLE" end
    local link = setmetatable({
      net = net, server = server, process = process, on_event = opts.on_event, open = true, calls = {},
      name = "follower", registered = process.sched.event(), opts = opts,
    }, Link)
    server.links[link] = true
    return link
  end
  return core
end

local Process = {}
Process.__index = Process

--- As SIGKILL.
function Process:kill()
  self.is_dead = true
  for _, server in pairs(self.net.servers) do
    for link in pairs(server.links) do
      if link.process == self or server.process == self then link:break_off("reset by peer") end
    end
    if server.process == self then self.net.servers[server.key] = nil end
  end
end

--- A further process: the library again, with a state of its own.
function Net:process()
  local fake = self.fake
  local process = setmetatable({ net = self, is_dead = false, sched = fake.modules["znl.core.sched"] }, Process)
  fake.modules["znl.core.cluster"] = core_of(self, process)
  fake.modules["znl.core.transcode"] = {
    encode = function(value)
      local copied, problem = copy(value)
      if problem then return nil, problem, "INVALID" end
      return { copied }
    end,
    decode = function(boxed) return boxed[1] end,
  }
  fake.loaded = {}
  process.cluster_client = fake:require("znl.roles.cluster_client")
  process.real_client = fake:require("znl.cluster.real_client")
  process.scope, process.estate = fake:require("znl.versions.scope"), fake:require("znl.versions.estate")
  return process
end

---@return FakeNet
function M.new()
  local fake = fake_core.new()
  return setmetatable({ fake = fake, servers = {}, calls = {}, elections = {}, connects = 0, registrations = 0 }, Net)
end

return M
