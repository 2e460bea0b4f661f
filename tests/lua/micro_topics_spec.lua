--- Topics of an application by themselves: a registry that does what the test says. SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local log = require("znl.log")
local sched = require("znl.core.sched")
local topics = require("znl.micro.topics")
local znl = require("znl")

describe("topics", function()
  local sent, answers, registry, running, level

  before_each(function()
    sent, answers, running, level = {}, {}, true, znl.log.level()
    znl.log.set_level("off")
    registry = { key = "r:1", conn = {} }
    function registry.conn.is_open() return registry ~= nil end
    function registry.conn.request(_, url, data)
      sent[#sent + 1] = { url = url, topic = data.topic, payload = data.payload, revision = data.revision }
      local answer = answers[url]
      if type(answer) == "function" then return answer(data) end
      if answer ~= nil then return answer end
      return url == "/-/declare" and #sent or url == "/-/subscribe" and { hasData = false } or 1
    end
  end)

  after_each(function() znl.log.set_level(level) end)

  local function make()
    return topics.new {
      owner = sched.owner(), log = log.new("test"), timeout_ms = 100,
      registry = function() return registry end, is_running = function() return running end,
      encode = function(value)
        if type(value) == "function" then return nil, "a function" end
        return tostring(value)
      end,
      raw = function(text) return text end, signature = function(text) return text end,
    }
  end

  local function urls()
    local list = {}
    for index, entry in ipairs(sent) do list[index] = entry.url:match("[^/]+$") .. " " .. entry.topic end
    return list
  end

  it("declares each value once it is known, without a revision", function()
    local t = make()
    local handle = assert(t:publish("a", 1, 1))
    assert.same({ url = "/-/declare", topic = "a", payload = "1" }, sent[1])
    assert.equal(1, t.published.a.revision)
    assert.is_false(t.published.a.dirty)
    assert.is_true(handle:update(2))
    assert.equal("2", sent[2].payload)
    local same = assert(t:publish("a", 2, 1))
    assert.is_true(handle:update(3)) -- of equal values both handles count
    assert.is_false(same:update(4))
    assert.is_true(handle:unpublish())
    assert.is_false(handle:unpublish())
    assert.same({ "declare a", "declare a", "declare a", "declare a", "undeclare a" }, urls())
    assert.same({ 0, 0 }, { t:counts() })
  end)

  it("sends the newest value only while an earlier one is on its way", function()
    local t, gate = make(), sched.event()
    answers["/-/declare"] = function()
      gate:wait()
      return 5
    end
    local tasks = {}
    for number = 1, 50 do tasks[number] = znl.spawn(function() return t:publish("a", number, 1) end) end
    sched.sleep(5)
    assert.equal(1, #sent)
    gate:set(true)
    for _, task in ipairs(tasks) do assert(task:wait(1000)) end
    assert.equal(2, #sent)
    assert.equal("50", sent[2].payload)
  end)

  it("keeps the intent of topics apart from what the registry says", function()
    local t = make()
    registry = nil
    assert(t:publish("a", 1, 1))
    assert(t:subscribe("b", function() end, 1))
    assert.same({}, sent)
    assert.same({ 1, 1 }, { t:counts() })
    running = false
    assert.equal("STOPPED", select(3, t:publish("a", 2, 1)))
    assert.equal("STOPPED", select(3, t:subscribe("a", print, 1)))
    assert.error_matches(function()
      running = true
      t:publish("a", print, 1)
    end, "JSON cannot carry a function")
    assert.equal("1", t.published.a.text)
  end)

  it("gives a subscriber the value of now unless a newer one came first", function()
    local t, got = make(), {}
    answers["/-/subscribe"] = { hasData = true, payload = "now" }
    assert(t:subscribe("a", function(payload) got[#got + 1] = payload end, 1))
    answers["/-/subscribe"] = function()
      t:update("b", "newer")
      return { hasData = true, payload = "older" }
    end
    assert(t:subscribe("b", function(payload) got[#got + 1] = payload end, 1))
    assert.same({ "now", "newer" }, got)
    answers["/-/subscribe"] = { hasData = true }
    local called = 0
    assert(t:subscribe("c", function(payload)
      called = called + 1
      assert(payload == nil)
    end, 1))
    assert.equal(1, called)
  end)

  it("gives each callback a copy of its own, and goes on when one raises", function()
    local t, got = make(), {}
    assert(t:subscribe("a", function(payload) payload.n = payload.n + 1 got[1] = payload.n end, 1))
    assert(t:subscribe("a", function() error("bad") end, 1))
    local off = assert(t:subscribe("a", function(payload) got[2] = payload.n end, 1))
    t:update("a", { n = 1 })
    assert.same({ 2, 1 }, got)
    off()
    t:update("a", { n = 5 })
    assert.same({ 6, 1 }, got)
    t:update("nobody", 1)
  end)

  it("lets a callback publish to its own topic", function()
    local t, done = make(), nil
    answers["/-/subscribe"] = { hasData = true, payload = 1 }
    assert(t:subscribe("a", function() done = t:publish("a", 2, 1) end, 1))
    assert.truthy(done)
    assert.same({ "subscribe a", "declare a" }, urls())
  end)

  it("takes back a callback whose first call raises", function()
    local t = make()
    answers["/-/subscribe"] = { hasData = true, payload = 1 }
    local off, message, code = t:subscribe("a", function() error("bad") end, 1)
    assert.is_nil(off)
    assert.matches("micro_topics_spec.lua:%d+: bad", message)
    assert.equal("FAILED", code)
    eventually(function() return #sent == 2 end)
    assert.same({ "subscribe a", "unsubscribe a" }, urls())
    assert.same({ 0, 0 }, { t:counts() })
  end)

  it("asks for a topic again that was refused, once at a time", function()
    local t, refuses = make(), true
    answers["/-/declare"] = function()
      if refuses then return nil, "busy", 503, true end
      return 9
    end
    local handle = assert(t:publish("a", 1, 1))
    assert(handle:update(2))
    assert.equal(2, #sent)
    refuses = false
    eventually(function() return not t.published.a.dirty end)
    assert.equal(3, #sent)
    assert.equal("2", sent[3].payload)
    assert.equal(9, t.published.a.revision)
  end)

  it("does not ask a registry again that knows no topics", function()
    local t = make()
    answers["/-/declare"] = function() return nil, "/-/declare", 500, true end
    assert(t:publish("a", 1, 1))
    assert.is_true(registry.has_no_topics)
    assert.is_nil(t.published.a.is_due)
  end)

  it("tells a new connection everything, in order", function()
    local t = make()
    local got = {}
    assert(t:publish("z", 1, 1))
    assert(t:subscribe("y", function() end, 1))
    local kept = registry
    registry = nil
    assert(t:publish("a", 2, 1))
    assert(t:subscribe("x", function(payload) got[#got + 1] = payload end, 1))
    assert(t:subscribe("y", function() error("bad") end, 1))
    registry, sent = kept, {}
    answers["/-/subscribe"] = { hasData = true, payload = "v" }
    t:restore()
    assert.same({ "declare z", "declare a", "subscribe y", "subscribe y", "subscribe x" }, urls())
    assert.equal(1, sent[1].revision)
    assert.is_nil(sent[2].revision)
    assert.same({ "v" }, got)
    for number = 1, 100 do t.published["t" .. number] = { order = 100 + number, version = number, text = "1" } end
    sent = {}
    t:restore()
    assert.equal(105, #sent)
  end)
end)
