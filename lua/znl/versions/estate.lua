--- znl.versions.estate: what a version of a script hands down to the next: its nodes, its handlers, and what it
--- keeps by name.
---
--- A thing is declared by kind, name and options. The next version that declares it with the same
--- options gets the same object, connections and all; with other options a new one takes its place, and
--- what is not declared again ends. Outside of `znlrun --watch` there is no estate, and every
--- declaration makes a new thing.
--- SPDX-License-Identifier: MIT

local scope = require("znl.versions.scope")

local M = {}

---@class znl.EstateEntry
---@field kind string
---@field object any
---@field options any
---@field finish fun(object: any)  ends it
---@field is_heir? boolean  it came from the version before
---@field is_displaced? boolean  ended for the sake of a newer one, whose version may yet fail
---@field was_running? boolean  when it was displaced

---@class znl.Estate
---@field entries table<string, znl.EstateEntry>
local Estate = {}
Estate.__index = Estate

--- The estate of a version; `previous` is that of the version in service.
---@param previous? znl.Estate
---@return znl.Estate
function M.new(previous)
  return setmetatable({ entries = {}, previous = previous }, Estate)
end

--- Objects among options may lead back to themselves: what is being compared counts as equal meanwhile.
local function equal(a, b, under_way)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or getmetatable(a) ~= getmetatable(b) then return false end
  under_way = under_way or {}
  if under_way[a] == b then return true end
  under_way[a] = b
  for key, value in pairs(a) do
    if not equal(value, b[key], under_way) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function copy(value)
  if type(value) ~= "table" or getmetatable(value) then return value end
  local result = {}
  for key, inner in pairs(value) do result[key] = copy(inner) end
  return result
end

--- The thing of this kind and name: that of the version before, if it had one with equal options, else
--- what `make` returns.
---@param kind string
---@param name string
---@param options any  compared by value
---@param make fun(): any  nil, message when it cannot be had
---@param finish fun(object: any)
---@return any object
---@return string? message  of `make`
function M.take(kind, name, options, make, finish)
  local current = scope.current()
  local estate = current and current.estate
  if not estate then return make() end
  local key = kind .. "\0" .. tostring(name)
  if estate.entries[key] then return make() end -- two of one name: nobody can tell which is which
  local before = estate.previous and estate.previous.entries[key]
  if before and equal(before.options, options) then
    estate.entries[key] = {
      kind = kind, object = before.object, options = before.options, finish = finish, is_heir = true,
    }
    return before.object
  end
  local object, message, code = make()
  if object == nil then return nil, message, code end
  estate.entries[key] = { kind = kind, object = object, options = copy(options), finish = finish }
  return object
end

local function have_one_endpoint(a, b)
  local places = {}
  for _, endpoint in ipairs(a.endpoints or { a.endpoint or "" }) do places[endpoint] = true end
  for _, endpoint in ipairs(b.endpoints or { b.endpoint or "" }) do
    if places[endpoint] then return true end
  end
  return false
end

--- Whether two things of one kind, by their options, would listen at one place. No endpoint is the default
--- one; what has a namespace listens on a port, and without one wherever there is room. Clusters share theirs.
local function need_one_place(a, b)
  if a.name ~= nil then return false end
  if a.listen ~= nil then return a.listen == b.listen and not a.listen:find(":0$") end
  if a.namespace == nil then return have_one_endpoint(a, b) end
  return a.port ~= nil and a.port ~= 0 and a.port == b.port
end

local function is_in_the_way(estate, key, before, entry)
  local taken = estate.entries[key]
  if before.is_displaced or (taken and taken.is_heir) then return false end
  return taken == entry or before.kind == entry.kind and need_one_place(before.options, entry.options)
end

--- A node that is new in this version is about to start: ends those of the version before that it
--- replaces, or whose endpoint it needs. They come back if this version fails after all.
---@param object any
function M.make_room(object)
  local current = scope.current()
  local estate = current and current.estate
  if not estate or not estate.previous then return end
  for _, entry in pairs(estate.entries) do
    if entry.object == object and not entry.is_heir then
      for key, before in pairs(estate.previous.entries) do
        if is_in_the_way(estate, key, before, entry) then
          before.is_displaced = true
          before.was_running = before.object:running()
          before.finish(before.object)
        end
      end
    end
  end
end

--- The version of this estate serves: what it did not take over ends.
function Estate:commit()
  local previous = self.previous
  self.previous = nil
  for key, before in pairs(previous and previous.entries or {}) do
    local entry = self.entries[key]
    if not (entry and entry.is_heir) and not before.is_displaced then before.finish(before.object) end
  end
  for _, entry in pairs(self.entries) do entry.is_heir = nil end
end

--- The version of this estate failed: what it made ends, and what it displaced comes back.
---@return string|nil message  what did not come back, and why
function Estate:abandon()
  for _, entry in pairs(self.entries) do
    if not entry.is_heir then entry.finish(entry.object) end
  end
  self.entries = {}
  local trouble
  for _, before in pairs(self.previous and self.previous.entries or {}) do
    if before.is_displaced then
      before.is_displaced = nil
      if before.was_running then
        local ok, message = before.object:start()
        if not ok then trouble = message end
      end
    end
  end
  return trouble
end

return M
