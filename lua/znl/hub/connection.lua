--- znl.hub.connection: a client of a hub, from the upgrade to its end.
---
---   opened --on_connect--> serving --closed by either side--> left --on_disconnect--> gone
---
--- One task receives for each connection and handles one message after the other: what a handler waits for, the
--- client waits for. It has left its session before on_disconnect runs.
--- SPDX-License-Identifier: MIT

local bucket = require("znl.hub.bucket")
local json = require("znl.json")
local presence = require("znl.hub.presence")
local role = require("znl.roles.role")
local sched = require("znl.core.sched")
local visits = require("znl.hub.visits")

local M = {}

local AWAY, INVALID, POLICY, FAILED, LATER = 1001, 1007, 1008, 1011, 1013

---@class znl.HubMessage
---@field type string
---@field payload? any

---@class znl.HubContext
---@field id integer|nil  of the connection in its hub; nil once it has ended
---@field ns string  its namespace: the path it connected to
---@field request { path: string, query: string|nil, headers: table<string, string>, peer: string, params: table }
---@field identity any  what authenticate returned
---@field session_id string|nil  after the join
---@field user_id string|nil
---@field channels string[]|nil
---@field metadata table|nil
---@field state table  for the handlers; outlives their reloads
---@field presence znl.HubPresence
---@field private hub znl.Hub
---@field private conn znl.WebSocket
local Context = {}
Context.__index = Context

--- Sends to this client, without waiting: `send(type, payload)` or `send{ type =, payload = }`.
---@param message string|znl.HubMessage
---@param payload? any
---@return true|nil ok
---@return string? message
---@return "CLOSED"|"INVALID"|"BUSY"|string? code  BUSY: its queue is full, and on_slow says what comes of it
function Context:send(message, payload)
  if type(message) == "string" then message = { type = message, payload = payload } end
  if type(message) ~= "table" then
    error("ctx:send: needs a type and a payload, or a table with them, not a " .. type(message), 2)
  end
  if type(message.type) ~= "string" then return nil, "ctx:send: the type must be a text", "INVALID" end
  if not self.id then return nil, "ctx:send: the connection is closed", "CLOSED" end
  return self.hub.instance.fanout:send(self.id, message)
end

--- Closes the connection.
---@param code? integer  default 1000
---@param reason? string  at most 123 bytes
function Context:close(code, reason)
  self.ending = self.ending or "CLOSED"
  local ok, message = pcall(self.conn.close, self.conn, code, reason)
  if not ok then error("ctx:close: " .. tostring(message):gsub("^.-websocket:close: ", ""), 2) end
end

--- The hub closes without waiting for the handler of this connection any longer.
---@private
function Context:abandon() self.id = nil end

---@return boolean
function Context:is_open() return self.id ~= nil and self.conn:is_open() end

local function finish(self, reason, code, text)
  self.ending = self.ending or reason
  self.conn:close(code, text)
end

local function call(self, hook, timeout_ms, ...)
  local visit = self.visit
  visit.hook, visit.first, visit.second, visit.third = hook, self, ...
  local ok, result, message, code = visits.call(self.hub.find, visit, timeout_ms)
  visit.second, visit.third = nil, nil
  if not ok then
    self.hub:report(hook, role.without_our_trace(tostring(result)), self.request.peer, self.ns)
    return false, "FAILED"
  end
  if not visit.is_taken then return false, code, message end
  return true
end

local function on_invalid(self)
  local hub = self.hub
  hub.counts.invalid = hub.counts.invalid + 1
  if hub.config.on_invalid == "close" then finish(self, "INVALID", INVALID, "not a message with a type") end
end

local function is_within_rate(self, size)
  if not self.bucket or self.bucket:take(size, sched.now_ms()) then return true end
  local hub = self.hub
  hub.counts.rate_limited = hub.counts.rate_limited + 1
  if hub.config.rate.on_excess == "close" then finish(self, "RATE", POLICY, "too many messages") end
  return false
end

local function handle(self, data, is_binary)
  if not is_within_rate(self, #data) then return end
  if is_binary then return on_invalid(self) end
  local ok, message = json.decode(data)
  if not ok or type(message) ~= "table" or type(message.type) ~= "string" then return on_invalid(self) end
  local counts = self.hub.counts
  counts.messages = counts.messages + 1
  local code
  ok, code = call(self, "on_message", nil, message)
  if ok or code == "FAILED" then return end
  if code == "NOT_FOUND" then return finish(self, "STOPPED", AWAY, "the channel is closed") end
  counts.overloaded = counts.overloaded + 1 -- and the message is lost: the client is told by nothing else
end

--- How long to wait for the next message, and what it means when none comes.
local function silence(self)
  local config = self.hub.config
  local idle_ms = config.idle_ms > 0 and config.idle_ms - (sched.now_ms() - self.heard_ms)
  local ping_ms = config.ping_ms > 0 and config.ping_ms or nil
  if idle_ms and (not ping_ms or idle_ms < ping_ms) then return math.max(0, math.floor(idle_ms)), true end
  return ping_ms, false
end

--- Asks for a sign of life; what comes meanwhile is one.
local function is_alive(self)
  local conn, config = self.conn, self.hub.config
  local ok, _, code = conn.core:ping(config.ping_ms)
  if ok or code ~= "TIMEOUT" then return true end
  return conn.core:inbox() > 0
end

local function serve(self)
  local raw, counts = self.conn.core, self.hub.counts
  while true do
    local timeout_ms, is_idle = silence(self)
    local data, is_binary, code = raw:recv(timeout_ms)
    if data == true then data, is_binary, code = raw:recv(0) end
    if data then
      self.heard_ms = sched.now_ms()
      handle(self, data, is_binary)
    elseif code ~= "TIMEOUT" or not raw:is_open() then -- it may have ended with that code
      return
    elseif is_idle then
      counts.idle = counts.idle + 1
      finish(self, "IDLE", AWAY, "no message for too long")
    elseif not is_alive(self) then
      counts.silent = counts.silent + 1
      finish(self, "TIMEOUT", AWAY, "no sign of life")
    end
  end
end

--- Why it ended and with which code, for on_disconnect.
local function ending(self)
  local how = self.conn:ending()
  if not self.ending and self.hub:state() == "stopped" then self.ending = "STOPPED" end
  return self.ending or (how and how.code) or "CLOSED", how and how.close_code or 0
end

--- Runs a connection until its end. Yields.
---@param hub znl.Hub
---@param conn znl.WebSocket
---@param request znl.WebSocketRequest  admitted
function M.run(hub, conn, request)
  local self = setmetatable({
    hub = hub, conn = conn, ns = request.ns, identity = request.identity, state = {}, heard_ms = sched.now_ms(),
    request = {
      path = request.path, query = request.query, headers = request.headers, peer = request.peer,
      params = request.params,
    },
    visit = { route = request.ns, params = request.params },
  }, Context)
  if hub.config.rate then self.bucket = bucket.new(hub.config.rate, self.heard_ms) end
  self.presence = presence.new(hub, self)
  local id, message = hub.instance.fanout:attach(conn.core, self.ns)
  if not id then
    hub:report("connect", message, request.peer, self.ns)
    conn:close(LATER, "no room")
    return
  end
  self.id = id
  hub:enter(self)
  local ok, code = call(self, "on_connect")
  if ok then
    serve(self)
  elseif code == "OVERLOADED" then
    finish(self, "OVERLOADED", LATER, "busy")
  else
    finish(self, "FAILED", code == "NOT_FOUND" and AWAY or FAILED, "")
  end
  if self.id then hub:leave(self) end
  call(self, "on_disconnect", nil, ending(self))
end

return M
