-- micro_peer.lua - registries, applications and servers of znlrun in one process, driven by JSON
-- lines on standard input: `znlrun micro_peer.lua`. Commands, events and routes are those of
-- micro_peer.mjs; its head describes them.
--
-- SPDX-License-Identifier: MIT
package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path

local json = require "znl.json"
local line_commands = require "commands"
local sched = require "znl.core.sched"
local uv = require "luv"
local znl = require "znl"

local check, given, write = line_commands.check, line_commands.given, line_commands.write

local objects = {} -- name -> {node, config, log, runs, asker, topics, offs}

local SHARED = { "host", "port", "heartbeat_ms", "heartbeat_timeout_ms", "heartbeat_check_ms",
  "strict_heartbeat", "max_message_bytes", "max_write_bytes", "max_connections", "max_depth",
  "handshake_ms" }
local OPTIONS = {
  registry = { "config_dir", "allow", "secret", "check_host", "max_topics", "max_payload_bytes",
    "max_topic_bytes", "max_connection_topics", "cluster" },
  server = { "namespace", "advertise_host" },
  application = { "namespace", "advertise_host", "registry", "request_timeout_ms",
    "registry_lookup_timeout_ms", "reconnect_ms", "retries", "retry", "balance", "connections",
    "correlation", "hedge_ms", "max_concurrency", "breaker", "compat" },
}

local function options(config)
  local out = {}
  for _, names in ipairs { SHARED, OPTIONS[config.role] } do
    for _, name in ipairs(names) do out[name] = given(config[name]) end
  end
  return out
end

--- The events of connections have one name here.
local CONNECTED = { application = "connected", server = "connection", registry = "connection" }
local DISCONNECTED = { application = "disconnected", server = "disconnect", registry = "disconnect" }

local function watch(node, as, role)
  node:on(CONNECTED[role], function(client)
    write { ev = "connected", as = as, key = client.key }
  end)
  node:on(DISCONNECTED[role], function(client)
    write { ev = "disconnected", as = as, key = client.key }
  end)
  if role ~= "application" then return end
  node:on("registry", function(is_up, _, key)
    write { ev = is_up and "connected" or "disconnected", as = as, key = key }
  end)
end

--- The routes every object here has; micro_peer.mjs has the same.
local function routes(object, as)
  local node, config = object.node, object.config
  local function route(path, handler)
    node:route(path, function(req)
      object.asker = req.client
      return handler(req)
    end)
  end
  local function counted(count, each)
    local seq = 0
    return function()
      seq = seq + 1
      if seq > count then return nil end
      if each then each(seq) end
      return { seq = seq }
    end
  end
  route("/echo", function(req) return req.data end)
  route("/slow", function(req)
    object.runs = object.runs + 1
    local ms = type(req.data) == "table" and req.data.ms or nil
    znl.sleep(ms or config.slow_ms or 300)
    if req:cancelled() then write { ev = "cancelled", as = as, url = "/slow" } end
    return ms and { waited = ms } or { run = object.runs }
  end)
  route("/fail", function() error "boom" end)
  route("/fail/status", function() return nil, "teapot", 418 end)
  route("/fail/code", function() return nil, "rejected", "E_BUSINESS" end)
  route("/null", function() return json.null end)
  route("/undefined", function() return nil end)
  route("/users/:id", function(req)
    return { params = req.params, url = req.route, data = req.data }
  end)
  route("/files/**", function(req) return { params = req.params } end)
  route("/e-field", function() return { e = { message = "not an error" } } end)
  route("/callback", function(req)
    local reply = check(req.client:request(req.data.url, req.data.data))
    return { reply = reply }
  end)
  route("/name", function(req) return { name = config.namespace, data = req.data } end)
  route("/log", function(req) object.log[#object.log + 1] = req.data end)
  route("/api", function()
    if config.api_fails then error "A fail" end
    return { from = config.api_name or as }
  end)
  route("/key", function() return { key = node:key() } end)
  route("/stream", function() return counted(3) end)
  route("/stream/count", function(req) return counted(req.data.count) end)
  route("/stream/slow", function(req) -- the other way to stream
    for seq = 1, 100 do
      if seq > 1 then znl.sleep(40) end
      local sent, _, code = req:write { seq = seq }
      if not sent then
        write { ev = "cancelled", as = as, url = "/stream/slow", code = code }
        return
      end
    end
  end)
  route("/stream/fail", function()
    return counted(2, function(seq) if seq > 1 then error "hidden from the asker" end end)
  end)
  route("/stream/exception", function()
    return counted(2, function(seq)
      if seq > 1 then error { status = 409, message = "conflict" } end
    end)
  end)
  route("/stream/values", function(req)
    for _, value in ipairs { "text", 7, { 1, 2 } } do check(req:write(value)) end
  end)
end

--- A task that ends after `ms` gives up what it waits for.
local function limited(ms, body)
  if not ms then return body() end
  local result = sched.event()
  local task = znl.spawn(function() result:set { pcall(body) } end)
  znl.spawn(function()
    znl.sleep(ms)
    task:cancel()
    result:set { false, { code = "CANCELLED", message = "cancelled" } }
  end)
  local outcome = result:wait(60000)
  if not outcome[1] then error(outcome[2], 0) end
  return outcome[2]
end

local function client(object, cmd)
  if cmd.host then return check(object.node:connect(cmd.host, cmd.port)) end
  return check(object.node:get(cmd.namespace, given(cmd.exclude)))
end

local MAKERS = { application = znl.application, registry = znl.registry, server = znl.server }

local commands = {}

function commands.start(cmd)
  local as = cmd.as or "app"
  local object = { config = cmd, log = json.array {}, runs = 0, topics = {}, offs = {} }
  object.node = check(MAKERS[cmd.role](options(cmd)))
  objects[as] = object
  watch(object.node, as, cmd.role)
  if cmd.role ~= "registry" then routes(object, as) end
  check(object.node:start())
  return {}
end

function commands.stop(_, object) object.node:stop() end

function commands.restart(_, object) check(object.node:start()) end

function commands.port(_, object) return object.node:port() end

function commands.get(cmd, object) return { key = client(object, cmd).key } end

function commands.call(cmd, object)
  return limited(cmd.abort_after_ms, function()
    local opts = { timeout_ms = cmd.timeout_ms, retries = cmd.retries, retry = cmd.retry }
    return { data = check(object.node:call(cmd.namespace, cmd.url, cmd.data, opts)) }
  end)
end

function commands.request(cmd, object)
  local to = client(object, cmd)
  return limited(cmd.abort_after_ms, function()
    return { data = check(to:request(cmd.url, cmd.data, { timeout_ms = cmd.timeout_ms })) }
  end)
end

function commands.back(cmd, object)
  local opts = { timeout_ms = cmd.timeout_ms }
  return { data = check(object.asker:request(cmd.url, cmd.data, opts)) }
end

function commands.push(cmd, object) check(client(object, cmd):push(cmd.url, cmd.data)) end

function commands.stream(cmd, object)
  local chunks, failure = json.array {}, nil
  local stream = check(object.node:stream(cmd.namespace, cmd.url, cmd.data))
  if cmd.idle_ms then znl.sleep(cmd.idle_ms) end
  local ok, problem = pcall(limited, cmd.abort_after_ms, function()
    while #chunks ~= cmd.take do
      local more, chunk, code = stream:read()
      if more == false then return end
      if more == nil then
        failure = { message = chunk, status = code }
        return
      end
      chunks[#chunks + 1] = chunk
    end
  end)
  stream:close()
  if not ok then
    failure = type(problem) == "table" and { message = problem.message, status = problem.code }
      or { message = tostring(problem) }
  end
  return { chunks = chunks, error = failure }
end

function commands.call_many(cmd, object)
  local began, ok, failed, left = znl.now_ms(), 0, {}, cmd.count
  local workers, done = cmd.at_once or 50, sched.event()
  for _ = 1, workers do
    znl.spawn(function()
      while left > 0 do
        left = left - 1
        local opts = { timeout_ms = cmd.timeout_ms, retries = cmd.retries }
        local _, message, code = object.node:call(cmd.namespace, cmd.url, cmd.data, opts)
        if message then
          local name = ("%s %s"):format(tostring(code), message)
          failed[name] = (failed[name] or 0) + 1
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

function commands.publish(cmd, object)
  object.topics[cmd.topic] = check(object.node:publish(cmd.topic, cmd.data))
end

function commands.update(cmd, object) check(object.topics[cmd.topic]:update(cmd.data)) end

function commands.unpublish(cmd, object) object.topics[cmd.topic]:unpublish() end

function commands.subscribe(cmd, object)
  local as, label = cmd.as or "app", cmd.label or cmd.topic
  object.offs[label] = check(object.node:subscribe(cmd.topic, function(data)
    write { ev = "topic", as = as, label = label, data = data }
  end))
end

function commands.unsubscribe(cmd, object) object.offs[cmd.label or cmd.topic]() end

function commands.connect(cmd, object) return { key = client(object, cmd).key } end

function commands.clients(_, object)
  local keys = json.array {}
  for key in pairs(object.node:clients()) do keys[#keys + 1] = key end
  return keys
end

function commands.log(_, object) return object.log end

function commands.runs(_, object) return object.runs end

function commands.counters(_, object) return object.node:counters() end

function commands.memory()
  collectgarbage()
  collectgarbage()
  return { lua_kib = collectgarbage "count", rss_bytes = uv.resident_set_memory() }
end

function commands.exit() znl.exit(0) end

line_commands.serve(commands, function(cmd) return objects[cmd.as or "app"] end)
