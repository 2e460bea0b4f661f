--- znlrun registry: what a registry knows: namespaces, addresses, topics. It looks without being listed.
--- SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local command = require("znl.cli.command")
local crypto = require("znl.core.crypto")
local json = require("znl.json")
local output = require("znl.cli.output")
local peer = require("znl.cli.peer")
local proof = require("znl.micro.proof")
local registrations = require("znl.micro.registrations")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")

local PAGE = 1000

--- "ws://host:port", "wss://host:port" or "host:port".
local function to_address(text)
  local scheme, rest = text:match("^(%a+)://(.-)/?$")
  local host, port = address.parse(rest or text)
  if not host or address.problem(host, port) or (scheme and scheme ~= "ws" and scheme ~= "wss") then
    return nil, ("'%s' must be HOST:PORT, or ws:// or wss:// and that"):format(text)
  end
  return { host = host, port = port, tls = scheme == "wss", text = text }
end

--- A connection that is not listed. `handle` gets the pushes. Yields.
local function connect(opts, handle)
  -- Here: a tool that is only asked for its help needs none of it.
  local client = require("znl.roles.client")
  local name = crypto.random(8):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  local path = address.path("znlrun-" .. name, 1, "znlrun")
  local headers = { [registrations.OBSERVER_HEADER] = "1" }
  if opts.secret then
    local ok, text = pcall(opts.secret.resolve, opts.secret)
    if not ok then return nil, (text:gsub("^[^\n]-:%d+: ", "")), "USAGE" end
    local header, value = proof.header(text, path)
    headers[header] = value
  end
  local made, message, code = client.connect {
    host = opts.registry.host, port = opts.registry.port, path = path, headers = headers, handle = handle,
    tls = opts.registry.tls and { verify = not opts.insecure } or nil, timeout_ms = opts.timeout,
  }
  if not made then
    local words = proof.explain(message):gsub("^connect: ", "")
    local key = address.key(opts.registry.host, opts.registry.port)
    if words:sub(1, #key) ~= key then words = opts.registry.text .. ": " .. words end
    if code == "GONE" and not opts.registry.tls then words = words .. "; one with TLS is wss://" .. key end
    return nil, words, code
  end
  return made
end

local function ask(client, opts, url, data)
  local answer, message, code, is_remote = client:request(url, data, { timeout_ms = opts.timeout })
  if code == nil then return answer end
  if is_remote and message == url then
    return nil, ("%s: this registry does not tell that; `find` works with every one"):format(opts.registry.text),
      "UNSUPPORTED"
  end
  if code == "CLOSED" and not is_remote then
    return nil, opts.registry.text .. ": the registry closed the connection", "UNREACHABLE"
  end
  return nil, ("%s: %s"):format(opts.registry.text, message), is_remote and tostring(code) or code
end

--- All pages of a list; `name_of` an entry is what the next page begins after. Yields.
local function ask_all(client, opts, url, data, name_of)
  local all = {}
  while true do
    data.limit = PAGE
    local page, message, code = ask(client, opts, url, data)
    if type(page) ~= "table" then return nil, message or opts.registry.text .. ": no list came", code or "PROTO" end
    for _, entry in ipairs(page) do
      if type(entry) ~= "table" or type(entry[name_of]) ~= "string" then
        return nil, opts.registry.text .. ": what came is no list of this kind", "PROTO"
      end
      all[#all + 1] = entry
    end
    if #page < PAGE then return all end
    data.after = page[#page][name_of]
  end
end

local function print_row(out, object, text)
  if out.json then out:line(json.encode(object)) else out:line(output.harmless(text)) end
end

local function plural(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "es")
end

local function list_namespaces(client, opts, out)
  local all, message, code = ask_all(client, opts, "/-/namespaces", {}, "namespace")
  if not all then return nil, message, code end
  for _, entry in ipairs(all) do
    local count = tonumber(entry.count) or 0
    print_row(out, { namespace = entry.namespace, count = count },
      ("%-32s %s"):format(entry.namespace, plural(count, "address")))
  end
  if #all == 0 then out:note("nothing is registered") end
end

local function list_peers(client, opts, out, namespace)
  local all, message, code = ask_all(client, opts, "/-/namespace/peers", { namespace = namespace }, "key")
  if not all then return nil, message, code end
  for _, entry in ipairs(all) do
    local age_ms = tonumber(entry.ageMs) or 0
    local registry = type(entry.registry) == "string" and entry.registry or nil
    print_row(out, { namespace = namespace, key = entry.key, age_ms = age_ms, registry = registry },
      ("%-32s since %d s%s"):format(entry.key, math.floor(age_ms / 1000), registry and " at " .. registry or ""))
  end
  if #all == 0 then return nil, ("nothing is registered as %s"):format(namespace), "NOT_FOUND" end
end

local ACTIONS = {}

--- The registries of the cluster.
function ACTIONS.cluster(client, opts, out)
  local status, message, code = ask(client, opts, "/-/registry/status")
  if code then return nil, message, code end
  local cluster = type(status) == "table" and status.cluster
  if type(cluster) ~= "table" or type(cluster.registries) ~= "table" then
    return nil, opts.registry.text .. ": this registry is alone", "NOT_FOUND"
  end
  for _, one in ipairs(cluster.registries) do
    if type(one) == "table" then
      local count = tonumber(one.registrations) or 0
      print_row(out, { id = one.id, label = one.label, state = one.state, registrations = count },
        ("%-32s %-5s %s"):format(tostring(one.label), tostring(one.state), plural(count, "address")))
    end
  end
  if cluster.connected ~= true then out:note("it cannot reach its bus, and goes on alone") end
end

function ACTIONS.ls(client, opts, out)
  if #opts.names == 0 then return list_namespaces(client, opts, out) end
  for _, namespace in ipairs(opts.names) do
    local _, message, code = list_peers(client, opts, out, namespace)
    if message then return nil, message, code end
  end
end

function ACTIONS.find(client, opts, out)
  for _, namespace in ipairs(opts.names) do
    local found, message, code = ask(client, opts, "/-/find", {
      namespace = namespace, exclude = json.array(opts.exclude),
    })
    if code then return nil, message, code end
    if type(found) ~= "table" then return nil, ("nothing is found for %s"):format(namespace), "NOT_FOUND" end
    if address.problem(found.host, found.port) then return nil, "what came is no address", "PROTO" end
    local key = address.key(found.host, found.port)
    print_row(out, { namespace = namespace, key = key, host = found.host, port = found.port }, key)
  end
end

--- Everything that is listed: key -> namespace, by both. Yields.
local function snapshot(client, opts)
  local all, message, code = ask_all(client, opts, "/-/namespaces", {}, "namespace")
  if not all then return nil, message, code end
  local seen = {}
  for _, entry in ipairs(all) do
    local peers
    peers, message, code = ask_all(client, opts, "/-/namespace/peers", { namespace = entry.namespace }, "key")
    if not peers then return nil, message, code end
    for _, one in ipairs(peers) do seen[entry.namespace .. " " .. one.key] = { entry.namespace, one.key } end
  end
  return seen
end

local function print_changes(out, before, after)
  local lines = {}
  for name, pair in pairs(after) do
    if not before[name] then lines[#lines + 1] = { name, "up", pair } end
  end
  for name, pair in pairs(before) do
    if not after[name] then lines[#lines + 1] = { name, "down", pair } end
  end
  table.sort(lines, function(a, b) return a[1] < b[1] end)
  for _, line in ipairs(lines) do
    local namespace, key = line[3][1], line[3][2]
    print_row(out, { event = line[2], namespace = namespace, key = key },
      ("%s %s %s"):format(line[2] == "up" and "+" or "-", namespace, key))
  end
end

local function watch_list(client, opts, out, quit)
  local before = {}
  repeat
    local after, message, code = snapshot(client, opts)
    if quit:is_set() then return end
    if not after then return nil, message, code end
    print_changes(out, before, after)
    before = after
  until quit:wait(opts.interval)
end

local function print_topic(out, topic, payload)
  local text = json.encode(payload) or "null"
  print_row(out, { topic = topic, payload = json.raw(text) }, ("%s %s"):format(topic, text))
end

local function watch_topics(client, opts, out, quit)
  for _, topic in ipairs(opts.names) do
    local held, message, code = ask(client, opts, "/-/subscribe", { topic = topic })
    if code then return nil, message, code end
    if type(held) == "table" and held.hasData then print_topic(out, topic, held.payload) end
  end
  while not quit:wait(opts.interval) do
    if not client:is_open() then
      return nil, opts.registry.text .. ": the registry closed the connection", "UNREACHABLE"
    end
  end
end

local function run(opts, out)
  if opts.action == "find" and #opts.names == 0 then return nil, "find needs a namespace", "USAGE" end
  local quit, failure = sched.event(), nil
  local client, message, code = connect(opts, function(req)
    local data = req.data
    if req.route ~= "/-/topic/update" or type(data) ~= "table" then return end
    local ok, problem = pcall(print_topic, out, tostring(data.topic), data.payload)
    if not ok then -- who reads the output went away
      failure = problem
      quit:set(true)
    end
  end)
  if not client then return nil, message, code end
  local action = ACTIONS[opts.action] or #opts.names > 0 and watch_topics or watch_list
  local forget = runtime.on_stop(function() quit:set(true) end)
  local ok, problem, text, reason = pcall(action, client, opts, out, quit)
  forget()
  client:close()
  if failure or not ok then error(failure or problem, 0) end
  if text then return nil, text, reason end
end

return command.new {
  name = "registry",
  summary = "Shows what a registry of the micro protocol knows.",
  description = "ls lists the namespaces, or the addresses of those named; find asks for one address of each " ..
      "NAME as an application does; watch prints what comes and goes, or the values of the topics named; cluster " ..
      "lists the registries that answer for the same fleet.",
  examples = {
    { "znlrun registry ls 127.0.0.1:9000", "the namespaces" },
    { "znlrun registry ls 127.0.0.1:9000 users", "who serves users" },
    { "znlrun registry find wss://registry.example:9000 users --secret env:REGISTRY_SECRET", "one of them" },
    { "znlrun registry cluster 127.0.0.1:9000", "the registries that answer for one fleet" },
    { "znlrun registry watch 127.0.0.1:9000 registry:users/limits --json", "each value of a topic" },
  },
  configure = function(parser)
    parser:argument("action", "ls, find, watch or cluster."):choices { "ls", "find", "watch", "cluster" }
    parser:argument("registry", "HOST:PORT, or ws:// or wss:// and that."):convert(to_address)
    parser:argument("names", "Namespaces; of watch: topics."):args("*")
    parser:option("--exclude", "With find: an address not to name; may be repeated."):argname("<key>"):count("*")
    parser:option("--secret", "The secret of the registry, env:NAME or file:PATH."):argname("<ref>")
      :convert(peer.CONVERT.key)
    parser:flag("--insecure", "With wss://: do not check the certificate.")
    parser:option("--timeout", "Limit of each answer, milliseconds (default 5000)."):argname("<ms>")
      :convert(command.whole(1, 600000)):default("5000"):show_default(false)
    parser:option("--interval", "With watch: time between looks, milliseconds (default 1000)."):argname("<ms>")
      :convert(command.whole(100, 3600000)):default("1000"):show_default(false)
  end,
  run = run,
}
