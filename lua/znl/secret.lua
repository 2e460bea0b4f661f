--- znl.secret: a key that is named, not written down.
---
--- The object holds where the text is kept; the text itself is fetched by `resolve` and never
--- stored, printed or logged here.
--- SPDX-License-Identifier: MIT

local M = {}

---@class znl.Secret
local Secret = {}
Secret.__index = Secret
Secret.__metatable = "znl.secret"

-- Kept outside the object, so that dumping a table of options shows no more than the type.
local sources = setmetatable({}, { __mode = "k" })

function Secret:__tostring()
  local source = sources[self]
  return ("secret(%s:%s)"):format(source.kind, source.name)
end

local FETCH = {}

function FETCH.env(name)
  local text = os.getenv(name)
  if text == nil then return nil, "the variable is not set" end
  return text
end

function FETCH.file(path)
  local file, message = io.open(path, "rb")
  if not file then return nil, message end
  local text, read_message = file:read("*a")
  file:close()
  if not text then return nil, read_message or "the file cannot be read" end
  -- Editors and `echo` end a file with a newline that is not part of the key.
  return (text:gsub("\r?\n$", "", 1))
end

local function fetch(self, level)
  local source = sources[self]
  local text, message = FETCH[source.kind](source.name)
  if text == "" then text, message = nil, "it is empty" end
  if not text then error(("%s: %s"):format(tostring(self), message), level > 0 and level + 1 or 0) end
  return text
end

--- The text of the secret, read now. Raises when it is not set, missing or empty.
---@return string
function Secret:resolve()
  local text = fetch(self, 2) -- no tail call: the error blames the caller
  return text
end

--- Names a secret: `"env:NAME"` for an environment variable, `"file:PATH"` for a file, of which one
--- newline at the end is dropped.
---@param reference string
---@return znl.Secret
function M.new(reference)
  local kind, name
  if type(reference) == "string" then kind, name = reference:match("^(%a+):(.+)$") end
  if not FETCH[kind or ""] then
    -- What was given may be the key itself: do not repeat it.
    error('znl.secret: takes "env:NAME" or "file:PATH"', 2)
  end
  local self = setmetatable({}, Secret)
  sources[self] = { kind = kind, name = name }
  return self
end

---@param value any
---@return boolean
function M.is(value)
  return type(value) == "table" and sources[value] ~= nil
end

--- The text behind a secret or a string. Raises like `resolve`, and blames no line: callers say which option it is.
---@param value znl.Secret|string
---@return string
function M.text(value)
  if type(value) == "string" then return value end
  return fetch(value, 0)
end

--- Whether it is a text, a secret, or a list of these; none of them empty.
---@param value any
---@return boolean
function M.is_list(value)
  if type(value) == "string" then return value ~= "" end
  if M.is(value) then return true end
  if type(value) ~= "table" or #value == 0 then return false end
  for _, one in ipairs(value) do
    if not (M.is(one) or type(one) == "string" and one ~= "") then return false end
  end
  return true
end

--- The texts behind one of these. Raises like `text`.
---@param value znl.Secret|string|(znl.Secret|string)[]|nil
---@return string[]|nil
function M.texts(value)
  if value == nil then return nil end
  if type(value) ~= "table" or M.is(value) then value = { value } end
  local list = {}
  for index, one in ipairs(value) do list[index] = M.text(one) end
  return list
end

return M
