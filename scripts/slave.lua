--- A slave without code of its own: answers with a handler file, logs what happens.
---
---     znlrun scripts/slave.lua --id slave-001 --endpoint tcp://10.0.0.5:6003 --handlers handlers/echo.lua
---
--- SPDX-License-Identifier: MIT

local argparse = require("argparse")
local znl = require("znl")

local function whole(text)
  if text:find("^%d+$") then return tonumber(text) end
  return nil, ("'%s' must be a whole number"):format(text)
end

local parser = argparse("znlrun scripts/slave.lua", "Runs a ZNL slave.")
parser:option("--id", "Name of this node; one slave per name."):count(1)
parser:option("--endpoint", "Where the master is (default tcp://127.0.0.1:6003). Several: masters that take turns.")
  :count("*")
parser:option("--engine", "What moves the messages: auto (default), zmtp or libzmq."):argname("<engine>")
  :choices { "auto", "zmtp", "libzmq" }
parser:option("--handlers", "Lua file or folder that answers requests; reloaded on change."):argname("<path>")
parser:option("--workers", "Threads that run the handlers; 0: on the loop."):argname("<n>"):convert(whole)
parser:option("--service", "Lua file that answers service requests; may be repeated.")
  :argname("<name>=<file>"):count("*")
parser:flag("--encrypted", "Proofs and sealed payloads; implied by --key.")
parser:option("--key", "Key of this slave: env:NAME or file:PATH."):argname("<ref>")
parser:option("--server-key", "Public key of the master for CURVE: env:NAME or file:PATH."):argname("<ref>")
parser:option("--curve-key", "Own secret key for CURVE: env:NAME or file:PATH (default: a new one)."):argname("<ref>")
parser:option("--master-id", "The only master to believe."):argname("<id>")
parser:option("--heartbeat", "Heartbeat interval in milliseconds; 0 turns them off."):argname("<ms>"):convert(whole)
parser:flag("--log-events", "Log the master coming and going, and publishes.")
parser:usage_max_width(98)
parser:help_max_width(98)
local args = parser:parse()

if args.curve_key and not args.server_key then parser:error("--curve-key needs --server-key") end

local slave = znl.slave {
  id = args.id,
  endpoints = #args.endpoint > 0 and args.endpoint or nil,
  engine = args.engine,
  curve = args.server_key and {
    server_key = znl.secret(args.server_key), secret_key = args.curve_key and znl.secret(args.curve_key),
  },
  encrypted = args.encrypted or args.key ~= nil,
  auth_key = args.key and znl.secret(args.key),
  master_id = args.master_id,
  heartbeat_ms = args.heartbeat,
}

if args.handlers then slave:handle(znl.handlers(args.handlers, { workers = args.workers })) end

for _, pair in ipairs(args.service) do
  local name, file = pair:match("^([^=]+)=(.+)$")
  if not name then parser:error("--service takes NAME=FILE") end
  slave:service(name, znl.handlers(file))
end

if args.log_events then
  slave:on("master_online", function(id) znl.log.info("master on line", { master = id }) end)
  slave:on("master_offline", function(id, reason)
    znl.log.info("master off line", { master = id, reason = reason })
  end)
  slave:on("publish", function(topic, payload)
    local size = type(payload) == "table" and #table.concat(payload) or #payload
    znl.log.info("publish", { topic = topic, bytes = size })
  end)
end

local ok, message = slave:start()
if not ok then
  io.stderr:write("znlrun: ", message, "\n")
  znl.exit(1)
end
znl.log.info("slave is up", { id = args.id, endpoint = slave:endpoint() })
