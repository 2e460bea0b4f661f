-- peer.lua - one ZNL node of znlrun driven by JSON lines on standard input: `znlrun peer.lua`.
-- The commands, events and the request handler are those of peer.mjs; its head describes them.
--
-- SPDX-License-Identifier: MIT
package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path

local cjson = require "cjson"
local line_commands = require "commands"
local znl = require "znl"

cjson.encode_sparse_array(true)
line_commands.encode = cjson.encode -- topics of hostile peers are any bytes

local check, given, write = line_commands.check, line_commands.given, line_commands.write

local function hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

--- A payload as the application sees it (string, array or nil) to a list of hex frames.
local function to_hex(payload)
  if payload == nil then return { "" } end
  if type(payload) == "string" then return { hex(payload) } end
  if #payload == 0 then return { "" } end
  local out = {}
  for i, frame in ipairs(payload) do out[i] = hex(frame) end
  return out
end

--- A list of hex frames to a payload.
local function from_hex(frames)
  local out = {}
  for i, frame in ipairs(frames) do out[i] = unhex(frame) end
  if #out == 1 then return out[1] end
  return out
end

local node, config
local commands = {}

local function options(timeout_ms) return { timeout_ms = given(timeout_ms) } end

local function ask(to, payload, timeout_ms)
  if config.role == "master" then return node:request(to, payload, options(timeout_ms)) end
  return node:request(payload, options(timeout_ms))
end

local function script(request)
  local payload = request.payload
  if request.route == "/refuse" or payload == "refuse" then return nil, "not you", "AUTH" end
  if request.route == "/relay" then -- asks the peer that called, under the deadline of this call
    return to_hex(check(ask(request.from, "relayed", 1000)))
  end
  if request.route then return { route = request.route, data = request.data } end
  local first = type(payload) == "table" and (payload[1] or "") or payload or ""
  local ms = first:match "^sleep:(%d+)"
  if ms then znl.sleep(tonumber(ms)) end
  if first == "throw" then error "thrown by the script" end
  if first == "nil" then return nil end
  local back = first:match "^back:(.*)$"
  if back then
    local answer, message = ask(request.from, back, 1000)
    if answer == nil then error(message) end
    return answer
  end
  return payload
end

local function watch()
  local function emit(event, fields)
    fields = fields or {}
    fields.ev = event
    write(fields)
  end
  if config.role == "master" then
    node:on("slave_connected", function(id) emit("slave_connected", { id = id }) end)
    node:on("slave_disconnected", function(id, reason)
      emit("slave_disconnected", { id = id, reason = reason })
    end)
    node:on("push", function(from, topic, payload)
      emit("push", { from = from, topic = topic, frames = to_hex(payload) })
    end)
  else
    node:on("master_online", function() emit "master_online" end)
    node:on("master_offline", function(reason) emit("master_offline", { reason = reason }) end)
    node:on("publish", function(topic, payload)
      emit("publish", { topic = topic, frames = to_hex(payload) })
    end)
  end
  node:on("request", function(event) emit("request", { frames = to_hex(event.payload) }) end)
  node:on("response", function(event) emit("response", { frames = to_hex(event.payload) }) end)
  node:on("auth_failed", function(event)
    emit("auth_failed", { reason = event.reason, kind = event.kind, from = event.from })
  end)
  node:on("error", function(message) emit("error", { message = tostring(message) }) end)
end

function commands.start(cmd)
  config = cmd
  local opts = {
    id = cmd.id,
    endpoint = given(cmd.endpoint),
    curve = given(cmd.curve),
    encrypted = given(cmd.encrypted),
    auth_key = given(cmd.auth_key),
    kdf_salt = given(cmd.kdf_salt),
    require_digest = given(cmd.digest),
    heartbeat_ms = given(cmd.heartbeat_ms),
    heartbeat_timeout_ms = given(cmd.heartbeat_timeout_ms),
    max_pending = given(cmd.max_pending),
    max_skew_ms = given(cmd.max_skew_ms),
  }
  if cmd.role == "master" then
    opts.auth_keys = given(cmd.auth_keys)
    opts.cluster = given(cmd.cluster)
    node = check(znl.master(opts))
  else
    opts.endpoints = given(cmd.endpoints)
    node = check(znl.slave(opts))
  end
  watch()
  if cmd.handler ~= "none" then node:handle(script) end
  check(node:start())
  return { flavour = "znlrun" }
end

function commands.stop() node:stop() end

--- Which master of the cluster has a slave; false: none.
function commands.master_of(cmd) return node:master_of(cmd.to) or false end

function commands.endpoint() return node:endpoint() end

function commands.restart() check(node:start()) end

function commands.request(cmd)
  return to_hex(check(ask(given(cmd.to), from_hex(cmd.frames), cmd.timeout_ms)))
end

function commands.call(cmd)
  local opts = options(cmd.timeout_ms)
  if config.role == "master" then return check(node:call(cmd.to, cmd.route, given(cmd.data), opts)) end
  return check(node:call(cmd.route, given(cmd.data), opts))
end

--- Calls again and again until one ends with `code`; how many were answered before.
function commands.call_until(cmd)
  local answered, ends = 0, znl.now_ms() + cmd.timeout_ms
  while znl.now_ms() < ends do
    local answer, message, code
    if config.role == "master" then
      answer, message, code = node:call(cmd.to, cmd.route, nil, { timeout_ms = 300 })
    else
      answer, message, code = node:call(cmd.route, nil, { timeout_ms = 300 })
    end
    if code == cmd.code then return answered end
    if answer ~= nil then answered = answered + 1 else znl.sleep(5) end
    if cmd.strict and code then error({ code = code, message = message }, 0) end
  end
  error({ code = "TIMEOUT", message = "no call ended with " .. cmd.code }, 0)
end

function commands.request_many(cmd)
  local began = znl.now_ms()
  local ok, failed, left = 0, {}, cmd.count
  local done = require("znl.core.sched").event()
  for i = 1, cmd.count do
    znl.spawn(function()
      local payload = given(cmd.text) or ("request " .. (i - 1))
      local answer, _, code = ask(given(cmd.to), payload, cmd.timeout_ms)
      if answer == payload then
        ok = ok + 1
      else
        code = answer ~= nil and "WRONG" or code or "ERROR"
        failed[code] = (failed[code] or 0) + 1
      end
      left = left - 1
      if left == 0 then done:set(true) end
    end)
  end
  if left > 0 then done:wait(60000) end
  return { ok = ok, failed = failed, ms = znl.now_ms() - began }
end

function commands.publish(cmd) node:publish(cmd.topic, from_hex(cmd.frames)) end

function commands.push(cmd) check(node:push(cmd.topic, from_hex(cmd.frames))) end

function commands.publish_many(cmd)
  for i = 0, cmd.count - 1 do node:publish(cmd.topic, tostring(i)) end
end

function commands.push_many(cmd)
  for i = 0, cmd.count - 1 do check(node:push(cmd.topic, tostring(i))) end
end

function commands.subscribe(cmd)
  -- The handler may be given (payload) or (payload, topic) or one event table.
  node:subscribe(cmd.topic, function(first, second)
    local payload = first
    if type(first) == "table" and first.payload ~= nil then
      payload = first.payload
    elseif first == cmd.topic and second ~= nil then
      payload = second
    end
    write { ev = "subscribed", topic = cmd.topic, frames = to_hex(payload) }
  end)
end

function commands.unsubscribe(cmd) node:unsubscribe(cmd.topic) end

function commands.service(cmd)
  node:service(cmd.name, function(request)
    if cmd.mode == "throw" then error "the service failed" end
    return request.payload
  end)
end

function commands.service_request(cmd)
  return to_hex(check(node:service_request(
    cmd.to, cmd.service, from_hex(cmd.frames), options(cmd.timeout_ms))))
end

function commands.slaves()
  local ids = {}
  for i, slave in ipairs(node:slaves()) do
    ids[i] = type(slave) == "table" and slave.id or slave
  end
  return ids
end

function commands.online() return node:master_online() and true or false end

function commands.counters() return node:counters() end

function commands.add_key(cmd) check(node:add_auth_key(cmd.slave, cmd.key)) end

function commands.remove_key(cmd) node:remove_auth_key(cmd.slave) end

function commands.exit()
  if node then node:stop() end
  znl.exit(0)
end

line_commands.serve(commands)
