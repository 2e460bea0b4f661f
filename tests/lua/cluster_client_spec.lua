--- znl.cluster_client over processes that are none: who leads, what outlives a leader, what fails and how.
--- SPDX-License-Identifier: MIT
local fake_cluster = require("support.fake_cluster")
local json = require("znl.json")

--- A real client that keeps values by dataId and tells its subscribers.
local function new_store(journal)
  local store = { values = {}, listeners = {}, journal = journal or {} }
  local function note(...) store.journal[#store.journal + 1] = table.concat({ ... }, " ") end
  function store:subscribe(reg, listener)
    note("subscribe", reg.dataId)
    self.listeners[reg.dataId] = self.listeners[reg.dataId] or {}
    table.insert(self.listeners[reg.dataId], listener)
    if self.values[reg.dataId] ~= nil then listener(self.values[reg.dataId]) end
  end
  function store:publish(reg)
    note("publish", reg.dataId, tostring(reg.value))
    self.values[reg.dataId] = reg.value
    for _, listener in ipairs(self.listeners[reg.dataId] or {}) do listener(reg.value) end
  end
  function store:get(id) return self.values[id] end
  function store.echo(_, ...) return json.array { ... } end
  function store.fail() return nil, "no such id", "E_NOT_FOUND" end
  function store.raise() error("broken") end
  function store.raise_object() error({ message = "typed", name = "TypeError", code = 404 }) end
  function store.close() note("close") end
  return store
end

describe("znl.cluster_client", function()
  local net, fake

  before_each(function()
    net = fake_cluster.new()
    fake = net.fake
  end)

  local function sleep(ms) fake.modules["znl.core.sched"].sleep(ms) end
  local function now() return fake.now end

  --- A process with a client of the channel "store".
  local function open(opts, process)
    process = process or net:process()
    local given = { name = "store", client = new_store() }
    for name, value in pairs(opts or {}) do given[name] = value end
    if given.client == false then given.client = nil end
    local client = process.cluster_client.new(given)
    return client, process, given.client
  end

  local function started(opts, process)
    local client, its, store = open(opts, process)
    assert.is_true(client:start())
    return client, its, store
  end

  it("lets the first one lead and the others follow, and both call alike", function()
    fake:run(function()
      local leader, _, store = started()
      local follower = started()
      assert.same({ "leading", "following" }, { leader:state(), follower:state() })
      assert.same({ true, false }, { leader:is_leader(), follower:is_leader() })
      store.values.a = { x = 1 }
      for _, client in ipairs { leader, follower } do
        assert.same({ x = 1 }, client:invoke("get", "a"))
        assert.same({ x = 1 }, client:get("a"))
        assert.same({}, { client:get("missing") })
        assert.same({ 1, nil, 3 }, client:echo(1, nil, 3))
        local result, message, code, err = client:fail()
        assert.is_nil(result)
        assert.same({ "no such id", "E_NOT_FOUND", "no such id" }, { message, code, err.message })
        _, message, code, err = client:raise()
        assert.same({ "broken", "FAILED", "Error" }, { message:match("[^ ]*$"), code, err.name })
        _, message, code, err = client:invoke("raise_object")
        assert.same({ "typed", 404, "TypeError" }, { message, code, err.name })
        _, message, code = client:echo(function() end)
        assert.equal("INVALID", code)
        assert.truthy(message:find("a function", 1, true))
      end
      -- What one end changes does not change at the other.
      leader:get("a").x = 2
      assert.same({ x = 1 }, leader:get("a"))
    end)
  end)

  it("refuses methods that are not declared, and what no client has", function()
    fake:run(function()
      local leader = started { methods = { "get", put = "publish", note = "oneway" }, client = new_store() }
      local follower = started { client = false, leader = false, methods = { "get", "absent" }, any_method = true }
      assert.has_error(function() leader:invoke("gett") end, 'store: there is no method "gett"; did you mean get?')
      assert.has_error(function() leader:invoke("echo") end)
      assert.has_error(function() leader.get("id") end, "store: get is called with a colon: client:get(...)")
      assert.has_error(function() leader.note() end, "store: note is called with a colon: client:note(...)")
      assert.has_error(function() leader:invoke("") end)
      for _, name in ipairs { "echo", "absent", "close", "subscribe", "_private", "__index" } do
        local _, message, code, err = follower:invoke(name)
        assert.same({ ('store has no method "%s"'):format(name), "NOT_FOUND" }, { message, code })
        assert.equal("TypeError", err.name)
      end
      -- Declared, and yet the object has it not.
      local _, message, code = leader:invoke("note")
      assert.same({ 'store has no method "note"', "NOT_FOUND" }, { message, code })
    end)
  end)

  it("delivers values to all subscribers, the last one to who comes later", function()
    fake:run(function()
      local leader, _, store = started()
      local follower = started()
      local got = { {}, {}, {} }
      local function into(index) return function(value) table.insert(got[index], value) end end
      leader:subscribe({ dataId = "a" }, into(1))
      follower:subscribe({ dataId = "a" }, into(2))
      sleep(5)
      assert.is_true(follower:publish { dataId = "a", value = "one" })
      sleep(5)
      local off = follower:subscribe({ dataId = "a" }, into(3)) -- no second request: what is known is told
      sleep(5)
      assert.same({ { "one" }, { "one" }, { "one" } }, got)
      assert.same({ "subscribe a", "publish a one" }, store.journal)
      off()
      leader:publish { dataId = "a", value = "two" }
      sleep(5)
      assert.same({ { "one", "two" }, { "one", "two" }, { "one" } }, got)
      follower:unsubscribe { dataId = "a" }
      leader:publish { dataId = "a", value = "three" }
      sleep(5)
      assert.same({ { "one", "two", "three" }, { "one", "two" }, { "one" } }, got)
      assert.equal(1, leader:counters().subscriptions)
      assert.equal(0, follower:counters().subscriptions)
      assert.same({ { key = '$$inner$$__{"dataId":"a"}' } }, leader:keys())
    end)
  end)

  it("replaces a leader that is killed: subscriptions, publications and values are there again", function()
    fake:run(function()
      local _, first = started()
      local clients, got, failovers = {}, {}, 0
      for index = 1, 9 do
        clients[index] = started()
        got[index] = {}
        clients[index]:subscribe({ dataId = "shared" }, function(value) table.insert(got[index], value) end)
        clients[index]:on("failover", function(_, ms)
          failovers = failovers + 1
          assert.is_true(ms <= 20)
        end)
        clients[index]:publish { dataId = "of " .. index, value = 1 }
      end
      clients[1]:publish { dataId = "shared", value = "before" }
      clients[2]:publish { dataId = "of 2", value = 2 }
      sleep(10)
      for round = 1, 3 do
        local killed = round == 1 and first
        if not killed then
          for index, client in pairs(clients) do
            if client:is_leader() then
              killed = net.elections[#net.elections]
              clients[index] = nil
            end
          end
        end
        killed:kill()
        local at_ms = now()
        sleep(1)
        local leaders = 0
        for _, client in pairs(clients) do
          assert.is_true(client:ready())
          leaders = leaders + (client:is_leader() and 1 or 0)
        end
        assert.equal(1, leaders)
        assert.is_true(now() - at_ms <= 20)
        sleep(50)
        local _, publisher = next(clients)
        assert.equal(2, publisher:get("of 2") or 2) -- gone with process 2
        publisher:publish { dataId = "shared", value = "round " .. round }
        sleep(10)
        for index in pairs(clients) do assert.equal("round " .. round, got[index][#got[index]]) end
        sleep(1000)
      end
      assert.equal(9 + 8 + 7, failovers)
      assert.equal(4, #net.elections)
    end)
  end)

  it("tells a new leader all publications in the order of the first ones, without those withdrawn", function()
    fake:run(function()
      local first_client, first = started()
      local by_id = function(reg) return reg.dataId end
      local journal = {}
      local client = started { client = new_store(journal), publication_key = by_id, max_publications = 3 }
      for _, id in ipairs { "a", "b", "c" } do client:publish { dataId = id, value = 1 } end
      client:publish { dataId = "a", value = 2 }
      assert.same({ nil, "store: 3 publications are remembered, no more", "LIMIT" },
        { client:publish { dataId = "d", value = 1 } })
      local ok, _, code = client:publish { dataId = "a", value = function() end }
      assert.same({ "nil", "INVALID" }, { tostring(ok), code }) -- and the one before is kept
      ok, _, code = first_client:publish { dataId = print }
      assert.same({ "nil", "INVALID" }, { tostring(ok), code })
      assert.has_error(function() first_client:publish(nil) end)
      assert.is_true(client:unpublish { dataId = "b" })
      assert.is_false(client:unpublish { dataId = "b" })
      first:kill()
      sleep(1)
      assert.is_true(client:ready())
      assert.is_true(client:is_leader())
      assert.same({ "publish a 2", "publish c 1" }, journal)
    end)
  end)

  it("sends calls that wait to the next leader, and ends those under way", function()
    fake:run(function()
      local entered = 0
      local function slow_store()
        local store = new_store()
        function store:slow(is_second)
          entered = entered + 1
          if not is_second and not self.is_heir then sleep(1000) end
          return "done"
        end
        store.safe = store.slow
        return store
      end
      local methods = { "slow", "get", safe = { kind = "invoke", retry = true } }
      local _, first = started { client = slow_store(), methods = methods }
      local heir = slow_store()
      heir.is_heir = true
      function heir.ready() sleep(30) end
      local client = started { client = heir, methods = methods, response_timeout_ms = 500 }
      local results = {}
      local function call(name, method)
        fake:spawn(nil, function() results[name] = { client:invoke(method) } end)
      end
      call("lost", "slow")
      call("safe", "safe")
      sleep(5)
      assert.equal(2, entered)
      first:kill()
      sleep(5)
      assert.equal("electing", client:state())
      call("later", "slow")
      assert.same({ nil, "slow: the leader was lost; it may have been done or not", "CLOSED" }, results.lost)
      assert.equal(2, client:counters().waiting_calls) -- the safe one and the late one
      sleep(40)
      assert.same({ { "done" }, { "done" } }, { results.safe, results.later })
      assert.equal(1, client:counters().retried_calls)
      assert.equal(1, client:counters().failovers)
    end)
  end)

  it("ends calls that wait when their time is up or the client is closed", function()
    fake:run(function()
      local client = open { leader = false, client = false, methods = { "get", note = "oneway" } }
      assert.same({ nil, "store: it is not running", "STOPPED" }, { client:get(1) })
      local outcome
      fake:spawn(nil, function() outcome = { client:start() } end)
      local at_ms = now()
      local _, message, code = client:call("get", { timeout_ms = 70 }, 1)
      assert.same({ "store: no leader in time: connect: refused", "TIMEOUT" }, { message, code })
      assert.equal(70, now() - at_ms)
      _, _, code = client:note("x")
      assert.same({ "TIMEOUT", at_ms + 3070 }, { code, now() })
      local late
      fake:spawn(nil, function() late = { client:get(1) } end)
      client:close()
      sleep(1)
      assert.same({ nil, "store: it is not running", "STOPPED" }, late)
      assert.same({ nil, "store: it is not running", "STOPPED" }, outcome)
      assert.equal("stopped", client:state())
      local connects = net.connects
      sleep(60000)
      assert.equal(connects, net.connects)
    end)
  end)

  it("does not lead while registrations cannot be answered, says why, and tries again", function()
    fake:run(function()
      net.ready_fails = true
      local leader = open()
      assert.same(
        { nil, "store: registrations cannot be answered: ready: the task failed", "FAILED" }, { leader:start() })
      assert.equal("electing", leader:state())
      net.ready_fails = false
      assert.is_true(leader:ready(60000))
      assert.equal("leading", leader:state())
    end)
  end)

  it("refuses followers while its client is not ready, says why, and tries again", function()
    fake:run(function()
      local made, errors = 0, {}
      local function make()
        made = made + 1
        if made == 1 then return nil, "the backend is away", "E_AWAY" end
        if made == 2 then error("boom") end
        local store = new_store()
        function store.ready()
          if made < 4 then return nil, "not yet" end
        end
        return store
      end
      local methods = { "get" }
      local leader = open { client = make, methods = methods }
      leader:on("error", function(message) table.insert(errors, message) end)
      assert.same({ nil, "store: the client is not ready: the backend is away", "E_AWAY" }, { leader:start() })
      assert.equal("electing", leader:state())
      local follower = open { leader = false, client = false, methods = methods }
      assert.same({ nil, "the leader refuses: the backend is away", "E_AWAY" }, { follower:start() })
      assert.is_true(leader:ready(60000) or leader:ready(60000) or leader:ready(60000))
      for _ = 1, 10 do
        if follower:ready(10000) then break end
      end
      assert.equal("following", follower:state())
      assert.equal(4, made)
      assert.equal(3, #errors)
      assert.truthy(errors[2]:find("boom", 1, true) and errors[3]:find("not yet", 1, true))
    end)
  end)

  it("says that its client does not become ready", function()
    fake:run(function()
      local store = new_store()
      function store.ready() sleep(5000) end
      local leader = open { client = store, max_wait_ms = 2000 }
      local errors = {}
      leader:on("error", function(message) table.insert(errors, message) end)
      assert.same({ nil, "store: no leader in time: the client of this process is not ready yet", "TIMEOUT" },
        { leader:start() })
      sleep(2500)
      assert.equal(2, #errors)
      assert.equal("the client of this process is not ready yet", errors[1])
      assert.is_true(leader:ready(5000))
      sleep(10000)
      assert.equal(2, #errors)
    end)
  end)

  it("waits for a leader that becomes ready late, asking again", function()
    fake:run(function()
      local store = new_store()
      local may_start = fake.modules["znl.core.sched"].event()
      function store.ready() may_start:wait() end
      local leader = open { client = store }
      fake:spawn(nil, function() leader:start() end)
      local follower = open()
      local outcome
      fake:spawn(nil, function() outcome = { follower:start() } end)
      sleep(10000)
      assert.same({ "electing", "electing" }, { leader:state(), follower:state() })
      assert.equal(4, net.registrations) -- each waits three seconds for its answer
      may_start:set()
      sleep(2)
      assert.same({ true }, outcome)
      assert.same({ "leading", "following" }, { leader:state(), follower:state() })
    end)
  end)

  it("does not flood a leader that is not ready, however soon its calls shall end", function()
    fake:run(function()
      started { name = "other" }
      local follower = open { response_timeout_ms = 1, max_wait_ms = 1000 }
      assert.is_nil((follower:start()))
      assert.is_true(net.registrations <= 6)
    end)
  end)

  it("says that the owner of the port does not lead the channel, and follows once it does", function()
    fake:run(function()
      local _, process = started { name = "other" }
      local follower = open { max_wait_ms = 4000 }
      local ok, message, code = follower:start()
      assert.same({ "nil", "TIMEOUT" }, { tostring(ok), code })
      assert.truthy(message:find("its owner does not lead store, is not ready, or hangs", 1, true))
      assert.truthy(#fake:logged("does not lead store") > 0)
      assert.truthy(#fake:logged("asks for a channel that this process does not lead") > 0)
      local late = started({}, process)
      assert.is_true(late:is_leader())
      assert.is_true(follower:ready(4000))
      assert.equal("following", follower:state())
    end)
  end)

  it("leads all channels of a process that wins the port, in one turn", function()
    fake:run(function()
      local _, first = started { name = "a" }
      started({ name = "b" }, first)
      local process = net:process()
      local a, b = started({ name = "a" }, process), started({ name = "b" }, process)
      local twin = started({ name = "a", client = new_store() }, process)
      sleep(100) -- they have followed for a while: the next election comes at once
      first:kill()
      sleep(1)
      local server = net.servers["127.0.0.1:7777"]
      assert.truthy(server.channels.a and server.channels.b)
      for _, client in ipairs { a, b, twin } do assert.is_true(client:ready()) end
      -- A second client of a name follows its own process.
      assert.equal("leading", b:state())
      local states = { a:state(), twin:state() }
      table.sort(states)
      assert.same({ "following", "leading" }, states)
      for _, client in ipairs { a, twin } do assert.is_nil(client:get("x")) end
      -- The port is held until the last channel is closed.
      b:close()
      assert.truthy(net.servers["127.0.0.1:7777"])
      local leading, following = a, twin
      if twin:is_leader() then leading, following = twin, a end
      leading:close()
      sleep(2)
      assert.is_true(following:ready())
      assert.equal("leading", following:state())
      following:close()
      assert.is_nil(net.servers["127.0.0.1:7777"])
    end)
  end)

  it("leads because it must, or never does", function()
    fake:run(function()
      started()
      local forced = open { leader = true }
      assert.same({ nil, 'create "store" leader failed, the port:7777 is occupied by other', "ADDRESS_IN_USE" },
        { forced:start() })
      assert.equal("stopped", forced:state())

      local never = open { leader = false, client = false, methods = { "get" }, port = 7778, max_wait_ms = 4000 }
      local errors = {}
      never:on("error", function(message) table.insert(errors, message) end)
      local _, _, code = never:start()
      assert.equal("TIMEOUT", code)
      sleep(9000)
      assert.truthy(errors[1]:find("^leader does not be active in 4000ms on port:7778"))
      assert.truthy(net.connects > 5 and net.connects < 30)
      started { port = 7778 }
      assert.is_true(never:ready(4000)) -- it went on trying
    end)
  end)

  it("follows where it cannot listen at all, and says why there is no leader", function()
    fake:run(function()
      net.listen_fails = true
      local client = open { max_wait_ms = 2000 }
      local _, message, code = client:start()
      assert.same({ "TIMEOUT", "store: no leader in time: listen: not here" }, { code, message })
      local errors = {}
      client:on("error", function(text) table.insert(errors, text) end)
      sleep(9000)
      assert.equal("listen: not here", errors[1]) -- and not that nobody can be reached
      assert.equal(1, #fake:logged("listen: not here", "warn") - #errors)
      net.listen_fails = false
      assert.is_true(client:ready())
    end)
  end)

  it("tells a leader that has no room what it must know, a little later", function()
    fake:run(function()
      local _, first = started()
      local heir = started()
      local client = started { leader = false, client = false }
      local function listen() end
      for id = 1, 20 do client:subscribe({ dataId = "s" .. id }, listen) end
      for id = 1, 20 do assert.is_true(client:publish { dataId = "p" .. id, value = id }) end
      client:on("error", function(message) error(message) end)
      sleep(10)
      net.room = 3
      first:kill()
      sleep(50)
      assert.is_true(heir:is_leader())
      client:unsubscribe { dataId = "s20" } -- while the others are on their way, or have been told
      client:subscribe({ dataId = "late" }, listen)
      assert.is_true(client:unpublish { dataId = "p20", value = 20 })
      sleep(500)
      local keys = {}
      for _, entry in ipairs(heir:keys()) do keys[entry.key] = true end
      for id = 1, 19 do assert.is_true(keys['$$inner$$__{"dataId":"s' .. id .. '"}']) end
      assert.is_true(keys['$$inner$$__{"dataId":"late"}'])
      for id = 1, 19 do assert.equal(id, heir:get("p" .. id)) end
      assert.is_nil(heir:get("p20"))
      -- Of what is new, too.
      for id = 1, 9 do client:subscribe({ dataId = "n" .. id }, listen) end
      sleep(200)
      assert.equal(#heir:keys(), client:counters().subscriptions + (keys['$$inner$$__{"dataId":"s20"}'] and 1 or 0))
      -- And whose leader goes meanwhile begins anew.
      for id = 1, 9 do client:subscribe({ dataId = "m" .. id }, listen) end
      heir:close()
      local last = started()
      sleep(500)
      assert.equal(29 + 9, #last:keys())
    end)
  end)

  it("knows subscribe, publish and close by the names they are declared with", function()
    fake:run(function()
      local journal = {}
      local function make()
        local store = new_store(journal)
        local renamed = { watch = store.subscribe, put = store.publish, shutdown = store.close }
        store.subscribe, store.publish, store.close = nil, nil, nil
        for name, fn in pairs(renamed) do store[name] = fn end
        return store
      end
      local methods = { "get", watch = "subscribe", put = "publish", shutdown = "close" }
      local _, first = started { client = make, methods = methods }
      local follower = started { client = make, methods = methods }
      local got = {}
      follower:watch({ dataId = "a" }, function(value) table.insert(got, value) end)
      assert.is_true(follower:put { dataId = "a", value = 1 })
      sleep(10)
      assert.same({ 1 }, got)
      first:kill()
      sleep(10)
      assert.is_true(follower:is_leader())
      assert.same({ 1, 1 }, got) -- both were remembered
      follower:shutdown()
      sleep(1)
      assert.equal("stopped", follower:state())
      assert.equal("close", journal[#journal])
    end)
  end)

  it("tells a later listener the last value, unless a newer one came first or each goes to one", function()
    fake:run(function()
      for _, broadcast in ipairs { true, false } do
        local client = started { port = broadcast and 1 or 2, broadcast = broadcast }
        local first, second, third = {}, {}, {}
        local function into(list) return function(value) table.insert(list, value) end end
        client:subscribe({ dataId = "a" }, into(first))
        sleep(2)
        client:publish { dataId = "a", value = "old" }
        sleep(2)
        client:subscribe({ dataId = "a" }, into(second))
        sleep(2)
        client:subscribe({ dataId = "a" }, into(third))
        client:publish { dataId = "a", value = "new" }
        sleep(2)
        assert.same({ "old", "new" }, first)
        assert.same(broadcast and { "old", "new" } or { "new" }, second)
        assert.same({ "new" }, third) -- and not once more
        client:close()
      end
    end)
  end)

  it("reports once that its client cannot be subscribed at all", function()
    fake:run(function()
      local told = {}
      local function make() return { get = function() end } end
      local client = started { client = make, methods = { "get" } }
      client:on("error", function(message) table.insert(told, message) end)
      client:subscribe({ dataId = "a" }, print)
      sleep(100000)
      assert.same({ '{"dataId":"a"}: store has no method "subscribe"' }, told)
    end)
  end)

  it("sends no subscription and no publication that its client could not take", function()
    fake:run(function()
      started()
      local follower = started { client = { get = function() end } }
      assert.has_error(function() follower:subscribe({ dataId = "a" }, print) end,
        'znl.cluster_client:subscribe: the client has no method "subscribe"')
      assert.has_error(function() follower:publish { dataId = "a" } end,
        'znl.cluster_client:publish: the client has no method "publish"')
      assert.same({ 0, 0 }, { follower:counters().subscriptions, follower:counters().publications })
      local unknown = started { client = false, leader = false }
      unknown:subscribe({ dataId = "a" }, function() end)
      assert.is_true(unknown:publish { dataId = "a" })
    end)
  end)

  it("hands its options on, each to who knows it", function()
    fake:run(function()
      local of_listening = {
        max_connections = 11, register_ms = 12, max_message_bytes = 13000, max_queue_bytes = 140000,
      }
      local of_channel = {
        broadcast = false, response_timeout_ms = 15, heartbeat_ms = 16, check_heartbeat = false, max_keys = 17,
        max_member_keys = 18, max_values_bytes = 19000, max_slow_bytes = 20000, max_depth = 21, max_concurrency = 22,
        max_queue = 23, max_queue_job_bytes = 24000, handler_timeout_ms = 25,
      }
      local of_link = {
        response_timeout_ms = 15, heartbeat_ms = 16, max_message_bytes = 13000, max_queue_bytes = 140000,
        max_pending = 26, max_depth = 21,
      }
      local given = { connect_timeout_ms = 27, max_pending = 26 }
      for _, options in ipairs { of_listening, of_channel } do
        for name, value in pairs(options) do given[name] = value end
      end
      started(given)
      given.client = false
      given.leader = false
      started(given)
      local _, server = next(net.servers)
      local link = next(server.links)
      local function same(wanted, opts)
        for name, value in pairs(wanted) do assert.equal(value, opts[name], name) end
      end
      same(of_listening, server.opts)
      same(of_channel, server.channels.store.opts)
      same(of_link, link.opts)
      assert.equal(27, link.opts.timeout_ms)
      assert.is_true(link.beats)
    end)
  end)

  it("logs the way back after a loss, and a refusal that goes on once in a while", function()
    fake:run(function()
      local _, first = started()
      started()
      assert.equal(0, #fake:logged("ready", "info"))
      first:kill()
      sleep(50)
      assert.equal(1, #fake:logged("ready", "info"))
      local function away() return nil, "away" end
      local refused = open { client = away, methods = {}, port = 7778, max_wait_ms = 60000 }
      local errors = 0
      refused:on("error", function() errors = errors + 1 end)
      refused:start()
      sleep(50000)
      assert.is_true(errors > 5)
      assert.equal(1, #fake:logged("away", "warn"))
    end)
  end)

  it("lets in who has the secret, and follows nobody without it", function()
    fake:run(function()
      local secret = { host = "10.0.0.1", secret = { "new", "old" } }
      local leader = started(secret)
      local function try(opts)
        local client = open { host = "10.0.0.1", secret = opts.secret, client = new_store() }
        local result = { client:start() }
        client:close()
        return result
      end
      assert.same({ true }, try { secret = "new" })
      assert.same({ true }, try { secret = "old" })
      assert.same({ nil, "the leader refuses: the proof is not made with this secret", "REFUSED" },
        try { secret = "wrong" })
      for _ = 1, 3 do try { secret = "wrong" } end
      assert.equal(1, #fake:logged("is refused: the proof is not made with this secret", "warn"))
      sleep(10000)
      try { secret = "wrong" }
      assert.equal(1, #fake:logged("is refused: the proof is not made with this secret (and 3 more)", "warn"))
      assert.equal("leading", leader:state())
      leader:close()
      -- A leader that lets everybody in has not shown that it has the secret.
      started { secret = nil, host = "127.0.0.1" }
      local client = open { secret = "new" }
      assert.same({ nil, "the leader at 127.0.0.1:7777 does not have the secret", "DENIED" }, { client:start() })
    end)
  end)

  it("tells of followers and of what it is itself", function()
    fake:run(function()
      local heard = {}
      local function note(event) return function(...) table.insert(heard, event .. " " .. tostring((...))) end end
      local leader, first = open()
      for _, event in ipairs { "ready", "follower_joined", "follower_left" } do leader:on(event, note(event)) end
      leader:start()
      local follower = open()
      for _, event in ipairs { "ready", "lost", "failover" } do follower:on(event, note(event)) end
      follower:start()
      sleep(2)
      assert.same({ "ready leader", "follower_joined follower", "ready follower" }, heard)
      assert.has_error(function() leader:on("nothing", print) end)
      follower:close()
      sleep(1)
      assert.equal("follower_left follower", heard[#heard])
      follower:start()
      first:kill()
      sleep(20)
      assert.same({ "ready follower", "lost reset by peer", "ready leader", "failover leader" },
        { heard[#heard - 3], heard[#heard - 2], heard[#heard - 1], heard[#heard] })
    end)
  end)

  it("subscribes its client again when that failed", function()
    fake:run(function()
      local store, attempts, errors = new_store(), 0, {}
      local subscribe = store.subscribe
      function store:subscribe(reg, listener)
        attempts = attempts + 1
        if attempts == 1 then return nil, "not now" end
        if attempts == 2 then error("not now either") end
        return subscribe(self, reg, listener)
      end
      local leader = started { client = store }
      leader:on("error", function(message) table.insert(errors, message) end)
      local got = {}
      leader:subscribe({ dataId = "a" }, function(value) table.insert(got, value) end)
      sleep(5000)
      assert.equal(3, attempts)
      assert.equal(2, #errors)
      leader:publish { dataId = "a", value = 1 }
      sleep(1)
      assert.same({ 1 }, got)
    end)
  end)

  it("hands a listener that waits its values in order, and drops the oldest beyond the limit", function()
    fake:run(function()
      local leader = started { max_waiting_values = 3 }
      local got = {}
      leader:subscribe({ dataId = "a" }, function(value)
        table.insert(got, value)
        sleep(100)
      end)
      for value = 1, 3 do leader:publish { dataId = "a", value = value } end
      sleep(500)
      assert.same({ 1, 2, 3 }, got)
      for value = 1, 6 do leader:publish { dataId = "a", value = value } end
      sleep(1000)
      assert.same({ 1, 2, 3, 1, 4, 5, 6 }, got)
      assert.equal(2, leader:counters().values_dropped)
      -- One that fails is told of, and gets the next value.
      local errors, calls = {}, 0
      leader:on("error", function(message) table.insert(errors, message) end)
      leader:subscribe({ dataId = "b" }, function()
        calls = calls + 1
        error("listener broke")
      end)
      leader:publish { dataId = "b", value = 1 }
      leader:publish { dataId = "b", value = 2 }
      sleep(10)
      assert.equal(2, calls)
      assert.truthy(#errors == 2 and errors[1]:find("listener broke", 1, true))
    end)
  end)

  it("says when no value comes", function()
    fake:run(function()
      local leader, _, store = started { subscribe_timeout_ms = 200 }
      local errors = {}
      leader:on("error", function(message) table.insert(errors, message) end)
      store.values.there = 1
      leader:subscribe({ dataId = "there" }, function() end)
      leader:subscribe({ dataId = "absent" }, function() end)
      local off = leader:subscribe({ dataId = "gone" }, function() end)
      off()
      sleep(1000)
      assert.same({ 'no value of {"dataId":"absent"} in 200 ms' }, errors)
    end)
  end)

  it("uses keys that others can make, too", function()
    fake:run(function()
      local leader, _, store = started { format_key = function(reg) return reg.dataId end }
      leader:subscribe({ dataId = "a", group = "g" }, function() end)
      leader:subscribe({ dataId = "a", group = "other" }, function() end)
      sleep(1)
      assert.same({ { key = "$$inner$$__a" } }, leader:keys())
      assert.same({ "subscribe a" }, store.journal)
    end)
  end)

  describe("under a reload", function()
    local process, previous, count

    before_each(function() process, previous, count = net:process(), nil, 0 end)

    --- Runs `body` as a version of the script and puts it into service in the place of the one before.
    local function version(body)
      count = count + 1
      local scope = assert(process.scope.new { name = "version " .. count })
      scope.estate = process.estate.new(previous and previous.estate)
      local ok, message
      fake:spawn(scope.owner, function() ok, message = pcall(body) end)
      sleep(20)
      assert(ok, message)
      assert(scope:commit())
      scope.estate:commit()
      if previous then previous:finish() end
      previous = scope
    end

    it("keeps its place, its followers and its subscriptions, and gets the new client", function()
      fake:run(function()
        local journal, clients, got = {}, {}, {}
        local function script(answer, is_changed)
          return function()
            local store = new_store(journal)
            function store.who() return answer end
            local client = process.cluster_client.new {
              name = "store", client = store, methods = { "who", "get" }, max_publications = is_changed and 5 or nil,
            }
            client:subscribe({ dataId = "a" }, function(value) table.insert(got, answer .. " got " .. value) end)
            clients[#clients + 1] = client
            assert(client:start())
          end
        end
        version(script("first"))
        local follower = started { leader = false, client = false, methods = { "who" } }
        follower:subscribe({ dataId = "a" }, function(value) table.insert(got, "follower got " .. value) end)
        local lost = 0
        follower:on("lost", function() lost = lost + 1 end)
        assert.equal("first", follower:who())

        version(script("second"))
        sleep(50)
        assert.equal(clients[1], clients[2])
        assert.same({ "second", "second" }, { follower:who(), clients[2]:who() })
        assert.same({ "subscribe a", "subscribe a", "close" }, journal)
        follower:publish { dataId = "a", value = "x" }
        sleep(10)
        table.sort(got)
        assert.same({ "follower got x", "second got x" }, got)
        assert.same({ 0, 1 }, { lost, #net.elections })

        -- Other options: another client in its place, and a short election.
        version(script("third", true))
        assert.are_not.equal(clients[2], clients[3])
        assert.same({ "stopped", "leading" }, { clients[2]:state(), clients[3]:state() })
        assert.is_true(follower:ready())
        assert.equal("third", follower:who())

        -- What is not declared any more ends.
        version(function() end)
        assert.equal("stopped", clients[3]:state())
        assert.is_nil(net.servers["127.0.0.1:7777"])
      end)
    end)

    it("goes on with the client before when the new one is not ready", function()
      fake:run(function()
        local errors = {}
        local function script(answer, ready)
          return function()
            local client = process.cluster_client.new {
              name = "store", client = { who = function() return answer end, ready = ready },
            }
            client:on("error", function(message) table.insert(errors, message) end)
            assert(client:start())
          end
        end
        version(script("first"))
        local follower = started { leader = false, client = false, methods = { "who" } }
        version(script("second", function() return nil, "not at all" end))
        sleep(50)
        assert.equal("first", follower:who())
        assert.same({ "the new client is not ready, the one before goes on: not at all" }, errors)
      end)
    end)
  end)

  it("starts with the client of the newest version of the code", function()
    fake:run(function()
      local journal, process = {}, net:process()
      local function slow(name)
        return function()
          sleep(100)
          local store = new_store(journal)
          function store.who() return name end
          return store
        end
      end
      local exports = { methods = { who = { name = "who" } }, subscribe = "subscribe", close = "close" }
      local owner = fake.modules["znl.core.sched"].owner()
      local opts = { name = "store", exports = exports, owner = owner }
      local real = process.real_client.new(opts, { client = slow("first") })
      local outcome
      fake:spawn(nil, function() outcome = { real:start() } end)
      sleep(50)
      real:replace { client = slow("second") }
      sleep(200)
      assert.same({ true }, outcome)
      assert.equal("second", real:call("who", 0))
      assert.same({ "close" }, journal)
    end)
  end)

  it("takes methods of any name but its own", function()
    fake:run(function()
      local object = { state = function() return "of the object" end }
      for _, name in ipairs { "owner", "name", "terms", "log", "core", "exports", "config" } do
        object[name] = function() return "my " .. name end
      end
      local leader = started { client = object }
      for _, client in ipairs { leader, (started { client = object }) } do
        assert.equal("my owner", client:owner())
        assert.equal("my log", client:log())
        assert.equal("my exports", client:exports())
        assert.equal("my terms", client:invoke("terms"))
        assert.not_equal("of the object", client:state())
        assert.equal("of the object", client:invoke("state"))
      end
    end)
  end)

  describe("alone", function()
    it("shares one client among all of the process, without a network", function()
      fake:run(function()
        local process, journal, made = net:process(), {}, 0
        local function make()
          made = made + 1
          return new_store(journal)
        end
        local opts = { single = true, client = make, methods = { "get" } }
        local a, b = started(opts, process), started(opts, process)
        assert.same({ 1, 0, 0 }, { made, #net.elections, net.connects })
        local got = { {}, {} }
        a:subscribe({ dataId = "x" }, function(value) table.insert(got[1], value) end)
        b:publish { dataId = "x", value = { n = 1 } }
        b:subscribe({ dataId = "x" }, function(value) table.insert(got[2], value) end)
        sleep(2)
        assert.same({ { { n = 1 } }, { { n = 1 } } }, got)
        assert.are_not.equal(got[1][1], got[2][1])
        assert.same({ n = 1 }, b:get("x"))
        assert.is_true(a:is_leader() and b:is_leader())
        assert.same({ { key = '$$inner$$__{"dataId":"x"}', members = 2 } }, a:keys())
        assert.equal(2, b:counters().members)
        a:close()
        assert.same({ n = 1 }, b:get("x"))
        assert.same({ "subscribe x", "publish x table" }, { journal[1], (journal[2]:gsub(": .*", "")) })
        b:close()
        sleep(1)
        assert.equal("close", journal[#journal])
        started(opts, process)
        assert.equal(2, made)
      end)
    end)

    it("gives each value to one of them without broadcast, and tells nobody later", function()
      fake:run(function()
        local process, seen = net:process(), 0
        local opts = { single = true, client = new_store(), methods = { "get" }, broadcast = false }
        local a, b = started(opts, process), started(opts, process)
        local function count() seen = seen + 1 end
        for _, client in ipairs { a, b } do client:subscribe({ dataId = "x" }, count) end
        sleep(2)
        for n = 1, 20 do a:publish { dataId = "x", value = n } end
        sleep(2)
        assert.equal(20, seen)
        started(opts, process):subscribe({ dataId = "x" }, count)
        sleep(2)
        assert.equal(20, seen)
      end)
    end)

    it("fails together, and tries again", function()
      fake:run(function()
        local process, made = net:process(), 0
        local function make()
          made = made + 1
          sleep(5)
          if made == 1 then return nil, "not yet", "E_EARLY" end
          return new_store()
        end
        local opts = { single = true, client = make, methods = { "get" } }
        local a, b = open(opts, process), open(opts, process)
        local outcome
        fake:spawn(nil, function() outcome = { b:start() } end)
        assert.same({ nil, "store: the client is not ready: not yet", "E_EARLY" }, { a:start() })
        sleep(1)
        assert.same({ nil, "store: the client is not ready: not yet", "E_EARLY" }, outcome)
        assert.is_true(a:ready())
        assert.is_true(b:ready())
        assert.equal(2, made)
      end)
    end)
  end)
end)
