--- znl.versions.folders: watches a set of folders and tells when something in them may matter.
---
--- A folder that is removed, renamed, or replaced by another of the same name loses its watch without
--- a word, so each call of `want` compares what stands there with what was watched.
--- SPDX-License-Identifier: MIT

local source = require("znl.versions.source")
local uv = require("luv")
local watch = require("znl.core.watch")

local M = {}

---@class znl.Folders
local Folders = {}
Folders.__index = Folders

--- `on_change()` is called, in a task, after something happened that may matter.
---@param on_change fun()
---@return znl.Folders
function M.new(on_change)
  return setmetatable({ on_change = on_change, watches = {}, closed = false }, Folders)
end

local function identity(folder)
  local stat = uv.fs_stat(folder)
  if not stat then return nil end
  -- Inodes are used again at once; the time of birth tells two apart where the system knows it.
  local born = stat.birthtime or { sec = 0, nsec = 0 }
  return ("%d:%d:%d.%d"):format(stat.dev, stat.ino, born.sec, born.nsec)
end

local function base(folder)
  return folder:match("([^/]+)/*$") or folder
end

--- Whether a change of `name` in a watched folder is worth a look. Logs and data may lie beside
--- handlers and change all the time.
local function matters(self, entry, name)
  if name == nil then return true end
  if entry.names then return entry.names[name] == true end
  if name:sub(-4) == ".lua" or entry.own[name] then return true end
  local path = source.join(entry.folder, name)
  if self.watches[path] then return true end
  local stat = uv.fs_lstat(path)
  return stat ~= nil and (stat.type == "directory" or stat.type == "link")
end

local function open(self, folder)
  local entry = { folder = folder, identity = identity(folder), own = {} }
  if not entry.identity then return nil, "no such folder" end
  local name_of_folder = base(folder)
  local watcher, message = watch.watch(folder, function(name)
    if self.watches[folder] ~= entry then return end
    -- What happens to the folder itself comes under its own name.
    if name == name_of_folder then entry.is_suspect = true end
    if name == name_of_folder or matters(self, entry, name) then self.on_change() end
  end)
  if not watcher then return nil, message end
  entry.watcher = watcher
  self.watches[folder] = entry
  return entry
end

local function close(self, entry)
  self.watches[entry.folder] = nil
  entry.watcher:close()
end

--- Watches these folders and no others. The value is true for all of a folder that may hold Lua
--- files, or the set of names that matter; `own` are names that matter without ending in ".lua".
---@param folders table<string, true|table<string, true>>
---@param own? table<string, table<string, true>>  by folder
---@return integer opened  what was in these folders before may have changed unseen
---@return table<string, string> failed  message by folder; one that does not exist is none
function Folders:want(folders, own)
  local opened, failed = 0, {}
  if self.closed then return opened, failed end
  for folder, entry in pairs(self.watches) do
    if not folders[folder] or entry.is_suspect or entry.identity ~= identity(folder) then close(self, entry) end
  end
  for folder, wanted in pairs(folders) do
    local entry = self.watches[folder]
    if not entry then
      local message
      entry, message = open(self, folder)
      if entry then
        opened = opened + 1
      elseif message ~= "no such folder" then
        failed[folder] = message
      end
    end
    if entry then
      entry.names = type(wanted) == "table" and wanted or nil
      entry.own = own and own[folder] or {}
    end
  end
  return opened, failed
end

---@return integer
function Folders:count()
  local count = 0
  for _ in pairs(self.watches) do count = count + 1 end
  return count
end

function Folders:close()
  self.closed = true
  for _, entry in pairs(self.watches) do entry.watcher:close() end
  self.watches = {}
end

return M
