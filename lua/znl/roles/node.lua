--- znl.roles.node: what master and slave share beyond znl.roles.role: options, calls, services.
--- SPDX-License-Identifier: MIT

local console = require("znl.console")
local curve = require("znl.roles.curve")
local estate = require("znl.versions.estate")
local json = require("znl.json")
local options = require("znl.options")
local refusals = require("znl.roles.refusals")
local role = require("znl.roles.role")
local secret = require("znl.secret")

local M = {}

--- The nodes of this process, the one made last where several have an id.
local by_id = setmetatable({}, { __mode = "v" })

local MIB = 1024 * 1024

local LIST_MAX = 32

--- A rule for an array of 1 to 32 different values that `rule` accepts.
---@param rule table
---@param allowed string
---@return table
function M.list_of(rule, allowed)
  return {
    type = "table", allowed = allowed,
    check = function(list)
      local seen, count = {}, 0
      for key, value in pairs(list) do
        count = count + 1
        if type(key) ~= "number" or seen[value] or not options.accepts(rule, value) then return false end
        seen[value] = true
      end
      return count > 0 and count == #list and count <= LIST_MAX
    end,
  }
end

--- What is wrong when two options are given that exclude each other.
---@return string|nil
function M.exclusion(given, one, several)
  if given[one] ~= nil and given[several] ~= nil then
    return ("options %s and %s exclude each other"):format(one, several)
  end
end

local ENDPOINT = {
  type = "string", default = "tcp://127.0.0.1:6003", max = 1024, pattern = "^%l+://[^%z]+$",
  allowed = "an endpoint such as tcp://127.0.0.1:6003; several go into endpoints",
}

---@class znl.NodeOptions
---@field id string  1 to 255 bytes; on a slave also its routing id
---@field endpoint? string  "tcp://host:port" or "ipc://path"; a master may ask for "tcp://host:*"
---@field endpoints? string[]  in place of endpoint: a master binds all; a slave goes to one of them at a time
---@field engine? "auto"|"zmtp"|"libzmq"  what moves the messages; both speak the same protocol
---@field curve? znl.MasterCurve|znl.SlaveCurve  encrypts connections; goes by libzmq
---@field encrypted? boolean  proofs and sealed payloads; must be said when a key is given
---@field auth_key? string|znl.Secret  a slave's key; a master's key for slaves without one of their own
---@field kdf_salt? string  must be the same on both sides
---@field require_digest? boolean  refuse proofs without payload digest; this side always sends one
---@field heartbeat_ms? integer  0 turns heartbeats off
---@field heartbeat_timeout_ms? integer  silence that means off line; 0: derived from heartbeat_ms
---@field max_pending? integer  requests waiting for an answer; 0: no limit of its own
---@field max_skew_ms? integer  difference of clocks that is accepted
---@field replay_window_ms? integer  how long a nonce is remembered; at least 2 * max_skew_ms
---@field start_allowance_ms? integer  how old a message may be when the node is made
---@field max_concurrency? integer  handlers at work at once
---@field max_queue? integer  requests that wait for one of them to end; 0: none
---@field max_queue_bytes? integer
---@field console? boolean|znl.ConsoleOptions  answer calls under "/-/": what runs here, reloads
---@field handler_timeout_ms? integer  how long a handler may take; 0: as long as it likes
---@field max_replay_nonces? integer
---@field max_frame_bytes? integer
---@field max_frames? integer  in one message
---@field max_message_bytes? integer
---@field send_hwm? integer  messages queued per connection
---@field recv_hwm? integer
---@field outbox_messages? integer  messages that wait in the node for a connection or for room
---@field outbox_bytes? integer
M.SPEC = {
  id = {
    type = "string", required = true, allowed = "a text of 1 to 255 bytes that begins with no zero byte",
    min = 1, max = 255, check = function(id) return id:byte(1) ~= 0 end,
  },
  endpoint = ENDPOINT,
  endpoints = M.list_of(ENDPOINT, "an array of 1 to 32 different endpoints such as tcp://127.0.0.1:6003"),
  engine = {
    type = "string", default = "auto", allowed = '"auto", "zmtp" or "libzmq"',
    check = function(name) return name == "auto" or name == "zmtp" or name == "libzmq" end,
  },
  curve = { type = "table" },
  encrypted = { type = "boolean" },
  auth_key = { type = "secret" },
  kdf_salt = { type = "string", max = 65536 },
  require_digest = { type = "boolean", default = false },
  heartbeat_ms = { type = "integer", min = 0, max = 3600000, default = 3000 },
  heartbeat_timeout_ms = { type = "integer", min = 0, max = 3600000, default = 0 },
  max_pending = { type = "integer", min = 0, max = 1000000, default = 1000 },
  max_skew_ms = { type = "integer", min = 1, max = 86400000, default = 30000 },
  replay_window_ms = { type = "integer", min = 10000, max = 86400000, default = 120000 },
  start_allowance_ms = { type = "integer", min = 0, max = 86400000, default = 10000 },
  max_concurrency = { type = "integer", min = 1, max = 1000000, default = 1000 },
  max_queue = { type = "integer", min = 0, max = 1000000, default = 10000 },
  handler_timeout_ms = { type = "integer", min = 0, max = 86400000, default = 0 },
  max_queue_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  console = {
    type = "any", default = false, allowed = "true, false or { eval = … }",
    check = function(value) return type(value) == "boolean" or type(value) == "table" end,
  },
  max_replay_nonces = { type = "integer", min = 1, max = 100000000, default = 16000000 },
  max_frame_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  max_frames = { type = "integer", min = 16, max = 65536, default = 1024 },
  max_message_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
  send_hwm = { type = "integer", min = 1, max = 1000000, default = 10000 },
  recv_hwm = { type = "integer", min = 1, max = 1000000, default = 10000 },
  outbox_messages = { type = "integer", min = 1, max = 1000000, default = 10000 },
  outbox_bytes = { type = "integer", min = 1024, max = 1024 * MIB, default = 64 * MIB },
}

--- Options of one request.
---@class znl.RequestOptions
---@field timeout_ms? integer  counted from the call
local REQUEST_SPEC = { timeout_ms = { type = "integer", min = 1, max = 86400000, default = 5000 } }

--- Options of one call.
---@class znl.CallOptions : znl.RequestOptions
---@field raw? boolean  send and get payloads as they are, not JSON
local CALL_SPEC = options.extend(REQUEST_SPEC, { raw = { type = "boolean", default = false } })

--- Events both roles have; those the core raises only while somebody listens.
M.EVENTS = { "auth_failed", "error", "message", "request", "response" }
local ON_DEMAND = {
  message = true, request = true, response = true, service_request = true, service_response = true,
}

---@class znl.Node : znl.Role
---@field id string
local Node = setmetatable({}, { __index = role.Role })
Node.__index = Node
M.Node = Node
M.check_handler, M.follow, M.current_owner = role.check_handler, role.follow, role.current_owner

--- Reads the options of a request without a table per call: this is on the path of every request.
---@return integer timeout_ms
function M.timeout_ms(opts, what)
  if opts == nil then return REQUEST_SPEC.timeout_ms.default end
  local timeout_ms = type(opts) == "table" and opts.timeout_ms
  if timeout_ms and next(opts) == "timeout_ms" and next(opts, "timeout_ms") == nil
      and options.accepts(REQUEST_SPEC.timeout_ms, timeout_ms) then
    return timeout_ms
  end
  local read = options.read(REQUEST_SPEC, opts, what, 3)
  return read.timeout_ms
end

--- What `call` sends: payload, timeout_ms, is_json. Raises for its caller's caller when `data` cannot
--- be sent.
function M.outgoing_call(data, opts)
  opts = options.read(CALL_SPEC, opts, "call", 3)
  if opts.raw then return data, opts.timeout_ms, false end
  local text, problem = json.encode(data)
  if not text then error("call: JSON cannot carry " .. problem, 3) end
  return text, opts.timeout_ms, true
end

--- What `call` returns, from what the core does: payload, true when it is JSON; or nil, message, code.
function M.incoming_answer(asked_json, payload, is_json, code)
  if code ~= nil then return nil, is_json, code end
  if asked_json ~= (is_json == true) then
    return nil, "call: the answer is " .. (is_json and "" or "not ") .. "JSON, unlike the call", "PROTO"
  end
  if not asked_json then return payload end
  local ok, value = json.decode(payload)
  if not ok then return nil, "call: the answer cannot be read: " .. value, "PROTO" end
  return value
end

--- The text of a key; blames the caller of a public function when it cannot be had.
local function key_text(what, key, level)
  local ok, text = pcall(secret.text, key)
  if not ok then error(("%s: %s"):format(what, (text:gsub("^[^\n]-:%d+: ", ""))), level + 1) end
  return text
end
M.key_text = key_text

--- The node of this process with that id; the one made last when there are several.
---@param id string
---@return znl.Master|znl.Slave|nil
function M.find(id) return by_id[id] end

--- What the own engine cannot open.
---@param endpoint string
---@return boolean
function M.is_for_libzmq(endpoint)
  return endpoint:find("^inproc:") ~= nil or endpoint:find("^ipc://@") ~= nil
end

--- Rules that concern more than one option.
local function check_together(opts, what, level)
  for _, endpoint in ipairs(opts.endpoints or { opts.endpoint }) do
    if opts.engine == "zmtp" and M.is_for_libzmq(endpoint) then
      error(('%s: option engine is "zmtp", which does not speak %s; engine = "libzmq" does'):format(what, endpoint),
        level + 1)
    end
  end
  local has_key = opts.auth_key ~= nil or (opts.auth_keys ~= nil and next(opts.auth_keys) ~= nil)
  if opts.encrypted == nil and has_key then
    error(what .. ": a key is given, so say encrypted = true (or false, to run in plain)", level + 1)
  end
  if opts.encrypted and opts.auth_key == nil and opts.auth_keys == nil then
    error(what .. ": encrypted = true needs a key: auth_key" ..
      (what == "znl.master" and " or auth_keys" or ""), level + 1)
  end
  if opts.replay_window_ms < 2 * opts.max_skew_ms then
    error(("%s: option replay_window_ms is %d; it must be at least 2 * max_skew_ms, %d"):format(
      what, opts.replay_window_ms, 2 * opts.max_skew_ms), level + 1)
  end
end

--- Reactions of both roles to what the core reports, before listeners hear of it.
local REACTIONS = {}

function REACTIONS.auth_failed(self, refusal) self.refusals:report(refusal) end

function REACTIONS.error(self, message, place, from)
  if from == "" then from = nil end
  self.log.error((place or "node") .. " failed", { from = from, error = role.without_our_trace(message) })
end

--- Not an event of its own: something for the operator, already counted by the core.
function REACTIONS.trouble(self, text, code)
  self.log.warn(text, { code = code })
end

--- Runs the handler of a call whose body is JSON; called by the core in the handler's coroutine.
local function run_json(self, handler, req)
  local ok, data = json.decode(req.payload)
  if not ok then return nil, "the body of the call is no JSON: " .. data, "INVALID" end
  req.data = data
  local result, message, code = handler(req)
  if result == nil and message ~= nil then return nil, message, code end
  local text, problem = json.encode(result)
  if not text then
    local place = self.place
    if type(place) == "function" then place = place(req.route) end
    error(("%s: returned what JSON cannot carry: %s"):format(place or "handler", problem), 0)
  end
  return text
end

---@class znl.RoleDescription
---@field name "master"|"slave"
---@field spec table
---@field events string[]
---@field reactions table<string, fun(self: table, ...)>  run before the listeners of an event
---@field after? table<string, fun(self: table, ...)>  run after them
---@field check? fun(config: table, given: table): string|nil  what is wrong with the options together
---@field prepare? fun(config: table, what: string, level: integer)  reads options of options
---@field on_build? fun(self: table, config: table)  it has its core, and no event was raised yet
---@field arguments? table<string, fun(self: table, ...): ...>  what listeners of an event get, from what the core says
---@field create fun(config: table): userdata|nil, string?, string?  of znl.core.node

--- Serves `name` with `fn`; nil: no more.
function M.set_service(self, name, fn, owner, place)
  self.services[name] = fn and { fn, owner, place } or nil
  if self.is_attached then self.core:set_service(name, fn, owner, place) end
end

local function give_services(self)
  for name, service in pairs(self.services) do self.core:set_service(name, service[1], service[2], service[3]) end
  if self.console then self.core:set_console(self.console.answer) end
end

local function take_services(self)
  for name in pairs(self.services) do self.core:set_service(name, nil) end
  if self.console then self.core:set_console(nil) end
end

local function measured(self, handler)
  return self.console and self.console:measured(handler) or handler
end

--- Builds a node; nil, message when the core refuses.
local function build(class, description, config, what)
  local self = setmetatable({ id = config.id, services = {} }, class)
  role.init(self, {
    what = what, name = config.id, events = description.events,
    on_interest = function(event, wanted)
      if ON_DEMAND[event] then self.core:listen(event, wanted) end
    end,
    on_attach = give_services, on_detach = take_services, around = measured,
  })
  self.refusals = refusals.new(description.name, self.log)
  local reactions, after, arguments = description.reactions, description.after or {}, description.arguments or {}
  config.on_event = role.weakly(self, function(node, kind, ...)
    local react = reactions[kind] or REACTIONS[kind]
    if react then react(node, ...) end
    local say = arguments[kind]
    if say then node.emitter:emit(kind, say(node, ...)) else node.emitter:emit(kind, ...) end
    if after[kind] then after[kind](node, ...) end
  end)
  config.run_json = role.weakly(self, run_json)
  local core, message = description.create(config)
  if not core then return nil, message end
  self.core = core
  if description.on_build then description.on_build(self, config) end
  local console_opts = config.console
  if console_opts then self.console = console.install(self, description.name, config, console_opts) end
  by_id[config.id] = self
  return self
end

local function stop(self) self:stop() end

--- Makes a node of `class` as `description` says it; under `znlrun --watch` the one that the version of
--- the script before made with the same options. Raises for its caller's caller.
---@param class table
---@param description znl.RoleDescription
---@param opts table
function M.open(class, description, opts)
  local what = "znl." .. description.name
  local config = options.read(description.spec, opts, what, 3)
  check_together(config, what, 3)
  local problem = description.check and description.check(config, opts)
  if problem then error(("%s: %s"):format(what, problem), 3) end
  if description.prepare then description.prepare(config, what, 3) end
  config.curve = curve.read(config, what, 3)
  config.console = console.read(config.console, what, 3)
  if config.auth_key ~= nil then config.auth_key = key_text(what, config.auth_key, 3) end
  if config.auth_keys ~= nil then
    local keys = {}
    for id, key in pairs(config.auth_keys) do keys[id] = key_text(what, key, 3) end
    config.auth_keys = keys
  end
  config.encrypted = config.encrypted or false
  local self, message = estate.take(what, config.id, opts, function()
    return build(class, description, config, what)
  end, stop)
  if not self then error(("%s: %s"):format(what, message), 3) end
  return self
end

return M
