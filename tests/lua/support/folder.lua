--- A folder of files that a test writes, renames and deletes.
--- SPDX-License-Identifier: MIT

local uv = require("luv")

local M = {}

---@class TestFolder
---@field path string
local Folder = {}
Folder.__index = Folder

---@return TestFolder
function M.new()
  return setmetatable({ path = assert(uv.fs_mkdtemp(uv.os_tmpdir() .. "/znl-test-XXXXXX")) }, Folder)
end

---@param name string
---@return string
function Folder:at(name) return self.path .. "/" .. name end

--- Makes a folder and those above it.
function Folder:make(name)
  local path = self.path
  for part in name:gmatch("[^/]+") do
    path = path .. "/" .. part
    uv.fs_mkdir(path, 448)
  end
end

--- Writes a file in place, and the folders it is in.
function Folder:write(name, text)
  local above = name:match("^(.*)/[^/]+$")
  if above then self:make(above) end
  local file = assert(io.open(self:at(name), "wb"))
  file:write(text)
  file:close()
end

--- Writes a new file and renames it over the old one, as editors do.
function Folder:replace(name, text)
  self:write(name .. ".new~", text)
  assert(os.rename(self:at(name .. ".new~"), self:at(name)))
end

function Folder:rename(from, to) assert(os.rename(self:at(from), self:at(to))) end

local function remove(path)
  local stat = uv.fs_lstat(path)
  if not stat then return end
  if stat.type ~= "directory" then return assert(uv.fs_unlink(path)) end
  local stream = assert(uv.fs_opendir(path, nil, 4096))
  for _, entry in ipairs(uv.fs_readdir(stream) or {}) do remove(path .. "/" .. entry.name) end
  uv.fs_closedir(stream)
  assert(uv.fs_rmdir(path))
end

--- Removes a file, or a folder with all that is in it; nil: the whole folder.
function Folder:remove(name) remove(name and self:at(name) or self.path) end

return M
