--- znl.versions.snapshot: what files hold, read at most once between two calls of `renew`.
---
--- Within one look everything sees the same text of a file, however often it is asked for. A file
--- is read again when its change time, size or inode differ, and as long as it is so young that a
--- further change could carry the same time.
--- SPDX-License-Identifier: MIT

local source = require("znl.versions.source")
local uv = require("luv")

local M = {}

--- File systems keep times in steps, the coarsest of 2 s.
local YOUNG_MS = 2000

---@class znl.Snapshot
local Snapshot = {}
Snapshot.__index = Snapshot

---@return znl.Snapshot
function M.new()
  return setmetatable({ entries = {}, turn = 0 }, Snapshot)
end

local function stamp_of(stat)
  local changed = stat.ctime
  return ("%d:%d:%d:%d.%09d"):format(stat.dev, stat.ino, stat.size, changed.sec, changed.nsec), changed.sec * 1000
end

local function look(path, before)
  local stat, message = uv.fs_stat(path)
  if not stat then
    -- luv says "ENOENT: no such file or directory: path", Lua "path: No such file or directory".
    local reason = message:match("^%u+: ([^:]*)") or message
    return { message = ("%s: %s"):format(path, (reason:gsub("^%l", string.upper))) }
  end
  local stamp, changed_ms = stamp_of(stat)
  if before and before.is_settled and before.stamp == stamp then return before end
  local seconds, microseconds = uv.gettimeofday()
  local age_ms = seconds * 1000 + microseconds / 1000 - changed_ms
  local text
  text, message = source.read(path)
  return { text = text, message = message, stamp = stamp, is_settled = text ~= nil and age_ms > YOUNG_MS }
end

--- From here on each file is looked at anew.
function Snapshot:renew()
  self.turn = self.turn + 1
  -- Files nobody asked for during the last look are forgotten.
  for path, entry in pairs(self.entries) do
    if entry.turn < self.turn - 1 then self.entries[path] = nil end
  end
end

---@param path string
---@return string|nil text
---@return string? message
function Snapshot:read(path)
  local entry = self.entries[path]
  if not entry or entry.turn ~= self.turn then
    entry = look(path, entry)
    entry.turn = self.turn
    self.entries[path] = entry
  end
  return entry.text, entry.message
end

return M
