--- znl.cli.screen: a terminal that is drawn again and again, and keys pressed at it.
---
---   open -> draw, draw, … -> close; the terminal is as before afterwards, on every path
---
--- SPDX-License-Identifier: MIT

local uv = require("luv")

local M = {}

local ENTER = "\27[?1049h\27[?25l" -- the other screen, no cursor
local LEAVE = "\27[?25h\27[?1049l"

---@class znl.cli.Screen
---@field private output table  uv_tty_t of standard output
---@field private input table|nil  uv_tty_t of standard input
local Screen = {}
Screen.__index = Screen

--- Opens the screen, or nil when standard output is no terminal. `on_key(key)` hears of keys.
---@param on_key fun(key: string)
---@return znl.cli.Screen|nil
function M.open(on_key)
  if uv.guess_handle(1) ~= "tty" then return nil end
  local self = setmetatable({ output = uv.new_tty(1, false) }, Screen)
  if uv.guess_handle(0) == "tty" then
    self.input = uv.new_tty(0, true)
    self.input:set_mode(1) -- keys at once, and not shown; Ctrl-C comes as a key
    self.input:read_start(function(err, bytes)
      if err or not bytes then return end
      for key in bytes:gmatch(".") do on_key(key) end
    end)
  end
  io.stdout:write(ENTER)
  io.stdout:flush()
  return self
end

--- Columns and rows.
---@return integer width
---@return integer height
function Screen:size()
  local width, height = self.output:get_winsize()
  if not width or width == 0 then return 80, 24 end
  return width, height
end

--- Shows lines, cut to the terminal. `paint(line)` may add colours to a line that was cut.
---@param lines string[]
---@param paint fun(line: string, index: integer): string
function Screen:draw(lines, paint)
  local width, height = self:size()
  local parts = { "\27[H" }
  for index = 1, math.min(#lines, height) do
    parts[#parts + 1] = paint(lines[index]:sub(1, width), index) .. "\27[K" .. (index < height and "\r\n" or "")
  end
  parts[#parts + 1] = "\27[J"
  io.stdout:write(table.concat(parts))
  io.stdout:flush()
end

--- Gives the terminal back. Closing twice is harmless.
function Screen:close()
  if self.closed then return end
  self.closed = true
  if self.input then
    self.input:set_mode(0)
    self.input:close()
  end
  self.output:close()
  io.stdout:write(LEAVE)
  io.stdout:flush()
end

return M
