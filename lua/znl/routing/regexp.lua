--- znl.routing.regexp: the regular expressions a route may put behind a parameter, `/n/:id(\d+)`.
---
--- A part of JavaScript's: characters, `.`, `[a-z]`, `\d \w \s \D \W \S`, `\.`, `(…)`, `(?:…)`, `|`,
--- and `* + ? {n} {n,} {n,m}`. Compiled to a list of states that are followed all at once, so the
--- time to match grows with the length of the text times the size of the expression and with
--- nothing else, whatever a peer sends. Works on bytes.
--- SPDX-License-Identifier: MIT

local M = {}

--- An expression is written by hand; past this size it is a mistake, such as `.{1000}`.
M.MAX_STATES = 1000
local MAX_REPEAT = 100

---@class znl.Regexp
---@field private op table<integer, "byte"|"split"|"done">
---@field private set table<integer, table<integer, boolean>>  the bytes a state accepts
---@field private to table<integer, integer>
---@field private other table<integer, integer>
---@field private start integer
local Regexp = {}
Regexp.__index = Regexp

local function range(set, from, to)
  for byte = from, to do set[byte] = true end
  return set
end

local function complement(set)
  local result = {}
  for byte = 0, 255 do
    if not set[byte] then result[byte] = true end
  end
  return result
end

local function digits() return range({}, 48, 57) end
local function words() return range(range(range({ [95] = true }, 48, 57), 65, 90), 97, 122) end
local function spaces() return range({ [32] = true }, 9, 13) end

local CLASSES = {
  d = digits, w = words, s = spaces,
  D = function() return complement(digits()) end,
  W = function() return complement(words()) end,
  S = function() return complement(spaces()) end,
}
local CONTROLS = { t = 9, n = 10, v = 11, f = 12, r = 13 }

local function fail(parser, message)
  error({ message = ("%s at character %d of (%s)"):format(message, parser.at, parser.text) }, 0)
end

local function peek(parser) return parser.text:sub(parser.at, parser.at) end

local function take(parser)
  local char = peek(parser)
  parser.at = parser.at + 1
  return char
end

--- The set behind a backslash, and its only byte if it has one.
local function escape(parser)
  local char = take(parser)
  if char == "" then fail(parser, "nothing behind \\") end
  if CLASSES[char] then return CLASSES[char](), nil end
  local byte = CONTROLS[char] or (char:find("%w") == nil and char:byte())
  if not byte then fail(parser, "\\" .. char .. " is not supported") end
  return { [byte] = true }, byte
end

local function class(parser)
  local set, negated = {}, peek(parser) == "^"
  if negated then take(parser) end
  while peek(parser) ~= "]" do
    local char = take(parser)
    if char == "" then fail(parser, "[ is never closed") end
    local part, low = nil, char:byte()
    if char == "\\" then part, low = escape(parser) end
    if low and peek(parser) == "-" and parser.text:find("^%-[^%]]", parser.at) then
      take(parser)
      local high = take(parser)
      local last = high:byte()
      if high == "\\" then last = select(2, escape(parser)) end
      if not last or last < low then fail(parser, "wrong range in [ ]") end
      range(set, low, last)
    elseif part then
      for byte in pairs(part) do set[byte] = true end
    else
      set[low] = true
    end
  end
  take(parser)
  return negated and complement(set) or set
end

local alternatives

--- A syntax tree: { "byte", set }, { "all", nodes }, { "any", nodes }, { "repeat", node, min, max }.
local function atom(parser)
  local char = take(parser)
  if char == "(" then
    if peek(parser) == "?" then
      if parser.text:sub(parser.at, parser.at + 1) ~= "?:" then fail(parser, "(? is not supported, except (?:") end
      parser.at = parser.at + 2
    end
    local node = alternatives(parser)
    if take(parser) ~= ")" then fail(parser, "( is never closed") end
    return node
  end
  if char == "[" then return { "byte", class(parser) } end
  if char == "\\" then return { "byte", (escape(parser)) } end
  if char == "." then return { "byte", complement { [10] = true, [13] = true } } end
  if char:find("[*+?{}]") then fail(parser, "nothing to repeat before " .. char) end
  if char:find("[%^%$]") then fail(parser, char .. " is not needed: the whole parameter is matched") end
  return { "byte", { [char:byte()] = true } }
end

local REPEATS = { ["*"] = { 0, nil }, ["+"] = { 1, nil }, ["?"] = { 0, 1 } }

local function repeated(parser)
  local node = atom(parser)
  local char = peek(parser)
  local min, max
  if REPEATS[char] then
    take(parser)
    min, max = REPEATS[char][1], REPEATS[char][2]
  elseif char == "{" then
    local low, comma, high, behind = parser.text:match("^{(%d+)(,?)(%d*)}()", parser.at)
    if not low or (comma == "" and high ~= "") then fail(parser, "{ needs {n}, {n,} or {n,m}") end
    min = tonumber(low)
    max = comma == "" and min or tonumber(high)
    if min > MAX_REPEAT or (max and (max > MAX_REPEAT or max < min)) then
      fail(parser, ("{n,m} needs n <= m <= %d"):format(MAX_REPEAT))
    end
    parser.at = behind
  else
    return node
  end
  if peek(parser):find("[*+?{]") then fail(parser, "two repeats in a row") end
  return { "repeat", node, min, max }
end

function alternatives(parser)
  local any = { "any", {} }
  parser.depth = parser.depth + 1
  if parser.depth > 20 then fail(parser, "parentheses are nested too deep") end
  repeat
    local all = { "all", {} }
    while peek(parser) ~= "" and not peek(parser):find("[|)]") do
      table.insert(all[2], repeated(parser))
    end
    table.insert(any[2], all)
    local more = peek(parser) == "|"
    if more then take(parser) end
  until not more
  parser.depth = parser.depth - 1
  return any
end

local function state(self, op, to, other)
  local number = #self.op + 1
  if number > M.MAX_STATES then error({ message = "the expression is too large" }, 0) end
  self.op[number], self.to[number], self.other[number] = op, to or 0, other or 0
  return number
end

--- Adds the states of `node`, which go on at `next`; returns the first of them.
local function build(self, node, next)
  local kind = node[1]
  if kind == "byte" then
    local number = state(self, "byte", next)
    self.set[number] = node[2]
    return number
  elseif kind == "all" then
    for i = #node[2], 1, -1 do next = build(self, node[2][i], next) end
    return next
  elseif kind == "any" then
    local first = build(self, node[2][#node[2]], next)
    for i = #node[2] - 1, 1, -1 do
      first = state(self, "split", build(self, node[2][i], next), first)
    end
    return first
  end
  local inner, min, max = node[2], node[3], node[4]
  local first = next
  if max then
    for _ = min + 1, max do first = state(self, "split", build(self, inner, first), next) end
  else
    first = state(self, "split", 0, next)
    self.to[first] = build(self, inner, first)
  end
  for _ = 1, min do first = build(self, inner, first) end
  return first
end

--- Marks every state that can be reached from `number` without reading a byte.
local function add(self, list, marks, number)
  if marks[number] then return end
  marks[number] = true
  if self.op[number] == "split" then
    add(self, list, marks, self.to[number])
    add(self, list, marks, self.other[number])
  else
    list[#list + 1] = number
  end
end

--- Where a match that begins at `from` may end: an ascending array of the positions behind it.
---@param text string
---@param from integer
---@return integer[]
function Regexp:ends(text, from)
  local result, list = {}, {}
  add(self, list, {}, self.start)
  for at = from, #text + 1 do
    local byte, after, marks = text:byte(at), {}, {}
    for i = 1, #list do
      local number = list[i]
      if self.op[number] == "done" then
        result[#result + 1] = at
      elseif byte and self.set[number][byte] then
        add(self, after, marks, self.to[number])
      end
    end
    list = after
    if #list == 0 then break end
  end
  return result
end

--- Compiles an expression.
---@param text string
---@return znl.Regexp|nil
---@return string? message
---@return "INVALID"? code
function M.compile(text)
  local parser = { text = text, at = 1, depth = 0 }
  local self = setmetatable({ op = {}, set = {}, to = {}, other = {} }, Regexp)
  local ok, err = pcall(function()
    local tree = alternatives(parser)
    if parser.at <= #text then fail(parser, ") without (") end
    self.start = build(self, tree, state(self, "done"))
  end)
  if ok then return self end
  if type(err) ~= "table" then error(err, 0) end
  return nil, "regexp: " .. err.message, "INVALID"
end

return M
