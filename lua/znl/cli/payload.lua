--- znl.cli.payload: the bytes a tool sends: an argument as it stands, a file, standard input.
---
---   TEXT     the text itself           @PATH    the bytes of a file
---   -        standard input            @@TEXT   a text that begins with "@"
---
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

--- For help texts.
M.HELP = "Text; @FILE is the content of a file, - is standard input, @@TEXT begins with @."

--- What a message may have by default; a larger one would be refused anyway.
local MAX_BYTES = 64 * 1024 * 1024

local function too_big(what)
  return nil, ("%s has more than %d MiB"):format(what, MAX_BYTES / 1024 / 1024), "TOO_BIG"
end

local function read_file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message, "USAGE" end
  local text, read_message = file:read(MAX_BYTES + 1)
  file:close()
  if not text and read_message then return nil, path .. ": " .. read_message, "USAGE" end
  text = text or ""
  if #text > MAX_BYTES then return too_big(path) end
  return text
end

--- Reads from a pipe or terminal without keeping the loop, and a signal, waiting.
local function read_stream(handle)
  local done, parts, size = sched.event(), {}, 0
  handle:read_start(function(err, piece)
    if err or not piece then
      done:set(err or false)
      return
    end
    parts[#parts + 1] = piece
    size = size + #piece
    if size > MAX_BYTES then done:set("TOO_BIG") end
  end)
  local err = done:wait()
  handle:close()
  if err == "TOO_BIG" then return too_big("standard input") end
  if err then return nil, "standard input: " .. err end
  return table.concat(parts)
end

local function read_input()
  local kind = uv.guess_handle(0)
  if kind == "tty" then return read_stream(uv.new_tty(0, true)) end
  if kind == "pipe" then
    local pipe = uv.new_pipe(false)
    pipe:open(0)
    return read_stream(pipe)
  end
  local text, message = io.stdin:read(MAX_BYTES + 1)
  if not text and message then return nil, "standard input: " .. message end
  text = text or ""
  if #text > MAX_BYTES then return too_big("standard input") end
  return text
end

--- The bytes an argument stands for. Yields for standard input.
---@param argument string
---@return string|nil bytes
---@return string? message
---@return string? code
function M.read(argument)
  if argument == "-" then return read_input() end
  if argument:sub(1, 2) == "@@" then return argument:sub(2) end
  if argument:sub(1, 1) == "@" then return read_file(argument:sub(2)) end
  return argument
end

--- The frames of several arguments; none is one empty frame.
---@param arguments string[]
---@return string[]|nil frames
---@return string? message
---@return string? code
function M.read_all(arguments)
  local frames, has_input = {}, false
  for index, argument in ipairs(arguments) do
    if argument == "-" and has_input then return nil, "standard input can be read only once", "USAGE" end
    has_input = has_input or argument == "-"
    local bytes, message, code = M.read(argument)
    if not bytes then return nil, message, code end
    frames[index] = bytes
  end
  if #frames == 0 then frames[1] = "" end
  return frames
end

return M
