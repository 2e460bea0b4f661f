--- soak_end: one process of the soak; soak.lua starts it, and says on its standard input what to do.
---
---   soak_end.lua master plain|encrypted SEED
---   soak_end.lua slaves plain|encrypted SEED ENDPOINT FLEET LIFE COUNT
---       COUNT slaves; FLEET names the process, LIFE counts how often it was started before
---
--- Commands, a line each: `load N` keeps N requests open; `rate N` begins N requests a second, however many are
--- open; `calm` begins nothing more; `cut` ends one connection; `count` prints its figures; `stop` ends it.
---
--- All messages are numbered, per sender, receiver and way, and whoever receives them knows which came before. What
--- can only go wrong when znlrun is wrong counts as a violation, with words about the first of each kind.
--- SPDX-License-Identifier: MIT

package.path = arg[0]:match("^(.-)[^/]*$") .. "?.lua;" .. package.path
local cut = require("cut")
local uv = require("luv")
local znl = require("znl")

local what, mode, seed = arg[1], arg[2], tonumber(arg[3])
local KEY = "a key for the soak only"
local TIMEOUT_MS, OPEN_MAX, TICK_MS = 10000, 20000, 5
local FILLER = ("x"):rep(32)

math.randomseed(seed)

--- Figures, printed on demand. Gaps count places where numbers are missing, not the numbers.
local seen = {
  asked = 0, ok = 0, failed = 0, open = 0, skipped = 0, handled = 0, violations = 0,
  sent = 0, received = 0, gaps = 0, missing = 0, cuts = 0, rebuilds = 0,
}
local codes, complaints = {}, {}

local function say(line)
  io.stdout:write(line, "\n")
  io.stdout:flush()
end

local function violation(kind, ...)
  seen.violations = seen.violations + 1
  if complaints[kind] then return end
  complaints[kind] = true
  say(("violation %s: %s"):format(kind, string.format(...)))
end

--- --- numbers -------------------------------------------------------------------------------------

local Order = {}
Order.__index = Order

--- Follows the numbers of one sender: `life` counts its restarts, numbers begin at 1 in each life.
local function order(kind, counts_gaps)
  return setmetatable({ kind = kind, counts_gaps = counts_gaps, life = -1, number = 0 }, Order)
end

function Order:take(from, life, number)
  if life < self.life then
    violation(self.kind .. "-after-death", "%s: life %d after life %d", from, life, self.life)
    return
  elseif life > self.life then
    self.life, self.number, self.fresh = life, 0, true
  end
  if number <= self.number then
    violation(self.kind .. "-order", "%s: number %d after %d", from, number, self.number)
    return
  end
  if self.counts_gaps and number ~= self.number + 1 and not self.fresh then
    seen.gaps = seen.gaps + 1
    seen.missing = seen.missing + number - self.number - 1
  end
  self.number, self.fresh = number, false
end

--- One table of orders per sender.
local function orders(kind, counts_gaps)
  local all = {}
  return function(from, life, number)
    all[from] = all[from] or order(kind, counts_gaps)
    all[from]:take(from, life, number)
  end
end

--- --- load ----------------------------------------------------------------------------------------

local ends = {} -- { number =, ask = function(payload) }: whom to ask, each in turn
local turn, wanted_open, rate = 0, 0, 0
local life = tonumber(arg[6]) or 0

--- Asks the next one; the answer must be that of this request.
local function ask_next()
  turn = turn % #ends + 1
  local peer = ends[turn]
  if not peer then return end
  peer.number = peer.number + 1
  local payload = ("%d %d %s"):format(life, peer.number, FILLER)
  seen.asked, seen.open = seen.asked + 1, seen.open + 1
  local reply, message, code = peer.ask(payload)
  seen.open = seen.open - 1
  if reply == nil then
    seen.failed = seen.failed + 1
    codes[code or "?"] = (codes[code or "?"] or 0) + 1
    if not code then violation("no-code", "%s", tostring(message)) end
    return false
  end
  seen.ok = seen.ok + 1
  if reply ~= "re " .. payload then violation("wrong-answer", "%q for %q", tostring(reply), payload) end
  return true
end

local function keep_asking()
  while seen.open < wanted_open do
    if not ask_next() then znl.sleep(TICK_MS) end -- nobody is there
  end
end

local function on_tick()
  if rate <= 0 then return end
  local budget, last = 0, uv.hrtime()
  return function()
    local now = uv.hrtime()
    budget = math.min(budget + rate * (now - last) / 1e9, rate)
    last = now
    while budget >= 1 do
      budget = budget - 1
      if seen.open < OPEN_MAX then znl.spawn(ask_next) else seen.skipped = seen.skipped + 1 end
    end
  end
end

local one_way -- sends one message that nobody answers; false when it was refused
local tick

local commands = {}

function commands.load(count)
  wanted_open = count
  for _ = 1, count do znl.spawn(keep_asking) end
end

function commands.rate(per_second)
  wanted_open, rate = 0, per_second
  tick = on_tick()
end

function commands.calm()
  wanted_open, rate, tick = 0, 0, nil
end

--- One message that nobody answers for every eight requests; a publish counts for each slave. At least one a tick.
local receivers = 1
znl.every(TICK_MS, function()
  if not tick then return end
  tick()
  for _ = 1, math.max(1, math.floor(rate * TICK_MS / 1000 / 8 / receivers)) do one_way() end
end)

--- --- master ---------------------------------------------------------------------------------------

local run = {}

local function options(id, endpoint)
  return {
    id = id, endpoint = endpoint, encrypted = mode == "encrypted", auth_key = mode == "encrypted" and KEY or nil,
    require_digest = mode == "encrypted", heartbeat_ms = 500, heartbeat_timeout_ms = 5000, max_pending = 100000,
    replay_window_ms = 60000, -- so long what is remembered of messages grows
  }
end

--- Life, number of a payload; nil when it is none of ours.
local function read(payload)
  local its_life, number = payload:match("^(%d+) (%d+) x+$")
  return tonumber(its_life), tonumber(number)
end

local function handler(from_orders, from_of)
  return function(req)
    local its_life, number = read(req.payload)
    if not number then
      violation("strange-request", "%q", req.payload)
      return nil
    end
    from_orders(from_of(req), its_life, number)
    seen.handled = seen.handled + 1
    return "re " .. req.payload
  end
end

local function on_one_way(take)
  return function(from, payload)
    local its_life, number = read(payload)
    if not number then return violation("strange-message", "%q", payload) end
    seen.received = seen.received + 1
    take(from, its_life, number)
  end
end

function run.master()
  local master = znl.master(options("soak", "tcp://127.0.0.1:*"))
  local of_slave = {}
  master:handle(handler(orders("request"), function(req) return req.from end))
  local take = on_one_way(orders("push", true))
  master:on("push", function(from, _, payload) take(from, payload) end)
  master:on("slave_connected", function(id)
    if of_slave[id] then return end
    of_slave[id] = {
      name = id, number = 0,
      ask = function(payload) return master:request(id, payload, { timeout_ms = TIMEOUT_MS }) end,
    }
    ends[#ends + 1] = of_slave[id]
    receivers = #ends
  end)
  assert(master:start())
  local number = 0
  function one_way()
    number = number + 1
    local sent, dropped = master:publish("news", ("0 %d %s"):format(number, FILLER))
    if sent then seen.sent = seen.sent + 1 end
    seen.refused = (seen.refused or 0) + (dropped or 0)
  end
  say("ready " .. master:endpoint())
  return master:endpoint(), function() seen.online = #master:slaves() end, function() master:stop() end
end

function run.slaves()
  local endpoint, fleet, count = arg[4], arg[5], tonumber(arg[7])
  local slaves = {}
  for i = 1, count do
    local id = ("%s-%d"):format(fleet, i)
    local slave = znl.slave(options(id, endpoint))
    slave:handle(handler(orders("request"), function() return "master" end))
    local take = on_one_way(orders("publish", true))
    slave:subscribe("news", function(payload) take("master to " .. id, payload) end)
    assert(slave:start())
    slaves[i] = { node = slave, number = 0 }
    ends[i] = {
      name = "master", number = 0,
      ask = function(payload) return slave:request(payload, { timeout_ms = TIMEOUT_MS }) end,
    }
  end
  local next_one = 0
  function one_way()
    next_one = next_one % count + 1
    local slave = slaves[next_one]
    -- A number that was refused is free for the next one.
    if not slave.node:push("news", ("%d %d %s"):format(life, slave.number + 1, FILLER)) then return end
    slave.number = slave.number + 1
    seen.sent = seen.sent + 1
  end
  say("ready " .. endpoint)
  return endpoint, function()
    seen.rebuilds = 0
    for _, slave in ipairs(slaves) do seen.rebuilds = seen.rebuilds + slave.node:counters().rebuilds end
  end, function()
    for _, slave in ipairs(slaves) do slave.node:stop() end
  end
end

--- --- commands -------------------------------------------------------------------------------------

local endpoint, refresh, stop = assert(run[what], "master or slaves")()
local port = tonumber(endpoint:match(":(%d+)$"))

function commands.cut() seen.cuts = seen.cuts + cut.one(port) end

function commands.count()
  refresh()
  local words = {}
  for name, value in pairs(seen) do words[#words + 1] = ("%s=%d"):format(name, value) end
  for name, value in pairs(codes) do words[#words + 1] = ("code_%s=%d"):format(name, value) end
  say("count " .. table.concat(words, " "))
end

local input = uv.new_pipe(false)
assert(input:open(0))

function commands.stop()
  commands.calm()
  stop()
  if not input:is_closing() then input:close() end
  znl.exit(0)
end

local rest = ""
input:read_start(function(_, data)
  if not data then return znl.spawn(commands.stop) end -- soak.lua is gone
  rest = rest .. data
  for name, value in (rest:gsub("[^\n]*$", "")):gmatch("(%a+) ?(%S*)\n") do
    znl.spawn(commands[name], tonumber(value))
  end
  rest = rest:match("[^\n]*$")
end)
