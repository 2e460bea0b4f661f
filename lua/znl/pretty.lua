--- znl.pretty: values as text for people, in Lua's own notation where it has one.
---
--- Keys are sorted, so that equal tables read alike. Metatables are not asked, except __tostring of
--- objects that have one; nothing here raises, whatever such a function does.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.PrettyOptions
---@field width? integer  columns a table may take on one line; default 80
---@field depth? integer  tables inside each other that are shown; default 6
---@field items? integer  entries of one table that are shown; default 200
---@field bytes? integer  of one string; default 2000

local DEFAULTS = { width = 80, depth = 6, items = 200, bytes = 2000 }

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

--- A string as Lua would read it back, on one line.
---@param text string
---@param max? integer  bytes shown
---@return string
function M.quote(text, max)
  local rest = ""
  if max and #text > max then
    rest = (" … %d bytes in all"):format(#text)
    text = text:sub(1, max)
  end
  local quoted = text:gsub('[%c\\"\127]', function(c) return ESCAPES[c] or ("\\%03d"):format(c:byte()) end)
  return '"' .. quoted .. '"' .. rest
end

local function number(value)
  if value ~= value then return "nan" end
  if value == math.huge then return "inf" end
  if value == -math.huge then return "-inf" end
  if value == math.floor(value) and math.abs(value) < 2 ^ 53 then return ("%d"):format(value) end
  local short = ("%.14g"):format(value)
  return tonumber(short) == value and short or ("%.17g"):format(value)
end

local function place_of(fn)
  local info = debug.getinfo(fn, "S")
  if info.what == "C" then return tostring(fn) end
  return ("function: %s:%d"):format(info.short_src, info.linedefined)
end

local function plain(value, opts)
  local kind = type(value)
  if kind == "string" then return M.quote(value, opts.bytes) end
  if kind == "number" then return number(value) end
  if kind == "function" then return place_of(value) end
  if kind == "nil" or kind == "boolean" then return tostring(value) end
  local ok, text = pcall(tostring, value)
  return ok and text or kind
end

local RANK = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local ka, kb = type(a), type(b)
  if ka ~= kb then return (RANK[ka] or 9) < (RANK[kb] or 9) or (RANK[ka] == RANK[kb] and ka < kb) end
  if ka == "number" or ka == "string" then return a < b end
  return tostring(a) < tostring(b)
end

--- The keys beside those of the array part, sorted.
---@param value table
---@return any[] keys
---@return integer length  of the array part
function M.keys(value)
  local length, keys = 0, {}
  while rawget(value, length + 1) ~= nil do length = length + 1 end
  for key in next, value do
    local in_array = type(key) == "number" and key >= 1 and key <= length and key == math.floor(key)
    if not in_array then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  return keys, length
end

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end

--- A key as it stands before "=".
---@param key any
---@return string
function M.key(key)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") and not KEYWORDS[key] then return key end
  return "[" .. plain(key, DEFAULTS) .. "]"
end

local render

local function render_table(value, opts, level, indent, above)
  if above[value] then return "<the table above>" end
  local meta = debug.getmetatable(value)
  if type(meta) == "table" and rawget(meta, "__tostring") then return plain(value, opts) end
  if next(value) == nil then return "{}" end
  if level >= opts.depth then return "{…}" end
  above[value] = true
  local keys, length = M.keys(value)
  local parts, inner = {}, indent .. "  "
  local total, shown = length + #keys, 0
  for index = 1, math.min(length, opts.items) do
    shown = shown + 1
    parts[shown] = render(rawget(value, index), opts, level + 1, inner, above)
  end
  for _, key in ipairs(keys) do
    if shown >= opts.items then break end
    shown = shown + 1
    parts[shown] = M.key(key) .. " = " .. render(rawget(value, key), opts, level + 1, inner, above)
  end
  if total > shown then parts[shown + 1] = ("… %d more"):format(total - shown) end
  above[value] = nil
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #indent + #line <= opts.width and not line:find("\n", 1, true) then return line end
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. "\n" .. indent .. "}"
end

function render(value, opts, level, indent, above)
  if type(value) ~= "table" then return plain(value, opts) end
  return render_table(value, opts, level, indent, above)
end

---@param value any
---@param opts? znl.PrettyOptions
---@return string
function M.format(value, opts)
  return render(value, setmetatable(opts or {}, { __index = DEFAULTS }), 0, "", {})
end

return M
