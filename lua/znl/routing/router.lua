--- znl.routing.router: finds the handler of a request by its route, `/users/:id`.
---
---     local r = znl.router()
---     r:use(znl.middleware.log())
---     r:route("/users/:id", function(req) return { id = req.params.id } end)
---     r:mount("/admin", znl.handlers("admin/"))
---     master:handle(r)
---
--- Static beats parameter beats wildcard, with a step back where that leads nowhere; the first
--- registration of a path wins (micro protocol, "Routes"). A path is taken apart when it is
--- registered. A request costs one table look-up when a static route has just its text, else one
--- walk down a tree of segments that visits no node twice.
--- SPDX-License-Identifier: MIT

local middleware = require("znl.routing.middleware")
local route_path = require("znl.routing.route_path")
local sched = require("znl.core.sched")
local where = require("znl.where")

local M = {}

--- Longer urls match nothing. Four times what a path may have: parameters are longer than names.
M.MAX_URL_BYTES = 4096
--- More segments match nothing. They cost memory for each request; nobody nests this deep.
M.MAX_SEGMENTS = 128

---@alias znl.Middleware fun(req: znl.Request, next: fun(req: znl.Request): ...): ...

---@class znl.HandlerSource  what can be attached: znl.handlers(…), a router
---@field attach fun(self: table, apply: znl.Apply): fun()|nil

---@alias znl.Apply fun(call: (fun(req: znl.Request): ...)|nil, owner: any, origin: znl.Origin)

--- Where a handler was written, for messages: "handlers/echo.lua:3", or what finds it by the route of
--- a request. nil: where `call` was.
---@alias znl.Origin string|nil|fun(route: string|nil): string|nil

--- One way to reach a handler: a registration has one for each variant of its path.
---@class znl.RouteEntry
---@field path string  as it was registered
---@field handler fun(req: znl.Request): ...
---@field run fun(req: znl.Request): ...  the handler inside the middleware
---@field captures? table[]  { index, name } or { index, pieces } of its parameters
---@field optional boolean  its last segment may be missing
---@field constrained boolean
---@field origin? string|fun(params: table, url: string): string|nil  where the handler was written

---@class znl.Router
---@field private root table
---@field private static table<string, znl.RouteEntry>  by the whole url
---@field private registered table<string, table[]>  by the identity of a path
local Router = {}
Router.__index = Router

local function not_found(req)
  return nil, ("router: no route %s"):format(req.route == nil and "/" or tostring(req.route)), "NOT_FOUND"
end

---@return znl.Router
function M.new()
  local self = setmetatable({
    root = {}, static = {}, registered = {}, middleware = {}, order = 0, scratch = {},
  }, Router)
  self.run_not_found = not_found
  return self
end

---@param value any
---@return boolean
function M.is(value)
  return getmetatable(value) == Router
end

--- The segments of `url` go into `into`; returns how many, or nil when it can match nothing.
local function split(url, into)
  local slash = url:find("/", 1, true)
  if not slash then return 0 end -- what stands before the first slash is ignored
  local count, has_dots, from = 0, url:find("/.", 1, true) ~= nil, slash + 1
  repeat
    slash = url:find("/", from, true)
    local segment = url:sub(from, slash and slash - 1 or -1)
    from = slash and slash + 1
    if has_dots and segment == ".." and count > 0 then
      count = count - 1
    elseif not (has_dots and segment == ".") then
      if count == M.MAX_SEGMENTS then return nil end
      count = count + 1
      into[count] = segment
    end
  until not slash
  -- One slash at the end is dropped, and so is the empty segment a second one leaves.
  for _ = 1, 2 do
    if into[count] == "" and count > 0 then count = count - 1 end
  end
  return count
end

--- The parameters of `entry` in these segments; nil when one of them does not fit.
local function params_of(entry, segments, count)
  local params = {}
  for _, capture in ipairs(entry.captures or {}) do
    local index = capture.index
    if capture.rest then
      params[capture.name] = table.concat(segments, "/", index, count)
    elseif capture.pieces then
      if not route_path.match_pieces(capture.pieces, segments[index], params) then return nil end
    elseif index <= count then
      params[capture.name] = segments[index]
    end
  end
  return params
end

--- The first of the entries that takes these segments.
local function pick(node, segments, count, only_optional)
  local entries = node and node.entries
  if not entries then return nil end
  for i = 1, #entries do
    local entry = entries[i]
    if entry.optional or not only_optional then
      local params = params_of(entry, segments, count)
      if params then return entry, params end
    end
  end
end

--- Follows one level for each segment: a node is visited once at most.
local function find(node, segments, index, count)
  local entry, params
  if index > count then
    entry, params = pick(node, segments, count)
    if not entry then entry, params = pick(node.param, segments, count, true) end
    if not entry then entry, params = pick(node.wildcard, segments, count, true) end
    return entry, params
  end
  local child = node.static and node.static[segments[index]]
  if child then entry, params = find(child, segments, index + 1, count) end
  if not entry and node.param then entry, params = find(node.param, segments, index + 1, count) end
  if not entry then entry, params = pick(node.wildcard, segments, count) end
  return entry, params
end

local function lookup(self, url)
  local entry = self.static[url]
  if entry then return entry, {} end
  if #url > M.MAX_URL_BYTES then return nil end
  local count = split(url, self.scratch)
  if not count then return nil end
  return find(self.root, self.scratch, 1, count)
end

--- The node of these segments, made where it is missing, and what a request takes from them.
local function insert(self, segments)
  local node, captures, constrained, last = self.root, {}, false, nil
  for index, segment in ipairs(segments) do
    last = segment
    if segment.kind == "static" then
      node.static = node.static or {}
      node.static[segment.text] = node.static[segment.text] or {}
      node = node.static[segment.text]
    else
      node[segment.kind] = node[segment.kind] or {}
      node = node[segment.kind]
      captures[#captures + 1] = {
        index = index, name = segment.name, pieces = segment.pieces, rest = segment.kind == "wildcard",
      }
      constrained = constrained or segment.pieces ~= nil
    end
  end
  return node, #captures > 0 and captures or nil, constrained, last ~= nil and last.optional == true
end

local function static_url(segments)
  local texts = {}
  for index, segment in ipairs(segments) do
    if segment.kind ~= "static" then return nil end
    texts[index] = segment.text
  end
  return "/" .. table.concat(texts, "/")
end

--- Those with a regexp come first, whatever the order: `:name` would hide `:id(\\d+)`.
local function place(entries, entry)
  local at = #entries + 1
  if entry.constrained then
    at = 1
    while entries[at] and entries[at].constrained do at = at + 1 end
  end
  table.insert(entries, at, entry)
end

--- Removes nodes that lead nowhere any more.
local function prune(node)
  for text, child in pairs(node.static or {}) do
    if prune(child) then node.static[text] = nil end
  end
  if node.static and next(node.static) == nil then node.static = nil end
  if node.param and prune(node.param) then node.param = nil end
  if node.wildcard and prune(node.wildcard) then node.wildcard = nil end
  return next(node) == nil
end

local function forget(self, registration)
  registration.removed = true
  for _, made in ipairs(registration.made) do
    local entries = made.node.entries
    for i = #entries, 1, -1 do
      if entries[i] == made.entry then table.remove(entries, i) end
    end
    if made.url then self.static[made.url] = entries[1] end
    if #entries == 0 then made.node.entries = nil end
  end
  if registration.detach then registration.detach() end
end

--- Adds a checked registration; removing it removes all of its path, as the protocol has it.
local function register(self, variants, registration)
  local identity = route_path.identity(registration.path)
  registration.made = {}
  for number, segments in ipairs(variants) do
    local node, captures, constrained, optional = insert(self, segments)
    local entry = {
      path = registration.path, handler = registration.handler, captures = captures,
      constrained = constrained, optional = optional, origin = registration.origin,
      run = middleware.compose(self.middleware, registration.handler),
    }
    node.entries = node.entries or {}
    place(node.entries, entry)
    local url = static_url(segments)
    if url then self.static[url] = node.entries[1] end
    registration.made[number] = { node = node, entry = entry, url = url }
  end
  self.order = self.order + 1
  registration.order = self.order
  self.registered[identity] = self.registered[identity] or {}
  table.insert(self.registered[identity], registration)
  return function()
    if registration.removed then return end
    for _, other in ipairs(self.registered[identity]) do forget(self, other) end
    self.registered[identity] = nil
    prune(self.root)
  end
end

local function parse(path, what)
  local variants, message = route_path.parse(path)
  if not variants then error(("%s: %s"):format(what, message), 3) end
  return variants
end

--- Attaches to a source; `call` is what it serves with at any time, nil once it has closed. Requests
--- that a version of a file serves count for its owner.
local function attach(source)
  local served = {}
  served.detach = source:attach(function(call, owner, origin)
    served.call, served.origin = call, origin or (call and where.of(call))
    if call and owner then
      served.call = function(req)
        sched.become(owner)
        return call(req)
      end
    end
  end)
  return served
end

local function origin_of(origin, ...)
  if type(origin) == "function" then return origin(...) end
  return origin
end

--- Serves `path` with `handler`.
---@param path string
---@param handler fun(req: znl.Request): ...|{ handle: fun(req: znl.Request): ... }|znl.HandlerSource
---@param origin? fun(): string|nil  finds where the handler was written, when that is not where `handler` was
---@return fun() remove  removes every registration of this path; calling it again does nothing
function Router:route(path, handler, origin)
  local variants = parse(path, "router:route")
  local registration = { path = path, handler = handler, origin = origin }
  if M.is(handler) then
    error(("router:route: %s: a router is mounted, r:mount(%q, router)"):format(path, path), 2)
  elseif type(handler) == "table" and type(handler.attach) == "function" then
    local served = attach(handler)
    registration.detach = served.detach
    registration.origin = function(_, url) return origin_of(served.origin, url) end
    registration.handler = function(req)
      local call = served.call
      if not call then return not_found(req) end
      return call(req)
    end
  elseif type(handler) == "table" and type(handler.handle) == "function" then
    registration.handler = handler.handle
  elseif type(handler) ~= "function" then
    error(("router:route: the handler of %s must be a function or a table with handle, not %s"):format(
      path, type(handler) == "table" and "a table without it" or "a " .. type(handler)), 2)
  end
  registration.origin = registration.origin or where.of(registration.handler)
  local remove = register(self, variants, registration)
  return remove
end

--- Serves every route under `prefix` with `source`, which sees the rest of it: with the prefix
--- "/admin" a request for "/admin/users" arrives there as "/users", and "/admin" as "/".
---@param prefix string  without parameters
---@param source znl.HandlerSource|fun(req: znl.Request): ...|{ handle: fun(req: znl.Request): ... }
---@return fun() remove
function Router:mount(prefix, source)
  local variants = parse(prefix, "router:mount")
  if #variants > 1 or not static_url(variants[1]) then
    error(("router:mount: the prefix %q must have no parameters"):format(prefix), 2)
  end
  if source == self then error("router:mount: a router cannot be mounted in itself", 2) end
  local served
  if type(source) == "table" and type(source.attach) == "function" then
    served = attach(source)
  elseif type(source) == "table" and type(source.handle) == "function" then
    served = { call = source.handle, origin = where.of(source.handle) }
  elseif type(source) == "function" then
    served = { call = source, origin = where.of(source) }
  else
    error(("router:mount: what is mounted at %s must be handlers, a router or a function, not a %s"):format(
      prefix, type(source)), 2)
  end
  local function give_back(req, route, ...)
    req.route = route
    return ...
  end
  local function call_with_rest(req)
    local call, route = served.call, req.route
    if not call then return not_found(req) end
    req.route = "/" .. req.params._
    return give_back(req, route, call(req))
  end
  local rest = route_path.identity(prefix)
  rest = (rest == "/" and "" or rest) .. "/**"
  local remove = register(self, parse(rest, "router:mount"), {
    path = rest, handler = call_with_rest, detach = served.detach, source = source, prefix = prefix,
    origin = function(params) return origin_of(served.origin, "/" .. params._) end,
  })
  return remove
end

--- Puts `mw` around every handler of this router, also those registered before, and around the
--- answer to a route that does not exist. The first one used is the outermost.
---@param mw znl.Middleware
function Router:use(mw)
  if type(mw) ~= "function" then
    error("router:use: a middleware is a function(req, next), not a " .. type(mw), 2)
  end
  self.middleware[#self.middleware + 1] = mw
  for _, registrations in pairs(self.registered) do
    for _, registration in ipairs(registrations) do
      for _, made in ipairs(registration.made) do
        made.entry.run = middleware.compose(self.middleware, made.entry.handler)
      end
    end
  end
  self.run_not_found = middleware.compose(self.middleware, not_found)
end

--- Finds the handler of a url.
---@param url string
---@return (fun(req: znl.Request): ...)|nil handler  without the middleware
---@return table<string, string>? params
---@return string? path  as it was registered
function Router:match(url)
  if type(url) ~= "string" then error("router:match: url must be a text, not a " .. type(url), 2) end
  local entry, params = lookup(self, url)
  if not entry then return nil end
  return entry.handler, params, entry.path
end

--- What answers a request for a url, for who dispatches himself: the handler inside the middleware, and the
--- parameters, nil when there are none. The usual way is `dispatch`.
---@param url string
---@return (fun(req: znl.Request): ...)|nil run
---@return table<string, string>? params
function Router:find(url)
  local entry = self.static[url]
  if entry then return entry.run end
  local params
  entry, params = lookup(self, url)
  if entry then return entry.run, params end
end

--- Answers a request by its `route`; one without (a plain request) has the route "/". Sets
--- `req.params`. Yields when the handler does.
---@param req znl.Request
---@return any ...  what the handler returns; nil, message, "NOT_FOUND" without one
function Router:dispatch(req)
  local url = req.route
  if url == nil or url == "" then url = "/" end
  local entry, params = lookup(self, url)
  req.params = params or {}
  if not entry then return self.run_not_found(req) end
  return entry.run(req)
end

--- Where the handler of a route was written, for messages.
---@param route string|nil  of the request; none: "/"
---@return string|nil origin  "handlers/echo.lua:3"; nil: nothing answers it, or it cannot be told
function Router:origin(route)
  local url = (route == nil or route == "") and "/" or route
  local entry, params = lookup(self, url)
  return entry and origin_of(entry.origin, params, url)
end

--- What is registered, the paths in alphabetical order; those of a mounted router follow it.
---@return { path: string, where: string?, mounted: boolean? }[]
function Router:routes()
  local list = {}
  for _, registrations in pairs(self.registered) do
    local registration = registrations[1]
    if registration.source ~= nil then
      list[#list + 1] = { path = registration.path, mounted = true }
      if type(registration.source) == "table" and type(registration.source.routes) == "function" then
        local prefix = route_path.identity(registration.prefix)
        for _, route in ipairs(registration.source:routes()) do
          list[#list + 1] = {
            path = route_path.identity((prefix == "/" and "" or prefix) .. route.path),
            where = route.where, mounted = route.mounted,
          }
        end
      end
    else
      list[#list + 1] = { path = registration.path, where = origin_of(registration.origin, {}, registration.path) }
    end
  end
  table.sort(list, function(a, b) return a.path < b.path end)
  return list
end

--- How a node serves with a router: as with handlers, but there is one version only.
---@param apply fun(call: fun(req: znl.Request): ..., owner: nil, origin: znl.Origin)
---@return fun() detach
function Router:attach(apply)
  apply(function(req) return self:dispatch(req) end, nil, function(route) return self:origin(route) end)
  return function() end
end

return M
