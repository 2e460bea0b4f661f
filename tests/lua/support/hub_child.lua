--- A process of hub_cluster_spec.lua: an instance of the demo application. Says its port.
---     arguments: bus, ttl_ms
--- SPDX-License-Identifier: MIT

local scene = require("tests.lua.support.hub_scene")

local hub = scene.new():demo_hub { bus = arg[1], roster = { ttl_ms = tonumber(arg[2]) } }
io.write(("%d %s\n"):format(hub:port(), hub.instance_id))
io.flush()
