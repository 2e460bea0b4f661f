--- znl.micro.address: where a node of the micro protocol is: host and port, the key "host:port", and the
--- path by which a connection says who opened it (spec, sections 3.1, 3.3 and 12).
--- SPDX-License-Identifier: MIT

local uv = require("luv")

local M = {}

local LOOPBACK = "127.0.0.1"
local HOST_BYTES_MAX = 253
--- Interfaces beyond this index are not looked for in order.
local INTERFACES_MAX = 1024

--- A port as JavaScript's Number() reads it: " 80", "1e3" and "0x50" are ports, too.
---@param text string
---@return integer|nil port
function M.port(text)
  text = text:match("^%s*(.-)%s*$")
  local value
  if text:find("^%+?%d+%.?%d*$") or text:find("^%+?%d*%.?%d+[eE][+-]?%d+$") or text:find("^0[xX]%x+$") then
    value = tonumber(text)
  elseif text:find("^0[oO][0-7]+$") then
    value = tonumber(text:sub(3), 8)
  elseif text:find("^0[bB][01]+$") then
    value = tonumber(text:sub(3), 2)
  end
  if value and value == math.floor(value) and value >= 1 and value <= 65535 then return value end
end

---@param host string
---@param port integer
---@return string
function M.key(host, port) return ("%s:%d"):format(host, port) end

--- The host as the system takes it, for connecting: an IPv6 address without its brackets.
---@param host string
---@return string
function M.bare(host) return host:match("^%[(.*)%]$") or host end

--- Takes a key apart, at the last colon.
---@param key string
---@return string|nil host  nil: it is none
---@return integer? port
function M.parse(key)
  local host, text = key:match("^(.+):([^:]*)$")
  local port = host and M.port(text)
  if port then return host, port end
end

--- What is wrong with an address that was given or found; nil when it can be used.
---@param host any
---@param port any
---@return string|nil problem
function M.problem(host, port)
  if type(host) ~= "string" or host == "" then return "the host must be a text that is not empty" end
  if #host > HOST_BYTES_MAX then return ("the host has more than %d bytes"):format(HOST_BYTES_MAX) end
  if host:find("[%s%c/?#]") then return "the host must have no white space, / or ?" end
  if host:find(":", 1, true) and not host:find("^%[[^%[%]]+%]$") then
    return "an IPv6 address is given in brackets, [::1]"
  end
  if type(port) ~= "number" or port ~= math.floor(port) or port < 1 or port > 65535 then
    return "the port must be a whole number in 1..65535"
  end
end

--- The address in an option: "host:port" or a table of both.
---@param value any
---@return {host: string, port: integer}|nil address
---@return string? problem
function M.read(value)
  local host, port
  if type(value) == "string" then
    host, port = M.parse(value)
    if not host then return nil, "it must be host:port, the port in 1..65535" end
  elseif type(value) == "table" then
    host, port = value.host, value.port
  else
    return nil, "it is neither a text nor a table"
  end
  local problem = M.problem(host, port)
  if problem then return nil, problem end
  return { host = host, port = port }
end

--- What a namespace of ours may hold: everything else some node would write differently (3.1).
---@param namespace any
---@return boolean
function M.is_namespace(namespace)
  if type(namespace) ~= "string" or namespace == "" or #namespace > 255 then return false end
  if namespace:find("[^%w%-._~/]") or namespace:find("^/") or namespace:find("/$") then return false end
  for segment in namespace:gmatch("[^/]+") do
    if segment == "." or segment == ".." then return false end
  end
  return not namespace:find("//", 1, true)
end

--- The path by which a connection of ours says who we are.
---@param host string
---@param port integer
---@param namespace string
---@return string
function M.path(host, port, namespace)
  return ("/%s/%d/%s"):format(host, port, namespace)
end

--- Who opened a connection with this path: nothing when it says nobody.
---@param target string
---@return string|nil host
---@return integer? port
---@return string? namespace
function M.from_path(target)
  local path = target:match("^[^?]*"):gsub("^/", ""):gsub("/$", "")
  local host, port_text, namespace = path:match("^([^/]+)/([^/]+)/(.*)$")
  local port = host and M.port(port_text)
  if not port then return nil end
  return host, port, namespace
end

--- The first address of an interface that is not internal, in the order of the system.
---@param interfaces table<string, {ip: string, family: string, internal: boolean}[]>
---@param name_of fun(index: integer): string|nil
---@return string|nil
function M.first_external(interfaces, name_of)
  local names, known = {}, {}
  local function add(name)
    if not interfaces[name] or known[name] then return end
    known[name] = true
    names[#names + 1] = name
  end
  for index = 1, INTERFACES_MAX do
    local name = name_of(index)
    if name then add(name) end
  end
  local rest = {}
  for name in pairs(interfaces) do rest[#rest + 1] = name end
  table.sort(rest)
  for _, name in ipairs(rest) do add(name) end
  for _, name in ipairs(names) do
    for _, entry in ipairs(interfaces[name]) do
      if entry.family == "inet" and not entry.internal then return entry.ip end
    end
  end
end

--- What others reach this host by. A machine without a network has the loopback address: whoever can reach
--- it is on it. (The originals refuse to start there.)
---@param given? string
---@param interfaces? table  those of this host, when they are known
---@return string|nil host
---@return string? problem
function M.advertised(given, interfaces)
  local host = given and given:match("^%s*(.-)%s*$") or ""
  if host == "" then
    host = M.first_external(interfaces or uv.interface_addresses() or {}, function(index)
      local ok, name = pcall(uv.if_indextoname, index)
      return ok and name and name:match("^[^%%]+") or nil
    end)
    return host or LOOPBACK
  end
  local problem = M.problem(host, 1)
  if problem then return nil, "advertise_host: " .. problem end
  return host
end

return M
