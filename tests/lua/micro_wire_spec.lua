--- znl.core.micro towards peers that are no znlrun, frame by frame; TLS; find answered in C. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl.core.micro")

describe("znl.core.micro, frame by frame:", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local certificates = require("tests.lua.support.certificate")
  local eventually = require("tests.lua.support.eventually")
  local folders = require("tests.lua.support.folder")
  local json = require("znl.json")
  local registry = require("znl.core.registry")
  local scenes = require("tests.lua.support.micro_scene")
  local sched = require("znl.core.sched")
  local websocket = require("znl.websocket")
  local seen = scenes.seen

  local scene, peer

  before_each(function() scene = scenes.new() end)
  after_each(function()
    if peer then peer:close() end
    peer = nil
    scene:close()
  end)

  --- A peer that speaks JSON and nothing of ours.
  local function original(handler, options)
    scene:serve(handler, options)
    peer = assert(websocket.connect(("ws://127.0.0.1:%d/127.0.0.1/9001/them"):format(scene.server:port())))
  end

  local function send(frame) assert(peer:send(type(frame) == "string" and frame or json.encode(frame))) end

  local function receive()
    local text = assert(peer:recv(5000))
    return text, select(2, json.decode(text))
  end

  local function ask(id, url, data, stream)
    send { id = id, twoway = true, mode = 0, stream = stream, data = { url = url, data = data } }
  end

  it("an original gets what originals send", function()
    local outcomes = {
      ["/value"] = function() return { a = 1 } end,
      ["/nothing"] = function() end,
      ["/null"] = function() return json.null end,
      ["/refused"] = function() return nil, "no" end,
      ["/status"] = function() return nil, "no", 404 end,
      ["/word"] = function() return nil, "no", "NOPE" end,
      ["/boom"] = function() error("boom") end,
      ["/exception"] = function() error { status = "TEA", message = "pot" } end,
      ["/generator"] = function() return function() end end,
    }
    original(function(req) return outcomes[req.route]() end)
    local function answer(url)
      ask(7, url)
      return (receive())
    end
    local head = '{"id":7,"mode":1,"twoway":false,"data":'
    assert.equal(head .. '{"status":200,"data":{"a":1}}}', answer("/value"))
    assert.equal(head .. '{"status":200}}', answer("/nothing"))
    assert.equal(head .. '{"status":200,"data":null}}', answer("/null"))
    assert.equal(head .. '{"status":500,"data":null,"message":"no"}}', answer("/refused"))
    assert.equal(head .. '{"status":404,"data":null,"message":"no"}}', answer("/status"))
    assert.equal(head .. '{"status":"NOPE","data":null,"message":"no"}}', answer("/word"))
    assert.equal(head .. '{"status":500,"data":null,"message":"boom"}}', answer("/boom"))
    assert.equal(head .. '{"status":"TEA","data":null,"message":"pot"}}', answer("/exception"))
    assert.equal(head .. '{"status":500,"data":null,"message":"Async iterable is not supported"}}',
      answer("/generator"))
    scene.server:set_handler(nil)
    assert.equal(head .. '{"status":500,"data":null,"message":"/there"}}', answer("/there"))
    assert.is_false(scene:inbound():is_ours())
  end)

  it("an original gets streams as originals send them", function()
    original(function(req)
      assert(req:write({ n = 1 }))
      if req.route == "/null" then req:write(json.null) end
      if req.route == "/exception" then return nil, "full", 507 end
      if req.route == "/boom" then error("boom") end
      return req.route == "/bad" and 5 or nil
    end)
    local first = '{"id":3,"mode":1,"stream":true,"twoway":false,' ..
      '"data":{"status":200,"seq":0,"payload":{"n":1},"final":false}}'
    local function last(url)
      ask(3, url, {}, true)
      local _, chunk = receive()
      assert.same(select(2, json.decode(first)), chunk)
      local _, frame = receive()
      assert.is_true(frame.stream)
      assert.is_true(frame.data.final)
      return frame.data
    end
    assert.same({ status = 200, seq = 1, final = true }, last("/fine"))
    assert.same({ status = 507, seq = 0, payload = "full", final = true }, last("/exception"))
    assert.equal(500, last("/boom").status)
    assert.same({ status = 500, seq = 0, payload = "Invalid async iterable", final = true }, last("/bad"))
    assert.equal(500, last("/null").status)
    eventually(function() return seen(scene.server_events, "error") == 2 end)
    local _, event = seen(scene.server_events, "error")
    assert.truthy(event[2]:find("a chunk that is null ends the stream of this peer", 1, true))
  end)

  it("a request has the numbers and texts that were sent", function()
    local got
    original(function(req) got = req end)
    send('{"mode":0,"id":1,"twoway":true,"extra":[],' ..
      '"data":{"data":{"big":9007199254740993,"t":"\\u00e9"},"url":"/a\\u002fb"}}')
    receive()
    assert.equal("/a/b", got.route)
    assert.equal(9007199254740993LL, got.data.big)
    assert.equal("é", got.data.t)
  end)

  it("what cannot be read harms nobody", function()
    original(function(req) return req.data end)
    for _, text in ipairs {
      "", "{", "[]", "5", "null", '{"mode":9}', '{"id":1,"mode":0}',
      '{"id":"x","mode":0,"twoway":true,"data":{"url":"/"}}',
      '{"id":1,"mode":1,"data":5}', '{"id":1,"mode":2,"data":"x"}', '{"id":5,"mode":3,"data":{"id":1,"credit":1}}',
      ("["):rep(100000), '{"id":1,"mode":0,"twoway":false,"data":{"url":5}}',
    } do
      send(text)
    end
    peer:send("binary", { binary = true })
    ask(11, "/", "still here")
    local frame
    repeat frame = select(2, receive()) until frame.id == 11
    assert.equal("still here", frame.data.data)
    assert.is_true(scene.server:counters().malformed >= 8)
    assert.equal(0, scene.server:counters().handlers)
    send(('{"id":12,"twoway":true,"mode":0,"data":{"url":"/","data":%s%s}}'):format(("["):rep(200), ("]"):rep(200)))
    repeat frame = select(2, receive()) until frame.id == 12
    assert.equal(500, frame.data.status)
  end)

  it("an abort ends the handler, and nothing is answered", function()
    local ended
    original(function(req)
      if req.route == "/next" then return "next" end
      local ok, _, code = sched.sleep(5000)
      ended = { ok, code, req:cancelled() }
      return "late"
    end)
    ask(1, "/slow")
    send { id = 2, twoway = false, mode = 2, data = 1 }
    eventually(function() return ended end)
    assert.same({ nil, "CANCELLED", true }, ended)
    ask(1, "/next")
    assert.equal('{"id":1,"mode":1,"twoway":false,"data":{"status":200,"data":"next"}}', (receive()))
  end)

  it("ids that are used twice: the later counts", function()
    local go = sched.event()
    original(function(req)
      if req.data == 1 then sched.sleep(5000) else go:wait() end
      return req.data
    end)
    ask(5, "/", 1)
    ask(5, "/", 2)
    eventually(function() return scene.server:counters().replaced == 1 end)
    go:set()
    local _, frame = receive()
    assert.equal(2, frame.data.data)
    eventually(function() return scene.server:counters().handlers == 0 end)
  end)

  it("requests of ours have a high id, and end with whatever comes", function()
    original(function() end)
    local conn = scene:inbound()
    local results
    local function go(url)
      results = nil
      sched.spawn(function() results = { conn:request(url, { a = 1 }, 5000) } end)
      local _, frame = receive()
      assert.equal(url, frame.data.url)
      assert.is_true(frame.id >= 2 ^ 40)
      assert.is_nil(frame.deadline)
      return frame.id
    end
    local function answered(text, id)
      send((text:gsub("ID", ("%.0f"):format(id))))
      eventually(function() return results end)
      return results
    end
    assert.same({ { 1 } }, answered('{"id":ID,"mode":1,"data":{"status":200,"data":[1]}}', go("/1")))
    assert.same({}, answered('{"id":ID,"mode":1,"data":{"status":200}}', go("/2")))
    assert.same({ json.null }, answered('{"id":ID,"mode":1,"data":{"status":200,"data":null}}', go("/3")))
    assert.same({ nil, "x", "200", true },
      answered('{"id":ID,"mode":1,"data":{"status":"200","message":"x"}}', go("/4")))
    assert.same({ nil, "", 500, true }, answered('{"id":ID,"mode":1,"data":{"status":500}}', go("/5")))
    assert.same({ nil, "", 500, true }, answered('{"id":ID,"mode":1,"data":{}}', go("/6")))
    assert.equal("PROTO", answered('{"id":ID,"mode":1,"data":5}', go("/7"))[3])
    assert.equal(0, conn:pending())
  end)

  it("TLS", function()
    local folder = folders.new()
    local certificate, key = certificates(folder)
    scene:serve(function(req) return req.data end, { tls = { certificate = certificate, key = key } })
    assert.truthy(scene.server:endpoint():find("^wss://127%.0%.0%.1:%d+$"))
    local conn = assert(scene:connect { tls = { authorities = certificate } })
    assert.equal("sealed", conn:request("/", "sealed"))
    assert.equal("PROTO", (select(3, scene:connect { tls = true }))) -- whom the system does not trust
    assert.is_nil((scene:connect { timeout_ms = 2000 })) -- in plain
    assert.has_error(function() scene:connect { tls = 5 } end)
    assert.is_nil((scene:connect { tls = { authorities = folder:at("missing.pem") } }))
    assert.equal("sealed", conn:request("/", "sealed"))
    folder:remove()
  end)

  describe("find", function()
    local directory

    before_each(function()
      directory = assert(registry.new())
      original(function(req) return "handler " .. req.route end)
      scene.server:answer_find(directory)
    end)

    local function find(data)
      ask(1, "/-/find", data)
      local text, frame = receive()
      return frame.data, text
    end

    it("gives one address of the namespace, not those excluded", function()
      assert.same({ status = 200 }, (find { namespace = "a" }))
      directory:add("a", "10.0.0.1", 80)
      directory:add("b", "::1", 81)
      local _, text = find { namespace = "a" }
      assert.equal('{"id":1,"mode":1,"twoway":false,"data":{"status":200,"data":{"host":"10.0.0.1","port":80}}}', text)
      assert.same({ host = "10.0.0.1", port = 80 }, find({ namespace = "a", exclude = {} }).data)
      directory:add("a", "10.0.0.2", 82)
      for _ = 1, 20 do
        assert.equal(82, find({ namespace = "a", exclude = { "10.0.0.1:80", "nobody:1" } }).data.port)
      end
      assert.same({ status = 200 }, (find { namespace = "a", exclude = { "10.0.0.1:80", "10.0.0.2:82" } }))
      local ports = {}
      for _ = 1, 200 do ports[find({ namespace = "a" }).data.port] = true end
      assert.is_true(ports[80] and ports[82])
      assert.same({ status = 200 }, (find { namespace = "c" }))
      assert.same({ status = 200 }, (find {}))
      assert.equal(0, scene.server:counters().handlers)
      assert.is_true(scene.server:counters().finds > 200)
    end)

    it("takes any order and form, and refuses what is none", function()
      directory:add("a/b", "h", 1)
      send('{"id":1,"twoway":true,"mode":0,"data":{"url":"/-/find","data":{"x":[{}],' ..
        '"exclude":[5,null,{"a":1},"n:1"],"namespace":"\\u0061\\/b"}}}')
      assert.same({ host = "h", port = 1 }, select(2, receive()).data.data)
      assert.same({ host = "h", port = 1 }, find({ namespace = "a/b", exclude = "no list" }).data)
      for _, bad in ipairs { 5, "text", json.array {}, json.null } do
        assert.equal(500, find(bad).status)
      end
      assert.equal(500, find(nil).status)
      assert.same({ status = 200 }, (find { namespace = 5 }))
      send { id = 2, twoway = false, mode = 0, data = { url = "/-/find", data = { namespace = "a/b" } } }
      ask(3, "/-/finder")
      assert.equal("handler /-/finder", select(2, receive()).data.data)
    end)

    it("can be the handler's again", function()
      scene.server:answer_find(nil)
      assert.equal("handler /-/find", find({ namespace = "a" }).data)
      assert.has_error(function() scene.server:answer_find({}) end)
      scene.server:answer_find(directory)
      directory:close()
      assert.same({ status = 200 }, (find { namespace = "a" })) -- held
    end)
  end)
end)
