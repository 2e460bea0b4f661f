--- What the tests of hubs share: hubs, clients, and the vocabulary of the recordings. SPDX-License-Identifier: MIT

local log = require("znl.core.log")
local znl = require("znl")

local WAIT_MS = 30000

local M = {}

---@class HubScene
local Scene = {}
Scene.__index = Scene

---@return HubScene
function M.new()
  return setmetatable({ hubs = {}, clients = {}, level = znl.log.level() }, Scene)
end

--- No log until `close`.
function Scene.hush() log.set_level("off") end

--- Closes all clients and hubs.
function Scene:close()
  for _, client in ipairs(self.clients) do client.conn:close() end
  for _, hub in ipairs(self.hubs) do hub:close(0) end
  self.hubs, self.clients = {}, {}
  log.set_level(self.level)
end

--- It is closed with the scene.
function Scene:add(hub) table.insert(self.hubs, hub) end

--- A hub that is closed with the scene.
function Scene:make(opts)
  opts.app, opts.listen = opts.app or "spec", opts.listen or "127.0.0.1:0"
  local hub = znl.hub(opts)
  self:add(hub)
  return hub
end

function Scene:started(opts)
  local hub = self:make(opts)
  assert(hub:start())
  return hub
end

--- A hub that speaks the vocabulary at /ws/chat and /ws/other.
function Scene:demo_hub(opts)
  local hub = self:make(opts)
  hub:channel("/ws/chat", M.demo())
  hub:channel("/ws/other", M.demo())
  assert(hub:start())
  return hub
end

-- --- clients -------------------------------------------------------------------------------------

---@class HubSceneClient
---@field conn znl.WebSocket
local Client = {}
Client.__index = Client

--- A client of a hub, or of a port.
---@return HubSceneClient|nil
function Scene:connect(hub, path, opts)
  local port = type(hub) == "number" and hub or hub:port()
  local url = ("ws://127.0.0.1:%d%s"):format(port, path or "/ws/chat")
  local conn, message, code, status = znl.websocket.connect(url, opts)
  if not conn then return nil, message, code, status end
  local client = setmetatable({ conn = conn }, Client)
  table.insert(self.clients, client)
  return client
end

--- One that has joined.
function Scene:joined(hub, user, session, more, path)
  local client = assert(self:connect(hub, path))
  client:join(user, session, more)
  return client
end

function Client:say(kind, payload)
  assert(self.conn:send(assert(znl.json.encode { type = kind, payload = payload })))
end

--- The next message.
function Client:hear()
  local data, message, code = self.conn:recv(WAIT_MS)
  if not data then return nil, message, code end
  return select(2, znl.json.decode(data))
end

function Client:join(user, session, more)
  local payload = { userId = user, sessionId = session }
  for name, value in pairs(more or {}) do payload[name] = value end
  self:say("join", payload)
  local answer = self:hear()
  if not answer or answer.type ~= "joined" then
    error("not joined: " .. tostring(answer and (answer.payload or {}).problem), 2)
  end
end

--- The sessions it is told, "ada/s1 bob/s2".
function Client:list()
  self:say("list")
  local list = {}
  for index, member in ipairs(self:hear().payload) do list[index] = member.user_id .. "/" .. member.session_id end
  return table.concat(list, " ")
end

--- How it ends.
function Client:await_end()
  while self.conn:recv(WAIT_MS) do end
  return self.conn:ending()
end

-- --- the vocabulary ------------------------------------------------------------------------------

--- Handlers that do what the peer of the recordings did (README of the vectors of ws-cluster).
function M.demo()
  return {
    on_message = function(ctx, message)
      local p = message.payload
      if message.type == "join" then
        local ok, problem, code = ctx.presence:join {
          user_id = p.userId, session_id = p.sessionId, channels = p.channels, metadata = p.metadata,
        }
        ctx:send(ok and "joined" or "refused", { sessionId = ctx.session_id, code = code, problem = problem })
      elseif message.type == "say" then
        ctx.presence:broadcast {
          channel = p.channel, message = { type = "said", payload = { from = ctx.user_id, text = p.text } },
          except_session_ids = p.notMe and { ctx.session_id } or nil,
        }
      elseif message.type == "dm" then
        ctx.presence:direct_to_user(p.to, { type = "dm", payload = { from = ctx.user_id, text = p.text } })
      elseif message.type == "list" then
        local list = ctx.presence:list()
        table.sort(list, function(a, b) return a.session_id < b.session_id end)
        ctx:send("roster", znl.json.array(list))
      end
    end,
  }
end

return M
