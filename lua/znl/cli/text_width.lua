--- znl.cli.text_width: how many columns a text takes on a terminal.
---
--- An approximation of wcwidth(3): combining marks take none, East Asian wide characters and most
--- pictures two.
--- SPDX-License-Identifier: MIT

local M = {}

--- First and last code point of the ranges, sorted.
local ZERO = {
  { 0x300, 0x36F }, { 0x483, 0x489 }, { 0x591, 0x5BD }, { 0x610, 0x61A }, { 0x64B, 0x65F }, { 0x200B, 0x200F },
  { 0x20D0, 0x20F0 }, { 0xFE00, 0xFE0F }, { 0xFE20, 0xFE2F }, { 0xE0100, 0xE01EF },
}
local WIDE = {
  { 0x1100, 0x115F }, { 0x231A, 0x231B }, { 0x2E80, 0x303E }, { 0x3041, 0x33FF }, { 0x3400, 0x4DBF },
  { 0x4E00, 0x9FFF }, { 0xA000, 0xA4CF }, { 0xAC00, 0xD7A3 }, { 0xF900, 0xFAFF }, { 0xFE30, 0xFE6F },
  { 0xFF00, 0xFF60 }, { 0xFFE0, 0xFFE6 }, { 0x1F300, 0x1F64F }, { 0x1F680, 0x1F6FF }, { 0x1F900, 0x1F9FF },
  { 0x20000, 0x3FFFD },
}

local function is_in(ranges, point)
  for _, range in ipairs(ranges) do
    if point < range[1] then return false end
    if point <= range[2] then return true end
  end
  return false
end

local function code_point(character)
  local first, second, third, fourth = character:byte(1, 4)
  if first < 0x80 or not second then return first end
  if not third then return first % 0x20 * 0x40 + second % 0x40 end
  if not fourth then return (first % 0x10 * 0x40 + second % 0x40) * 0x40 + third % 0x40 end
  return ((first % 8 * 0x40 + second % 0x40) * 0x40 + third % 0x40) * 0x40 + fourth % 0x40
end

--- The characters of a UTF-8 text.
---@param text string
---@return string[]
function M.characters(text)
  local list = {}
  for character in text:gmatch("[%z\1-\127\192-\255][\128-\191]*") do list[#list + 1] = character end
  return list
end

---@param text string
---@return integer columns
function M.of(text)
  if not text:find("[\128-\255]") then return #text end
  local width = 0
  for _, character in ipairs(M.characters(text)) do
    local point = code_point(character)
    if is_in(WIDE, point) then
      width = width + 2
    elseif not is_in(ZERO, point) then
      width = width + 1
    end
  end
  return width
end

return M
