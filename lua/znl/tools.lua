--- znl.tools: the tools of the command line: `znlrun NAME …` runs the module znl.tools.NAME.
---
--- Such a module returns a `znl.cli.Tool`; most are made by `znl.cli.command`.
--- SPDX-License-Identifier: MIT

local exit_code = require("znl.cli.exit_code")
local options = require("znl.options")
local runtime = require("znl.core.runtime")

local M = {}

--- In the order of the list that --help prints.
M.NAMES = { "new", "test", "check", "repl", "call", "request", "push", "pub", "bench", "top", "registry", "keygen" }

--- A module by that name, as `require` would find it, or nil.
local function find(name)
  if not name:find("^%l[%l%d_]*$") then return nil end
  local module = "znl.tools." .. name
  if package.loaded[module] then return package.loaded[module] end
  for _, loader in ipairs(package.loaders) do
    if type(loader(module)) == "function" then return require(module) end
  end
end

---@param name string
---@return znl.cli.Tool|nil
function M.get(name)
  return find(name)
end

--- What stands at the end of `znlrun --help`.
function M.print_list()
  local lines = { "", "Tools (znlrun TOOL --help explains one):" }
  for _, name in ipairs(M.NAMES) do
    local tool = find(name)
    if tool and not tool.hidden then lines[#lines + 1] = ("  %-12s%s"):format(name, tool.summary) end
  end
  io.stdout:write(table.concat(lines, "\n"), "\n")
end

local function unknown(name)
  local nearest = options.nearest(name, M.NAMES)
  io.stderr:write(("znlrun: %s is neither a file nor a tool%s\nznlrun --help lists the tools\n"):format(
    name, nearest and ("; did you mean %s?"):format(nearest) or ""))
  return exit_code.USAGE
end

--- Runs a tool and ends the process with its exit code. Does not return.
---@param name string
---@param ... string
function M.main(name, ...)
  local args = { ... }
  if name == "help" then
    name, args = tostring(args[1]), { "--help" }
  end
  local tool = find(name)
  runtime.exit(tool and tool.run(args) or unknown(name))
end

return M
