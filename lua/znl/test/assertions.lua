--- znl.test.assertions: what a test claims. Each raises a failure that names the line of the test.
--- SPDX-License-Identifier: MIT

local diff = require("znl.test.diff")
local pretty = require("znl.pretty")

local M = {}

--- What an assertion raises.
---@class znl.TestFailure
---@field message string
---@field detail? string  several lines
---@field source? string  path of the line that claimed
---@field line? integer
local Failure = {}
Failure.__index = Failure

function Failure:__tostring()
  local place = self.source and ("%s:%d: "):format(self.source, self.line) or ""
  return place .. self.message .. (self.detail and "\n" .. self.detail or "")
end

---@param value any
---@return boolean
function M.is_failure(value) return getmetatable(value) == Failure end

local listener

--- Who hears of each failure, wherever it is raised: one in another task than the test's would else
--- only be logged. One at a time; nil takes it back.
---@param fn fun(failure: znl.TestFailure)|nil
function M.listen(fn) listener = fn end

local function fail(message, note, detail)
  if note ~= nil then message = tostring(note) .. ": " .. message end
  local info = debug.getinfo(3, "Sl") -- who called the assertion
  local failure = setmetatable({ message = message, detail = detail }, Failure)
  if info and info.currentline > 0 then
    failure.source, failure.line = (info.source:gsub("^@", "")), info.currentline
  end
  if listener then listener(failure) end
  error(failure, 0)
end

--- Fails.
---@param message? string
function M.fail(message)
  fail(message == nil and "failed" or tostring(message))
end

--- Two values are the same one: `==`.
---@param actual any
---@param expected any
---@param note? string  begins the failure
function M.equal(actual, expected, note)
  if actual == expected then return end
  fail("not equal", note, diff.describe { { path = "", expected = expected, actual = actual } })
end

---@param actual any
---@param unexpected any
---@param note? string
function M.not_equal(actual, unexpected, note)
  if actual ~= unexpected then return end
  fail("is " .. pretty.format(actual, { bytes = 300 }) .. ", which it must not be", note)
end

--- Two values have the same content; tables are compared key by key.
---@param actual any
---@param expected any
---@param note? string
function M.same(actual, expected, note)
  local found = diff.find(expected, actual)
  if #found > 0 then fail("not the same", note, diff.describe(found)) end
end

--- A call went well: its first result is neither nil nor false. Returns the results.
---
---     local reply = t.ok(slave:request("hello"))
function M.ok(...)
  local value, message, code = ...
  if value then return ... end
  if message == nil then fail("is " .. tostring(value)) end
  fail(("failed: %s%s"):format(tostring(message), code ~= nil and (" (%s)"):format(tostring(code)) or ""))
end

--- A call failed with this code: `nil, message, code`. Returns the message.
---
---     t.fails("TIMEOUT", slave:request("hello", { timeout_ms = 10 }))
---@param code string
function M.fails(code, ...)
  local value, message, actual = ...
  if value ~= nil then
    fail(("expected it to fail with %s"):format(code), nil, "got       " .. pretty.format(value, { bytes = 300 }))
  end
  if actual == code then return message end
  fail("another code", nil, diff.describe { { path = "", expected = code, actual = actual } }
    .. "\nmessage   " .. tostring(message))
end

--- `fn` raises, with a message that has `pattern`, a Lua pattern, in it. Returns the message.
---@param fn function
---@param pattern? string
---@param note? string
---@return string message
function M.error(fn, pattern, note)
  if type(fn) ~= "function" then fail("t.error needs a function, not a " .. type(fn)) end
  local ok, err = pcall(fn)
  if ok then fail("no error was raised", note) end
  local text = tostring(err)
  if pattern ~= nil and not text:find(pattern) then
    fail("another error", note, ("expected  %s\ngot       %s"):format(
      pretty.quote(pattern), pretty.quote(text, 300)))
  end
  return text
end

--- A text has `pattern`, a Lua pattern, in it. Returns its captures.
---@param text string
---@param pattern string
---@param note? string
function M.match(text, pattern, note)
  if type(text) ~= "string" then
    fail(("a text was expected, not %s"):format(pretty.format(text, { bytes = 300 })), note)
  end
  if text:find(pattern) then return text:match(pattern) end
  fail("no match", note, ("pattern   %s\ngot       %s"):format(pretty.quote(pattern), pretty.quote(text, 300)))
end

return M
