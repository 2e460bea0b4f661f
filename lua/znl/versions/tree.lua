--- znl.versions.tree: finds the handler files below a folder.
---
--- Names that begin with a dot are skipped, folders too. A folder reached twice through a symbolic
--- link that leads back up is entered once.
--- SPDX-License-Identifier: MIT

local source = require("znl.versions.source")
local uv = require("luv")

local M = {}

--- Bounds of one tree: a wrong path such as "/" must not hold the process up.
local MAX_DEPTH = 32
local MAX_FOLDERS = 4096
local MAX_FILES = 10000

---@class znl.TreeFile
---@field path string  as it is opened and named in messages
---@field relative string  below the root: "users/[id].msg.lua"

local function identity(stat) return stat.dev .. ":" .. stat.ino end

--- What stands under a name; links are followed.
local function kind_of(path, kind)
  if kind == "file" then return "file" end
  local stat = uv.fs_stat(path)
  return stat and stat.type, stat
end

--- The names in a folder, and what kind each is. Not with fs_scandir: luv 1.44 never frees its requests.
local function list(folder)
  local stream, message = uv.fs_opendir(folder, nil, 256)
  if not stream then return nil, message end
  local names, kinds = {}, {}
  local entries
  entries, message = uv.fs_readdir(stream)
  while entries do
    for _, entry in ipairs(entries) do
      names[#names + 1], kinds[entry.name] = entry.name, entry.type or "unknown"
    end
    entries, message = uv.fs_readdir(stream)
  end
  uv.fs_closedir(stream)
  if message then return nil, message end
  table.sort(names)
  return names, kinds
end

local function visit(found, folder, relative, above, depth)
  local names, kinds = list(folder)
  if not names then return nil, kinds end
  found.folders[#found.folders + 1] = folder
  if depth > MAX_DEPTH then return nil, ("%s: folders nest deeper than %d"):format(folder, MAX_DEPTH) end
  if #found.folders > MAX_FOLDERS then return nil, ("more than %d folders"):format(MAX_FOLDERS) end
  for _, name in ipairs(names) do
    if name:sub(1, 1) ~= "." then
      local path = source.join(folder, name)
      local kind, stat = kind_of(path, kinds[name])
      if kind == "file" and name:sub(-#found.ending) == found.ending then
        found.files[#found.files + 1] = { path = path, relative = relative .. name }
        if #found.files > MAX_FILES then return nil, ("more than %d handler files"):format(MAX_FILES) end
      elseif kind == "directory" and not above[identity(stat)] then
        above[identity(stat)] = true
        local ok, message = visit(found, path, relative .. name .. "/", above, depth + 1)
        above[identity(stat)] = nil
        -- Gone since it was listed: as if it had not been there. Other trouble ends the look: a
        -- part of the tree must not pass for the whole.
        if not ok and uv.fs_stat(path) then return nil, message end
      end
    end
  end
  return true
end

--- Looks for files whose name ends with `ending` below `root`, in the order of their names.
---@param root string
---@param ending string  ".msg.lua"
---@return {files: znl.TreeFile[], folders: string[]}|nil found
---@return string? message
function M.scan(root, ending)
  local stat, message = uv.fs_stat(root)
  if not stat then return nil, message end
  if stat.type ~= "directory" then return nil, root .. ": not a folder" end
  local found = { files = {}, folders = {}, ending = ending }
  local ok
  ok, message = visit(found, root, "", { [identity(stat)] = true }, 0)
  if not ok then return nil, message end
  return found
end

---@param path string
---@return boolean
function M.is_folder(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type == "directory"
end

return M
