--- Waits until a condition holds, a second at most, and fails the test otherwise.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")

---@param condition fun(): any
---@param what? string
return function(condition, what)
  for _ = 1, 1000 do
    if condition() then return end
    sched.sleep(1)
  end
  error((what or "it") .. " did not happen in time", 2)
end
