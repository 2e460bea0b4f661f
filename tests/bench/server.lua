--- server.lua ENDPOINT plain|encrypted [MAX_PEERS]: a master that answers a request with its own payload.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local master = znl.master(measure.options("bench-master", arg[1], arg[2], { max_peers = tonumber(arg[3]) }))
master:handle(function(req) return req.payload end)
assert(master:start())
print("ready " .. arg[1])
io.stdout:flush()
