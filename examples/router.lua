--- Routes: a master that keeps users, and a slave that asks for them by path, as one would by HTTP.
---
---     znlrun examples/router.lua
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local names = { "Ada", "Grace" }

local users = znl.router()
users:route("/", function() return names end)
users:route("/:id(\\d+)", function(req)
  local name = names[tonumber(req.params.id)]
  if not name then return nil, "there is no user " .. req.params.id, "NOT_FOUND" end
  return { id = tonumber(req.params.id), name = name }
end)
users:route("/add", znl.compose({
  znl.middleware.auth(function(req) return req.from == "desk", "only the desk adds users" end),
  znl.middleware.validate {
    type = "object", required = { "name" }, additionalProperties = false,
    properties = { name = { type = "string", minLength = 1, maxLength = 20 } },
  },
}, function(req)
  names[#names + 1] = req.data.name
  return { id = #names }
end))

local r = znl.router()
r:use(znl.middleware.rate_limit { per_second = 1, burst = 8 })
r:mount("/users", users)
r:route("/files/**:path", function(req) return "would send " .. req.params.path end)

local master = znl.master { id = "registry", endpoint = "tcp://127.0.0.1:*" }
master:handle(r)
assert(master:start())

local desk = znl.slave { id = "desk", endpoint = master:endpoint() }
assert(desk:start())

local function show(route, data)
  local answer, message, code = desk:call(route, data)
  if type(answer) == "table" then answer = require("cjson").encode(answer) end
  print(("%-22s %s"):format(route, answer or ("%s (%s)"):format(message, code)))
  return code
end

show("/users")
show("/users/2")
show("/users/add", { name = "Alan" })
show("/files/reports/2024.pdf")
assert(show("/users/9") == "NOT_FOUND")
assert(show("/users/add", { name = 7 }) == "INVALID")
assert(show("/nowhere") == "NOT_FOUND")
assert(show("/users/3") == nil)
assert(show("/users") == "RATE_LIMITED")

print("served:")
for _, route in ipairs(r:routes()) do print("  " .. route.path) end

desk:stop()
master:stop()
