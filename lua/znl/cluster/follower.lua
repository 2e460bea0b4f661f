--- znl.cluster.follower: the connection of this process to a leader (spec cluster-client, section 7).
---
---   new --open: connects, registers--> serving --connection ends, or close--> closed
---
--- A registration that is not answered is repeated for as long as the connection lasts: the leader may not be
--- ready, or may not lead the channel yet. SPDX-License-Identifier: MIT

local core = require("znl.core.cluster")
local sched = require("znl.core.sched")
local secret = require("znl.cluster.secret")

local M = {}

--- A registration waits that long for its answer at least: who wants calls to end soon need not ask again as often.
local REGISTER_MS = 250

---@class znl.ClusterFollower : znl.ClusterTerm
local Follower = {}
Follower.__index = Follower

local REACTIONS = {}

function REACTIONS.value(self, key, value) self.host.on_value(key, value) end
function REACTIONS.trouble(self, text, code) self.host.on_trouble(text, code) end

function REACTIONS.closed(self, reason, code)
  local was_open = self.is_open
  self.link, self.is_open, self.is_closed = nil, false, true
  self.reason = reason
  if was_open then self.host.on_lost(self, reason, code) end
  self.gone:set(reason)
end

local LINK_OPTIONS = {
  "response_timeout_ms", "heartbeat_ms", "max_message_bytes", "max_queue_bytes", "max_pending", "max_depth",
}

---@class znl.ClusterFollowerOptions
---@field name string
---@field place znl.ClusterPlace
---@field config table  of the role
---@field secrets string[]|nil
---@field pair znl.ClusterTranscode|nil
---@field tls any  context
---@field host znl.ClusterTermHost

---@param opts znl.ClusterFollowerOptions
---@return znl.ClusterFollower
function M.new(opts)
  return setmetatable({
    role = "follower", name = opts.name, opts = opts, host = opts.host, gone = sched.event(), is_open = false,
    is_closed = false,
  }, Follower)
end

--- Connects. Yields.
local function connect(self)
  local opts = self.opts
  local config = opts.config
  local given = {
    host = not config.path and config.host or nil, port = not config.path and config.port or nil, path = config.path,
    tls = opts.tls, timeout_ms = config.connect_timeout_ms, transcode = opts.pair,
    on_event = function(kind, ...)
      local react = REACTIONS[kind]
      if react then return react(self, ...) end
    end,
  }
  for _, name in ipairs(LINK_OPTIONS) do given[name] = config[name] end
  return core.connect(given)
end

--- What an answer says: true, or why it is none that helps.
local function judge(self, answer, extension, expected)
  if type(answer) ~= "table" then return nil, "the leader's answer makes no sense", "PROTO", true end
  if answer.success ~= true then
    local err = type(answer.error) == "table" and answer.error or {}
    local message = tostring(err.message or "no reason given")
    return nil, "the leader refuses: " .. message, err.code or "REFUSED", true
  end
  if not secret.is_answered(expected, extension) then
    return nil, ("the leader at %s does not have the secret"):format(self.opts.place.key), "DENIED", true
  end
  return true
end

--- The owner of the port ended the connection, or said what makes no sense.
local function lost_early(self)
  return nil, ("no answer from %s: %s; another program, or TLS on one side only?"):format(
    self.opts.place.key, self.reason or "the connection was closed"), "CLOSED"
end

--- Registers until there is an answer or the connection ends. Yields.
local function register(self, link)
  local timeout_ms, told = math.max(REGISTER_MS, self.opts.config.response_timeout_ms), false
  while true do
    local extension, expected = secret.extension(self.opts.secrets, self.name)
    local answer, its_extension, code = link:register(self.name, timeout_ms, extension)
    if self.is_closed then return lost_early(self) end
    if answer ~= nil then return judge(self, answer, its_extension, expected) end
    if code ~= "TIMEOUT" then return nil, its_extension, code end
    if not told then
      told = true
      self.host.on_trouble(("no answer from %s: its owner does not lead %s, is not ready, or hangs"):format(
        self.opts.place.key, self.name), "TIMEOUT")
    end
  end
end

--- Connects and registers. Yields.
---@return true|nil ok
---@return string? message
---@return any code
---@return boolean? is_refusal
function Follower:open()
  local link, message, code = connect(self)
  if not link then return nil, message, code end
  if self.is_closed then
    link:close()
    return nil, self.reason or "closed while it connected", "CLOSED"
  end
  self.unready = link
  local ok, is_refusal
  ok, message, code, is_refusal = register(self, link)
  self.unready = nil
  if not ok then
    self:close()
    link:close()
    return nil, message, code, is_refusal
  end
  self.link, self.is_open = link, true
  link:begin()
  return true
end

local function closed() return nil, "the connection to the leader is closed", "CLOSED" end

--- Yields.
function Follower:invoke(method, timeout_ms, n, ...)
  local link = self.link
  if not link then return closed() end
  return link:invoke(method, timeout_ms, n, ...)
end

function Follower:oneway(method, timeout_ms, n, ...)
  local link = self.link
  if not link then return closed() end
  return link:oneway(method, timeout_ms, n, ...)
end

function Follower:subscribe(key, text)
  local link = self.link
  if not link then return closed() end
  return link:subscribe(key, text)
end

function Follower:unsubscribe(key, text)
  local link = self.link
  if not link then return closed() end
  return link:unsubscribe(key, text)
end

--- Calls of others are none of its business.
---@return integer
function Follower.drain() return 0 end

--- Ends the connection; nobody is told but those that wait.
---@param reason? string
function Follower:close(reason)
  if self.is_closed then return end
  local link = self.link or self.unready
  self.is_closed, self.is_open, self.link, self.unready = true, false, nil, nil
  self.reason = reason or "closed"
  if link then link:close() end
  self.gone:set(self.reason)
end

function Follower:counters()
  return self.link and self.link:counters() or {}
end

return M
