--- znl.routing.schema: checks decoded JSON against a part of JSON Schema.
---
--- A schema is a table with the words of JSON Schema: `type` (one name or an array of them),
--- `properties`, `required`, `additionalProperties` (false or a schema), `items`, `enum`, `const`,
--- `minimum`, `maximum`, `minLength`, `maxLength` (in characters), `pattern`, `minItems`, `maxItems`.
--- `title` and `description` are allowed and ignored; another word is an error. Not as in JSON Schema:
--- `pattern` is a Lua pattern. As there, a word says nothing about values of another type, so name the
--- type too.
---
--- A schema is compiled into functions once; checking makes no table. An empty Lua table is an empty
--- array, and also an empty object unless it was read as an array (`znl.json`).
--- SPDX-License-Identifier: MIT

local json = require("znl.json")

local M = {}

--- A schema that contains itself would never end.
local MAX_DEPTH = 50

---@class znl.Schema
---@field type? string|string[]  object array string number integer boolean null
---@field properties? table<string, znl.Schema>
---@field required? string[]
---@field additionalProperties? boolean|znl.Schema
---@field items? znl.Schema
---@field enum? any[]
---@field const? any
---@field minimum? number
---@field maximum? number
---@field minLength? integer
---@field maxLength? integer
---@field pattern? string  a Lua pattern; `^` and `$` bind it to the ends
---@field minItems? integer
---@field maxItems? integer
---@field title? string
---@field description? string

---@alias znl.SchemaCheck fun(value: any, path: string): string|nil  what is wrong, nil: nothing

local function is_array(value)
  return type(value) == "table" and (#value > 0 or next(value) == nil)
end

local function is_object(value)
  if type(value) ~= "table" then return false end
  local key = next(value)
  return type(key) == "string" or (key == nil and not json.is_array(value))
end

local TYPES = {
  object = is_object,
  array = is_array,
  string = function(value) return type(value) == "string" end,
  number = function(value) return type(value) == "number" or json.is_long(value) end,
  integer = function(value)
    return (type(value) == "number" and value % 1 == 0) or json.is_long(value)
  end,
  boolean = function(value) return type(value) == "boolean" end,
  null = function(value) return value == nil or value == json.null end,
}

local function equal(a, b, depth)
  if a == nil then a = json.null end -- how null arrives at the top
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or depth > MAX_DEPTH then return false end
  for key, value in pairs(a) do
    if not equal(value, b[key], depth + 1) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

--- A value as JSON, for messages.
local function shown(value)
  local text = json.encode(value)
  if not text then return tostring(value) end
  return #text <= 60 and text or text:sub(1, 60) .. "..."
end

--- `data.user`, `data["first name"]`: names come from the peer and may hold anything.
local function member(path, name)
  name = tostring(name)
  if name:find("^[%a_][%w_]*$") and #name <= 60 then return path .. "." .. name end
  return ("%s[%s]"):format(path, shown(name:sub(1, 60)))
end

local function characters(text)
  local _, continuation = text:gsub("[\128-\191]", "")
  return #text - continuation
end

--- Each word: what it must be given, and the check it makes of that.
local WORDS = {}
local compile

local function is_count(value) return type(value) == "number" and value >= 0 and value % 1 == 0 end
local function is_number(value) return type(value) == "number" and value == value end

local function list_of_names(value)
  if not is_array(value) then return false end
  for _, name in ipairs(value) do
    if type(name) ~= "string" then return false end
  end
  return true
end

WORDS.type = {
  accepts = function(value)
    for _, name in ipairs(type(value) == "table" and value or { value }) do
      if TYPES[name] == nil then return false end
    end
    return type(value) == "string" or (is_array(value) and #value > 0)
  end,
  allowed = "object, array, string, number, integer, boolean, null, or an array of these",
  make = function(value)
    local names = type(value) == "table" and value or { value }
    local message = ": must be " .. table.concat(names, " or ")
    return function(data, path)
      for i = 1, #names do
        if TYPES[names[i]](data) then return nil end
      end
      return path .. message
    end
  end,
}

WORDS.const = {
  accepts = function() return true end,
  make = function(value)
    return function(data, path)
      if not equal(data, value, 0) then return ("%s: must be %s"):format(path, shown(value)) end
    end
  end,
}

WORDS.enum = {
  accepts = function(value) return is_array(value) and #value > 0 end,
  allowed = "an array of values",
  make = function(value)
    local texts = {}
    for i, item in ipairs(value) do texts[i] = shown(item) end
    local message = ": must be one of " .. table.concat(texts, ", ")
    return function(data, path)
      for i = 1, #value do
        if equal(data, value[i], 0) then return nil end
      end
      return path .. message
    end
  end,
}

--- A word that compares something measurable of values of one type.
local function bound(kind, measure, is_wrong, words, accepts)
  return {
    accepts = accepts,
    allowed = accepts == is_count and "a whole number of at least 0" or "a number",
    make = function(limit)
      return function(data, path)
        if TYPES[kind](data) and is_wrong(measure(data), limit) then
          return ("%s: must %s"):format(path, words:format(("%.14g"):format(limit)))
        end
      end
    end,
  }
end

--- As a double: numbers of the FFI compare with others as whole numbers of one sign.
local function amount(value) return tonumber(value) end
local function size(value) return #value end
-- NaN is outside of every bound.
local function below(value, limit) return value < limit or value ~= value end
local function above(value, limit) return value > limit or value ~= value end

WORDS.minimum = bound("number", amount, below, "be at least %s", is_number)
WORDS.maximum = bound("number", amount, above, "be at most %s", is_number)
WORDS.minLength = bound("string", characters, below, "have at least %s characters", is_count)
WORDS.maxLength = bound("string", characters, above, "have at most %s characters", is_count)
WORDS.minItems = bound("array", size, below, "have at least %s items", is_count)
WORDS.maxItems = bound("array", size, above, "have at most %s items", is_count)

WORDS.pattern = {
  accepts = function(value) return type(value) == "string" and (pcall(string.find, "", value)) end,
  allowed = "a Lua pattern",
  make = function(value)
    return function(data, path)
      if type(data) == "string" and not data:find(value) then
        return ("%s: must match %s"):format(path, value)
      end
    end
  end,
}

WORDS.required = {
  accepts = list_of_names,
  allowed = "an array of names",
  make = function(value)
    return function(data, path)
      if not is_object(data) then return nil end
      for i = 1, #value do
        if data[value[i]] == nil then return member(path, value[i]) .. ": must be there" end
      end
    end
  end,
}

WORDS.properties = {
  accepts = is_object,
  allowed = "a table from names to schemas",
  make = function(value, context)
    local names, checks = {}, {}
    for name, schema in pairs(value) do
      names[#names + 1] = name
      checks[name] = compile(schema, context, name)
    end
    table.sort(names) -- the same mistake gives the same message
    return function(data, path)
      if not is_object(data) then return nil end
      for i = 1, #names do
        local item = data[names[i]]
        local problem = item ~= nil and checks[names[i]](item, member(path, names[i]))
        if problem then return problem end
      end
    end
  end,
}

WORDS.additionalProperties = {
  accepts = function(value) return type(value) == "boolean" or is_object(value) end,
  allowed = "true, false or a schema",
  make = function(value, context, schema)
    if value == true then return function() end end
    local known = schema.properties or {}
    local check = value and compile(value, context, "additionalProperties")
    return function(data, path)
      if not is_object(data) then return nil end
      for name, item in pairs(data) do
        if known[name] == nil then
          local problem = member(path, name) .. ": must not be there"
          if check then problem = check(item, member(path, name)) end
          if problem then return problem end
        end
      end
    end
  end,
}

WORDS.items = {
  accepts = is_object,
  allowed = "a schema",
  make = function(value, context)
    local check = compile(value, context, "items")
    return function(data, path)
      if not is_array(data) then return nil end
      for i = 1, #data do
        -- Counted from 0, as whoever sent the JSON counts.
        local problem = check(data[i], ("%s[%d]"):format(path, i - 1))
        if problem then return problem end
      end
    end
  end,
}

local IGNORED = { title = true, description = true }
--- The type first: the other words speak of values of one type.
local ORDER = {
  "type", "const", "enum", "minimum", "maximum", "maxLength", "minLength", "maxItems", "minItems",
  "pattern", "required", "properties", "additionalProperties", "items",
}

local function refuse(context, message)
  error({ message = ("%s: the schema %s%s"):format(context.what,
    #context.path > 0 and "of " .. table.concat(context.path, ".") .. " " or "", message) }, 0)
end

function compile(schema, context, name)
  context.path[#context.path + 1] = name
  if #context.path > MAX_DEPTH then refuse({ what = context.what, path = {} }, "nests too deep") end
  if type(schema) ~= "table" then refuse(context, "must be a table, not a " .. type(schema)) end
  for word in pairs(schema) do
    if WORDS[word] == nil and not IGNORED[word] then
      refuse(context, ("has an unknown word, %s (known: %s)"):format(tostring(word), table.concat(ORDER, ", ")))
    end
  end
  local checks = {}
  for _, word in ipairs(ORDER) do
    local value = schema[word]
    if value ~= nil then
      if not WORDS[word].accepts(value) then
        refuse(context, ("has %s = %s; it must be %s"):format(word, shown(value), WORDS[word].allowed))
      end
      checks[#checks + 1] = WORDS[word].make(value, context, schema)
    end
  end
  context.path[#context.path] = nil
  return function(data, path)
    for i = 1, #checks do
      local problem = checks[i](data, path)
      if problem then return problem end
    end
  end
end

--- Makes a check of a schema. Raises when the schema itself is wrong.
---@param schema znl.Schema
---@param what? string  begins an error
---@param level? integer  whom to blame, counted from the caller as in `error`
---@return znl.SchemaCheck
function M.compile(schema, what, level)
  local context = { what = what or "schema", path = {} }
  local ok, result = pcall(compile, schema, context)
  if ok then return result end
  error(type(result) == "table" and result.message or result, (level or 1) + 1)
end

return M
