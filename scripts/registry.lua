--- A registry of the micro protocol without code of its own.
---
---     znlrun scripts/registry.lua --port 9000 --config-dir configs/
---
--- SPDX-License-Identifier: MIT

local argparse = require("argparse")
local znl = require("znl")

local function to_port(text)
  local port = text:find("^%d+$") and tonumber(text)
  if port and port <= 65535 then return port end
  return nil, ("--port is '%s'; it must be a whole number in 0..65535"):format(text)
end

local parser = argparse("znlrun scripts/registry.lua", "Runs a registry of the micro protocol.")
parser:option("--host", "Address to listen on (default: all)."):argname("<address>")
parser:option("--port", "Port to listen on; 0: any. Without: REGISTRY_PORT, or 9000.")
  :argname("<port>"):convert(to_port)
parser:option("--config-dir", "Folder of {namespace}.config.yaml (default: ~/.registry/configs, when it is there).")
  :argname("<path>")
parser:flag("--no-config", "Read no configuration.")
parser:option("--persist", "File that keeps what is known over a new start."):argname("<path>")
parser:option("--secret", "What connections must prove to have: env:NAME or file:PATH; may be repeated.")
  :argname("<ref>"):count("*")
parser:option("--allow", "Network that may connect, such as 10.0.0.0/8; may be repeated.")
  :argname("<network>"):count("*")
parser:option("--cluster", "Name of a cluster of registries that answer for one fleet; needs --bus.")
  :argname("<name>")
parser:option("--bus", "NATS server they speak over, such as nats://127.0.0.1:4222; may be repeated.")
  :argname("<url>"):count("*")
parser:option("--cluster-secret", "What they sign with: env:NAME or file:PATH; may be repeated.")
  :argname("<ref>"):count("*")
parser:option("--label", "What this registry is called in lists (default: host name and port)."):argname("<text>")
parser:flag("--check-host", "Refuse who claims an address that is not its own.")
parser:option("--tls-certificate", "PEM file with the certificate; needs --tls-key."):argname("<path>")
parser:option("--tls-key", "PEM file with its key."):argname("<path>")
parser:flag("--log-events", "Log who comes and goes.")
parser:usage_max_width(98)
parser:help_max_width(98)
local args = parser:parse()

local function secrets_of(references, option)
  local secrets = {}
  for index, reference in ipairs(references) do
    local ok, secret = pcall(znl.secret, reference)
    if not ok then parser:error(("%s is '%s'; it must be env:NAME or file:PATH"):format(option, reference)) end
    secrets[index] = secret
  end
  return #secrets > 0 and secrets or nil
end

if (args.cluster == nil) ~= (#args.bus == 0) then parser:error("--cluster and --bus go together") end
if not args.cluster and (args.label or #args.cluster_secret > 0) then
  parser:error("--label and --cluster-secret need --cluster")
end
local cluster = args.cluster and {
  name = args.cluster, bus = { servers = args.bus, name = "znlrun registry" }, label = args.label,
  secret = secrets_of(args.cluster_secret, "--cluster-secret"),
}
if (args.tls_certificate == nil) ~= (args.tls_key == nil) then
  parser:error("--tls-certificate and --tls-key go together")
end

local config_dir = args.config_dir
if args.no_config then config_dir = false end

local function some(list) return #list > 0 and list or nil end

local ok, registry = pcall(znl.registry, {
  host = args.host,
  port = args.port or (not os.getenv("REGISTRY_PORT") and 9000 or nil),
  config_dir = config_dir,
  persist = args.persist,
  secret = secrets_of(args.secret, "--secret"),
  cluster = cluster,
  allow = some(args.allow),
  check_host = args.check_host or false,
  tls = args.tls_certificate and { certificate = args.tls_certificate, key = args.tls_key } or nil,
})
if not ok then parser:error((tostring(registry):gsub("^[^\n]-:%d+: ", ""))) end

if args.log_events then
  registry:on("connection", function(client)
    znl.log.info("registered", { peer = client.key, namespace = client.namespace })
  end)
  registry:on("disconnect", function(client, reason)
    znl.log.info("unlisted", { peer = client.key, namespace = client.namespace, reason = reason })
  end)
end

local started, message = registry:start()
if not started then
  io.stderr:write("znlrun: ", message, "\n")
  znl.exit(1)
end
znl.log.info("registry is up", { endpoint = registry:endpoint() })
