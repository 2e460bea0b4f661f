--- One slave of the quickstart: run.lua starts two of these.
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local slave = znl.slave {
  id = os.getenv("SLAVE_ID"),
  endpoint = os.getenv("MASTER_ENDPOINT"),
  encrypted = true,
  auth_key = znl.secret("env:SLAVE_KEY"),
}
slave:handle(znl.handlers(os.getenv("HANDLERS") .. "/greet.lua"))

local sent, answered, asking = 0, 0, true

-- The master says when it is over: report, and leave.
slave:subscribe("closing", function()
  asking = false
  while sent > answered do znl.sleep(5) end
  assert(slave:push("report", { tostring(sent), tostring(answered) }))
  slave:request("goodbye") -- comes after the report, so the report has arrived
  slave:stop()
  znl.exit(0)
end)

assert(slave:start())

-- Requests in the other direction, all the while.
while asking do
  sent = sent + 1
  local reply, message = slave:request("what time is it?")
  if not reply then
    znl.log.error("request lost", { error = message })
    znl.exit(1)
  end
  answered = answered + 1
  if answered % 50 == 0 then slave:push("progress", tostring(answered)) end
  znl.sleep(10)
end
