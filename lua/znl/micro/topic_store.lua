--- znl.micro.topic_store: the topics of a registry (spec, section 10), and those that a configuration
--- holds (11).
---
--- A topic has publishers, each with a payload and a revision, subscribers, and a value: the payload of the
--- publisher with the highest revision, the one that came first where two are equal, or, `by_key`, the one with
--- the higher key: registries of one cluster agree on that. A retained topic has
--- the value that `retain` gave it, whatever is published.
---
--- Who publishes and subscribes is a *member*: any value that names a connection. Payloads are JSON texts
--- and nil for "absent"; two are equal when their signatures are. Plain state: never yields, starts no
--- timer; the only calls out are `signature` and `notify`, which must not change the store.
--- SPDX-License-Identifier: MIT

local M = {}

--- Revisions beyond are not taken over: one past 2^53 would stop the counter.
local REVISION_MAX = 2 ^ 52

--- What a topic and one publisher or subscriber of it cost beside the payload, for the limit on bytes.
local TOPIC_BYTES, ENTRY_BYTES = 512, 256

---@class znl.TopicStoreOptions
---@field signature fun(payload: string|nil): string|nil, string?, string?  equal for payloads that are equal
---@field notify fun(member: any, topic: string, payload: string|nil)  a subscriber is told of a new value
---@field max_topics integer  without the retained ones
---@field max_topic_bytes integer  of a name
---@field max_payload_bytes integer  of one payload
---@field max_bytes integer  of all
---@field by_key? boolean  where revisions are equal; members have a `key` then
---@field max_member_topics integer  that one member publishes or subscribes to

---@class znl.TopicStore
local Store = {}
Store.__index = Store

--- A list of members in the order they came.
local function ordered() return { first = nil, last = nil, count = 0, entries = {} } end

local function append(list, member, entry)
  entry.member, entry.before = member, list.last
  if list.last then list.last.after = entry else list.first = entry end
  list.last, list.entries[member], list.count = entry, entry, list.count + 1
end

local function take_out(list, entry)
  if entry.before then entry.before.after = entry.after else list.first = entry.after end
  if entry.after then entry.after.before = entry.before else list.last = entry.before end
  list.entries[entry.member], list.count = nil, list.count - 1
end

---@param opts znl.TopicStoreOptions
---@return znl.TopicStore
function M.new(opts)
  return setmetatable({
    opts = opts, topics = {}, count = 0, retained_count = 0, members = {}, revision = 0, bytes = 0,
    publishers = 0, subscribers = 0,
  }, Store)
end

local function size_of(payload) return payload and #payload or 0 end

--- Room for `more` bytes, or nil, message, code.
local function check_room(self, more)
  if more > 0 and self.bytes + more > self.opts.max_bytes then
    return nil, ("topics: more than %d bytes in all"):format(self.opts.max_bytes), "LIMIT"
  end
  return true
end

local function check_payload(self, payload)
  if size_of(payload) > self.opts.max_payload_bytes then
    return nil, ("topics: the payload has %d bytes; at most %d are taken"):format(
      #payload, self.opts.max_payload_bytes), "TOO_BIG"
  end
  return true
end

local function make_topic(self, name)
  local topic = {
    name = name, publishers = ordered(), subscribers = ordered(), retained = false, has_value = false, own_bytes = 0,
  }
  self.topics[name], self.count = topic, self.count + 1
  self.bytes = self.bytes + TOPIC_BYTES + #name
  return topic
end

--- The topic, made when it is not there; `more`: bytes that will be added to it.
local function open(self, name, more)
  local topic = self.topics[name]
  if topic then
    local ok, message, code = check_room(self, more)
    return ok and topic, message, code
  end
  if #name > self.opts.max_topic_bytes then
    return nil, ("topics: the name has %d bytes; at most %d are taken"):format(
      #name, self.opts.max_topic_bytes), "TOO_BIG"
  end
  if self.count - self.retained_count >= self.opts.max_topics then
    return nil, ("topics: there are %d already"):format(self.opts.max_topics), "LIMIT"
  end
  local ok, message, code = check_room(self, more + TOPIC_BYTES + #name)
  if not ok then return nil, message, code end
  return make_topic(self, name)
end

local function drop_unused(self, topic)
  if topic.retained or topic.publishers.count > 0 or topic.subscribers.count > 0 then return end
  self.topics[topic.name], self.count = nil, self.count - 1
  self.bytes = self.bytes - TOPIC_BYTES - #topic.name - topic.own_bytes
end

--- What a member publishes and subscribes to, so that its end costs no search.
local function topics_of(self, member)
  local mine = self.members[member]
  if not mine then
    mine = { count = 0, publishes = {}, subscribes = {} }
    self.members[member] = mine
  end
  return mine
end

local function check_member(self, member)
  local mine = self.members[member]
  if mine and mine.count >= self.opts.max_member_topics then
    return nil, ("topics: this connection has %d already"):format(self.opts.max_member_topics), "LIMIT"
  end
  return true
end

local function note(self, member, kind, topic)
  local mine = topics_of(self, member)
  mine[kind][topic], mine.count = true, mine.count + 1
end

local function forget(self, member, kind, topic)
  local mine = self.members[member]
  mine[kind][topic], mine.count = nil, mine.count - 1
  if mine.count == 0 then self.members[member] = nil end
end

--- Gives the topic a value; returns whether it is another one. Subscribers are told then.
local function set_value(self, topic, payload, signature)
  local is_same = topic.has_value and topic.signature == signature
  topic.has_value, topic.payload, topic.signature = true, payload, signature
  if is_same then return false end
  local entry = topic.subscribers.first
  while entry do
    self.opts.notify(entry.member, topic.name, payload)
    entry = entry.after
  end
  return true
end

--- A value that no publisher holds: it counts for the limit on bytes.
local function own(self, topic, payload)
  local bytes = size_of(payload)
  self.bytes = self.bytes + bytes - topic.own_bytes
  topic.own_bytes = bytes
end

--- The publisher whose payload is the value.
local function best_of(self, topic)
  local best, entry = topic.publishers.first, topic.publishers.first
  while entry do
    if entry.revision > best.revision
        or self.opts.by_key and entry.revision == best.revision and entry.member.key > best.member.key then
      best = entry
    end
    entry = entry.after
  end
  return best
end

--- The value follows from the publishers.
local function recompute(self, topic)
  if topic.retained then return end
  own(self, topic, nil)
  local best = best_of(self, topic)
  if not best then
    topic.has_value, topic.payload, topic.signature = false, nil, nil
    return
  end
  set_value(self, topic, best.payload, best.signature)
end

--- The revision to keep: the one given, when it can be used, else the next.
local function take_revision(self, given)
  if type(given) == "number" and given > 0 and given <= REVISION_MAX then
    if given > self.revision then self.revision = given end
    return given
  end
  self.revision = self.revision + 1
  return self.revision
end

--- A member publishes a payload.
---@param member any
---@param name string
---@param payload string|nil
---@param revision? number  that the publisher had before
---@return number|nil revision  the one it has now
---@return string? message
---@return "LIMIT"|"TOO_BIG"? code
function Store:declare(member, name, payload, revision)
  local ok, message, code = check_payload(self, payload)
  if not ok then return nil, message, code end
  local topic = self.topics[name]
  local entry = topic and topic.publishers.entries[member]
  if not entry then
    ok, message, code = check_member(self, member)
    if not ok then return nil, message, code end
  end
  local more = size_of(payload) - (entry and size_of(entry.payload) or -ENTRY_BYTES)
  local signature
  signature, message, code = self.opts.signature(payload)
  if not signature then return nil, message, code end
  topic, message, code = open(self, name, more)
  if not topic then return nil, message, code end
  if not entry then
    entry = {}
    append(topic.publishers, member, entry)
    note(self, member, "publishes", topic)
    self.publishers = self.publishers + 1
  end
  self.bytes = self.bytes + more
  entry.payload, entry.signature, entry.revision = payload, signature, take_revision(self, revision)
  recompute(self, topic)
  return entry.revision
end

local function remove_publisher(self, topic, entry)
  take_out(topic.publishers, entry)
  self.publishers = self.publishers - 1
  self.bytes = self.bytes - ENTRY_BYTES - size_of(entry.payload)
  recompute(self, topic)
  drop_unused(self, topic)
end

--- A member publishes no more.
---@return 0|1 count  1: it did
function Store:undeclare(member, name)
  local topic = self.topics[name]
  local entry = topic and topic.publishers.entries[member]
  if not entry then return 0 end
  forget(self, member, "publishes", topic)
  remove_publisher(self, topic, entry)
  return 1
end

--- A member wants to hear of a topic.
---@return boolean|nil has_value
---@return string|nil payload  or, without a first result, a message
---@return "LIMIT"|"TOO_BIG"? code
function Store:subscribe(member, name)
  local topic = self.topics[name]
  if not (topic and topic.subscribers.entries[member]) then
    local ok, message, code = check_member(self, member)
    if not ok then return nil, message, code end
    topic, message, code = open(self, name, ENTRY_BYTES)
    if not topic then return nil, message, code end
    append(topic.subscribers, member, {})
    note(self, member, "subscribes", topic)
    self.subscribers, self.bytes = self.subscribers + 1, self.bytes + ENTRY_BYTES
  end
  return topic.has_value, topic.payload
end

local function remove_subscriber(self, topic, entry)
  take_out(topic.subscribers, entry)
  self.subscribers, self.bytes = self.subscribers - 1, self.bytes - ENTRY_BYTES
  drop_unused(self, topic)
end

--- A member wants to hear of it no more.
---@return 0|1 count  1: it did
function Store:unsubscribe(member, name)
  local topic = self.topics[name]
  local entry = topic and topic.subscribers.entries[member]
  if not entry then return 0 end
  forget(self, member, "subscribes", topic)
  remove_subscriber(self, topic, entry)
  return 1
end

--- A payload from anybody: a publisher's counts as one that it declares, another's becomes the value.
---@return number|false|nil revision  the publisher's, or a new one; false: nothing changed
---@return string? message
---@return "LIMIT"|"TOO_BIG"? code
function Store:update(member, name, payload)
  local topic = self.topics[name]
  if not topic then return false end
  if topic.publishers.entries[member] then return self:declare(member, name, payload) end
  local ok, message, code = check_payload(self, payload)
  if not ok then return nil, message, code end
  ok, message, code = check_room(self, size_of(payload) - topic.own_bytes)
  if not ok then return nil, message, code end
  local signature
  signature, message, code = self.opts.signature(payload)
  if not signature then return nil, message, code end
  if topic.has_value and topic.signature == signature then return false end
  own(self, topic, payload)
  local revision = take_revision(self)
  set_value(self, topic, payload, signature)
  return revision
end

--- Marks the topic as retained and gives it a value; limits do not count for it.
---@param name string
---@param payload string|nil
---@return boolean changed
function Store:retain(name, payload)
  local topic = self.topics[name] or make_topic(self, name)
  if not topic.retained then
    topic.retained, self.retained_count = true, self.retained_count + 1
  end
  own(self, topic, payload)
  return set_value(self, topic, payload, self.opts.signature(payload))
end

--- The connection of a member has ended, or another one took its place.
function Store:leave(member)
  local mine = self.members[member]
  if not mine then return end
  self.members[member] = nil
  -- It hears of nothing that its own end changes.
  for topic in pairs(mine.subscribes) do
    remove_subscriber(self, topic, topic.subscribers.entries[member])
  end
  for topic in pairs(mine.publishes) do
    remove_publisher(self, topic, topic.publishers.entries[member])
  end
end

---@class znl.TopicView
---@field topic string
---@field retained boolean
---@field has_data boolean
---@field payload string|nil  JSON
---@field revision number|nil  of the publisher whose payload is the value
---@field publishers integer
---@field subscribers integer

--- What there is to know about a topic; nil when it is not there.
---@return znl.TopicView|nil
function Store:get(name)
  local topic = self.topics[name]
  if not topic then return nil end
  local best = best_of(self, topic)
  return {
    topic = name, retained = topic.retained, has_data = topic.has_value, payload = topic.payload,
    revision = not topic.retained and best and best.revision or nil,
    publishers = topic.publishers.count, subscribers = topic.subscribers.count,
  }
end

--- Who publishes a topic; nobody where it is retained: what they publish is not shown.
---@param name string
---@return {member: any, payload: string|nil, revision: number}[]
function Store:published(name)
  local topic, rows = self.topics[name], {}
  local entry = topic and not topic.retained and topic.publishers.first
  while entry do
    rows[#rows + 1] = { member = entry.member, payload = entry.payload, revision = entry.revision }
    entry = entry.after
  end
  return rows
end

--- The next revision will be higher than this one.
---@param revision any  ignored when it cannot be one
function Store:raise_revision(revision)
  if type(revision) == "number" and revision > self.revision and revision <= REVISION_MAX then
    self.revision = revision
  end
end

--- The names of the topics, sorted.
---@return string[]
function Store:names()
  local names = {}
  for name in pairs(self.topics) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- How much there is.
---@return table<string, number>  topics, retained, publishers, subscribers, bytes, revision
function Store:counts()
  return {
    topics = self.count, retained = self.retained_count, publishers = self.publishers,
    subscribers = self.subscribers, bytes = self.bytes, revision = self.revision,
  }
end

return M
