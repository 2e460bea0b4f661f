--- znl.versions.hangup: what SIGHUP loads again. While there is nothing of that kind, it ends the process.
--- SPDX-License-Identifier: MIT

local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")

local M = {}

--- There is one such signal for the process: functions, in the order they came.
local list = {}

local function run_all()
  for _, fn in ipairs({ unpack(list) }) do sched.spawn(fn) end
end

--- Calls `fn()` at each SIGHUP, in a coroutine of its own: it may yield.
---@param fn fun()
---@return fun() forget  calling it again does nothing
function M.register(fn)
  local function entry() fn() end -- the same function may come twice
  list[#list + 1] = entry
  if #list == 1 then runtime.on_hangup(run_all) end
  return function()
    for index, other in ipairs(list) do
      if other == entry then
        table.remove(list, index)
        if #list == 0 then runtime.on_hangup(nil) end
        return
      end
    end
  end
end

return M
