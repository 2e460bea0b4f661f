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
      core = core, owner = sched.owner(), host = "[::1]", port = 9, namespace = "me", log = log.new("test"),
      own_key = function() return "m:1" end, path = function() return "/m/1/me" end,
      headers = function(path) return { ["X-Path"] = path } end,
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
