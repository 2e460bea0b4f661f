--- A project folder in which a test runs the real binary. SPDX-License-Identifier: MIT

local folder = require("support.folder")
local process = require("znl.system.process")
local uv = require("luv")

local M = {}

local znlrun = uv.fs_realpath(os.getenv("ZNLRUN") or "build/znlrun")

---@class TestProject : TestFolder
local Project = {}

--- Files by name.
---@param files? table<string, string>
---@return TestProject
function M.new(files)
  local made = folder.new()
  for name, text in pairs(files or {}) do made:write(name, text) end
  made.run = Project.run
  return made
end

--- Runs znlrun in the folder; returns its exit code, standard output and standard error. Yields.
---@param arguments string[]
---@param opts? {stdin: string|nil, env: table|nil, cwd: string|nil}
function Project:run(arguments, opts)
  opts = opts or {}
  local command = { "timeout", "30", znlrun }
  for _, argument in ipairs(arguments) do command[#command + 1] = argument end
  command.cwd, command.stdin, command.timeout_ms = opts.cwd or self.path, opts.stdin, 40000
  command.env = { NO_COLOR = "1", ZNL_LEAK_CHECK = "1", ZNL_LUA_PATH = false, XDG_STATE_HOME = self.path }
  for name, value in pairs(opts.env or {}) do command.env[name] = value end
  local result = assert(process.run(command))
  return result.signal ~= 0 and 128 + result.signal or result.code, result.stdout, result.stderr
end

return M
