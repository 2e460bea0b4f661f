--- A folder of handlers: each *.msg.lua in site/ answers at the route of its name.
---
---     znlrun examples/handlers/run.lua         asks every route once
---     znlrun examples/handlers/run.lua stay    asks every second, until Ctrl-C: edit, add, rename and
---                                              delete files in site/ meanwhile
---
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local znl = require("znl")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local stay = arg[1] == "stay"

local site = znl.handlers(here .. "site")
site:on("added", function(path, route) print("added", route, path) end)
site:on("removed", function(path, route) print("removed", route, path) end)

local master = znl.master { id = "master", endpoint = "tcp://127.0.0.1:*" }
master:handle(site)
assert(master:start())

local slave = znl.slave { id = "slave", endpoint = master:endpoint() }
assert(slave:start())

local failed

local function ask(route)
  local answer, message, code = slave:call(route, nil, { timeout_ms = 1000 })
  print(("%-16s %s"):format(route, answer ~= nil and json.encode(answer) or ("%s: %s"):format(code, message)))
  return code
end

repeat
  for _, served in ipairs(site:routes()) do
    ask((served.path:gsub(":id", "ada")))
  end
  failed = ask("/users/nobody") ~= "NOT_FOUND"
  if stay then znl.sleep(1000) end
until not stay

slave:stop()
master:stop()
site:close()
if failed then znl.exit(1) end
