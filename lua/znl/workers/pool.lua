--- znl.workers.pool: threads that run handlers, for work that needs the processor.
---
---   starting  its thread is being set up and told what to run
---   up        takes requests
---   down      it died, or could not start; another thread takes its place after a pause
---   closing   its thread is ending
---
--- Requests go to the worker with the fewest under way. Each worker takes `max_concurrency`; beyond
--- that they wait here in line, `queue` of them, and the rest is refused with "OVERLOADED". Every
--- request carries the version of the code that was in service when it came. What a worker had under
--- way when it died ends with "WORKER_DIED": nobody can know how far it came.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.workers")
local log = require("znl.log")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local token = require("znl.core.token")
local worker_code = require("znl.workers.code")
local journals = require("znl.workers.journal")

local M = {}

--- Calls to a worker that are no requests, at once: they must get through when requests do not.
local CONTROL_CALLS = 256
--- Pauses before a dead worker is replaced: it may die again at once.
local RESTART_MS, RESTART_MAX_MS, STABLE_MS = 100, 10000, 60000
--- How long a thread may take to end.
local STOP_MS = 5000

---@class znl.WorkersOptions
---@field count integer  threads
---@field name? string  in logs and as the name of the threads
---@field max_concurrency? integer  requests at work in one worker
---@field queue? integer  requests that wait for a worker
---@field root? string  the folder where handler files find their modules
M.SPEC = {
  count = { type = "integer", min = 1, max = 256, required = true },
  name = { type = "string", min = 1, max = 64, default = "worker" },
  max_concurrency = { type = "integer", min = 1, max = 100000, default = 1000 },
  queue = { type = "integer", min = 0, max = 1000000, default = 10000 },
  root = { type = "string", min = 1, default = "." },
}
local DEFAULTS = {}
for name, rule in pairs(M.SPEC) do DEFAULTS[name] = rule.default end

---@class znl.WorkerMember
---@field index integer
---@field state "starting"|"up"|"down"|"closing"
---@field load integer  requests under way
---@field core userdata

---@class znl.WorkerPool
---@field private members znl.WorkerMember[]
---@field private codes table<integer, znl.WorkerCode>
local Pool = {}
Pool.__index = Pool

local function fields(self, member, more)
  more = more or {}
  more.pool, more.worker = self.opts.name, member and member.index
  return more
end

-- --- calls ---------------------------------------------------------------------------------------

local function outcome(ok, ...)
  if ok == nil then return nil, ... end -- WORKER_DIED, STOPPED, NO_MEMORY
  if ok == false then return nil, (...), select(2, ...) or "FAILED" end
  return ...
end

--- One call to one worker. Yields.
---@return any ...  what `znl.workers.worker` returned; or nil, message, code
local function call(member, ...)
  local ticket, message, code = member.core:send(...)
  if not ticket then return nil, message, code end
  return outcome(member.core:wait(ticket))
end

--- Sends without waiting; its failure is logged by the worker. Only a worker that died does not hear.
local function tell(self, member, ...)
  local ticket, message, code = member.core:send(...)
  if ticket then
    member.core:forget(ticket)
  elseif code ~= "WORKER_DIED" and code ~= "STOPPED" then
    -- It no longer knows what the others know.
    self.log.error("a worker cannot be told and is replaced", fields(self, member, { error = message }))
    member.core:stop()
  end
end

-- --- what all workers are told -------------------------------------------------------------------

--- Those that are told at once; one that is starting reads it in the journal.
local function taught(self)
  local list = {}
  for _, member in ipairs(self.members) do
    if member.state == "up" then list[#list + 1] = member end
  end
  return list
end

--- For all workers, without waiting.
---@param op string
---@param id integer
function Pool:tell_all(op, id, ...)
  self.journal:add(op, id, { n = select("#", ...), ... })
  for _, member in ipairs(taught(self)) do tell(self, member, op, id, ...) end
end

--- Calls several workers at once. Yields. The first result, or the first failure.
local function call_each(members, ...)
  local left, done = #members, sched.event()
  local result, failure
  for index, member in ipairs(members) do
    local ticket, message, code = member.core:send(...)
    local function ended(value, trouble)
      if value == nil and trouble then failure = failure or trouble end
      if index == 1 then result = value end
      left = left - 1
      if left == 0 then done:set(true) end
    end
    if not ticket then
      ended(nil, message or code)
    else
      local ok, refusal = sched.spawn(function() ended(outcome(member.core:wait(ticket))) end)
      if not ok then
        member.core:forget(ticket)
        ended(nil, refusal)
      end
    end
  end
  if left > 0 then
    local ok, message = done:wait()
    if not ok then return nil, message end
  end
  if failure then return nil, failure end
  return result == nil and true or result
end

--- For all workers; waits until all have answered. Yields.
---@param op string
---@param id integer
---@return any|nil result  of the first one
---@return string? message  the first failure
function Pool:call_all(op, id, ...)
  self.journal:add(op, id, { n = select("#", ...), ... })
  return call_each(taught(self), op, id, ...)
end

--- Loads a version in the first worker, then, with the texts that one read, in the others. Yields.
---@param id integer
---@param what table
---@param with_texts fun(seen: table<string, string|false>): table
---@return table|nil report  of the first worker
---@return string? message
function Pool:load(id, what, with_texts)
  local members = taught(self)
  local first = table.remove(members, 1)
  if not first then return nil, self.opts.name .. ": no worker is up" end
  -- A worker that is starting waits at this entry until it is known what to load, or that nobody will.
  local entry = self.journal:add("load", id)
  local report, message = call(first, "load", id, what)
  if report then
    local rest = with_texts(report.seen)
    entry.arguments = { n = 1, rest }
    local ok = true
    if #members > 0 then ok, message = call_each(members, "load", id, rest) end
    if not ok then report = nil end
  end
  if not entry.arguments then self.journal:void(entry) end
  if self.loaded then self.loaded:set(true) end
  self.loaded = nil
  return report, message
end

-- --- versions ------------------------------------------------------------------------------------

--- Enters a version; returns its number.
---@param version znl.WorkerCode
---@return integer
function Pool:add(version)
  self.last_id = self.last_id + 1
  self.codes[self.last_id] = version
  return self.last_id
end

--- A version has ended in all workers.
---@param id integer
function Pool:remove(id)
  self.codes[id] = nil
  self.journal:forget(id)
  if self.drained and next(self.codes) == nil then self.drained:set(true) end
end

--- One number for each stage.
---@param stage znl.ModuleStage
---@return integer
function Pool:stage_id(stage)
  local id = self.stages[stage]
  if not id then
    self.last_stage = self.last_stage + 1
    id = self.last_stage
    self.stages[stage] = id
  end
  return id
end

-- --- requests ------------------------------------------------------------------------------------

local function least_loaded(self)
  local best, least = nil, self.opts.max_concurrency
  for _, member in ipairs(self.members) do
    if member.state == "up" and member.load < least then best, least = member, member.load end
  end
  return best
end

local function enter(version, member)
  member.load = member.load + 1
  version.loads[member] = (version.loads[member] or 0) + 1
end

--- Lets those in line go on where there is room.
local function serve_line(self)
  local line = self.line
  while line.first <= line.last do
    local place = line[line.first]
    if place.version then
      local member = least_loaded(self)
      if not member then return end
      enter(place.version, member)
      place.member, place.version = member, nil
      place.turn:set(true)
      self.waiting = self.waiting - 1
    end
    line[line.first] = nil
    line.first = line.first + 1
  end
end

local function leave(self, version, member)
  local mine = version.loads[member]
  if not mine then return end -- given back when the version was cut
  version.loads[member] = mine > 1 and mine - 1 or nil
  member.load = member.load - 1
  if self.waiting > 0 then serve_line(self) end
end

local function wait_in_line(self, version)
  if self.waiting >= self.opts.queue then
    self.counts.overloaded = self.counts.overloaded + 1
    return nil, ("%s: all workers are at work and %d requests wait"):format(self.opts.name, self.waiting),
      "OVERLOADED"
  end
  local line, place = self.line, { turn = sched.event(), version = version }
  line.last = line.last + 1
  line[line.last] = place
  self.waiting = self.waiting + 1
  version.places[place] = true
  local ok, message, code = place.turn:wait()
  version.places[place] = nil
  if ok then return place.member end
  if place.member then -- cancelled in the moment its turn came
    leave(self, version, place.member)
  else
    place.version = nil
    self.waiting = self.waiting - 1
  end
  return nil, message, code
end

--- A version is about to end: requests that still count for it were cut where they waited, and will
--- never say so.
---@param version znl.WorkerCode
function Pool:give_up(version)
  for place in pairs(version.places) do
    if place.version then
      place.version = nil
      self.waiting = self.waiting - 1
    end
  end
  for member, count in pairs(version.loads) do member.load = member.load - count end
  version.loads, version.places = {}, {}
  serve_line(self)
end

local function finish(self, version, member, ticket, ok, ...)
  leave(self, version, member)
  if ok then return ... end
  local message, code = ...
  if ok == false then
    self.counts.errors = self.counts.errors + 1
    if not code then
      -- One that names no line is about what the handler returned.
      if not message:find("^[^\n]-:%d+: ") then message = ("%s: %s"):format(version.parts.handle, message) end
      error(message, 0)
    end
    message = message:match("^[^\n]*")
    self.log.error("a handler was interrupted", fields(self, member, { file = version.path, error = message }))
    return nil, message, code
  end
  if code == "WORKER_DIED" then
    self.counts.died_requests = self.counts.died_requests + 1
    message = ("%s: worker %d died while it ran the request"):format(self.opts.name, member.index)
  elseif code ~= "STOPPED" then
    member.core:cancel(ticket)
  end
  return nil, message, code
end

--- Runs a request in a worker, in this version. Yields. Raises what the handler raised there, with the
--- file and line there.
---@param version znl.WorkerCode
---@param req znl.Request
---@return any ...  what the handler returned; or nil, message, code
function Pool:request(version, req)
  if self.is_stopped then return nil, self.opts.name .. ": the workers are stopped", "STOPPED" end
  local member = self.waiting == 0 and least_loaded(self) or nil
  if member then
    enter(version, member)
  else
    local message, code
    member, message, code = wait_in_line(self, version)
    if not member then return nil, message, code end
  end
  self.counts.requests = self.counts.requests + 1
  local current = token.current()
  local core_worker = member.core
  local ok, ticket, message, code = pcall(core_worker.send, core_worker, "request", version.id,
    current and current:deadline_ms(), current ~= nil,
    req.payload, req.from, req.id, req.service, req.route, req.params, req.data)
  if not ok then
    leave(self, version, member)
    error(ticket, 0)
  end
  if not ticket then
    leave(self, version, member)
    return nil, message, code
  end
  return finish(self, version, member, ticket, core_worker:wait(ticket))
end

-- --- the life of a worker ------------------------------------------------------------------------

local start

local function restart_later(self, member)
  local lived_ms = sched.now_ms() - member.started_ms
  member.pause_ms = lived_ms >= STABLE_MS and RESTART_MS
    or math.min(member.pause_ms and member.pause_ms * 2 or RESTART_MS, RESTART_MAX_MS)
  sched.spawn_owned(self.owner, function()
    sched.sleep(member.pause_ms)
    if self.is_stopped then return end
    self.counts.restarts = self.counts.restarts + 1
    if member.core then member.core:close(0) end
    start(self, member)
  end)
end

local function on_end(self, member, code, text, left_open)
  local was = member.state
  member.state = "down"
  if left_open > 0 then
    self.log.warn("a worker left handles open", fields(self, member, { handles = left_open }))
  end
  if was ~= "closing" then
    self.counts.died = self.counts.died + 1
    self.log.error("a worker died", fields(self, member, { code = code or "STOPPED", reason = text }))
    if not self.is_stopped then restart_later(self, member) end
  end
  if member.ended then member.ended:set(true) end
end

--- Tells a new worker all that the others know. Yields.
---@return true|nil ok
---@return string? message
local function teach(self, member)
  local ok, message = call(member, "configure", { root = self.opts.root, watchdog_ms = runtime.watchdog_ms() })
  if not ok then return nil, message end
  local journal = self.journal
  local index = 1
  while index <= #journal.entries do
    local entry = journal.entries[index]
    while not entry.is_void and not entry.arguments do
      self.loaded = self.loaded or sched.event()
      self.loaded:wait()
    end
    if not entry.is_void then
      local value
      value, message = call(member, entry.op, entry.id, unpack(entry.arguments, 1, entry.arguments.n))
      if value == nil and message and not entry.is_void then return nil, message end
    end
    index = index + 1
  end
  local live = {}
  for id in pairs(self.codes) do live[id] = true end
  -- Sent, not awaited: from here on it is told what happens, with the others.
  tell(self, member, "keep", live)
  return true
end

function start(self, member)
  member.state, member.load, member.started_ms = "starting", 0, sched.now_ms()
  local message, code
  member.core, message, code = core.start(
    ("%s-%d"):format(self.opts.name, member.index), self.opts.max_concurrency + CONTROL_CALLS,
    function(kind, ...) self:note(kind, ...) end,
    function(...) on_end(self, member, ...) end)
  if not member.core then
    on_end(self, member, code, message, 0)
    return nil, message
  end
  self.journal:begin_reading()
  local ok, failure = teach(self, member)
  self.journal:end_reading()
  if not ok then
    if member.state == "starting" then
      self.log.error("a worker could not be set up", fields(self, member, { error = failure }))
      member.core:stop()
    end
    return nil, failure
  end
  member.state = "up"
  if self.waiting > 0 then serve_line(self) end
  return true
end

--- What a worker tells unasked: a module that a version in service required.
function Pool:note(kind, one)
  if kind ~= "late" or not self.tree then return end
  local users = {}
  for _, id in ipairs(one.versions) do
    if self.codes[id] then users[#users + 1] = self.codes[id].user end
  end
  for _, path in ipairs(one.modules) do
    if self.tree.live[path] then users[#users + 1] = self.tree.live[path] end
  end
  worker_code.note_late(self.tree, users, one)
  if self.tree.opts.on_late then self.tree.opts.on_late(one.path) end
end

--- Whose modules are mirrored here.
---@param tree znl.Modules
function Pool:follow(tree) self.tree = tree end

---@return table<string, integer>
function Pool:counters()
  local result = { workers = #self.members, up = 0, at_work = 0, waiting = self.waiting, versions = 0 }
  for name, value in pairs(self.counts) do result[name] = value end
  for _, member in ipairs(self.members) do
    if member.state == "up" then result.up = result.up + 1 end
    result.at_work = result.at_work + member.load
  end
  for _ in pairs(self.codes) do result.versions = result.versions + 1 end
  return result
end

local function stop_member(self, member)
  if member.state == "down" then
    if member.core then member.core:close(0) end
    return
  end
  member.state = "closing"
  member.ended = sched.event()
  member.core:stop()
  if not member.ended:wait(STOP_MS) then
    self.log.error("a worker did not stop and is given up", fields(self, member, { after_ms = STOP_MS }))
    self.counts.stuck = self.counts.stuck + 1
  end
  member.state = "down"
  member.core:close(0)
end

--- Ends the threads. Waits until every version has ended, at most `drain_ms`; requests that still run
--- then end with "STOPPED". Closing twice is harmless. Yields.
---@param drain_ms? integer
function Pool:stop(drain_ms)
  if self.is_stopped then return end
  if drain_ms and next(self.codes) ~= nil then
    self.drained = self.drained or sched.event()
    self.drained:wait(drain_ms)
    if self.is_stopped then return end
  end
  self.is_stopped = true
  local left, done = #self.members, sched.event()
  for _, member in ipairs(self.members) do
    sched.spawn_owned(self.owner, function()
      stop_member(self, member)
      left = left - 1
      if left == 0 then done:set(true) end
    end)
  end
  done:wait()
  for place_index = self.line.first, self.line.last do
    local place = self.line[place_index]
    if place.version then place.turn:set(false, self.opts.name .. ": the workers are stopped", "STOPPED") end
  end
  self.stopped:set(true)
end

--- Waits until `stop` has come to its end. Yields.
function Pool:wait_stopped() self.stopped:wait() end

--- Starts the threads and waits until all are up. Yields.
---@param opts znl.WorkersOptions  checked; what is absent is the default
---@return znl.WorkerPool|nil
---@return string? message
function M.open(opts)
  opts = setmetatable(opts, { __index = DEFAULTS })
  local self = setmetatable({
    opts = opts, members = {}, codes = {}, journal = journals.new(), stages = setmetatable({}, { __mode = "k" }),
    last_id = 0, last_stage = 0, line = { first = 1, last = 0 }, waiting = 0,
    owner = sched.owner(), log = log.new("workers"), stopped = sched.event(),
    counts = { requests = 0, errors = 0, overloaded = 0, died = 0, died_requests = 0, restarts = 0, stuck = 0 },
  }, Pool)
  --- Where `znl.versions.version` has its code run: in these workers.
  self.backend = { new = function(of) return worker_code.new(self, of) end }
  local failure
  for index = 1, opts.count do
    self.members[index] = { index = index }
    local ok, message = start(self, self.members[index])
    if not ok then
      failure = message
      break
    end
  end
  if failure then
    self:stop()
    return nil, failure
  end
  return self
end

return M
