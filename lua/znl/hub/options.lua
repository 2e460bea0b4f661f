--- znl.hub.options: what a hub can be told.
--- SPDX-License-Identifier: MIT

local bus = require("znl.bus")
local options = require("znl.options")

local M = {}

local MIB = 1024 * 1024

--- One token of a NATS subject (spec ws-cluster, section 2).
local TOKEN = "^[^%.%*>%s%c]+$"

---@param value any
---@return boolean
local function is_prefix(value)
  if type(value) ~= "string" or value == "" or #value > 200 or value:find("^%.") or value:find("%.$")
      or value:find("..", 1, true) then
    return false
  end
  for token in value:gmatch("[^.]+") do
    if not token:find(TOKEN) then return false end
  end
  return true
end

--- "https://example.org:8443" as browsers write it: lower case, no path.
local ORIGIN = "^%l[%l%d+.-]*://[^/%s%u]+$"

local function are_origins(value)
  if value == "*" then return true end
  if type(value) ~= "table" or #value == 0 then return false end
  local count = 0
  for index, origin in pairs(value) do
    count = count + 1
    if type(index) ~= "number" then return false end
    if type(origin) ~= "string" or not origin:find(ORIGIN) then return false, index end
  end
  return count == #value
end

local function one_of(...)
  local words = { ... }
  return function(value)
    for _, word in ipairs(words) do
      if value == word then return true end
    end
    return false
  end
end

local DROP_OR_CLOSE = { type = "any", default = "drop", check = one_of("drop", "close"), allowed = '"drop" or "close"' }

---@class znl.HubRosterOptions
---@field driver? "nats"|"none"  none: the sessions of this instance, and nobody else sees them
---@field ttl_ms? integer  how long an instance that is silent keeps its members; the same in all of them
M.ROSTER_SPEC = {
  driver = { type = "any", default = "nats", check = one_of("nats", "none"), allowed = '"nats" or "none"' },
  ttl_ms = { type = "integer", min = 2000, max = 3600000, default = 30000 },
}

---@class znl.HubRate
---@field messages_per_s? integer  of one connection
---@field burst? integer  messages that may come at once; nil: those of a second
---@field bytes_per_s? integer
---@field on_excess? "drop"|"close"  close: with 1008
M.RATE_SPEC = {
  messages_per_s = { type = "integer", min = 1, max = 1000000 },
  burst = { type = "integer", min = 1, max = 1000000 },
  bytes_per_s = { type = "integer", min = 1, max = 1024 * MIB },
  on_excess = DROP_OR_CLOSE,
}

---@class znl.HubOptions
---@field app string  a word: instances of one application share a cluster
---@field bus? string|table|znl.Nats  NATS; nil: this process is alone
---@field subject_prefix? string
---@field roster? znl.HubRosterOptions
---@field listen string  "address:port"; port 0: one that is free
---@field tls? table  certificate, key, …
---@field origins? string[]|"*"  web pages that may connect; nil: those of the same host
---@field authenticate? znl.Authenticate  of channels without one of their own; may yield
---@field authenticate_ms? integer  how long it may take
---@field on_request? fun(request: znl.WebSocketRequest): integer?, string?, table<string, string>?  pages; may yield
---@field max_connections? integer  further ones are refused with 503
---@field max_message_bytes? integer  a larger message ends its connection
---@field max_queue_bytes? integer  on their way to one client
---@field max_inbox_bytes? integer  received from one client and not handled; then it has to wait
---@field max_members? integer  of the roster, of all instances
---@field max_member_bytes? integer  of the JSON of one member
---@field rate? znl.HubRate
---@field on_slow? "close"|"drop"  a client whose queue is full is closed with 1013, or misses what does not fit
---@field on_invalid? "drop"|"close"  a message that is no object with a type; close: with 1007
---@field ping_ms? integer  a client that is silent so long is asked for a sign of life; 0: never
---@field idle_ms? integer  a client that sends no message for so long is closed; 0: never
---@field handshake_ms? integer  for TLS and the request
---@field close_ms? integer  how long a client may take to close
M.SPEC = {
  app = {
    type = "string", required = true, min = 1, max = 100, pattern = TOKEN,
    allowed = "a text of 1 to 100 bytes without dots, asterisks, > and white space",
  },
  bus = bus.RULE,
  subject_prefix = {
    type = "any", default = "mega.ws", check = is_prefix,
    allowed = "words with dots between them, without asterisks, > and white space",
  },
  roster = { type = "table" },
  listen = { type = "string", required = true, pattern = "^.+:%d+$", allowed = 'a text like "127.0.0.1:8080"' },
  tls = { type = "table" },
  origins = {
    type = "any", check = are_origins,
    allowed = '"*", or an array of texts like "https://example.org" in lower case',
  },
  authenticate = { type = "function" },
  authenticate_ms = { type = "integer", min = 1, max = 600000, default = 10000 },
  on_request = { type = "function" },
  max_connections = { type = "integer", min = 1, max = 1000000, default = 10000 },
  max_message_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = 64 * 1024 },
  max_queue_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = MIB },
  max_inbox_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = 64 * 1024 },
  max_members = { type = "integer", min = 1, max = 10000000, default = 200000 },
  max_member_bytes = { type = "integer", min = 64, max = 262144, default = 8192 },
  rate = { type = "table" },
  on_slow = { type = "any", default = "close", check = one_of("close", "drop"), allowed = '"close" or "drop"' },
  on_invalid = DROP_OR_CLOSE,
  ping_ms = { type = "integer", min = 0, max = 86400000, default = 30000 },
  idle_ms = { type = "integer", min = 0, max = 86400000, default = 0 },
  handshake_ms = { type = "integer", min = 1, max = 3600000, default = 10000 },
  close_ms = { type = "integer", min = 1, max = 86400000, default = 2000 },
}

--- Reads the options; raises what is wrong with them.
---@param given table
---@param what string
---@param level integer
---@return table config
function M.read(given, what, level)
  local config = options.read(M.SPEC, given, what, level + 1)
  config.roster = options.read(M.ROSTER_SPEC, config.roster, what .. ": roster", level + 1)
  if config.rate then
    config.rate = options.read(M.RATE_SPEC, config.rate, what .. ": rate", level + 1)
    if config.rate.burst and not config.rate.messages_per_s then
      error(what .. ": rate: burst is that of messages_per_s, which is missing", level + 1)
    end
  end
  if tonumber(config.listen:match(":(%d+)$")) > 65535 then
    error(("%s: option listen is %q; its port must be in 0..65535"):format(what, config.listen), level + 1)
  end
  if config.bus == nil and (given.roster or {}).driver == "nats" then
    error(what .. ': option bus is missing: the roster driver "nats" needs it', level + 1)
  end
  return config
end

return M
