--- Keeps lines of the log from being written, and returns them. SPDX-License-Identifier: MIT

local core = require("znl.core.log")

local M = {}

--- Calls `fn(lines)`, which may wait; what the Lua library logs meanwhile is in `lines`, as tables with
--- level, area, message and fields.
function M.during(fn)
  local write, before, lines = core.write, core.level(), {}
  core.set_level("info")
  core.write = function(level, area, message, fields)
    lines[#lines + 1] = { level = level, area = area, message = message, fields = fields or {} }
  end
  local ok, message = xpcall(fn, function(err)
    return type(err) == "string" and debug.traceback(err, 2) or err
  end, lines)
  core.write = write
  core.set_level(before)
  if not ok then error(message, 0) end
end

return M
