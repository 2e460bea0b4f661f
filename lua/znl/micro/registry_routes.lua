--- znl.micro.registry_routes: what a registry answers (spec, sections 9, 10, 11 and 25). `/-/find` of a
--- connection is answered by the core; the one here is for this process.
---
--- Payloads of topics are handed on as the JSON they came as. Lists come in pages: `limit` (1000 unless given)
--- entries in the order of their names, those after the name `after`.
--- SPDX-License-Identifier: MIT

local directory = require("znl.core.registry")
local json = require("znl.json")
local sched = require("znl.core.sched")

local M = {}

local PAGE = 1000
local PAGE_MAX = 10000
--- A list of names is sorted that often, however often it is asked for.
local SORTED_MS = 1000

--- Raw JSON of an object whose members are JSON already; an absent one is left out.
local function object(...)
  local parts = {}
  for i = 1, select("#", ...), 2 do
    local name, text = select(i, ...)
    if text ~= nil then parts[#parts + 1] = ('"%s":%s'):format(name, text) end
  end
  return json.raw("{" .. table.concat(parts, ",") .. "}")
end

--- The data as a table; one without members when there is none.
local function members(req)
  local data = req.data
  return type(data) == "table" and data or {}
end

--- The names of one page.
local function page(names, data)
  local limit, after = data.limit, data.after
  if type(limit) ~= "number" or limit < 1 then limit = PAGE end
  limit = math.min(math.floor(limit), PAGE_MAX)
  local first = 1
  if type(after) == "string" then
    local low, high = 1, #names + 1 -- the first name that is larger
    while low < high do
      local middle = math.floor((low + high) / 2)
      if names[middle] > after then high = middle else low = middle + 1 end
    end
    first = low
  end
  local result = {}
  for i = first, math.min(first + limit - 1, #names) do result[#result + 1] = names[i] end
  return result
end

--- Sorted lists by a name, each made anew once a second at most, and forgotten then.
local function cached(make)
  local lists, turned_ms = {}, 0
  return function(name)
    local now_ms = sched.now_ms()
    if now_ms - turned_ms >= SORTED_MS then
      lists, turned_ms = {}, now_ms
    end
    local list = lists[name]
    if not list then
      list = make(name)
      table.sort(list)
      if #list > 0 then lists[name] = list end
    end
    return list
  end
end

-- --- topics --------------------------------------------------------------------------------------

local TOPICS = {}

TOPICS["/-/declare"] = function(self, client, topic, payload, revision)
  local given, message, code = self.topics:declare(client, topic, payload, revision)
  if not given then return nil, message, code end
  self.registrations:supersede(client, topic)
  if self.cluster then self.cluster:declared(client, topic, payload, given) end
  self.on_changed()
  return given
end

TOPICS["/-/undeclare"] = function(self, client, topic)
  self.registrations:supersede(client, topic)
  local count = self.topics:undeclare(client, topic)
  if self.cluster then self.cluster:undeclared(client, topic) end
  self.on_changed()
  return count
end

TOPICS["/-/subscribe"] = function(self, client, topic)
  local has_value, payload, code = self.topics:subscribe(client, topic)
  if has_value == nil then return nil, payload, code end
  return object("hasData", tostring(has_value), "payload", payload)
end

TOPICS["/-/unsubscribe"] = function(self, client, topic) return self.topics:unsubscribe(client, topic) end

TOPICS["/-/topic/update"] = function(self, client, topic, payload)
  local revision, message, code = self.topics:update(client, topic, payload)
  if revision == nil then return nil, message, code end
  local cluster = self.cluster
  if cluster and client.published and client.published[topic] then
    cluster:declared(client, topic, payload, revision)
  elseif cluster and (revision or not self.topics:get(topic)) then
    cluster:updated(topic, payload)
  end
  if not revision then return sched.unix_ms() end
  self.on_changed()
  return revision
end

local function topic_route(self, run)
  return function(req)
    local client = req.client
    -- Somebody inside this process has no connection to be told on.
    if not client or not (client.registration or client.is_observer) then
      return nil, "only a connection can do this", "INVALID"
    end
    if not client.is_listed then return nil, "this connection has been replaced or is closing", "CLOSED" end
    local topic, payload, revision = directory.read_topic(req.payload)
    if not topic then return nil, payload, revision end
    return run(self, client, topic, payload, revision)
  end
end

-- --- configuration -------------------------------------------------------------------------------

--- Values of the environment, of the names that are allowed; null for others.
local function env(self, req)
  local names = req.data
  if type(names) ~= "table" then return nil, "the data must be a list of names", "INVALID" end
  local values = {}
  for i = 1, math.min(#names, PAGE_MAX) do
    local name = names[i]
    values[i] = type(name) == "string" and self.env[name] and os.getenv(name) or json.null
  end
  return json.array(values)
end

local function variables_of(self, wanted)
  local values, keys
  if self.config then values, keys = self.config:of(wanted.namespace) end
  if not values then return json.null end
  local parts = {}
  if type(wanted.fields) == "table" then keys = wanted.fields end
  for i = 1, math.min(#keys, PAGE_MAX) do
    local text = type(keys[i]) == "string" and values[keys[i]]
    if text then parts[#parts + 1] = json.encode(keys[i]) .. ":" .. text end
  end
  return json.raw("{" .. table.concat(parts, ",") .. "}")
end

local function env_variables(self, req)
  local wanted = req.data
  if type(wanted) ~= "table" then return nil, "the data must be a list", "INVALID" end
  local list = {}
  for i = 1, math.min(#wanted, PAGE) do
    local one = wanted[i]
    if type(one) ~= "table" or type(one.namespace) ~= "string" then
      return nil, "each item must be an object with a text as its namespace", "INVALID"
    end
    list[i] = { namespace = one.namespace, value = variables_of(self, one) }
  end
  return json.array(list)
end

--- One address, by chance; nothing without.
local function find(self, req)
  local data = members(req)
  if type(data.namespace) ~= "string" then return nil end
  local host, port = self.directory:find(data.namespace, type(data.exclude) == "table" and data.exclude or nil)
  return host and { host = host, port = port } or nil
end

-- --- looking -------------------------------------------------------------------------------------

local function namespaces(self, req)
  local list = {}
  for _, name in ipairs(page(self.sorted_namespaces("all"), members(req))) do
    local count = self.directory:count(name)
    if count > 0 then list[#list + 1] = { namespace = name, count = count } end
  end
  return json.array(list)
end

local function peers(self, req)
  local data = members(req)
  if type(data.namespace) ~= "string" then return nil, "the data must have a text as its namespace", "INVALID" end
  local list, now_ms = {}, sched.now_ms()
  for _, key in ipairs(page(self.sorted_keys(data.namespace), data)) do
    local peer = self.directory:get(key)
    if peer and peer.namespace == data.namespace then
      local row = { key = key, host = peer.host, port = peer.port, ageMs = now_ms - peer.since_ms }
      if self.cluster then
        local age_ms
        row.registry, age_ms = self.cluster:holder(key)
        row.ageMs = age_ms or row.ageMs
      end
      list[#list + 1] = row
    end
  end
  return json.array(list)
end

--- The registries of the cluster, as JSON peers are told.
local function cluster_view(cluster)
  if not cluster then return nil end
  local list = {}
  for index, one in ipairs(cluster:registries()) do
    list[index] = {
      id = one.id, label = one.label, state = one.state, registrations = one.registrations, silentMs = one.silent_ms,
    }
  end
  return {
    name = cluster.config.name, connected = cluster:is_connected(), registries = json.array(list),
    counters = cluster:counters(),
  }
end

local function status(self)
  local registrations, namespace_count = self.directory:count()
  local topics = self.topics:counts()
  return {
    status = "ok", uptimeMs = sched.now_ms() - self.started_ms, namespaces = namespace_count,
    registrations = registrations, connections = self.registrations.count, topics = topics.topics,
    retained = topics.retained, publishers = topics.publishers, subscribers = topics.subscribers,
    topicBytes = topics.bytes, revision = topics.revision, counters = self.directory:counters(),
    cluster = cluster_view(self.cluster),
  }
end

local function view(found)
  return {
    topic = found.topic, retained = found.retained, hasData = found.has_data, revision = found.revision,
    publishers = found.publishers, subscribers = found.subscribers,
  }
end

local function topics(self, req)
  local list = {}
  for _, name in ipairs(page(self.sorted_topics("all"), members(req))) do
    local found = self.topics:get(name)
    if found then list[#list + 1] = view(found) end
  end
  return json.array(list)
end

local function topic_get(self, req)
  local name = members(req).topic
  if type(name) ~= "string" then return nil, "the data must have a text as its topic", "INVALID" end
  local found = self.topics:get(name)
  if not found then return nil end
  local answer = view(found)
  answer.payload = found.payload and json.raw(found.payload)
  return answer
end

local LOOKING = {
  ["/-/find"] = find, ["/-/env"] = env, ["/-/env/variables"] = env_variables, ["/-/namespaces"] = namespaces,
  ["/-/namespace/peers"] = peers, ["/-/registry/status"] = status, ["/-/topics"] = topics,
  ["/-/topic/get"] = topic_get,
}

---@class znl.RegistryParts
---@field directory userdata
---@field topics znl.TopicStore
---@field registrations znl.Registrations
---@field config znl.ConfigFolder|nil
---@field env table<string, true>  variables that may be read
---@field on_changed fun()
---@field cluster znl.RegistryCluster|nil

--- The handlers by url. `parts` is read when they run: it may change.
---@param parts znl.RegistryParts
---@return table<string, znl.Handler>
function M.new(parts)
  local self = setmetatable({
    started_ms = sched.now_ms(),
    sorted_namespaces = cached(function()
      local names = {}
      for name in pairs(parts.directory:namespaces()) do names[#names + 1] = name end
      return names
    end),
    sorted_keys = cached(function(namespace) return parts.directory:keys(namespace) end),
    sorted_topics = cached(function() return parts.topics:names() end),
  }, { __index = parts })
  local routes = {}
  for url, run in pairs(TOPICS) do routes[url] = topic_route(self, run) end
  for url, run in pairs(LOOKING) do
    routes[url] = function(req) return run(self, req) end
  end
  return routes
end

return M
