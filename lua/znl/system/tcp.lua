--- znl.system.tcp: byte streams over TCP, read and written by coroutines.
---
---     local c = assert(znl.tcp.connect { host = "127.0.0.1", port = 6379 })
---     c:write("PING\r\n")
---     print(c:read("line"))
---     c:close()
---
--- A connection reads ahead up to `max_buffer_bytes`, then lets the peer wait. A write returns when
--- the system has taken all of it. A connection that nobody holds any more is closed.
--- SPDX-License-Identifier: MIT

local dns = require("znl.system.dns")
local guard = require("znl.tasks.guard")
local log = require("znl.log")
local options = require("znl.options")
local os_error = require("znl.system.os_error")
local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

local MIB = 1024 * 1024
--- Small pieces are joined when there are this many, so that a peer that sends single bytes does not
--- cost a table entry for each.
local PIECES_MAX = 256

---@class znl.TcpOptions
---@field host? string  name or address
---@field port integer
---@field timeout_ms? integer  for the connection to be made, resolving the name included
---@field io_timeout_ms? integer  for a read or write that names none; 0: none
---@field max_buffer_bytes? integer  read ahead; also the longest line
---@field max_read_bytes? integer  what one read may return
---@field nodelay? boolean
local CONNECTION_SPEC = {
  io_timeout_ms = { type = "integer", min = 0, max = 86400000, default = 30000 },
  max_buffer_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = MIB },
  max_read_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = 64 * MIB },
  nodelay = { type = "boolean", default = true },
}
local CONNECT_SPEC = options.extend(CONNECTION_SPEC, {
  host = { type = "string", min = 1, max = 255, default = "127.0.0.1" },
  port = { type = "integer", min = 1, max = 65535, required = true },
  timeout_ms = { type = "integer", min = 1, max = 3600000, default = 10000 },
})
---@class znl.TcpListenOptions: znl.TcpOptions
---@field backlog? integer
---@field max_connections? integer  further ones wait in the backlog
local LISTEN_SPEC = options.extend(CONNECTION_SPEC, {
  host = { type = "string", min = 1, max = 255, default = "127.0.0.1" },
  port = { type = "integer", min = 0, max = 65535, default = 0 },
  backlog = { type = "integer", min = 1, max = 65535, default = 128 },
  max_connections = { type = "integer", min = 1, max = 1000000, default = 1000 },
})

--- What the callbacks know of a connection. Apart from the connection itself, so that they do not
--- keep it alive.
---@class znl.TcpStream
---@field pieces string[]  read and not consumed; `from` is where the first of them goes on
---@field size integer  bytes of them
---@field searched integer  so many of them hold no line feed
---@field ended boolean  the peer closed and all it sent is here
---@field arrived? table  event for the coroutine that reads
---@field busy boolean  there is one
---@field wanted integer  read until so many are there
---@field failure? string[]  why no more will come: message, code
local Stream = {}
Stream.__index = Stream

local function close_stream(stream, message, code)
  stream.failure = stream.failure or { message, code }
  stream.reading = false
  if not stream.handle:is_closing() then stream.handle:close() end
  if stream.arrived then stream.arrived:set() end
  if stream.on_close then
    stream.on_close()
    stream.on_close = nil
  end
end

local function join(stream)
  local first = stream.pieces[1]
  if first then stream.pieces[1] = first:sub(stream.from) end
  stream.pieces, stream.from = { table.concat(stream.pieces) }, 1
  stream.searched = 0
end

local function on_read(stream, err, piece)
  if stream.failure then return end
  if piece then
    stream.pieces[#stream.pieces + 1] = piece
    stream.size = stream.size + #piece
    if #stream.pieces > PIECES_MAX then join(stream) end
    if stream.size >= stream.wanted then
      stream.handle:read_stop()
      stream.reading = false
    end
  elseif err then
    local _, message, code = os_error.result(stream.what, err)
    stream.failure = { message, code }
  else
    stream.failure = { stream.what .. ": closed by the peer", "CLOSED" }
    stream.ended = true
  end
  if stream.arrived then stream.arrived:set() end
end

--- Reads until `wanted` bytes are there.
local function resume(stream, wanted)
  stream.wanted = wanted
  if not stream.reading and not stream.failure and stream.size < wanted then
    stream.reading = true
    stream.handle:read_start(function(err, piece) on_read(stream, err, piece) end)
  end
end

--- Takes `count` bytes, which are there.
local function take(stream, count)
  local first = stream.pieces[1]
  if first and #first - stream.from + 1 < count then
    join(stream)
    first = stream.pieces[1]
  end
  stream.size = stream.size - count
  if count == 0 then return "" end
  local result = first:sub(stream.from, stream.from + count - 1)
  stream.from = stream.from + count
  if stream.from > #first then
    table.remove(stream.pieces, 1)
    stream.from = 1
    stream.searched = math.max(0, stream.searched - 1)
  end
  return result
end

--- Bytes up to and with the next line feed, or nil. Looks at every piece once.
local function line_length(stream)
  local before = 0
  for i, piece in ipairs(stream.pieces) do
    local from = i == 1 and stream.from or 1
    if i > stream.searched then
      local at = piece:find("\n", from, true)
      if at then
        stream.searched = i - 1
        return before + at - from + 1
      end
      stream.searched = i
    end
    before = before + #piece - from + 1
  end
  return nil
end

---@class znl.TcpConnection
---@field address string|nil  of the peer; nil when it was gone at once
---@field port integer|nil
---@field private stream znl.TcpStream
local Connection = {}
Connection.__index = Connection

--- Makes a connection of a connected handle.
local function wrap(handle, what, opts, on_close)
  local stream = setmetatable({
    handle = handle, what = what, opts = opts, pieces = {}, from = 1, size = 0, searched = 0,
    wanted = opts.max_buffer_bytes, reading = false, ended = false, busy = false, on_close = on_close,
  }, Stream)
  handle:nodelay(opts.nodelay)
  local peer = handle:getpeername() or {}
  local self = setmetatable({ stream = stream, address = peer.ip, port = peer.port }, Connection)
  self.guard = guard.new(function() close_stream(stream, what .. ": closed", "CLOSED") end)
  resume(stream, opts.max_buffer_bytes)
  return self
end

local function check_timeout(what, timeout_ms, default)
  if timeout_ms == nil then return default > 0 and default or nil end
  if not options.accepts({ type = "integer", min = 1, max = 86400000 }, timeout_ms) then
    error(what .. ": timeout_ms must be a whole number in 1..86400000", 3)
  end
  return timeout_ms
end

--- What a read asks for: `enough()` -> how many bytes to take, or nil; and how many to read ahead.
local function wish(stream, what)
  local limit = stream.opts.max_read_bytes
  if what == "line" then
    limit = math.min(limit, stream.opts.max_buffer_bytes)
    return function()
      local length = line_length(stream)
      if length and length > limit then return nil, true end
      return length, not length and stream.size > limit
    end, limit + 1
  elseif what == "some" then
    return function() return stream.size > 0 and math.min(stream.size, limit) or nil end, 1
  elseif what == "all" then
    return function()
      local over = stream.size > limit
      return stream.ended and not over and stream.size or nil, over
    end, limit + 1
  elseif type(what) == "number" and what >= 1 and what % 1 == 0 and what <= limit then
    return function() return stream.size >= what and what or nil end, what
  end
  error(('tcp.read: what to read must be "line", "some", "all" or a number of bytes in 1..%d'):format(limit), 3)
end

local function wait_for(stream, enough, deadline_ms)
  while true do
    local count, too_big = enough()
    if count then return count end
    if too_big then
      return nil, stream.what .. ": more than a read may return", "TOO_BIG"
    end
    if stream.failure then return nil, stream.failure[1], stream.failure[2] end
    stream.arrived = sched.event()
    local left_ms = deadline_ms and math.max(0, deadline_ms - sched.now_ms())
    local _, message, code = stream.arrived:wait(left_ms)
    stream.arrived = nil
    if code then
      return nil, code == "TIMEOUT" and stream.what .. ": nothing to read in time" or message, code
    end
  end
end

--- Reads `n` bytes, a "line" (without LF or CR LF), "some" (what is there, at least one byte) or
--- "all" until the peer closes. What was not returned stays for the next read, also after a
--- timeout. Yields.
---@param what integer|"line"|"some"|"all"
---@param timeout_ms? integer  default: io_timeout_ms of the connection
---@return string|nil
---@return string? message
---@return string? code  CLOSED, TIMEOUT, TOO_BIG, BUSY (another coroutine reads), CANCELLED, …
function Connection:read(what, timeout_ms)
  local stream = self.stream
  timeout_ms = check_timeout("tcp.read", timeout_ms, stream.opts.io_timeout_ms)
  local enough, ahead = wish(stream, what)
  if stream.busy then return nil, stream.what .. ": another coroutine reads from it", "BUSY" end
  stream.busy = true
  resume(stream, math.max(ahead, stream.opts.max_buffer_bytes))
  local count, message, code = wait_for(stream, enough, timeout_ms and sched.now_ms() + timeout_ms)
  stream.busy = false
  local result = count and take(stream, count)
  -- No more than that without being asked: the peer waits.
  stream.wanted = stream.opts.max_buffer_bytes
  resume(stream, stream.wanted)
  if stream.reading and stream.size >= stream.wanted then
    stream.handle:read_stop()
    stream.reading = false
  end
  if not result then return nil, message, code end
  if what == "line" then result = result:gsub("\r?\n$", "") end
  return result
end

--- Writes all of it. When that fails on the way the connection is closed, as nobody knows how much
--- the peer got. Yields.
---@param content string|string[]
---@param timeout_ms? integer  default: io_timeout_ms of the connection
---@return true|nil ok
---@return string? message
---@return string? code  CLOSED, TIMEOUT, BUSY (too much waits already), CANCELLED, …
function Connection:write(content, timeout_ms)
  local stream = self.stream
  if type(content) ~= "string" and type(content) ~= "table" then
    error("tcp.write: the content must be a text or an array of texts, not a " .. type(content), 2)
  end
  timeout_ms = check_timeout("tcp.write", timeout_ms, stream.opts.io_timeout_ms)
  if type(content) == "table" then
    for i, piece in ipairs(content) do
      if type(piece) ~= "string" then error(("tcp.write: piece %d is no text"):format(i), 2) end
    end
    content = table.concat(content)
  end
  if stream.handle:is_closing() then return nil, stream.what .. ": closed", "CLOSED" end
  if content == "" then return true end
  if stream.handle:get_write_queue_size() > stream.opts.max_buffer_bytes then
    return nil, stream.what .. ": too much waits to be written", "BUSY"
  end
  local done = sched.event()
  local request, refused = stream.handle:write(content, function(err) done:set(true, err) end)
  local answered, message, code = true, refused, nil
  if request then
    answered, message, code = done:wait(timeout_ms)
  end
  if answered == true and not message then return true end
  if answered == true then
    local _
    _, message, code = os_error.result(stream.what, message)
  elseif code == "TIMEOUT" then
    message = stream.what .. ": not written in time"
  end
  close_stream(stream, message, code)
  return nil, message, code
end

--- Says that nothing more will be written; reading goes on.
function Connection:finish()
  local handle = self.stream.handle
  if not handle:is_closing() then handle:shutdown(function() end) end
end

--- Closes it; a read or write under way ends with CLOSED. Closing twice is harmless.
function Connection:close()
  local stream = self.stream
  close_stream(stream, stream.what .. ": closed", "CLOSED")
  stream.pieces, stream.from, stream.size, stream.ended = {}, 1, 0, false
  guard.disarm(self.guard)
end

---@return boolean
function Connection:is_closed()
  return self.stream.handle:is_closing()
end

--- One attempt at one address.
local function connect_to(address, port, what, timeout_ms)
  local handle = uv.new_tcp()
  local done = sched.event()
  local net = guard.new(function()
    if not handle:is_closing() then handle:close() end
  end)
  local request, refused = handle:connect(address, port, function(err) done:set(true, err) end)
  local answered, message, code = true, refused, nil
  if request then
    answered, message, code = done:wait(timeout_ms)
  end
  guard.disarm(net)
  if answered == true and not message then return handle end
  if not handle:is_closing() then handle:close() end
  if answered == true then return os_error.result(what, message) end
  if code == "TIMEOUT" then message = what .. ": no connection in time" end
  return nil, message, code
end

--- Connects to a host, to the first of its addresses that answers. Yields.
---@param opts znl.TcpOptions
---@return znl.TcpConnection|nil
---@return string? message
---@return string? code  NOT_FOUND (no such host), UNREACHABLE, TIMEOUT, CANCELLED, …
function M.connect(opts)
  opts = options.read(CONNECT_SPEC, opts, "tcp.connect")
  local what = ("tcp.connect: %s:%d"):format(opts.host, opts.port)
  local deadline_ms = sched.now_ms() + opts.timeout_ms
  local addresses, message, code = dns.resolve(opts.host, { timeout_ms = opts.timeout_ms })
  if not addresses then return nil, message, code end
  local handle
  for _, item in ipairs(addresses) do
    local left_ms = math.floor(deadline_ms - sched.now_ms())
    if left_ms < 1 then return nil, what .. ": no connection in time", "TIMEOUT" end
    handle, message, code = connect_to(item.address, opts.port, what, left_ms)
    if handle then return wrap(handle, ("tcp: %s:%d"):format(opts.host, opts.port), opts) end
    if code == "CANCELLED" or code == "DEADLINE" then break end
  end
  return nil, message, code
end

---@class znl.TcpListener
---@field address string
---@field port integer  the one in use, also when 0 was asked for
local Listener = {}
Listener.__index = Listener

local function serve(self, handle)
  self.count = self.count + 1
  local connection = wrap(handle, ("tcp: client of port %d"):format(self.port), self.opts, function()
    -- May run inside the collector: only notes that there is room.
    self.count = self.count - 1
    if self.room then self.room:set() end
  end)
  local started = sched.spawn(function()
    local ok, message = xpcall(self.fn, debug.traceback, connection)
    if not ok then log.new("tcp").error("connection failed", { port = self.port, error = message }) end
    connection:close()
  end)
  if not started then connection:close() end
end

--- Takes the connections that wait, one after the other, as there is room.
local function accept_waiting(self)
  if self.accepting then return end
  self.accepting = true
  while self.waiting > 0 and not self.closed do
    if self.count < self.opts.max_connections then
      self.waiting = self.waiting - 1
      local handle = uv.new_tcp()
      if self.handle:accept(handle) then serve(self, handle) else handle:close() end
    else
      self.room = sched.event()
      self.room:wait()
      self.room = nil
    end
  end
  self.accepting = false
end

--- Listens, and calls `fn(connection)` in a coroutine of its own for each that comes; it is closed
--- when `fn` ends. Yields while the name of the host is resolved.
---@param opts znl.TcpListenOptions
---@param fn fun(connection: znl.TcpConnection)
---@return znl.TcpListener|nil
---@return string? message
---@return string? code  ADDRESS_IN_USE, ADDRESS, DENIED, …
function M.listen(opts, fn)
  opts = options.read(LISTEN_SPEC, opts, "tcp.listen")
  if type(fn) ~= "function" then error("tcp.listen: a function(connection) is needed, not a " .. type(fn), 2) end
  local what = ("tcp.listen: %s:%d"):format(opts.host, opts.port)
  local addresses, message, code = dns.resolve(opts.host)
  if not addresses then return nil, message, code end
  local handle, owner = uv.new_tcp(), sched.current_owner()
  local self = setmetatable({
    handle = handle, opts = opts, fn = fn, waiting = 0, count = 0, accepting = false, closed = false,
  }, Listener)
  local ok, refused = handle:bind(addresses[1].address, opts.port)
  if ok then
    ok, refused = handle:listen(opts.backlog, function(err)
      if err then return end
      self.waiting = self.waiting + 1
      -- For the version of code that listens: its connections end with it.
      if owner then sched.spawn_background(owner, accept_waiting, self) else accept_waiting(self) end
    end)
  end
  if not ok then
    handle:close()
    return os_error.result(what, refused)
  end
  local name = handle:getsockname()
  self.address, self.port = name.ip, name.port
  return self
end

--- Takes no more connections; those that are open go on. Closing twice is harmless.
function Listener:close()
  if self.closed then return end
  self.closed = true
  self.handle:close()
  if self.room then self.room:set() end
end

return M
