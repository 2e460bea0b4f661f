--- queue.lua: what the queue benchmark measures; queue_natsc.c does the same.
---
---   znlrun queue.lua take URL memory|file COUNT
---
--- Fills a queue with COUNT messages of 100 bytes, handles them, and waits until the server has none left. Prints
--- rate=…, acknowledged messages a second, and cpu_us=… of this process for each.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local IN_FLIGHT = 1000
local DATA = ("x"):rep(100)

local url, storage, count = arg[2], arg[3], tonumber(arg[4])
local filler = znl.queue("bench", { bus = url, storage = storage, max_pending = 4096 })
assert(filler:start())
for _ = 1, count do assert(filler:push_async(DATA)) end
assert(filler:flush(60000))

local worker = znl.queue("bench", { bus = url, storage = storage })
local handled = 0
local done = znl.event()
worker:handle(function()
  handled = handled + 1
  if handled == count then done:set() end
end, { max_in_flight = IN_FLIGHT })
local from, cpu = measure.now_us(), os.clock()
assert(worker:start())
done:wait()
local used = os.clock() - cpu
while assert(filler:info()).messages > 0 do znl.sleep(1) end
local took = (measure.now_us() - from) / 1e6
measure.report {
  { "rate", count / took, "%.0f" }, { "cpu_us", used / count * 1e6, "%.3f" }, { "total", count },
}
os.exit(0)
