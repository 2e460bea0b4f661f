--- Invokes by znl.core.cluster, over real sockets. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl.core.cluster")

describe("znl.core.cluster", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local json = require("znl.json")
  local scenes = require("tests.lua.support.cluster_scene")
  local sched = require("znl.core.sched")
  local znl = require("znl")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  local function echo(req) return req.args[1] end

  describe("an invoke", function()
    it("carries values of every kind both ways", function()
      local link = scene:pair(echo)
      for _, value in ipairs {
        1, 1.5, -3, 2 ^ 40, "text", "", "a b|c^d%e+f", "ü", true, false, { 1, 2, 3 }, { a = { b = {} } },
      } do
        assert.same(value, link:invoke("echo", 5000, 1, value))
      end
      assert.equal(znl.null, link:invoke("echo", 5000, 1, znl.null))
      local bytes = string.rep("\0\1\255", 500)
      assert.equal(bytes, tostring(link:invoke("echo", 5000, 1, znl.bytes(bytes))))
      assert.equal(1234, link:invoke("echo", 5000, 1, znl.date(1234)).ms)
      assert.equal("[]", json.encode(link:invoke("echo", 5000, 1, json.array {})))
      assert.equal(1e21, link:invoke("echo", 5000, 1, 1e21))
    end)

    it("gives its handler a request", function()
      local got
      local link = scene:pair(function(req)
        got = {
          method = req.method, n = req.args.n, req.args[1], req.args[2], req.args[3], oneway = req.oneway,
          from = req.from, remaining = req:remaining_ms(), cancelled = req:cancelled(),
        }
        return #req.args
      end)
      link:invoke("many", 5000, 3, 1, nil, "three")
      assert.equal("many", got.method)
      assert.equal(3, got.n)
      assert.equal(1, got[1])
      assert.is_nil(got[2])
      assert.equal("three", got[3])
      assert.is_false(got.oneway)
      local _, joined = seen(scene.channel_events, "joined")
      assert.equal(joined[3], got.from)
      assert.is_true(got.remaining > 0 and got.remaining <= 5000)
      assert.is_false(got.cancelled)
      link:invoke("none", 0, 0)
      assert.equal(0, got.n)
      assert.is_nil(got.remaining)
    end)

    it("of no result is nil", function()
      local link = scene:pair(function(req)
        if req.method == "undefined" then return znl.undefined end
      end)
      assert.equal(1, select("#", link:invoke("nothing", 5000, 0)))
      assert.is_nil((link:invoke("nothing", 5000, 0)))
      assert.is_nil((link:invoke("undefined", 5000, 0)))
    end)

    it("fails with what the handler says", function()
      local handlers = {
        refuses = function() return nil, "no such id", "E_ID" end,
        number = function() return nil, "not found", 404 end,
        plain = function() return nil, "plain" end,
        named = function() return nil, "not a function", "E", { name = "TypeError", stack = "at here" } end,
        raises = function() error("it broke") end,
        raises_table = function() error { message = "coded", name = "CodedError", code = "E_CODED", status = 1 } end,
        raises_other = function() error({ "no message" }) end,
        raises_value = function() error(12) end,
        unsendable = function() return { x = { y = print } } end,
      }
      local link = scene:pair(function(req) return handlers[req.method]() end)
      local function call(method)
        local result, message, code, fields = link:invoke(method, 5000, 0)
        assert.is_nil(result)
        return { message, code, fields.name, fields.message, fields.code, fields.stack }
      end
      assert.same({ "no such id", "E_ID", "Error", "no such id", "E_ID", "Error: no such id" }, call("refuses"))
      assert.same({ "not found", 404, "Error", "not found", 404, "Error: not found" }, call("number"))
      assert.same({ "plain", "FAILED", "Error", "plain", nil, "Error: plain" }, call("plain"))
      assert.same({ "not a function", "E", "TypeError", "not a function", "E", "at here" }, call("named"))
      assert.equal(0, (seen(scene.channel_events, "error")))
      assert.same({ "it broke", "FAILED", "Error", "it broke", nil, "Error: it broke" }, call("raises"))
      assert.same(
        { "coded", "E_CODED", "CodedError", "coded", "E_CODED", "CodedError: coded" }, call("raises_table")
      )
      assert.equal("FAILED", call("raises_other")[2])
      assert.equal("12", call("raises_value")[1])
      assert.truthy(call("unsendable")[1]:find("returned what cannot be sent: a function at x.y", 1, true))
      eventually(function() return seen(scene.channel_events, "error") == 4 end)
      local _, event = seen(scene.channel_events, "error")
      assert.truthy(event[2]:find("a function at x.y", 1, true))
      assert.equal("handler", event[3])
      assert.equal("unsendable", event[4])
      local _, joined = seen(scene.channel_events, "joined")
      assert.equal(joined[3], event[5])
      local counters = scene.leader:counters()
      assert.equal(5, counters.refused)
      assert.equal(4, counters.handler_errors)
    end)

    it("writes failures as the originals do", function()
      scene:channel(function() return nil, "no such id: x", "E_NOT_FOUND", { name = "NotFoundError", stack = "s" } end)
      local raw = scene:raw()
      raw:register()
      raw:send(scenes.invoke("get", { "x^^^^0" }, { id = 21 }))
      local packet = raw:packet(2)
      assert.equal('{"type":"invoke_result","success":false}', packet.text)
      assert.equal(21, packet.id)
      assert.equal(3000, packet.timeout)
      assert.is_true(packet.response)
      assert.equal(
        "stack|s|name|NotFoundError|message|no+such+id:+x|code|E_NOT_FOUND^^^^$0|1|2|3|4|5|6|7]", packet.data
      )
    end)

    it("that cannot be read is answered, and harms nobody", function()
      scene:channel(echo)
      local raw = scene:raw()
      raw:register()
      raw:send(
        scenes.invoke("echo", { "no transcode" }, { id = 2 }),
        scenes.invoke("echo", { "x^^^^0" }, { id = 3, count = 2 }),
        scenes.invoke("echo", {}, { id = 4, count = 100000 }),
        scenes.packet('{"type":"invoke","argLength":0,"oneway":false}', { id = 5 }),
        scenes.packet('{"type":"invoke","method":"echo","argLength":"x","oneway":false}', { id = 6 }),
        scenes.invoke(("m"):rep(300), {}, { id = 7 }),
        scenes.invoke("echo", { "x^^^^0" }, { id = 8 })
      )
      raw:packet(8)
      local messages = {}
      for i = 2, 7 do
        local packet = raw.packets[i]
        assert.equal('{"type":"invoke_result","success":false}', packet.text)
        assert.truthy(packet.data:find("TypeError", 1, true))
        messages[packet.id] = packet.data:match("message|([^|]*)"):gsub("+", " ")
      end
      assert.equal("argument 1 cannot be read", messages[2])
      assert.equal("argument 2 cannot be read", messages[3])
      assert.equal("too many arguments", messages[4])
      assert.equal("too many arguments", messages[6])
      assert.equal('{"type":"invoke_result","success":true}', raw.packets[8].text)
      assert.equal("x^^^^0", raw.packets[8].data)
    end)

    it("refuses to send what cannot be", function()
      local link = scene:pair(echo)
      local result, message, code = link:invoke("echo", 5000, 1, { f = print })
      assert.is_nil(result)
      assert.equal("invoke: cannot send a function at f", message)
      assert.equal("INVALID", code)
      assert.equal("INVALID", (select(3, link:oneway("echo", 5000, 1, "\255"))))
      assert.has_error(function() link:invoke("echo", 5000, 129) end)
      assert.has_error(function() link:invoke(1, 5000, 0) end)
      assert.has_error(function() link:invoke("x", -1, 0) end)
      assert.equal("INVALID", (select(3, scene.leader:publish("k", print))))
    end)

    it("is not answered after its time, and its handler is cancelled", function()
      local reason, calls = nil, 0
      local link = scene:pair(function()
        calls = calls + 1
        reason = select(3, sched.sleep(60000))
        return "late"
      end)
      local result, message, code = link:invoke("slow", 30, 0)
      assert.is_nil(result)
      assert.equal("invoke: no answer in time", message)
      assert.equal("TIMEOUT", code)
      eventually(function() return reason end)
      assert.equal("DEADLINE", reason)
      assert.equal(1, calls)
      eventually(function() return scene.leader:counters().handlers == 0 end)
      local counters = scene.leader:counters()
      assert.equal(1, counters.expired)
      assert.equal(0, link:counters().late)
      assert.equal(1, link:counters().timeouts)
      assert.equal(0, link:pending())
    end)

    it("with a negative timeout is run and never answered", function()
      local calls = 0
      scene:channel(function()
        calls = calls + 1
        return calls
      end)
      local raw = scene:raw()
      raw:register()
      raw:send(scenes.invoke("x", {}, { id = 2, timeout = -1 }), scenes.invoke("x", {}, { id = 3, timeout = 0 }))
      assert.equal(3, raw:packet(2).id)
      assert.equal("^2^^^0", raw.packets[2].data)
    end)

    it("oneway is run and never answered", function()
      local got = {}
      local link = scene:pair(function(req)
        got[#got + 1] = req.args[1]
        assert(req.oneway)
        if req.args[1] == 2 then error("boom") end
        return "result"
      end)
      for i = 1, 3 do assert.is_true(link:oneway("note", 5000, 1, i)) end
      eventually(function() return #got == 3 and seen(scene.channel_events, "error") == 1 end)
      assert.same({ 1, 2, 3 }, got)
      assert.equal(0, link:counters().late)
      assert.equal(0, link:pending())
    end)

    it("runs beside others, and answers go out as they are done", function()
      local gate, order, tasks = znl.event(), {}, {}
      local link = scene:pair(function(req)
        if req.args[1] == "first" then gate:wait() end
        return req.args[1]
      end)
      for _, name in ipairs { "first", "second", "third" } do
        tasks[#tasks + 1] = znl.spawn(function()
          local answer = link:invoke("wait", 60000, 1, name)
          order[#order + 1] = answer
        end)
      end
      assert.equal(3, link:pending())
      tasks[2]:wait()
      tasks[3]:wait()
      gate:set()
      tasks[1]:wait()
      assert.equal(3, #order)
      assert.equal("first", order[3])
    end)

    it("waits for a handler, and is refused when too many wait", function()
      local gate, running = znl.event(), 0
      local link = scene:pair(function()
        running = running + 1
        gate:wait()
        return "done"
      end, { max_concurrency = 2, max_queue = 2 })
      local results, tasks = {}, {}
      for i = 1, 5 do
        tasks[i] = znl.spawn(function() results[i] = { link:invoke("wait", 5000, 0) } end)
      end
      eventually(function() return results[5] end)
      assert.equal(2, running)
      assert.equal(2, scene.leader:counters().queued)
      assert.equal("OVERLOADED", results[5][3])
      assert.equal("too many requests at once", results[5][2])
      gate:set()
      for _, task in ipairs(tasks) do task:wait() end
      for i = 1, 4 do assert.equal("done", results[i][1]) end
      assert.equal(1, scene.leader:counters().overloaded)
      assert.equal(0, scene.leader:counters().queued)
    end)

    it("that waited past its time is not run", function()
      local gate, running = znl.event(), 0
      local link = scene:pair(function()
        running = running + 1
        gate:wait()
      end, { max_concurrency = 1 })
      local first = znl.spawn(function() link:invoke("wait", 0, 0) end)
      eventually(function() return running == 1 end)
      assert.equal("TIMEOUT", (select(3, link:invoke("wait", 10, 0))))
      eventually(function() return scene.leader:counters().queued == 1 end)
      sched.sleep(20) -- its time counts from its arrival
      gate:set()
      first:wait()
      eventually(function() return scene.leader:counters().expired == 1 end)
      assert.equal(1, running)
    end)

    it("ends when its task is cancelled, at the leader too when that is one of ours", function()
      for _, extension in ipairs { false, { v = 1 } } do
        local ended
        scene.leader = nil
        local link = scene:pair(function()
          ended = nil
          ended = select(3, sched.sleep(60000))
        end, { name = extension and "Ours" or "Theirs" }, nil, extension or nil)
        local task
        local results
        task = znl.spawn(function() results = { link:invoke("slow", 50000, 0) } end)
        eventually(function() return scene.server:counters().channels > 0 and link:pending() == 1 end)
        eventually(function() return link:counters().sent >= 2 end)
        sched.sleep(20)
        task:cancel("enough")
        task:wait()
        assert.equal("CANCELLED", results[3])
        assert.equal(0, link:pending())
        if extension then
          eventually(function() return ended end)
          assert.equal("CANCELLED", ended)
          assert.equal(1, scene.leader:counters().expired)
        else
          assert.is_nil(ended)
        end
        link:close()
        eventually(function() return ended end)
      end
    end)

    it("lives no longer than its task", function()
      local link = scene:pair(function() sched.sleep(60000) end)
      local results
      znl.with_timeout(20, function() results = { link:invoke("slow", 60000, 0) } end)
      assert.equal("DEADLINE", results[3])
    end)

    it("fails when the connection ends, and the handler is cancelled", function()
      local ended
      local link = scene:pair(function() ended = select(3, sched.sleep(60000)) end)
      local order = {}
      local task = znl.spawn(function()
        local _, message, code = link:invoke("slow", 60000, 0)
        order[#order + 1] = { message, code, seen(scene.link_events, "closed") }
      end)
      eventually(function() return scene.leader:counters().handlers == 1 end)
      link:close()
      assert.is_false(link:is_open())
      assert.equal("CLOSED", (select(3, link:invoke("x", 5000, 0))))
      assert.equal("CLOSED", (select(3, link:oneway("x", 5000, 0))))
      assert.equal("CLOSED", (select(3, link:subscribe("k"))))
      assert.equal("CLOSED", (select(3, link:unsubscribe("k"))))
      assert.equal("CLOSED", (select(3, link:register("Client", 5000))))
      task:wait()
      assert.equal("CLOSED", order[1][2])
      assert.equal(1, order[1][3]) -- "closed" came before
      eventually(function() return ended end)
      assert.equal("CANCELLED", ended)
      assert.equal(1, link:counters().asked - 1)
    end)

    it("is refused by a leader that drains, or has no handler", function()
      local link = scene:pair(nil)
      assert.equal("NOT_FOUND", (select(3, link:invoke("x", 5000, 0))))
      assert.equal(0, scene.leader:drain())
      local _, message, code = link:invoke("x", 5000, 0)
      assert.equal("STOPPED", code)
      assert.equal("the leader is stopping", message)
    end)

    it("that takes longer than handler_timeout_ms is answered", function()
      local link = scene:pair(function() sched.sleep(60000) end, { handler_timeout_ms = 20 })
      assert.equal("HANDLER_TIMEOUT", (select(3, link:invoke("slow", 60000, 0))))
      assert.equal(1, scene.leader:counters().handler_timeouts)
    end)

    it("larger than the limit is said, not sent", function()
      local link = scene:pair(function(req)
        if req.method == "big" then return ("x"):rep(20000) end
        if req.method == "fail" then return nil, ("x"):rep(900), ("y"):rep(20000) end
        return #req.args[1]
      end, nil, { max_message_bytes = 10000 })
      assert.equal("TOO_BIG", (select(3, link:invoke("echo", 5000, 1, ("x"):rep(20000)))))
      assert.equal(100, link:invoke("echo", 5000, 1, ("x"):rep(100)))
      assert.equal("CLOSED", (select(3, link:invoke("big", 5000, 0))))
      eventually(function() return seen(scene.link_events, "closed") == 1 end)
      local _, event = seen(scene.link_events, "closed")
      assert.equal("TOO_BIG", event[3])
    end)

    it("result larger than the leader sends is an error", function()
      scene:listen { max_message_bytes = 70000 }
      local link = scene:pair(function(req)
        if req.method == "fail" then return nil, ("x"):rep(900), ("y"):rep(80000) end
        return ("x"):rep(80000)
      end)
      local _, message, code = link:invoke("big", 5000, 0)
      assert.equal("TOO_BIG", code)
      assert.equal("the result is too large", message)
      assert.equal("the error is too large", (select(2, link:invoke("fail", 5000, 0))))
      assert.is_true(link:is_open())
    end)
  end)
end)
