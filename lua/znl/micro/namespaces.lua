--- znl.micro.namespaces: the connections of a caller, by namespace: look-ups, several instances each, what to
--- do when the registry cannot help (spec, section 13).
---
---   no entry --get--> looking up --found and connected--> entry with one client, more are looked for
---   entry --its last connection closes--> no entry; the addresses are remembered
---
--- One look-up for each namespace and exclude list; it goes on when those who asked for it are gone. A
--- registry that cannot be reached costs nothing while a connection is left, and addresses that were good
--- before are tried before a call fails.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local balance = require("znl.micro.balance")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

--- Instances that are found but do not answer are left out, so many times in one look-up.
local DIALS_MAX = 4
--- Addresses remembered for each namespace, and namespaces with such.
local REMEMBERED_MAX = 8
local NAMESPACES_MAX = 10000
local NOTHING = {}

---@class znl.NamespacesOptions
---@field find fun(namespace: string, exclude: string[]|nil): string|nil, any, string?  asks the registry: host,
---  port; or nil, message, code: "NOT_FOUND" when it says that there is none. Yields
---@field dial fun(host: string, port: integer): table|nil, string?, string?  a client. Yields
---@field connections integer  instances wanted for each namespace
---@field balance znl.Balance
---@field owner any  look-ups run for it, in the background
---@field exact boolean  as the originals: what is excluded is forgotten, one dial for each look-up
---@field log znl.Logger

---@class znl.NamespaceEntry
---@field clients table[]
---@field count integer
---@field single table|nil  the client, when there is one
---@field used boolean  since it was last looked for more
---@field lookups table<string, table>  by exclude list

---@class znl.Namespaces : znl.InstanceSource
---@field entries table<string, znl.NamespaceEntry>
local Namespaces = {}
Namespaces.__index = Namespaces

---@param opts znl.NamespacesOptions
---@return znl.Namespaces
function M.new(opts)
  local self = setmetatable({
    find = opts.find, dial = opts.dial, connections = opts.connections, owner = opts.owner, exact = opts.exact,
    log = opts.log, draw = balance.CHOICES[opts.balance], entries = {}, remembered = {}, remembered_count = 0,
  }, Namespaces)
  return self
end

-- --- clients -------------------------------------------------------------------------------------

local function is_in(list, key)
  for index = 1, #list do
    if list[index] == key then return true end
  end
  return false
end

local function counted(entry)
  entry.count = #entry.clients
  entry.single = entry.count == 1 and entry.clients[1] or nil
end

local function drop_if_empty(self, entry)
  if entry.count == 0 and next(entry.lookups) == nil and self.entries[entry.namespace] == entry then
    self.entries[entry.namespace] = nil
  end
end

--- The address was good: it is tried first should the registry be gone.
local function remember(self, namespace, client)
  local keys = self.remembered[namespace]
  if not keys then
    if self.remembered_count >= NAMESPACES_MAX then
      self.remembered, self.remembered_count = {}, 0
    end
    keys = {}
    self.remembered[namespace] = keys
    self.remembered_count = self.remembered_count + 1
  end
  for index = #keys, 1, -1 do
    if keys[index] == client.key then table.remove(keys, index) end
  end
  table.insert(keys, 1, client.key)
  keys[REMEMBERED_MAX + 1] = nil
end

local function add(self, entry, client)
  remember(self, entry.namespace, client)
  for _, other in ipairs(entry.clients) do
    if other == client then return end
  end
  table.insert(entry.clients, client)
  counted(entry)
end

--- A connection has closed: nobody is given it any more.
---@param client table
function Namespaces:remove(client)
  for _, entry in pairs(self.entries) do
    for index = #entry.clients, 1, -1 do
      if entry.clients[index] == client then
        table.remove(entry.clients, index)
        counted(entry)
      end
    end
    drop_if_empty(self, entry)
  end
end

--- Another connection leads to the same instance from now on.
---@param before table
---@param client table
function Namespaces:replace(before, client)
  for _, entry in pairs(self.entries) do
    for index, other in ipairs(entry.clients) do
      if other == before then entry.clients[index] = client end
    end
    counted(entry)
  end
end

--- One of the connections that is not excluded.
local function choose(self, entry, exclude)
  if exclude == nil or #exclude == 0 then
    if entry.count > 1 then return self.draw(entry.clients, entry.count) end
    return entry.clients[1]
  end
  local left = {}
  for _, client in ipairs(entry.clients) do
    if not is_in(exclude, client.key) then left[#left + 1] = client end
  end
  if #left > 1 then return self.draw(left, #left) end
  return left[1]
end

-- --- look-ups ------------------------------------------------------------------------------------

--- Dials addresses that were good once.
local function dial_remembered(self, namespace, exclude)
  for _, key in ipairs({ unpack(self.remembered[namespace] or NOTHING) }) do
    if not is_in(exclude, key) then
      local client = self.dial(address.parse(key))
      if client then
        self.log.info("connected without the registry", { namespace = namespace, peer = key })
        return client
      end
    end
  end
end

local function copy_of(list)
  return list and { unpack(list) }
end

--- Asks and dials. Yields.
local function look_up(self, namespace, exclude)
  local left_out = copy_of(exclude)
  local message, code
  for _ = 1, self.exact and 1 or DIALS_MAX do
    local host, port, find_code = self.find(namespace, left_out)
    if not host then
      if find_code ~= "NOT_FOUND" and not self.exact then
        local client = dial_remembered(self, namespace, left_out or NOTHING)
        if client then return client end
      end
      if message and find_code == "NOT_FOUND" then return nil, message, code end -- the one found did not answer
      return nil, port, find_code
    end
    local client
    client, message, code = self.dial(host, port)
    if client then return client end
    left_out = left_out or {}
    left_out[#left_out + 1] = address.key(host, port)
  end
  return nil, message, code
end

local function run_lookup(self, entry, name, lookup, exclude)
  local ok, client, message, code = xpcall(look_up, where.locate, self, entry.namespace, exclude)
  if not ok then client, message, code = nil, client, "FAILED" end
  entry.lookups[name] = nil
  if client and client.conn:is_open() and not client.is_retired then add(self, entry, client) end
  drop_if_empty(self, entry)
  lookup:set(client, message, code)
end

--- The look-up under way for this exclude list, or a new one.
local function begin(self, entry, exclude)
  local name = exclude and table.concat(exclude, " ") or "-"
  local lookup = entry.lookups[name]
  if lookup then return lookup end
  lookup = sched.event()
  entry.lookups[name] = lookup
  local run, message, code = task.background(self.owner, run_lookup, self, entry, name, lookup, exclude)
  if not run then
    entry.lookups[name] = nil
    lookup:set(nil, message, code)
  end
  return lookup
end

--- Looks for a further instance of the namespace, in the background.
local function look_for_more(self, entry)
  entry.used = false
  if entry.is_growing or entry.count == 0 or entry.count >= self.connections then return end
  entry.is_growing = true
  local run = task.background(self.owner, function()
    while entry.count > 0 and entry.count < self.connections and self.entries[entry.namespace] == entry do
      local known = {}
      for index, client in ipairs(entry.clients) do known[index] = client.key end
      local before = entry.count
      local client = begin(self, entry, known):wait()
      if not client or entry.count <= before then break end
    end
    entry.is_growing = false
  end)
  if not run then entry.is_growing = false end
end

--- Looks for further instances of the namespaces that were used since; now and then.
function Namespaces:grow()
  for _, entry in pairs(self.entries) do
    if entry.used then look_for_more(self, entry) end
  end
end

--- A connection to an instance. With `fallback` false it is none that is excluded, even when there is no
--- other. Yields.
---@param namespace string
---@param exclude? string[]  keys
---@param fallback? boolean
---@param until_ms? number  when the caller stops waiting; the look-up goes on
---@return table|nil client
---@return string? message
---@return "NOT_FOUND"|"UNREACHABLE"|"TIMEOUT"|"CLOSED"|"STOPPED"|string? code
function Namespaces:get(namespace, exclude, fallback, until_ms)
  local entry = self.entries[namespace]
  if entry then
    local client = choose(self, entry, exclude)
    if client then
      entry.used = true
      return client
    end
  else
    entry = { namespace = namespace, clients = {}, count = 0, used = true, lookups = {} }
    self.entries[namespace] = entry
  end
  local excluded = entry.clients
  if self.exact then
    entry.clients = {}
    counted(entry)
  end
  local lookup = begin(self, entry, copy_of(exclude))
  local client, message, code = lookup:wait(until_ms and math.max(0, math.ceil(until_ms - sched.now_ms())))
  if code == "TIMEOUT" and not lookup:is_set() then message = "no instance of " .. namespace .. " answered in time" end
  if client then
    entry.used = true
    look_for_more(self, entry)
    return client
  end
  -- Gone as well by now, perhaps.
  for _, other in ipairs(excluded) do
    if fallback ~= false and other.conn:is_open() then
      if self.exact then
        self.entries[namespace] = entry
        add(self, entry, other)
      end
      return other
    end
  end
  return nil, message, code
end

--- What there are entries for, also such that are still looked up, in alphabetical order.
---@return string[]
function Namespaces:list()
  local names = {}
  for namespace in pairs(self.entries) do names[#names + 1] = namespace end
  table.sort(names)
  return names
end

--- Forgets all connections; who waits for one hears so when the owner ends.
function Namespaces:clear()
  for namespace, entry in pairs(self.entries) do
    entry.clients = {}
    counted(entry)
    self.entries[namespace] = nil
  end
end

return M
