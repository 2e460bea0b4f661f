--- znl.system.dns: the addresses of a host, as the system resolves names.
--- SPDX-License-Identifier: MIT

local options = require("znl.options")
local os_error = require("znl.system.os_error")
local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

---@class znl.DnsOptions
---@field timeout_ms? integer
---@field family? "inet"|"inet6"|"any"
local FAMILIES = { inet = "inet", inet6 = "inet6", any = "unspec" }
local SPEC = {
  timeout_ms = { type = "integer", min = 1, max = 3600000, default = 5000 },
  family = {
    type = "string", default = "any", check = function(family) return FAMILIES[family] ~= nil end,
    allowed = '"inet", "inet6" or "any"',
  },
}

--- Resolves a host name; an address is returned as it is. The system's resolver runs in one of
--- libuv's threads and cannot be stopped there: after a timeout it goes on until it gives up. Yields.
---@param host string
---@param opts? znl.DnsOptions
---@return { address: string, family: "inet"|"inet6" }[]|nil addresses  in the order of the system
---@return string? message
---@return string? code  NOT_FOUND, TIMEOUT, UNREACHABLE (no name server), INVALID, …
function M.resolve(host, opts)
  if type(host) ~= "string" then error("dns.resolve: the host must be a text, not a " .. type(host), 2) end
  opts = options.read(SPEC, opts, "dns.resolve")
  local what = "dns.resolve: " .. host
  if host == "" or #host > 255 or host:find("[%c ]") then
    return nil, what .. ": not the name of a host", "INVALID"
  end
  local done = sched.event()
  local hints = { socktype = "stream", family = FAMILIES[opts.family] }
  local request, refused = uv.getaddrinfo(host, nil, hints, function(err, list) done:set(true, err, list) end)
  if not request then return os_error.result(what, refused) end
  local answered, err, list = done:wait(opts.timeout_ms)
  if answered ~= true then
    uv.cancel(request) -- works while no thread has begun with it
    if list == "TIMEOUT" then err = ("%s: no answer in %d ms"):format(what, opts.timeout_ms) end
    return nil, err, list
  end
  if err then return os_error.result(what, err) end
  local addresses = {}
  for _, item in ipairs(list) do
    addresses[#addresses + 1] = { address = item.addr, family = item.family }
  end
  if #addresses == 0 then return nil, what .. ": the host has no address", "NOT_FOUND" end
  return addresses
end

return M
