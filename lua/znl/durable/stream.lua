--- znl.durable.stream: where JetStream keeps the messages of a topic or a queue.
---
--- It is made when there is none. One that is there must be what is wanted: nothing is changed behind the back
--- of those who use it already, unless they ask for that.
--- SPDX-License-Identifier: MIT

local settings = require("znl.durable.settings")

local M = {}

local NS_PER_MS = 1000000

---@class znl.StreamOptions
---@field storage? "file"|"memory"
---@field replicas? integer
---@field max_age_ms? integer  older messages go
---@field max_bytes? integer
---@field max_messages? integer
---@field max_message_bytes? integer
---@field discard? "old"|"new"  what goes when it is full: the oldest message, or the new one, which is refused
---@field duplicate_window_ms? integer  how long a message id is remembered
local SPEC = {
  storage = {
    type = "string", default = "file", check = function(value) return value == "file" or value == "memory" end,
    allowed = '"file" or "memory"',
  },
  replicas = { type = "integer", min = 1, max = 5, default = 1 },
  max_age_ms = { type = "integer", min = 100, max = 100 * 365 * 86400000 },
  max_bytes = { type = "integer", min = 1, max = 2 ^ 50 },
  max_messages = { type = "integer", min = 1, max = 2 ^ 50 },
  max_message_bytes = { type = "integer", min = 1, max = 64 * 1024 * 1024 },
  discard = {
    type = "string", check = function(value) return value == "old" or value == "new" end, allowed = '"old" or "new"',
  },
  duplicate_window_ms = { type = "integer", min = 100, max = 86400000, default = 120000 },
}
M.SPEC = SPEC

--- The configuration of a stream in the words of JetStream.
---@param name string
---@param subjects string[]
---@param retention "limits"|"workqueue"
---@param opts znl.StreamOptions
---@return table
function M.configuration(name, subjects, retention, opts)
  local window_ms = opts.duplicate_window_ms
  if opts.max_age_ms then window_ms = math.min(window_ms, opts.max_age_ms) end
  return {
    name = name, subjects = subjects, retention = retention, storage = opts.storage,
    num_replicas = opts.replicas, max_msgs = opts.max_messages or -1, max_bytes = opts.max_bytes or -1,
    max_age = (opts.max_age_ms or 0) * NS_PER_MS, max_msg_size = opts.max_message_bytes or -1,
    discard = opts.discard, duplicate_window = window_ms * NS_PER_MS, allow_direct = true,
  }
end

--- Makes it, or checks the one that is there. Yields.
---@param api znl.JetStream
---@param wanted table  see `configuration`
---@param is_update boolean  one that differs is changed, as far as the server lets that happen
---@return table|nil info
---@return string? message
---@return "EXISTS"|string? code  EXISTS: it differs, or another stream has its subjects
---@return boolean? is_new  with `info`
function M.ensure(api, wanted, is_update)
  local info, message, code = api:ask("STREAM.INFO." .. wanted.name)
  if code == "NOT_FOUND" then
    info, message, code = api:ask("STREAM.CREATE." .. wanted.name, wanted)
    if info then return info, nil, nil, true end
    if code ~= "EXISTS" then return nil, message, code end
    -- Somebody was quicker, or other streams have the subjects: the error of now says which.
    local there = api:ask("STREAM.INFO." .. wanted.name)
    if not there then return nil, ("stream %s: %s"):format(wanted.name, message), code end
    info = there
  end
  if not info then return nil, message, code end
  local differs = settings.differences(wanted, type(info.config) == "table" and info.config or {})
  if not differs then return info end
  if is_update then return api:ask("STREAM.UPDATE." .. wanted.name, wanted) end
  return nil, ("stream %s is configured differently: %s"):format(wanted.name, differs), "EXISTS"
end

return M
