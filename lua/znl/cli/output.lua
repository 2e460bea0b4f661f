--- znl.cli.output: what a tool prints, as text for people or as JSON.
---
--- Results go to standard output, everything else to standard error. A reader that went away ends
--- the tool: writing raises, and `znl.cli.command` turns that into its exit code.
--- SPDX-License-Identifier: MIT

local cjson = require("cjson")
local exit_code = require("znl.cli.exit_code")
local uv = require("luv")

local M = {}

---@class znl.cli.Output
---@field json boolean  one JSON object per result
---@field is_terminal boolean  standard output is one
---@field is_colour boolean
---@field private tool string
---@field private has_progress boolean  standard error is a terminal
---@field private is_line_open boolean  a progress line stands on the terminal
local Output = {}
Output.__index = Output

--- Raised when a result cannot be written.
---@class znl.cli.WriteError
---@field message string
---@field code? "PIPE_CLOSED"  nobody reads any more

local function is_terminal(descriptor)
  return uv.guess_handle(descriptor) == "tty"
end

---@param tool string  its name; begins messages
---@param opts {json: boolean|nil}
---@return znl.cli.Output
function M.new(tool, opts)
  local no_colour = os.getenv("NO_COLOR")
  local term = os.getenv("TERM")
  local self = setmetatable({ tool = tool, json = opts.json or false, is_line_open = false }, Output)
  self.is_terminal = is_terminal(1)
  self.has_progress = is_terminal(2) and not self.json
  self.is_colour = self.is_terminal and (no_colour == nil or no_colour == "") and term ~= "dumb" and not self.json
  return self
end

--- Writes bytes to standard output, now.
---@param bytes string
function Output:write(bytes)
  self:clear_progress()
  local file = io.stdout
  local ok, message = file:write(bytes)
  if ok then ok, message = file:flush() end
  if ok then return end
  message = tostring(message)
  local code = message:find("Broken pipe", 1, true) and "PIPE_CLOSED" or nil
  error({ write_failed = { message = "standard output: " .. message, code = code } }, 0)
end

---@param text? string
function Output:line(text)
  self:write((text or "") .. "\n")
end

--- One result as JSON.
---@param value table
function Output:object(value)
  -- cjson escapes every slash, which JSON does not ask for and people do not like.
  self:write((cjson.encode(value):gsub("\\/", "/")) .. "\n")
end

local COLOURS = { red = "31", green = "32", yellow = "33", bold = "1", dim = "2" }

---@param colour "red"|"green"|"yellow"|"bold"|"dim"
---@param text string
---@return string
function Output:paint(colour, text)
  if not self.is_colour then return text end
  return ("\27[%sm%s\27[0m"):format(COLOURS[colour], text)
end

--- Without what a terminal would obey: texts and names may come from a peer.
---@param text string
---@return string
function M.harmless(text)
  return (text:gsub("[%z\1-\8\11-\31\127]", "?"))
end

--- Something a person should know; standard error, and not with --json.
---@param text string
function Output:note(text)
  if self.json then return end
  self:clear_progress()
  io.stderr:write(M.harmless(text), "\n")
end

--- Shows how far long work has come, over the line shown before. Nothing without a terminal.
---@param text string
function Output:progress(text)
  if not self.has_progress then return end
  -- Cut at the edge, not carried over: one line is all that is wiped away again.
  io.stderr:write("\r\27[K\27[?7l", text, "\27[?7h")
  io.stderr:flush()
  self.is_line_open = true
end

function Output:clear_progress()
  if not self.is_line_open then return end
  self.is_line_open = false
  io.stderr:write("\r\27[K")
  io.stderr:flush()
end

--- Reports an error; returns the exit code for it.
---@param message string
---@param code? string
---@return integer
function Output:fail(message, code)
  self:clear_progress()
  if self.json then
    self:object { error = message, code = code or "FAILED" }
  else
    io.stdout:flush()
    -- A code of the peer says something; those that have an exit code are in the words already.
    local suffix = code and code ~= "FAILED" and exit_code.of(code) == exit_code.FAILED
        and (" (%s)"):format(code) or ""
    io.stderr:write("znlrun ", self.tool, ": ", M.harmless(message .. suffix), "\n")
  end
  return exit_code.of(code)
end

--- Whether `text` is UTF-8 and so may stand in JSON (RFC 3629).
---@param text string
---@return boolean
function M.is_utf8(text)
  local at, size = 1, #text
  while at <= size do
    -- Plain ASCII in one step: answers are mostly that.
    at = text:find("[\128-\255]", at)
    if not at then return true end
    local first, second = text:byte(at, at + 1)
    local more = first >= 0xC2 and first <= 0xDF and 1 or first >= 0xE0 and first <= 0xEF and 2
        or first >= 0xF0 and first <= 0xF4 and 3 or nil
    if not more or not text:find("^" .. ("[\128-\191]"):rep(more), at + 1) then return false end
    if first == 0xE0 and second < 0xA0 or first == 0xED and second > 0x9F
        or first == 0xF0 and second < 0x90 or first == 0xF4 and second > 0x8F then
      return false
    end
    at = at + more + 1
  end
  return true
end

---@param bytes string
---@return string
function M.hex(bytes)
  -- In pieces: string.byte returns one value per byte.
  local parts = {}
  for at = 1, #bytes, 4096 do
    local piece = bytes:sub(at, at + 4095)
    parts[#parts + 1] = ("%02x"):rep(#piece):format(piece:byte(1, -1))
  end
  return table.concat(parts)
end

--- A payload as fields of a JSON object: `name` when it is one frame of text, `name`_hex when it
--- is one frame of other bytes, `name`_frames_hex when it is several.
---@param object table
---@param name string
---@param payload string|string[]
function M.put_payload(object, name, payload)
  if type(payload) == "table" and #payload == 1 then payload = payload[1] end
  if type(payload) == "string" then
    if M.is_utf8(payload) then object[name] = payload else object[name .. "_hex"] = M.hex(payload) end
    return
  end
  local texts, hexes, are_text = {}, {}, true
  for index, frame in ipairs(payload) do
    texts[index], hexes[index] = frame, M.hex(frame)
    are_text = are_text and M.is_utf8(frame)
  end
  if are_text then object[name .. "_frames"] = texts else object[name .. "_frames_hex"] = hexes end
end

return M
