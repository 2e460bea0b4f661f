--- The connection of an application to its registry, with a registry that does what the test says.
--- SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local log = require("znl.log")
local registry_link = require("znl.micro.registry_link")
local sched = require("znl.core.sched")
local znl = require("znl")

describe("registry_link", function()
  local link, conns, reachable, dials, answers, seen, level, is_ours, waits

  before_each(function()
    conns, dials, seen, reachable, is_ours, waits, level = {}, {}, {}, true, false, 0, znl.log.level()
    answers = { ["/-/find"] = function() return nil end }
    znl.log.set_level("off")
  end)

  after_each(function()
    link:finish()
    znl.log.set_level(level)
  end)

  local function connection()
    local conn = { open = true, asked = {} }
    function conn.is_inbound() return false end
    function conn.is_ours() return is_ours end
    function conn.is_open() return conn.open end
    function conn.set_peer() end
    function conn.request(_, url, data, timeout_ms)
      conn.asked[#conn.asked + 1] = { url = url, data = data, timeout_ms = timeout_ms }
      sched.sleep(0)
      return answers[url](data)
    end
    function conn.close()
      if not conn.open then return end
      conn.open = false
      znl.spawn(function()
        sched.sleep(0)
        link:closed(conn, "closed")
      end)
    end
    return conn
  end

  local function make(more)
    local core = {}
    function core.connect(_, opts)
      dials[#dials + 1] = { at = sched.now_ms(), opts = opts }
      sched.sleep(1)
      if waits > 0 then sched.sleep(waits) end
      if not reachable then return nil, "refused", "UNREACHABLE" end
      conns[#conns + 1] = connection()
      return conns[#conns]
    end
    local opts = {
      core = core, owner = sched.owner(), namespace = "me", log = log.new("test"),
      addresses = { { host = "[::1]", port = 9, headers = function(path) return { ["X-Path"] = path } end } },
      own_key = function() return "m:1" end, path = function() return "/m/1/me" end,
      reconnect_ms = 20, lookup_timeout_ms = 500, checks_listing = false, look_at_ms = { 5, 10 },
      on_up = function() seen[#seen + 1] = "told" end,
      on_change = function(is_up, reason) seen[#seen + 1] = is_up and "up" or "down " .. tostring(reason) end,
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    link = registry_link.new(opts)
    return link
  end

  it("connects, and connects again at once when the connection ends", function()
    make()
    assert.is_true(link:begin())
    assert.equal("::1", dials[1].opts.host)
    assert.equal("/m/1/me", dials[1].opts.path)
    assert.same({ ["X-Path"] = "/m/1/me" }, dials[1].opts.headers)
    assert.same({ "up", "told" }, seen)
    assert.equal("[::1]:9", link.client.key)
    conns[1]:close()
    eventually(function() return #conns == 2 and link.client end)
    assert.equal(conns[2], link.client.conn)
    assert.same({ "up", "told", "down closed", "up", "told" }, seen)
  end)

  it("fails when the first attempt does, and tries on when told to wait", function()
    reachable = false
    make()
    assert.same({ nil, "registry [::1]:9: refused", "UNREACHABLE" }, { link:begin() })
    sched.sleep(40)
    assert.equal(1, #dials)
    assert.same({ nil, "Registry not found", "UNREACHABLE" }, { link:get() })
    link:begin_later()
    eventually(function() return #dials >= 6 end)
    for index = 4, 6 do
      local wait_ms = dials[index].at - dials[index - 1].at
      assert.is_true(wait_ms >= 10, wait_ms) -- half of reconnect_ms at least
    end
    reachable = true
    eventually(function() return link.client end)
    assert.same({ "up", "told" }, seen)
  end)

  it("lets who asks wait for an attempt under way, not for the pause between two", function()
    make()
    assert.is_true(link:begin())
    answers["/-/find"] = function() return { host = "h", port = 7 } end
    waits = 20
    conns[1]:close()
    eventually(function() return #dials == 2 end)
    assert.same({ "h", 7 }, { link:find("svc", {}) })
    assert.equal(conns[2], link.client.conn)
  end)

  it("says what a look-up came to", function()
    make()
    assert.is_true(link:begin())
    assert.same({ nil, "Namespace not found", "NOT_FOUND" }, { link:find("svc", nil) })
    assert.is_nil(conns[1].asked[1].data.exclude)
    assert.equal("[]", (require("znl.json").encode((function()
      link:find("svc", {})
      return conns[1].asked[2].data.exclude
    end)())))
    answers["/-/find"] = function() return nil, "no answer in time", "TIMEOUT" end
    assert.same({ nil, "Registry /-/find timed out after 500ms", "TIMEOUT" }, { link:find("svc", {}) })
    answers["/-/find"] = function() return nil, "broken", 500, true end
    assert.same({ nil, "Registry /-/find: broken", 500 }, { link:find("svc", {}) })
    for _, found in ipairs {
      { host = "a b", port = 1 }, { host = "a", port = "1" }, { port = 1 }, { host = "::1", port = 1 },
    } do
      answers["/-/find"] = function() return found end
      local host, message, code = link:find("svc", {})
      assert.is_nil(host)
      assert.matches("^Invalid peer address from registry: ", message)
      assert.equal("PROTO", code)
    end
    answers["/-/find"] = function() return 7 end
    assert.equal("NOT_FOUND", select(3, link:find("svc", {})))
  end)

  it("looks itself up among its like, and connects again when it is missing", function()
    make { checks_listing = true }
    local listed = { "a:1", "m:1" }
    answers["/-/find"] = function(data)
      local out = {}
      for _, key in ipairs(data.exclude) do out[key] = true end
      for _, key in ipairs(listed) do
        if not out[key] then return { host = key:match("^(.*):"), port = 1 } end
      end
    end
    assert.is_true(link:begin())
    eventually(function() return #conns[1].asked == 4 end, "two looks of two questions")
    sched.sleep(20)
    assert.equal(1, #conns)
    assert.same({ namespace = "me", exclude = { "a:1" } }, conns[1].asked[2].data)
    listed = { "a:1" }
    conns[1]:close()
    eventually(function() return #conns >= 3 end, "it is missing and connects anew")
    listed = { "m:1" }
    is_ours = true
    conns[#conns]:close() -- it may have found itself a moment ago
    eventually(function() return link.client and #link.client.conn.asked == 0 end)
  end)

  it("does not take a registry at its word that cannot answer", function()
    make { checks_listing = true }
    answers["/-/find"] = function() return nil, "no answer in time", "TIMEOUT" end
    assert.is_true(link:begin())
    eventually(function() return #conns[1].asked == 2 end)
    sched.sleep(20)
    assert.equal(1, #conns)
  end)

  describe("with several registries", function()
    local down

    --- A link to "r1:1" to "r3:3" that begins with the first; those in `down` refuse.
    local function make_three(more)
      down = {}
      local addresses = {}
      for index = 1, 3 do addresses[index] = { host = "r" .. index, port = index } end
      local opts = { addresses = addresses, first = 1, lookup_timeout_ms = 5000 }
      for name, value in pairs(more or {}) do opts[name] = value end
      make(opts)
      local core = link.opts.core
      local connect = core.connect
      function core.connect(self, options)
        if down[options.host] then
          dials[#dials + 1] = { at = sched.now_ms(), opts = options }
          return nil, "refused", "UNREACHABLE"
        end
        return connect(self, options)
      end
    end

    local function hosts()
      local list = {}
      for index, one in ipairs(dials) do list[index] = one.opts.host end
      return table.concat(list, " ")
    end

    it("goes on to the next when its connection ends", function()
      make_three()
      assert.is_true(link:begin())
      assert.equal("r1:1", link.client.key)
      conns[1]:close()
      eventually(function() return link.client and link.client.conn == conns[2] end)
      assert.equal("r2:2", link.client.key)
      down.r3 = true
      conns[2]:close()
      eventually(function() return link.client and link.client.conn == conns[3] end)
      assert.equal("r1 r2 r3 r1", hosts())
    end)

    it("tries each before it waits, and names all when none can be reached", function()
      make_three()
      down = { r1 = true, r2 = true, r3 = true }
      assert.same({ nil, "registry r1:1: refused; r2:2: refused; r3:3: refused", "UNREACHABLE" }, { link:begin() })
      assert.equal("r1 r2 r3", hosts())
      down.r2 = nil
      assert.is_true(link:begin())
      assert.equal("r2:2", link.client.key)
    end)

    it("asks another one when the one it asked goes away meanwhile", function()
      make_three()
      assert.is_true(link:begin())
      answers["/-/find"] = function()
        if not conns[2] then
          conns[1]:close()
          return nil, "the connection was closed", "CLOSED"
        end
        return { host = "h", port = 7 }
      end
      assert.same({ "h", 7 }, { link:find("svc", {}) })
      assert.equal("r2:2", link.client.key)
    end)

    it("leaves one that does not answer", function()
      make_three()
      assert.is_true(link:begin())
      local limits = {}
      answers["/-/find"] = function()
        limits[#limits + 1] = link.client.conn.asked[1].timeout_ms
        if not conns[2] then return nil, "no answer in time", "TIMEOUT" end
        return { host = "h", port = 7 }
      end
      assert.same({ "h", 7 }, { link:find("svc", {}) })
      assert.is_false(conns[1].open)
      assert.same({ 2000, 2000 }, limits)
    end)

    it("takes an answer as one, whatever it says", function()
      make_three()
      assert.is_true(link:begin())
      answers["/-/find"] = function() return nil, "broken", 500, true end
      assert.same({ nil, "Registry /-/find: broken", 500 }, { link:find("svc", {}) })
      answers["/-/find"] = function() return nil end
      assert.equal("NOT_FOUND", select(3, link:find("svc", {})))
      assert.equal("r1", hosts())
      -- One that is about to stop is no answer.
      answers["/-/find"] = function()
        if not conns[2] then return nil, "it stops", "STOPPED", true end
        return { host = "h", port = 7 }
      end
      assert.same({ "h", 7 }, { link:find("svc", {}) })
    end)

    it("gives up when none answers", function()
      make_three()
      assert.is_true(link:begin())
      answers["/-/find"] = function() return nil, "no answer in time", "TIMEOUT" end
      assert.equal("TIMEOUT", select(3, link:find("svc", {})))
      assert.equal(3, #conns[1].asked + #conns[2].asked + #conns[3].asked)
    end)

    it("begins with any of them", function()
      local seen_hosts, count = {}, 0
      for _ = 1, 200 do
        make_three { first = false }
        assert.is_true(link:begin())
        if not seen_hosts[link.client.host] then
          seen_hosts[link.client.host], count = true, count + 1
        end
        link:finish()
        if count == 3 then break end
      end
      assert.equal(3, count)
    end)
  end)

  it("ends while it connects, waits, or serves", function()
    make()
    local begun = znl.spawn(function() return link:begin() end)
    link:finish()
    assert.equal("STOPPED", select(3, begun:wait(1000)))
    assert.is_false(conns[1].open)
    reachable = false
    link:begin_later()
    eventually(function() return #dials == 2 end)
    sched.sleep(5)
    link:finish()
    local count = #dials
    sched.sleep(50)
    assert.equal(count, #dials)
    reachable = true
    assert.is_true(link:begin())
    link:finish()
    sched.sleep(30)
    assert.is_nil(link.client)
    assert.is_false(conns[#conns].open)
    assert.same({ "up", "told", "down stopped" }, seen)
    assert.is_false(link:closed(conns[#conns], "late"))
  end)
end)
