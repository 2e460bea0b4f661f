--- znl.micro.links: the connections of a server by the key of their other end, "host:port" (spec, section 3.4).
---
---   dialled or accepted --> current --closes--> gone; an older one of the same key takes its place
---                              \--a newer one--> retired --its requests are done--> closed
---
--- Two nodes that dial each other at the same moment have two connections. Nodes of ours keep the one that
--- the smaller key has opened, both ends the same. Originals keep the later one, each its own, and close the
--- other: so with them nothing is closed here before they did, or nothing is under way.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local connection = require("znl.micro.connection")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

local CONNECT_MS = 5000
--- Two connections made within that time, one each way, were opened at the same moment.
local SIMULTANEOUS_MS = CONNECT_MS
--- How long a retired connection stays though nothing is under way: the other end may be about to use it.
local GRACE_MS = 1000
--- How long it stays at most.
local RETIRED_MAX_MS = 30000
local LOOK_MS = 50

---@class znl.LinksOptions
---@field core userdata  of znl.core.micro
---@field owner any  for tasks in the background
---@field own_key fun(): string
---@field path fun(): string  by which connections of ours say who we are
---@field tls? table  how to dial
---@field on_connected fun(client: znl.Client)
---@field on_disconnected fun(client: znl.Client, reason: string|nil)
---@field on_replaced? fun(before: znl.Client, client: znl.Client)
---@field log znl.Logger

---@class znl.Links
---@field clients table<string, znl.Client>  by key
local Links = {}
Links.__index = Links

---@param opts znl.LinksOptions
---@return znl.Links
function M.new(opts)
  return setmetatable({
    core = opts.core, owner = opts.owner, own_key = opts.own_key, path = opts.path, tls = opts.tls, log = opts.log,
    on_connected = opts.on_connected, on_disconnected = opts.on_disconnected,
    on_replaced = opts.on_replaced or function() end, clients = {}, retired = {}, by_conn = {}, dialling = {},
    epoch = 0,
  }, Links)
end

local function is_idle(client)
  return client.conn:pending() == 0 and client.conn:jobs() == 0
end

--- Closes a replaced connection as soon as nobody needs it.
local function wait_idle(self, client, grace_ms)
  local began = sched.now_ms()
  while client.is_retired and client.conn:is_open() do
    local age_ms = sched.now_ms() - began
    if age_ms >= RETIRED_MAX_MS or (age_ms >= grace_ms and is_idle(client)) then
      client.conn:close()
      return
    end
    if not sched.sleep(LOOK_MS) then return end
  end
  -- Current again, or closed by the other end.
  if self.retired[client.key] == client and not client.is_retired then self.retired[client.key] = nil end
end

local function retire(self, client, grace_ms)
  local before = self.retired[client.key]
  if before and before ~= client then before.conn:close() end -- two of one key are enough
  client.is_retired = true
  self.retired[client.key] = client
  if grace_ms == 0 and is_idle(client) then
    client.conn:close()
  else
    task.background(self.owner, wait_idle, self, client, grace_ms)
  end
end

--- The key of the end that opened it.
local function opener_of(self, client)
  return client.is_inbound and client.key or self.own_key()
end

local function enter(self, client)
  self.clients[client.key] = client
  self.on_connected(client)
end

--- Takes in a connection that is new; returns the one to use for its key.
local function adopt(self, client)
  client.since_ms = sched.now_ms()
  client.conn:set_peer(client.key, client)
  self.by_conn[client.conn] = client
  local before = self.clients[client.key]
  if not before then
    enter(self, client)
    return client
  end
  local crossed = before.is_inbound ~= client.is_inbound and client.since_ms - before.since_ms < SIMULTANEOUS_MS
  local grace_ms = crossed and GRACE_MS or 0
  if crossed and client.conn:is_ours() and opener_of(self, before) < opener_of(self, client) then
    retire(self, client, grace_ms)
    return before
  end
  self.clients[client.key] = client
  self.on_replaced(before, client)
  self.on_disconnected(before, "replaced")
  self.on_connected(client)
  retire(self, before, grace_ms)
  return client
end

--- A connection that the other end opened. One whose path says nobody is closed.
---@param conn userdata
---@param path string
---@return znl.Client|nil
function Links:accept(conn, path)
  local host, port, namespace = address.from_path(path)
  if not host then
    conn:close()
    return nil
  end
  return adopt(self, connection.new(conn, address.key(host, port), host, port, namespace))
end

--- A connection has ended.
---@param conn userdata
---@param reason string|nil
---@return znl.Client|nil client  nil: none of these
function Links:closed(conn, reason)
  local client = self.by_conn[conn]
  if not client then return nil end
  self.by_conn[conn] = nil
  local key = client.key
  client.is_retired = nil
  if self.retired[key] == client then self.retired[key] = nil end
  if self.clients[key] ~= client then return client end
  local older = self.retired[key]
  if older and older.conn:is_open() then
    self.retired[key], older.is_retired = nil, nil
    self.clients[key] = older
    self.on_replaced(client, older)
    self.on_disconnected(client, reason)
    self.on_connected(older)
    return client
  end
  self.clients[key] = nil
  self.on_disconnected(client, reason)
  return client
end

local function dial(self, key, host, port, attempt, timeout_ms)
  local epoch = self.epoch
  local ok, conn, message, code = xpcall(self.core.connect, where.locate, self.core, {
    host = address.bare(host), port = port, path = self.path(), timeout_ms = timeout_ms, tls = self.tls,
  })
  if not ok then conn, message, code = nil, conn, "FAILED" end
  self.dialling[key] = nil
  if conn and epoch ~= self.epoch then
    conn:close()
    conn, message, code = nil, "stopped", "STOPPED"
  end
  if not conn then return attempt:set(nil, message, code) end
  attempt:set(adopt(self, connection.new(conn, key, host, port)))
end

--- The connection to an address, dialled when there is none. Those who ask for one address at a time share
--- an attempt. Yields.
---@param host string
---@param port integer
---@param timeout_ms? integer
---@return znl.Client|nil client
---@return string? message
---@return string? code
function Links:connect(host, port, timeout_ms)
  local key = address.key(host, port)
  local client = self.clients[key]
  if client and client.conn:is_open() then return client end
  local attempt = self.dialling[key]
  if not attempt then
    attempt = sched.event()
    self.dialling[key] = attempt
    timeout_ms = timeout_ms or CONNECT_MS
    local run, message, code = task.background(self.owner, dial, self, key, host, port, attempt, timeout_ms)
    if not run then
      self.dialling[key] = nil
      return nil, message, code
    end
  end
  local message, code
  client, message, code = attempt:wait()
  if not client then return nil, message, code end
  -- The other end may have dialled meanwhile, and its connection taken the place of this one.
  local current = self.clients[key]
  return current and current.conn:is_open() and current or client
end

--- Closes all of them, those that are still dialled too.
function Links:close()
  self.epoch = self.epoch + 1
  local list = {}
  for conn in pairs(self.by_conn) do list[#list + 1] = conn end
  for _, conn in ipairs(list) do conn:close() end
end

return M
