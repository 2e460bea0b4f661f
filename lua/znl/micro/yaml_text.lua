--- znl.micro.yaml_text: the text of a YAML file as JSON texts, one for each key of its mapping.
---
--- Scalars are those of the core schema of YAML 1.2, as the JavaScript registry reads them: `yes` and `on`
--- are texts, `0o17` is a number. Whole numbers keep all their digits, `{}` and `[]` stay apart, members
--- keep their order. What aliases unfold to is bounded. Pure: reads no file, never yields.
--- SPDX-License-Identifier: MIT

local json = require("znl.json")
local parser = require("yaml").parser

local M = {}

local DEPTH_MAX = 64

local function fail(event, text)
  local mark = event and event.start_mark
  error({ message = mark and ("line %d: %s"):format(mark.line + 1, text) or text }, 0)
end

local function number_text(value)
  -- JSON has neither of these; JavaScript writes null.
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  return (json.encode(value))
end

local WORDS = {
  [""] = "null", ["~"] = "null", null = "null", Null = "null", NULL = "null",
  ["true"] = "true", True = "true", TRUE = "true", ["false"] = "false", False = "false", FALSE = "false",
  [".nan"] = "null", [".NaN"] = "null", [".NAN"] = "null",
}

local function infinity(text)
  local word = text:match("^[-+]?%.(%a+)$")
  return word == "inf" or word == "Inf" or word == "INF"
end

--- The JSON text of a plain scalar.
local function plain(text)
  local word = WORDS[text]
  if word then return word end
  local sign, digits = text:match("^([-+]?)0*(%d+)$")
  if digits then return (sign == "-" and digits ~= "0" and "-" or "") .. digits end
  local octal = text:match("^0o([0-7]+)$")
  if octal then return number_text(tonumber(octal, 8)) end
  if text:find("^0x%x+$") then return number_text(tonumber(text)) end
  if text:find("^[-+]?%.?%d") and (text:find("^[-+]?%d*%.?%d*$") or text:find("^[-+]?%d*%.?%d*[eE][-+]?%d+$")) then
    local value = tonumber((text:gsub("^%+", "")))
    if value then return number_text(value) end
  end
  if infinity(text) then return "null" end
  return (json.encode(text))
end

local STRING_TAGS = { ["!"] = true, ["tag:yaml.org,2002:str"] = true }

local function scalar(event)
  local text = event.value
  if event.style ~= "PLAIN" or STRING_TAGS[event.tag or ""] then return { text = (json.encode(text)), name = text } end
  local encoded = plain(text)
  -- A key that is no text is named by what it says: `80:`, `true:`.
  return { text = encoded, name = encoded:sub(1, 1) == '"' and text or encoded }
end

local Reader = {}
Reader.__index = Reader

function Reader:next()
  local ok, event = pcall(self.parse)
  if ok then return event end
  local text, line = tostring(event):match("^([^\n]-) at document: %d+,? ?l?i?n?e?:? ?(%d*)")
  fail(nil, (line and line ~= "" and "line " .. line .. ": " or "") .. (text or tostring(event)))
end

local function put(map, event, name, value)
  if map.members[name] then fail(event, ("the key %q stands twice"):format(name)) end
  map.members[name], map.names[#map.names + 1] = value, name
end

local function merge(map, event, from)
  if not from.names then fail(event, "what << merges must be a mapping, or a list of mappings") end
  for _, name in ipairs(from.names) do
    if not map.members[name] then map.merged[#map.merged + 1] = { name, from.members[name] } end
  end
end

function Reader:mapping(start, depth)
  local map = { members = {}, names = {}, merged = {} }
  self:anchor(start, map)
  while true do
    local event = self:next()
    if event.type == "MAPPING_END" then break end
    local key = self:node(event, depth)
    if not key.name then fail(event, "a key must be a scalar") end
    local value = self:node(self:next(), depth)
    if key.name == "<<" and event.style == "PLAIN" then
      if value.items then
        for _, item in ipairs(value.items) do merge(map, event, item) end
      else
        merge(map, event, value)
      end
    else
      put(map, event, key.name, value)
    end
  end
  for _, pair in ipairs(map.merged) do -- its own members come first
    if not map.members[pair[1]] then put(map, start, pair[1], pair[2]) end
  end
  map.merged = nil
  return map
end

function Reader:sequence(start, depth)
  local list = { items = {} }
  self:anchor(start, list)
  while true do
    local event = self:next()
    if event.type == "SEQUENCE_END" then return list end
    list.items[#list.items + 1] = self:node(event, depth)
  end
end

function Reader:anchor(event, node)
  if event.anchor then self.anchors[event.anchor] = node end
end

function Reader:node(event, depth)
  if depth >= DEPTH_MAX then fail(event, ("more than %d levels"):format(DEPTH_MAX)) end
  local kind = event.type
  if kind == "MAPPING_START" then return self:mapping(event, depth + 1) end
  if kind == "SEQUENCE_START" then return self:sequence(event, depth + 1) end
  if kind == "ALIAS" then
    local node = self.anchors[event.anchor]
    if not node or node.merged then fail(event, ("there is no anchor %s yet"):format(event.anchor)) end
    return node
  end
  local node = scalar(event)
  self:anchor(event, node)
  return node
end

--- Appends the JSON of a node; `left` counts down what may still be written.
local function write(out, node, depth)
  if depth > DEPTH_MAX then error({ message = "an alias contains itself" }, 0) end
  local function add(text)
    out.left = out.left - #text
    if out.left < 0 then error({ message = ("unfolds to more than %d bytes"):format(out.limit) }, 0) end
    out[#out + 1] = text
  end
  if node.text then return add(node.text) end
  if node.items then
    add("[")
    for i, item in ipairs(node.items) do
      if i > 1 then add(",") end
      write(out, item, depth + 1)
    end
    return add("]")
  end
  add("{")
  for i, name in ipairs(node.names) do
    add((i > 1 and "," or "") .. json.encode(name) .. ":")
    write(out, node.members[name], depth + 1)
  end
  add("}")
end

local function read(text, max_bytes)
  local self = setmetatable({ parse = parser(text), anchors = {} }, Reader)
  local event = self:next()
  while event.type == "STREAM_START" or event.type == "DOCUMENT_START" do event = self:next() end
  if event.type == "STREAM_END" then return {} end
  local root = self:node(event, 0)
  event = self:next()
  while event.type == "DOCUMENT_END" do event = self:next() end
  if event.type ~= "STREAM_END" then fail(event, "one document is expected, not several") end
  local pairs_of, left = {}, max_bytes
  local function entry(name, node)
    local out = { left = left, limit = max_bytes }
    write(out, node, 1)
    left = out.left
    pairs_of[#pairs_of + 1] = { key = name, json = table.concat(out) }
  end
  if root.text == "null" then return {} end
  if root.text then error({ message = "the document is neither a mapping nor a list" }, 0) end
  for _, name in ipairs(root.names or {}) do entry(name, root.members[name]) end
  for index, item in ipairs(root.items or {}) do entry(tostring(index - 1), item) end
  return pairs_of
end

--- The members of the mapping that `text` is, in its order; of a list they are named "0", "1", …
---@param text string
---@param max_bytes integer  that all of it may unfold to
---@return {key: string, json: string}[]|nil
---@return string? message
function M.read(text, max_bytes)
  local ok, result = pcall(read, text, max_bytes)
  if ok then return result end
  if type(result) == "table" then return nil, result.message end
  return nil, (tostring(result):gsub("^[^\n]-:%d+: ", ""))
end

return M
