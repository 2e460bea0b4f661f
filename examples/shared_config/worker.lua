--- One of several processes that share a client of the configuration centre. The first of them makes the
--- connection, the others go through it; when it dies another takes its place.
---
---     znlrun examples/shared_config/worker.lua NAME PORT CENTRE_PORT
---
--- SPDX-License-Identifier: MIT

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
package.path = here .. "?.lua;" .. package.path
local config = require("client")
local znl = require("znl")

local name, port, centre_port = arg[1], tonumber(arg[2]), tonumber(arg[3])

local function say(text)
  io.write(text, "\n")
  io.flush()
end

local client = znl.cluster_client {
  name = "ConfigClient", port = port,
  -- Called where it leads, and nowhere else.
  client = function() return config.connect(centre_port) end,
  methods = { get = { kind = "invoke", retry = true }, subscribe = "subscribe", publish = "publish", close = "close" },
}

client:on("ready", function(role) say(role == "leader" and "leads" or "follows") end)
client:subscribe({ key = "limits" }, function(limits) say(("limits %d"):format(limits.per_second)) end)
assert(client:publish { name = name })
assert(client:start())

-- Calls all the while: no process notices who leads.

local asking, asked, lost = true, 0, 0
local caller = znl.spawn(function()
  while asking do
    local limits, message, code = client:get("limits")
    if not asking then break end -- given up by this process itself
    asked = asked + 1
    if not limits then
      lost = lost + 1
      say(("lost a call: %s %s"):format(code, message))
    end
    znl.sleep(2)
  end
end)

znl.on_stop(function()
  asking = false
  caller:wait()
  say(("asked %d, lost %d"):format(asked, lost))
  client:close()
end)
