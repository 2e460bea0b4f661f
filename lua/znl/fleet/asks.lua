--- znl.fleet.asks: questions to slaves that are with another master of the fleet, and from there.
---
---   asker: where is the slave? -> its master does what was asked -> the answer, or the failure there
---                              -> not here, nobody there: look once more, at another master only
---
--- What may have been done is never asked again. Time left, deadline and cancellation of the asker go along.
--- SPDX-License-Identifier: MIT

local letters = require("znl.fleet.letters")
local sched = require("znl.core.sched")
local token = require("znl.core.token")

local M = {}

local CODE = "^[%w_]+$"
local CODE_BYTES_MAX = 64
local MESSAGE_BYTES_MAX = 4096

---@class znl.FleetAsks
local Asks = {}
Asks.__index = Asks

---@param fleet znl.Fleet
---@return znl.FleetAsks
function M.new(fleet)
  return setmetatable({
    fleet = fleet, waiting = 0, serving = 0, tokens = {}, places = {},
    counters = { asked = 0, served = 0, refused = 0, elsewhere = 0, cancelled = 0 },
  }, Asks)
end

--- Nil, message, code with what was in the way of `slave_id`.
local function failure(what, slave_id, entry, message, code)
  return nil, ("%s: slave %s is with master %s: %s"):format(what, slave_id, entry.master, message), code
end

--- Waits for the answer, no longer than the slave stays with the master that was asked.
local function exchange(self, entry, slave_id, subject, text, left_ms)
  local own, no_memory, its_code = token.new(token.current())
  if not own then return nil, no_memory, its_code end
  local bus, place = self.fleet.bus, slave_id .. " " .. entry.owner
  local others = self.places[place] or {}
  self.places[place], others[own] = others, true
  local before, was_shielded = token.enter(own)
  local ok, reply, message, code = pcall(bus.request, bus, subject, text, { timeout_ms = left_ms })
  token.enter(before, was_shielded)
  local is_gone = others[own] == "gone"
  others[own] = nil
  if next(others) == nil and self.places[place] == others then self.places[place] = nil end
  own:close()
  if not ok then error(reply, 0) end
  if not reply and is_gone then return nil, "it went while waiting", "GONE" end
  return reply, message, code
end

--- A slave is not with that master any more: no answer will come.
---@param slave_id string
---@param owner string  the instance of the master
function Asks:gone(slave_id, owner)
  local place = slave_id .. " " .. owner
  local waiting = self.places[place]
  self.places[place] = nil
  for own in pairs(waiting or {}) do
    waiting[own] = "gone"
    own:cancel("the slave is not there any more")
  end
end

--- Sends a question to the master that has the slave, and reads its answer.
---@return boolean is_done  false: nothing was done there, for sure
local function ask_there(self, entry, question, slave_id)
  local fleet, bus = self.fleet, self.fleet.bus
  local what, subject = question.what, fleet:subject("ask." .. entry.owner)
  local left_ms = math.ceil(question.ends_ms - sched.now_ms())
  if left_ms < 1 then return true, failure(what, slave_id, entry, "no answer in time", "TIMEOUT") end
  local text, number = fleet.letters:write(subject, question.kind, {
    slave_id = slave_id, name = question.name, payload = question.payload, timeout_ms = left_ms,
    is_json = question.is_json, is_limited = question.is_limited,
  })
  local fits, message = fleet:fits(#text)
  if not fits then return true, failure(what, slave_id, entry, message, "TOO_BIG") end
  self.counters.asked = self.counters.asked + 1
  local reply, why, code = exchange(self, entry, slave_id, subject, text, left_ms)
  if not reply then
    if code == "CANCELLED" or code == "DEADLINE" then
      bus:publish(subject, (fleet.letters:write(subject, "cancel", { name = ("%d"):format(number) })))
    end
    return code ~= "UNREACHABLE", failure(what, slave_id, entry, why, code)
  end
  local answer, reason = fleet.letters:read(letters.question(fleet.origin, number), reply.data)
  if not answer or answer.kind ~= "answer" or answer.number ~= number or answer.origin ~= entry.owner then
    fleet:report_bad(reason or "it is no answer")
    return true, failure(what, slave_id, entry, "the answer cannot be read: " .. (reason or "no answer"), "PROTO")
  end
  if not answer.is_error then
    if answer.is_json then return true, answer.payload, true end
    return true, answer.payload
  end
  local remote_code = answer.slave_id
  if #remote_code > CODE_BYTES_MAX or not remote_code:find(CODE) then remote_code = "PROTO" end
  return not answer.is_elsewhere, nil, answer.name:sub(1, MESSAGE_BYTES_MAX), remote_code
end

--- Asks a slave that is not with this master. Yields.
---@param question {what: string, kind: string, name: string|nil, payload: any, ends_ms: number, is_json: boolean|nil}
---@param slave_id string
---@return boolean is_known  false: it is with no other master
---@return any ...  payload, is_json; or nil, message, code
function Asks:ask(question, slave_id)
  local fleet = self.fleet
  local current = token.current()
  question.is_limited = current ~= nil and current:deadline_ms() ~= nil
  local tried, tried_result
  for _ = 1, 2 do
    local entry = fleet.directory and fleet.directory:find(slave_id)
    if not entry or entry.is_own then
      if not tried then return false end
      break
    end
    if entry.owner == tried then break end
    if self.waiting >= fleet.opts.max_in_flight then
      return true, failure(question.what, slave_id, entry,
        ("%d requests to other masters wait already (max_in_flight)"):format(self.waiting), "LIMIT")
    end
    self.waiting = self.waiting + 1
    local result = { pcall(ask_there, self, entry, question, slave_id) }
    self.waiting = self.waiting - 1
    if not result[1] then error(result[2], 0) end
    if result[2] then return true, result[3], result[4], result[5] end
    tried, tried_result = entry.owner, result
    self.counters.elsewhere = self.counters.elsewhere + 1
  end
  if fleet.core:is_online(slave_id) then return false end -- it came here meanwhile
  return true, nil, tried_result[4], "UNREACHABLE"
end

--- What the core does for one question; raises for a route that is none.
local function run(core, letter)
  local timeout_ms = math.max(1, letter.timeout_ms)
  if letter.kind == "request" then return core:request(letter.slave_id, letter.payload, timeout_ms) end
  if letter.kind == "service" then
    return core:service_request(letter.slave_id, letter.name, letter.payload, timeout_ms)
  end
  return core:call(letter.slave_id, letter.name, letter.payload, timeout_ms, letter.is_json)
end

local function work(self, letter)
  local core = self.fleet.core
  if not core:is_online(letter.slave_id) then
    self.counters.elsewhere = self.counters.elsewhere + 1
    return { is_error = true, is_elsewhere = true, slave_id = "UNREACHABLE", name = "it is not there any more" }
  end
  if self.serving >= self.fleet.opts.max_in_flight then
    self.counters.refused = self.counters.refused + 1
    return {
      is_error = true, slave_id = "OVERLOADED",
      name = ("its master has %d requests of others at work already (max_in_flight)"):format(self.serving),
    }
  end
  local key = ("%s %d"):format(letter.origin, letter.number)
  local own, message, code = token.new(nil, letter.is_limited and letter.timeout_ms or nil)
  if not own then return { is_error = true, slave_id = code, name = message } end
  self.serving, self.tokens[key] = self.serving + 1, own
  local before, was_shielded = token.enter(own)
  local ok, payload, is_json, its_code = pcall(run, core, letter)
  token.enter(before, was_shielded)
  self.serving, self.tokens[key] = self.serving - 1, nil
  own:close()
  self.counters.served = self.counters.served + 1
  if not ok then return { is_error = true, slave_id = "INVALID", name = tostring(payload) } end
  if payload == nil then
    -- Without a connection nothing was sent: the asker may look for the slave elsewhere.
    local is_elsewhere = its_code == "UNREACHABLE"
    return { is_error = true, is_elsewhere = is_elsewhere, slave_id = tostring(its_code), name = tostring(is_json) }
  end
  return { payload = payload, is_json = is_json == true }
end

--- A letter on the subject of this instance. Yields.
---@param message table  of znl.nats
function Asks:serve(message)
  local fleet = self.fleet
  local letter, reason = fleet.letters:read(message.subject, message.data)
  if not letter then return fleet:report_bad(reason) end
  if letter.kind == "cancel" then
    local own = self.tokens[("%s %s"):format(letter.origin, letter.name)]
    if own then
      self.counters.cancelled = self.counters.cancelled + 1
      own:cancel("the asker gave it up")
    end
    return
  end
  if not message.reply or letter.kind == "publish" or letter.kind == "answer" then
    return fleet:report_bad("it is no question")
  end
  local answer = work(self, letter)
  answer.number = letter.number
  local target = letters.question(letter.origin, letter.number)
  local text = fleet.letters:write(target, "answer", answer)
  local fits, too_big = fleet:fits(#text)
  if not fits then
    text = fleet.letters:write(target, "answer", {
      is_error = true, slave_id = "TOO_BIG", name = "the answer: " .. too_big, number = letter.number,
    })
  end
  local ok, why, code = message:respond(text)
  if not ok then fleet.log.warn("answer to another master not sent", { error = why, code = code }) end
end

return M
