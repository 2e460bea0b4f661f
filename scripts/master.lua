--- A master without code of its own: answers with a handler file, logs what happens.
---
---     znlrun scripts/master.lua --endpoint tcp://0.0.0.0:6003 --handlers handlers/echo.lua
---
--- SPDX-License-Identifier: MIT

local argparse = require("argparse")
local znl = require("znl")

local function whole(text)
  if text:find("^%d+$") then return tonumber(text) end
  return nil, ("'%s' must be a whole number"):format(text)
end

local parser = argparse("znlrun scripts/master.lua", "Runs a ZNL master.")
parser:option("--id", "Name of this node."):default("master-1")
parser:option("--endpoint", "Where to bind (default tcp://127.0.0.1:6003), port * for any; may be repeated.")
  :count("*")
parser:option("--engine", "What moves the messages: auto (default), zmtp or libzmq."):argname("<engine>")
  :choices { "auto", "zmtp", "libzmq" }
parser:option("--handlers", "Lua file or folder that answers requests; reloaded on change."):argname("<path>")
parser:option("--workers", "Threads that run the handlers; 0: on the loop."):argname("<n>"):convert(whole)
parser:flag("--encrypted", "Proofs and sealed payloads; implied by a key.")
parser:option("--key", "Key of slaves without one of their own: env:NAME or file:PATH."):argname("<ref>")
parser:option("--auth-key", "Key of one slave; may be repeated."):argname("<id>=<ref>"):count("*")
parser:option("--curve-key", "Secret key for CURVE: env:NAME or file:PATH."):argname("<ref>")
parser:option("--allow", "Public key of a slave that may connect, env:NAME or file:PATH; may be repeated.")
  :argname("<ref>"):count("*")
parser:option("--heartbeat", "Heartbeat interval in milliseconds; 0 turns them off."):argname("<ms>"):convert(whole)
parser:option("--cluster", "Share slaves with other masters, over NATS."):argname("<nats-url>")
parser:option("--cluster-name", "Masters with the same name share their slaves (default: default)."):argname("<name>")
parser:option("--cluster-secret", "Signs what masters write each other: env:NAME or file:PATH."):argname("<ref>")
parser:flag("--log-events", "Log slaves coming and going, and pushes.")
parser:usage_max_width(98)
parser:help_max_width(98)
local args = parser:parse()

local auth_keys = {}
for _, pair in ipairs(args.auth_key) do
  -- An id may contain "=", a reference begins with its kind: split before the kind.
  local id, reference = pair:match("^(.+)=(%a+:.+)$")
  if not id then parser:error("--auth-key takes ID=env:NAME or ID=file:PATH") end
  auth_keys[id] = znl.secret(reference)
end

local allow = {}
for index, reference in ipairs(args.allow) do allow[index] = znl.secret(reference) end
if allow[1] and not args.curve_key then parser:error("--allow needs --curve-key") end

local master = znl.master {
  id = args.id,
  endpoints = #args.endpoint > 0 and args.endpoint or nil,
  cluster = args.cluster and {
    bus = args.cluster, name = args.cluster_name, secret = args.cluster_secret and znl.secret(args.cluster_secret),
  },
  engine = args.engine,
  curve = args.curve_key and { secret_key = znl.secret(args.curve_key), allow = allow[1] and allow or nil },
  encrypted = args.encrypted or args.key ~= nil or next(auth_keys) ~= nil,
  auth_key = args.key and znl.secret(args.key),
  auth_keys = auth_keys,
  heartbeat_ms = args.heartbeat,
}

if args.handlers then master:handle(znl.handlers(args.handlers, { workers = args.workers })) end

if args.log_events then
  master:on("slave_connected", function(id, at) znl.log.info("slave connected", { slave = id, master = at }) end)
  master:on("slave_disconnected", function(id, reason, at)
    znl.log.info("slave disconnected", { slave = id, reason = reason, master = at })
  end)
  master:on("push", function(from, topic, payload)
    local size = type(payload) == "table" and #table.concat(payload) or #payload
    znl.log.info("push", { slave = from, topic = topic, bytes = size })
  end)
end

local ok, message = master:start()
if not ok then
  io.stderr:write("znlrun: ", message, "\n")
  znl.exit(1)
end
znl.log.info("master is up", { id = args.id, endpoint = table.concat(master:endpoints(), " ") })
