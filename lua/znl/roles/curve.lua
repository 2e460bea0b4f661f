--- znl.roles.curve: the option `curve` of nodes, the encryption of ZMTP (RFC 26 of ZeroMQ).
---
--- It encrypts connections and proves the master to its slaves; `encrypted` proves each message, and who sent it.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local secret = require("znl.secret")

local M = {}

local KEY = { type = "secret" }

--- Keys are Z85 text as `znlrun keygen --curve` prints it; all but the secret ones may be known to anybody.
---@class znl.MasterCurve
---@field secret_key string|znl.Secret  whose public half slaves know
---@field allow? (string|znl.Secret)[]  the public keys of slaves that may connect; absent: any
local MASTER_SPEC = {
  secret_key = { type = "secret", required = true },
  allow = {
    type = "table", allowed = "an array of 1 to 100000 public keys",
    check = function(list) return #list <= 100000 and not secret.is(list) and secret.is_list(list) end,
  },
}

---@class znl.SlaveCurve
---@field server_key string|znl.Secret  the public key of the master
---@field secret_key? string|znl.Secret  absent: a pair is made for this run
---@field public_key? string|znl.Secret  absent: that of the secret key
local SLAVE_SPEC = { server_key = { type = "secret", required = true }, secret_key = KEY, public_key = KEY }

--- Whether it reads as a key: 32 bytes as Z85 text.
---@param text string
---@return boolean
function M.is_key(text)
  return #text == 40 and not text:find("[^%w%.%-:%+=%^!/%*%?&<>%(%)%[%]{}@%%%$#]")
end

--- The text of a key; blames the caller of a public function when it cannot be had. Never shows it.
local function key_text(what, name, key, level)
  local ok, text = pcall(secret.text, key)
  if not ok then error(("%s: option curve.%s: %s"):format(what, name, (text:gsub("^[^\n]-:%d+: ", ""))), level + 1) end
  if not M.is_key(text) then
    error(("%s: option curve.%s is no key of CURVE; one is 40 characters of Z85, as znlrun keygen --curve prints")
      :format(what, name), level + 1)
  end
  return text
end

--- Reads the option: a table of texts for the core; nil without one.
---@param config table  the options of a node, read
---@param what string  "znl.master" or "znl.slave"
---@param level integer  whom to blame, as in `error`
---@return table|nil
function M.read(config, what, level)
  if config.curve == nil then return nil end
  if config.engine == "zmtp" then
    error(('%s: option engine is "zmtp", which has no CURVE; engine = "libzmq" has'):format(what), level + 1)
  end
  for _, endpoint in ipairs(config.endpoints or { config.endpoint }) do
    if not endpoint:find("^tcp:") and not endpoint:find("^ipc:") then
      error(("%s: option curve is for tcp:// and ipc://, not for %s"):format(what, endpoint), level + 1)
    end
  end
  local given = options.read(what == "znl.master" and MASTER_SPEC or SLAVE_SPEC, config.curve, what .. ": curve", level)
  local read = {}
  for name, value in pairs(given) do
    if name == "allow" then
      read.allow = {}
      for index, key in ipairs(value) do
        read.allow[index] = key_text(what, ("allow[%d]"):format(index), key, level + 1)
      end
    else
      read[name] = key_text(what, name, value, level + 1)
    end
  end
  if read.public_key and not read.secret_key then
    error(what .. ": option curve.public_key needs curve.secret_key", level + 1)
  end
  return read
end

return M
