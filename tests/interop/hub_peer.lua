--- hub_peer.lua - hubs of znlrun in one process, driven by JSON lines on standard input:
--- `znlrun hub_peer.lua`. Commands are those of hub_peer.mjs; its head describes them. More of them:
---   start has echo, and own_bus: the hub makes its connection itself
---   counters -> table;  state -> text;  partial -> boolean;  memory -> {lua_kib, rss_bytes}
--- SPDX-License-Identifier: MIT
package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path

local crypto = require "znl.core.crypto"
local json = require "znl.json"
local line_commands = require "commands"
local roster = require "znl.core.roster"
local uv = require "luv"
local znl = require "znl"

local check, given, write = line_commands.check, line_commands.given, line_commands.write

local objects = {} -- name -> {hub, nats, is_partial, crowd}

local NAMESPACES = { "/ws/chat", "/ws/news" }

local LIMITS = { "max_connections", "max_message_bytes", "max_queue_bytes", "max_inbox_bytes", "max_members",
  "max_member_bytes", "rate", "on_slow", "on_invalid", "ping_ms", "idle_ms" }

--- What a client may say; the same as in hub_instance.mjs.
local vocabulary = {}

function vocabulary.join(ctx, payload)
  local ok, message, code = ctx.presence:join {
    user_id = payload.userId, session_id = payload.sessionId, channels = given(payload.channels),
    metadata = given(payload.metadata),
  }
  if ok then
    ctx:send("joined", { sessionId = payload.sessionId })
  else
    ctx:send("refused", { code = code, message = message })
  end
end

function vocabulary.say(ctx, payload)
  ctx.presence:broadcast {
    channel = given(payload.channel),
    message = { type = "said", payload = { from = ctx.user_id, text = payload.text } },
    except_session_ids = payload.notMe and { ctx.session_id } or nil,
  }
end

function vocabulary.dm(ctx, payload)
  ctx.presence:direct_to_user(payload.to, { type = "dm", payload = { from = ctx.user_id, text = payload.text } })
end

--- Members in the words of the protocol.
local function members(list)
  local out = {}
  for i, member in ipairs(list) do
    out[i] = { sessionId = member.session_id, userId = member.user_id, metadata = member.metadata }
  end
  return json.array(out)
end

function vocabulary.list(ctx) ctx:send("roster", members(ctx.presence:list())) end

local handlers = {
  on_connect = function() end,
  on_message = function(ctx, message)
    local fn = vocabulary[message.type]
    if fn then fn(ctx, message.payload) end
  end,
  on_disconnect = function() end,
}

local commands = {}

function commands.start(cmd)
  local as = cmd.as or "instance"
  -- Made here, so that commands can look at it; own_bus: by the hub, as it likes it.
  local nats = not cmd.own_bus and check(znl.nats.connect {
    servers = cmd.bus, name = as, echo = given(cmd.echo), ping_ms = given(cmd.ping_ms),
    reconnect_max_ms = given(cmd.reconnect_ms), reconnect_min_ms = given(cmd.reconnect_ms) and 50 or nil,
  }) or nil
  local opts = {
    app = given(cmd.app) or "main", bus = nats or cmd.bus, subject_prefix = given(cmd.prefix),
    roster = { driver = given(cmd.driver), ttl_ms = given(cmd.ttl_ms) },
    listen = (given(cmd.host) or "127.0.0.1") .. ":0",
  }
  for _, name in ipairs(LIMITS) do opts[name] = given(cmd[name]) end
  local hub = znl.hub(opts)
  local object = { hub = hub, nats = nats, is_partial = false, app = opts.app, ttl_ms = opts.roster.ttl_ms }
  objects[as] = object
  hub:on("partial", function(is_partial)
    object.is_partial = is_partial
    write { ev = "partial", as = as, is_partial = is_partial }
  end)
  hub:on("error", function(...) io.stderr:write("hub: ", tostring((...)), "\n") end)
  for _, path in ipairs(NAMESPACES) do hub:channel(path, handlers) end
  check(hub:start())
  return { port = hub:port() }
end

function commands.roster(cmd, object) return members(object.hub:roster(cmd.ns)) end

--- Asked often, of thousands: those are not made into tables.
function commands.count(cmd, object) return object.hub.instance.roster:count(cmd.ns) end

function commands.broadcast(cmd, object)
  return check(object.hub:broadcast {
    ns = cmd.ns, channel = given(cmd.channel), message = cmd.message, except_session_ids = given(cmd.except),
  })
end

function commands.direct(cmd, object) return check(object.hub:direct_to_user(cmd.user_id, cmd.message)) end

function commands.burst(cmd, object)
  local began = znl.now_ms()
  local from = cmd.from or 0
  for i = from, from + cmd.count - 1 do
    check(object.hub:broadcast { ns = cmd.ns, message = { type = "n", payload = i } })
    if i % 500 == 499 then check(object.nats:flush(10000)) end
  end
  return znl.now_ms() - began
end

--- Members without connections: another instance in this process.
function commands.crowd(cmd, object)
  local as = cmd.as or "instance"
  object.crowd = roster.new {
    bus = object.nats.core, subject = ("mega.ws.%s.roster"):format(object.app), ttl_ms = object.ttl_ms or 30000,
    origin = crypto.random(16):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end),
    on_event = function() end,
  }
  object.crowd:start()
  for i = 0, cmd.count - 1 do
    check(object.crowd:join {
      ns = cmd.ns, session_id = ("%s-%d"):format(as, i), user_id = "user " .. i, metadata = { i = i },
    })
    if i % 500 == 499 then check(object.nats:flush(10000)) end
  end
  check(object.nats:flush(10000))
end

function commands.stop(_, object)
  if object.crowd then object.crowd:stop() end
  object.hub:close(1000)
  if object.nats then object.nats:close() end
end

function commands.connected(_, object) return object.nats:is_connected() end

function commands.counters(_, object) return object.hub:counters() end

function commands.state(_, object) return object.hub:state() end

function commands.partial(_, object) return object.is_partial end

function commands.memory()
  collectgarbage()
  collectgarbage()
  return { lua_kib = collectgarbage "count", rss_bytes = uv.resident_set_memory() }
end

function commands.exit() znl.exit(0) end

line_commands.serve(commands, function(cmd) return objects[cmd.as or "instance"] end)
