--- znl.websocket: WebSocket connections (RFC 6455), asked for and served.
---
---     local conn = assert(znl.websocket.connect("wss://example.org/feed"))
---     conn:send("hello")
---     for message in conn:messages() do print(message) end
---
---     znl.websocket.serve {
---       listen = "127.0.0.1:8080",
---       handle = function(conn) for message in conn:messages() do conn:send(message) end end,
---     }
---
--- Messages are whole. Those that nobody takes are kept up to `max_inbox_bytes`, then the peer has to
--- wait; a send waits while `max_queue_bytes` are on their way. Pings are answered by themselves. A
--- connection that nobody holds any more is closed.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.websocket")
local log = require("znl.log")
local options = require("znl.options")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local scope = require("znl.versions.scope")

local M = {}

local MIB = 1024 * 1024
local AWAY = 1001
local FAILED = 1011
local PING_MS = 5000
local LOOK_MS = 20

---@class znl.WebSocketOptions
---@field max_message_bytes? integer  a larger message ends the connection
---@field max_queue_bytes? integer  on their way to the peer; more wait in `send`
---@field max_inbox_bytes? integer  received and not taken; then the peer waits
---@field close_ms? integer  how long the peer may take to close
local CONNECTION_SPEC = {
  max_message_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = 64 * MIB },
  max_queue_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 16 * MIB },
  max_inbox_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = MIB },
  close_ms = { type = "integer", min = 1, max = 86400000, default = 2000 },
  protocols = { type = "table" },
  tls = {
    type = "any", allowed = "a table of certificates and keys",
    check = function(value) return type(value) == "table" or type(value) == "userdata" end,
  },
}
---@class znl.WebSocketConnectOptions: znl.WebSocketOptions
---@field timeout_ms? integer  until it is open
---@field headers? table<string, string>  further headers of the request
---@field protocols? string[]  subprotocols to offer
---@field tls? znl.TlsOptions  for wss://
local CONNECT_SPEC = options.extend(CONNECTION_SPEC, {
  timeout_ms = { type = "integer", min = 1, max = 86400000, default = 5000 },
  headers = { type = "table" },
})
---@class znl.WebSocketServeOptions: znl.WebSocketOptions
---@field listen string  "address:port"; port 0 lets the system choose, the address * is all of them
---@field handle fun(conn: znl.WebSocket, request: znl.WebSocketRequest)  in a coroutine of its own for each connection
---@field on_request? fun(request: znl.WebSocketRequest): integer?, string?, table<string, string>?
---@field protocols? string[]  subprotocols spoken here, the best first
---@field tls? znl.TlsOptions
---@field max_connections? integer  further ones are closed at once
---@field handshake_ms? integer  for TLS and the request
---@field max_body_bytes? integer  of a request that asks for a page
local SERVE_SPEC = options.extend(CONNECTION_SPEC, {
  listen = { type = "string", required = true, pattern = "^.+:%d+$", allowed = 'a text like "127.0.0.1:8080"' },
  handle = { type = "function", required = true },
  on_request = { type = "function" },
  max_connections = { type = "integer", min = 1, max = 1000000, default = 100000 },
  handshake_ms = { type = "integer", min = 1, max = 3600000, default = 10000 },
  max_body_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = 65536 },
})

local TIMEOUT = { type = "integer", min = 1, max = 86400000 }

local function check_timeout(what, timeout_ms)
  if timeout_ms ~= nil and not options.accepts(TIMEOUT, timeout_ms) then
    error(what .. ": timeout_ms must be a whole number in 1..86400000", 3)
  end
end

-- --- headers -------------------------------------------------------------------------------------

local TOKEN = "^[%w!#$%%&'*+%-.^_`|~]+$" -- RFC 9110, section 5.6.2

--- Those that make the connection what it is.
local OURS = { host = true, upgrade = true, connection = true, ["content-length"] = true,
  ["transfer-encoding"] = true }

--- Header lines of a table; `level` is whom to blame.
local function header_lines(headers, what, level)
  local lines = {}
  for name, value in pairs(headers or {}) do
    if type(name) ~= "string" or not name:find(TOKEN) then
      error(("%s: %s is no name of a header"):format(what, tostring(name)), level + 1)
    end
    local lower = name:lower()
    if OURS[lower] or lower:find("^sec%-websocket%-") then
      error(("%s: the header %s is not yours to set"):format(what, name), level + 1)
    end
    if type(value) ~= "string" or value:find("[%z\1-\8\10-\31\127]") then
      error(("%s: the header %s must be a text without control characters"):format(what, name), level + 1)
    end
    lines[#lines + 1] = ("%s: %s\r\n"):format(name, value)
  end
  table.sort(lines)
  return table.concat(lines)
end

local function check_protocols(protocols, what, level)
  for index, name in ipairs(protocols or {}) do
    if type(name) ~= "string" or not name:find(TOKEN) then
      error(("%s: protocol %d must be a word"):format(what, index), level + 1)
    end
  end
  return protocols and #protocols > 0 and table.concat(protocols, ", ") or nil
end

--- The first of ours that the other side offers.
local function choose_protocol(ours, offered)
  local theirs = {}
  for name in (offered or ""):gmatch("[^%s,]+") do theirs[name] = true end
  for _, name in ipairs(ours or {}) do
    if theirs[name] then return name end
  end
  return nil
end

-- --- connections ---------------------------------------------------------------------------------

---@class znl.WebSocket
---@field peer string  "127.0.0.1:53124"
---@field path string
---@field query string|nil  what stands behind "?"
---@field headers table<string, string>  of the request served, or of the answer; names in lower case
---@field protocol string|nil  the subprotocol agreed on
---@field private core userdata
local Connection = {}
Connection.__index = Connection

local function wrap(raw, path, query, headers, protocol)
  return setmetatable({
    core = raw, peer = raw:peer(), path = path, query = query, headers = headers, protocol = protocol,
  }, Connection)
end

local SEND_SPEC = {
  binary = { type = "boolean", default = false },
  timeout_ms = TIMEOUT,
}

--- Waits while the queue is full.
local function send_later(raw, data, is_binary, timeout_ms)
  local deadline_ms = timeout_ms and sched.now_ms() + timeout_ms
  while true do
    local left_ms = deadline_ms and math.max(0, math.floor(deadline_ms - sched.now_ms()))
    local ok, message, code = raw:wait_room(left_ms)
    if not ok then return nil, message, code end
    ok, message, code = raw:send(data, is_binary)
    if code ~= "BUSY" then return ok, message, code end
  end
end

--- Sends a message: text, which must be UTF-8, or bytes. Returns when it is queued; waits while too much
--- is. Yields.
---@param data string
---@param opts? { binary?: boolean, timeout_ms?: integer }
---@return true|nil ok
---@return string? message
---@return string? code  CLOSED, GONE, … (see `ending`), INVALID (no UTF-8), TIMEOUT, CANCELLED, DEADLINE
function Connection:send(data, opts)
  if type(data) ~= "string" then
    error("websocket:send: the message must be a text, not a " .. type(data), 2)
  end
  local is_binary, timeout_ms = false, nil
  if opts ~= nil then
    opts = options.read(SEND_SPEC, opts, "websocket:send")
    is_binary, timeout_ms = opts.binary, opts.timeout_ms
  end
  local ok, message, code = self.core:send(data, is_binary)
  if code ~= "BUSY" then return ok, message, code end
  return send_later(self.core, data, is_binary, timeout_ms)
end

--- Takes the next message. Yields.
---@param timeout_ms? integer  without it as long as it takes
---@return string|nil data
---@return boolean|string|nil is_binary  or the message of an error
---@return string? code  CLOSED; GONE, PROTO, … (see `ending`); TIMEOUT; BUSY (another coroutine receives)
function Connection:recv(timeout_ms)
  if timeout_ms ~= nil then check_timeout("websocket:recv", timeout_ms) end
  local data, is_binary, code = self.core:recv(timeout_ms)
  -- Woken because it ended: now it says why.
  if data == true then return self.core:recv(timeout_ms) end
  return data, is_binary, code
end

--- For a loop over all messages, until it is closed. The second value is true for binary ones. Yields.
---@return fun(): string|nil, boolean?
function Connection:messages()
  return function()
    local data, is_binary = self:recv()
    if data then return data, is_binary end
    return nil
  end
end

--- Asks the peer for a sign of life. Yields.
---@param timeout_ms? integer  default 5000
---@return number|nil ms  until its answer
---@return string? message
---@return string? code  TIMEOUT, CLOSED, BUSY (too much is queued), …
function Connection:ping(timeout_ms)
  check_timeout("websocket:ping", timeout_ms)
  local raw, began_ms = self.core, sched.now_ms()
  local ok, message, code = raw:ping(timeout_ms or PING_MS)
  if not ok then return nil, message, code end
  if not raw:is_open() then return nil, "websocket: closed", "CLOSED" end
  return sched.now_ms() - began_ms
end

--- Closes it: tells the peer, and drops what is not received yet. What was sent still goes out. The
--- peer has `close_ms`, which nobody waits for. Closing twice is harmless.
---@param code? integer  1000 when it is not given; 0: none is told
---@param reason? string  at most 123 bytes
function Connection:close(code, reason)
  local ok, message = pcall(self.core.close, self.core, code, reason)
  if not ok then error("websocket:close: " .. tostring(message):gsub("^bad argument #%d+ to '[^']*' ", ""), 2) end
end

---@return boolean
function Connection:is_open() return self.core:is_open() end

--- Bytes that are on their way to the peer.
---@return integer
function Connection:queued() return self.core:queued() end

---@class znl.WebSocketEnding
---@field code string  CLOSED in order; GONE the socket just ended; PROTO, TOO_BIG the peer broke the rules; TIMEOUT
---@field close_code integer  of the peer's close frame; 0 without
---@field reason string

--- How it ended; nil while it has not.
---@return znl.WebSocketEnding|nil
function Connection:ending()
  local code, close_code, reason = self.core:ending()
  return code and { code = code, close_code = close_code, reason = reason } or nil
end

-- --- asking --------------------------------------------------------------------------------------

--- host, port, target, is_tls of a url; or nil and what is wrong.
local function read_url(url)
  local scheme, authority, target = url:match("^(%a+)://([^/?#]*)(.*)$")
  scheme = scheme and scheme:lower()
  if scheme ~= "ws" and scheme ~= "wss" then return nil, "it must begin with ws:// or wss://" end
  if target:find("#", 1, true) then return nil, "it must have no fragment" end
  if authority:find("@", 1, true) then return nil, "it must hold no password: use a header" end
  if target:find("[^!-~]") then return nil, "its path must be visible ASCII" end
  local host, port = authority:match("^(%[[%x:.]+%]):?(%d*)$")
  if not host then host, port = authority:match("^([%w%-._]+):?(%d*)$") end
  if not host or #host > 255 then return nil, "it has no host" end
  port = port == "" and (scheme == "wss" and 443 or 80) or tonumber(port)
  if port < 1 or port > 65535 then return nil, "its port is not in 1..65535" end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  return host, port, target, scheme == "wss"
end

local function split_target(target)
  local path, query = target:match("^([^?]*)%??(.*)$")
  return path, target:find("?", 1, true) and query or nil
end

--- Connects. Yields.
---@param url string  ws://host:port/path or wss://…
---@param opts? znl.WebSocketConnectOptions
---@return znl.WebSocket|nil
---@return string? message
---@return string? code  UNREACHABLE, TIMEOUT, REFUSED (no WebSocket there), PROTO, INVALID (the url), …
---@return integer? status  of HTTP, with REFUSED
function M.connect(url, opts)
  if type(url) ~= "string" then
    error("websocket.connect: the url must be a text, not a " .. type(url), 2)
  end
  opts = options.read(CONNECT_SPEC, opts, "websocket.connect")
  local host, port, target, is_tls = read_url(url)
  if not host then return nil, ("websocket.connect: %q: %s"):format(url, port), "INVALID" end
  local raw, headers, code, status = core.connect {
    host = host, port = port, path = target, timeout_ms = opts.timeout_ms,
    tls = is_tls and (opts.tls or true) or nil,
    headers = header_lines(opts.headers, "websocket.connect", 2),
    protocols = check_protocols(opts.protocols, "websocket.connect", 2),
    max_message_bytes = opts.max_message_bytes, max_queue_bytes = opts.max_queue_bytes,
    max_inbox_bytes = opts.max_inbox_bytes, close_ms = opts.close_ms,
  }
  if not raw then return nil, headers, code, status end
  local path, query = split_target(target)
  return wrap(raw, path, query, headers, headers["sec-websocket-protocol"])
end

-- --- serving -------------------------------------------------------------------------------------

---@class znl.WebSocketRequest
---@field method string
---@field path string
---@field query string|nil
---@field headers table<string, string>  names in lower case
---@field peer string
---@field body string
---@field is_upgrade boolean  it asks for a WebSocket, and does it right

---@class znl.WebSocketServer
---@field port integer  the one in use, also when 0 was asked for
---@field private core userdata
---@field private open table<znl.WebSocket, true>
---@field private count integer  of them
local Server = {}
Server.__index = Server

local logger = log.new("websocket")

--- Asks on_request; true when the request is answered with that.
local function is_answered(self, exchange, request)
  local ok, status, body, headers = xpcall(self.opts.on_request, debug.traceback, request)
  if not ok then
    logger.error("on_request failed", { path = request.path, error = status })
    exchange:respond(500, "", "")
    return true
  end
  if status == nil then return false end
  local lines
  ok, lines = pcall(header_lines, headers, "on_request", 0)
  if not ok or not options.accepts({ type = "integer", min = 200, max = 599 }, status)
      or (body ~= nil and type(body) ~= "string") then
    logger.error("on_request must return nothing, or status, text and headers",
      { path = request.path, error = not ok and lines or nil })
    status, body, lines = 500, "", ""
  end
  exchange:respond(status, lines, body or "")
  return true
end

local function run(self, conn, request)
  self.open[conn] = true
  self.count = self.count + 1
  local ok, message = xpcall(self.opts.handle, debug.traceback, conn, request)
  self.open[conn] = nil
  self.count = self.count - 1
  if ok then
    conn:close()
  else
    logger.error("connection failed", { path = conn.path, peer = conn.peer, error = message })
    conn:close(FAILED)
  end
end

local function serve(self, exchange, raw)
  local path, query = split_target(raw.target)
  local request = {
    method = raw.method, path = path, query = query, headers = raw.headers, peer = raw.peer, body = raw.body,
    is_upgrade = raw.status == 101,
  }
  if self.opts.on_request and is_answered(self, exchange, request) then return end
  if not request.is_upgrade then
    exchange:refuse()
    return
  end
  if self.closed then
    exchange:respond(503, "", "")
    return
  end
  local protocol = choose_protocol(self.opts.protocols, raw.headers["sec-websocket-protocol"])
  local conn = exchange:accept(protocol and ("Sec-WebSocket-Protocol: %s\r\n"):format(protocol) or "")
  if conn then run(self, wrap(conn, path, query, raw.headers, protocol), request) end
end

--- Serves WebSockets. `on_request`, if given, sees every request first: it returns nothing, and a
--- WebSocket opens where one is asked for; or a status, with a text and headers when it likes, and that is
--- the answer. The connection is closed when `handle` ends.
---@param opts znl.WebSocketServeOptions
---@return znl.WebSocketServer|nil
---@return string? message
---@return string? code  ADDRESS_IN_USE, ADDRESS, INVALID (certificate or key), …
function M.serve(opts)
  opts = options.read(SERVE_SPEC, opts, "websocket.serve")
  check_protocols(opts.protocols, "websocket.serve", 2)
  local host, port = opts.listen:match("^(.+):(%d+)$")
  if tonumber(port) > 65535 then error("websocket.serve: the port must be in 0..65535", 2) end
  local self = setmetatable({ opts = opts, open = {}, count = 0, closed = false }, Server)
  local raw, message, code = core.listen({
    host = host, port = tonumber(port), tls = opts.tls, max_connections = opts.max_connections,
    head_ms = opts.handshake_ms, max_body_bytes = opts.max_body_bytes,
    max_message_bytes = opts.max_message_bytes, max_queue_bytes = opts.max_queue_bytes,
    max_inbox_bytes = opts.max_inbox_bytes, close_ms = opts.close_ms,
  }, scope.bind(function(exchange, request) serve(self, exchange, request) end))
  if not raw then return nil, (message:gsub("^websocket%.listen", "%0 " .. opts.listen:gsub("%%", "%%%%"))), code end
  self.core, self.port = raw, raw:port()
  self.forget = runtime.on_stop(function()
    self:close()
    local latest = sched.now_ms() + opts.close_ms
    while self.count > 0 and sched.now_ms() < latest do sched.sleep(LOOK_MS) end
  end)
  scope.own(self)
  return self
end

--- Takes no more connections and closes those that are open, with code 1001. Closing twice is harmless.
function Server:close()
  if self.closed then return end
  self.closed = true
  self.core:close()
  self.forget()
  for conn in pairs(self.open) do conn:close(AWAY) end
end

--- Connections whose `handle` runs.
---@return integer
function Server:connections() return self.count end

---@class znl.WebSocketCounters
---@field accepted integer  connections of TCP
---@field refused integer  closed at once: too many
---@field malformed integer  requests that are no HTTP, or too large
---@field timeouts integer
---@field requests integer

---@return znl.WebSocketCounters
function Server:counters() return self.core:counters() end

-- What a scope asks of a handle it owns.
function Server:is_closing() return self.closed end
function Server.get_type() return "websocket" end
function Server:is_active() return not self.closed end

return M
