--- znl.project.slave: the files of a new project that connects to a master.
--- SPDX-License-Identifier: MIT

local M = {}

--- What to type next: commands and what they do.
M.NEXT = {
  { "znlrun test", "runs the tests" },
  { "znlrun service.lua", "starts it; it goes on trying until a master is at {{endpoint}}" },
  { "znlrun check handlers", "finds mistakes, lists the routes" },
}

---@type table<string, string>
M.FILES = {}

M.FILES["service.lua"] = [[
--- {{name}}: a slave. It answers the requests of its master with the handlers in handlers/.

local znl = require("znl")

local folder = arg[0]:match("^(.*/)") or ""
local endpoint = os.getenv("{{NAME}}_ENDPOINT") or "{{endpoint}}"

local slave = znl.slave { id = os.getenv("{{NAME}}_ID") or "{{name}}", endpoint = endpoint }

slave:handle(znl.handlers(folder .. "handlers"))
slave:subscribe("news", function(payload) znl.log.info("news", { payload = tostring(payload) }) end)
slave:on("master_online", function() znl.log.info("connected", { endpoint = endpoint }) end)
slave:on("master_offline", function(_, reason) znl.log.warn("connection lost", { reason = reason }) end)

assert(slave:start())
znl.log.info("connecting", { endpoint = endpoint })
]]

M.FILES["handlers/index.msg.lua"] = [[
--- Serves "/": calls of that route, and plain requests, which have none.

---@param req znl.Request
return function(req)
  if req.route == nil then return "hello from {{name}}, you sent: " .. req.payload end
  return { slave = "{{name}}", you_sent = req.data }
end
]]

M.FILES["handlers/jobs/[id].msg.lua"] = [[
--- Serves "/jobs/:id". The state, which on_load makes, lives on when this file is changed.

local znl = require("znl")

return {
  on_load = function(previous) return previous or { done = 0 } end,

  ---@param req znl.Request
  handle = function(req, state)
    znl.sleep(200) -- work; other requests are answered meanwhile
    state.done = state.done + 1
    return { id = req.params.id, done = state.done }
  end,
}
]]

M.FILES["tests/handlers_test.lua"] = [[
--- Run with: znlrun test

local t = require("znl.test")

t.test("answers a plain request", function()
  local app = t.handlers("handlers", { side = "slave" })
  t.equal(app:request("hi"), "hello from {{name}}, you sent: hi")
end)

t.test("does a job, which takes its time", function()
  local app = t.handlers("handlers", { side = "slave" })
  local began_ms = t.clock:now_ms()
  t.same(app:call("/jobs/7"), { id = "7", done = 1 })
  t.equal(t.clock:now_ms() - began_ms, 200) -- of the test's clock; nobody waited
end)
]]

M.FILES["README.md"] = [[
# {{name}}

A slave for znlrun: it connects to a master and answers its
requests.

```sh
znlrun test                  # run the tests
znlrun service.lua           # start it; it goes on trying until a master is there
znlrun check handlers        # find mistakes, list the routes
```

| file | what it is |
| --- | --- |
| `service.lua` | the slave: where its master is, what it serves |
| `handlers/` | one file per route: `jobs/[id].msg.lua` serves `/jobs/:id` |
| `tests/` | tests of the handlers, in memory, with a clock that stands still |
| `{{name}}.service` | systemd unit; its head says how to install it |
| `.luarc.json` | lets editors with the Lua language server know znlrun |

The master is expected at `{{endpoint}}`; `{{NAME}}_ENDPOINT` says otherwise. Each slave of a master
needs an id of its own: `{{NAME}}_ID`. When the master is encrypted, add to `service.lua`:

```lua
local slave = znl.slave {
  id = "{{name}}", endpoint = endpoint, encrypted = true, auth_key = znl.secret("env:{{NAME}}_KEY"),
}
```
]]

return M
