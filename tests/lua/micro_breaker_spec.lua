--- The breakers, against the traces of release 2.0.15 and by themselves. SPDX-License-Identifier: MIT
local breakers = require("znl.micro.breaker")
local caller = require("znl.micro.caller")
local cjson = require("cjson")
local sched = require("znl.core.sched")
local znl = require("znl")

local function read(name)
  local file = assert(io.open((os.getenv("ZNL_VECTORS") or "tests/vectors") .. "/micro/" .. name))
  local text = file:read("*a")
  file:close()
  return cjson.decode(text)
end

--- The options of the traces in our words.
local WORDS = {
  failureThreshold = "failure_threshold", failureWindowMs = "failure_window_ms",
  successThreshold = "success_threshold", cooldownMs = "cooldown_ms", maxCooldownMs = "max_cooldown_ms",
  halfOpenMaxProbes = "half_open_max_probes",
}

--- A fake namespace: peers by name, what they do next, the lookups that were made.
local function stage(peers, opts)
  local self = { now = 0, lookups = {}, next = {}, names = {}, clients = {}, held = {} }
  local given = {}
  for name, value in pairs(opts) do given[assert(WORDS[name], name)] = value end
  for name, value in pairs(given) do if type(value) == "table" then given[name] = nil end end
  self.breaker = breakers.new(breakers.read(given, 2, "test", 1), function() return self.now end)
  for name, key in pairs(peers) do
    self.names[key] = name
    self.clients[#self.clients + 1] = { key = key, name = name }
  end
  table.sort(self.clients, function(a, b) return a.name < b.name end)
  for _, client in ipairs(self.clients) do
    client.conn = {}
    function client.conn.request()
      local outcome = table.remove(self.next[client.name] or {}, 1) or "ok"
      if outcome ~= "ok" and outcome ~= "fail" then
        local event = sched.event()
        self.held[outcome] = event
        outcome = event:wait()
      end
      if outcome == "ok" then return client.name end
      return nil, client.name .. " fails", 500, true
    end
  end
  function self.get(_, _, exclude)
    local left_out = {}
    for _, key in ipairs(exclude or {}) do left_out[key] = true end
    local chosen
    for _, client in ipairs(self.clients) do
      if not left_out[client.key] then chosen = client break end
    end
    self.lookups[#self.lookups + 1] = { exclude = exclude or cjson.null, chosen = chosen and chosen.name or cjson.null }
    if chosen then return chosen end
    return nil, "Namespace not found", "NOT_FOUND"
  end
  function self.states()
    local states = {}
    for key, record in pairs(self.breaker.records) do
      states[self.names[key]] = {
        status = record.status, failures = record.failures, successes = record.successes,
        cooldown_ms = record.cooldown_ms, probes_in_flight = record.probes,
        next_attempt_at = record.next_ms or cjson.null,
      }
    end
    return states
  end
  return self
end

local function plan(retries)
  return {
    timeout_ms = 1000, retries = retries, retry = caller.PREDICATES.always, elsewhere = false, exact = true,
    should_record = function() return true end, on_hook_error = error,
  }
end

local function shown(result, message)
  if result ~= nil then return { ok = result } end
  return { error = message }
end

local STEPS = {}

function STEPS.call(s, step)
  return shown(caller.run(s, s.breaker, "svc", "/x", {}, plan(step.retries or 0)))
end

function STEPS.begin(s, step)
  s.tasks = s.tasks or {}
  s.tasks[step.as] = znl.spawn(function()
    return caller.run(s, s.breaker, "svc", "/x", {}, plan(step.retries or 0))
  end)
  assert.is_false(s.tasks[step.as]:is_done())
  return "pending"
end

function STEPS.finish(s, step)
  assert(s.held[step.as], step.as):set(step["with"])
  return shown(s.tasks[step.as]:wait(5000))
end

--- As znl.micro.call_stream does with its three ends.
function STEPS.stream(s, step)
  local client, ticket = assert(s.breaker:select(s, "svc", true))
  local outcome = table.remove(s.next[client.name] or {}, 1)
  if step.how == "destroy" then
    s.breaker:release(ticket)
    return "closed by the caller"
  elseif outcome == "error" then
    s.breaker:fail(client.key, ticket)
    s.breaker:release(ticket)
    return { error = client.name .. " stream fails" }
  end
  s.breaker:succeed(client.key, ticket)
  s.breaker:release(ticket)
  return "ended"
end

describe("breaker_v2", function()
  local vectors = read("breaker-traces.json")
  assert(#vectors.traces > 10)

  for _, trace in ipairs(vectors.traces) do
    it("follows the trace: " .. trace.name, function()
      local s = stage(trace.peers, trace.options)
      for number, step in ipairs(trace.steps) do
        local place = ("step %d, %s at %d"):format(number, step["do"], step.at)
        s.now, s.lookups, s.next = step.at, {}, step.outcomes or {}
        local result = STEPS[step["do"]](s, step)
        assert.same(step.result, result, place)
        -- A stream of the traces chooses as a call does.
        assert.same(step.lookups, s.lookups, place)
        assert.same(step.states, s.states(), place)
      end
    end)
  end

  it("has the defaults of the traces", function()
    local opts = breakers.read(nil, 2, "test", 1)
    for name, value in pairs(vectors.defaults) do assert.equal(value, opts[WORDS[name]], name) end
    assert.equal(30000, breakers.read(nil, 1, "test", 1).cooldown_ms)
    assert.equal(30000, breakers.read({ version = 1 }, 2, "test", 1).cooldown_ms)
    assert.error_matches(function()
      breakers.read({ failure_threshold = 0 }, 2, "test", 1)
    end, "failure_threshold is 0")
  end)

  it("gives back a probe once, and only while it is half-open", function()
    local s = stage({ A = "a:1" }, { failureThreshold = 1, cooldownMs = 10, halfOpenMaxProbes = 2 })
    local breaker = s.breaker
    breaker:fail("a:1", breaker:probe("a:1"))
    s.now = 10
    assert.same({}, breaker:excludes())
    local first, second = breaker:probe("a:1"), breaker:probe("a:1")
    local third, was_half = breaker:probe("a:1")
    assert.is_nil(third)
    assert.is_true(was_half)
    assert.same({ "a:1" }, (breaker:excludes()))
    breaker:release(first)
    breaker:release(first)
    assert.equal(1, breaker.records["a:1"].probes)
    breaker:fail("a:1", second)
    assert.equal("open", breaker.records["a:1"].status)
    assert.equal(0, breaker.records["a:1"].probes)
    assert.equal(1, breaker.count)
    local refused, half = breaker:probe("a:1")
    assert.is_nil(refused)
    assert.is_false(half)
  end)

  it("tells what changes", function()
    local seen, now = {}, 0
    local breaker = breakers.new(breakers.read({ failure_threshold = 1, success_threshold = 1 }, 2, "test", 1),
      function() return now end, function(key, status) seen[#seen + 1] = key .. " " .. status end)
    breaker:fail("a:1", breaker:probe("a:1"))
    now = 10000
    breaker:excludes()
    breaker:succeed("a:1", breaker:probe("a:1"))
    assert.same({ "a:1 open", "a:1 half-open", "a:1 closed" }, seen)
    assert.equal(0, breaker.count)
  end)
end)

describe("breaker_v1", function()
  it("leaves an instance out for 30 s after one failure", function()
    local now = 0
    local breaker = breakers.new(breakers.read({ version = 1 }, 2, "test", 1), function() return now end)
    breaker:fail("a:1")
    now = 1000
    breaker:fail("a:1")
    breaker:fail("b:1")
    assert.equal(2, breaker.count)
    now = 30999
    assert.equal(2, #breaker:excludes())
    now = 31000
    assert.same({}, breaker:excludes())
    assert.equal(0, breaker.count)
    breaker:fail("a:1")
    breaker:succeed("a:1")
    assert.equal(0, breaker.count)
  end)

  it("forgets all when nobody else is found", function()
    local breaker = breakers.new(breakers.read({ version = 1 }, 2, "test", 1), function() return 0 end)
    breaker:fail("a:1")
    local asked = {}
    local source = { get = function(_, _, exclude)
      asked[#asked + 1] = exclude or "none"
      if exclude then return nil, "Namespace not found", "NOT_FOUND" end
      return { key = "a:1" }
    end }
    assert.equal("a:1", breaker:select(source, "svc").key)
    assert.same({ { "a:1" }, "none" }, asked)
    assert.equal(0, breaker.count)
  end)
end)

describe("judge", function()
  it("blames an instance for what is its fault", function()
    assert.equal("failure", breakers.judge("TIMEOUT", false))
    assert.equal("failure", breakers.judge("CLOSED", false))
    assert.equal("neither", breakers.judge("CANCELLED", false))
    assert.equal("failure", breakers.judge(500, true))
    assert.equal("failure", breakers.judge("OVERLOADED", true))
    assert.equal("success", breakers.judge(404, true))
    assert.equal("success", breakers.judge("NOT_FOUND", true))
    assert.equal("success", breakers.judge("CANCELLED", true))
  end)
end)

describe("record", function()
  it("counts a connection that ends once, whatever was under way on it", function()
    local breaker = breakers.new(breakers.read({ failure_threshold = 2 }, 2, "test", 1), function() return 0 end)
    local function fails(client)
      caller.record({}, breaker, client, breaker:probe(client.key), { code = "CLOSED", is_remote = false })
    end
    local first, second = { key = "a:1" }, { key = "a:1" }
    for _ = 1, 5 do fails(first) end
    assert.equal("closed", breaker.records["a:1"].status)
    fails(second)
    assert.equal("open", breaker.records["a:1"].status)
  end)
end)
