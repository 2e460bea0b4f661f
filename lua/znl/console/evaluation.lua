--- znl.console.evaluation: runs what a person types, and says what came of it.
---
--- An expression is shown, a statement is run; `=expr` is taken for `expr`. Globals that are set stay
--- for the inputs that follow; locals do not.
--- SPDX-License-Identifier: MIT

local pretty = require("znl.pretty")

local M = {}

local NAME = "=(input)"

--- The names an input sees: those of every script, `znl`, what is given here, and what inputs before
--- it set.
---@param more? table<string, any>
---@return table
function M.environment(more)
  local environment = setmetatable({ znl = require("znl") }, { __index = _G })
  for name, value in pairs(more or {}) do environment[name] = value end
  environment._G = environment
  return environment
end

local function strip(text)
  return (text:gsub("^%s*=", "", 1))
end

--- Compiles an input.
---@param text string
---@param environment table
---@return function|nil chunk
---@return string? message
---@return boolean? is_incomplete  more lines may complete it
function M.compile(text, environment)
  text = strip(text)
  -- An argument, as a call in `return f()` would leave no trace of its line.
  -- The new line ends a comment; without need of it, errors would name a line that was not typed.
  local chunk = load("return (...)(" .. text .. ")", NAME, "t", environment)
      or load("return (...)(" .. text .. "\n)", NAME, "t", environment)
  if chunk then return chunk end
  local message
  chunk, message = load(text, NAME, "t", environment)
  if chunk then return chunk end
  -- A short string does not go on in the next line, whatever comes there.
  return nil, message, message:find("<eof>'?$") ~= nil and not message:find(": unfinished string near", 1, true)
end

--- Ends where the input was called: what lies below is not the person's.
local function traceback(err)
  local text = type(err) == "string" and err or pretty.format(err)
  local trace = debug.traceback(text, 2)
  return (trace:gsub("\n%s*%[C%]: in function 'xpcall'.*$", ""))
end

local function same(...) return ... end

local function describe(ok, ...)
  if not ok then return false, (...) end
  local parts = {}
  for index = 1, select("#", ...) do parts[index] = pretty.format((select(index, ...))) end
  return true, table.concat(parts, "\t")
end

--- Runs a compiled input. Yields when it does.
---@param chunk function
---@return boolean ok
---@return string text  its results, or the error with a traceback
function M.run(chunk)
  return describe(xpcall(chunk, traceback, same))
end

return M
