--- znl.topic on a real nats-server: who gets what, from where on, and after what.
--- SPDX-License-Identifier: MIT
local durable_scene = require("support.durable_scene")
local eventually = require("support.eventually")
local scope = require("znl.versions.scope")
local znl = require("znl")

local LONG_MS = 600000

describe("a topic", function()
  local bus, opened, count

  local scene = durable_scene.new()
  setup(function() bus = select(2, scene:open()) end)
  teardown(function() scene:close() end)
  before_each(function() opened, count = scene:begin() end)
  after_each(function() scene:finish() end)

  local function make(opts)
    opts = opts or {}
    opts.bus, opts.storage, opts.durable = opts.bus or bus, opts.storage or "memory", true
    local topic = znl.topic(("t%d"):format(count), opts)
    opened[#opened + 1] = topic
    return topic
  end

  local function started(opts)
    local topic = make(opts)
    assert(topic:start())
    return topic
  end

  --- A list, and a handler that appends to it.
  local function collector()
    local list = {}
    return list, function(message) list[#list + 1] = message.data end
  end

  local function api(what, body)
    local answer = assert(bus:request("$JS.API." .. what, body and znl.json.encode(body) or ""))
    local ok, value = znl.json.decode(answer.data)
    assert.is_true(ok)
    return value
  end

  local function unacknowledged(topic, group)
    local info = api(("CONSUMER.INFO.%s.%s"):format(topic.stream_name, group))
    return info.num_pending + info.num_ack_pending
  end

  it("gives every message to every group, and to those without one", function()
    local topic = make()
    local first, first_handler = collector()
    local second, second_handler = collector()
    local own, own_handler = collector()
    topic:subscribe(first_handler, { group = "first", max_in_flight = 1 })
    topic:subscribe(second_handler, { group = "second", max_in_flight = 1 })
    assert(topic:start())
    assert(topic:subscribe(own_handler, { max_in_flight = 1 }))
    local all = {}
    for index = 1, 10 do
      all[index] = ("m%d"):format(index)
      assert.same({ seq = index, duplicate = false }, topic:publish(all[index]))
    end
    eventually(function() return #first == 10 and #second == 10 and #own == 10 end)
    assert.same(all, first)
    assert.same(all, second)
    assert.same(all, own)
    assert.equal(10, topic:info().messages)
    assert.equal(3, topic:info().consumers)
  end)

  it("shares the messages of a group among its members", function()
    local topic, other = started(), started()
    local list = {}
    local function handler(who) return function(message) list[#list + 1] = { who, message.data } znl.sleep(1) end end
    assert(topic:subscribe(handler("a"), { group = "g", max_in_flight = 1 }))
    assert(other:subscribe(handler("b"), { group = "g", max_in_flight = 1 }))
    for index = 1, 30 do topic:publish_async(("m%d"):format(index)) end
    assert(topic:flush())
    eventually(function() return unacknowledged(topic, "g") == 0 end)
    local seen, by = {}, { a = 0, b = 0 }
    for _, entry in ipairs(list) do
      assert.is_nil(seen[entry[2]])
      seen[entry[2]] = true
      by[entry[1]] = by[entry[1]] + 1
    end
    assert.equal(30, #list)
    assert.is_true(by.a > 0 and by.b > 0)
  end)

  it("begins where it is told", function()
    local topic = started()
    for index = 1, 3 do topic:publish(("m%d"):format(index)) end
    local middle_ms = znl.core.sched.unix_ms()
    znl.sleep(5) -- the clock goes on
    for index = 4, 5 do topic:publish(("m%d"):format(index)) end
    local expected = {
      { "first", { "m1", "m2", "m3", "m4", "m5", "m6" } }, { "new", { "m6" } }, { "last", { "m5", "m6" } },
      { 3, { "m3", "m4", "m5", "m6" } }, { { seq = 4 }, { "m4", "m5", "m6" } },
      { { time_ms = middle_ms + 1 }, { "m4", "m5", "m6" } },
    }
    local lists = {}
    for index, case in ipairs(expected) do
      local handler
      lists[index], handler = collector()
      assert(topic:subscribe(handler, { from = case[1], max_in_flight = 1 }))
    end
    topic:publish("m6")
    for index, case in ipairs(expected) do
      eventually(function() return lists[index][#lists[index]] == "m6" end, tostring(case[1]))
      assert.same(case[2], lists[index])
    end
  end)

  it("gives those who ask for it only some subjects", function()
    local topic = started()
    local eu, eu_handler = collector()
    local created, created_handler = collector()
    local all, all_handler = collector()
    assert(topic:subscribe(eu_handler, { filter = "eu.>", max_in_flight = 1 }))
    assert(topic:subscribe(created_handler, { filter = "*.created", group = "c", max_in_flight = 1 }))
    assert(topic:subscribe(all_handler, { max_in_flight = 1 }))
    topic:publish("1", { subject = "eu.created" })
    topic:publish("2", { subject = "us.created" })
    topic:publish("3", { subject = "eu.deleted.late" })
    topic:publish("4")
    eventually(function() return #all == 4 and #eu == 2 and #created == 2 end)
    assert.same({ "1", "2", "3", "4" }, all)
    assert.same({ "1", "3" }, eu)
    assert.same({ "1", "2" }, created)
  end)

  it("remembers where a group is, over a stop", function()
    local topic = make()
    local list, handler = collector()
    topic:subscribe(handler, { group = "g", from = "first", max_in_flight = 1 })
    assert(topic:start())
    topic:publish("one")
    eventually(function() return #list == 1 end)
    topic:stop()
    local other = started()
    other:publish("two")
    other:stop()
    assert(topic:start())
    topic:publish("three")
    eventually(function() return #list == 3 end)
    assert.same({ "one", "two", "three" }, list)
  end)

  it("forgets those without a group when they are gone", function()
    local topic = started()
    local list, handler = collector()
    local subscription = assert(topic:subscribe(handler))
    topic:publish("one")
    eventually(function() return #list == 1 end)
    subscription:stop()
    subscription:stop()
    assert.equal(0, topic:info().consumers)
    topic:publish("two")
    assert(topic:subscribe(handler, { from = "last" }))
    eventually(function() return #list == 2 end)
    assert.same({ "one", "two" }, list)
  end)

  it("waits for handlers of a subscription that ends, and gives back the rest", function()
    local topic = started()
    local began, go_on, list = 0, znl.event(), {}
    local subscription = assert(topic:subscribe(function(message)
      began = began + 1
      if message.data == "one" then go_on:wait() else znl.sleep(LONG_MS) end
    end, { group = "g", ack_wait_ms = LONG_MS }))
    topic:publish("one")
    topic:publish("two")
    eventually(function() return began == 2 end)
    local stop = znl.spawn(function() subscription:stop(300) end)
    go_on:set(true)
    stop:wait()
    local function handler(message) list[#list + 1] = message.data end
    assert(topic:subscribe(handler, { group = "g", ack_wait_ms = LONG_MS }))
    eventually(function() return #list == 1 end)
    assert.same({ "two" }, list)
  end)

  it("delivers again what failed, without end unless it is told", function()
    local topic = started()
    local runs = 0
    assert(topic:subscribe(function(message)
      runs = runs + 1
      if runs < 8 then error("broken") end
      assert.equal(8, message.deliveries)
    end, { backoff_ms = { 0 } }))
    topic:publish("x")
    eventually(function() return topic:counters().acked == 1 end)
    assert.equal(8, runs)
    assert.equal(0, topic:counters().dead)
  end)

  it("puts what a group cannot handle to the dead letters, with its name", function()
    local topic = started()
    local list, handler = collector()
    assert(topic:subscribe(function() error("broken") end, { group = "bad", max_deliver = 2, backoff_ms = { 0 } }))
    assert(topic:subscribe(handler, { group = "good" }))
    topic:publish("x", { subject = "eu" })
    eventually(function() return topic:dead():count() == 1 end)
    local letter = topic:dead():list()[1]
    assert.equal("bad", letter.consumer)
    assert.equal(2, letter.deliveries)
    assert.equal(("znl.topic.t%d.eu"):format(count), letter.subject)
    assert.equal(1, topic:info().messages)
    assert.equal(1, topic:dead():redrive())
    eventually(function() return #list == 2 end)
    assert.equal(2, topic:info().messages)
  end)

  it("ends a message that a handler ends, for that group", function()
    local topic = started()
    local errors = {}
    topic:on("error", function(message) errors[#errors + 1] = message end)
    assert(topic:subscribe(function() return nil, "no use", "TERM" end, { group = "g" }))
    topic:publish("x")
    eventually(function() return unacknowledged(topic, "g") == 0 end)
    assert.same({ "message 1 is ended: no use" }, errors)
  end)

  it("misses nothing when the server forgot who has no group", function()
    local topic = started()
    local list, handler = collector()
    assert(topic:subscribe(handler, { max_in_flight = 1 }))
    topic:publish("one")
    eventually(function() return topic:counters().acked == 1 end)
    local name = select(2, next(topic.intakes)).consumer.name
    api(("CONSUMER.DELETE.%s.%s"):format(topic.stream_name, name))
    topic:publish("two")
    topic:publish("three")
    eventually(function() return #list >= 3 end)
    assert.same({ "one", "two", "three" }, list)
    assert.is_true(topic:counters().recoveries >= 1)
  end)

  it("misses nothing that came before its first message, either", function()
    local topic = started()
    local list, handler = collector()
    assert(topic:subscribe(handler, { max_in_flight = 1 }))
    local name = select(2, next(topic.intakes)).consumer.name
    api(("CONSUMER.DELETE.%s.%s"):format(topic.stream_name, name))
    topic:publish("one")
    eventually(function() return #list == 1 end)
    assert.same({ "one" }, list)
  end)

  it("drops the oldest when it is full", function()
    local topic = started { max_messages = 2 }
    for index = 1, 3 do assert(topic:publish(("m%d"):format(index))) end
    assert.equal(2, topic:info().messages)
    assert.equal(2, topic:info().first_seq)
  end)

  it("refuses a group that is configured differently", function()
    local topic = started()
    assert(topic:subscribe(function() end, { group = "g", ack_wait_ms = 1000 }))
    local subscription, message, code = topic:subscribe(function() end, { group = "g", ack_wait_ms = 2000 })
    assert.is_nil(subscription)
    assert.equal("EXISTS", code)
    assert.truthy(message:find("ack_wait is 1000000000 there and 2000000000 here", 1, true))
    -- Where it began says nothing: it is remembered.
    assert(topic:subscribe(function() end, { group = "g", ack_wait_ms = 1000, from = "first" }))
  end)

  it("does not start when a subscription cannot be had", function()
    local topic = started()
    assert(topic:subscribe(function() end, { group = "g", ack_wait_ms = 1000 }))
    local other = make()
    other:subscribe(function() end, { group = "g", ack_wait_ms = 2000 })
    local ok, _, code = other:start()
    assert.is_nil(ok)
    assert.equal("EXISTS", code)
    assert.is_false(other:running())
  end)

  it("hands a group over from one version of the code to the next", function()
    local topic = started()
    local list, go_on = {}, znl.event()
    local function version(number)
      local made = assert(scope.new { name = "v" .. number })
      assert(made:run(function()
        topic:subscribe(function(message)
          if message.data == "slow" then go_on:wait() end
          list[#list + 1] = message.data .. " by " .. number
        end, { group = "g", ack_wait_ms = LONG_MS })
      end))
      return made
    end
    local first = version(1)
    topic:publish("early")
    assert.equal(0, topic:info().consumers) -- it is not in service yet
    assert(first:commit())
    eventually(function() return topic:counters().asked > 0 end)
    topic:publish("slow")
    eventually(function() return topic:counters().running == 1 end)
    local second = version(2)
    assert(second:commit())
    first:halt()
    eventually(function()
      topic:publish("more")
      return #list > 0
    end)
    assert.equal("more by 2", list[1])
    go_on:set(true)
    eventually(function() return unacknowledged(topic, "g") == 0 end)
    assert.equal(1, select(2, table.concat(list, "\n"):gsub("slow by 1", "")))
    assert.equal(0, topic:counters().handler_errors)
    first:finish()
    second:finish()
    eventually(function() return topic:counters().asked == 0 end)
  end)

  it("raises at misuse, and blames the caller", function()
    local topic = make()
    for _, case in ipairs {
      { function() znl.topic("a", { bus = bus }) end, "option durable is missing" },
      { function() znl.topic("a", { bus = bus, durable = false }) end, "znl.nats" },
      { function() znl.topic("a.b", { bus = bus, durable = true }) end, 'the name is "a.b"; it must be a text' },
      { function() topic:publish({}) end, "must be a text, not a table" },
      { function() topic:publish("x", { subject = "a..b" }) end, "words with dots" },
      { function() topic:publish("x", { subject = "a.*" }) end, "words with dots" },
      { function() topic:subscribe(1) end, "the handler must be a function" },
      { function() topic:subscribe(print, { filter = "a.>.b" }) end, "option filter" },
      { function() topic:subscribe(print, { from = "yesterday" }) end, "option from" },
      { function() topic:subscribe(print, { from = { seq = 1, time_ms = 2 } }) end, "option from" },
      { function() topic:subscribe(print, { from = 0.5 }) end, "option from" },
      { function() topic:subscribe(print, { group = "a.b" }) end, "option group" },
    } do
      local ok, message = pcall(case[1])
      assert.is_false(ok)
      assert.truthy(message:find("durable_topic_spec.lua:", 1, true), message)
      assert.truthy(message:find(case[2], 1, true), message)
    end
  end)
end)
