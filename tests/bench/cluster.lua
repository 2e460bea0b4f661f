--- cluster.lua: what the cluster benchmark measures, one process per part; cluster_npm.cjs does the same.
---
---   znlrun cluster.lua lead PORT                           leads; prints ready
---   znlrun cluster.lua call PORT KIND IN_FLIGHT SECONDS    echo calls of one follower; prints the result
---   znlrun cluster.lua fan PORT FOLLOWERS SECONDS          so many followers of one key; prints the result
---   znlrun cluster.lua member PORT                         one of a fleet; prints whom it sees lead, and when
---
--- KIND: string (100 bytes), object (5 fields), buffer (1 KiB).
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local measure = require("measure")
local uv = require("luv")
local znl = require("znl")

local BATCH, LANES = 50, 4 -- values asked for at once; batches under way
local TEXT = ("x"):rep(108) -- makes a value of about 140 bytes as transcode text

local function say(line)
  print(line)
  io.stdout:flush()
end

--- The real client.
local function real_client()
  local subscribed, sequence = {}, 0
  local client = {}
  function client.subscribe(_, reg, listener)
    subscribed[reg.dataId] = listener
    if reg.dataId == "leader" then listener { pid = uv.os_getpid() } end
  end
  function client.echo(_, value) return value end
  function client.flood(_, count)
    local listener = subscribed.flood
    for _ = 1, count do
      sequence = sequence + 1
      listener { seq = sequence, text = TEXT }
    end
    return sequence
  end
  return client
end

local function open(port, leader)
  return znl.cluster_client {
    name = "BenchClient", port = tonumber(port), leader = leader, response_timeout_ms = 60000,
    client = real_client, methods = { "echo", "flood" },
  }
end

local function equal(a, b) return a == b end

local kinds = {
  string = {
    make = function(number) return ("%010d"):format(number) .. ("x"):rep(90) end,
    same = equal,
  },
  object = {
    make = function(number)
      return { id = number, name = "service-" .. number, active = true, weight = 0.75, address = "10.0.0.1:8080" }
    end,
    same = function(a, b) return a.id == b.id and a.name == b.name and a.address == b.address end,
  },
  buffer = {
    make = (function()
      local next_payload = measure.payloads(1024)
      return function() return znl.bytes(next_payload()) end
    end)(),
    same = equal,
  },
}

local parts = {}

function parts.lead(port)
  assert(open(port, true):start())
  say("ready")
end

function parts.call(port, kind, in_flight, seconds)
  local make, same = kinds[kind].make, kinds[kind].same
  local client = open(port, false)
  assert(client:start())
  measure.load(tonumber(in_flight), tonumber(seconds), function(number)
    local value = make(number)
    local answer, message = client:invoke("echo", value)
    if answer == nil then return message end
    if not same(answer, value) then return "an answer differs from its request" end
  end, function() client:close() end)
end

function parts.fan(port, followers, seconds)
  local wanted = tonumber(followers)
  local clients = {}
  for number = 1, wanted do
    clients[number] = open(port, false)
    assert(clients[number]:start())
  end
  local now_us, per_batch = measure.now_us, BATCH * wanted
  local starts, ends = math.huge, math.huge
  local received, batches, delivered, disorder, began = 0, 0, 0, 0, false
  local done = znl.event()

  local function ask()
    batches = batches + 1
    znl.spawn(function() assert(clients[1]:invoke("flood", BATCH)) end)
  end

  local function batch_received()
    local now = now_us()
    if now >= starts and now < ends then delivered = delivered + per_batch end
    if now < ends then
      ask()
    elseif received == batches * per_batch then
      done:set()
    end
  end

  for _, client in ipairs(clients) do
    local last
    client:subscribe({ dataId = "flood" }, function(value)
      local sequence = value.seq
      if (last and sequence ~= last + 1) or value.text ~= TEXT then disorder = disorder + 1 end
      last = sequence
      if not began then return end
      received = received + 1
      if received % per_batch == 0 then batch_received() end
    end)
  end
  -- An answer stands behind the subscription on its connection: all of them are in force.
  for _, client in ipairs(clients) do assert(client:invoke("echo", 1)) end
  began, starts = true, now_us() + measure.WARM_UP_US
  ends = starts + seconds * 1e6
  for _ = 1, LANES do ask() end
  done:wait(measure.WARM_UP_US / 1000 + seconds * 1000 + 5000) -- the rest is lost
  measure.report {
    { "deliveries", delivered / seconds, "%.0f" }, { "total", received },
    { "lost", batches * per_batch - received }, { "disorder", disorder },
  }
  for _, client in ipairs(clients) do client:close() end
end

function parts.member(port)
  local client = open(port)
  client:subscribe({ dataId = "leader" }, function(value)
    say(("leader=%d at_us=%.0f"):format(value.pid, measure.now_us()))
  end)
  assert(client:start())
end

local part = parts[arg[1]]
if not part then
  io.stderr:write("cluster.lua: unknown part ", tostring(arg[1]), "\n")
  os.exit(2)
end
part(unpack(arg, 2))
