--- znl.cli.line_editor: one line of input on a terminal: keys in, a picture of the line out.
---
--- Plain state: it neither reads nor writes. `feed` takes bytes as the terminal sends them, however
--- they are cut, and returns what they amount to; `render` draws the line in one row, which scrolls
--- sideways. The keys are those of readline in its usual mode.
--- SPDX-License-Identifier: MIT

local text_width = require("znl.cli.text_width")

local M = {}

--- A longer line is refused: somebody pastes a file.
M.CHARACTERS_MAX = 65536

--- A key sends no more.
local KEY_BYTES_MAX = 16

--- What `feed` returns, in order.
---@class znl.cli.EditorAction
---@field kind "line"|"interrupt"|"eof"|"complete"|"clear"
---@field text? string  of a line

---@class znl.cli.LineEditor
---@field prompt string
---@field private characters string[]  of the line, UTF-8 each
---@field private cursor integer  characters before it
local Editor = {}
Editor.__index = Editor

---@param history znl.cli.History
---@return znl.cli.LineEditor
function M.new(history)
  return setmetatable({
    prompt = "", characters = {}, cursor = 0, history = history, pending = "", killed = "", scroll = 0,
  }, Editor)
end

--- The line as text; with `cursor` only what stands before it.
---@param to_cursor? boolean
---@return string
function Editor:text(to_cursor)
  return table.concat(self.characters, "", 1, to_cursor and self.cursor or #self.characters)
end

--- Replaces the line; the cursor goes to its end.
---@param text string
function Editor:set(text)
  self.characters = text_width.characters(text)
  self.cursor, self.scroll = #self.characters, 0
end

--- Replaces the `count` characters before the cursor.
---@param count integer
---@param text string
function Editor:replace(count, text)
  local from = self.cursor - count
  local rest = {}
  for index = 1, from do rest[index] = self.characters[index] end
  for _, character in ipairs(text_width.characters(text)) do rest[#rest + 1] = character end
  local cursor = #rest
  for index = self.cursor + 1, #self.characters do rest[#rest + 1] = self.characters[index] end
  if #rest > M.CHARACTERS_MAX then return end
  self.characters, self.cursor = rest, cursor
end

local function insert(self, character)
  if #self.characters >= M.CHARACTERS_MAX then return end
  self.cursor = self.cursor + 1
  table.insert(self.characters, self.cursor, character)
end

local function remove(self, from, to)
  local removed = table.concat(self.characters, "", from, to)
  local rest = {}
  for index, character in ipairs(self.characters) do
    if index < from or index > to then rest[#rest + 1] = character end
  end
  self.characters = rest
  if self.cursor >= from then self.cursor = math.max(from - 1, self.cursor - (to - from + 1)) end
  return removed
end

local function kill(self, from, to)
  if to >= from then self.killed = remove(self, from, to) end
end

local function is_word(character)
  return character ~= nil and character:find("^[%w_\128-\255]") ~= nil
end

local function word_start(self)
  local at = self.cursor
  while at > 0 and not is_word(self.characters[at]) do at = at - 1 end
  while at > 0 and is_word(self.characters[at]) do at = at - 1 end
  return at
end

local function word_end(self)
  local at = self.cursor
  while at < #self.characters and not is_word(self.characters[at + 1]) do at = at + 1 end
  while at < #self.characters and is_word(self.characters[at + 1]) do at = at + 1 end
  return at
end

--- Up to the blank before the cursor, as Ctrl-W does.
local function blank_start(self)
  local at = self.cursor
  while at > 0 and self.characters[at]:find("^%s") do at = at - 1 end
  while at > 0 and not self.characters[at]:find("^%s") do at = at - 1 end
  return at
end

local function browse(self, step)
  local text = self.history:browse(step, self:text())
  if text then self:set(text) end
end

local function search(self)
  self.search = self.search or { query = "", saved = self:text() }
  local found = self.history:find(self.search.query, self.search.at and self.search.at - 1)
  if found then self.search.at = found end
end

local function show_found(self)
  local found = self.search.at and self.history.lines[self.search.at]
  if found then self:set(found) end
end

local function refine(self, query)
  self.search.query = query
  self.search.at = self.history:find(query)
  if self.search.at then show_found(self) end
end

local function end_search(self, keep)
  if self.search and not keep then self:set(self.search.saved) end
  self.search = nil
end

local KEYS = {}

KEYS["\1"] = function(self) self.cursor = 0 end
KEYS["\2"] = function(self) self.cursor = math.max(0, self.cursor - 1) end
KEYS["\5"] = function(self) self.cursor = #self.characters end
KEYS["\6"] = function(self) self.cursor = math.min(#self.characters, self.cursor + 1) end
KEYS["\8"] = function(self) if self.cursor > 0 then remove(self, self.cursor, self.cursor) end end
KEYS["\127"] = KEYS["\8"]
KEYS["\11"] = function(self) kill(self, self.cursor + 1, #self.characters) end
KEYS["\14"] = function(self) browse(self, 1) end
KEYS["\16"] = function(self) browse(self, -1) end
KEYS["\21"] = function(self) kill(self, 1, self.cursor) end
KEYS["\23"] = function(self) kill(self, blank_start(self) + 1, self.cursor) end
KEYS["\25"] = function(self) self:replace(0, self.killed) end
KEYS["\3"] = function(self)
  self:set("")
  return { kind = "interrupt" }
end
KEYS["\4"] = function(self)
  if #self.characters == 0 then return { kind = "eof" } end
  KEYS.delete(self)
end
KEYS["\9"] = function() return { kind = "complete" } end
KEYS["\12"] = function() return { kind = "clear" } end
KEYS["\13"] = function(self)
  local text = self:text()
  self:set("")
  self.history:rewind()
  return { kind = "line", text = text }
end
KEYS["\10"] = KEYS["\13"]
KEYS["\18"] = function(self)
  search(self)
  show_found(self)
end
KEYS.delete = function(self)
  if self.cursor < #self.characters then remove(self, self.cursor + 1, self.cursor + 1) end
end
KEYS.word_left = function(self) self.cursor = word_start(self) end
KEYS.word_right = function(self) self.cursor = word_end(self) end
KEYS.kill_word = function(self) kill(self, self.cursor + 1, word_end(self)) end
KEYS.kill_word_back = function(self) kill(self, word_start(self) + 1, self.cursor) end
KEYS.paste = function(self) self.is_pasting = true end
KEYS.paste_end = function(self) self.is_pasting = false end

--- After ESC [ or ESC O.
local SEQUENCES = {
  A = "\16", B = "\14", C = "\6", D = "\2", H = "\1", F = "\5", ["1~"] = "\1", ["7~"] = "\1", ["4~"] = "\5",
  ["8~"] = "\5", ["3~"] = "delete", ["1;5C"] = "word_right", ["1;5D"] = "word_left", ["1;3C"] = "word_right",
  ["1;3D"] = "word_left", ["3;5~"] = "kill_word", ["200~"] = "paste", ["201~"] = "paste_end",
}

--- After ESC alone.
local META = {
  b = "word_left", f = "word_right", d = "kill_word", ["\127"] = "kill_word_back", ["\8"] = "kill_word_back",
}

--- The first key in `bytes`: its name, or the character; and how many bytes it takes. Nil: more bytes
--- are needed.
local function next_key(bytes)
  local first = bytes:byte()
  if first ~= 27 then
    if first < 0x80 then return bytes:sub(1, 1), 1 end
    local size = first > 0xF4 and 1 or first >= 0xF0 and 4 or first >= 0xE0 and 3 or first >= 0xC2 and 2 or 1
    if #bytes < size then return nil end
    local character = bytes:sub(1, size)
    if not character:find("^[\194-\244][\128-\191]+$") then return "ignore", 1 end
    return character, size
  end
  local kind, sequence = bytes:match("^\27([%[O])([%d;]*[%a~])")
  if kind then return SEQUENCES[sequence] or "ignore", 2 + #sequence end
  if bytes:find("^\27[%[O]?[%d;]*$") and #bytes < KEY_BYTES_MAX then return nil end
  return META[bytes:sub(2, 2)] or "ignore", 2
end

local function press_in_search(self, key)
  if key == "\127" or key == "\8" then
    refine(self, (self.search.query:gsub("[^\128-\191][\128-\191]*$", "")))
    return true
  elseif key == "\7" or key == "\3" then
    end_search(self, false)
    return true
  elseif key:byte() >= 32 and not KEYS[key] and key ~= "ignore" then
    refine(self, self.search.query .. key)
    return true
  elseif key ~= "\18" then
    end_search(self, true)
  end
end

local function press(self, key)
  if key == "ignore" then return end
  if self.is_pasting and key == "\9" then
    self:replace(0, "  ")
    return
  end
  if self.search and press_in_search(self, key) then return end
  local action = KEYS[key]
  if action then return action(self) end
  if key:byte() >= 32 then insert(self, key) end
end

--- Takes bytes of the terminal.
---@param bytes string
---@return znl.cli.EditorAction[]
function Editor:feed(bytes)
  local actions = {}
  bytes = self.pending .. bytes
  local at = 1
  while at <= #bytes do
    local key, size = next_key(bytes:sub(at, at + KEY_BYTES_MAX - 1))
    if not key then break end
    at = at + size
    actions[#actions + 1] = press(self, key)
  end
  self.pending = bytes:sub(at)
  return actions
end

--- Draws the line over what stands in the row of the cursor.
---@param columns integer  of the terminal
---@return string
function Editor:render(columns)
  local prompt = self.search and ("(search) '%s': "):format(self.search.query) or self.prompt
  local room = math.max(8, columns - text_width.of(prompt) - 1)
  local widths = {}
  for index, character in ipairs(self.characters) do widths[index] = text_width.of(character) end
  -- The part of the line that is shown begins after `scroll` characters and holds the cursor.
  local scroll = math.min(self.scroll, self.cursor)
  local before = 0
  for index = scroll + 1, self.cursor do before = before + widths[index] end
  while before > room do
    scroll = scroll + 1
    before = before - widths[scroll]
  end
  local shown, used = {}, 0
  for index = scroll + 1, #self.characters do
    used = used + widths[index]
    if used > room then break end
    local character = self.characters[index]
    shown[#shown + 1] = character:byte() < 32 and " " or character
  end
  self.scroll = scroll
  local column = text_width.of(prompt) + before
  return "\r" .. prompt .. table.concat(shown) .. "\27[K\r" .. (column > 0 and ("\27[%dC"):format(column) or "")
end

return M
