--- znl.workers.shared: dictionaries that all threads of the process share, for state that outlives a
--- version of the code and that worker threads have in common.
---
---     local hits = znl.shared("hits", { max_entries = 10000 })
---     local count = hits:incr("page", 1, 0)
---
--- Whoever opens the same name gets the same dictionary. Values are strings, numbers or booleans;
--- every operation is atomic and none yields. When it is full, what has expired goes first, then
--- what was not used for longest; with `evict = false` a write fails with "NO_MEMORY" instead.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.shared")
local options = require("znl.options")

local M = {}

---@class znl.SharedOptions
---@field max_entries? integer
---@field max_bytes? integer  of keys and values, and 128 bytes for each entry
---@field evict? boolean  make room by removing what was not used for longest
local SPEC = {
  max_entries = { type = "integer", min = 1, max = 100000000, default = 65536 },
  max_bytes = { type = "integer", min = 4096, max = 2 ^ 40, default = 16 * 1024 * 1024 },
  evict = { type = "boolean", default = true },
}

---@alias znl.SharedValue string|number|boolean

--- Methods take a key of 1 to 1024 bytes, and times in milliseconds (nil and 0: for ever). What
--- cannot be done is `nil, message, code`: "EXISTS", "NOT_FOUND", "INVALID", "TOO_BIG", "NO_MEMORY".
---@class znl.Shared
---@field get fun(self, key: string): znl.SharedValue|nil
---@field set fun(self, key: string, value: znl.SharedValue, ttl_ms?: integer): true|nil, integer|string, string?
---  true, and how many entries had to go for it
---@field add fun(self, key: string, value: znl.SharedValue, ttl_ms?: integer): true|nil, integer|string, string?
---  only when it is absent, else "EXISTS"
---@field replace fun(self, key: string, value: znl.SharedValue, ttl_ms?: integer): true|nil, integer|string, string?
---  only when it is there, else "NOT_FOUND"
---@field incr fun(self, key: string, by?: number, init?: number, ttl_ms?: integer): number|nil, string?, string?
---  the sum; an absent key begins at `init` with this expiry, or is "NOT_FOUND" without `init`
---@field delete fun(self, key: string): boolean  whether it was there
---@field keys fun(self, max?: integer): string[]|nil, string?, string?  in no order; 1024 unless told
---@field size fun(self): integer  entries that have not expired
---@field flush fun(self)  removes everything
---@field stats fun(self): table<string, number>  entries, bytes, evicted, expired and the limits

--- Opens the dictionary `name`; the first to do so sets its limits. Raises when others were set.
---@param name string  1 to 255 bytes; not to be taken from a peer: dictionaries are never removed
---@param opts? znl.SharedOptions  absent: whatever its limits are
---@return znl.Shared
function M.open(name, opts)
  if type(name) ~= "string" or name == "" or #name > 255 then
    error("znl.shared: the name must be a text of 1 to 255 bytes", 2)
  end
  local dictionary, message, code
  if opts == nil then
    dictionary, message, code = core.open(name)
  else
    opts = options.read(SPEC, opts, "znl.shared", 2)
    dictionary, message, code = core.open(name, opts.max_entries, opts.max_bytes, opts.evict)
  end
  if dictionary then return dictionary end
  if code == "EXISTS" then message = ("the dictionary %q is open with other limits"):format(name) end
  if code == "LIMIT" then message = "there are 256 dictionaries already" end
  error("znl.shared: " .. message, 2)
end

return M
