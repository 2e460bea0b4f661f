--- luv: libuv on the loop of the process, as scripts see it (`luv.raw` is what it is made of).
---
--- A handle that code of a version makes (timer, socket, pipe, process, watcher) ends with the version.
--- SPDX-License-Identifier: MIT

local scope = require("znl.versions.scope")
local uv = require("luv.raw")

local MAKERS = {
  "new_async", "new_check", "new_fs_event", "new_fs_poll", "new_idle", "new_pipe", "new_poll", "new_prepare",
  "new_signal", "new_socket_poll", "new_tcp", "new_timer", "new_tty", "new_udp", "spawn",
}

--- Called in place of the function of that name: what it raises is blamed on who called that.
local function adopt(name, ok, handle, ...)
  if not ok then error((tostring(handle):gsub("'%?'", "'" .. name .. "'")), 2) end
  if handle then scope.own(handle) end
  return handle, ...
end

for _, name in ipairs(MAKERS) do
  local make = uv[name]
  if make then
    uv[name] = function(...) return adopt(name, pcall(make, ...)) end
  end
end

return uv
