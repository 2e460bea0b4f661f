--- znl.tasks.guard: runs a function when nobody holds the guard any more. The safety net for what a
--- coroutine held that is dropped where it waits; whoever can, releases by hand and disarms it.
--- SPDX-License-Identifier: MIT

local M = {}

---@param fn fun()  must not wait; it runs inside the collector
---@return userdata guard  to be held by what owns the resource, and not by `fn`
function M.new(fn)
  local guard = newproxy(true)
  getmetatable(guard).__gc = fn
  return guard
end

--- From now on nothing happens.
function M.disarm(guard)
  getmetatable(guard).__gc = function() end
end

return M
