--- znl.core.cluster: servers, registrations, connections over real sockets. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core, cluster = pcall(require, "znl.core.cluster")

describe("znl.core.cluster", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local certificates = require("tests.lua.support.certificate")
  local eventually = require("tests.lua.support.eventually")
  local folders = require("tests.lua.support.folder")
  local scenes = require("tests.lua.support.cluster_scene")
  local sched = require("znl.core.sched")
  local znl = require("znl")
  local seen = scenes.seen

  local scene

  before_each(function() scene = scenes.new() end)
  after_each(function() scene:close() end)

  local function echo(req) return req.args[1] end

  describe("a server", function()
    it("says where it listens, and frees it", function()
      local server = scene:listen()
      local port = server:port()
      assert.is_true(port > 0)
      assert.is_nil(server:path())
      local other, message, code = cluster.listen { port = port }
      assert.is_nil(other)
      assert.truthy(message:find("listen: 127.0.0.1:" .. port .. ": ", 1, true))
      assert.equal("ADDRESS_IN_USE", code)
      server:close()
      server:close()
      assert.is_nil(server:port())
      assert(cluster.listen { port = port }):close()
      assert.equal("CLOSED", (select(3, server:channel { name = "x" })))
    end)

    it("listens on a unix socket", function()
      local path = os.tmpname()
      os.remove(path)
      local server = scene:listen { path = path }
      assert.equal(path, server:path())
      assert.is_nil(server:port())
      scene:channel(echo)
      local link = scene:follow { path = path }
      assert.equal("hello", link:invoke("echo", 5000, 1, "hello"))
      assert.equal("unix:" .. path, link:remote())
      assert.equal("ADDRESS_IN_USE", (select(3, cluster.listen { path = path })))
      server:close()
      local _, message, code = scene:connect { path = path }
      assert.truthy(message:find(path, 1, true))
      assert.equal("UNREACHABLE", code)
    end)

    it("leads channels of any names, each once", function()
      scene:channel(function() return "first" end, { name = "First" })
      scene:channel(function() return "second" end, { name = "Second" })
      local channel, message, code = scene.server:channel { name = "First" }
      assert.is_nil(channel)
      assert.equal("channel: First is led here already", message)
      assert.equal("EXISTS", code)
      assert.equal("first", scene:follow(nil, "First"):invoke("x", 5000, 0))
      assert.equal("second", scene:follow(nil, "Second"):invoke("x", 5000, 0))
      local counters = scene.server:counters()
      assert.equal(2, counters.channels)
      assert.equal(2, counters.connections)
      assert.equal(0, counters.unregistered)
      assert.equal(2, counters.accepted)
    end)

    it("accepts and forgets connections without data", function()
      scene:channel(echo)
      local raw = scene:raw()
      eventually(function() return scene.server:counters().unregistered == 1 end)
      raw:close()
      eventually(function() return scene.server:counters().unregistered == 0 end)
      assert.equal(0, #scene.channel_events)
    end)

    it("closes who does not register in time, and not who asks for another channel", function()
      scene:listen { register_ms = 1500 }
      scene:channel(echo)
      local raw, patient = scene:raw(), scene:raw()
      for id = 1, 20 do
        patient:register("Other", id)
        sched.sleep(90)
      end
      eventually(function() return raw.is_closed end)
      assert.is_true(scene.server:counters().register_timeouts >= 1)
      assert.equal(0, #patient.packets)
      local count, event = seen(scene.server_events, "unclaimed")
      assert.equal(1, count)
      assert.equal("Other", event[2])
      assert.truthy(event[3]:find("^127%.0%.0%.1:%d+$"))
      assert.equal(20, scene.server:counters().unclaimed)
    end)

    it("answers who asked for a channel before it was made", function()
      scene:listen()
      local raw = scene:raw()
      raw:register("Nobody", 3)
      raw:register("Client", 4)
      raw:register("Client", 5)
      eventually(function() return scene.server:counters().unclaimed == 3 end)
      scene:channel(echo)
      assert.equal(4, raw:packet(1).id)
      assert.equal(5, raw:packet(2).id)
      assert.equal('{"type":"register_channel_res"}', raw:packet(1).text)
      assert.equal("success^^^^$0|-1]", raw:packet(1).data)
      assert.equal(1, scene.leader:followers())
    end)

    it("drops everything but registrations before", function()
      scene:channel(echo)
      local raw = scene:raw()
      raw:send(scenes.invoke("echo", { "x^^^^0" }, { id = 7 }), scenes.packet('{"type":"subscribe","key":"k","reg":1}'))
      raw:register("Client", 8)
      assert.equal(8, raw:packet(1).id)
      assert.equal(0, scene.leader:counters().keys)
    end)

    it("ends with all that came in", function()
      local link = scene:pair(echo)
      local raw = scene:raw()
      eventually(function() return scene.server:counters().unregistered == 1 end)
      scene.server:close()
      eventually(function() return raw.is_closed and not link:is_open() end)
      assert.is_nil((link:invoke("echo", 5000, 0)))
      local count, event = seen(scene.channel_events, "left")
      assert.equal(1, count)
      assert.equal("STOPPED", event[5])
      assert.equal("CLOSED", (select(3, scene.leader:publish("k", 1))))
      assert.equal("CLOSED", (select(3, scene.leader:subscribe("k"))))
      scene.leader:close()
    end)

    it("refuses options that cannot be", function()
      assert.has_error(function() cluster.listen { port = 70000 } end)
      assert.has_error(function() cluster.listen { on_event = 1 } end)
      assert.has_error(function() cluster.connect { port = 1 } end)
      scene:listen()
      assert.has_error(function() scene.server:channel {} end)
      assert.has_error(function() scene.server:channel { name = "x", transcode = { encode = print } } end)
      assert.has_error(function() scene.server:channel { name = "x", transcode = "json" } end)
    end)
  end)

  describe("a registration", function()
    it("is answered once the leader is ready, however often it was sent", function()
      scene:listen()
      local channel = scene.server:channel { name = "Client" }
      local raw = scene:raw()
      raw:register("Client", 2)
      raw:send(scenes.packet('{"type":"heartbeat"}', { id = 3 }))
      raw:register("Whatever", 4)
      assert.equal('{"type":"heartbeat_res"}', raw:packet(1).text)
      assert.equal(1, #raw.packets)
      channel:ready(true)
      assert.equal(2, raw:packet(2).id)
      assert.equal(4, raw:packet(3).id)
      assert.equal(3000, raw:packet(3).timeout)
      raw:register("Client", 9)
      assert.equal(9, raw:packet(4).id)
    end)

    it("is refused with the error of the leader's client, and the connection ends", function()
      scene:listen()
      local channel = scene.server:channel { name = "Client" }
      local link = scene:connect()
      local result, extension
      local task = znl.spawn(function() result, extension = link:register("Client", 5000) end)
      eventually(function() return channel:followers() == 1 end)
      channel:ready(false, { message = "upstream refused", name = "UpstreamError", code = "E_UP", stack = "here" })
      task:wait()
      assert.is_false(result.success)
      assert.same(
        { message = "upstream refused", name = "UpstreamError", code = "E_UP", stack = "here" },
        {
          message = result.error.message, name = result.error.name, code = result.error.code,
          stack = result.error.stack,
        }
      )
      assert.is_nil(extension)
      eventually(function() return not link:is_open() end)
      local raw = scene:raw()
      raw:register("Client", 2)
      assert.equal(
        "success|error|message|upstream+refused|stack|here|name|UpstreamError|code|E_UP^^^^$0|-2|1|$2|3|4|5|6|7|8|9]]",
        raw:packet(1).data
      )
    end)

    it("that is refused again and again does not keep the connection", function()
      scene:listen()
      local channel = scene.server:channel { name = "Client" }
      channel:ready(false, { message = "not yet" })
      local raw, spared = scene:raw(), scene:raw()
      spared:register("Client", 2)
      assert.truthy(spared:packet(1).data:find("not+yet", 1, true))
      raw:register("Client", 2)
      eventually(function()
        if raw.is_closed then return true end
        raw:register("Client", #raw.packets + 3)
      end)
      assert.truthy(#raw.packets >= 2)
      eventually(function() return spared.is_closed end)
    end)

    it("that is refused may be sent again once the leader is ready", function()
      scene:listen()
      local channel = scene.server:channel { name = "Client", heartbeat_ms = 60000 }
      channel:ready(false, { message = "not yet" })
      local raw, other = scene:raw(), scene:raw()
      for _, peer in ipairs { raw, other } do
        peer:register("Client", 2)
        assert.truthy(peer:packet(1).data:find("not+yet", 1, true))
      end
      channel:ready(true)
      raw:register("Client", 3)
      assert.equal("success^^^^$0|-1]", raw:packet(2).data)
      eventually(function() return other.is_closed end) -- it did not ask
      assert.is_false(raw.is_closed)
    end)

    it("that is not answered may be sent again", function()
      scene:listen()
      local channel = scene.server:channel { name = "Client" }
      local link = scene:connect()
      local result, message, code = link:register("Client", 20)
      assert.is_nil(result)
      assert.equal("register: no answer in time", message)
      assert.equal("TIMEOUT", code)
      assert.is_true(link:is_open())
      channel:ready(true)
      assert.is_true(link:register("Client", 5000).success)
      assert.is_false(link:is_ours())
    end)

    it("between own peers carries a field of ours", function()
      local link = scene:pair(echo, nil, nil, { v = 1 })
      assert.is_true(link:is_ours())
      assert.is_false(scene:follow():is_ours())
      local raw = scene:raw()
      raw:register()
      assert.equal('{"type":"register_channel_res"}', raw:packet(1).text)
    end)

    it("is judged by on_event when that is wanted", function()
      local asked = {}
      scene:channel(echo, {
        check_registration = true,
        on_event = function(name, number, extension, remote)
          if name ~= "registration" then return end
          asked[#asked + 1] = { number, extension and extension.secret, remote }
          if not extension then return nil, "no secret" end
          if extension.secret == "boom" then error("boom") end
          return extension.secret == "right", { proof = "mine" }
        end,
      })
      local link = assert(scene:connect())
      local result, extension = link:register("Client", 5000, { v = 1, secret = "right" })
      assert.is_true(result.success)
      assert.equal("mine", extension.proof)
      assert.equal(1, extension.v)
      assert.equal("x", link:invoke("echo", 5000, 1, "x"))
      for _, secret in ipairs { "wrong", "boom" } do
        local other = assert(scene:connect())
        result = other:register("Client", 5000, { v = 1, secret = secret })
        assert.is_false(result.success)
        assert.equal("AuthenticationError", result.error.name)
        assert.equal("the registration was refused", result.error.message)
      end
      local raw = scene:raw()
      raw:register("Client", 2)
      assert.truthy(raw:packet(1).data:find("AuthenticationError", 1, true))
      assert.truthy(raw:packet(1).data:find("no+secret", 1, true))
      raw:send(scenes.invoke("echo", { "x^^^^0" }, { id = 7 }))
      raw:register("Client", 8)
      eventually(function() return raw.is_closed end)
      assert.equal(1, #raw.packets)
      assert.equal(4, #asked)
      assert.is_true(asked[4][1] > asked[1][1])
      assert.equal(1, scene.leader:followers())
      assert.equal(3, scene.leader:counters().registrations_refused)
    end)

    it("is told to the leader, the end of the follower too", function()
      local link = scene:pair(echo)
      local count, event = seen(scene.channel_events, "joined")
      assert.equal(1, count)
      local number, remote = event[2], event[3]
      assert.truthy(remote:find("^127%.0%.0%.1:%d+$"))
      link:close()
      eventually(function() return seen(scene.channel_events, "left") == 1 end)
      event = select(2, seen(scene.channel_events, "left"))
      assert.same({ n = 5, "left", number, remote, "closed by the peer" }, event)
      assert.equal(0, scene.leader:followers())
      eventually(function() return seen(scene.link_events, "closed") == 1 end)
      event = select(2, seen(scene.link_events, "closed"))
      assert.same({ n = 3, "closed", "closed here" }, event)
    end)
  end)

  describe("a channel that closes", function()
    it("disconnects its followers, and leaves those of others", function()
      scene:channel(echo, { name = "First" })
      local second = scene:channel(echo, { name = "Second" })
      local link = scene:follow(nil, "First")
      local other = scene:follow(nil, "Second")
      scene.leader:close()
      scene.leader:close()
      eventually(function() return not link:is_open() end)
      assert.equal("x", other:invoke("echo", 5000, 1, "x"))
      assert.equal(1, second:followers())
      scene:channel(function() return "new" end, { name = "First" })
      assert.equal("new", scene:follow(nil, "First"):invoke("echo", 5000, 0))
    end)

    it("may do so inside its events", function()
      for _, event in ipairs { "joined", "registration", "key", "value", "left", "error" } do
        local channel
        channel = scene:channel(function() error("boom") end, {
          name = "In " .. event, check_registration = true,
          on_event = function(name)
            if name == event then channel:close() end
            return true
          end,
        })
        local link = assert(scene:connect())
        link:register("In " .. event, 100)
        if link:is_open() then
          channel:subscribe("key", "1")
          link:subscribe("key", "1")
          link:invoke("x", 100, 0)
          channel:publish("key", 1)
        end
        link:close()
        eventually(function() return channel:followers() == 0 end)
        channel:close()
      end
    end)
  end)

  it("leaves nothing behind, whatever comes and goes", function()
    local options = { on_event = function() end }
    local link = scene:pair(function(req)
      if req.method == "slow" then sched.sleep(60000) end
      return req.args[1]
    end, options, options)
    local leader, port = scene.leader, scene.server:port()
    local late = assert(scene.server:channel { name = "Late", on_event = options.on_event })
    local function visit(i)
      local other = cluster.connect { host = "127.0.0.1", port = port, on_event = options.on_event }
      if not other then return end
      if i % 3 == 0 then other:register("Late", 0) end
      if not other:register("Client", 5000, i % 2 == 0 and { v = 1 } or nil) then return end
      other:subscribe("key", "1")
      if i % 5 == 0 then other:close() end
      other:invoke("slow", 0, 1, i)
    end
    local function round()
      for i = 1, 300 do
        assert.equal(i, link:invoke("echo", 5000, 1, i))
        link:subscribe("key", "1")
        leader:subscribe("key", "1")
        leader:publish("key", i)
        link:unsubscribe("key", "1")
        leader:unsubscribe("key")
        if i % 10 == 0 then
          local task = znl.spawn(visit, i)
          for _ = 1, i % 7 do sched.sleep(0) end
          task:cancel()
          assert(scene.server:channel { name = "C" .. i, on_event = options.on_event }):close()
        end
      end
      eventually(function()
        jit.flush()
        collectgarbage()
        return leader:counters().handlers == 0 and late:followers() == 0 and scene.server:counters().connections == 1
      end)
      local entries = 0
      for _, value in pairs(debug.getregistry()) do
        if type(value) ~= "number" then entries = entries + 1 end -- numbers are places to be used again
      end
      return entries, collectgarbage("count")
    end
    round()
    local entries, kib = round()
    for _ = 1, 3 do
      local entries_now, kib_now = round()
      assert.is_true(entries_now <= entries + 20, ("%d entries, then %d"):format(entries, entries_now))
      assert.is_true(kib_now <= kib + 300, ("%d KiB, then %d"):format(kib, kib_now))
    end
  end)

  describe("a connection", function()
    it("that cannot be opened says why", function()
      scene:listen()
      local port = scene.server:port()
      scene.server:close()
      local link, message, code = cluster.connect { host = "127.0.0.1", port = port }
      assert.is_nil(link)
      assert.truthy(message:find("connect: 127.0.0.1:" .. port .. ": ", 1, true))
      assert.equal("UNREACHABLE", code)
    end)

    it("is closed by the collector when nobody holds it", function()
      scene:pair(echo)
      assert.equal(1, scene.leader:followers())
      scene.open[#scene.open] = nil
      eventually(function()
        collectgarbage()
        return scene.leader:followers() == 0
      end)
    end)

    it("beats, and its leader closes who does not", function()
      local link = scene:pair(echo, { heartbeat_ms = 200 }, { heartbeat_ms = 100 })
      link:begin()
      local raw = scene:raw()
      raw:register()
      eventually(function() return raw.is_closed end)
      local _, event = seen(scene.channel_events, "left")
      assert.equal("TIMEOUT", event[5])
      eventually(function() return scene.leader:counters().heartbeats >= 5 end)
      assert.is_true(link:is_open())
      assert.equal(0, scene.server:counters().broken)
    end)

    it("survives bytes that are no packets", function()
      scene:channel(echo)
      local link = scene:follow()
      for _, bytes in ipairs {
        ("\255"):rep(1000), scenes.packet("{"), scenes.packet("[]"), scenes.packet(""),
        scenes.packet('{"type":"register_channel","channelName":7}') .. scenes.packet("x"),
        scenes.packet('{"type":"register_channel","channelName":"Client"}') .. scenes.packet("nonsense"),
      } do
        local raw = scene:raw()
        raw:send(bytes)
        eventually(function() return raw.is_closed end)
      end
      assert.equal("x", link:invoke("echo", 5000, 1, "x"))
      assert.is_true(scene.server:counters().broken >= 5)
    end)

    it("speaks TLS", function()
      local folder = folders.new()
      local certificate, key = certificates(folder)
      scene:listen { tls = { certificate = certificate, key = key } }
      scene:channel(echo)
      local link = scene:follow { tls = { authorities = certificate } }
      assert.equal("x", link:invoke("echo", 5000, 1, "x"))
      assert.equal("PROTO", (select(3, scene:connect { tls = true })))
      folder:remove()
    end)
  end)
end)
