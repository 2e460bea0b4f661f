--- znl.micro.loopback: calls of an application to itself, without a socket: over one the two ends of the
--- connection would have the same key and close each other (spec, section 24, 4).
---
--- Stands in for a connection of znl.core.micro. Data is copied both ways, as if it had been sent.
--- SPDX-License-Identifier: MIT

local channel = require("znl.tasks.channel")
local connection = require("znl.micro.connection")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local where = require("znl.where")

local M = {}

--- Chunks that wait for the reader.
local WINDOW = 256

local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, inner in pairs(value) do result[key] = copy(inner) end
  return setmetatable(result, getmetatable(value))
end

--- A request that came over no connection.
---@class znl.LoopbackRequest
local Request = {}
Request.__index = Request

function Request:deadline_ms() return self.ends_ms end

function Request:remaining_ms()
  return self.ends_ms and math.max(0, self.ends_ms - sched.now_ms())
end

function Request:cancelled() return self.is_over == true or sched.cancelled() ~= nil end

function Request:write(chunk)
  if not self.chunks then return nil, "this request is no stream", "INVALID" end
  if self.is_over then return nil, "the stream is not read any more", "CANCELLED" end
  local ok, message, code = self.chunks:send({ copy(chunk) })
  if not ok then return nil, message, code == "CLOSED" and "CANCELLED" or code end
  return true
end

---@class znl.Loopback
local Loopback = {}
Loopback.__index = Loopback

---@param dispatch fun(req: table): ...  runs the handler
---@param own_key fun(): string
---@param on_error fun(message: string, url: string)  a handler raised; message has file and line
---@return znl.Loopback
function M.new(dispatch, own_key, on_error)
  return setmetatable({ dispatch = dispatch, own_key = own_key, on_error = on_error, under_way = 0 }, Loopback)
end

local function request_of(self, url, data, timeout_ms)
  return setmetatable({
    route = url, data = copy(data), from = self.own_key(), is_push = false, is_stream = false, params = {},
    client = self.client, ends_ms = timeout_ms and sched.now_ms() + timeout_ms or nil,
  }, Request)
end

--- An object that is raised carries a status; a text is located.
local function located(raised)
  return type(raised) == "table" and raised or where.locate(raised)
end

--- What a handler raised, as it would cross a connection: an object with a status, or the text alone.
local function failure(self, req, raised)
  if type(raised) == "table" then return nil, tostring(raised.message or ""), raised.status or 500, true end
  self.on_error(raised, req.route)
  return nil, (raised:match("^[^\n]*"):gsub("^[^\n:]*:%d+: ", "")), 500, true
end

--- What a handler returned, as it would arrive.
local function outcome(result, message, code)
  if result == nil and (message ~= nil or code ~= nil) then
    return nil, message and tostring(message), code or 500, true
  end
  if type(result) == "function" then return nil, "Async iterable is not supported", 500, true end
  return copy(result)
end

local function run(self, req)
  local ok, result, message, code = xpcall(self.dispatch, located, req)
  if not ok then return failure(self, req, result) end
  return outcome(result, message, code)
end

--- Runs the handler in the task that asks, with the data as they are. Yields when the handler does.
---@param extras table|nil  further members of the request
function Loopback:dispatch_here(url, data, extras)
  local req = request_of(self, url, nil)
  req.data = data
  for name, value in pairs(extras or {}) do req[name] = value end
  local ok, result, message, code = xpcall(self.dispatch, located, req)
  if ok then return result, message, code end
  local _, raised, status = failure(self, req, result)
  return nil, raised, status
end

--- A client whose other end is this end.
---@return znl.Client
function Loopback:as_client()
  local own_key = self.own_key
  local client = setmetatable({ conn = self, is_inbound = false }, {
    __index = function(_, name)
      if name == "key" then return own_key() end
      return connection.Client[name]
    end,
  })
  self.client = client
  return client
end

--- As of a connection. Yields.
function Loopback:request(url, data, timeout_ms)
  local req = request_of(self, url, data, timeout_ms)
  self.under_way = self.under_way + 1
  local handler, problem, problem_code = task.spawn(run, self, req)
  if not handler then
    self.under_way = self.under_way - 1
    return nil, problem, problem_code, false
  end
  handler:on_end(function() self.under_way = self.under_way - 1 end)
  local result, message, code, is_remote = handler:wait(timeout_ms)
  if not handler:is_done() then
    req.is_over = true
    handler:cancel("its caller gave up")
    return nil, message, code, false
  end
  return result, message, code, is_remote
end

function Loopback:push(url, data)
  local req = request_of(self, url, data)
  req.is_push = true
  local handler, message, code = task.spawn(run, self, req)
  if not handler then return nil, message, code end
  return true
end

-- --- streams -------------------------------------------------------------------------------------

local Stream = {}
Stream.__index = Stream

local function finish(self, ...)
  self.ending = { ... }
  self.req.is_over = true
  self.chunks:close()
end

--- Runs the handler and the iterator it may return.
local function produce(self, loopback)
  local req = self.req
  local ok, result, message, code = xpcall(loopback.dispatch, located, req)
  while ok and type(result) == "function" do
    local chunk
    ok, chunk = xpcall(result, located)
    if not ok then
      result = chunk
    elseif chunk == nil then
      return finish(self, false)
    else
      local sent = req:write(chunk)
      if not sent then return finish(self, nil, "Abort", "CANCELLED", false) end
    end
  end
  if not ok then
    local _, message_of, status = failure(loopback, req, result)
    -- Streams tell only what was raised with a status (section 6).
    return finish(self, nil, type(result) == "table" and message_of or "Unknown error", status, true)
  end
  if result == nil and (message ~= nil or code ~= nil) then return finish(self, outcome(nil, message, code)) end
  if result ~= nil then return finish(self, nil, "Invalid async iterable", 500, true) end
  return finish(self, false)
end

--- As of a connection. Yields.
function Loopback:stream(url, data, timeout_ms)
  local req = request_of(self, url, data, timeout_ms)
  req.is_stream = true
  req.chunks = channel.new(WINDOW)
  local stream = setmetatable({ req = req, chunks = req.chunks, ends_ms = req.ends_ms }, Stream)
  self.under_way = self.under_way + 1
  local handler, message, code = task.spawn(produce, stream, self)
  if not handler then
    self.under_way = self.under_way - 1
    return nil, message, code
  end
  handler:on_end(function() self.under_way = self.under_way - 1 end)
  stream.handler = handler
  return stream
end

function Stream:read(timeout_ms)
  if self.ends_ms then
    local left = math.max(0, math.ceil(self.ends_ms - sched.now_ms()))
    timeout_ms = timeout_ms and math.min(timeout_ms, left) or left
  end
  local box, message, code = self.chunks:recv(timeout_ms)
  if box then return true, box[1] end
  if self.ending then return unpack(self.ending, 1, 4) end
  return nil, message, code, false
end

function Stream:close()
  self.req.is_over = true
  self.chunks:close()
  if self.handler and not self.handler:is_done() then self.handler:cancel("the stream is not read any more") end
end

-- --- the rest of a connection --------------------------------------------------------------------

function Loopback:pending() return self.under_way end
function Loopback:jobs() return self.under_way end
function Loopback:is_open() return true end -- luacheck: ignore self
function Loopback:is_ours() return true end -- luacheck: ignore self
function Loopback:is_inbound() return false end -- luacheck: ignore self
function Loopback:close() end -- luacheck: ignore self

return M
