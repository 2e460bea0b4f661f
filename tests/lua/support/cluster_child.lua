--- A process of cluster_live_spec.lua: takes part in a channel, and says what happens to it, a line each.
---     arguments: name, port
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local name, port = arg[1], tonumber(arg[2])

local function say(...)
  io.write(table.concat({ ... }, " "), "\n")
  io.flush()
end

--- Keeps what is published, and tells everybody.
local function new_store()
  local store, listeners = { values = {} }, {}
  function store.subscribe(_, reg, listener)
    listeners[reg.id] = listener
    if store.values[reg.id] then listener(store.values[reg.id]) end
  end
  function store.publish(_, reg)
    store.values[reg.id] = reg.value
    if listeners[reg.id] then listeners[reg.id](reg.value) end
  end
  function store.get(_, id) return store.values[id] end
  function store.sleep(_, ms) znl.sleep(ms) return "slept" end
  function store.owner() return name end
  return store
end

local client = znl.cluster_client {
  name = "live", port = port, client = new_store(), max_wait_ms = 60000, response_timeout_ms = 30000,
  publication_key = function(reg) return reg.id end,
  methods = { "get", "sleep", owner = { kind = "invoke", retry = true } },
}
client:on("ready", function(role) say("ready", role) end)
client:on("failover", function(role, ms) say("failover", role, ("%d"):format(ms)) end)
client:subscribe({ id = "shared" }, function(value) say("value", tostring(value)) end)
client:publish { id = "of " .. name, value = name }
assert(client:start())

--- Commands come as lines: publish VALUE, owner, sleep MS, get ID.
local uv = require("luv")
local input = uv.new_pipe()
assert(input:open(0))
local COMMANDS = {}
function COMMANDS.publish(value) client:publish { id = "shared", value = value } end
function COMMANDS.owner() say("owner", tostring((client:owner()))) end
function COMMANDS.get(id) say("got", id, tostring((client:get(id)))) end
function COMMANDS.sleep(ms)
  say("asleep")
  local result, _, code = client:sleep(tonumber(ms))
  say("sleep", tostring(result or code))
end

local rest = ""
input:read_start(function(_, data)
  if not data then return znl.exit(0) end
  rest = (rest .. data):gsub("([^\n]*)\n", function(line)
    local command, argument = line:match("^(%S+) ?(.*)$")
    znl.spawn(COMMANDS[command], argument)
    return ""
  end)
end)
