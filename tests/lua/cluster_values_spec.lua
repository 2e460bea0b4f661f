--- Subscriptions and transcodes by znl.core.cluster, over real sockets. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl.core.cluster")

describe("znl.core.cluster", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local json = require("znl.core.json")
  local scenes = require("tests.lua.support.cluster_scene")
  local sched = require("znl.core.sched")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  local function echo(req) return req.args[1] end

  describe("a subscription", function()
    local function values(list)
      local found = {}
      for _, event in ipairs(list) do
        if event[1] == "value" then found[#found + 1] = { event[2], event[3] } end
      end
      return found
    end

    it("is told to the leader once per key, with its registration", function()
      local link = scene:pair(echo)
      local other = scene:follow()
      assert.is_true(link:subscribe("key", '{"dataId":"x"}'))
      other:subscribe("key", '{"dataId":"x"}')
      link:subscribe("bare", nil)
      eventually(function() return scene.leader:counters().keys == 2 end)
      eventually(function() return seen(scene.channel_events, "key") == 2 end)
      local keys = {}
      for _, event in ipairs(scene.channel_events) do
        if event[1] == "key" then keys[event[2]] = event end
      end
      assert.equal("x", keys.key[3].dataId)
      assert.equal('{"dataId":"x"}', keys.key[4])
      assert.is_nil(keys.bare[3])
      assert.is_nil(keys.bare[4])
      assert.has_error(function() link:subscribe("k", "{") end)
      assert.has_error(function() link:subscribe("k", "{} {}") end)
    end)

    it("brings each value to all who want it, and the last one to who comes later", function()
      local first, second = {}, {}
      local link = scene:pair(echo, nil, { on_event = function(...) first[#first + 1] = { ... } end })
      assert.equal("NOT_FOUND", (select(3, scene.leader:publish("key", 0))))
      assert.equal("NOT_FOUND", (select(3, scene.leader:last("key"))))
      link:subscribe("key", "1")
      eventually(function() return seen(scene.channel_events, "key") == 1 end)
      assert.equal(1, scene.leader:publish("key", { n = 1 }))
      assert.equal(1, scene.leader:publish("key", { n = 2 }))
      eventually(function() return #first == 2 end)
      assert.same({ { "key", { n = 1 } }, { "key", { n = 2 } } }, values(first))
      local other = scene:follow { on_event = function(...) second[#second + 1] = { ... } end }
      other:subscribe("key", "1")
      eventually(function() return #second == 1 end)
      assert.same({ { "key", { n = 2 } } }, values(second))
      assert.equal(2, scene.leader:publish("key", "three"))
      eventually(function() return #first == 3 and #second == 2 end)
      assert.equal("three", scene.leader:last("key"))
      link:unsubscribe("key", "1")
      link:invoke("sync", 5000, 0)
      assert.equal(1, scene.leader:publish("key", 4))
      eventually(function() return #second == 3 end)
      assert.equal(3, #first)
      eventually(function() return scene.leader:counters().taken == 6 end)
      local counters = scene.leader:counters()
      assert.equal(4, counters.published)
      assert.equal(6, counters.pushed)
      assert.equal(0, counters.untaken)
      local keys = scene.leader:keys()
      assert.equal(1, #keys)
      assert.equal("key", keys[1].key)
      assert.equal(1, keys[1].members)
      assert.equal(4, keys[1].published)
      assert.equal(6, keys[1].bytes)
    end)

    it("of the process itself gets a copy", function()
      scene:channel(echo)
      assert.is_true(scene.leader:subscribe("key", "[1]"))
      local count, event = seen(scene.channel_events, "key")
      assert.equal(1, count)
      assert.equal(1, event[3][1])
      local value = { n = 1 }
      assert.equal(1, scene.leader:publish("key", value))
      event = select(2, seen(scene.channel_events, "value"))
      assert.equal("key", event[2])
      assert.same(value, event[3])
      assert.is_false(rawequal(value, event[3]))
      scene.leader:subscribe("key", "[1]")
      assert.equal(2, (seen(scene.channel_events, "value")))
      assert.equal(1, (seen(scene.channel_events, "key")))
      scene.leader:unsubscribe("key")
      assert.equal(0, scene.leader:publish("key", 2))
      assert.equal(2, (seen(scene.channel_events, "value")))
    end)

    it("may be answered from inside its event", function()
      scene:channel(echo, {
        on_event = function(name, key, value)
          if name == "key" then scene.leader:publish(key, "first of " .. key) end
          if name == "value" and value ~= "again" then scene.leader:publish(key, "again") end
        end,
      })
      local got = {}
      local link = scene:follow { on_event = function(_, key, value) got[#got + 1] = { key, value } end }
      link:subscribe("a", "1")
      eventually(function() return #got == 1 end)
      assert.same({ "a", "first of a" }, got[1])
      scene.leader:subscribe("b", "2")
      assert.equal("again", scene.leader:last("b"))
    end)

    it("published inside the event of its key is reported once", function()
      local found = {}
      scene:channel(echo, {
        on_event = function(name, key, value)
          if name == "key" then scene.leader:publish(key, "first") end
          if name == "value" then found[#found + 1] = value end
        end,
      })
      assert.is_true(scene.leader:subscribe("key", "1"))
      assert.same({ "first" }, found)
    end)

    it("without broadcast goes to one, and is not replayed", function()
      local got = { 0, 0 }
      scene:channel(echo, { broadcast = false })
      for i = 1, 2 do
        local link = scene:follow { on_event = function() got[i] = got[i] + 1 end }
        link:subscribe("key", "1")
        link:invoke("sync", 5000, 0)
      end
      for _ = 1, 64 do assert.equal(1, scene.leader:publish("key", 1)) end
      eventually(function() return got[1] + got[2] == 64 end)
      assert.is_true(got[1] > 0 and got[2] > 0)
    end)

    it("beyond the limits is refused, and said once", function()
      local link = scene:pair(echo, { max_member_keys = 2 })
      for i = 1, 5 do link:subscribe("key " .. i, tostring(i)) end
      link:invoke("sync", 5000, 0)
      assert.equal(2, scene.leader:counters().keys)
      assert.equal(3, scene.leader:counters().keys_refused)
      local count, event = seen(scene.channel_events, "trouble")
      assert.equal(1, count)
      assert.equal("LIMIT", event[3])
    end)

    it("value that cannot be read is reported, and the connection stays", function()
      scene:channel(echo, { transcode = { encode = function(value) return tostring(value) end, decode = tostring } })
      local link = assert(scene:connect())
      assert.equal("PROTO", (select(3, link:register("Client", 5000))))
      link:subscribe("key", "1")
      eventually(function() return scene.leader:counters().keys == 1 end)
      scene.leader:publish("key", "no transcode")
      eventually(function() return seen(scene.link_events, "trouble") == 1 end)
      local _, event = seen(scene.link_events, "trouble")
      assert.equal("PROTO", event[3])
      assert.truthy(event[2]:find("the value of key cannot be read", 1, true))
      assert.is_true(link:is_open())
    end)
  end)

  it("may be used by finalizers, at any time", function()
    local runs, sum = 0, 0
    local link = scene:pair(echo, nil, { on_event = function(_, _, value) sum = sum + #value end })
    scene.leader:subscribe("key", "1")
    link:subscribe("key", "1")
    eventually(function() return scene.leader:keys()[1].members == 2 end)
    local function litter(size)
      getmetatable(newproxy(true)).__gc = function()
        runs = runs + 1
        assert(scene.leader:publish("key", ("x"):rep(size)))
        assert(#scene.leader:last("key") == size)
        assert(link:oneway("note", 5000, 1, ("y"):rep(size)))
        scene.leader:subscribe("of " .. size, "[" .. size .. "]")
      end
    end
    local pause = collectgarbage("setpause", 0)
    local list = {}
    for i = 1, 100 do list[i] = { name = "item " .. i, text = ("z"):rep(i) } end
    for round = 1, 100 do
      litter(round)
      local got = assert(link:invoke("echo", 5000, 1, list))
      assert.equal(100, #got)
      assert.equal(list[100].text, got[100].text)
      assert.equal(2, scene.leader:publish("key", list))
      local last = scene.leader:last("key") -- a finalizer may have published meanwhile
      if type(last) == "table" then last = last[7].name end
      assert.truthy(last == "item 7" or last:find("^x+$"))
    end
    collectgarbage("setpause", pause)
    collectgarbage()
    assert.equal(100, runs)
    eventually(function() return sum == 100 * 100 + 100 * 101 / 2 end)
    local keys = {}
    for _, event in ipairs(scene.channel_events) do
      if event[1] == "key" then keys[event[2]] = event[3] end
    end
    for i = 1, 100 do assert.equal(i, keys["of " .. i][1]) end
    assert.equal(101, (seen(scene.channel_events, "key")))
  end)

  it("may be published by finalizers while others are read", function()
    local link = scene:pair(echo)
    scene.leader:subscribe("key", "1")
    local list = {}
    for i = 1, 2000 do list[i] = { name = "item " .. i } end
    local pause = collectgarbage("setpause", 0)
    for _ = 1, 20 do
      assert(scene.leader:publish("key", ("x"):rep(100000))) -- what it was written into is given back by the next
      getmetatable(newproxy(true)).__gc = function() assert(scene.leader:publish("key", "y")) end
      local got = assert(link:invoke("echo", 5000, 1, list))
      assert.equal("item 2000", got[2000].name)
    end
    collectgarbage("setpause", pause)
  end)

  describe("a transcode of the script", function()
    local transcode = { encode = json.encode, decode = json.decode }

    it("serves arguments, results, failures, values and registrations", function()
      local got = {}
      local link = scene:pair(function(req)
        if req.method == "fail" then return nil, "no", "E_NO" end
        if req.method == "raise" then error("boom") end
        return { req.args[1], req.args[2] }
      end, { transcode = transcode, handler_timeout_ms = 50 }, {
        transcode = transcode, on_event = function(_, key, value) got[#got + 1] = { key, value } end,
      })
      assert.same({ 1, { a = "b" } }, link:invoke("two", 5000, 2, 1, { a = "b" }))
      local _, message, code, fields = link:invoke("fail", 5000, 0)
      assert.same({ "no", "E_NO", "Error: no" }, { message, code, fields.stack })
      _, message = link:invoke("raise", 5000, 0)
      assert.equal("boom", message)
      link:subscribe("key", "1")
      eventually(function() return scene.leader:counters().keys == 1 end)
      scene.leader:subscribe("key", "1")
      scene.leader:publish("key", { 1, 2 })
      eventually(function() return #got == 1 end)
      assert.same({ "key", { 1, 2 } }, got[1])
      assert.same({ 1, 2 }, scene.leader:last("key"))
      assert.same({ 1, 2 }, select(2, seen(scene.channel_events, "value"))[3])
    end)

    it("writes JSON to whoever reads it", function()
      scene:channel(function(req)
        if req.method == "slow" then sched.sleep(60000) end
        return req.args[1]
      end, { transcode = transcode, handler_timeout_ms = 20 })
      local raw = scene:raw()
      raw:register()
      assert.is_true(json.decode(raw:packet(1).data).success)
      raw:send(scenes.invoke("echo", { '{"a":[1]}' }, { id = 2 }))
      assert.equal('{"a":[1]}', raw:packet(2).data)
      raw:send(scenes.invoke("slow", {}, { id = 3 }))
      assert.equal("HANDLER_TIMEOUT", json.decode(raw:packet(3).data).code)
      raw:send(scenes.invoke("echo", { "{" }, { id = 4 }))
      assert.equal("argument 1 cannot be read", json.decode(raw:packet(4).data).message)
    end)

    it("that cannot write a failure leaves it unanswered, and that is counted", function()
      local function encode(value)
        if type(value) == "table" and value.stack then error("no failures") end
        return json.encode(value)
      end
      local link = scene:pair(function(req)
        if req.method == "refuse" then return nil, "no" end
        return req.args[1]
      end, { transcode = { encode = encode, decode = json.decode } }, { transcode = transcode })
      assert.equal("TIMEOUT", (select(3, link:invoke("refuse", 20, 0))))
      eventually(function() return scene.leader:counters().unanswered == 1 end)
      assert.equal("x", link:invoke("echo", 5000, 1, "x"))
      assert.equal(1, scene.leader:counters().unanswered)
    end)

    it("that fails is an error of the call", function()
      local broken = { encode = function() error("cannot encode") end, decode = function() error("cannot decode") end }
      scene:channel(function(req) return req.args[1] end)
      local link = assert(scene:connect { transcode = broken })
      assert.equal("PROTO", (select(3, link:register("Client", 5000))))
      local _, message, code = link:invoke("echo", 5000, 1, 1)
      assert.equal("INVALID", code)
      assert.truthy(message:find("cannot encode", 1, true))
      assert.equal("PROTO", (select(3, link:invoke("echo", 5000, 0))))
      local nothing = assert(scene:connect { transcode = { encode = function() end, decode = transcode.decode } })
      _, message = nothing:invoke("echo", 5000, 1, 1)
      assert.truthy(message:find("what encode makes no text of", 1, true))
      assert.equal(0, scene.leader:counters().handlers)
    end)
  end)
end)
