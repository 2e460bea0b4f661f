--- One instance of the chat: its page and its WebSockets on one port, the others on the same bus.
---
---     znlrun examples/chat/hub.lua nats://127.0.0.1:4222 8080
---     znlrun examples/chat/hub.lua nats://127.0.0.1:4222 8081
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local bus, port, ttl_ms = arg[1] or "nats://127.0.0.1:4222", tonumber(arg[2] or 8080), tonumber(arg[3] or 5000)

-- The page.

local PAGES = {
  ["/"] = { "index.html", "text/html; charset=utf-8" },
  ["/chat.js"] = { "chat.js", "text/javascript; charset=utf-8" },
  ["/chat.css"] = { "chat.css", "text/css; charset=utf-8" },
}
for _, page in pairs(PAGES) do
  local file = assert(io.open(here .. "web/" .. page[1], "rb"))
  page.text = file:read("*a")
  file:close()
  page.headers = {
    ["Content-Type"] = page[2], ["Cache-Control"] = "no-cache", ["X-Content-Type-Options"] = "nosniff",
    ["Content-Security-Policy"] = "default-src 'self'; img-src data:",
  }
end

local function serve_page(request)
  local page = PAGES[request.path]
  if not page or request.is_upgrade then return nil end
  if request.method ~= "GET" then return 405, "", { Allow = "GET" } end
  return 200, page.text, page.headers
end

-- The hub. A name is enough to be let in: see authenticate of handlers/chat.lua.

local hub = znl.hub {
  app = "chat", bus = bus, roster = { ttl_ms = ttl_ms }, listen = "127.0.0.1:" .. port,
  on_request = serve_page, rate = { messages_per_s = 10, burst = 20 }, ping_ms = 10000,
}
hub:handle("/ws/chat", znl.handlers(here .. "handlers/chat.lua"))

-- Each instance tells its own clients who is there, a moment after something changed.

local is_due = {}

local function tell(ns)
  is_due[ns] = nil
  local list = {}
  for _, member in ipairs(hub:roster(ns)) do
    -- Other programs on these subjects may join sessions without a user.
    local name = member.user_id
    list[#list + 1] = {
      id = member.session_id, name = name and name ~= "" and name or "?", at = member.metadata and member.metadata.at,
    }
  end
  for _, ctx in ipairs(hub:contexts(ns)) do ctx:send("roster", znl.json.array(list)) end
end

for _, event in ipairs { "member_added", "member_updated", "member_removed" } do
  hub:on(event, function(ns)
    if is_due[ns] then return end
    is_due[ns] = znl.timer(30, function() tell(ns) end)
  end)
end

hub:on("bus", function(state)
  for _, ctx in ipairs(hub:contexts()) do ctx:send("bus", state) end
end)

assert(hub:start())
print(("chat: http://127.0.0.1:%d"):format(hub:port()))
io.flush()
