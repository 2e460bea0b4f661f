--- znl.micro.topics: what an application publishes and subscribes to at its registry (spec, section 18).
---
---   published: dirty --declare answered--> confirmed --update, reconnect--> dirty or declared again
---   subscribed: each callback asks once for the value of now, then hears of every update
---
--- Operations on one topic run one after the other. The intent is recorded before anything is sent, so
--- nothing here needs a registry: what failed is tried again, that topic alone, and a new connection is told
--- everything. Delivery is at least once, the newest value only.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

local RETRY_MS = 1000
local RETRY_MAX_MS = 30000
--- Operations of one reconnect on their way at once.
local RESTORE_WINDOW = 32

---@class znl.TopicsOptions
---@field owner any  operations run for it, in the background
---@field registry fun(): znl.Client|nil  the connection of now
---@field is_running fun(): boolean
---@field timeout_ms integer  of one request
---@field encode fun(value: any): string|nil, string?  JSON; nil, message when it cannot carry that
---@field raw fun(text: string): any  stands for that JSON in data that is sent
---@field signature fun(text: string): string  equal for payloads that are
---@field log znl.Logger

---@class znl.Topics
---@field published table<string, table>  by topic
---@field subscribed table<string, table>  by topic
local Topics = {}
Topics.__index = Topics

---@param opts znl.TopicsOptions
---@return znl.Topics
function M.new(opts)
  return setmetatable({
    opts = opts, published = {}, subscribed = {}, lines = {}, version = 0, order = 0, updates = {},
  }, Topics)
end

-- --- operations, one after the other for each topic ----------------------------------------------

--- Runs the operations that wait for their turn. Yields.
local function run_line(self, topic, line)
  while line[1] do
    local operation = table.remove(line, 1)
    line.current = operation
    local ok, message = xpcall(operation.run, where.locate, self, operation)
    if not ok then
      self.opts.log.error("an operation on a topic failed", { topic = topic, error = message })
      operation.done:set(nil, message, "FAILED")
    else
      operation.done:set(true)
    end
  end
  self.lines[topic] = nil
end

--- Puts an operation at the end of its line. Returns it; `done` is set when it has run.
local function enqueue(self, topic, operation)
  operation.topic, operation.done = topic, sched.event()
  local line = self.lines[topic]
  if line then
    line[#line + 1] = operation
    return operation
  end
  line = { operation }
  self.lines[topic] = line
  local run, message, code = task.background(self.opts.owner, run_line, self, topic, line)
  if not run then
    self.lines[topic] = nil
    operation.done:set(nil, message, code)
  end
  return operation
end

--- Puts an operation that failed into its line once more, later; for `holder` once at a time.
local function again(self, operation, registry, url, message, code)
  local holder, opts = operation.holder, self.opts
  if holder.is_due then return end
  holder.is_due = true
  holder.attempt = (holder.attempt or 0) + 1
  local wait_ms = math.min(RETRY_MAX_MS, RETRY_MS * 2 ^ math.min(holder.attempt - 1, 10))
  opts.log.warn("a request about a topic failed, trying again", {
    topic = operation.topic, url = url, error = message, code = code, wait_ms = wait_ms,
  })
  task.background(opts.owner, function()
    sched.sleep(wait_ms)
    holder.is_due = nil
    if opts.registry() ~= registry then return end -- a new connection is told everything anyway
    local repeated = enqueue(self, operation.topic, {
      run = operation.run, deliver = operation.deliver, holder = holder, callback = operation.callback,
      seen = operation.seen,
    })
    repeated.done:wait()
    if repeated.callback then operation.deliver(self, repeated) end
  end)
end

--- Sends one request about a topic. Returns whether it was answered, and the answer; else the reason is
--- dealt with: a registry that is gone is told everything when it is back, what else failed comes again.
local function ask(self, operation, url, data)
  if not self.opts.is_running() then return false end
  local registry = self.opts.registry()
  if not registry then return false end -- a new one is told everything
  local answer, message, code, is_remote = registry.conn:request(url, data, self.opts.timeout_ms)
  if code == nil then
    operation.holder.attempt = nil
    return true, answer
  end
  if not registry.conn:is_open() or not self.opts.is_running() then return false end
  if is_remote and code == 500 and message == url then
    -- A registry without topics, such as one of release 1.0.5: asking again is of no use.
    if not registry.has_no_topics then
      registry.has_no_topics = true
      self.opts.log.warn("this registry knows no topics", { registry = registry.key, url = url })
    end
    return false
  end
  again(self, operation, registry, url, message, code)
  return false
end

local function declare(self, operation)
  local topic = operation.topic
  local state = self.published[topic]
  if not state then return end
  local version = state.version
  -- A confirmed value keeps its place among those of other publishers.
  local revision = operation.with_revision and not state.dirty and state.revision or nil
  local ok, answer = ask(self, operation, "/-/declare", {
    topic = topic, payload = state.text and self.opts.raw(state.text), revision = revision,
  })
  if not ok then return end
  state = self.published[topic]
  if state and state.version == version and type(answer) == "number" then
    state.revision, state.dirty = answer, false
  end
end

local function undeclare(self, operation)
  if self.published[operation.topic] then return end -- published again since
  ask(self, operation, "/-/undeclare", { topic = operation.topic })
end

local function unsubscribe(self, operation)
  if self.subscribed[operation.topic] then return end
  ask(self, operation, "/-/unsubscribe", { topic = operation.topic })
end

local function holds(self, topic, callback)
  for _, entry in ipairs(self.subscribed[topic] or {}) do
    if entry == callback then return true end
  end
  return false
end

--- Subscribes for one callback.
local function subscribe(self, operation)
  if not holds(self, operation.topic, operation.callback) then return end
  local ok, answer = ask(self, operation, "/-/subscribe", { topic = operation.topic })
  if ok and type(answer) == "table" and answer.hasData == true then
    operation.has_value, operation.value = true, answer.payload
  end
end

--- Gives the callback the value that came with the answer. Not in the line of the topic, which the callback
--- may use. True, or nil and what it raised.
local function deliver(self, operation)
  local topic = operation.topic
  if not operation.has_value then return true end
  -- An update that came meanwhile is newer than the answer.
  if self.updates[topic] ~= operation.seen or not holds(self, topic, operation.callback) then return true end
  local ok, message = xpcall(operation.callback.fn, where.locate, operation.value)
  if ok then return true end
  return nil, message
end

local function subscription(self, topic, callback)
  return enqueue(self, topic, {
    run = subscribe, deliver = deliver, holder = callback, callback = callback, seen = self.updates[topic],
  })
end

-- --- publishing ----------------------------------------------------------------------------------

---@class znl.Publication
---@field topic string
local Publication = {}
Publication.__index = Publication
M.Publication = Publication

local function text_of(self, payload)
  if payload == nil then return nil, "undefined" end
  local text, problem = self.opts.encode(payload)
  if not text then return nil, nil, problem end
  return text, self.opts.signature(text)
end

--- Records what a topic is to be, whatever becomes of the requests. Returns its version.
local function record(self, topic, text, signature)
  local state = self.published[topic]
  if not state then
    self.order = self.order + 1
    state = { order = self.order }
    self.published[topic] = state
  end
  if state.signature ~= signature then
    self.version = self.version + 1
    state.version = self.version
  end
  state.text, state.signature, state.dirty = text, signature, true
  return state.version
end

--- Has the value of a topic declared, and waits for the first attempt.
local function announce(self, topic)
  local line = self.lines[topic]
  local last = line and line[#line]
  -- One that has not begun takes the newest value with it.
  if not last or last.run ~= declare or last.with_revision then
    last = enqueue(self, topic, { run = declare, holder = self.published[topic] })
  end
  last.done:wait()
end

local function check_running(self)
  if self.opts.is_running() then return true end
  return nil, "the application is not running", "STOPPED"
end

local function check_topic(topic, what, level)
  if type(topic) ~= "string" or topic == "" then
    error(("%s: the topic must be a text that is not empty"):format(what), level + 1)
  end
end

--- Publishes a value, which the registry keeps and hands to subscribers while this application is
--- connected. Succeeds without a registry, too: it is told later. Yields.
---@param topic string
---@param payload any
---@return znl.Publication|nil
---@return string? message
---@return "STOPPED"? code
function Topics:publish(topic, payload, level)
  check_topic(topic, "publish", level + 1)
  local ok, message, code = check_running(self)
  if not ok then return nil, message, code end
  local text, signature, problem = text_of(self, payload)
  if problem then error("publish: JSON cannot carry " .. problem, level + 1) end
  local version = record(self, topic, text, signature)
  announce(self, topic)
  return setmetatable({ topics = self, topic = topic, version = version }, Publication)
end

local function is_current(self)
  local state = self.topics.published[self.topic]
  return state ~= nil and state.version == self.version
end

--- Publishes another value. Yields.
---@param payload any
---@return boolean|nil done  false: somebody has published this topic anew since, nothing is changed
---@return string? message
---@return "STOPPED"? code
function Publication:update(payload)
  local topics = self.topics
  local text, signature, problem = text_of(topics, payload)
  if problem then error("update: JSON cannot carry " .. problem, 2) end
  local ok, message, code = check_running(topics)
  if not ok then return nil, message, code end
  if not is_current(self) then return false end
  self.version = record(topics, self.topic, text, signature)
  announce(topics, self.topic)
  return true
end

--- Takes the value back. Yields.
---@return boolean done  false: somebody has published this topic anew since
function Publication:unpublish()
  if not is_current(self) then return false end
  local topics = self.topics
  topics.published[self.topic] = nil
  if topics.opts.is_running() then enqueue(topics, self.topic, { run = undeclare, holder = {} }).done:wait() end
  return true
end

-- --- subscribing ---------------------------------------------------------------------------------

local function remove_callback(self, topic, callback)
  local list = self.subscribed[topic]
  for index, entry in ipairs(list or {}) do
    if entry == callback then
      table.remove(list, index)
      if #list == 0 then
        self.subscribed[topic], self.updates[topic] = nil, nil
        if self.opts.is_running() then enqueue(self, topic, { run = unsubscribe, holder = {} }) end
      end
      return true
    end
  end
  return false
end

--- Calls `fn(payload)` with the value of a topic and every later one. Yields until the registry has
--- answered, or cannot be reached.
---@param topic string
---@param fn fun(payload: any)
---@return (fun())|nil off
---@return string? message
---@return "STOPPED"|"FAILED"? code
function Topics:subscribe(topic, fn, level)
  check_topic(topic, "subscribe", level + 1)
  if type(fn) ~= "function" then
    error("subscribe: the callback must be a function, not a " .. type(fn), level + 1)
  end
  local ok, message, code = check_running(self)
  if not ok then return nil, message, code end
  local list = self.subscribed[topic]
  for _, callback in ipairs(list or {}) do
    if callback.fn == fn then return function() remove_callback(self, topic, callback) end end
  end
  local callback = { fn = fn }
  if not list then
    self.order = self.order + 1
    list = { order = self.order }
    self.subscribed[topic], self.updates[topic] = list, 0
  end
  list[#list + 1] = callback
  local operation = subscription(self, topic, callback)
  local done, problem, problem_code = operation.done:wait()
  if done then done, problem, problem_code = deliver(self, operation) end
  if not done then
    remove_callback(self, topic, callback)
    return nil, problem, problem_code or "FAILED"
  end
  return function() remove_callback(self, topic, callback) end
end

local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, inner in pairs(value) do result[key] = copy(inner) end
  return setmetatable(result, getmetatable(value))
end

--- The registry tells a new value: each callback gets a copy of its own. Yields when one does.
---@param topic string
---@param payload any
function Topics:update(topic, payload)
  local list = self.subscribed[topic]
  if not list then return end
  self.updates[topic] = self.updates[topic] + 1
  local callbacks = { unpack(list) }
  for index, callback in ipairs(callbacks) do
    if holds(self, topic, callback) then
      local own = index < #callbacks and copy(payload) or payload
      local ok, message = xpcall(callback.fn, where.locate, own)
      if not ok then self.opts.log.error("a subscriber failed", { topic = topic, error = message }) end
    end
  end
end

-- --- a new connection ----------------------------------------------------------------------------

--- Topics in the order in which they came.
local function in_order(by_topic)
  local topics = {}
  for topic in pairs(by_topic) do topics[#topics + 1] = topic end
  table.sort(topics, function(a, b) return by_topic[a].order < by_topic[b].order end)
  return topics
end

--- Tells a new connection everything: what is published, then the subscriptions, each in the order in which
--- they came. Yields.
function Topics:restore()
  local under_way = {}
  local function finish_one()
    local operation = table.remove(under_way, 1)
    local done, message = operation.done:wait()
    if done and operation.callback then done, message = deliver(self, operation) end
    if not done then
      self.opts.log.error("a subscriber failed", { topic = operation.topic, error = message })
    end
  end
  local function add(operation)
    under_way[#under_way + 1] = operation
    if #under_way >= RESTORE_WINDOW then finish_one() end
  end
  for _, topic in ipairs(in_order(self.published)) do
    local state = self.published[topic]
    if state then add(enqueue(self, topic, { run = declare, holder = state, with_revision = true })) end
  end
  for _, topic in ipairs(in_order(self.subscribed)) do
    for _, callback in ipairs({ unpack(self.subscribed[topic] or {}) }) do
      if holds(self, topic, callback) then add(subscription(self, topic, callback)) end
    end
  end
  while under_way[1] do finish_one() end
end

--- How many topics there are: published, subscribed.
---@return integer published
---@return integer subscribed
function Topics:counts()
  local published, subscribed = 0, 0
  for _ in pairs(self.published) do published = published + 1 end
  for _ in pairs(self.subscribed) do subscribed = subscribed + 1 end
  return published, subscribed
end

return M
