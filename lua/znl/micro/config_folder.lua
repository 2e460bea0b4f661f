--- znl.micro.config_folder: the files `{namespace}.config.yaml` of a folder, read and watched (spec,
--- section 11).
---
--- Each key of a file is told as `on_value(namespace, key, json)`, once when it is new and again when its
--- JSON is another. Keys and files that go are not told: what they said stays. A file that cannot be read
--- changes nothing and is told as a problem, once per content.
--- SPDX-License-Identifier: MIT

local file = require("znl.system.file")
local sched = require("znl.core.sched")
local uv = require("luv")
local watch = require("znl.core.watch")
local yaml_text = require("znl.micro.yaml_text")

local M = {}

local SUFFIX = ".config.yaml"
local FILES_MAX = 1000
local FILE_BYTES_MAX = 1024 * 1024
--- Editors write in several steps.
local SETTLE_MS = 50

---@class znl.ConfigFolderOptions
---@field path string
---@field on_value fun(namespace: string, key: string, json: string)
---@field on_problem fun(text: string, path: string)

---@class znl.ConfigFolder
local Folder = {}
Folder.__index = Folder

---@param opts znl.ConfigFolderOptions
---@return znl.ConfigFolder
function M.new(opts)
  return setmetatable({ opts = opts, path = opts.path, seen = {}, values = {}, keys = {} }, Folder)
end

--- What tells two states of a file apart.
local function stamp(path)
  local stat = uv.fs_stat(path)
  if not stat or stat.type ~= "file" then return nil end
  return ("%d:%d:%d:%d.%d"):format(stat.dev, stat.ino, stat.size, stat.mtime.sec, stat.mtime.nsec)
end

local function take(self, namespace, members)
  local values, keys = self.values[namespace], self.keys[namespace]
  if not values then
    values, keys = {}, {}
    self.values[namespace], self.keys[namespace] = values, keys
  end
  for _, member in ipairs(members) do
    local before = values[member.key]
    if before == nil then keys[#keys + 1] = member.key end
    if before ~= member.json then
      values[member.key] = member.json
      self.opts.on_value(namespace, member.key, member.json)
    end
  end
end

--- Reads one file when it is another than before. Yields.
local function read(self, name)
  local path = self.path .. "/" .. name
  local now = stamp(path)
  if now == self.seen[name] then return end
  self.seen[name] = now
  if not now then return end
  local text, message = file.read(path, { max_bytes = FILE_BYTES_MAX })
  if self.closed then return end
  local members
  if text then members, message = yaml_text.read(text, FILE_BYTES_MAX) end
  if not members then return self.opts.on_problem(message, path) end
  take(self, name:sub(1, -#SUFFIX - 1), members)
end

local function is_config(name)
  return #name > #SUFFIX and name:sub(-#SUFFIX) == SUFFIX
end

--- Looks at all files. Yields.
---@return true|nil ok
---@return string? message
---@return string? code
function Folder:scan()
  local entries, message, code = file.list(self.path)
  if not entries then return nil, message, code end
  local names = {}
  for _, entry in ipairs(entries) do
    if is_config(entry.name) then names[#names + 1] = entry.name end
  end
  for index, name in ipairs(names) do
    if index > FILES_MAX then
      self.opts.on_problem(("there are %d files; the first %d are read"):format(#names, FILES_MAX), self.path)
      break
    end
    read(self, name)
    if self.closed then break end
  end
  return true
end

--- One look at a time: what changes while one is under way is looked at again.
local function look_later(self)
  self.changed = true
  if self.looking then return end
  self.looking = true
  while self.changed and not self.closed do
    sched.sleep(SETTLE_MS)
    self.changed = false
    if self.closed then break end
    local ok, message = self:scan()
    if not ok then self.opts.on_problem(message, self.path) end
  end
  self.looking = false
end

--- Reads the files and watches the folder from then on. Yields.
---@return true|nil ok
---@return string? message
---@return string? code  "NOT_FOUND": there is no such folder
function Folder:start()
  local message, code
  -- Watched first: nothing that changes meanwhile is missed.
  self.watcher, message, code = watch.watch(self.path, function(name)
    if self.closed or name and not is_config(name) then return end
    look_later(self)
  end)
  if not self.watcher then return nil, ("%s: %s"):format(self.path, message), code end
  local ok
  ok, message, code = self:scan()
  if not ok then self:close() end
  return ok, message, code
end

--- The values of a namespace as JSON texts, and its keys in the order they came; nil without.
---@param namespace string
---@return table<string, string>|nil values
---@return string[]? keys
function Folder:of(namespace)
  return self.values[namespace], self.keys[namespace]
end

--- Ends the watch; what was read stays.
function Folder:close()
  self.closed = true
  if self.watcher then self.watcher:close() end
  self.watcher = nil
end

return M
