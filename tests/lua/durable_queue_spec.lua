--- znl.queue on a real nats-server: what is handled, what comes again, what becomes a dead letter.
--- SPDX-License-Identifier: MIT
local durable_scene = require("support.durable_scene")
local eventually = require("support.eventually")
local folder = require("support.folder")
local nats_server = require("support.nats_server")
local scope = require("znl.versions.scope")
local znl = require("znl")

--- Longer than any test: what comes again within it was given back.
local LONG_MS = 600000

describe("a queue", function()
  local server, bus, opened, files, count

  local scene = durable_scene.new()
  setup(function() server, bus = scene:open() end)
  teardown(function() scene:close() end)
  before_each(function() opened, count = scene:begin() end)
  after_each(function()
    scene:finish()
    if files then files:remove() end
    files = nil
  end)

  local function make(opts)
    opts = opts or {}
    opts.bus, opts.storage = opts.bus or bus, opts.storage or "memory"
    local name = opts.name or ("q%d"):format(count)
    opts.name = nil
    local queue = znl.queue(name, opts)
    opened[#opened + 1] = queue
    return queue
  end

  local function started(opts)
    local queue = make(opts)
    assert(queue:start())
    return queue
  end

  local function api(what, body)
    local answer = assert(bus:request("$JS.API." .. what, body and znl.json.encode(body) or ""))
    local ok, value = znl.json.decode(answer.data)
    assert.is_true(ok)
    return value
  end

  it("hands each message to a handler, and forgets it then", function()
    local queue = make()
    local seen = {}
    queue:handle(function(message)
      seen[#seen + 1] = { message.data, message.payload, message.seq, message.deliveries, message:header("Kind") }
    end)
    assert.is_false(queue:running())
    assert(queue:start())
    assert.is_true(queue:running())
    assert.same({ seq = 1, duplicate = false }, queue:push("one", { headers = { Kind = "a" } }))
    assert.same({ seq = 2, duplicate = false }, queue:push(""))
    eventually(function() return queue:info().messages == 0 end)
    assert.same({ { "one", "one", 1, 1, "a" }, { "", "", 2, 1 } }, seen)
    local counters = queue:counters()
    assert.equal(2, counters.published)
    assert.equal(2, counters.received)
    assert.equal(2, counters.acked)
    assert.equal(0, counters.redelivered)
    assert.equal(0, counters.running)
  end)

  it("keeps the first of messages with one id", function()
    local queue = started()
    assert.same({ seq = 1, duplicate = false }, queue:push("x", { msg_id = "a" }))
    assert.same({ seq = 1, duplicate = true }, queue:push("x", { msg_id = "a" }))
    assert.same({ seq = 2, duplicate = false }, queue:push("x", { msg_id = "b" }))
    assert.equal(2, queue:info().messages)
    assert.equal(1, queue:counters().duplicates)
  end)

  it("says what a message is, where it asks", function()
    local queue = make()
    local seen
    queue:handle(function(message) seen = message end)
    assert(queue:start())
    local before_ms = znl.core.sched.unix_ms()
    queue:push("x")
    eventually(function() return seen end)
    assert.equal("znl.queue.q" .. count, seen.subject)
    assert.equal("znl_queue_q" .. count, seen.stream)
    assert.equal("workers", seen.consumer)
    assert.equal(0, seen.pending)
    assert.is_true(math.abs(seen.time_ms - before_ms) < 60000)
    assert.is_nil(seen.nonsense)
  end)

  it("delivers again what failed, later each time, and puts it to the dead letters at last", function()
    local queue = make()
    local seen, dead, errors = {}, {}, {}
    queue:on("dead", function(...) dead = { ... } end)
    queue:on("error", function(message) errors[#errors + 1] = message end)
    queue:handle(function(message)
      seen[#seen + 1] = message.deliveries
      if message.deliveries == 2 then return nil, "not today", "BUSY" end
      error("broken")
    end, { max_deliver = 3, backoff_ms = { 10, 20 } })
    assert(queue:start())
    queue:push("poison", { msg_id = "p1", headers = { Kind = "a" } })
    eventually(function() return #dead > 0 end)
    assert.same({ 1, 2, 3 }, seen)
    assert.equal(2, #errors)
    assert.truthy(errors[1]:find("durable_queue_spec.lua:%d+: broken"))
    eventually(function() return queue:info().messages == 0 end)
    local letters = assert(queue:dead():list())
    assert.equal(1, #letters)
    local letter = letters[1]
    assert.equal("poison", letter.data)
    assert.truthy(letter.reason:find("durable_queue_spec.lua:%d+: broken$"))
    assert.equal("HANDLER_ERROR", letter.code)
    assert.equal(3, letter.deliveries)
    assert.equal(1, letter.source_seq)
    assert.equal("znl.queue.q" .. count, letter.subject)
    assert.equal("a", letter.headers.Kind)
    assert.equal("p1", letter.headers["Znl-Msg-Id"])
    assert.same(letter, queue:dead():get(1))
    local counters = queue:counters()
    assert.equal(1, counters.dead)
    assert.equal(2, counters.given_back)
    assert.equal(2, counters.redelivered)
    assert.equal(2, counters.handler_errors)
    assert.equal(1, counters.refused)
    assert.equal(0, counters.acked)
  end)

  it("puts to the dead letters at once what a handler ends", function()
    local queue = make()
    local runs = 0
    queue:handle(function()
      runs = runs + 1
      return nil, "no such\nuser", "TERM"
    end)
    assert(queue:start())
    queue:push("x")
    eventually(function() return queue:dead():count() == 1 end)
    assert.equal(1, runs)
    assert.equal("no such user", queue:dead():get(1).reason)
    assert.equal("TERM", queue:dead():get(1).code)
  end)

  it("does not run a handler for what was delivered too often without an end", function()
    local queue = make()
    local runs = 0
    queue:handle(function() runs = runs + 1 end, { max_deliver = 2, ack_wait_ms = LONG_MS })
    assert(queue:start())
    queue:handle(nil)
    eventually(function() return queue:counters().asked == 0 end)
    queue:push("killer")
    -- Workers that get it and are never heard of again.
    local inbox = bus:new_inbox()
    local subscription = bus:subscribe(inbox)
    for _ = 1, 2 do
      assert(bus:publish(("$JS.API.CONSUMER.MSG.NEXT.znl_queue_q%d.workers"):format(count),
        '{"batch":1,"expires":60000000000}', { reply = inbox }))
      local message = assert(subscription:next(60000))
      assert.equal("killer", message.data)
      bus:publish(message.reply, "-NAK")
    end
    subscription:unsubscribe()
    queue:handle(function() runs = runs + 1 end, { max_deliver = 2, ack_wait_ms = LONG_MS })
    eventually(function() return queue:dead():count() == 1 end)
    assert.equal(0, runs)
    assert.equal("MAX_DELIVER", queue:dead():get(1).code)
    assert.equal("delivered 2 times without an end", queue:dead():get(1).reason)
  end)

  it("has dead letters handled again, or throws them away", function()
    local queue = make()
    local is_broken, done = true, {}
    queue:handle(function(message)
      if is_broken then return nil, "broken", "TERM" end
      done[#done + 1] = message.data
      assert.equal("x", message:header("Kind"))
      assert.is_nil(message:header("Znl-Dead-Reason"))
    end)
    assert(queue:start())
    for index = 1, 5 do queue:push(("m%d"):format(index), { headers = { Kind = "x" } }) end
    eventually(function() return queue:dead():count() == 5 end)
    local dead = queue:dead()
    assert.equal(2, #dead:list(2, 2))
    assert.equal(3, dead:list(2, 2)[2].seq)
    assert.equal(1, dead:purge(2))
    local letter, _, code = dead:get(2)
    assert.is_nil(letter)
    assert.equal("NOT_FOUND", code)
    assert.equal("NOT_FOUND", select(3, dead:redrive(2)))
    assert.equal("NOT_FOUND", select(3, dead:purge(2)))
    is_broken = false
    assert.equal(1, dead:redrive(4))
    eventually(function() return #done == 1 end)
    assert.same({ "m4" }, done)
    assert.equal(3, dead:redrive())
    eventually(function() return #done == 4 end)
    table.sort(done)
    assert.same({ "m1", "m3", "m4", "m5" }, done)
    assert.equal(0, dead:count())
    is_broken = true
    queue:push("again", { headers = { Kind = "x" } })
    eventually(function() return dead:count() == 1 end)
    -- What dies again of being redriven is not redriven again by the same call.
    assert.equal(1, dead:redrive())
    eventually(function() return dead:count() == 1 end)
    assert.equal(1, dead:purge())
    assert.equal(0, dead:count())
    assert.same({}, dead:list())
  end)

  it("does not believe a letter that says it was published elsewhere", function()
    local queue = started()
    assert(bus:request("znl.dead.queue.q" .. count, "x", { headers = {
      ["Znl-Dead-Subject"] = "$JS.API.STREAM.DELETE.znl_queue_q" .. count, ["Znl-Dead-Seq"] = "nonsense",
    } }))
    local done, _, code = queue:dead():redrive()
    assert.is_nil(done)
    assert.equal("REFUSED", code)
    assert.equal(0, queue:dead():list()[1].source_seq)
    assert.equal(1, queue:dead():count())
    local own = "znl.queue.q" .. count
    for _, subject in ipairs { own .. ".a b", own .. ".*", own .. ".>", own .. ".", own .. "..a", own .. ".\9a" } do
      assert.equal(1, queue:dead():purge())
      assert(bus:request("znl.dead.queue.q" .. count, "x", { headers = { ["Znl-Dead-Subject"] = subject } }))
      assert.equal("REFUSED", select(3, queue:dead():redrive()), subject)
    end
  end)

  it("tells the server of handlers that take long", function()
    local queue = make()
    local runs, go_on = 0, znl.event()
    queue:handle(function()
      runs = runs + 1
      go_on:wait()
    end, { ack_wait_ms = 3000 })
    assert(queue:start())
    queue:push("slow")
    eventually(function() return queue:counters().renewed >= 4 end)
    go_on:set(true)
    eventually(function() return queue:info().messages == 0 end)
    assert.equal(1, runs)
  end)

  it("cancels a handler that takes too long", function()
    local queue = make()
    local reasons = {}
    queue:handle(function(message)
      if message.deliveries > 1 then return end
      local _, reason, code = znl.sleep(LONG_MS)
      reasons = { reason, code }
      return nil, reason, code
    end, { ack_wait_ms = 100, max_run_ms = 100, backoff_ms = { 0 } })
    assert(queue:start())
    queue:push("slow")
    eventually(function() return queue:info().messages == 0 end)
    assert.equal("CANCELLED", reasons[2])
    assert.equal(1, queue:counters().redelivered)
  end)

  it("never has more handlers at work than it is told, and gets through", function()
    local queue = make()
    local now, most, done = 0, 0, 0
    queue:handle(function()
      now = now + 1
      most = math.max(most, now)
      znl.sleep(1)
      now, done = now - 1, done + 1
    end, { max_in_flight = 3 })
    assert(queue:start())
    for index = 1, 100 do queue:push_async(("m%d"):format(index)) end
    assert.is_true(queue:flush())
    eventually(function() return done == 100 end)
    assert.equal(3, most)
    eventually(function() return queue:info().messages == 0 end)
    assert.equal(100, queue:counters().acked)
    assert.equal(0, queue:counters().redelivered)
  end)

  it("waits for handlers when it stops, and gives back the others at once", function()
    local opts = { ack_wait_ms = LONG_MS, max_in_flight = 4 }
    local queue = make()
    local began, go_on, finished = 0, znl.event(), {}
    queue:handle(function(message)
      began = began + 1
      if message.seq == 1 then
        go_on:wait()
        finished[#finished + 1] = message.data
      else
        znl.sleep(LONG_MS)
      end
    end, opts)
    assert(queue:start())
    for index = 1, 4 do queue:push(("m%d"):format(index)) end
    eventually(function() return began == 4 end)
    local stop = znl.spawn(function() queue:stop(300) end)
    go_on:set(true)
    stop:wait()
    assert.is_false(queue:running())
    assert.same({ "m1" }, finished)
    local other = make { name = "q" .. count }
    local again = {}
    other:handle(function(message) again[#again + 1] = message.data .. message.deliveries end, opts)
    assert(other:start())
    eventually(function() return #again == 3 end)
    table.sort(again)
    assert.same({ "m22", "m32", "m42" }, again)
    eventually(function() return other:info().messages == 0 end)
  end)

  it("starts again after a stop, with its handler", function()
    local queue = make()
    local done = {}
    queue:handle(function(message) done[#done + 1] = message.data end)
    assert(queue:start())
    assert(queue:start())
    queue:push("one")
    eventually(function() return #done == 1 end)
    queue:stop()
    queue:stop()
    local ack, _, code = queue:push("x")
    assert.is_nil(ack)
    assert.equal("STOPPED", code)
    assert.equal("STOPPED", select(3, queue:dead():list()))
    assert.equal("STOPPED", select(3, queue:info()))
    assert(queue:start())
    queue:push("two")
    eventually(function() return #done == 2 end)
    assert.same({ "one", "two" }, done)
  end)

  it("goes on with a new version of its handler; what runs ends with the old one", function()
    files = folder.new()
    local template = "return function(message) REPORT(%d, message.data, message) end"
    local go_on, seen = znl.event(), {}
    _G.REPORT = function(version, data)
      if data == "slow" then go_on:wait() end
      seen[#seen + 1] = ("%s by %d"):format(data, version)
    end
    files:write("h.lua", template:format(1))
    local queue = make()
    local handlers = znl.handlers(files:at("h.lua"))
    queue:handle(handlers, { ack_wait_ms = LONG_MS })
    assert(queue:start())
    queue:push("slow")
    eventually(function() return queue:counters().running == 1 end)
    files:replace("h.lua", template:format(2))
    assert(handlers:reload())
    queue:push("fast")
    eventually(function() return #seen == 1 end)
    go_on:set(true)
    eventually(function() return #seen == 2 end)
    assert.same({ "fast by 2", "slow by 1" }, seen)
    eventually(function() return queue:info().messages == 0 end)
    assert.equal(0, queue:counters().redelivered)
    handlers:close()
    _G.REPORT = nil
  end)

  it("outlives the version of the code that started it", function()
    local queue = make { bus = server.url }
    local done = {}
    queue:handle(function(message) done[#done + 1] = message.data end)
    local version = assert(scope.new { name = "v1" })
    assert(version:run(function() assert(queue:start()) end))
    assert(version:commit())
    version:finish()
    assert(queue:push("one"))
    eventually(function() return #done == 1 end)
    assert.is_true(queue.bus:is_connected())
    assert.equal(0, scope.count())
  end)

  it("stops taking messages when its handler is taken away", function()
    local queue = make()
    local done = {}
    queue:handle(function(message) done[#done + 1] = message.data end)
    assert(queue:start())
    queue:push("one")
    eventually(function() return #done == 1 end)
    queue:handle(nil)
    queue:push("two")
    queue:handle(function(message) done[#done + 1] = "again " .. message.data end, { max_in_flight = 1 })
    eventually(function() return #done == 2 end)
    assert.same({ "one", "again two" }, done)
  end)

  it("has acknowledgements confirmed, if asked to", function()
    local queue = make()
    queue:handle(function() end, { exactly_acked = true, max_in_flight = 2 })
    assert(queue:start())
    for index = 1, 10 do queue:push(("m%d"):format(index)) end
    eventually(function() return queue:counters().acked == 10 end)
    assert.equal(10, queue:counters().confirmed)
    assert.equal(0, queue:info().messages)
  end)

  it("refuses messages when it is full, and says so", function()
    local queue = started { max_messages = 2 }
    queue:push("1")
    queue:push("2")
    local ack, message, code = queue:push("3")
    assert.is_nil(ack)
    assert.equal("LIMIT", code)
    assert.truthy(message:find("maximum messages exceeded", 1, true))
    local task = queue:push_async("4")
    assert.equal("LIMIT", select(3, task:wait()))
    assert.equal("LIMIT", select(3, queue:flush()))
    assert.is_true(queue:flush())
    assert.equal(2, queue:info().messages)
    assert.equal(2, queue:counters().publish_failed)
  end)

  it("refuses what would be too large as a dead letter", function()
    local queue = started()
    local ack, message, code = queue:push(("x"):rep(bus:max_payload() - 100))
    assert.is_nil(ack)
    assert.equal("TOO_BIG", code)
    assert.truthy(message:find("max_payload", 1, true))
    assert(queue:push(("x"):rep(bus:max_payload() - 2048)))
  end)

  it("refuses to use a stream or consumer that is configured differently, unless it may change it", function()
    started({ name = "diff", max_messages = 5 }):stop()
    local other = make { name = "diff", max_messages = 6, max_bytes = 1000 }
    local ok, message, code = other:start()
    assert.is_nil(ok)
    assert.equal("EXISTS", code)
    assert.truthy(message:find("max_bytes is -1 there and 1000 here, max_msgs is 5 there and 6 here", 1, true))
    local third = make { name = "diff", max_messages = 6, max_bytes = 1000, update = true }
    third:handle(function() end)
    assert(third:start())
    assert.equal(6, api("STREAM.INFO.znl_queue_diff").config.max_msgs)
    third:stop()
    local fourth = make { name = "diff", max_messages = 6, max_bytes = 1000 }
    fourth:handle(function() end, { ack_wait_ms = 1000 })
    ok, message, code = fourth:start()
    assert.is_nil(ok)
    assert.equal("EXISTS", code)
    assert.truthy(message:find("ack_wait is 30000000000 there and 1000000000 here", 1, true))
    assert.is_false(fourth:running())
  end)

  it("finds its consumer and its stream again when somebody deleted them", function()
    local queue = make()
    local done, errors = {}, {}
    queue:on("error", function(text) errors[#errors + 1] = text end)
    queue:handle(function(message) done[#done + 1] = message.data end)
    assert(queue:start())
    queue:push("one")
    eventually(function() return queue:info().messages == 0 end)
    api(("CONSUMER.DELETE.znl_queue_q%d.workers"):format(count))
    queue:push("two")
    eventually(function() return queue:info().messages == 0 end)
    api(("STREAM.DELETE.znl_queue_q%d"):format(count))
    assert(queue:push("three", { msg_id = "3", timeout_ms = 60000 }))
    eventually(function() return #done == 3 end)
    assert.same({ "one", "two", "three" }, done)
    assert.same({ "the stream was lost, and is made again" }, errors)
  end)

  it("has its stream again after it pushed to none", function()
    local queue = started()
    api(("STREAM.DELETE.znl_queue_q%d"):format(count))
    local ack, message, code = queue:push("lost")
    assert.is_nil(ack)
    assert.equal("UNREACHABLE", code)
    assert.truthy(message:find("no stream takes znl.queue.q" .. count, 1, true))
    eventually(function() return queue:push("kept") end)
    assert.equal(1, queue:info().messages)
  end)

  it("is not fooled by what others send to where its messages come", function()
    local queue = make()
    local done = {}
    queue:handle(function(message) done[#done + 1] = message.data end)
    assert(queue:start())
    local inbox = queue.intakes[1].reply
    bus:publish(inbox, "no reply")
    bus:publish(inbox, "elsewhere", { reply = "somewhere.else" })
    local seen = {}
    local subscription = bus:subscribe("somewhere.else", function(message) seen[#seen + 1] = message.data end)
    bus:publish(inbox, "forged", { reply = "$JS.ACK.nonsense" })
    eventually(function() return queue:counters().malformed == 2 end)
    queue:push("real")
    eventually(function() return done[#done] == "real" end)
    assert(bus:flush(5000))
    assert.same({}, seen)
    subscription:unsubscribe()
  end)

  it("says clearly that there is no NATS, or no JetStream", function()
    local plain = nats_server.start {}
    local queue = make { bus = plain.url }
    local ok, message, code = queue:start()
    assert.is_nil(ok)
    assert.equal("UNSUPPORTED", code)
    assert.truthy(message:find("JetStream is not enabled", 1, true))
    local url = plain.url
    plain:remove()
    local lost = make { bus = url, connect_ms = 200 }
    ok, message, code = lost:start()
    assert.is_nil(ok)
    assert.equal("UNREACHABLE", code)
    assert.truthy(message:find("no NATS server", 1, true))
    assert.is_false(lost:running())
  end)

  it("raises at misuse, and blames the caller", function()
    local queue = make()
    for _, case in ipairs {
      { function() znl.queue("a b", { bus = bus }) end, 'the name is "a b"; it must be a text' },
      { function() znl.queue("a") end, "option bus is missing" },
      { function() znl.queue("a", { bus = bus, discards = "old" }) end, "did you mean discard" },
      { function() queue:push(1) end, "the message must be a text, not a number" },
      { function() queue:push("x", { msg_id = "a\nb" }) end, "msg_id" },
      { function() queue:handle(7) end, "the handler must be a function" },
      { function() queue:handle(print, { max_in_flight = 0 }) end, "max_in_flight is 0" },
      { function() queue:handle(print, { backoff_ms = { -1 } }) end, "backoff_ms" },
      { function() queue:stop(-1) end, "drain_ms must be a whole number" },
      { function() queue:dead():get(0) end, "seq must be a whole number" },
      { function() queue:dead():list(1, 0) end, "limit must be a whole number" },
      { function() queue:on("nonsense", print) end, "there is no event" },
      { function() znl.queue("a", { bus = { server = "x" } }):start() end, "did you mean servers" },
    } do
      local ok, message = pcall(case[1])
      assert.is_false(ok)
      assert.truthy(message:find("durable_queue_spec.lua:", 1, true), message)
      assert.truthy(message:find(case[2], 1, true), message)
    end
    assert(queue:start())
    for _, headers in ipairs { { ["Nats-Msg-Id"] = "x" }, { ["Znl-Dead-Seq"] = "x" }, { ["a b"] = "x" },
      { A = "x\r\ny" }, { A = 1 } } do
      local ok, message = pcall(function() queue:push("x", { headers = headers }) end)
      assert.is_false(ok)
      assert.truthy(message:find("durable_queue_spec.lua:", 1, true), message)
    end
  end)
end)

describe("a queue whose server is killed", function()
  it("has all that was acknowledged, and goes on", function()
    local level = znl.log.level()
    znl.log.set_level("off")
    local server = nats_server.start { jetstream = true }
    local queue = znl.queue("restart", { bus = server.url })
    local done, handled = {}, 0
    queue:handle(function(message)
      handled = handled + 1
      znl.sleep(1)
      done[message.data] = (done[message.data] or 0) + 1
    end, { ack_wait_ms = 1000, max_in_flight = 8 })
    assert(queue:start())
    local kept, is_over = {}, false
    local pusher = znl.spawn(function()
      local number = 0
      while not is_over do
        number = number + 1
        local data = ("m%d"):format(number)
        if queue:push(data, { msg_id = data, timeout_ms = 60000 }) then kept[#kept + 1] = data end
      end
    end)
    for _ = 1, 3 do
      local before = handled
      eventually(function() return handled > before + 50 end)
      server:kill()
      server:restart()
    end
    local before = #kept
    eventually(function() return #kept > before + 50 end)
    is_over = true
    pusher:wait()
    -- Not: until the stream is empty. A server that was killed may keep what was acknowledged, and hand it to nobody.
    eventually(function()
      while #kept > 0 and done[kept[#kept]] do kept[#kept] = nil end
      return #kept == 0
    end, "all that was kept is handled")
    assert.is_true(queue:counters().recoveries >= 3)
    queue:stop()
    server:remove()
    znl.log.set_level(level)
  end)
end)
