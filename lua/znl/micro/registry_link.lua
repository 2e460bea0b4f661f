--- znl.micro.registry_link: the connection of an application to its registry (spec, section 12).
---
---   down --begin--> connecting --ok--> up --closes--> connecting (at once)
---                        \--failed--> waiting --`reconnect_ms`, with chance--> connecting
---
--- Being connected is being registered. A registry of release 1.0.5 may forget an application that came
--- back before its old connection had ended there (section 24, 2), so an application looks itself up after
--- connecting to one that is not ours, and connects anew when it is missing.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local balance = require("znl.micro.balance")
local connection = require("znl.micro.connection")
local json = require("znl.json")
local proof = require("znl.micro.proof")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")

local M = {}

local CONNECT_MS = 5000
--- After connecting, and once more when a connection nobody ended must have been found dead.
local LOOK_AT_MS = { 2000, 30000 }
--- A registry that lost us by a late close must see this one first, or it loses the next connection as well.
local LOST_MS = 300
--- Instances of one namespace that are left out in search of ourselves.
local SIEVE_MAX = 64

---@class znl.RegistryLinkOptions
---@field core userdata
---@field owner any
---@field host string
---@field port integer
---@field tls? table
---@field headers? fun(path: string): table<string, string>  of a connection
---@field namespace string
---@field own_key fun(): string
---@field path fun(): string
---@field reconnect_ms integer
---@field lookup_timeout_ms integer
---@field checks_listing boolean
---@field look_at_ms? integer[]  when it looks itself up, after connecting; tests are in a hurry
---@field on_up fun(client: znl.Client)  may yield
---@field on_change fun(is_up: boolean, reason: string|nil)
---@field log znl.Logger

---@class znl.RegistryLink
---@field client znl.Client|nil  while it is up
local Link = {}
Link.__index = Link

---@param opts znl.RegistryLinkOptions
---@return znl.RegistryLink
function M.new(opts)
  local self = setmetatable({ opts = opts, client = nil, epoch = 0, log = opts.log }, Link)
  self.what = address.key(opts.host, opts.port)
  return self
end

--- One attempt. Yields.
local function connect(self)
  local opts, epoch = self.opts, self.epoch
  local path = opts.path()
  local conn, message, code = opts.core:connect {
    host = address.bare(opts.host), port = opts.port, path = path, timeout_ms = CONNECT_MS, tls = opts.tls,
    headers = opts.headers and opts.headers(path),
  }
  if not conn then return nil, proof.explain(message), code end
  if epoch ~= self.epoch then
    conn:close()
    return nil, "the application was stopped", "STOPPED"
  end
  local client = connection.new(conn, self.what, opts.host, opts.port)
  client.is_registry = true
  conn:set_peer(self.what, client)
  client.gone = sched.event()
  self.pending, self.pending_conn = client, conn
  if not conn:is_open() then return nil, "the registry closed the connection", "CLOSED" end
  return client
end

--- Whether the registry names us; nil when it cannot be told.
local function is_listed(self, client)
  local exclude, own = {}, self.opts.own_key()
  for _ = 1, SIEVE_MAX do
    local found, message, code = client.conn:request("/-/find", {
      namespace = self.opts.namespace, exclude = json.array(exclude),
    }, self.opts.lookup_timeout_ms)
    if code ~= nil then return nil, message end
    if type(found) ~= "table" then return false end
    local problem = address.problem(found.host, found.port)
    if problem then return nil, problem end
    local key = address.key(found.host, found.port)
    if key == own then return true end
    exclude[#exclude + 1] = key
  end
end

local function check_listing(self, client)
  local waited = 0
  for _, at_ms in ipairs(self.opts.look_at_ms or LOOK_AT_MS) do
    if client.gone:wait(at_ms - waited) ~= nil or self.client ~= client then return end
    waited = at_ms
    if is_listed(self, client) == false and self.client == client then
      self.log.warn("the registry has lost this instance, connecting again", { registry = self.what })
      client.is_lost = true
      client.conn:close()
      return
    end
  end
end

--- The connection is there: tells those who must know, and waits for its end. Yields.
local function serve(self, client)
  self.client, self.is_connecting = client, false
  self.settled:set(true)
  self.opts.on_change(true)
  if self.opts.checks_listing and not client.conn:is_ours() then
    task.background(self.opts.owner, check_listing, self, client)
  end
  self.opts.on_up(client)
  client.gone:wait()
end

local function is_current(self, epoch) return self.epoch == epoch end

local function begin_attempt(self)
  self.is_connecting = true
  self.settled = sched.event()
end

local function keep_up(self, epoch, client)
  while true do
    if client then
      serve(self, client)
      if not is_current(self, epoch) then return end
      if self.client == client then
        self.client = nil
        self.opts.on_change(false, client.reason)
      end
      begin_attempt(self)
      if client.is_lost then
        self.waiting = sched.event()
        self.waiting:wait(LOST_MS)
        if not is_current(self, epoch) then return end
      end
    end
    local message
    client, message = connect(self)
    if not is_current(self, epoch) then return end
    if not client then
      self.is_connecting = false
      self.settled:set(false, message)
      if not self.has_warned then
        self.has_warned = true
        self.log.warn("the registry cannot be reached, trying on", { registry = self.what, error = message })
      end
      -- Chance, or everybody would come back to a restarted registry at the same moment.
      local most = self.opts.reconnect_ms
      self.waiting = sched.event()
      self.waiting:wait(math.max(1, math.floor(most / 2 + most / 2 * balance.draw(1000) / 1000)))
      if not is_current(self, epoch) then return end
      begin_attempt(self)
    else
      self.has_warned = false
    end
  end
end

--- Connects, and keeps connected from then on. Yields until the first attempt has ended.
---@return true|nil ok
---@return string? message
---@return string? code
function Link:begin()
  self.epoch = self.epoch + 1
  self.has_warned = false
  begin_attempt(self)
  local epoch = self.epoch
  local client, message, code = connect(self)
  if not is_current(self, epoch) then return nil, "the application was stopped", "STOPPED" end
  if not client then
    self.is_connecting = false
    -- The message names the address, too.
    local words = message:gsub("^connect: ", "")
    if words:sub(1, #self.what) ~= self.what then words = self.what .. ": " .. words end
    return nil, "registry " .. words, code
  end
  local run, problem, problem_code = task.background(self.opts.owner, keep_up, self, epoch, client)
  if not run then return nil, problem, problem_code end
  return true
end

--- Keeps trying from now on, without a first attempt to wait for.
function Link:begin_later()
  self.epoch = self.epoch + 1
  begin_attempt(self)
  task.background(self.opts.owner, keep_up, self, self.epoch, nil)
end

--- Ends the connection and all attempts.
function Link:finish()
  self.epoch = self.epoch + 1
  self.is_connecting = false
  if self.settled then self.settled:set(false, "the application was stopped") end
  if self.waiting then self.waiting:set(true) end
  local client, pending = self.client, self.pending
  self.client, self.pending = nil, nil
  if pending then
    pending.conn:close()
    pending.gone:set(true)
  end
  if client then self.opts.on_change(false, "stopped") end
end

--- A connection has ended; true when it was this one.
---@param conn userdata
---@param reason string|nil
---@return boolean
function Link:closed(conn, reason)
  local client = self.pending
  if not client or client.conn ~= conn then return false end
  client.reason = reason
  client.gone:set(true)
  return true
end

--- The connection, waited for while an attempt is under way. Yields.
---@return znl.Client|nil client
---@return string? message
---@return "UNREACHABLE"? code
function Link:get()
  if not self.client and self.is_connecting then self.settled:wait(self.opts.lookup_timeout_ms) end
  if self.client then return self.client end
  return nil, "Registry not found", "UNREACHABLE"
end

--- Asks the registry for an instance. Yields.
---@param namespace string
---@param exclude string[]|nil
---@return string|nil host
---@return any port  or a message
---@return string? code
function Link:find(namespace, exclude)
  local client, problem, problem_code = self:get()
  if not client then return nil, problem, problem_code end
  local timeout_ms = self.opts.lookup_timeout_ms
  local found, message, code = client.conn:request("/-/find", {
    namespace = namespace, exclude = exclude and json.array(exclude),
  }, timeout_ms)
  if code == "TIMEOUT" then
    return nil, ("Registry /-/find timed out after %dms"):format(timeout_ms), code
  elseif code ~= nil then
    return nil, "Registry /-/find: " .. tostring(message), code
  elseif type(found) ~= "table" then
    return nil, "Namespace not found", "NOT_FOUND"
  end
  problem = address.problem(found.host, found.port)
  if problem then return nil, "Invalid peer address from registry: " .. problem, "PROTO" end
  return found.host, found.port
end

return M
