--- znl.cli.command: what the tools share: options, help, errors, the way they end.
---
---     return command.new {
---       name = "keygen", summary = "Makes a key.",
---       examples = { { "znlrun keygen --out slave.key", "writes a new file" } },
---       configure = function(parser) parser:option("--out", "File to make.") end,
---       run = function(opts, out) … end,  -- exit code (nil: 0), or nil, message, code
---     }
---
--- SPDX-License-Identifier: MIT

local argparse = require("argparse")
local exit_code = require("znl.cli.exit_code")
local log = require("znl.core.log")
local output = require("znl.cli.output")

local M = {}

---@class znl.cli.Tool
---@field summary string  one line for the list of tools
---@field parser fun(): table  its argparse parser
---@field run fun(args: string[]): integer  does the work, returns the exit code
---@field hidden? boolean  not in the list
---@field examples? {[1]: string, [2]: string}[]

---@class znl.cli.Description
---@field name string
---@field summary string
---@field description? string  more than the summary, for --help
---@field examples? {[1]: string, [2]: string}[]  command and what it does
---@field exit_codes? {[1]: string, [2]: string}[]  in place of those all tools share
---@field configure fun(parser: table)
---@field run fun(opts: table, out: znl.cli.Output): integer|nil, string?, string?
---@field hidden? boolean

local WIDTH = 98

--- An argument or option that must be a whole number in a range; for `convert` of argparse.
---@param min integer
---@param max integer
---@return fun(text: string): integer|nil, string?
function M.whole(min, max)
  return function(text)
    local number = text:find("^%d+$") and tonumber(text)
    if number and number >= min and number <= max then return number end
    return nil, ("'%s' must be a whole number in %d..%d"):format(text, min, max)
  end
end

local function epilog(description)
  local lines = {}
  if description.examples then
    lines[1] = "Examples:"
    for _, example in ipairs(description.examples) do
      lines[#lines + 1] = "   " .. example[1]
      lines[#lines + 1] = "      " .. example[2]
    end
    lines[#lines + 1] = ""
  end
  lines[#lines + 1] = "Exit codes:"
  for _, code in ipairs(description.exit_codes or exit_code.TEXT) do
    lines[#lines + 1] = ("   %-4s %s"):format(code[1], code[2])
  end
  return table.concat(lines, "\n")
end

--- argparse does not say which option has the value it refuses.
local function name_options(parser)
  for _, option in ipairs(parser._options) do
    local convert = option._convert
    if type(convert) == "function" then
      option:convert(function(text)
        local value, message = convert(text)
        if value == nil and message then message = ("%s: %s"):format(option._name, message) end
        return value, message
      end)
    end
  end
end

local function make_parser(description)
  local parser = argparse("znlrun " .. description.name)
  parser:description(description.summary .. (description.description and "\n" .. description.description or ""))
  parser:epilog(epilog(description))
  parser:help_max_width(WIDTH)
  parser:usage_max_width(WIDTH)
  parser:help_description_margin(26)
  parser:add_help(false)
  description.configure(parser)
  name_options(parser)
  parser:flag("--json", "Print JSON, one object per line, errors included.")
  parser:flag("-v --verbose", "Log what happens on standard error; twice: more of it."):count("0-2"):target("verbose")
  parser:flag("-h --help", "Print this and end."):action(function() error({ help = true }, 0) end)
  return parser
end

--- What went wrong in `parse`, without the positions and quotes of the parser.
local function parse(parser, args)
  parser.error = function(_, message) error({ usage = message }, 0) end
  local ok, result = pcall(parser.parse, parser, args)
  if ok then return result end
  if type(result) == "table" and (result.help or result.usage) then return nil, result end
  error(result, 0)
end

--- Whether JSON was asked for, when the options could not be read.
local function wants_json(args)
  for _, arg in ipairs(args) do
    if arg == "--" then return false end
    if arg == "--json" then return true end
  end
  return false
end

local LEVELS = { "info", "debug" }

local function run(description, args)
  local parser = make_parser(description)
  local opts, refusal = parse(parser, args)
  if refusal then
    local out = output.new(description.name, { json = refusal.usage and wants_json(args) })
    if refusal.help then
      out:line(parser:get_help())
      return exit_code.OK
    end
    local code = out:fail(refusal.usage, "USAGE")
    -- The shape of the whole helps who left out a part of it, and is noise for who mistyped one.
    local is_incomplete = refusal.usage:find("^missing argument") or refusal.usage:find("^too many arguments")
    if is_incomplete then out:note(parser:get_usage()) end
    out:note("znlrun " .. description.name .. " --help says more")
    return code
  end
  if LEVELS[opts.verbose] then log.set_level(LEVELS[opts.verbose]) end
  local out = output.new(description.name, opts)
  local code, message, reason = description.run(opts, out)
  out:clear_progress()
  if message ~= nil then return out:fail(message, reason) end
  return code or exit_code.OK
end

local function handle(err)
  if type(err) == "table" then return err end
  return debug.traceback(tostring(err), 2)
end

---@param description znl.cli.Description
---@return znl.cli.Tool
function M.new(description)
  return {
    summary = description.summary,
    hidden = description.hidden,
    examples = description.examples,
    parser = function() return make_parser(description) end,
    run = function(args)
      local ok, code = xpcall(run, handle, description, args)
      if ok then return code end
      local failure = type(code) == "table" and code.write_failed
      if failure and failure.code == "PIPE_CLOSED" then return exit_code.PIPE_CLOSED end
      io.stderr:write("znlrun ", description.name, ": ", failure and failure.message or tostring(code), "\n")
      return exit_code.FAILED
    end,
  }
end

return M
