--- znl.queue and znl.topic on a real nats-server that loses streams, and connections that come and go.
--- SPDX-License-Identifier: MIT
local durable_scene = require("support.durable_scene")
local eventually = require("support.eventually")
local nats = require("znl.nats")
local uv = require("luv")
local znl = require("znl")

--- Longer than any test: what comes again within it was given back.
local LONG_MS = 600000

--- Passes bytes on to a server; `cut` ends the connections it has.
local function relay(port)
  local listener, open = uv.new_tcp(), {}
  local function close(socket)
    open[socket] = nil
    if not socket:is_closing() then socket:close() end
  end
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen(16, function()
    local near, far = uv.new_tcp(), uv.new_tcp()
    assert(listener:accept(near))
    open[near], open[far] = true, true
    far:connect("127.0.0.1", port, function(problem)
      if problem then
        close(near)
        return close(far)
      end
      for from, to in pairs { [near] = far, [far] = near } do
        from:read_start(function(err, bytes)
          if bytes and not to:is_closing() then return to:write(bytes) end
          if err or not bytes then
            close(from)
            close(to)
          end
        end)
      end
    end)
  end))
  local self = { url = ("nats://127.0.0.1:%d"):format(listener:getsockname().port) }
  function self.cut()
    local list = {}
    for socket in pairs(open) do list[#list + 1] = socket end
    for _, socket in ipairs(list) do close(socket) end
  end
  function self.remove()
    self.cut()
    listener:close()
  end
  return self
end

describe("what is durable, where things get lost:", function()
  local server, bus, opened, let_go, count

  local scene = durable_scene.new()
  setup(function() server, bus = scene:open() end)
  teardown(function() scene:close() end)
  before_each(function()
    opened, count = scene:begin()
    let_go = function() end
  end)
  after_each(function()
    let_go()
    scene:finish()
  end)

  local function make(kind, opts)
    opts = opts or {}
    opts.bus, opts.storage = opts.bus or bus, "memory"
    if kind == "topic" then opts.durable = true end
    local one = znl[kind](("lost%d"):format(count), opts)
    opened[#opened + 1] = one
    return one
  end

  local function api(what, body)
    local answer = assert(bus:request("$JS.API." .. what, body and znl.json.encode(body) or ""))
    local ok, value = znl.json.decode(answer.data)
    assert.is_true(ok)
    return value
  end

  --- Requests whose subject contains `what` wait until the function that this returns is called.
  local function hold(what)
    local request, held, go_on = bus.request, znl.event(), znl.event()
    function bus.request(...)
      local _, subject = ...
      if subject:find(what, 1, true) then
        held:set(true)
        while not go_on:is_set() do znl.sleep(1) end
      end
      return request(...)
    end
    let_go = function()
      bus.request = nil
      go_on:set(true)
    end
    return let_go, held
  end

  it("a late acknowledgement does not take a message of the stream that was made anew", function()
    local queue = make("queue")
    local go_on, handled, begun = znl.event(), {}, 0
    queue:handle(function(message)
      begun = begun + 1
      if message.data:find("^old") then
        go_on:wait()
      else
        error("not yet")
      end
      handled[#handled + 1] = message.data
    end, { max_in_flight = 2, ack_wait_ms = LONG_MS, backoff_ms = { LONG_MS }, max_deliver = 0 })
    assert(queue:start())
    assert(queue:push("old1"))
    assert(queue:push("old2"))
    eventually(function() return begun == 2 end)
    server:kill()
    server:restart()
    eventually(function() return bus:is_connected() and queue:info() end)
    eventually(function() return queue:push("new1") end)
    assert(queue:push("new2"))
    eventually(function() return queue.intakes[1].is_ready end)
    go_on:set(true)
    eventually(function() return begun == 4 end, "the new ones are handed out")
    assert(bus:flush(5000))
    assert.equal(2, queue:info().messages)
  end)

  it("a subscriber gets all of a stream that was made anew", function()
    local topic = make("topic")
    local go_on, seen = znl.event(), {}
    assert(topic:start())
    assert(topic:subscribe(function(message)
      seen[#seen + 1] = message.data
      if message.data == "old5" then go_on:wait() end
    end, { group = "g", from = "first", max_in_flight = 1 }))
    for number = 1, 5 do assert(topic:publish("old" .. number)) end
    eventually(function() return #seen == 5 end)
    local config = api("STREAM.INFO." .. topic.stream_name).config
    assert.is_true(api("STREAM.DELETE." .. topic.stream_name).success)
    assert.is_nil(api("STREAM.CREATE." .. topic.stream_name, config).error)
    for number = 1, 3 do assert(topic:publish("new" .. number)) end
    go_on:set(true)
    eventually(function() return #seen == 8 end, "the new ones are seen")
    assert.same({ "new1", "new2", "new3" }, { seen[6], seen[7], seen[8] })
  end)

  it("letters of messages with the same number in another stream are not taken for one", function()
    local queue = make("queue")
    queue:handle(function() return nil, "never", "TERM" end)
    assert(queue:start())
    assert(queue:push("first"))
    eventually(function() return queue:dead():count() == 1 end)
    eventually(function() return queue:info().messages == 0 end)
    assert.is_true(api("STREAM.DELETE." .. queue.stream_name).success)
    eventually(function() return queue:push("second") end)
    eventually(function() return queue:counters().dead == 2 end)
    local letters = assert(queue:dead():list())
    assert.same({ "first", "second" }, { letters[1].data, (letters[2] or {}).data })
  end)

  it("the stream of dead letters is made again when it is needed", function()
    local queue = make("queue")
    queue:handle(function() return nil, "never", "TERM" end)
    assert(queue:start())
    assert.is_true(api("STREAM.DELETE." .. queue.dead_name).success)
    assert(queue:push("x"))
    eventually(function() return queue:counters().dead == 1 end)
    assert.equal("x", queue:dead():list()[1].data)
    assert.equal(0, queue:counters().dead_failed)
  end)

  it("a letter is redriven, though one of the same number was before", function()
    local queue = make("queue")
    local is_good, done = false, {}
    queue:handle(function(message)
      if not is_good then return nil, "not yet", "TERM" end
      done[#done + 1] = message.data
    end)
    assert(queue:start())
    for _, data in ipairs { "one", "two" } do
      is_good = false
      assert(queue:push(data))
      eventually(function() return queue:dead():count() == 1 end)
      is_good = true
      assert.equal(1, queue:dead():redrive())
      eventually(function() return done[#done] == data end)
      assert.is_true(api("STREAM.DELETE." .. queue.dead_name).success)
      queue:stop()
      assert(queue:start())
    end
    assert.same({ "one", "two" }, done)
  end)

  it("a flush waits also when one before was too short", function()
    local queue = make("queue")
    assert(queue:start())
    local release = hold(queue.subject)
    local run = queue:push_async("one")
    assert.equal("TIMEOUT", select(3, queue:flush(1)))
    release()
    assert(run:wait())
    release = hold(queue.subject)
    assert(queue:push_async("two"))
    assert.equal("TIMEOUT", select(3, queue:flush(1)))
    release()
    assert(queue:flush())
  end)

  it("requests of a connection that was cut are not answered any more", function()
    local between = relay(server.port)
    local own = assert(nats.connect { servers = between.url, reconnect_min_ms = 1 })
    local queue = make("queue", { bus = own })
    local go_on, begun = znl.event(), 0
    queue:handle(function()
      begun = begun + 1
      go_on:wait()
    end, { max_in_flight = 3, ack_wait_ms = LONG_MS })
    assert(queue:start())
    for number = 1, 3 do
      assert(own:flush(5000))
      between.cut()
      eventually(function() return queue:counters().recoveries >= number and queue:counters().asked == 3 end)
    end
    assert(own:flush(5000))
    for number = 1, 12 do bus:publish(queue.subject, ("m%d"):format(number)) end
    eventually(function() return queue:info().messages == 12 and begun == 3 end)
    assert(own:flush(5000))
    local info = api(("CONSUMER.INFO.%s.workers"):format(queue.stream_name))
    assert.equal(3, info.num_ack_pending)
    assert.equal(0, queue:counters().waiting)
    go_on:set(true)
    eventually(function() return queue:info().messages == 0 end)
    assert.equal(12, begun)
    queue:stop()
    own:close()
    between.remove()
  end)

  it("a start that nobody waits for any more ends stopped, and takes nothing", function()
    local queue = make("queue")
    local done = {}
    queue:handle(function(message) done[#done + 1] = message.data end)
    local release, held = hold("$JS.API.CONSUMER.INFO")
    local starting = znl.spawn(function() return queue:start() end)
    held:wait()
    starting:cancel()
    assert.equal("CANCELLED", select(3, starting:wait()))
    assert.equal("stopping", queue.state) -- what it began is still under way
    release()
    eventually(function() return queue.state == "stopped" end)
    assert.same({}, queue.intakes)
    assert(queue:start())
    assert(queue:push("x"))
    eventually(function() return done[1] end)
    queue:stop()
    assert.equal("stopped", queue.state)
  end)

  it("the handler that is set while it starts is the one", function()
    local queue = make("queue")
    local done = {}
    queue:handle(function() done[#done + 1] = "old" end)
    local release, held = hold("$JS.API.CONSUMER.INFO")
    local starting = znl.spawn(function() return queue:start() end)
    held:wait()
    queue:handle(function() done[#done + 1] = "new" end)
    release()
    assert(starting:wait())
    assert(queue:push("x"))
    eventually(function() return done[1] end)
    assert.equal("new", done[1])
  end)

  it("a subscription that is made while the topic starts gets messages", function()
    local topic = make("topic")
    local seen = {}
    assert(topic:subscribe(function() end, { group = "a" }))
    local release, held = hold("$JS.API.CONSUMER.INFO")
    local starting = znl.spawn(function() return topic:start() end)
    held:wait()
    assert(topic:subscribe(function(message) seen[#seen + 1] = message.data end, { group = "b", from = "first" }))
    release()
    assert(starting:wait())
    assert(topic:publish("x"))
    eventually(function() return seen[1] end)
  end)

  it("who has no handler any more is not handed messages again and again", function()
    local topic = make("topic")
    assert(topic:start())
    assert(topic:subscribe(function() end, { group = "g" }))
    local intake
    for _, one in pairs(topic.intakes) do intake = one end
    intake:set_handler(nil)
    assert(bus:flush(5000))
    assert(topic:publish("x"))
    assert(bus:flush(5000))
    local info = api(("CONSUMER.INFO.%s.g"):format(topic.stream_name))
    assert.equal(0, info.num_redelivered)
    local seen
    intake:set_handler(function(message) seen = message.deliveries end)
    eventually(function() return seen end)
    assert.equal(1, seen)
  end)
end)
