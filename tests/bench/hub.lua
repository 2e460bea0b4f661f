--- hub.lua: what the hub benchmark measures, one process per part; hub_node.mjs does the same where it says so.
---
---   znlrun hub.lua publish URL SECONDS        broadcasts as fast as they are taken; prints the result (node, too)
---   znlrun hub.lua receive URL SECONDS        counts broadcasts of others; prints ready, then the result (node, too)
---   znlrun hub.lua serve URL PORT             hands broadcasts to its WebSocket clients; prints ready (node, too)
---   znlrun hub.lua clients PORT COUNT SECONDS COUNT clients of either; prints ready, then what they get
---   znlrun hub.lua members URL COUNT TTL_MS   an instance with COUNT members; prints ready
---   znlrun hub.lua fresh URL COUNT            a new instance: how long until it has all of them; prints the result
---   znlrun hub.lua gone URL COUNT TTL_MS      waits for COUNT members and for their end; prints when each was
---   znlrun hub.lua change URL SECONDS         joins and leaves, and prints when
---   znlrun hub.lua watch URL                  prints when it sees them
---   znlrun hub.lua joiner URL COUNT           an instance with COUNT members, and one more once the server is gone
---   znlrun hub.lua restarted URL COUNT        how long after a reconnect it has all; prints complete, the result
---
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local uv = require("luv")
local znl = require("znl")

local NS = "/ws/bench"
local BATCH, LANES = 1000, 4
local TEXT = ("x"):rep(100)

local function say(line)
  print(line)
  io.stdout:flush()
end

local function make(url, more)
  local opts = {
    app = "bench", listen = "127.0.0.1:0", bus = url, max_connections = 100000, on_slow = "drop",
    max_queue_bytes = 4 * 1024 * 1024, max_members = 1000000,
  }
  for name, value in pairs(more or {}) do opts[name] = value end
  local hub = znl.hub(opts)
  hub:channel(NS, { on_message = function() end })
  assert(hub:start())
  while hub:state() ~= "online" do znl.sleep(1) end
  return hub
end

--- Prints how fast `count()` grows.
local function measured(seconds, count)
  znl.sleep(measure.WARM_UP_US / 1000)
  local from, cpu, before = measure.now_us(), os.clock(), count()
  znl.sleep(seconds * 1000)
  local took, total = (measure.now_us() - from) / 1e6, count() - before
  measure.report {
    { "rate", total / took, "%.0f" }, { "cpu_us", (os.clock() - cpu) / math.max(total, 1) * 1e6, "%.3f" },
    { "total", total, "%.0f" },
  }
end

local parts = {}

function parts.publish(url, seconds)
  local nats = assert(znl.nats.connect { servers = url, echo = false })
  local hub = make(nats, { roster = { driver = "none" } })
  local sent, over = 0, false
  for _ = 1, LANES do
    znl.spawn(function()
      while not over do
        for _ = 1, BATCH do
          sent = sent + 1
          assert(hub:broadcast { ns = NS, message = { type = "tick", payload = { n = sent, text = TEXT } } })
        end
        nats:flush(60000)
      end
    end)
  end
  measured(seconds, function() return sent end)
  over = true
  os.exit(0)
end

function parts.receive(url, seconds)
  local hub = make(url, { roster = { driver = "none" } })
  local function count() return hub:counters().received end
  say("ready")
  while count() == 0 do znl.sleep(5) end
  measured(seconds, count)
  os.exit(0)
end

function parts.serve(url, port)
  make(url, { roster = { driver = "none" }, listen = "127.0.0.1:" .. port, origins = "*", ping_ms = 0 })
  say("ready")
end

--- Clients that only count: the bytes of a text are all the same, so are those of its frame.
function parts.clients(port, count, seconds)
  local bytes, open = 0, 0
  local frame = nil
  for _ = 1, count do
    local socket = uv.new_tcp()
    local head = ""
    socket:connect("127.0.0.1", tonumber(port), function(err)
      assert(not err, err)
      socket:write("GET " .. NS .. " HTTP/1.1\r\nHost: 127.0.0.1:" .. port .. "\r\nUpgrade: websocket\r\n"
        .. "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
      socket:read_start(function(problem, data)
        assert(not problem and data, "a connection ended")
        if head then
          head = head .. data
          local _, ends = head:find("\r\n\r\n", 1, true)
          if not ends then return end
          assert(head:find("^HTTP/1.1 101"), head)
          data, head = head:sub(ends + 1), nil
          open = open + 1
        end
        if not frame and #data > 4 then
          local size = data:byte(2)
          frame = size < 126 and 2 + size or 4 + data:byte(3) * 256 + data:byte(4)
        end
        bytes = bytes + #data
      end)
    end)
  end
  while open < tonumber(count) do znl.sleep(5) end
  say("ready")
  while bytes == 0 do znl.sleep(5) end
  measured(seconds, function() return bytes / frame end)
  os.exit(0)
end

--- Members without connections: the roster alone, as a hub has it.
local function roster_of(url, ttl_ms)
  local nats = assert(znl.nats.connect { servers = url, echo = false, reconnect_min_ms = 5, reconnect_max_ms = 20 })
  local core = require("znl.core.roster")
  local listeners = {}
  local roster = assert(core.new {
    bus = nats.core, subject = "mega.ws.bench.roster", ttl_ms = tonumber(ttl_ms or 30000), max_members = 1000000,
    origin = ("%d-%d"):format(uv.os_getpid(), math.random(1e9)),
    on_event = function(name, ...) if listeners[name] then listeners[name](...) end end,
  })
  return roster, nats, listeners
end

function parts.members(url, count, ttl_ms)
  local roster = roster_of(url, ttl_ms)
  assert(roster:start())
  for number = 1, count do
    assert(roster:join { ns = NS, session_id = ("session-%07d"):format(number), user_id = "user-" .. number,
      metadata = { name = "User " .. number, colour = "green", since = 1700000000 + number } })
    if number % 200 == 0 then znl.sleep(1) end
  end
  say("ready")
end

local function until_count(roster, count)
  while roster:count() ~= count do znl.sleep(1) end
  return measure.now_us()
end

function parts.fresh(url, count)
  local roster = roster_of(url)
  local from = measure.now_us()
  assert(roster:start())
  local has = until_count(roster, tonumber(count))
  measure.report { { "complete_ms", (has - from) / 1000, "%.1f" } }
  os.exit(0)
end

function parts.gone(url, count, ttl_ms)
  local roster = roster_of(url, ttl_ms)
  assert(roster:start())
  until_count(roster, tonumber(count))
  say("complete")
  say(("gone_us=%.0f"):format(until_count(roster, 0)))
  os.exit(0)
end

function parts.restarted(url, count)
  local roster, nats = roster_of(url)
  assert(roster:start())
  until_count(roster, tonumber(count))
  local others = tonumber(count)
  nats:once("connected", function()
    local from = measure.now_us()
    -- The member that joined meanwhile shows that the other instance is back, too.
    local has = until_count(roster, others + 1)
    measure.report { { "complete_ms", (has - from) / 1000, "%.1f" } }
    os.exit(0)
  end)
  say("complete")
end

--- With one member more as soon as the bus is gone.
function parts.joiner(url, count)
  local roster, nats = roster_of(url)
  assert(roster:start())
  for number = 1, count do
    assert(roster:join { ns = NS, session_id = "s" .. number, user_id = "u" .. number, metadata = { name = TEXT } })
    if number % 200 == 0 then znl.sleep(1) end
  end
  nats:once("disconnected", function()
    assert(roster:join { ns = NS, session_id = "late", user_id = "late" })
  end)
  say("ready")
end

function parts.change(url, seconds)
  local roster = roster_of(url)
  assert(roster:start())
  znl.sleep(500)
  local ends = measure.now_us() + seconds * 1e6
  local number = 0
  while measure.now_us() < ends do
    number = number + 1
    local id = ("%.0f"):format(measure.now_us())
    assert(roster:join { ns = NS, session_id = id, user_id = "u" })
    znl.sleep(5)
    roster:leave(id)
    znl.sleep(5)
  end
  roster:join { ns = NS, session_id = "over", user_id = "u" }
  znl.sleep(1000)
  os.exit(0)
end

function parts.watch(url)
  local roster, _, listeners = roster_of(url)
  local latency = measure.latency()
  function listeners.added(_, session_id)
    if session_id == "over" then
      measure.report {
        { "p50_us", latency:percentile_us(0.5), "%.0f" }, { "p99_us", latency:percentile_us(0.99), "%.0f" },
        { "changes", latency.count },
      }
      os.exit(0)
    end
    latency:add(measure.now_us() - tonumber(session_id))
  end
  assert(roster:start())
  say("ready")
end

parts[arg[1]](unpack(arg, 2))
