--- The smallest exchange: a slave asks a master, both in this process.
---
---     znlrun examples/hello.lua
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local master = znl.master { id = "master", endpoint = "tcp://127.0.0.1:*" }
master:handle(function(req) return "hello, " .. req.payload end)
assert(master:start())

local slave = znl.slave { id = "slave", endpoint = master:endpoint() }
assert(slave:start())

print(assert(slave:request("world")))

slave:stop()
master:stop()
