--- znl.options: reads an option table against a spec.
---
--- A spec maps each option name to a rule:
---   type      "integer" "number" "boolean" "string" "function" "table" "secret"
---             or "any", with `check` and `allowed`
---   default   used when the option is absent
---   required  absent is an error
---   min, max  of a number, or the length of a string in bytes
---   pattern   a Lua pattern a string must match
---   allowed   how an error describes what is accepted, in place of the generated words
---   check     function(value) -> false when it is refused, and which part of a table is to be shown; needs `allowed`
--- An unknown name or a bad value raises, and blames the line that gave it.
--- SPDX-License-Identifier: MIT

local secret = require("znl.secret")

local M = {}

local function is_integer(value)
  return type(value) == "number" and value == math.floor(value) and value > -math.huge
      and value < math.huge
end

local function in_range(rule, number)
  return (rule.min == nil or number >= rule.min) and (rule.max == nil or number <= rule.max)
end

local TYPES = {}

TYPES["integer"] = function(rule, value) return is_integer(value) and in_range(rule, value) end
TYPES["number"] = function(rule, value)
  return type(value) == "number" and value == value and in_range(rule, value)
      and value > -math.huge and value < math.huge
end
TYPES["boolean"] = function(_, value) return type(value) == "boolean" end
TYPES["any"] = function() return true end
TYPES["function"] = function(_, value) return type(value) == "function" end
TYPES["table"] = function(_, value) return type(value) == "table" end
TYPES["string"] = function(rule, value)
  return type(value) == "string" and in_range(rule, #value)
      and (rule.pattern == nil or value:find(rule.pattern) ~= nil)
end
TYPES["secret"] = function(_, value)
  return (type(value) == "string" and value ~= "") or secret.is(value)
end

local WORDS = {
  ["boolean"] = "true or false",
  ["function"] = "a function",
  ["table"] = "a table",
  ["secret"] = 'a text that is not empty or znl.secret("env:NAME")',
}

local function shown_number(number)
  return is_integer(number) and ("%d"):format(number) or tostring(number)
end

local function range_words(rule, thing)
  local words = thing
  if rule.min and rule.max then
    words = ("%s in %s..%s"):format(thing, shown_number(rule.min), shown_number(rule.max))
  elseif rule.min then
    words = ("%s of at least %s"):format(thing, shown_number(rule.min))
  elseif rule.max then
    words = ("%s of at most %s"):format(thing, shown_number(rule.max))
  end
  return words
end

local function allowed(rule)
  if rule.allowed then return rule.allowed end
  if rule.type == "integer" then return range_words(rule, "a whole number") end
  if rule.type == "number" then return range_words(rule, "a number") end
  if rule.type == "string" then
    return rule.min and rule.max and ("a text of %d to %d bytes"):format(rule.min, rule.max)
        or rule.min and rule.min > 0 and "a text that is not empty" or "a text"
  end
  return WORDS[rule.type]
end

--- What was given, for people. Never the content where a secret may stand.
local function shown(rule, value)
  local kind = type(value)
  if kind == "nil" then return "missing" end
  if kind == "number" or kind == "boolean" then return tostring(value) end
  if kind == "string" and rule.type ~= "secret" then
    return #value <= 60 and ("%q"):format(value) or ("a text of %d bytes"):format(#value)
  end
  if kind == "string" then return value == "" and "empty" or "a text" end
  return "a " .. kind
end

--- Edit distance, for "did you mean". Names are short; the cost does not matter.
local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], best
    end
  end
  return row[#b]
end

--- The one of `names` that was probably meant.
---@param given any
---@param names string[]
---@return string|nil
function M.nearest(given, names)
  if type(given) ~= "string" then return nil end
  -- Half of a short name is not a likeness.
  local nearest, least = nil, math.min(4, math.floor(#given / 2) + 1)
  for _, known in ipairs(names) do
    local steps = distance(given:lower(), known)
    if #given > 2 and known:find(given, 1, true) then steps = math.min(steps, least - 1) end
    if steps < least or (steps == least and nearest and known < nearest) then
      nearest, least = known, steps
    end
  end
  return nearest
end

local function unknown(spec, name, what)
  local names = {}
  for known in pairs(spec) do names[#names + 1] = known end
  table.sort(names)
  local nearest = M.nearest(name, names)
  local hint = nearest and ("; did you mean %s?"):format(nearest) or ""
  return ("%s: unknown option %s%s (options: %s)"):format(
    what, type(name) == "string" and ("%q"):format(name) or tostring(name), hint, table.concat(names, ", "))
end

--- Checks one value against a rule.
---@return boolean
---@return any part  the key of what is wrong in a table, if that is known
function M.accepts(rule, value)
  if not TYPES[rule.type](rule, value) then return false end
  if rule.check == nil then return true end
  local is_accepted, part = rule.check(value)
  return is_accepted ~= false, part
end

local function refusal(rule, what, name, value, part)
  if part ~= nil then name, value = ("%s[%s]"):format(name, tostring(part)), value[part] end
  return ("%s: option %s is %s; %s must be %s"):format(
    what, name, shown(rule, value), part == nil and "it" or "the option", allowed(rule))
end

--- Reads `given` by `spec` and returns a new table with defaults filled in.
---@param spec table<string, table>
---@param given table|nil  absent means no options
---@param what string  begins every error: "znl.master"
---@param level? integer  whom to blame, counted from the caller as in `error`; 2 is its caller
---@return table
function M.read(spec, given, what, level)
  level = (level or 2) + 1
  if given ~= nil and type(given) ~= "table" then
    error(("%s: options must be a table, not a %s"):format(what, type(given)), level)
  end
  given = given or {}
  for name in pairs(given) do
    if spec[name] == nil then error(unknown(spec, name, what), level) end
  end
  local result = {}
  for name, rule in pairs(spec) do
    local value = given[name]
    if value == nil and not rule.required then
      result[name] = rule.default
    else
      local is_accepted, part = false, nil
      if value ~= nil then is_accepted, part = M.accepts(rule, value) end
      if not is_accepted then error(refusal(rule, what, name, value, part), level) end
      result[name] = value
    end
  end
  return result
end

--- A spec with the rules of both; the second wins.
---@param base table<string, table>
---@param more table<string, table>
---@return table<string, table>
function M.extend(base, more)
  local spec = {}
  for name, rule in pairs(base) do spec[name] = rule end
  for name, rule in pairs(more) do spec[name] = rule end
  return spec
end

return M
