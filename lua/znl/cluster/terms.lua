--- znl.cluster.terms: the terms of one client, one after the other: elected, opened, served, lost, elected
--- again, until it is closed.
---
---   stopped --start--> electing --> leading | following --lost--> electing ...   --close--> stopped
---
--- A term begins for the world when all that must be restored at the new leader was sent to it; calls wait
--- until then. SPDX-License-Identifier: MIT

local election = require("znl.cluster.election")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")

local M = {}

--- Of a client that neither becomes ready nor fails.
local NOT_YET = "the client of this process is not ready yet"
--- Who has led or followed for that long has not failed.
local STEADY_MS = 50
--- Terms that began and were soon over count as so many failures at most: pauses between them stay short, for
--- several leaders may die in a row.
local SHORT_TERMS_MAX = 3

---@class znl.ClusterTermsOptions
---@field title string  begins messages
---@field config table  of the role
---@field owner any
---@field log znl.Logger
---@field place znl.ClusterPlace
---@field election znl.ClusterElectionOptions  but for the candidate
---@field restore fun(term: znl.ClusterTerm): true|nil, string?, string?  subscribes and publishes; yields
---@field tell fun(event: string, ...)
---@field report fun(message: string, where: string, is_known: boolean|nil)

---@class znl.ClusterTerms
---@field term znl.ClusterTerm|nil  while it leads or follows
---@field link any  of a follower's term, for calls without detours
---@field state "stopped"|"electing"|"leading"|"following"
---@field is_running boolean
---@field count integer  terms since the start
---@field failovers integer
---@field failover_ms number  of the last one
---@field trouble string|nil  why there is no term
---@field listen_trouble string|nil  why it did not lead this time, when that is not the usual reason
---@field told_trouble string|nil  why it does not lead, as it was logged
---@field refusal string|nil  the last one that was logged; the same one is again after `refusal_ms`
local Terms = {}
Terms.__index = Terms

--- This process has won the place for another of its clients: whom this one follows is gone, and it leads, too.
local function on_won(self)
  if not self.is_running or self.opts.config.leader == false then return end
  local term = self.term or self.opening
  if term and term.role == "leader" then return end
  local won = election.next(self.opts.election)
  if not won then return end
  self.won = won
  if term then
    self.opening = nil
    self:lose(term, "its leader is gone")
    term:close("its leader is gone")
  end
  if self.pause then self.pause:set(true) end
end

---@param opts znl.ClusterTermsOptions
---@return znl.ClusterTerms
function M.new(opts)
  local self = setmetatable({
    opts = opts, state = "stopped", is_running = false, epoch = 0, count = 0, failovers = 0, failover_ms = 0,
    settled = sched.event(),
  }, Terms)
  self.candidate = { on_won = function() on_won(self) end }
  opts.election.candidate = self.candidate
  return self
end

-- --- waiting -------------------------------------------------------------------------------------

--- Everybody who waits goes on, with true or nil, message, code; who comes later waits anew.
local function settle(self, ...)
  local settled = self.settled
  self.settled = sched.event()
  settled:set(...)
end

local function stopped(self) return nil, self.opts.title .. ": it is not running", "STOPPED" end

--- Waits until there is a term. Yields.
---@param ends_ms number  monotonic
---@param settled? znl.Event  of `start`: what its first attempt comes to, though it did so at once
---@return true|nil ok
---@return string? message
---@return any code
function Terms:await(ends_ms, settled)
  while not self.term do
    if not settled and not self.is_running then return stopped(self) end
    local left_ms = math.ceil(ends_ms - sched.now_ms())
    if left_ms <= 0 then
      local is_coming = self.opening and self.opening.role == "leader"
      local why = is_coming and NOT_YET or self.trouble
      return nil, ("%s: no leader in time%s"):format(self.opts.title, why and ": " .. why or ""), "TIMEOUT"
    end
    local ok, message, code = (settled or self.settled):wait(left_ms)
    settled = nil
    if not ok and code ~= "TIMEOUT" then return nil, message, code end
  end
  return true
end

-- --- one term ------------------------------------------------------------------------------------

--- The term has ended by itself, or another one begins in its place.
---@param term znl.ClusterTerm
---@param reason string
function Terms:lose(term, reason)
  if self.term ~= term then return end
  self.term, self.link, self.trouble = nil, nil, nil
  self.state, self.lost_ms = "electing", sched.now_ms()
  self.opts.log.info("lost", { role = term.role, reason = reason })
  self.opts.tell("lost", reason)
end

local function count_failover(self, role)
  if not self.lost_ms then return end
  self.failovers = self.failovers + 1
  self.failover_ms = sched.now_ms() - self.lost_ms
  self.lost_ms = nil
  self.opts.tell("failover", role, self.failover_ms)
end

local function begin(self, term)
  local opts = self.opts
  self.term, self.link, self.trouble = term, term.link, nil
  self.state = term.role == "leader" and "leading" or "following"
  local ok, message, code = opts.restore(term)
  if self.term ~= term then return nil, message or "the connection ended", "CLOSED" end
  if not ok then
    self:lose(term, message)
    return nil, message, code
  end
  self.count, self.refusal = self.count + 1, nil
  settle(self, true)
  local lost_ms = self.lost_ms
  opts.log[lost_ms and "info" or "debug"]("ready", {
    role = term.role, place = opts.place.key, after_ms = lost_ms and math.floor(sched.now_ms() - lost_ms + 0.5) or nil,
  })
  opts.tell("ready", term.role)
  count_failover(self, term.role)
  return true
end

--- Followers wait as well for a client that does not become ready: the operator should know.
---@return znl.Event opened  to be set
local function watch_opening(self, term)
  local opts, opened = self.opts, sched.event()
  task.background(opts.owner, function()
    while true do
      local ok, _, code = opened:wait(opts.config.max_wait_ms)
      if ok or code ~= "TIMEOUT" or self.opening ~= term then return end
      opts.report(NOT_YET, "start")
    end
  end)
  return opened
end

--- Opens a term and serves until it ends. Yields.
---@return boolean was_ready
---@return string? message  why it was not
---@return string? code
---@return boolean? is_refusal
local function serve(self, term, epoch)
  self.opening = term
  local opened = term.role == "leader" and watch_opening(self, term)
  local ok, message, code, is_refusal = term:open()
  if opened then opened:set(true) end
  if self.epoch ~= epoch or self.opening ~= term then
    term:close()
    return false, message or "closed", "CLOSED"
  end
  self.opening = nil
  if ok then ok, message, code = begin(self, term) end
  if not ok then return false, message, code, is_refusal end
  self.patience_ms = math.huge
  local reason = term.gone:wait()
  self:lose(term, tostring(reason))
  self.patience_ms = sched.now_ms() + self.opts.config.max_wait_ms
  return true
end

-- --- one after the other -------------------------------------------------------------------------

--- The next term, unopened. Does not yield.
local function next_term(self)
  local won = self.won
  self.won = nil
  if won then return won end
  local term, message, code, trouble = election.next(self.opts.election)
  if trouble then
    self.trouble = trouble
    if trouble ~= self.told_trouble then self.opts.log.warn(trouble, { where = "election" }) end
    self.told_trouble = trouble
  end
  self.listen_trouble = trouble
  return term, message, code
end

--- Tells the operator, and those who wait when waiting on is of no use.
local function explain(self, message, code, is_refusal)
  local opts = self.opts
  local config = opts.config
  -- That somebody cannot be reached says less than why this process does not listen itself.
  if is_refusal or self.trouble == nil then self.trouble = message end
  local now_ms = sched.now_ms()
  if is_refusal then
    local is_news = message ~= self.refusal or now_ms >= self.refusal_ms
    if is_news then self.refusal, self.refusal_ms = message, now_ms + config.max_wait_ms end
    opts.report(message, "start", not is_news)
    settle(self, nil, message, code)
    return
  end
  opts.log.debug("not ready", { reason = message, code = code })
  if now_ms < self.patience_ms then return end
  self.patience_ms = now_ms + config.max_wait_ms
  if config.leader == false then
    message = ("leader does not be active in %dms on port:%s (%s)"):format(
      config.max_wait_ms, config.path or config.port, message)
  end
  opts.report(self.listen_trouble or message, "election")
end

--- A client that must lead, in the place of another: waiting would not help.
local function is_final(self, code)
  return self.count == 0 and self.opts.config.leader == true and code == "ADDRESS_IN_USE"
end

local function rest(self, failures, is_refusal)
  if self.won then return end
  local pause_ms = election.pause_ms(failures, is_refusal, self.opts.config.leader == false)
  if pause_ms == 0 then return end
  self.pause = sched.event()
  self.pause:wait(pause_ms)
  self.pause = nil
end

--- Yields until it is closed.
local function keep_going(self, epoch)
  local failures = 0
  while self.epoch == epoch do
    local term, message, code = next_term(self)
    local was_ready, is_refusal = false, nil
    if term then
      local began_ms = sched.now_ms()
      was_ready, message, code, is_refusal = serve(self, term, epoch)
      if self.epoch ~= epoch then return end
      if was_ready then
        local is_steady = sched.now_ms() - began_ms >= STEADY_MS
        failures = is_steady and -1 or math.min(failures, SHORT_TERMS_MAX)
      end
    elseif is_final(self, code) then
      settle(self, nil, message, code)
      return self:close()
    end
    failures = failures + 1
    if not was_ready and not self.won then explain(self, message, code, is_refusal) end
    rest(self, failures, is_refusal)
    if term then term:close() end -- who refuses goes on refusing until here
  end
end

--- Begins to elect. Harmless when it runs.
---@return znl.Event|nil settled  for `await`
---@return string? message
---@return string? code
function Terms:start()
  local settled = self.settled
  if self.is_running then return settled end
  self.is_running, self.state, self.epoch = true, "electing", self.epoch + 1
  self.count, self.lost_ms, self.trouble, self.told_trouble, self.refusal = 0, nil, nil, nil, nil
  self.patience_ms = sched.now_ms() + self.opts.config.max_wait_ms
  self.opts.place:join(self.candidate)
  local ok, message, code = task.background(self.opts.owner, keep_going, self, self.epoch)
  if ok then return settled end
  self:close()
  return nil, message, code
end

--- Ends the term and the elections; who waits gets "STOPPED". Harmless when it is stopped.
function Terms:close()
  if not self.is_running then return end
  self.is_running, self.state, self.epoch = false, "stopped", self.epoch + 1
  self.opts.place:leave(self.candidate)
  local term, opening, won = self.term, self.opening, self.won
  self.term, self.opening, self.won, self.link = nil, nil, nil, nil
  for _, one in pairs { term or false, opening or false, won or false } do
    if one then one:close() end
  end
  if self.pause then self.pause:set(true) end
  settle(self, stopped(self))
end

--- The code has a new version, and with it the real client.
---@param source znl.RealClientSource
function Terms:replace(source)
  self.opts.election.source = source
  local term = self.term or self.opening
  if term and term.replace then task.background(self.opts.owner, term.replace, term, source) end
end

return M
