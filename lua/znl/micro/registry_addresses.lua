--- znl.micro.registry_addresses: the option `registry` of an application: one registry, or several that answer
--- for one fleet. SPDX-License-Identifier: MIT

local address = require("znl.micro.address")
local options = require("znl.options")
local proof = require("znl.micro.proof")
local secret = require("znl.secret")
local server = require("znl.roles.server")
local tls = require("znl.core.tls")

local M = {}

local ADDRESSES_MAX = 64

---@class znl.RegistryAddress
---@field host string
---@field port integer
---@field tls? table  authorities, …: dials with TLS
---@field secret? string|znl.Secret  shared with the registry

local REGISTRY_SPEC = {
  host = { type = "any" },
  port = { type = "any" },
  tls = { type = "table" },
  secret = { type = "secret" },
}

local function shown_address(given)
  if type(given) == "string" then return ("%q"):format(given) end
  return ("{ host = %s, port = %s }"):format(tostring(given.host), tostring(given.port))
end

--- One address of a registry, as the link takes it.
local function read_one(given, name, what, level)
  if type(given) == "table" then given = options.read(REGISTRY_SPEC, given, what .. ": " .. name, level + 1) end
  local found, problem = address.read(given)
  if not found then
    error(("%s: option %s is %s: %s"):format(what, name, shown_address(given), problem), level + 1)
  end
  if type(given) == "string" then return found end
  found.tls, problem = server.tls_context(tls.client, given.tls, name .. ".tls")
  if problem then error(("%s: %s"):format(what, problem), level + 1) end
  if given.secret then
    local ok, text = pcall(secret.text, given.secret)
    if not ok then error(("%s: %s: %s"):format(what, name, (text:gsub("^[^\n]-:%d+: ", ""))), level + 1) end
    found.headers = function(path)
      local header, value = proof.header(text, path)
      return { [header] = value }
    end
  end
  return found
end

--- All addresses in an option. Raises, at `level`, for what is none.
---@param given string|znl.RegistryAddress|(string|znl.RegistryAddress)[]
---@param what string  begins errors
---@param level integer
---@return znl.RegistryLinkAddress[]
function M.read(given, what, level)
  if type(given) == "string" or given[1] == nil then
    return { read_one(given, "registry", what, level + 1) }
  end
  local list, known, count = {}, {}, 0
  for _ in pairs(given) do count = count + 1 end
  if count ~= #given or count > ADDRESSES_MAX then
    error(("%s: option registry must be a list of 1 to %d addresses"):format(what, ADDRESSES_MAX), level + 1)
  end
  for index, one in ipairs(given) do
    local name = ("registry[%d]"):format(index)
    if type(one) ~= "string" and type(one) ~= "table" then
      error(('%s: option %s must be "host:port" or a table with host and port'):format(what, name), level + 1)
    end
    local found = read_one(one, name, what, level + 1)
    local key = address.key(found.host, found.port)
    if known[key] then error(("%s: option %s: %s is in the list twice"):format(what, name, key), level + 1) end
    list[index], known[key] = found, true
  end
  return list
end

return M
