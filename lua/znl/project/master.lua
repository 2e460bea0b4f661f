--- znl.project.master: the files of a new project that answers requests.
--- SPDX-License-Identifier: MIT

local M = {}

--- What to type next: commands and what they do.
M.NEXT = {
  { "znlrun test", "runs the tests" },
  { "znlrun service.lua", "runs it; edit handlers/ meanwhile" },
  { "znlrun call {{endpoint}} /greet/Ada", "asks it, from another terminal" },
  { "znlrun top {{endpoint}}", "shows what it does" },
}

---@type table<string, string>
M.FILES = {}

M.FILES["service.lua"] = [[
--- {{name}}: answers requests with the handlers in handlers/.

local znl = require("znl")

local folder = arg[0]:match("^(.*/)") or ""
local endpoint = os.getenv("{{NAME}}_ENDPOINT") or "{{endpoint}}"

local master = znl.master {
  id = "{{name}}", endpoint = endpoint,
  console = true, -- for znlrun top; whoever can connect may look in
}

master:handle(znl.handlers(folder .. "handlers"))
master:on("slave_connected", function(id) znl.log.debug("slave came", { slave = id }) end)
master:on("slave_disconnected", function(id, reason)
  znl.log.debug("slave went", { slave = id, reason = reason })
end)

assert(master:start())
znl.log.info("serving", { endpoint = master:endpoint() })
]]

M.FILES["handlers/index.msg.lua"] = [[
--- Serves "/": calls of that route, and plain requests, which have none.

---@param req znl.Request
return function(req)
  if req.route == nil then return "hello from {{name}}, you sent: " .. req.payload end
  return { service = "{{name}}", you_sent = req.data }
end
]]

M.FILES["handlers/greet/[name].msg.lua"] = [[
--- Serves "/greet/:name". The state, which on_load makes, lives on when this file is changed.

return {
  on_load = function(previous) return previous or { greeted = 0 } end,

  ---@param req znl.Request
  handle = function(req, state)
    local name = req.params.name
    if #name > 40 then return nil, "greet: the name is too long", "INVALID" end
    state.greeted = state.greeted + 1
    return { greeting = "hello " .. name, greeted = state.greeted }
  end,
}
]]

M.FILES["tests/handlers_test.lua"] = [[
--- Run with: znlrun test

local t = require("znl.test")

t.test("answers a plain request", function()
  local app = t.handlers("handlers")
  t.equal(app:request("hi"), "hello from {{name}}, you sent: hi")
end)

t.group("greet", function()
  t.test("greets by name, and counts", function()
    local app = t.handlers("handlers")
    t.same(app:call("/greet/Ada"), { greeting = "hello Ada", greeted = 1 })
    t.same(app:call("/greet/Grace"), { greeting = "hello Grace", greeted = 2 })
  end)

  t.test("refuses a name that is too long", function()
    local app = t.handlers("handlers")
    t.fails("INVALID", app:call("/greet/" .. ("x"):rep(41)))
  end)
end)
]]

M.FILES["README.md"] = [[
# {{name}}

A service for znlrun that answers requests.

```sh
znlrun test                  # run the tests
znlrun service.lua           # run it; edit handlers/ meanwhile
znlrun call {{endpoint}} /greet/Ada       # ask it, from another terminal
znlrun top {{endpoint}}                   # see what it does
```

| file | what it is |
| --- | --- |
| `service.lua` | the service: where it listens, what it serves |
| `handlers/` | one file per route: `greet/[name].msg.lua` serves `/greet/:name` |
| `tests/` | tests of the handlers, in memory, with a clock that stands still |
| `{{name}}.service` | systemd unit; its head says how to install it |
| `.luarc.json` | lets editors with the Lua language server know znlrun |

`znlrun check` finds mistakes without running the service; `znlrun --log-level debug service.lua`
also logs who comes and goes. The service listens on `{{endpoint}}`, for
this machine only; `{{NAME}}_ENDPOINT` says otherwise. Before it listens for others, turn encryption
on in `service.lua`:

```lua
local master = znl.master {
  id = "{{name}}", endpoint = endpoint, encrypted = true, console = true,
  auth_keys = { ["slave-1"] = znl.secret("env:SLAVE_1_KEY") },   -- znlrun keygen makes one
}
```
]]

return M
