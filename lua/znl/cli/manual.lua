--- znl.cli.manual: the command line as data, for shell completion and the man page.
---
--- Tools describe themselves by their parsers, so what is made from this cannot lag behind them; the
--- only place that looks inside those parsers is here. The options of znlrun itself are read by
--- C and repeated below; a test compares them with `znlrun --help`.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.cli.Parameter
---@field names string[]  "--key", or the name of an argument
---@field value? string  what stands behind an option: "<ref>"; nil for a flag
---@field kind? "file"|"folder"|"reference"|"payload"|"endpoint"|"shell"|"choice"|"text"
---@field choices? string[]
---@field text string
---@field is_many? boolean  of an argument

---@class znl.cli.Manual
---@field name string
---@field summary string
---@field description string
---@field usage string
---@field options znl.cli.Parameter[]
---@field arguments znl.cli.Parameter[]
---@field examples {[1]: string, [2]: string}[]

local LEVELS = { "trace", "debug", "info", "warn", "error", "off" }

--- Of znlrun itself.
---@type znl.cli.Parameter[]
M.OPTIONS = {
  { names = { "-e", "--execute" }, value = "<chunk>", kind = "text", text = "Run the text as a script." },
  { names = { "-c", "--check" }, text = "Compile only: print file:line: message for what is wrong." },
  { names = { "-w", "--watch" }, text = "Run the script again when it or a module of it changes." },
  {
    names = { "--log-level" }, value = "<level>", kind = "choice", choices = LEVELS,
    text = "Least level of the log: trace, debug, info (default), warn (default of a tool), error or off.",
  },
  {
    names = { "--log-format" }, value = "<format>", kind = "choice", choices = { "logfmt", "json", "text" },
    text = "Shape of the log: logfmt, json or text (default: text on a terminal, else logfmt).",
  },
  {
    names = { "--drain-ms" }, value = "<n>", kind = "text",
    text = "Time a stopping script has to finish, 0..3600000 (default 5000).",
  },
  {
    names = { "--watchdog-ms" }, value = "<n>", kind = "text",
    text = "CPU time Lua code may use without waiting before it is interrupted, 0..3600000 (default 1000); 0: never.",
  },
  { names = { "-v", "--version" }, text = "Print the versions of znlrun and its libraries." },
  { names = { "-h", "--help" }, text = "Print a summary and the list of tools." },
}

local KINDS = {
  ["<file>"] = "file", ["<dir>"] = "folder", ["<folder>"] = "folder", ["<ref>"] = "reference",
  ["<payload>"] = "payload", ["<endpoint>"] = "endpoint", ["<shell>"] = "shell",
}

local function first(value)
  if type(value) == "table" then return value[1] end
  return value
end

local function read_parameter(element, is_option)
  local value = first(element._argname) or "<" .. element._name:gsub("^%-+", "") .. ">"
  local takes = not is_option or element._maxargs > 0
  return {
    names = is_option and element._aliases or { element._name },
    value = takes and value or nil,
    kind = takes and (element._choices and "choice" or KINDS[value] or "text") or nil,
    choices = element._choices,
    text = element._description or "",
    is_many = element._maxargs > 1,
  }
end

--- Reads a tool.
---@param name string
---@param tool znl.cli.Tool
---@return znl.cli.Manual
function M.read(name, tool)
  local parser = tool.parser()
  local manual = {
    name = name, summary = tool.summary, description = parser._description or tool.summary,
    usage = (parser:get_usage():gsub("^Usage: ", "")), options = {}, arguments = {},
    examples = tool.examples or {},
  }
  for _, option in ipairs(parser._options) do
    if not option._hidden then manual.options[#manual.options + 1] = read_parameter(option, true) end
  end
  for _, argument in ipairs(parser._arguments) do
    manual.arguments[#manual.arguments + 1] = read_parameter(argument, false)
  end
  return manual
end

--- Every tool of the list, in order.
---@return znl.cli.Manual[]
function M.read_all()
  local tools = require("znl.tools") -- here: a tool that makes completions requires this module
  local manuals = {}
  for _, name in ipairs(tools.NAMES) do
    local tool = tools.get(name)
    if tool and tool.parser then manuals[#manuals + 1] = M.read(name, tool) end
  end
  return manuals
end

--- The man page: `template` with the line `.\" OPTIONS` replaced by the options of znlrun and
--- `.\" TOOLS` by a subsection for each tool (man(7) macros).
---@param template string
---@return string
function M.man_page(template)
  local function escape(text)
    text = text:gsub("\\", "\\e"):gsub("%-", "\\-")
    -- A dot or quote at the start of a line would be a macro.
    return (text:gsub("^([.'])", "\\&%1"):gsub("\n([.'])", "\n\\&%1"))
  end
  local lines = {}
  local function add(text) lines[#lines + 1] = text end
  local function add_parameter(parameter, is_option)
    local names = {}
    for index, name in ipairs(parameter.names) do
      names[index] = (is_option and "\\fB%s\\fR" or "\\fI%s\\fR"):format(escape(name))
    end
    add(".TP")
    add(table.concat(names, ", ") .. (is_option and parameter.value
      and (" \\fI%s\\fR"):format(escape(parameter.value)) or ""))
    add(escape(parameter.text))
  end
  local function take()
    local text = table.concat(lines, "\n")
    lines = {}
    return text
  end

  for _, option in ipairs(M.OPTIONS) do add_parameter(option, true) end
  local options = take()
  for _, manual in ipairs(M.read_all()) do
    add(".SS " .. escape(manual.name))
    add(escape(manual.description))
    add(".PP")
    add(".nf")
    add(escape(manual.usage))
    add(".fi")
    for _, argument in ipairs(manual.arguments) do add_parameter(argument, false) end
    for _, option in ipairs(manual.options) do add_parameter(option, true) end
    for _, example in ipairs(manual.examples) do
      add(".PP")
      add(escape(example[2]:gsub("^%l", string.upper)) .. ":")
      add(".PP")
      add(".nf")
      add("    " .. escape(example[1]))
      add(".fi")
    end
  end
  local parts = { ['.\\" OPTIONS'] = options, ['.\\" TOOLS'] = take() }
  return (template:gsub('[^\n]+', parts))
end

return M
