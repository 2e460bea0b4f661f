--- znl.cluster.places: the ports and sockets on which clients of this process meet.
---
--- A port belongs to a process, channels share it (spec cluster-client, section 1): who wins it first listens
--- for all of them, and it is let go of with the last channel. When it is won, whoever of this process still
--- follows another owner of that place learns that this owner is gone.
--- SPDX-License-Identifier: MIT

local core = require("znl.core.cluster")

local M = {}

---@class znl.ClusterPlace
---@field key string  "127.0.0.1:7777", "unix:/run/x.sock"
---@field server any  of znl.core.cluster, while this process listens
---@field has_tls boolean  how it listens
---@field leaders table<string, any>  by channel
---@field candidates table<znl.ClusterCandidate, boolean>  clients of this process
local Place = {}
Place.__index = Place

--- By key. Weak: a place lives as long as a client holds it.
local places = setmetatable({}, { __mode = "v" })

---@class znl.ClusterCandidate
---@field name string
---@field on_won fun(self)  the place was won by this process, for another channel

--- What a place is known by.
---@param host string
---@param port integer
---@param path string|nil
---@return string
function M.key(host, port, path)
  return path and "unix:" .. path or ("%s:%d"):format(host, port)
end

---@param key string
---@return znl.ClusterPlace
function M.of(key)
  local place = places[key]
  if not place then
    place = setmetatable({ key = key, leaders = {}, candidates = {}, count = 0 }, Place)
    places[key] = place
  end
  return place
end

---@param candidate znl.ClusterCandidate
function Place:join(candidate) self.candidates[candidate] = true end

---@param candidate znl.ClusterCandidate
function Place:leave(candidate) self.candidates[candidate] = nil end

--- Listens, unless this process does; then with the limits of who came first, and with TLS or without as that
--- one: who wants the other is told. Does not yield.
---@param opts table  of znl.core.cluster
---@param candidate znl.ClusterCandidate  who asks
---@return any server
---@return string? message
---@return string? code
function Place:listen(opts, candidate)
  local has_tls = opts.tls ~= nil
  if self.server then
    if has_tls == self.has_tls then return self.server end
    return nil, ("listen: %s: this process listens there %s TLS already, for another client"):format(
      self.key, self.has_tls and "with" or "without"), "EXISTS"
  end
  local server, message, code = core.listen(opts)
  if not server then return nil, message, code end
  self.server, self.has_tls = server, has_tls
  self.is_new = candidate
  return server
end

--- A channel is led here from now on.
---@param name string
---@param leader any
function Place:lead(name, leader)
  self.leaders[name] = leader
  self.count = self.count + 1
  local winner = self.is_new
  if not winner then return end
  self.is_new = nil
  for candidate in pairs(self.candidates) do
    if candidate ~= winner then candidate:on_won() end
  end
end

--- A channel is not led here any more. The last one closes the port.
---@param name string
---@param leader any
function Place:resign(name, leader)
  if self.leaders[name] ~= leader then return end
  self.leaders[name] = nil
  self.count = self.count - 1
  self:release()
end

--- Closes the port when nothing is led on it.
function Place:release()
  local server = self.server
  if not server or self.count > 0 then return end
  self.server, self.is_new = nil, nil
  server:close()
end

return M
