--- znl.micro.call_stream: the chunks of a stream of another application, and what its end means to the
--- breaker: an error is a failure, a complete end a success, a stream that is dropped neither.
---
---     for chunk in app:stream("files", "/lines", { name = "a" }) do … end
---
---     local stream = app:stream("files", "/lines", { name = "a" })
---     for chunk in stream do … end
---     local ok, message, code = stream:result()
--- SPDX-License-Identifier: MIT

local json = require("znl.json")

local M = {}

local GIVEN_UP = { CANCELLED = true, DEADLINE = true }

---@class znl.CallStream
---@field key string|nil  the instance it comes from
---@field private stream userdata|table|nil  of a connection
local CallStream = {}
CallStream.__index = CallStream
M.CallStream = CallStream

--- A stream that was dropped by everybody gives its probe back. Not for every stream: only half-open
--- instances hand out probes, and an object that is finalized costs more than one that is not.
local function guard(self, release)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = release
  self.guard = proxy
end

---@param key string
---@param stream userdata|table  with read and close, as of a connection
---@param on_end fun(outcome: "complete"|"failed"|"dropped", message: string?, code: any, is_remote: boolean?)
---@param is_probe boolean
---@return znl.CallStream
function M.open(key, stream, on_end, is_probe)
  local self = setmetatable({ key = key, stream = stream, on_end = on_end }, CallStream)
  if is_probe then guard(self, function() on_end("dropped") end) end
  return self
end

--- One that could not be had: it has no chunks, and says why.
---@return znl.CallStream
function M.failed(message, code, is_remote)
  return setmetatable({ ending = { nil, message, code, is_remote == true } }, CallStream)
end

local function finish(self, outcome, ...)
  self.ending = { ... }
  local on_end = self.on_end
  self.stream, self.on_end = nil, nil
  if on_end then on_end(outcome, select(2, ...)) end
end

--- The next chunk. Yields.
---@param timeout_ms? integer  of this chunk; the stream goes on when it passes
---@return boolean|nil more  true and the chunk; false: complete; nil, message, code
---@return any chunk  or a message
---@return string|number? code
---@return boolean? is_remote
function CallStream:read(timeout_ms)
  local stream = self.stream
  if stream then
    local more, chunk, code, is_remote = stream:read(timeout_ms)
    if more then return more, chunk end
    if self.stream then
      if more == nil and code == "TIMEOUT" and timeout_ms and not is_remote then return nil, chunk, code, false end
      if more == false then
        finish(self, "complete", false)
      elseif GIVEN_UP[code] and not is_remote then
        -- Whoever read it is cancelled or out of time; its producer goes on unless it is told.
        finish(self, "dropped", nil, chunk, code, false)
        stream:close()
      else
        finish(self, "failed", nil, chunk, code, is_remote == true)
      end
    end
  end
  return unpack(self.ending, 1, 4)
end

--- The next chunk, for `for chunk in stream do`: nil at the end, whatever the reason; null is znl.null, and
--- so is nothing. Yields.
function CallStream:__call()
  local more, chunk = self:read()
  if not more then return nil end
  if chunk == nil then return json.null end
  return chunk
end

--- How it ended: true when it is complete.
---@return true|nil ok
---@return string? message
---@return string|number? code  "BUSY": it has not ended
---@return boolean? is_remote
function CallStream:result()
  local ending = self.ending
  if not ending then return nil, "stream: it has not ended", "BUSY", false end
  if ending[1] == false then return true end
  return unpack(ending, 1, 4)
end

--- Drops it: its producer is told to stop. Harmless when it has ended.
function CallStream:close()
  local stream = self.stream
  if not stream then return end
  finish(self, "dropped", nil, "stream: dropped", "CANCELLED", false)
  stream:close()
end

return M
