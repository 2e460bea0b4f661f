--- znl.cli.peer: a tool as slave of a running master: its options, its connection, its failures.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local crypto = require("znl.core.crypto")
local curve = require("znl.roles.curve")
local node = require("znl.roles.node")
local options = require("znl.options")
local probe = require("znl.cli.probe")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local secret = require("znl.secret")
local slave = require("znl.roles.slave")

local M = {}

--- Codes that say the connection was lost, not that the peer was slow.
local LOST = { REBUILT = true, GONE = true, UNREACHABLE = true }

local HEARTBEAT_TIMEOUT_MS_MAX = 3600000

--- For `convert` of argparse.
local CONVERT = {}

function CONVERT.endpoint(text)
  if options.accepts(node.SPEC.endpoint, text) then return text end
  local hint = text:find("^[%w%.%-]+:%d+$") and "did you mean tcp://" .. text .. "?"
      or "one is tcp://127.0.0.1:6003 or ipc:///path"
  return nil, ("'%s' is no endpoint; %s"):format(text, hint)
end

function CONVERT.id(text)
  if options.accepts(node.SPEC.id, text) then return text end
  return nil, "an id is " .. node.SPEC.id.allowed
end

--- A key is named, never given: the command line of a process is public.
function CONVERT.key(text)
  local ok, key = pcall(secret.new, text)
  if ok then return key end
  return nil, "a key is given as env:NAME or file:PATH, never as such"
end

--- A public key of CURVE: no secret, so it may be given as such.
function CONVERT.public_key(text)
  if curve.is_key(text) then return text end
  local ok, key = pcall(secret.new, text)
  if ok then return key end
  return nil, "a public key is 40 characters of Z85, or env:NAME or file:PATH"
end

M.CONVERT = CONVERT

--- Adds the option --engine.
---@param parser table
function M.add_engine(parser)
  parser:option("--engine", "What moves the messages: auto (default), zmtp or libzmq."):argname("<engine>")
    :choices { "auto", "zmtp", "libzmq" }
end

--- Adds the endpoint and the options every such tool has.
---@param parser table
---@param defaults? {timeout_ms: integer|nil, is_endpoint_optional: boolean|nil}
function M.configure(parser, defaults)
  local timeout_ms = defaults and defaults.timeout_ms or 5000
  local endpoint = parser:argument("endpoint", "Where the master is: tcp://HOST:PORT or ipc://PATH.")
  endpoint:convert(CONVERT.endpoint)
  if defaults and defaults.is_endpoint_optional then endpoint:args("?") end
  parser:option("--id", "Name to register under (default: a unique one)."):argname("<id>"):convert(CONVERT.id)
  parser:option("--key", "Key for that id, env:NAME or file:PATH; implies encryption.")
    :argname("<ref>"):convert(CONVERT.key)
  parser:option("--kdf-salt", "Salt of the key derivation, where the master has one."):argname("<text>")
  parser:option("--master-id", "The only master to believe."):argname("<id>"):convert(CONVERT.id)
  parser:option("--server-key", "Public key of the master for CURVE: the key, env:NAME or file:PATH.")
    :argname("<ref>"):convert(CONVERT.public_key)
  parser:option("--curve-key", "Own secret key for CURVE, env:NAME or file:PATH (default: a new one).")
    :argname("<ref>"):convert(CONVERT.key)
  M.add_engine(parser)
  parser:option("--timeout", "Time to wait for the answer, milliseconds (default " .. timeout_ms .. ").")
    :argname("<ms>"):convert(command.whole(1, 86400000)):default(tostring(timeout_ms)):show_default(false)
  parser:flag("--wait-for-peer", "Wait for a master that is not there yet, within the time-out.")
end

---@class znl.cli.Peer
---@field slave znl.Slave
---@field endpoint string
---@field stopped table  an event: set when a signal came
---@field is_encrypted boolean
---@field private heard boolean
---@field private refusal string|nil
local Peer = {}
Peer.__index = Peer

--- An id nobody else has: 48 random bits, short enough for a line of the master's log.
---@param tool string
---@return string
function M.unique_id(tool)
  return ("znlrun-%s-%s"):format(tool, crypto.uuid():sub(1, 13))
end

--- The texts of the keys for CURVE; nil without. Or nil, message, code.
local function read_curve(opts)
  if not opts.server_key then
    if opts.curve_key then return nil, "--curve-key needs --server-key", "USAGE" end
    return nil
  end
  local keys = {}
  for option, key in pairs { server_key = opts.server_key, secret_key = opts.curve_key } do
    local ok, text = pcall(secret.text, key)
    if not ok then return nil, (text:gsub("^[^\n]-:%d+: ", "")), "USAGE" end
    if not curve.is_key(text) then return nil, ("the %s of CURVE is no key"):format(option:gsub("_", " ")), "USAGE" end
    keys[option] = text
  end
  return keys
end

--- What is wrong with --engine; nil: nothing.
---@param opts table  as read by the parser
---@param has_curve? boolean
---@return string? message
function M.engine_problem(opts, has_curve)
  local what = has_curve and "CURVE" or node.is_for_libzmq(opts.endpoint) and opts.endpoint
  if opts.engine == "zmtp" and what then
    return ("--engine zmtp does not speak %s; --engine libzmq does"):format(what)
  end
end

--- Connects. Yields.
---@param opts table  as read by the parser
---@param more {tool: string, is_probed: boolean|nil, [string]: any}  with further options of the slave
---@return znl.cli.Peer|nil
---@return string? message
---@return string? code
function M.open(opts, more)
  local key
  if opts.key then
    local ok, text = pcall(opts.key.resolve, opts.key)
    if not ok then return nil, (text:gsub("^[^\n]-:%d+: ", "")), "USAGE" end
    key = text
  end
  local curve_keys, problem, reason = read_curve(opts)
  if problem then return nil, problem, reason end
  problem = M.engine_problem(opts, curve_keys ~= nil)
  if problem then return nil, problem, "USAGE" end
  if not opts.wait_for_peer and not more.is_probed then
    local ok, message, code = probe.connect(opts.endpoint, opts.timeout)
    if not ok then return nil, message, code end
  end
  local config = {
    id = opts.id or M.unique_id(more.tool), endpoint = opts.endpoint, encrypted = key ~= nil,
    engine = opts.engine, curve = curve_keys, auth_key = key, kdf_salt = opts.kdf_salt, master_id = opts.master_id,
    -- The original handles one message at a time, heartbeats included: while it is at work on a slow
    -- request, silence must not count as loss. The time-out is what the user said.
    heartbeat_timeout_ms = math.min(opts.timeout + 1000, HEARTBEAT_TIMEOUT_MS_MAX),
  }
  for name, value in pairs(more) do
    if node.SPEC[name] then config[name] = value end
  end
  local made = slave.new(config)
  local self = setmetatable({
    slave = made, endpoint = opts.endpoint, is_encrypted = key ~= nil, stopped = sched.event(), heard = false,
  }, Peer)
  made:on("master_online", function() self.heard = true end)
  made:on("auth_failed", function(refusal) self.refusal = refusal.text end)
  local ok, message, code = made:start()
  if not ok then return nil, message, code == "ADDRESS" and "USAGE" or code end
  self.forget = runtime.on_stop(function() self.stopped:set(true) end)
  return self
end

--- Whether the master gave a sign of life.
---@return boolean
function Peer:is_heard() return self.heard end

--- Waits until the master gives a sign of life. Yields.
---@param timeout_ms integer
---@return true|nil
---@return string? message
---@return string? code
function Peer:wait_online(timeout_ms)
  if self.heard then return true end
  local event = sched.event()
  local off = self.slave:once("master_online", function() event:set(true) end)
  local off_stop = runtime.on_stop(function() event:set(false) end)
  local online = event:wait(timeout_ms)
  off()
  off_stop()
  if online then return true end
  return self:explain("no answer", "TIMEOUT", timeout_ms)
end

--- Whether the master announced that it reads routed calls.
---@return boolean
function Peer:reads_calls() return self.slave.core:reads_calls() end

--- What a failure means here: without a sign of life a time-out means that nobody is there.
---@param message string
---@param code? string
---@param timeout_ms? integer  how long was waited
---@return nil
---@return string message
---@return string? code
function Peer:explain(message, code, timeout_ms)
  if self.heard and code == "TIMEOUT" and timeout_ms then
    return nil, ("no answer within %d ms"):format(timeout_ms), code
  end
  if code == "UNSUPPORTED" and not self:reads_calls() then
    if self.heard then
      return nil, self.endpoint .. ": this master takes no routed calls; only those of znlrun do", code
    end
    code = "TIMEOUT" -- it never said whether it does
  end
  if self.heard and LOST[code] then
    return nil, ("%s: the master went silent"):format(self.endpoint), "UNREACHABLE"
  end
  if self.heard or (code ~= "TIMEOUT" and not LOST[code]) then return nil, message, code end
  if self.refusal then
    return nil, ("%s: the answers of the master are refused: %s"):format(self.endpoint, self.refusal), "UNREACHABLE"
  end
  local id = self.is_encrypted and "id or key" or "id (an encrypted one needs --id and --key)"
  return nil, ("%s: no sign of life: it is no master, or hangs, or refuses this %s; its log says why it refuses")
    :format(self.endpoint, id), "UNREACHABLE"
end

--- Waits, or less long when a signal comes. Yields.
---@param ms number
---@return boolean stopped
function Peer:pause(ms)
  if runtime.stopping() then return true end
  return self.stopped:wait(math.max(1, math.floor(ms + 0.5))) == true
end

function Peer:close()
  self.forget()
  self.slave:stop()
end

return M
