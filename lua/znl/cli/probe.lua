--- znl.cli.probe: whether anything listens at an endpoint.
---
--- A slave keeps trying to connect, as a service must; a person wants to hear at once that there is
--- nothing to connect to. The connection made here is closed without a byte.
--- SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

local TEXT = {
  ECONNREFUSED = "nothing listens there (connection refused)",
  ENOENT = "there is no such socket",
  EHOSTUNREACH = "no route to the host", ENETUNREACH = "no route to the network",
  ETIMEDOUT = "no answer to the connection", EACCES = "permission denied",
  EAI_NONAME = "no such name", EAI_NODATA = "no address under this name", EAI_AGAIN = "no name server answers",
}

local function words(err)
  local name = tostring(err):match("^E[%u_%d]+")
  return name and TEXT[name] or tostring(err)
end

--- Calls `start(done)`, which calls `done(err or false, ...)` later. Yields.
local function await(handle, timeout_ms, start)
  local event = sched.event()
  local ok, message = start(function(...) event:set(...) end)
  local err, value
  if ok then
    err, value = event:wait(timeout_ms)
    if err == nil then err = "ETIMEDOUT" end
  else
    err = message
  end
  if handle and not handle:is_closing() then handle:close() end
  return err or nil, value
end

local function connect_tcp(host, port, timeout_ms)
  local err, addresses = await(nil, timeout_ms, function(done)
    return uv.getaddrinfo(host, nil, { socktype = "stream" }, function(e, list) done(e or false, list) end)
  end)
  if err then return "the name " .. host .. " cannot be resolved: " .. words(err) end
  local last
  for _, address in ipairs(addresses) do
    local socket = uv.new_tcp()
    last = await(socket, timeout_ms, function(done)
      return socket:connect(address.addr, port, function(e) done(e or false) end)
    end)
    if not last then return nil end
  end
  return words(last or "no address")
end

local function connect_ipc(path, timeout_ms)
  if path:sub(1, 1) == "@" then return nil end -- abstract: luv cannot name it
  local socket = uv.new_pipe(false)
  local err = await(socket, timeout_ms, function(done)
    return socket:connect(path, function(e) done(e or false) end)
  end)
  return err and words(err)
end

--- Yields.
---@param endpoint string
---@param timeout_ms integer
---@return true|nil ok  also when there is no telling
---@return string? message
---@return "UNREACHABLE"? code
function M.connect(endpoint, timeout_ms)
  local host, port = endpoint:match("^tcp://(.+):(%d+)$")
  local path = endpoint:match("^ipc://(.+)$")
  local reason
  if host and tonumber(port) >= 1 and tonumber(port) <= 65535 then
    -- "source;target" names the address to connect from; only the target matters here.
    host = host:match(";(.*)$") or host
    reason = connect_tcp(host:match("^%[(.*)%]$") or host, tonumber(port), timeout_ms)
  elseif path then
    reason = connect_ipc(path, timeout_ms)
  end
  if reason then return nil, ("%s: %s"):format(endpoint, reason), "UNREACHABLE" end
  return true
end

return M
