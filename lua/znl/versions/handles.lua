--- znl.versions.handles: the handles of luv that a version of code made, to be closed when it ends.
---
--- A process is asked to end with SIGTERM, and made to with SIGKILL after `KILL_AFTER_MS`; its handle
--- stays until then, or it would be a zombie.
--- SPDX-License-Identifier: MIT

local log = require("znl.log")
local sched = require("znl.core.sched")

local M = {}

local logger = log.new("scope")

local KILL_AFTER_MS = 5000
local LOOK_MS = 20

---@class znl.Handles
---@field private list table<integer, userdata>
---@field private count integer
local Handles = {}
Handles.__index = Handles

---@return znl.Handles
function M.new()
  -- Weak values, not keys: luv holds those that are open, and a key may be met after it was finalized.
  return setmetatable({ list = setmetatable({}, { __mode = "v" }), count = 0 }, Handles)
end

---@param handle userdata  of luv
function Handles:add(handle)
  self.count = self.count + 1
  self.list[self.count] = handle
end

local function is_running(handle) return not handle:is_closing() and handle:is_active() end

--- Yields.
local function end_process(handle)
  for _, signal in ipairs { "sigterm", "sigkill" } do
    if not is_running(handle) then break end
    handle:kill(signal)
    local latest = sched.now_ms() + KILL_AFTER_MS
    while is_running(handle) and sched.now_ms() < latest do sched.sleep(LOOK_MS) end
  end
  if not handle:is_closing() then handle:close() end
end

--- Closes a handle that may be closed already; a process ends in the background.
---@param handle userdata  of luv
function M.close(handle)
  if handle:is_closing() then return end
  if handle:get_type() == "process" and handle:is_active() then
    local owner = sched.owner()
    if owner and sched.spawn_background(owner, end_process, handle) then return end
  end
  handle:close()
end

--- Closes those that are open. Does not yield.
function Handles:close()
  for _, handle in pairs(self.list) do
    local ok, message = pcall(M.close, handle)
    if not ok then logger.error("could not close a handle", { handle = tostring(handle), error = message }) end
  end
end

return M
