--- znl.micro.registry_link: the connection of an application to its registry (spec, section 12), or to one
--- of several that answer for each other.
---
---   down --begin--> connecting --ok--> up --closes--> connecting (at once)
---                        \--failed--> waiting --`reconnect_ms`, with chance--> connecting
---
--- Of several it begins with one by chance and stays there. When that connection ends, or a look-up is not
--- answered, the next is tried, and all of them once before it waits; what was asked meanwhile is asked there.
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
--- With several registries: one that takes longer to connect, or to answer a look-up, is left for the next.
local NEXT_MS = 2000
--- With several, everybody who lost one of them comes to the next within this time, not at the same moment.
local SPREAD_MS = 100
--- After connecting, and once more when a connection nobody ended must have been found dead.
local LOOK_AT_MS = { 2000, 30000 }
--- A registry that lost us by a late close must see this one first, or it loses the next connection as well.
local LOST_MS = 300
--- Instances of one namespace that are left out in search of ourselves.
local SIEVE_MAX = 64

---@class znl.RegistryLinkAddress
---@field host string
---@field port integer
---@field tls? table
---@field headers? fun(path: string): table<string, string>  of a connection

---@class znl.RegistryLinkOptions
---@field core userdata
---@field owner any
---@field addresses znl.RegistryLinkAddress[]
---@field first? integer  the address it begins with; nil: one by chance
---@field namespace string
---@field own_key fun(): string
---@field path fun(): string
---@field reconnect_ms integer
---@field lookup_timeout_ms integer
---@field checks_listing boolean
---@field look_at_ms? integer[]  when it looks itself up, after connecting; tests are in a hurry
---@field on_up fun(client: znl.Client)  may yield
---@field on_change fun(is_up: boolean, reason: string|nil, key: string)
---@field log znl.Logger

---@class znl.RegistryLink
---@field client znl.Client|nil  while it is up
local Link = {}
Link.__index = Link

---@param opts znl.RegistryLinkOptions
---@return znl.RegistryLink
function M.new(opts)
  local count = #opts.addresses
  local self = setmetatable({
    opts = opts, client = nil, epoch = 0, log = opts.log, count = count, at = opts.first or balance.draw(count),
  }, Link)
  self.what = M.names(opts.addresses)
  return self
end

--- The addresses in one text.
---@param addresses znl.RegistryLinkAddress[]
---@return string
function M.names(addresses)
  local keys = {}
  for index, one in ipairs(addresses) do keys[index] = address.key(one.host, one.port) end
  return table.concat(keys, ", ")
end

local function go_on(self) self.at = self.at % self.count + 1 end

--- One attempt at one address. Yields.
local function connect_to(self, one)
  local opts, epoch = self.opts, self.epoch
  local path, key = opts.path(), address.key(one.host, one.port)
  local conn, message, code = opts.core:connect {
    host = address.bare(one.host), port = one.port, path = path, tls = one.tls,
    timeout_ms = self.count > 1 and NEXT_MS or CONNECT_MS, headers = one.headers and one.headers(path),
  }
  if not conn then
    -- The message names the address, too.
    local words = proof.explain(message):gsub("^connect: ", "")
    if words:sub(1, #key) ~= key then words = key .. ": " .. words end
    return nil, words, code
  end
  if epoch ~= self.epoch then
    conn:close()
    return nil, "the application was stopped", "STOPPED"
  end
  local client = connection.new(conn, key, one.host, one.port)
  client.is_registry = true
  conn:set_peer(key, client)
  client.gone, client.left = sched.event(), sched.event()
  self.pending, self.pending_conn = client, conn
  if not conn:is_open() then return nil, key .. ": the registry closed the connection", "CLOSED" end
  return client
end

--- One attempt at each address, from the one of now on. Yields.
local function connect(self)
  local epoch = self.epoch
  local messages, code = {}, nil
  for _ = 1, self.count do
    local client, message
    client, message, code = connect_to(self, self.opts.addresses[self.at])
    if client or epoch ~= self.epoch then return client, message, code end
    messages[#messages + 1] = message
    go_on(self)
  end
  return nil, table.concat(messages, "; "), code
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
      self.log.warn("the registry has lost this instance, connecting again", { registry = client.key })
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
  self.opts.on_change(true, nil, client.key)
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

--- Waits, shorter when the link is finished. Yields.
local function pause(self, wait_ms)
  self.waiting = sched.event()
  self.waiting:wait(math.max(1, math.floor(wait_ms)))
end

local function keep_up(self, epoch, client)
  while true do
    if client then
      serve(self, client)
      if not is_current(self, epoch) then return end
      if self.client == client then
        self.client = nil
        self.opts.on_change(false, client.reason, client.key)
      end
      begin_attempt(self)
      client.left:set(true)
      if client.is_lost then pause(self, LOST_MS) end
      if self.count > 1 then
        go_on(self)
        pause(self, SPREAD_MS * balance.draw(1000) / 1000)
      end
      if not is_current(self, epoch) then return end
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
      pause(self, most / 2 + most / 2 * balance.draw(1000) / 1000)
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
    return nil, "registry " .. message, code
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
  if client then
    client.left:set(true)
    self.opts.on_change(false, "stopped", client.key)
  end
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

--- Whether another registry may answer what this one did not; it is left then. Yields until it is.
local function leave(self, client, code, is_remote)
  if self.count == 1 or self.client ~= client then return self.count > 1 end
  if is_remote and code ~= "STOPPED" then return false end
  if client.conn:is_open() then
    if code ~= "TIMEOUT" and code ~= "STOPPED" then return false end
    self.log.warn("the registry does not answer, taking another", { registry = client.key, code = code })
    client.conn:close()
  end
  client.left:wait(NEXT_MS)
  return true
end

--- Asks the registry for an instance; of several, another one where it cannot be asked. Yields.
---@param namespace string
---@param exclude string[]|nil
---@return string|nil host
---@return any port  or a message
---@return string? code
function Link:find(namespace, exclude)
  local timeout_ms = self.opts.lookup_timeout_ms
  if self.count > 1 then timeout_ms = math.min(timeout_ms, NEXT_MS) end
  local found, message, code
  for _ = 1, self.count do
    local client, problem, problem_code = self:get()
    if not client then return nil, problem, problem_code end
    local is_remote
    found, message, code, is_remote = client.conn:request("/-/find", {
      namespace = namespace, exclude = exclude and json.array(exclude),
    }, timeout_ms)
    if code == nil or not leave(self, client, code, is_remote) then break end
  end
  if code == "TIMEOUT" then
    return nil, ("Registry /-/find timed out after %dms"):format(timeout_ms), code
  elseif code ~= nil then
    return nil, "Registry /-/find: " .. tostring(message), code
  elseif type(found) ~= "table" then
    return nil, "Namespace not found", "NOT_FOUND"
  end
  local problem = address.problem(found.host, found.port)
  if problem then return nil, "Invalid peer address from registry: " .. problem, "PROTO" end
  return found.host, found.port
end

return M
