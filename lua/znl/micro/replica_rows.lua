--- znl.micro.replica_rows: what the other registries of a cluster hold, in the directory and the topics of this one.
---
--- Each *owner* (a registry) has rows, which it alone writes:
---
---     r  key, namespace, host, port, stamp, since    an application that is connected there
---     p  key, topic, revision, payload               what one publishes there
---     v  topic, stamp, writer, payload               the value of a topic of the configuration
---
--- An address is listed once: as the client that is connected here, else as the row with the highest stamp. A newer
--- registration elsewhere ends an older one here: the application has moved. When an owner is *gone* its rows
--- stay, as *orphans*, until its applications have come back elsewhere or `forget` is called; a registration with
--- a registry that is there takes the place of an orphan for good. An older row of a registry that is there is
--- *over*: that one will remove it, or is about to be gone.
---
--- Never yields. What other registries send is checked here, row by row. SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local json = require("znl.json")

local M = {}

local STAMP_MAX = 2 ^ 52
local NAME_BYTES_MAX = 4096
--- What a row costs beside its payload, for the limit on bytes.
local ROW_BYTES = 256

---@class znl.ReplicaRowsOptions
---@field id string  of this registry
---@field log znl.ReplicaLog  its own rows
---@field directory userdata
---@field topics znl.TopicStore
---@field registrations znl.Registrations
---@field values znl.ReplicaValues
---@field max_rows integer  of one owner
---@field max_bytes integer  of the payloads of one owner
---@field now fun(): number, number  of the loop and since 1970, both in milliseconds
---@field on_stamp fun(stamp: number)  a stamp was seen: the next one of this registry is higher

---@class znl.ReplicaOwner
---@field id string
---@field is_gone boolean
---@field rows table<string, table>
---@field count integer
---@field bytes integer
---@field members table<string, table>  by key: who publishes
---@field registrations integer

---@class znl.ReplicaRows
---@field owners table<string, znl.ReplicaOwner>
local Rows = {}
Rows.__index = Rows

---@param opts znl.ReplicaRowsOptions
---@return znl.ReplicaRows
function M.new(opts)
  return setmetatable({ opts = opts, owners = {}, listed = {}, refused = 0, displaced = 0 }, Rows)
end

---@param id string
---@return znl.ReplicaOwner
function Rows:owner(id)
  local owner = self.owners[id]
  if not owner then
    owner = { id = id, is_gone = false, rows = {}, count = 0, bytes = 0, members = {}, registrations = 0 }
    self.owners[id] = owner
  end
  return owner
end

-- --- registrations -------------------------------------------------------------------------------

--- Whether a registration takes the place of another.
local function is_newer(stamp, owner_id, other_stamp, other_id)
  return stamp > other_stamp or stamp == other_stamp and owner_id > other_id
end

--- The same of rows: no orphan takes the place of what is there.
local function is_better(row, owner, other, other_owner)
  if owner.is_gone ~= other_owner.is_gone then return other_owner.is_gone end
  return is_newer(row.stamp, owner.id, other.stamp, other_owner.id)
end

local function drop(owner, row)
  owner.rows[row.id] = nil
  owner.count, owner.bytes = owner.count - 1, owner.bytes - row.bytes
  if row.kind == "r" then owner.registrations = owner.registrations - 1 end
end

--- Puts what is listed for an address in order.
local function settle(self, key)
  local id, best, best_owner = "r\n" .. key, nil, nil
  for _, owner in pairs(self.owners) do
    local row = owner.rows[id]
    if row and not row.is_over and (not best or is_better(row, owner, best, best_owner)) then
      best, best_owner = row, owner
    end
  end
  local client = self.opts.registrations.clients[key]
  if client and best and not best_owner.is_gone and is_newer(best.stamp, best_owner.id, client.stamp, self.opts.id) then
    self.displaced = self.displaced + 1
    -- Unlisted first, which comes back here.
    self.opts.registrations:displace(client)
    return
  end
  for _, owner in pairs(self.owners) do
    local row = owner.rows[id]
    if row and (client or best and row ~= best) then
      row.is_over = true
      if owner.is_gone then drop(owner, row) end
    end
  end
  if client then
    self.listed[key] = nil -- its registration has taken the place
    return
  end
  local listed, directory = self.listed[key], self.opts.directory
  if not best then
    if listed then directory:remove(listed.id) end
    self.listed[key] = nil
  elseif not listed or listed.row ~= best then
    local number, replaced = directory:add(best.namespace, best.host, best.port)
    if number then
      if replaced then self.opts.registrations:replaced(replaced) end
      self.listed[key] = { id = number, row = best, owner = best_owner }
    else
      self.refused = self.refused + 1
      if listed then directory:remove(listed.id) end
      self.listed[key] = nil
    end
  end
end

--- A registration has ended that was newer than what is known of this address, perhaps: what is older is over.
local function end_older(self, owner, key, stamp)
  local client = self.opts.registrations.clients[key]
  if client and is_newer(stamp, owner.id, client.stamp, self.opts.id) then
    self.displaced = self.displaced + 1
    self.opts.registrations:displace(client)
  end
  for _, other in pairs(self.owners) do
    local row = other.rows["r\n" .. key]
    if row and other ~= owner and is_newer(stamp, owner.id, row.stamp, other.id) then
      row.is_over = true
      if other.is_gone then drop(other, row) end
    end
  end
  settle(self, key)
end

--- A client has been listed here, or is not any more.
---@param key string
function Rows:settle(key) settle(self, key) end

local function is_name(value) return type(value) == "string" and value ~= "" and #value <= NAME_BYTES_MAX end

local function is_stamp(value)
  return type(value) == "number" and value >= 0 and value <= STAMP_MAX and value == math.floor(value)
end

--- What a publisher gave: any number that a registry keeps.
local function is_revision(value) return type(value) == "number" and value >= 0 and value <= STAMP_MAX end

local READ = {}

function READ.r(key, namespace, host, port, stamp, since_ms)
  if not (is_name(key) and is_name(namespace) and is_name(host) and is_stamp(stamp) and is_stamp(since_ms)) then
    return nil
  end
  if (namespace .. host):find("[\128-\255%c]") or type(port) ~= "number" or port < 1 or port > 65535
      or port ~= math.floor(port) or address.key(host, port) ~= key then
    return nil
  end
  return {
    kind = "r", id = "r\n" .. key, key = key, namespace = namespace, host = host, port = port, stamp = stamp,
    since_ms = since_ms, bytes = ROW_BYTES,
  }
end

function READ.p(key, topic, revision, payload)
  if not (is_name(key) and not key:find("%c") and type(topic) == "string" and #topic <= NAME_BYTES_MAX
      and is_revision(revision)) then
    return nil
  end
  if type(payload) ~= "string" then payload = nil end
  return {
    kind = "p", id = "p\n" .. key .. "\n" .. topic, key = key, topic = topic, revision = revision,
    payload = payload, bytes = ROW_BYTES + (payload and #payload or 0),
  }
end

function READ.v(topic, stamp, writer, payload)
  if not (is_name(topic) and is_stamp(stamp) and is_name(writer)) then return nil end
  if type(payload) ~= "string" then payload = nil end
  return {
    kind = "v", id = "v\n" .. topic, topic = topic, stamp = stamp, writer = writer, payload = payload,
    bytes = ROW_BYTES + (payload and #payload or 0),
  }
end

-- --- what is published ---------------------------------------------------------------------------

local function undeclare(self, owner, row)
  local member = owner.members[row.key]
  if not member or not member.topics[row.topic] then return end
  self.opts.topics:undeclare(member, row.topic)
  member.topics[row.topic] = nil
  if next(member.topics) == nil then owner.members[row.key] = nil end
end

--- What orphans say about one publisher of a topic is over.
---@param key string
---@param topic string
function Rows:supersede(key, topic)
  local id = "p\n" .. key .. "\n" .. topic
  for _, owner in pairs(self.owners) do
    local row = owner.is_gone and owner.rows[id]
    if row then
      drop(owner, row)
      undeclare(self, owner, row)
    end
  end
end

--- Whether a registry that is there holds a row of this id.
local function is_held(self, id)
  if self.opts.log:has(id) then return true end
  for _, owner in pairs(self.owners) do
    if not owner.is_gone and owner.rows[id] then return true end
  end
  return false
end

local PUT, TAKE = {}, {}

function PUT.r(self, _, row)
  self.opts.on_stamp(row.stamp)
  settle(self, row.key)
end

function TAKE.r(self, _, row) settle(self, row.key) end

function PUT.p(self, owner, row)
  if owner.is_gone and is_held(self, row.id) then return drop(owner, row) end
  local member = owner.members[row.key]
  if not member then
    member = { key = row.key, topics = {} }
    owner.members[row.key] = member
  end
  member.topics[row.topic] = true
  -- Before an orphan ends: the value stays what it is meanwhile.
  if not self.opts.topics:declare(member, row.topic, row.payload, row.revision) then
    self.refused = self.refused + 1
    undeclare(self, owner, row) -- what it said before is not true any more
  end
  if owner.is_gone then return end
  self:supersede(row.key, row.topic)
  self.opts.registrations:supersede(row, row.topic)
end

function TAKE.p(self, owner, row) undeclare(self, owner, row) end

function PUT.v(self, _, row)
  self.opts.on_stamp(row.stamp)
  if not self.opts.values:learn(row) then self.refused = self.refused + 1 end
end

--- The value outlives who wrote it.
function TAKE.v() end

-- --- rows ----------------------------------------------------------------------------------------

--- A row of an owner, as it came: `{ n, kind, … }`. One that is older than what is known is left out.
---@param owner znl.ReplicaOwner
---@param fields any[]
---@return boolean|nil ok  nil: it is none
function Rows:put(owner, fields)
  local n, kind = fields[1], fields[2]
  if not is_stamp(n) or n == 0 then return nil end
  if kind == "x" then
    if type(fields[3]) ~= "string" then return nil end
    local id, stamp = fields[3], fields[4]
    self:remove(owner, id, n)
    local key = id:match("^r\n(.+)$")
    if key and is_stamp(stamp) then
      self.opts.on_stamp(stamp)
      end_older(self, owner, key, stamp)
    end
    return true
  end
  local read = READ[kind]
  local row = read and read(unpack(fields, 3, 8))
  if not row then return nil end
  if owner.seen then owner.seen[row.id] = true end
  local before = owner.rows[row.id]
  if before and before.n >= n then return true end
  if owner.gone_rows and (owner.gone_rows[row.id] or 0) > n then return true end
  local bytes = owner.bytes + row.bytes - (before and before.bytes or 0)
  if bytes > self.opts.max_bytes or not before and owner.count >= self.opts.max_rows then
    self.refused = self.refused + 1
    owner.is_cut = true
    return false
  end
  if before and before.is_over and row.stamp <= before.stamp then row.is_over = true end
  if not before then
    owner.count = owner.count + 1
    if kind == "r" then owner.registrations = owner.registrations + 1 end
  end
  row.n, owner.bytes, owner.rows[row.id] = n, bytes, row
  PUT[kind](self, owner, row)
  return true
end

--- An owner has removed a row.
---@param owner znl.ReplicaOwner
---@param id string
---@param n? number  nil: whatever its number
function Rows:remove(owner, id, n)
  if owner.gone_rows and n then owner.gone_rows[id] = n end
  local row = owner.rows[id]
  if not row or n and row.n > n then return end
  drop(owner, row)
  TAKE[row.kind](self, owner, row)
end

--- Rows of an owner will come that are older than others which come meanwhile. `all`: those that are missing
--- at the end are not there any more.
---@param owner znl.ReplicaOwner
---@param all boolean
function Rows.begin(_, owner, all) owner.gone_rows, owner.seen = {}, all and {} or nil end

--- They have come. Rows that are newer than change `upto` were told of by themselves.
---@param owner znl.ReplicaOwner
---@param upto number
function Rows:finish(owner, upto)
  local seen = owner.seen
  owner.gone_rows, owner.seen = nil, nil
  if not seen then return end
  local missing = {}
  for id, row in pairs(owner.rows) do
    if row.n <= upto and not seen[id] then missing[#missing + 1] = id end
  end
  for _, id in ipairs(missing) do self:remove(owner, id) end
end

--- An owner cannot be heard any more: its rows are orphans.
---@param owner znl.ReplicaOwner
function Rows:orphan(owner)
  owner.is_gone, owner.gone_rows, owner.seen = true, nil, nil
  local over = {}
  for id, row in pairs(owner.rows) do
    if row.is_over or row.kind ~= "v" and is_held(self, id) then over[#over + 1] = row end
  end
  for _, row in ipairs(over) do
    drop(owner, row)
    TAKE[row.kind](self, owner, row)
  end
end

--- It is heard again.
---@param owner znl.ReplicaOwner
function Rows:revive(owner)
  owner.is_gone = false
  local keys = {}
  for _, row in pairs(owner.rows) do
    if row.kind == "r" then keys[#keys + 1] = row.key end
  end
  for _, key in ipairs(keys) do settle(self, key) end
end

--- The rows of an owner are forgotten.
---@param owner znl.ReplicaOwner
function Rows:forget(owner)
  local ids = {}
  for id in pairs(owner.rows) do ids[#ids + 1] = id end
  for _, id in ipairs(ids) do
    local row = owner.rows[id]
    if row and row.kind == "v" then self.opts.values:adopt(row) end
    self:remove(owner, id)
  end
  self.owners[owner.id] = nil
end

local FIELDS = {}

function FIELDS.r(row) return { row.n, "r", row.key, row.namespace, row.host, row.port, row.stamp, row.since_ms } end

function FIELDS.p(row) return { row.n, "p", row.key, row.topic, row.revision, row.payload or json.null } end

function FIELDS.v(row) return { row.n, "v", row.topic, row.stamp, row.writer, row.payload or json.null } end

--- The rows of an owner after the change `n`, in their order: at least one, if there is any, and no more than
--- `max_bytes` beyond that.
---@param owner znl.ReplicaOwner
---@param n number
---@param max_bytes integer
---@return string[] texts
---@return number upto
---@return boolean is_all
function Rows.since(_, owner, n, max_bytes)
  local later, texts, bytes, upto = {}, {}, 0, n
  for _, row in pairs(owner.rows) do
    if row.n > n then later[#later + 1] = row end
  end
  table.sort(later, function(a, b) return a.n < b.n end)
  for _, row in ipairs(later) do
    local text = json.encode(FIELDS[row.kind](row))
    bytes = bytes + #text
    if #texts > 0 and bytes > max_bytes then return texts, upto, false end
    texts[#texts + 1], upto = text, row.n
  end
  return texts, upto, true
end

--- Which registry holds an address that is not connected here, and since when.
---@param key string
---@return znl.ReplicaOwner|nil
---@return number? age_ms
function Rows:holder(key)
  local listed = self.listed[key]
  if not listed then return nil end
  local _, unix_ms = self.opts.now()
  return listed.owner, math.max(0, unix_ms - listed.row.since_ms)
end

return M
