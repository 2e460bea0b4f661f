--- Applications of the micro protocol, over sockets of this process. SPDX-License-Identifier: MIT
local certificates = require("support.certificate")
local eventually = require("support.eventually")
local folder = require("support.folder")
local sched = require("znl.core.sched")
local small_registry = require("support.small_registry")
local znl = require("znl")

describe("application", function()
  local registry, started, level

  before_each(function()
    started, level = {}, znl.log.level()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
    registry = small_registry.new():start()
  end)

  after_each(function()
    for index = #started, 1, -1 do started[index]:stop() end
    registry:stop()
    znl.log.set_level(level)
  end)

  local function options_of(namespace, more)
    local opts = {
      namespace = namespace, host = "127.0.0.1", advertise_host = "127.0.0.1", registry = registry:address(),
      reconnect_ms = 40, registry_lookup_timeout_ms = 10000, request_timeout_ms = 20000,
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    return opts
  end

  local function start(namespace, more, routes)
    local app = znl.application(options_of(namespace, more))
    for path, handler in pairs(routes or {}) do app:route(path, handler) end
    assert(app:start())
    started[#started + 1] = app
    return app
  end

  --- Providers of "svc" that say who they are, and count.
  local function provide(count, routes)
    local list, hits = {}, {}
    for number = 1, count do
      local all = {
        ["/who"] = function()
          hits[number] = (hits[number] or 0) + 1
          return { number = number }
        end,
      }
      for path, make in pairs(routes or {}) do all[path] = make(number, hits) end
      list[number] = start("svc", nil, all)
    end
    eventually(function() return #registry.peers >= count end, "all are registered")
    return list, hits
  end

  it("gives up in time where an instance takes connections and says nothing", function()
    local app = start("caller")
    local frozen = assert(znl.tcp.listen({ host = "127.0.0.1" }, function() sched.sleep(60000) end))
    registry.peers[#registry.peers + 1] = {
      namespace = "svc", host = "127.0.0.1", port = frozen.port, key = "127.0.0.1:" .. frozen.port,
    }
    local began = sched.now_ms()
    local _, message, code, is_remote = app:call("svc", "/x", nil, { timeout_ms = 500 })
    assert.same({ "no instance of svc answered in time", "TIMEOUT", false }, { message, code, is_remote })
    _, message, code = app:call("svc", "/x", nil, { deadline_ms = sched.now_ms() + 500 })
    assert.same({ "no instance of svc answered in time", "DEADLINE" }, { message, code })
    local took = sched.now_ms() - began
    assert.is_true(took >= 990 and took < 20000, took)
    frozen:close()
  end)

  it("is registered by connecting, and found by its namespace", function()
    local seen = {}
    local app = znl.application(options_of("svc"))
    app:on("registry", function(is_up) seen[#seen + 1] = is_up end)
    assert.is_false(app:running())
    assert(app:start())
    started[1] = app
    assert.is_true(app:running())
    assert.is_true(app:is_registered())
    eventually(function() return #registry.peers == 1 end)
    assert.equal(app:key(), registry.peers[1].key)
    assert.equal("127.0.0.1:" .. app:port(), app:key())
    assert.equal("svc", registry.peers[1].namespace)
    app:stop()
    eventually(function() return #registry.peers == 0 and #seen == 2 end)
    assert.same({ true, false }, seen)
    assert.is_nil(app:key())
    assert(app:start())
    eventually(function() return #registry.peers == 1 end)
  end)

  it("does not start without its registry, unless told to wait for it", function()
    local port = registry.port
    registry:stop()
    local app = znl.application(options_of("svc"))
    local ok, message, code = app:start()
    assert.is_nil(ok)
    assert.matches("registry 127.0.0.1:%d+: ", message)
    assert.equal("UNREACHABLE", code)
    assert.is_false(app:running())

    local patient = start("svc", { registry_required = false, reconnect_ms = 20 })
    assert.is_false(patient:is_registered())
    local nothing, why, what = patient:call("other", "/x")
    assert.is_nil(nothing)
    assert.equal("Registry not found", why)
    assert.equal("UNREACHABLE", what)
    registry = small_registry.new({ port = port }):start()
    eventually(function() return patient:is_registered() end)
  end)

  it("calls handlers, and tells their errors from its own", function()
    provide(1, {
      ["/echo"] = function() return function(req) return req.data end end,
      ["/users/:id"] = function() return function(req) return { id = req.params.id, from = req.from } end end,
      ["/refuses"] = function() return function() return nil, "not you", 403 end end,
      ["/named"] = function() return function() error({ status = "E_NAME", message = "named" }) end end,
      ["/raises"] = function() return function() error("boom") end end,
      ["/nothing"] = function() return function() return nil end end,
      ["/null"] = function() return function() return znl.null end end,
    })
    local app = start("caller")
    assert.same({ a = 1, list = { 1, 2 } }, app:call("svc", "/echo", { a = 1, list = { 1, 2 } }))
    assert.same({ id = "7", from = app:key() }, app:call("svc", "/users/7"))
    assert.same({ nil, "not you", 403, true }, { app:call("svc", "/refuses") })
    assert.same({ nil, "named", "E_NAME", true }, { app:call("svc", "/named") })
    assert.same({ nil, "boom", 500, true }, { app:call("svc", "/raises") })
    assert.same({ nil, "/nowhere", "NOT_FOUND", true }, { app:call("svc", "/nowhere") })
    assert.is_nil((app:call("svc", "/nothing")))
    assert.is_nil((select(2, app:call("svc", "/nothing"))))
    assert.equal(znl.null, (app:call("svc", "/null")))
    local nothing, message, code, is_remote = app:call("nobody", "/x")
    assert.same({ "nil", "Namespace not found", "NOT_FOUND", false }, { tostring(nothing), message, code, is_remote })
    assert.error_matches(function() app:call("", "/x") end, "namespace must be")
    assert.error_matches(function()
      app:call("svc", "/x", {}, { retry = "often" })
    end, 'retry is "often"; it must be "safe"')
  end)

  it("spreads over several instances, and goes on with those that are left", function()
    local list, hits = provide(3)
    local app = start("caller", { balance = "round_robin" })
    assert(app:call("svc", "/who"))
    eventually(function() return app.namespaces.entries.svc.count == 3 end, "three connections")
    for _ = 1, 30 do assert(app:call("svc", "/who")) end
    for number = 1, 3 do assert.is_true(hits[number] >= 10, number) end
    local finds = #registry.finds
    list[1]:stop()
    list[2]:stop()
    for _ = 1, 10 do assert(app:call("svc", "/who")) end
    assert.is_true(#registry.finds <= finds + 3)
    list[3]:stop()
    eventually(function() return #registry.peers == 1 end)
    assert.equal("NOT_FOUND", select(3, app:call("svc", "/who")))
  end)

  it("asks another instance when one fails, but repeats no refusal of a handler", function()
    local runs = {}
    provide(2, {
      ["/broken"] = function(number)
        return function()
          runs[#runs + 1] = number
          return nil, "overloaded", "OVERLOADED"
        end
      end,
      ["/refuses"] = function(number)
        return function()
          runs[#runs + 1] = number
          return nil, "no", 409
        end
      end,
    })
    local app = start("caller")
    assert.equal("OVERLOADED", select(3, app:call("svc", "/broken")))
    table.sort(runs)
    assert.same({ 1, 2 }, runs)
    runs = {}
    assert.equal(409, select(3, app:call("svc", "/refuses")))
    assert.equal(1, #runs)
    runs = {}
    app:call("svc", "/refuses", nil, { retry = "always", retries = 3 })
    assert.equal(4, #runs)
    runs = {}
    app:call("svc", "/broken", nil, { retry = "never" })
    assert.equal(1, #runs)
    local seen
    runs = {}
    app:call("svc", "/refuses", nil, { retry = function(failure)
      seen = failure
      return failure.code == 409
    end })
    assert.equal(2, #runs)
    assert.same({ "no", 409, true, "svc", "/refuses" },
      { seen.message, seen.code, seen.is_remote, seen.namespace, seen.url })
    assert.matches("^127.0.0.1:%d+$", seen.key)
  end)

  it("gives up in time, over all attempts, and tells the handler", function()
    local cancelled, runs = 0, 0
    provide(1, {
      ["/slow"] = function()
        return function(req)
          runs = runs + 1
          for _ = 1, 400 do
            if req:cancelled() then
              cancelled = cancelled + 1
              return nil, "cancelled", "CANCELLED"
            end
            sched.sleep(5)
          end
        end
      end,
    })
    local app = start("caller")
    local began = sched.now_ms()
    assert.equal("TIMEOUT", select(3, app:call("svc", "/slow", nil, { timeout_ms = 30 })))
    eventually(function() return runs == 2 end, "two attempts")
    eventually(function() return cancelled == 2 end, "both handlers hear that nobody waits")
    local took = sched.now_ms() - began
    assert.is_true(took >= 60, took)
    runs = 0
    local _, _, code = app:call("svc", "/slow", nil, {
      timeout_ms = 60, deadline_ms = sched.now_ms() + 40, retries = 9,
    })
    assert.is_true(code == "TIMEOUT" or code == "DEADLINE", code)
    eventually(function() return runs == 1 end, "one attempt")
    assert.equal("DEADLINE", select(3, app:call("svc", "/slow", nil, { deadline_ms = sched.now_ms() - 1 })))
    assert.equal(1, runs)
    -- The deadline of the task that calls counts as well, and nobody is asked after it.
    local _, _, cut = znl.with_timeout(30, function() return app:call("svc", "/slow", nil, { retries = 9 }) end)
    assert.is_true(cut == "DEADLINE" or cut == "TIMEOUT", cut)
    eventually(function() return runs == 2 end, "one more")
    sched.sleep(10)
    assert.equal(2, runs)
  end)

  it("opens the breaker of an instance that keeps failing", function()
    local hits, broken = {}, {}
    local list = provide(2, {
      ["/x"] = function(number)
        return function()
          hits[number] = (hits[number] or 0) + 1
          if broken[number] then error("broken") end
          return number
        end
      end,
    })
    local seen = {}
    local app = start("caller", {
      breaker = { failure_threshold = 2, cooldown_ms = 1500, success_threshold = 1 }, balance = "round_robin",
      retries = 3, retry = "always",
    })
    app:on("breaker", function(namespace, key, status) seen[#seen + 1] = namespace .. " " .. key .. " " .. status end)
    assert(app:call("svc", "/x"))
    eventually(function() return app.namespaces.entries.svc.count == 2 end)
    broken[1] = true
    for _ = 1, 10 do assert.is_truthy(app:call("svc", "/x")) end
    assert.equal("svc " .. list[1]:key() .. " open", seen[1])
    local before = hits[1]
    for _ = 1, 10 do assert.equal(2, app:call("svc", "/x")) end
    assert.equal(before, hits[1])
    broken[1] = nil
    sched.sleep(1600)
    for _ = 1, 10 do assert.is_truthy(app:call("svc", "/x")) end
    assert.is_true(hits[1] > before)
    eventually(function() return #seen >= 3 end)
    assert.equal("svc " .. list[1]:key() .. " closed", seen[#seen])
  end)

  it("asks a second instance when the first is slow, and takes the first answer", function()
    local ended = {}
    local slow = { true, true }
    provide(2, {
      ["/h"] = function(number)
        return function(req)
          for _ = 1, 400 do
            if not slow[number] then return number end
            if req:cancelled() then break end
            sched.sleep(5)
          end
          ended[number] = "given up"
          return nil, "given up", "CANCELLED"
        end
      end,
    })
    local app = start("caller", { hedge_ms = 20, balance = "sticky" })
    slow[2] = false
    assert(app:call("svc", "/who"))
    assert.equal(2, app:call("svc", "/h"))
    eventually(function() return ended[1] == "given up" end, "the slow one is told")
    slow[1] = false
    assert.is_truthy(app:call("svc", "/h"))
    slow = { true, true }
    assert.equal("TIMEOUT", select(3, app:call("svc", "/h", nil, { timeout_ms = 60, retries = 0 })))
  end)

  it("calls itself without a connection", function()
    local app
    app = start("svc", nil, {
      ["/me"] = function(req)
        req.data.changed = true
        return { data = req.data, from = req.from, left = req:remaining_ms() > 0, asked = req.is_stream }
      end,
      ["/lines"] = function(req)
        for number = 1, req.data.count do assert(req:write { number = number }) end
      end,
      ["/iterator"] = function()
        local number = 0
        return function()
          number = number + 1
          return number <= 3 and number or nil
        end
      end,
      ["/raises"] = function() error("boom") end,
      ["/slow"] = function() sched.sleep(5000) end,
    })
    local data = { a = 1 }
    assert.same({ data = { a = 1, changed = true }, from = app:key(), left = true, asked = false },
      app:call("svc", "/me", data))
    assert.same({ a = 1 }, data)
    assert.same({ nil, "boom", 500, true }, { app:call("svc", "/raises") })
    assert.same({ nil, "/no", "NOT_FOUND", true }, { app:call("svc", "/no") })
    assert.equal("TIMEOUT", select(3, app:call("svc", "/slow", nil, { timeout_ms = 20, retries = 0 })))
    local sum = 0
    for chunk in app:stream("svc", "/lines", { count = 1000 }) do sum = sum + chunk.number end
    assert.equal(500500, sum)
    local got = {}
    for chunk in app:stream("svc", "/iterator") do got[#got + 1] = chunk end
    assert.same({ 1, 2, 3 }, got)
    local stream = app:stream("svc", "/lines", { count = 100000 })
    assert.is_true((stream:read()))
    stream:close()
    eventually(function() return app.itself.conn:pending() == 0 end, "the producer ends")
    assert.is_nil(next(app:clients()))
  end)

  it("streams, and says how a stream ended", function()
    local written
    provide(1, {
      ["/count"] = function()
        return function(req)
          for number = 1, req.data do assert(req:write(number)) end
        end
      end,
      ["/iterator"] = function()
        return function()
          local number = 0
          return function()
            number = number + 1
            return number <= 2 and { n = number } or nil
          end
        end
      end,
      ["/fails"] = function()
        return function(req)
          assert(req:write("one"))
          return nil, "no more", 410
        end
      end,
      ["/endless"] = function()
        return function(req)
          local number = 0
          while true do
            number = number + 1
            local ok, _, code = req:write { number = number, text = ("x"):rep(1000) }
            if not ok then
              written = number
              return nil, "stopped", code
            end
          end
        end
      end,
    })
    local app = start("caller")
    local got = {}
    local stream = app:stream("svc", "/count", 3)
    assert.equal("BUSY", select(3, stream:result()))
    for chunk in stream do got[#got + 1] = chunk end
    assert.same({ 1, 2, 3 }, got)
    assert.is_true(stream:result())
    assert.is_false((stream:read()))
    got = {}
    for chunk in app:stream("svc", "/iterator") do got[#got + 1] = chunk.n end
    assert.same({ 1, 2 }, got)
    stream = app:stream("svc", "/fails")
    got = {}
    for chunk in stream do got[#got + 1] = chunk end
    assert.same({ "one" }, got)
    assert.same({ nil, "no more", 410, true }, { stream:result() })
    stream = app:stream("svc", "/endless")
    assert.is_true((stream:read()))
    stream:close()
    eventually(function() return written end, "the producer is told")
    assert.equal("CANCELLED", select(3, stream:result()))
    stream = app:stream("nobody", "/x")
    assert.is_nil(stream())
    assert.same({ nil, "Namespace not found", "NOT_FOUND", false }, { stream:result() })
  end)

  it("goes on when the registry is gone, and is back with it", function()
    local list = provide(2)
    local app = start("caller")
    assert(app:call("svc", "/who"))
    eventually(function() return app.namespaces.entries.svc.count == 2 end)
    local port = registry.port
    registry:stop()
    eventually(function() return not app:is_registered() end)
    for _ = 1, 20 do assert(app:call("svc", "/who")) end
    -- The last connections close: the addresses that were good before are tried.
    for _, client in pairs(app:clients()) do client:close() end
    eventually(function() return app.namespaces.entries.svc == nil end)
    assert(app:call("svc", "/who"))
    list[1]:stop()
    for _ = 1, 20 do assert(app:call("svc", "/who")) end
    registry = small_registry.new({ port = port }):start()
    eventually(function() return #registry.peers == 2 end, "those that run are listed again")
    eventually(function() return app:is_registered() end)
  end)

  it("comes to the next of several registries when its own is gone", function()
    local other = small_registry.new():start()
    local both = { registry:address(), ("127.0.0.1:%d"):format(other.port) }
    local app = start("svc", { registry = both })
    local keys = {}
    app:on("registry", function(is_up, _, key) keys[#keys + 1] = (is_up and "+" or "-") .. key end)
    assert(app:publish("a", "kept"))
    local is_up, first = app:is_registered()
    assert.is_true(is_up)
    local own, next_one = registry, other
    if first == both[2] then own, next_one = other, registry end
    own:stop()
    local second = "127.0.0.1:" .. next_one.port
    eventually(function() return #next_one.peers == 1 and next_one.topics.a end, "listed and published there")
    assert.equal("kept", next_one.topics.a.payload)
    assert.equal(app:key(), next_one.peers[1].key)
    eventually(function() return #keys == 2 end)
    assert.same({ "-" .. first, "+" .. second }, keys)
    assert.same({ true, second }, { app:is_registered() })
    app:stop()
    other:stop()
  end)

  it("leaves out an instance that is listed but does not answer the phone", function()
    provide(2)
    local dead = registry.peers[1]
    table.insert(registry.peers, 1, { key = "127.0.0.1:1", host = "127.0.0.1", port = 1, namespace = "svc" })
    table.insert(registry.peers, 1, { key = "127.0.0.1:2", host = "127.0.0.1", port = 2, namespace = "svc" })
    assert.truthy(dead)
    local app = start("caller", { retries = 0 })
    assert(app:call("svc", "/who"))
    assert.same({}, registry.finds[1].exclude)
    assert.same({ "127.0.0.1:2", "127.0.0.1:1" }, registry.finds[3].exclude)
  end)

  it("publishes and subscribes", function()
    local one, two = start("one"), start("two")
    local got = {}
    local handle = assert(one:publish("prices", { eur = 1 }))
    local off = assert(two:subscribe("prices", function(payload) got[#got + 1] = payload end))
    assert.same({ { eur = 1 } }, got)
    assert.is_true(handle:update { eur = 2 })
    eventually(function() return #got == 2 end)
    assert.same({ eur = 2 }, got[2])
    local newer = assert(one:publish("prices", { eur = 3 }))
    eventually(function() return #got == 3 end)
    assert.is_false(handle:update { eur = 4 })
    assert.is_false(handle:unpublish())
    off()
    off()
    eventually(function() return registry.asked[#registry.asked].url == "/-/unsubscribe" end)
    assert.is_true(newer:unpublish())
    assert.equal("/-/undeclare", registry.asked[#registry.asked].url)
    assert.error_matches(function() one:publish("t", print) end, "JSON cannot carry a function")
    assert.error_matches(function() one:subscribe("t", 1) end, "must be a function")
    -- There is no value, so nothing is called.
    assert(two:subscribe("prices", function() error("first") end))
    assert(one:publish("bad", 1))
    local ok, message, code = two:subscribe("bad", function() error("first") end)
    assert.is_nil(ok)
    assert.matches("application_spec.lua:%d+: first", message)
    assert.equal("FAILED", code)
  end)

  it("tells a registry that is back what it publishes and subscribes to", function()
    local app = start("one")
    local got = {}
    assert(app:subscribe("b", function(payload) got[#got + 1] = payload end))
    assert(app:publish("a", "kept"))
    local port = registry.port
    registry:stop()
    eventually(function() return not app:is_registered() end)
    local handle = assert(app:publish("later", { n = 1 }))
    assert(handle:update { n = 2 })
    registry = small_registry.new({ port = port }):start()
    eventually(function() return #registry.asked >= 3 end)
    assert.same({ "/-/declare a", "/-/declare later", "/-/subscribe b" }, (function()
      local list = {}
      for index = 1, 3 do
        local asked = registry.asked[index]
        list[index] = asked.url .. " " .. asked.data.topic
      end
      return list
    end)())
    assert.equal("kept", registry.topics.a.payload)
    assert.same({ n = 2 }, registry.topics.later.payload)
    assert.equal(1, registry.asked[1].data.revision)
    assert.is_nil(registry.asked[2].data.revision)
    app:stop()
    local ok, message, code = app:publish("x", 1)
    assert.same({ "nil", "the application is not running", "STOPPED" }, { tostring(ok), message, code })
  end)

  it("keeps its registry when a topic is refused, and asks for that topic again", function()
    local app = start("one")
    registry.refuses = { ["/-/declare"] = true }
    assert(app:publish("a", 1))
    assert.is_true(app:is_registered())
    registry.refuses = nil
    eventually(function() return registry.topics.a end, "it is declared after all")
    assert.is_true(app:is_registered())
    assert.equal(1, registry.count)
  end)

  it("takes updates of topics from its registry alone", function()
    local one, two = start("one"), start("two")
    local got = {}
    assert(two:subscribe("t", function(payload) got[#got + 1] = payload end))
    local client = assert(one:get("two"))
    assert.is_number((client:request("/-/topic/update", { topic = "t", payload = "forged" })))
    assert(client:push("/-/topic/update", { topic = "t", payload = "forged" }))
    assert(one:publish("t", "true"))
    eventually(function() return #got > 0 end)
    assert.same({ "true" }, got)
  end)

  it("answers for its health", function()
    provide(1)
    local app = start("caller")
    assert(app:call("svc", "/who"))
    local state = assert(app:call("caller", "/-/health"))
    assert.equal("ok", state.status)
    assert.is_true(state.registry)
    assert.is_true(state.uptime >= 0)
    assert.same({ "caller", "svc" }, { state.namespaces[1], state.namespaces[2] })
    assert.error_matches(function() app:route("/-/health", print) end, "answered by the library")
  end)

  it("leaves the registry before it drains", function()
    local slow
    local list = provide(1, {
      ["/slow"] = function()
        return function()
          slow = true
          sched.sleep(60)
          return "done"
        end
      end,
    })
    local app = start("caller")
    local answer = znl.spawn(function() return app:call("svc", "/slow") end)
    eventually(function() return slow end)
    assert.is_true(list[1]:drain(30000))
    assert.equal("done", answer:wait(30000))
    eventually(function() return #registry.peers == 1 end)
    assert.equal("STOPPED", select(3, app:call("svc", "/who", nil, { retries = 0 })))
  end)

  it("calls as the originals do when told to", function()
    local runs = {}
    provide(1, {
      ["/api"] = function()
        return function(req)
          runs[#runs + 1] = req.data
          return nil, "fail", 500
        end
      end,
    })
    local two = start("caller", { compat = 2, breaker = { failure_threshold = 1 } })
    registry.finds = {}
    assert.equal(500, select(3, two:call("svc", "/api", { n = 1 })))
    assert.same({ { n = 1 } }, runs)
    assert.same({ {}, { registry.peers[1].key } }, { registry.finds[1].exclude, registry.finds[2].exclude })
    registry.finds = {}
    assert(two:call("svc", "/who", {}))
    assert.equal(2, #registry.finds)
    assert.is_nil(registry.finds[2].exclude)

    local one = start("caller", { compat = 1 })
    runs = {}
    one:call("svc", "/api", { n = 1 })
    assert.equal(2, #runs)
    assert.matches("^%x+%-%x+%-4%x+%-[89ab]%x+%-%x+$", runs[1]._correlationId)
    assert.equal(runs[1]._correlationId, runs[2]._correlationId)
    assert.equal("/nowhere", select(2, one:call("svc", "/nowhere")))
  end)

  it("knows a registry of znlrun by TLS and a secret", function()
    local dir = folder.new()
    local certificate, key = certificates(dir)
    local tls = { certificate = certificate, key = key }
    local real = znl.registry { host = "127.0.0.1", port = 0, secret = "of both", tls = tls, config_dir = false }
    assert(real:start())
    started[1] = real
    local where = { host = "127.0.0.1", port = real:port(), secret = "of both", tls = { authorities = certificate } }
    local own = { registry = where, tls = tls, connect_tls = { authorities = certificate } }
    local one = start("one", own, { ["/who"] = function() return "one" end })
    local two = start("two", own)
    eventually(function() return real:namespaces().one == 1 and real:namespaces().two == 1 end)
    assert.equal("one", two:call("one", "/who"))
    local got
    assert(one:publish("t", { n = 1 }))
    assert(two:subscribe("t", function(payload) got = payload end))
    assert.same({ n = 1 }, got)
    for _, change in ipairs { { secret = "another" }, { tls = false } } do
      local address = {}
      for name, value in pairs(where) do address[name] = value end
      for name, value in pairs(change) do address[name] = value or nil end
      local app = znl.application(options_of("three", { registry = address }))
      assert.is_nil((app:start()))
      assert.is_false(app:running())
    end
    assert.is_nil(real:namespaces().three)
    dir:remove()
  end)

  it("is collected when it has stopped and nobody holds it", function()
    local weak = setmetatable({}, { __mode = "k" })
    for number = 1, 6 do
      local app = znl.application(options_of("svc" .. number))
      weak[app] = true
      if number % 2 == 0 then
        assert(app:start())
        assert(app:subscribe("t", function() end))
        assert(app:call("svc" .. number, "/-/health"))
        app:stop()
      end
    end
    eventually(function()
      collectgarbage()
      return next(weak) == nil
    end)
  end)

  it("says what is wrong with its options", function()
    local function refused(more)
      local ok, message = pcall(znl.application, options_of("svc", more))
      assert.is_false(ok)
      return message
    end
    assert.matches('option registry is "nowhere": it must be host:port', refused { registry = "nowhere" })
    assert.matches("option registry is { host = ::1, .*brackets", refused { registry = { host = "::1", port = 1 } })
    assert.matches("option registry is { host = nil, ", refused { registry = {} })
    assert.matches('option registry%[2%] is "nowhere": it must be', refused { registry = { "a:1", "nowhere" } })
    assert.matches("option registry%[1%] must be .*host and port", refused { registry = { 7 } })
    assert.matches("option registry%[2%]: a:1 is in the list twice",
      refused { registry = { "a:1", { host = "a", port = 1 } } })
    assert.matches("option registry must be a list of 1 to 64", refused { registry = { "a:1", secret = "s" } })
    assert.matches("registry%[1%]: .*prot", refused { registry = { { host = "a", prot = 1 } } })
    assert.matches("unknown option \"hots\"; did you mean host", refused { registry = { hots = "a", port = 1 } })
    assert.matches("namespace is \"a b\"; it must be", refused { namespace = "a b" })
    assert.matches("balance is \"best\"; it must be one of least_in_flight", refused { balance = "best" })
    assert.matches("znl.application: breaker: .*failure_threshold", refused { breaker = { failure_threshold = 0 } })
    assert.matches("advertise_host: .*white space", refused { advertise_host = "a b" })
  end)
end)
