--- znl.hub.admission: which requests become connections.
---
--- In this order: pages of the script, the path, the web page it comes from, room, authentication.
--- SPDX-License-Identifier: MIT

local visits = require("znl.hub.visits")

local M = {}

--- A namespace goes over the wire in each message.
local PATH_BYTES_MAX = 1024

local PLAIN = { ["Content-Type"] = "text/plain; charset=utf-8" }

--- The path as a namespace: without a slash at its end; nil: it has empty or dot segments, which would give one
--- channel several names.
---@param path string
---@return string|nil ns
function M.namespace(path)
  if #path > PATH_BYTES_MAX then return nil end
  if path:find("//", 1, true) then return nil end
  if #path > 1 and path:sub(-1) == "/" then path = path:sub(1, -2) end
  for segment in path:gmatch("[^/]+") do
    if segment == "." or segment == ".." then return nil end
  end
  return path
end

local DEFAULT_PORTS = { ["http"] = ":80", ["https"] = ":443" }

--- Whether the page that asks was served by the host it asks. Browsers leave the port out where it is the usual one.
local function is_same_host(origin, host)
  local scheme, authority = origin:match("^([%a][%w+.-]*)://([^/]+)$")
  if not scheme or not host then return false end
  host, authority = host:lower(), authority:lower()
  return authority == host or authority .. (DEFAULT_PORTS[scheme:lower()] or "") == host
end

--- Whether a page may connect. What is no browser says nothing, and could say anything.
---@param origins string[]|"*"|nil
---@param headers table<string, string>
---@return boolean
function M.is_origin_allowed(origins, headers)
  local origin = headers.origin
  if origin == nil or origins == "*" then return true end
  if origins == nil then return is_same_host(origin, headers.host) end
  origin = origin:lower()
  for _, allowed in ipairs(origins) do
    if origin == allowed then return true end
  end
  return false
end

local function refuse(self, counter, status, text)
  self.counts[counter] = self.counts[counter] + 1
  return status, text .. "\n", PLAIN
end

local function check_room(self)
  if not self.is_open() then return refuse(self, "refused_full", 503, "closing") end
  if self.is_full() then return refuse(self, "refused_full", 503, "too many connections") end
end

--- A status that says no.
local function status_of(status)
  local is_one = type(status) == "number" and status >= 400 and status <= 599 and status == math.floor(status)
  return is_one and status or 401
end

local function failed(self, request, message)
  self.report("authenticate", message, request.peer)
  return refuse(self, "refused_failed", 500, "the connection could not be checked")
end

--- Asks authenticate of the channel, else that of the hub.
local function authenticate(self, request, visit)
  visit.hook, visit.first = "authenticate", request
  local timeout_ms = self.config.authenticate_ms
  local ok, identity, message, status = visits.call(self.find, visit, timeout_ms)
  if not ok then return failed(self, request, identity) end
  if not visit.is_taken then
    if status == "NOT_FOUND" then return refuse(self, "refused_path", 404, "no such channel") end
    return refuse(self, "refused_full", 503, "busy")
  end
  if not visit.is_found then
    local fn = self.own_authenticate()
    if not fn then return nil end
    visit.is_taken = true
    ok, identity, message, status = visits.call(function()
      return function()
        visit.is_taken = true
        return fn(request)
      end
    end, visit, timeout_ms)
    if not ok then return failed(self, request, identity) end
  end
  if identity == nil or identity == false then
    return refuse(self, "refused_identity", status_of(status), type(message) == "string" and message or "not allowed")
  end
  request.identity = identity
end

---@class znl.HubAdmission
---@field config table
---@field counts table<string, integer>
---@field find znl.HubFind
---@field pages fun(): function|nil  on_request of the script
---@field own_authenticate fun(): function|nil
---@field is_full fun(): boolean
---@field is_open fun(): boolean
---@field report fun(where: string, message: string, from: string)

--- Looks at a request: nothing to let a WebSocket open, or how it is answered. Puts `ns`, `params` and `identity`
--- into it. Yields.
---@param self znl.HubAdmission
---@param request znl.WebSocketRequest
---@return integer|nil status
---@return string? text
---@return table<string, string>? headers
function M.look(self, request)
  local pages = self.pages()
  if pages then
    local status, text, headers = pages(request)
    if status ~= nil then return status, text, headers end
  end
  local ns = M.namespace(request.path)
  if not ns or not self.find(ns) then return refuse(self, "refused_path", 404, "no such channel") end
  if not request.is_upgrade then return nil end -- it is told that a WebSocket is served here
  if not M.is_origin_allowed(self.config.origins, request.headers) then
    return refuse(self, "refused_origin", 403, "this web page may not connect")
  end
  local status, text, headers = check_room(self)
  if status then return status, text, headers end
  local visit = { route = ns }
  status, text, headers = authenticate(self, request, visit)
  if status then return status, text, headers end
  status, text, headers = check_room(self) -- others may have come while it waited
  if status then return status, text, headers end
  request.ns, request.params = ns, visit.params or {}
end

return M
