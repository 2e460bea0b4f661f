--- A service that asks another one: `orders`. It also publishes how many orders there are.
---
---     znlrun examples/micro/orders.lua [REGISTRY]
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local app = znl.application { namespace = "orders", registry = arg[1] or "127.0.0.1:9000" }
local orders = {}
local count

app:route("/orders/add", function(req)
  local data = req.data
  if type(data) ~= "table" or type(data.user) ~= "string" then return nil, "an order needs a user", 400 end
  local user, message, code = app:call("users", "/users/" .. data.user, nil, { timeout_ms = 2000 })
  if not user then return nil, "no order: " .. message, code end
  local order = { id = #orders + 1, name = user.name, city = user.city }
  orders[order.id] = order
  count:update { orders = #orders }
  return order
end)

assert(app:start())
count = assert(app:publish("orders/count", { orders = 0 }))
