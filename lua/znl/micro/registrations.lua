--- znl.micro.registrations: the connections of a registry, and what each has registered (spec, sections 3.4
--- and 9).
---
---   accepted --> listed --closes, falls silent or is replaced--> unlisted --> closed
---
--- Whoever leaves is unlisted first and closed then: nobody is sent to it meanwhile. A registration belongs
--- to its connection, so that what an older one of the same address does late changes nothing. Observers
--- (a tool that looks) say so in a header and are not listed.
---
--- What a registry knew before it was started again is *restored*: listed without a connection, until the
--- address connects or `forget_restored` is called.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local connection = require("znl.micro.connection")

local M = {}

--- Who sends it is not listed.
M.OBSERVER_HEADER = "Znl-Observer"

---@class znl.RegistrationsOptions
---@field directory userdata  of znl.core.registry
---@field topics znl.TopicStore
---@field on_connected fun(client: znl.Client)
---@field on_disconnected fun(client: znl.Client, reason: string|nil)
---@field on_refused fun(reason: string, key: string)
---@field on_unlisted fun(client: znl.Client)  the same, first, and also of observers
---@field on_changed fun()  what is listed, or may be published, is another

---@class znl.Registrations
---@field clients table<string, znl.Client>  by key
local Registrations = {}
Registrations.__index = Registrations

---@param opts znl.RegistrationsOptions
---@return znl.Registrations
function M.new(opts)
  return setmetatable({
    opts = opts, directory = opts.directory, topics = opts.topics, clients = {}, by_conn = {}, by_id = {},
    restored = {}, restored_publishers = {}, observers = 0, count = 0,
  }, Registrations)
end

--- Takes a client out of the list, the topics and the table; the connection stays as it is.
local function unlist(self, client, reason)
  if not client.is_listed then return end
  client.is_listed = false
  if client.registration then
    self.directory:remove(client.registration)
    self.by_id[client.registration] = nil
  end
  if self.clients[client.key] == client then self.clients[client.key] = nil end
  self.topics:leave(client)
  self.opts.on_unlisted(client)
  self.opts.on_changed()
  if client.is_observer then return end
  self.opts.on_disconnected(client, reason)
end

local function observe(self, conn, host, port, namespace)
  self.observers = self.observers + 1
  local client = connection.new(conn, "observer-" .. self.observers, host, port, namespace)
  client.is_observer, client.is_listed = true, true
  conn:set_peer(client.key, client)
  self.by_conn[conn], self.count = client, self.count + 1
  return client
end

--- A connection that the other end opened. One whose path says nobody, or for which there is no room, is
--- closed.
---@param conn userdata
---@param path string
---@param headers? table<string, string>  names in lower case
---@return znl.Client|nil
function Registrations:accept(conn, path, headers)
  local host, port, namespace = address.from_path(path)
  -- Nodes encode what is not ASCII; bytes as they are could not be told to anybody in JSON.
  if not host or path:find("[\128-\255%c]") then
    conn:close()
    return nil
  end
  if headers and headers[M.OBSERVER_HEADER:lower()] then return observe(self, conn, host, port, namespace) end
  local key = address.key(host, port)
  local id, replaced, code = self.directory:add(namespace, host, port)
  if not id then
    self.opts.on_refused(code == "LIMIT" and "there is no room for more registrations"
      or "the path is empty or too long", key)
    conn:close()
    return nil
  end
  local before = replaced and self.by_id[replaced]
  if before then
    unlist(self, before, "replaced")
    before.conn:close()
  end
  if replaced then self.restored[replaced] = nil end
  local client = connection.new(conn, key, host, port, namespace)
  client.registration, client.is_listed = id, true
  conn:set_peer(key, client)
  self.by_conn[conn], self.by_id[id], self.clients[key] = client, client, client
  self.count = self.count + 1
  self.opts.on_changed()
  self.opts.on_connected(client)
  return client
end

--- A connection has ended.
---@param conn userdata
---@param reason string|nil
function Registrations:closed(conn, reason)
  local client = self.by_conn[conn]
  if not client then return end
  self.by_conn[conn], self.count = nil, self.count - 1
  unlist(self, client, reason)
end

--- The address of a client has registered elsewhere since.
---@param client znl.Client
function Registrations:displace(client)
  unlist(self, client, "replaced")
  client.conn:close()
end

-- --- what was known before -----------------------------------------------------------------------

--- Lists an address that is not connected yet.
---@return boolean  false: it is, or there is no room
function Registrations:restore(namespace, host, port)
  if self.directory:get(address.key(host, port)) then return false end
  local id = self.directory:add(namespace, host, port)
  if id then self.restored[id] = true end
  return id ~= nil
end

--- A registration has taken the place of this one.
---@param id number
function Registrations:replaced(id) self.restored[id] = nil end

--- Publishes for an address that is not connected yet.
---@return boolean
function Registrations:restore_publisher(key, topic, payload, revision)
  local member = self.restored_publishers[key]
  if not member then
    member = { key = key }
    self.restored_publishers[key] = member
  end
  return self.topics:declare(member, topic, payload, revision) ~= nil
end

--- The client speaks for itself about this topic.
---@param client znl.Client
---@param topic string
function Registrations:supersede(client, topic)
  local member = self.restored_publishers[client.key]
  if member then self.topics:undeclare(member, topic) end
end

--- Those who did not come back are gone.
---@return integer count  of addresses
function Registrations:forget_restored()
  local count = 0
  for id in pairs(self.restored) do
    if self.directory:remove(id) then count = count + 1 end
  end
  local publishers = self.restored_publishers
  self.restored, self.restored_publishers = {}, {}
  for _, member in pairs(publishers) do self.topics:leave(member) end
  if count > 0 or next(publishers) then self.opts.on_changed() end
  return count
end

--- Closes all of them, unlisted first.
function Registrations:close()
  local list = {}
  for conn in pairs(self.by_conn) do list[#list + 1] = conn end
  for _, conn in ipairs(list) do
    local client = self.by_conn[conn]
    if client then unlist(self, client, "stopped") end
    conn:close()
  end
  self:forget_restored()
end

return M
