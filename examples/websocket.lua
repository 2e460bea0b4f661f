--- A room where people talk: everybody hears what one says, and a page tells who is there.
---
---     znlrun examples/websocket.lua            two people talk, then all ends
---     znlrun examples/websocket.lua 8080       stays: open http://127.0.0.1:8080/ in a browser
---
--- SPDX-License-Identifier: MIT

local znl = require("znl")

local PAGE = [[
<!doctype html><meta charset="utf-8"><title>A room</title>
<pre id="said"></pre><input id="text" autofocus placeholder="say something">
<script>
  const socket = new WebSocket("ws://" + location.host + "/room/guest");
  socket.onmessage = (event) => { said.textContent += event.data + "\n"; };
  text.onchange = () => { socket.send(text.value); text.value = ""; };
</script>
]]

local people = {}

local function tell_all(text)
  -- Whoever is slow must not hold up the others: a second is enough, else they leave.
  for conn in pairs(people) do
    znl.spawn(function()
      if not conn:send(text, { timeout_ms = 1000 }) then conn:close(1008, "too slow") end
    end)
  end
end

local server = assert(znl.websocket.serve {
  listen = "127.0.0.1:" .. (arg[1] or 0),
  max_message_bytes = 1000,
  on_request = function(request)
    if request.is_upgrade and not request.path:find("^/room/%w+$") then return 404 end
    if request.path == "/" then return 200, PAGE, { ["Content-Type"] = "text/html" } end
  end,
  handle = function(conn)
    local name = conn.path:match("%w+$")
    people[conn] = name
    tell_all(name .. " is here")
    for message in conn:messages() do tell_all(name .. ": " .. message) end
    people[conn] = nil
    tell_all(name .. " has gone")
  end,
})
print(("http://127.0.0.1:%d/"):format(server.port))
if arg[1] then return end

local url = ("ws://127.0.0.1:%d/room/"):format(server.port)
local ada = assert(znl.websocket.connect(url .. "ada"))
assert(ada:recv() == "ada is here")
local grace = assert(znl.websocket.connect(url .. "grace"))
assert(ada:recv() == "grace is here")
assert(grace:recv() == "grace is here")
ada:send("hello, grace")
print("grace hears", (grace:recv()))
print("ada hears  ", (ada:recv()))
grace:close()
assert(ada:recv() == "grace has gone")
ada:send(("x"):rep(1001))
print((select(2, ada:recv())))
assert(select(4, znl.websocket.connect((url:gsub("room", "attic")))) == 404)
server:close()
