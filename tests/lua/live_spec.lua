-- The library on the real core: sockets on loopback, files, watches. Runs inside znlrun only.
-- SPDX-License-Identifier: MIT

local eventually = require("support.eventually")
local has_core, znl = pcall(require, "znl")

describe("live", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, files, level

  local function master(opts)
    opts = opts or {}
    opts.id, opts.endpoint = opts.id or "master", opts.endpoint or "tcp://127.0.0.1:*"
    local made = znl.master(opts)
    nodes[#nodes + 1] = made
    return made
  end

  --- Starts a slave of `of` and waits until both know each other.
  local function slave(of, id, opts)
    opts = opts or {}
    opts.id, opts.endpoint = id, of:endpoint()
    local made = znl.slave(opts)
    nodes[#nodes + 1] = made
    local met = znl.event()
    made:once("master_online", function() met:set(true) end)
    assert.is_true(made:start())
    assert.is_true(met:wait(30000))
    return made
  end

  local function write(path, text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
  end

  local function temporary(text)
    local path = os.tmpname()
    files[#files + 1] = path
    write(path, text)
    return path
  end

  before_each(function()
    nodes, files, level = {}, {}, znl.log.level()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
  end)

  after_each(function()
    znl.log.set_level(level)
    for _, made in ipairs(nodes) do made:stop() end
    for _, path in ipairs(files) do os.remove(path) end
  end)

  it("gives a request its whole time, however long the coroutine has computed before", function()
    local of = master()
    of:handle(function(req) return req.payload end)
    of:start()
    local asker = slave(of, "asker")
    local ends = znl.now_ms() + 1050
    while znl.now_ms() < ends do end
    assert.equal("x", asker:request("x", { timeout_ms = 1000 }))
  end)

  for _, mode in ipairs { "plain", "encrypted" } do
    local encrypted = mode == "encrypted"

    it("asks both ways, publishes, pushes and serves in " .. mode .. " mode", function()
      local m = master { encrypted = encrypted, auth_keys = encrypted and { one = "key 1" } or nil }
      local pushed, published = znl.event(), znl.event()
      m:on("push", function(from, topic, payload) pushed:set(from, topic, payload) end)
      m:handle(function(req) return { req.from, req.payload } end)
      assert.is_true(m:start())
      local s = slave(m, "one", { encrypted = encrypted, auth_key = encrypted and "key 1" or nil })
      s:handle(function(req) return "slave got " .. req.payload end)
      s:service("sum", function(req) return tostring(req.payload[1] + req.payload[2]) end)
      s:service("bad", function() error("no") end)
      s:subscribe("news", function(payload, topic) published:set(payload, topic) end)

      assert.same({ "one", "up" }, s:request("up"))
      assert.equal("slave got down", m:request("one", "down"))
      assert.equal("5", m:service_request("one", "sum", { "2", "3" }))
      assert.matches('"ok":false', m:service_request("one", "bad", ""))
      assert.equal(1, (m:publish("news", "n")))
      assert.same({ "n", "news" }, { published:wait(30000) })
      assert.is_true(s:push("t", { "a", "b" }))
      assert.same({ "one", "t", { "a", "b" } }, { pushed:wait(30000) })
      assert.equal("one", m:slaves()[1].id)
      assert.is_true(m:is_online("one"))
      assert.is_true(s:master_online())
      assert.equal(encrypted and "master" or nil, s:master_id())

      assert.is_true(s:restart())
      assert.same({ "one", "again" }, s:request("again"))
    end)
  end

  it("returns what the world refuses and raises for misuse", function()
    local m = master()
    local _, _, code = m:request("nobody", "x", { timeout_ms = 100 })
    assert.equal("STOPPED", code)
    assert.is_true(m:start())
    _, _, code = m:request("nobody", "x", { timeout_ms = 100 })
    assert.equal("UNREACHABLE", code)
    local other = master { endpoint = m:endpoint() }
    _, _, code = other:start()
    assert.equal("ADDRESS_IN_USE", code)
    assert.is_false(pcall(m.request, m, 42, "x"))
    assert.is_false(pcall(m.request, m, "s", 42))
  end)

  it("reports a handler that raises, also to an asker that reads errors", function()
    local m = master()
    local failed = znl.event()
    m:on("error", function(message, place) failed:set(message, place) end)
    m:handle(function() error("handler broke") end)
    assert.is_true(m:start())
    local s = slave(m, "one")
    local _, answer, code = s:request("x")
    assert.equal("HANDLER_ERROR", code)
    assert.matches("^[^\n]*live_spec.lua:%d+: handler broke$", answer)
    local message, place = failed:wait(30000)
    assert.matches("live_spec.lua:%d+: handler broke", message)
    assert.equal("handler", place)
  end)

  it("names the cause when keys differ, and accepts the right one once it is there", function()
    local m = master { encrypted = true, auth_keys = { one = "right" } }
    local refused = znl.event()
    m:on("auth_failed", function(refusal) refused:set(refusal) end)
    assert.is_true(m:start())
    local s = znl.slave { id = "one", endpoint = m:endpoint(), encrypted = true, auth_key = "left", heartbeat_ms = 100 }
    nodes[#nodes + 1] = s
    assert.is_true(s:start())
    local refusal = refused:wait(30000)
    assert.equal("bad_signature", refusal.reason)
    assert.equal("one", refusal.from)
    assert.is_true(m:add_auth_key("one", "left"))
    eventually(function() return m:is_online("one") end, "one on line")
    assert.is_true(m:remove_auth_key("one"))
    assert.is_false(m:is_online("one"))
  end)

  it("loses no request over reloads under load, and unloads each version once", function()
    local text = [[return {
      on_load = function(state) return state or { unloaded = 0 } end,
      handle = function(req, state)
        require("znl").sleep(3)
        return %q .. " " .. state.unloaded
      end,
      on_unload = function(state) state.unloaded = state.unloaded + 1 end,
    }]]
    local path = temporary(text:format("v0"))
    local of = znl.handlers(path, { debounce_ms = 5 })
    local m = master()
    m:handle(of)
    assert.is_true(m:start())
    local s = slave(m, "one")
    local sent, answered, asking, running = 0, 0, true, 8
    for _ = 1, running do
      znl.spawn(function()
        while asking do
          sent = sent + 1
          if s:request("x", { timeout_ms = 20000 }) then answered = answered + 1 end
        end
        running = running - 1
      end)
    end
    for i = 1, 20 do
      -- As editors do it: half of the time in place, half of the time a new file over the old.
      if i % 2 == 0 then
        write(path, text:format("v" .. i))
      else
        write(path .. ".new", text:format("v" .. i))
        assert(os.rename(path .. ".new", path))
      end
      eventually(function() return of.generation == i + 1 end, "generation " .. i + 1)
    end
    assert.matches("^v20 ", (s:request("x")))
    eventually(function() return sent > 100 end, "100 requests")
    asking = false
    eventually(function() return running == 0 end, "all callers done")
    assert.equal(sent, answered)
    eventually(function() return s:request("x") == "v20 20" end, "20 versions unloaded")
    of:close()
  end)

  it("keeps the last version over a broken file and a deleted one", function()
    local path = temporary("return function() return 'good' end")
    local of = znl.handlers(path, { debounce_ms = 5 })
    local failed, back = znl.event(), znl.event()
    of:on("reload_failed", function(message) failed:set(message) end)
    of:on("reload", function() back:set(true) end)
    local m = master()
    m:handle(of)
    assert.is_true(m:start())
    local s = slave(m, "one")
    write(path, "\nreturn {")
    assert.matches(":2: ", (failed:wait(30000)))
    assert.equal("good", s:request("x"))
    os.remove(path)
    znl.sleep(50)
    assert.equal("good", s:request("x"))
    write(path, "return function() return 'back' end")
    assert.is_true(back:wait(30000))
    assert.equal("back", s:request("x"))
    of:close()
  end)

  it("rejects a retry made on rebuild at the next rebuild, not at once", function()
    local retrying = znl.slave {
      id = "retrying", endpoint = "tcp://127.0.0.1:1", heartbeat_ms = 50, heartbeat_timeout_ms = 100,
    }
    assert(retrying:start())
    local rejected, code = 0, nil
    znl.spawn(function()
      repeat
        local reply, _, reason = retrying:request("anybody?", { timeout_ms = 5000 })
        assert(reply == nil)
        code = reason
        if code == "REBUILT" then rejected = rejected + 1 end
      until code ~= "REBUILT"
    end)
    eventually(function() return rejected >= 2 end, "two rejections")
    local rebuilds = retrying:counters().rebuilds
    retrying:stop()
    eventually(function() return code == "STOPPED" end, "the last one is told")
    assert.is_true(rejected <= rebuilds, rejected .. " rejections in " .. rebuilds .. " rebuilds")
  end)
end)
