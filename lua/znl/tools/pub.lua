--- znlrun pub: publishes to slaves. A publish goes from a master to its slaves, so this is one.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local master = require("znl.roles.master")
local payload = require("znl.cli.payload")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local uv = require("luv")

local LOOK_MS = 10

--- Bytes that surely leave per millisecond; stopping grants a little time of its own.
local SLOW_BYTES_PER_MS = 10000
local LINGER_MS_MAX = 10000
local LINGER_MS_MIN = 100

local function key_of_slave(text)
  -- An id may contain "=", a reference begins with its kind: split before the kind.
  local id, reference = text:match("^(.+)=(%a+:.+)$")
  if not id then return nil, "takes ID=env:NAME or ID=file:PATH" end
  local key, message = peer.CONVERT.key(reference)
  if not key then return nil, message end
  return { id = id, key = key }
end

local function resolve(key)
  local ok, text = pcall(key.resolve, key)
  if ok then return text end
  return nil, (text:gsub("^[^\n]-:%d+: ", "")), "USAGE"
end

local function read_keys(opts)
  local config = { auth_keys = {} }
  local message, code
  if opts.key then
    config.auth_key, message, code = resolve(opts.key)
    if not config.auth_key then return nil, message, code end
  end
  for _, pair in ipairs(opts.auth_key) do
    config.auth_keys[pair.id], message, code = resolve(pair.key)
    if not config.auth_keys[pair.id] then return nil, message, code end
  end
  return config
end

--- Waits for slaves; returns how many are on line. Yields.
local function wait_for_slaves(publisher, opts, out)
  local began = uv.hrtime()
  local stopped = sched.event()
  local forget = runtime.on_stop(function() stopped:set(true) end)
  local count = 0
  while not runtime.stopping() do
    count = #publisher:slaves()
    local waited = (uv.hrtime() - began) / 1e6
    if opts.slaves and count >= opts.slaves or waited >= opts.wait then break end
    out:progress(("waiting for slaves: %d%s on line, %.0f s"):format(
      count, opts.slaves and " of " .. opts.slaves or "", waited / 1000))
    stopped:wait(LOOK_MS)
  end
  forget()
  out:clear_progress()
  return count
end

local function size_of(frames)
  local size = 0
  for _, frame in ipairs(frames) do size = size + #frame end
  return size
end

local function run(opts, out)
  local frames, message, code = payload.read_all(opts.payload)
  if not frames then return nil, message, code end
  local config
  config, message, code = read_keys(opts)
  if not config then return nil, message, code end
  config.id, config.endpoint, config.kdf_salt = opts.id, opts.endpoint, opts.kdf_salt
  config.engine = opts.engine
  message = peer.engine_problem(opts)
  if message then return nil, message, "USAGE" end
  config.encrypted = opts.key ~= nil or #opts.auth_key > 0
  local publisher = master.new(config)
  local ok
  ok, message, code = publisher:start()
  if not ok then
    if code == "ADDRESS_IN_USE" then
      message = opts.endpoint .. " is in use; pub is a master itself and needs an endpoint of its own"
    end
    return nil, message, code == "ADDRESS" and "USAGE" or code
  end

  local count = wait_for_slaves(publisher, opts, out)
  if runtime.stopping() then return nil end
  if count < (opts.slaves or 1) then
    publisher:stop()
    return nil, ("%d of %d slaves came within %d ms; nothing was published"):format(
      count, opts.slaves or 1, opts.wait), "TIMEOUT"
  end
  local sent, dropped
  sent, dropped, code = publisher:publish(opts.topic, frames)
  if sent then
    -- A stop drops what a slow connection has not taken yet, and a slave drops what it has not read
    -- when the connection ends.
    local linger_ms = LINGER_MS_MIN + size_of(frames) * sent / SLOW_BYTES_PER_MS
    sched.sleep(math.floor(math.min(LINGER_MS_MAX, linger_ms)))
  end
  publisher:stop()
  if not sent then return nil, dropped, code end
  if out.json then
    out:object { topic = opts.topic, sent = sent, dropped = dropped }
  else
    out:line(("sent to %d slave%s, dropped for %d"):format(sent, sent == 1 and "" or "s", dropped))
  end
  if dropped > 0 then
    return nil, ("the queues of %d slaves were full"):format(dropped), "BUSY"
  end
end

return command.new {
  name = "pub",
  summary = "Publishes to slaves, as a master at an endpoint of its own.",
  description = "A publish goes from a master to its slaves: this binds ENDPOINT, waits for slaves to come, " ..
      "publishes and ends. Sent means given to the connections; slaves do not say what arrived.",
  examples = {
    { "znlrun pub tcp://0.0.0.0:6003 news hello --slaves 2", "as soon as two slaves are there" },
    { "znlrun pub ipc:///tmp/master.sock config @config.json --wait 10000",
      "to all who come within ten seconds" },
  },
  configure = function(parser)
    parser:argument("endpoint", "Where to bind: tcp://HOST:PORT or ipc://PATH."):convert(peer.CONVERT.endpoint)
    parser:argument("topic", "Topic of the publish.")
    parser:argument("payload", "One frame each. " .. payload.HELP .. " None: an empty frame."):args("*")
    parser:option("--slaves", "Publish as soon as so many are on line; fail when they do not come.")
      :argname("<n>"):convert(command.whole(1, 1000000))
    parser:option("--wait", "Time for slaves to come, milliseconds (default 5000).")
      :argname("<ms>"):convert(command.whole(0, 86400000)):default("5000"):show_default(false)
    parser:option("--id", "Name of this master (default znlrun-pub)."):argname("<id>")
      :convert(peer.CONVERT.id):default("znlrun-pub"):show_default(false)
    parser:option("--key", "Key of slaves without one of their own, env:NAME or file:PATH; implies encryption.")
      :argname("<ref>"):convert(peer.CONVERT.key)
    parser:option("--auth-key", "Key of one slave; may be repeated."):argname("<id>=<ref>")
      :convert(key_of_slave):count("*")
    parser:option("--kdf-salt", "Salt of the key derivation, where the slaves have one."):argname("<text>")
    peer.add_engine(parser)
  end,
  run = run,
}
