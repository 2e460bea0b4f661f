--- znl.cluster.exports: which methods of a real client others may call, and what each of them is.
---
---   invoke       answered with a result
---   oneway       never answered
---   publish      oneway, remembered by who calls it, told again to a new leader
---   subscribe    of the real client only: `client:NAME(reg, listener)` subscribes
---   unsubscribe
---   close        of the real client only
--- SPDX-License-Identifier: MIT

local options = require("znl.options")

local M = {}

local KINDS = { invoke = true, oneway = true, publish = true, subscribe = true, unsubscribe = true, close = true }
--- One method each, called this unless told otherwise.
local SINGLE = { "publish", "subscribe", "unsubscribe", "close" }
--- Functions of an object that are no methods for others.
local PRIVATE = {
  ready = true, init = true, new = true, on = true, once = true, off = true, emit = true,
  publish = true, subscribe = true, unsubscribe = true, close = true,
}
--- Classes above classes that are looked at.
local PARENTS_MAX = 16

local ENTRY_SPEC = {
  kind = { type = "string", default = "invoke", check = function(kind) return KINDS[kind] ~= nil end,
    allowed = '"invoke", "oneway", "publish", "subscribe", "unsubscribe" or "close"' },
  retry = { type = "boolean", default = false },
}

---@class znl.ClusterMethod
---@field name string
---@field kind string
---@field retry boolean  sent again to a new leader when the one before has gone meanwhile

---@class znl.ClusterExports
---@field methods table<string, znl.ClusterMethod>  that can be called from outside
---@field all table<string, znl.ClusterMethod>  with those of the real client only
---@field publish string  names
---@field subscribe string
---@field unsubscribe string
---@field close string

local function is_name(name) return type(name) == "string" and name ~= "" and #name <= 256 end

local function entry_of(name, given, what, level)
  if not is_name(name) then
    error(("%s: option methods has a name that is no text of 1 to 256 bytes"):format(what), level + 1)
  end
  local entry = type(given) == "table" and given or { kind = given }
  entry = options.read(ENTRY_SPEC, entry, ("%s: method %s"):format(what, name), level + 1)
  if entry.retry and entry.kind ~= "invoke" then
    error(("%s: method %s: only what is invoked can be sent again"):format(what, name), level + 1)
  end
  entry.name = name
  return entry
end

--- The functions of an object and of its classes, by name.
local function functions_of(object)
  local names, list, seen = {}, {}, 0
  while type(object) == "table" and seen < PARENTS_MAX do
    for name, value in pairs(object) do
      if type(name) == "string" and type(value) == "function" and not names[name] and not PRIVATE[name]
          and not name:find("^_") and not name:find("^on_") then
        names[name] = true
        list[#list + 1] = name
      end
    end
    local meta = getmetatable(object)
    object = type(meta) == "table" and rawget(meta, "__index") or nil
    seen = seen + 1
  end
  return list
end

--- Reads the option `methods`; without it all functions of the object are invoked.
---@param given table|nil
---@param object table|function|nil
---@param what string
---@param level integer
---@return znl.ClusterExports
function M.read(given, object, what, level)
  local all, exports = {}, {}
  if given == nil then
    if type(object) == "function" then
      error(what .. ": option methods must list the methods, for the client is made by a function", level + 1)
    end
    given = functions_of(object or {})
  end
  for name, value in pairs(given) do
    if type(name) == "number" then name, value = value, "invoke" end
    local entry = entry_of(name, value, what, level + 1)
    if all[name] then error(("%s: method %s is listed twice"):format(what, name), level + 1) end
    all[name] = entry
    for _, kind in ipairs(SINGLE) do
      if entry.kind == kind then
        if exports[kind] then
          error(("%s: methods %s and %s are both of kind %s"):format(what, exports[kind], name, kind), level + 1)
        end
        exports[kind] = name
      end
    end
  end
  for _, kind in ipairs(SINGLE) do
    if not exports[kind] then
      exports[kind] = kind
      all[kind] = all[kind] or { name = kind, kind = kind, retry = false }
    end
  end
  exports.all, exports.methods = all, {}
  for name, entry in pairs(all) do
    if entry.kind == "invoke" or entry.kind == "oneway" or entry.kind == "publish" then
      exports.methods[name] = entry
    end
  end
  return exports
end

return M
