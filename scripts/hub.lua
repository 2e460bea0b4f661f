--- A hub without code of its own: channels from a folder of handlers, a page from a folder of files.
---
---     znlrun scripts/hub.lua --app chat --handlers channels/ --bus nats://127.0.0.1:4222 --listen 127.0.0.1:8080
---
--- SPDX-License-Identifier: MIT

local argparse = require("argparse")
local znl = require("znl")

local function whole(name)
  return function(text)
    if text:find("^%d+$") then return tonumber(text) end
    return nil, ("%s is '%s'; it must be a whole number"):format(name, text)
  end
end

local parser = argparse("znlrun scripts/hub.lua", "Serves WebSocket channels, with other instances on a bus.")
parser:option("--app", "Name of the application: instances with the same one share a cluster."):argname("<name>")
  :count(1)
parser:option("--handlers", "Folder of handlers, or one file; they are replaced as they change."):argname("<path>")
  :count(1)
parser:option("--listen", "Where clients connect to."):argname("<address:port>"):default("127.0.0.1:8080")
parser:option("--path", "Where the handlers are served; a folder below it."):argname("<path>"):default("/ws")
parser:option("--bus", "Address of NATS; may be repeated. Without: alone."):argname("<url>"):count("*")
parser:option("--subject-prefix", "Before the name of the application on the bus."):argname("<prefix>")
  :default("mega.ws")
parser:option("--ttl-ms", "How long an instance that is silent keeps its members; the same everywhere.")
  :argname("<ms>"):convert(whole("--ttl-ms"))
parser:option("--origin", "Web page that may connect, https://example.org; may be repeated. Without: the same host.")
  :argname("<origin>"):count("*")
parser:option("--max-connections", "Further clients are refused."):argname("<count>")
  :convert(whole("--max-connections"))
parser:option("--tls-certificate", "PEM file with the certificate; needs --tls-key."):argname("<path>")
parser:option("--tls-key", "PEM file with its key."):argname("<path>")
parser:usage_max_width(98)
parser:help_max_width(98)
local args = parser:parse()

if (args.tls_certificate == nil) ~= (args.tls_key == nil) then
  parser:error("--tls-certificate and --tls-key go together")
end

local function some(list) return #list > 0 and list or nil end

--- The message of an error without its place, which means nothing here.
local function checked(ok, ...)
  if ok then return ... end
  parser:error((tostring((...)):gsub("^[^\n]-:%d+: ", "")))
end

local bus = some(args.bus) and { servers = args.bus, name = "znlrun hub " .. args.app } or nil
local hub = checked(pcall(znl.hub, {
  app = args.app, listen = args.listen, bus = bus, subject_prefix = args.subject_prefix,
  roster = args.ttl_ms and { ttl_ms = args.ttl_ms } or nil,
  origins = some(args.origin), max_connections = args.max_connections,
  tls = args.tls_certificate and { certificate = args.tls_certificate, key = args.tls_key } or nil,
}))
checked(pcall(hub.handle, hub, args.path, checked(pcall(znl.handlers, args.handlers))))

local started, message = hub:start()
if not started then
  io.stderr:write("znlrun: ", message, "\n")
  znl.exit(1)
end
znl.log.info("hub is up", { app = args.app, port = hub:port(), path = args.path })
