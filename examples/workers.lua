--- Work that needs the processor, in threads: two workers search for primes while the loop answers
--- others, and count what they did in a dictionary all threads share.
---
---     znlrun examples/workers.lua
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local WORKERS, REQUESTS = 2, 20

-- A handler file; `znl.handlers(path, { workers = 2 })` loads one that answers the requests of a node.
local PRIMES = [[
local znl = require("znl")
local totals = znl.shared("totals")

return function(req)
  local from, to = req.data.from, req.data.to
  local found = 0
  for number = from, to do
    local is_prime = number > 1
    for divisor = 2, math.sqrt(number) do
      if number % divisor == 0 then
        is_prime = false
        break
      end
    end
    if is_prime then found = found + 1 end
  end
  totals:incr("primes", found, 0)
  return found
end
]]

local pool = znl.workers { count = WORKERS, name = "primes" }
assert(pool:stage { id = "v1", path = "primes.lua", text = PRIMES })

-- The loop is free meanwhile.
local turns = 0
local ticker = znl.every(1, function() turns = turns + 1 end)

local began_ms, sum = znl.now_ms(), 0
local group = znl.wait_group()
for i = 1, REQUESTS do
  group:go(function()
    local found = assert(pool:call("v1", { data = { from = (i - 1) * 20000, to = i * 20000 - 1 } }))
    sum = sum + found -- after the wait: others changed `sum` meanwhile
  end)
end
group:wait()
ticker:stop()

local total = znl.shared("totals"):get("primes")
print(("%d primes below %d, found by %d workers in %d ms; the loop had %d turns meanwhile"):format(
  sum, REQUESTS * 20000, WORKERS, znl.now_ms() - began_ms, turns))
pool:close()
assert(sum == 33860 and total == sum, "there are 33860 primes below 400000")
