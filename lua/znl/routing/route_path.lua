--- znl.routing.route_path: reads the path of a route, `/users/:id`, into the segments the router keeps.
---
--- The notation is that of the micro protocol (rou3): `:name` one segment, `:name?` one or none,
--- `:name+` and `:name*` the rest, `:name(regexp)`, `:name.json`, `*` one segment, `**` and `**:name`
--- the rest. What would never match, or not as it looks, is refused.
--- SPDX-License-Identifier: MIT

local regexp = require("znl.routing.regexp")

local M = {}

M.MAX_BYTES = 1024
M.MAX_SEGMENTS = 64
--- Each `?` and each `*` behind a name doubles the paths a route stands for.
local MAX_OPTIONAL = 4
--- Longer values do not match a parameter with a regexp or with text around it: finding where its
--- parts meet takes time that grows with the square of the length.
local MAX_MATCHED_BYTES = 255

---@alias znl.PathPiece string|{ name: string, regexp?: znl.Regexp }

---@class znl.PathSegment
---@field kind "static"|"param"|"wildcard"
---@field text? string  of a static one
---@field name? string  of a parameter without pieces, and of a wildcard
---@field optional? boolean  `*` and `**`: may be missing at the end
---@field pieces? znl.PathPiece[]  texts and parameters the segment is made of

local function refuse(path, message)
  error({ path = path, message = message }, 0)
end

--- Splits at slashes that are not inside parentheses.
local function split(path)
  local segments, from, depth, at = {}, 2, 0, 2
  while at <= #path do
    local char = path:sub(at, at)
    if char == "\\" and depth > 0 then
      at = at + 1
    elseif char == "(" then
      depth = depth + 1
    elseif char == ")" then
      depth = depth - 1
      if depth < 0 then refuse(path, "there is a ) without (") end
    elseif char == "/" then
      if depth > 0 then refuse(path, "a regexp cannot hold a /, it matches within one segment") end
      segments[#segments + 1] = path:sub(from, at - 1)
      from = at + 1
    end
    at = at + 1
  end
  if depth > 0 then refuse(path, "a ( is never closed") end
  segments[#segments + 1] = path:sub(from)
  while segments[#segments] == "" do segments[#segments] = nil end
  return segments
end

--- Behind the parenthesis that closes the one at `at`; split has made sure that there is one.
local function behind_group(text, at)
  local depth = 0
  repeat
    local char = text:sub(at, at)
    if char == "\\" then at = at + 1 end
    if char == "(" then depth = depth + 1 elseif char == ")" then depth = depth - 1 end
    at = at + 1
  until depth == 0 or at > #text
  return at
end

local function pieces_of(path, segment)
  local pieces, at = {}, 1
  while at <= #segment do
    local name, behind = segment:match("^:([%w_]+)()", at)
    if name then
      local piece = { name = name }
      if segment:sub(behind, behind) == "(" then
        local after = behind_group(segment, behind)
        local message
        piece.regexp, message = regexp.compile(segment:sub(behind + 1, after - 2))
        if not piece.regexp then refuse(path, message) end
        behind = after
      end
      pieces[#pieces + 1] = piece
    else
      if segment:find("^:", at) then
        refuse(path, "a parameter needs a name of letters, digits and _, as in :id" ..
          (segment:find("^:%.%.%.", at) and "; the rest of a path is **:name" or ""))
      end
      if segment:find("^%(", at) then refuse(path, "a regexp stands behind a parameter, as in :id(\\d+)") end
      name, behind = segment:match("^([^:(]+)()", at)
      pieces[#pieces + 1] = name
    end
    at = behind
  end
  if #pieces > 8 then refuse(path, "one segment has too many parts") end
  return pieces
end

--- One segment; `unnamed` is how many `*` came before it.
local function segment_of(path, text, unnamed)
  if text:sub(1, 2) == "**" then
    local name = text:match("^%*%*:([%w_-]+)$")
    if text ~= "**" and not name then refuse(path, "** stands alone in its segment, or as **:name") end
    return { kind = "wildcard", name = name or "_", optional = name == nil }
  end
  if text == "*" then return { kind = "param", name = tostring(unnamed), optional = true } end
  if text == "." or text == ".." then
    refuse(path, "a segment . or .. is never reached, they are resolved in a request")
  end
  if not text:find("[:(]") then
    if text:find("[*{}\\]") then
      refuse(path, "the characters * { } \\ have no meaning here; * and ** stand alone in a segment")
    end
    return { kind = "static", text = text }
  end
  local name = text:match("^:([%w_-]+)$")
  if name then return { kind = "param", name = name } end
  local pieces = pieces_of(path, text)
  return { kind = "param", pieces = pieces }
end

--- The paths without `?`, `+` and `*` behind a name that `texts` stands for.
local function expand(path, texts, depth)
  for i, text in ipairs(texts) do
    -- The end is a name or a group, so that the `?` of `:name.json?` is none.
    local before, mark = text:match("^(.*:[%w_-]+)([?+*])$")
    if not before then before, mark = text:match("^(.*:[%w_-]+%(.*%))([?+*])$") end
    if before then
      if depth == MAX_OPTIONAL then refuse(path, "it has too many optional parts") end
      local name = before:match("^:([%w_-]+)$")
      if mark ~= "?" and not name then refuse(path, mark .. " stands behind :name alone") end
      local with, without = { unpack(texts) }, { unpack(texts) }
      with[i] = mark == "?" and before or "**:" .. name
      table.remove(without, i)
      local result = expand(path, with, depth + 1)
      if mark ~= "+" then
        for _, more in ipairs(expand(path, without, depth + 1)) do result[#result + 1] = more end
      end
      return result
    end
  end
  return { texts }
end

local function check_names(path, segments)
  local seen = {}
  local function see(name)
    if seen[name] then refuse(path, ("it names the parameter %s twice"):format(name)) end
    seen[name] = true
  end
  for _, segment in ipairs(segments) do
    if segment.name then see(segment.name) end
    for _, piece in ipairs(segment.pieces or {}) do
      if type(piece) == "table" then see(piece.name) end
    end
  end
end

local function read(path)
  local texts = split(path)
  if #texts > M.MAX_SEGMENTS then refuse(path, ("it has more than %d segments"):format(M.MAX_SEGMENTS)) end
  local variants = {}
  for number, expanded in ipairs(expand(path, texts, 0)) do
    local segments, unnamed = {}, 0
    for i, text in ipairs(expanded) do
      local segment = segment_of(path, text, unnamed)
      if text == "*" then unnamed = unnamed + 1 end
      if segment.kind == "wildcard" and i < #expanded then
        refuse(path, "nothing can follow what matches the rest of a path")
      end
      segments[i] = segment
    end
    check_names(path, segments)
    variants[number] = segments
  end
  return variants
end

--- Reads a path.
---@param path any
---@return znl.PathSegment[][]|nil variants  more than one when parts of it are optional
---@return string? message
function M.parse(path)
  if type(path) ~= "string" then return nil, "the path must be a text, not a " .. type(path) end
  if path:sub(1, 1) ~= "/" then return nil, ("the path %q must begin with /"):format(path) end
  if #path > M.MAX_BYTES then return nil, ("a path has at most %d bytes"):format(M.MAX_BYTES) end
  if path:find("%c") then return nil, ("the path %q has a control character"):format(path) end
  local ok, result = pcall(read, path)
  if ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  return nil, ("the path %q is wrong: %s"):format(path, result.message)
end

--- The path without slashes at its end, by which a route is known.
---@param path string
---@return string
function M.identity(path)
  local text = path:gsub("/+$", "")
  return text == "" and "/" or text
end

local function match_from(pieces, text, number, at, dead, params)
  local piece = pieces[number]
  if piece == nil then return at == #text + 1 end
  local key = number * (MAX_MATCHED_BYTES + 2) + at
  if dead[key] then return false end
  if type(piece) == "string" then
    if text:sub(at, at + #piece - 1) == piece
        and match_from(pieces, text, number + 1, at + #piece, dead, params) then
      return true
    end
  else
    local ends = piece.regexp and piece.regexp:ends(text, at)
    for i = ends and #ends or #text + 1, ends and 1 or at + 1, -1 do
      local behind = ends and ends[i] or i
      if match_from(pieces, text, number + 1, behind, dead, params) then
        params[piece.name] = text:sub(at, behind - 1)
        return true
      end
    end
  end
  dead[key] = true
  return false
end

--- Matches one segment of a request against pieces and adds what they name to `params`.
---@param pieces znl.PathPiece[]
---@param text string
---@param params table<string, string>
---@return boolean
function M.match_pieces(pieces, text, params)
  return #text <= MAX_MATCHED_BYTES and match_from(pieces, text, 1, 1, {}, params)
end

return M
