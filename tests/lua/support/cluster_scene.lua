--- A leader and its followers by znl.core.cluster, for one test, and what they reported; raw peers beside them.
--- SPDX-License-Identifier: MIT

local bit = require("bit")
local cluster = require("znl.core.cluster")
local eventually = require("tests.lua.support.eventually")
local log = require("znl.core.log")
local sched = require("znl.core.sched")
local uv = require("luv")
local znl = require("znl")

local Scene = {}
Scene.__index = Scene

local M = {}

--- A new scene; the log is silent until `close`.
function M.new()
  local self = setmetatable({ open = {}, server_events = {}, channel_events = {}, link_events = {} }, Scene)
  self.level = znl.log.level()
  log.set_level("off")
  return self
end

--- How often `name` was reported, and the last one.
function M.seen(list, name)
  local count, last = 0, nil
  for _, event in ipairs(list) do
    if event[1] == name then count, last = count + 1, event end
  end
  return count, last
end

local function recorder(list)
  return function(...) list[#list + 1] = { n = select("#", ...), ... } end
end

local function with_events(options, list)
  options = options or {}
  options.on_event = options.on_event or recorder(list)
  return options
end

--- A server on a port that the system chooses, or on `options.path`.
function Scene:listen(options)
  options = with_events(options, self.server_events)
  self.server = assert(cluster.listen(options))
  self.open[#self.open + 1] = self.server
  return self.server
end

--- A channel that is ready, and answers with `handler`.
function Scene:channel(handler, options)
  if not self.server then self:listen() end
  options = with_events(options, self.channel_events)
  options.name = options.name or "Client"
  local channel = assert(self.server:channel(options))
  channel:set_handler(handler)
  assert(channel:ready(true))
  self.leader = self.leader or channel
  return channel
end

--- A connection that is not registered; or nil, message, code.
function Scene:connect(options)
  options = with_events(options, self.link_events)
  if not options.path then options.host, options.port = "127.0.0.1", self.server:port() end
  local link, message, code = cluster.connect(options)
  if link then self.open[#self.open + 1] = link end
  return link, message, code
end

--- A follower of `name`.
function Scene:follow(options, name, extension)
  local link = assert(self:connect(options))
  local result = assert(link:register(name or "Client", 5000, extension))
  assert(result.success == true, "not registered")
  return link
end

--- A leader whose handler is `handler`, and a follower of it.
function Scene:pair(handler, options, link_options, extension)
  self:channel(handler, options)
  return self:follow(link_options, options and options.name, extension)
end

function Scene:close()
  for _, object in ipairs(self.open) do object:close() end
  sched.sleep(5)
  log.set_level(self.level)
end

-- Packets ------------------------------------------------------------------------------------------

local function be32(number)
  return string.char(
    bit.band(bit.rshift(number, 24), 255), bit.band(bit.rshift(number, 16), 255),
    bit.band(bit.rshift(number, 8), 255), bit.band(number, 255)
  )
end
M.be32 = be32

local function read32(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  return bit.tobit(a * 0x1000000 + b * 0x10000 + c * 0x100 + d)
end

--- One packet; `fields`: response, id, timeout, data.
function M.packet(text, fields)
  fields = fields or {}
  local data = fields.data or ""
  return string.char(1, fields.response and 1 or 0, 0, 0) .. be32(0) .. be32(fields.id or 1)
    .. be32(fields.timeout or 3000) .. be32(#text) .. be32(#data) .. text .. data
end

--- An invoke with arguments that are transcode texts.
function M.invoke(method, arguments, fields)
  fields = fields or {}
  local data = {}
  for i, argument in ipairs(arguments or {}) do data[i] = be32(#argument) .. argument end
  fields.data = table.concat(data)
  return M.packet(
    ('{"type":"invoke","method":"%s","argLength":%d,"oneway":%s}')
      :format(method, fields.count or #data, fields.oneway and "true" or "false"), fields
  )
end

local Raw = {}
Raw.__index = Raw

--- A peer that writes bytes, and keeps the packets it gets: { response, id, timeout, text, data }.
function Scene:raw(port)
  local raw = setmetatable({ socket = uv.new_tcp(), packets = {}, bytes = "", is_closed = false }, Raw)
  local is_open = false
  raw.socket:connect("127.0.0.1", port or self.server:port(), function(err)
    assert(not err, err)
    is_open = true
    raw.socket:read_start(function(failed, chunk)
      if failed or not chunk then
        raw.is_closed = true
      else
        raw.bytes = raw.bytes .. chunk
        raw:take()
      end
    end)
  end)
  eventually(function() return is_open end)
  self.open[#self.open + 1] = raw
  return raw
end

function Raw:take()
  while #self.bytes >= 24 do
    local text_size, data_size = read32(self.bytes, 17), read32(self.bytes, 21)
    local size = 24 + text_size + data_size
    if #self.bytes < size then return end
    self.packets[#self.packets + 1] = {
      response = self.bytes:byte(2) == 1, id = read32(self.bytes, 9), timeout = read32(self.bytes, 13),
      text = self.bytes:sub(25, 24 + text_size), data = self.bytes:sub(25 + text_size, size),
    }
    self.bytes = self.bytes:sub(size + 1)
  end
end

function Raw:send(...)
  for _, bytes in ipairs { ... } do self.socket:write(bytes) end
end

--- Waits for the packet `number`.
function Raw:packet(number)
  eventually(function() return #self.packets >= number end, "packet " .. number)
  return self.packets[number]
end

function Raw:register(name, id)
  self:send(M.packet(('{"type":"register_channel","channelName":"%s"}'):format(name or "Client"), { id = id or 1 }))
end

function Raw:close()
  if not self.socket:is_closing() then self.socket:close() end
end

return M
