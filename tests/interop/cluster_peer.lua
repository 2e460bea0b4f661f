--- cluster_peer.lua - cluster clients of znlrun in one process, driven by JSON lines on standard input:
--- `znlrun cluster_peer.lua`. Commands and events are those of cluster_peer.mjs; its head describes them.
--- More of them: counters -> table; memory -> {lua_kib, rss_bytes}. SPDX-License-Identifier: MIT
package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path

local demo = require "cluster_demo"
local json = require "znl.json"
local line_commands = require "commands"
local sched = require "znl.core.sched"
local uv = require "luv"
local values = require "cluster_values"
local znl = require "znl"

local given, write = line_commands.given, line_commands.write
local pack, unpack_value = values.pack, values.unpack

local objects = {} -- name -> {client, subscriptions: label -> {off, listener, count, last, ordered}}

local OPTIONS = { "name", "port", "host", "path", "secret", "leader", "response_timeout_ms", "heartbeat_ms",
  "check_heartbeat", "max_wait_ms", "connect_timeout_ms", "subscribe_timeout_ms", "broadcast", "single", "transcode",
  "any_method", "max_message_bytes", "max_queue_bytes", "max_connections", "register_ms", "max_keys",
  "max_member_keys", "max_values_bytes", "max_slow_bytes", "max_depth", "max_concurrency", "max_queue", "max_pending" }

local function options(cmd)
  local out = { name = "DemoClient" }
  for _, name in ipairs(OPTIONS) do
    if given(cmd[name]) ~= nil then out[name] = cmd[name] end
  end
  return out
end

--- Turns `nil, message, code, err` of a client into an error.
local function check(value, message, code, err)
  if value == nil and message then
    local name = type(err) == "table" and err.name or nil
    error({ code = code or "ERROR", message = message, name = name }, 0)
  end
  return value
end

local function arguments(cmd)
  local args = {}
  for i, value in ipairs(cmd.args or {}) do
    value = unpack_value(value)
    if value ~= znl.undefined then args[i] = value end
  end
  return args, #(cmd.args or {})
end

--- The registration, its fields in the order of the command.
local function registration(cmd) return cmd.text and assert(json.raw(cmd.text)) or nil end

local function watch(client, as)
  client:on("ready", function(role) write { ev = "ready", as = as, leader = role == "leader" } end)
  client:on("lost", function(reason) write { ev = "lost", as = as, message = reason } end)
  client:on("error", function(message, where)
    write { ev = "error", as = as, message = tostring(message), where = where }
  end)
end

local commands = {}

function commands.start(cmd)
  local as, how = cmd.as or "client", cmd.demo or {}
  local opts = options(cmd)
  opts.client = function() return demo.new(how) end
  opts.methods = {}
  for name, kind in pairs(demo.METHODS) do
    if how.subscribe ~= false or kind ~= "subscribe" then opts.methods[name] = kind end
  end
  local object = { client = check(znl.cluster_client(opts)), subscriptions = {} }
  objects[as] = object
  watch(object.client, as)
  if cmd.wait == false then
    znl.spawn(function()
      local started, message = object.client:start()
      if not started then write { ev = "ready", as = as, leader = false, error = message } end
    end)
    return json.null
  end
  check(object.client:start())
  return { leader = object.client:is_leader() }
end

function commands.ready(_, object)
  check(object.client:ready())
  return { leader = object.client:is_leader() }
end

function commands.invoke(cmd, object)
  local args, n = arguments(cmd)
  return pack(check(object.client:call(cmd.method, { timeout_ms = cmd.timeout_ms }, unpack(args, 1, n))))
end

function commands.oneway(cmd, object)
  local args, n = arguments(cmd)
  check(object.client:oneway(cmd.method, unpack(args, 1, n)))
end

function commands.publish(cmd, object) check(object.client:publish(unpack_value(cmd.reg))) end

function commands.subscribe(cmd, object)
  local as, label = cmd.as or "client", cmd.label
  local seen = { count = 0, ordered = true }
  function seen.listener(value)
    if type(value) == "table" and value.seq then
      if seen.last and value.seq <= seen.last.seq then seen.ordered = false end
    end
    seen.count = seen.count + 1
    seen.last = value
    if not cmd.quiet then write { ev = "value", as = as, label = label, value = pack(value) } end
  end
  object.subscriptions[label] = seen
  check(object.client:subscribe(registration(cmd), seen.listener))
end

function commands.unsubscribe(cmd, object)
  local seen = object.subscriptions[cmd.label]
  check(object.client:unsubscribe(registration(cmd), seen and seen.listener))
end

function commands.seen(cmd, object)
  local seen = object.subscriptions[cmd.label]
  return { count = seen.count, last = pack(seen.last), ordered = seen.ordered }
end

function commands.invoke_many(cmd, object)
  local began, ok, failed, left = znl.now_ms(), 0, {}, cmd.count
  local workers, done = cmd.at_once or 50, sched.event()
  local arg = unpack_value(cmd.arg)
  for _ = 1, workers do
    znl.spawn(function()
      while left > 0 do
        left = left - 1
        local _, message, code = object.client:invoke(cmd.method, arg)
        if message then
          failed[tostring(code)] = (failed[tostring(code)] or 0) + 1
        else
          ok = ok + 1
        end
      end
      workers = workers - 1
      if workers == 0 then done:set(true) end
    end)
  end
  done:wait(120000)
  return { ok = ok, failed = failed, ms = znl.now_ms() - began }
end

function commands.close(_, object) object.client:close() end

function commands.leads(_, object) return object.client:is_leader() end

function commands.counters(_, object) return object.client:counters() end

function commands.memory()
  collectgarbage()
  collectgarbage()
  return { lua_kib = collectgarbage "count", rss_bytes = uv.resident_set_memory() }
end

function commands.exit() znl.exit(0) end

line_commands.serve(commands, function(cmd) return objects[cmd.as or "client"] end)
