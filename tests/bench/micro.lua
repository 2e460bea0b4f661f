--- micro.lua: what the micro benchmark measures, one process per part.
---
---   znlrun micro.lua registry PORT [ADDRESSES]       with so many addresses registered beforehand
---   znlrun micro.lua provider REGISTRY               answers /echo and /chunks
---   znlrun micro.lua call REGISTRY IN_FLIGHT SECONDS   prints the result
---   znlrun micro.lua find REGISTRY CONNECTIONS IN_FLIGHT SECONDS   so many on each connection
---   znlrun micro.lua stream REGISTRY SECONDS
---   znlrun micro.lua stall REGISTRY SECONDS          asks for a stream and reads nothing
---   znlrun micro.lua services REGISTRY COUNT         so many applications, svc-1, svc-2, …
---   znlrun micro.lua calls REGISTRY COUNT SECONDS    calls them all, again and again; prints the result
---   znlrun micro.lua listed REGISTRY COUNT           how long until they are all listed
---   znlrun micro.lua idle REGISTRY CONNECTIONS       registers, then sleeps
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local znl = require("znl")

local WARM_UP_US = measure.WARM_UP_US
local load = measure.load
local HOST = "127.0.0.1"
--- The member that makes an object of about 200 bytes of JSON: the shape of ws_echo.mjs.
local TEXT = ("x"):rep(176)

local function say(line)
  print(line)
  io.stdout:flush()
end

--- A value no two requests have in common; of about 200 bytes as JSON.
local function payload(number)
  return { n = number, text = TEXT }
end

local function application(namespace, registry, more)
  local options = {
    namespace = namespace, host = HOST, advertise_host = HOST, port = 0,
    registry = { host = HOST, port = tonumber(registry) },
  }
  for name, value in pairs(more or {}) do options[name] = value end
  local app = znl.application(options)
  return app, function() assert(app:start()) end
end

local parts = {}

function parts.registry(port, addresses)
  local registry = znl.registry { host = HOST, port = tonumber(port), max_registrations = 200000 }
  assert(registry:start())
  for number = 0, tonumber(addresses or 0) - 1 do
    local host = ("10.%d.%d.%d"):format(math.floor(number / 65536), math.floor(number / 256) % 256, number % 256)
    assert(registry.directory:add("finder", host, 9000))
  end
  say("ready")
end

function parts.provider(registry)
  local app, start = application("provider", registry)
  app:route("/echo", function(req) return req.data end)
  app:route("/chunks", function(req)
    local number = 0
    while not req.data.count or number < req.data.count do
      number = number + 1
      if not req:write(payload(number)) then return end
    end
  end)
  start()
  say("ready")
end

function parts.call(registry, in_flight, seconds)
  local app, start = application("consumer", registry)
  start()
  assert(app:call("provider", "/echo", payload(0)))
  load(tonumber(in_flight), tonumber(seconds), function(number)
    local data, message = app:call("provider", "/echo", payload(number))
    if not data then return message end
    if data.n ~= number or data.text ~= TEXT then return "an answer differs from its request" end
  end, function() app:stop() end)
end

function parts.find(registry, connections, in_flight, seconds)
  local clients, count = {}, tonumber(connections)
  for number = 1, count do
    clients[number] = assert(znl.client.connect {
      host = HOST, port = tonumber(registry), path = ("/%s/%d/finder"):format(HOST, 10000 + number),
    })
  end
  local wanted = { namespace = "finder" }
  load(count * tonumber(in_flight), tonumber(seconds), function(number)
    local address, message = clients[number % count + 1]:request("/-/find", wanted)
    if not address then return message or "nothing found" end
  end, function() for _, client in ipairs(clients) do client:close() end end)
end

function parts.stream(registry, seconds)
  local app, start = application("consumer", registry)
  start()
  local starts = measure.now_us() + WARM_UP_US
  local ends = starts + seconds * 1e6
  local chunks, expected = 0, 0
  for chunk in app:stream("provider", "/chunks", {}) do
    expected = expected + 1
    if chunk.n ~= expected then error("a chunk is missing") end
    if expected % 64 == 0 then
      local now = measure.now_us()
      if now >= starts then chunks = chunks + 64 end
      if now >= ends then break end
    end
  end
  measure.report { { "rate", chunks / seconds, "%.0f" }, { "chunks", chunks } }
  app:stop()
end

function parts.stall(registry, seconds)
  local app, start = application("consumer", registry)
  start()
  local client = assert(app:get("provider"))
  local stream = assert(client:stream("/chunks", {}))
  assert(stream:read())
  say("reading=1")
  znl.sleep(seconds * 1000)
  stream:close()
  app:stop()
end

function parts.services(registry, count)
  for number = 1, tonumber(count) do
    local app, start = application("svc-" .. number, registry)
    app:route("/echo", function(req) return req.data end)
    start()
  end
  say("ready")
end

--- Calls that go on while the registry dies and comes back: each address is known beforehand.
function parts.calls(registry, count, seconds)
  local app, start = application("consumer", registry)
  start()
  count = tonumber(count)
  for number = 1, count do assert(app:call("svc-" .. number, "/echo", payload(0))) end
  say("calling=1")
  load(count, tonumber(seconds), function(number)
    local data, message = app:call("svc-" .. number % count + 1, "/echo", payload(number))
    if not data then return message end
  end, function() app:stop() end)
end

function parts.listed(registry, count)
  local starts = measure.now_us()
  while true do
    local client = znl.client.connect {
      host = HOST, port = tonumber(registry), path = "/127.0.0.1/1/looking",
    }
    local found = 0
    for number = 1, client and tonumber(count) or 0 do
      if not client:request("/-/find", { namespace = "svc-" .. number }) then break end
      found = number
    end
    if client then client:close() end
    if found == tonumber(count) then break end
    znl.sleep(10)
  end
  measure.report { { "listed_ms", (measure.now_us() - starts) / 1000, "%.0f" } }
end

function parts.idle(registry, connections)
  for number = 1, tonumber(connections) do
    assert(znl.client.connect {
      host = HOST, port = tonumber(registry),
      path = ("/%s/%d/idle-%d"):format(HOST, 1 + number % 65535, number % 100),
    })
  end
  say("connected=" .. connections)
  znl.sleep(3600000)
end

local part = parts[arg[1]]
if not part then
  io.stderr:write("micro.lua: unknown part ", tostring(arg[1]), "\n")
  os.exit(2)
end
part(unpack(arg, 2))
