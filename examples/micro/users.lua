--- A service: `users`. What it answers is in handlers/; edit that while it runs.
---
---     znlrun examples/micro/users.lua [REGISTRY]
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local app = znl.application { namespace = "users", registry = arg[1] or "127.0.0.1:9000" }
app:load(here .. "handlers")
assert(app:start())
