--- znl.cli.history: the lines typed before, in memory and in a file only its owner may read.
---
--- A file that cannot be read or written is no reason to stop: the lines are then kept in memory only.
--- An input of several lines is one entry; in the file its line ends are written as \n.
--- SPDX-License-Identifier: MIT

local uv = require("luv")

local M = {}

local LINES_MAX = 1000
local FILE_BYTES_MAX = 4 * 1024 * 1024
local MODE = 384 -- 0600

---@class znl.cli.History
---@field lines string[]  the oldest first
---@field path? string
local History = {}
History.__index = History

local function is_folder(path)
  local stat = uv.fs_stat(path)
  return stat ~= nil and stat.type == "directory"
end

--- Where the history of a tool is kept: $XDG_STATE_HOME/znlrun/NAME_history, or ~/.znlrun_history.
---@param name string
---@return string|nil path  nil without a home
function M.path(name)
  local state = os.getenv("XDG_STATE_HOME")
  if state and state:sub(1, 1) == "/" then
    local folder = state .. "/znlrun"
    if is_folder(folder) or (is_folder(state) and uv.fs_mkdir(folder, 448)) then -- 0700
      return folder .. "/" .. name .. "_history"
    end
  end
  local home = os.getenv("HOME")
  if home and home ~= "" then return home .. "/.znlrun_history" end
end

local function encode(line) return (line:gsub("\\", "\\\\"):gsub("\n", "\\n")) end

local function decode(line)
  return (line:gsub("\\(.)", function(c) return c == "n" and "\n" or c end))
end

local function read(path)
  local stat = uv.fs_stat(path)
  if not stat or stat.type ~= "file" or stat.size > FILE_BYTES_MAX then return "" end
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  return text or ""
end

---@param path? string  nil: memory only
---@return znl.cli.History
function M.open(path)
  local self = setmetatable({ lines = {}, path = path }, History)
  for line in (path and read(path) or ""):gmatch("[^\n]+") do self.lines[#self.lines + 1] = decode(line) end
  while #self.lines > LINES_MAX do table.remove(self.lines, 1) end
  return self
end

--- Adds a line, unless it is blank or the one before.
---@param line string
function History:add(line)
  self:rewind()
  if not line:find("%S") or line == self.lines[#self.lines] then return end
  self.lines[#self.lines + 1] = line
  if #self.lines > LINES_MAX then table.remove(self.lines, 1) end
end

--- Writes the file anew: whole or not at all.
---@return true|nil ok
---@return string? message
function History:save()
  if not self.path or #self.lines == 0 then return true end
  local lines = {}
  for index, line in ipairs(self.lines) do lines[index] = encode(line) end
  local temporary = ("%s.%d"):format(self.path, uv.os_getpid())
  local descriptor, message = uv.fs_open(temporary, "wx", MODE)
  if not descriptor then return nil, message end
  local text = table.concat(lines, "\n") .. "\n"
  local written, write_message = uv.fs_write(descriptor, text, 0)
  uv.fs_close(descriptor)
  local ok
  if written == #text then ok, write_message = uv.fs_rename(temporary, self.path) end
  if ok then return true end
  uv.fs_unlink(temporary)
  return nil, write_message
end

--- Back to the line being typed.
function History:rewind() self.at, self.typed = nil, nil end

--- The line `step` further on; `current` is what stands on the terminal now.
---@param step integer
---@param current string
---@return string|nil line
function History:browse(step, current)
  local at = (self.at or #self.lines + 1) + step
  if at < 1 or at > #self.lines + 1 then return nil end
  if not self.at then self.typed = current end
  self.at = at
  if at == #self.lines + 1 then
    local typed = self.typed
    self:rewind()
    return typed
  end
  return self.lines[at]
end

--- The newest line with `query` in it, at `from` or before.
---@param query string
---@param from? integer
---@return integer|nil at
function History:find(query, from)
  if query == "" then return nil end
  for at = from or #self.lines, 1, -1 do
    if self.lines[at]:find(query, 1, true) then return at end
  end
end

return M
