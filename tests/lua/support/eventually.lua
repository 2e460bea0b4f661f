--- Waits until a condition holds, and fails the test when it does not for half a minute: on a busy
--- machine only one that hangs takes that long. Yields. SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")

---@param condition fun(): any
---@param what? string
---@return any value  what `condition` returned at last
return function(condition, what)
  for turn = 1, 3100 do
    local value = condition()
    if value then return value end
    sched.sleep(turn <= 100 and 1 or 10)
  end
  error("never: " .. (what or "what was waited for"), 2)
end
