-- Hot reload on the real core: real files, the real watcher, requests all the while.
-- SPDX-License-Identifier: MIT

local eventually = require("support.eventually")
local folder = require("support.folder")
local has_core, znl = pcall(require, "znl")

describe("live handlers", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local uv = require("luv")
  local nodes, opened, files, level

  local function start(node)
    nodes[#nodes + 1] = node
    assert.is_true(node:start())
    return node
  end

  --- Starts a slave of `of` and waits until both know each other.
  local function slave(of, id, opts)
    opts = opts or {}
    opts.id, opts.endpoint = id, of:endpoint()
    local made = znl.slave(opts)
    local met = znl.event()
    made:once("master_online", function() met:set(true) end)
    start(made)
    assert.is_true(met:wait(30000))
    return made
  end

  local function open(path, opts)
    opts = opts or {}
    opts.debounce_ms = opts.debounce_ms or 5
    local of = znl.handlers(path, opts)
    opened[#opened + 1] = of
    return of
  end

  --- What a request for `route` gets, without a network.
  local function ask(of, route)
    local call
    of:attach(function(given) call = given end)()
    local answer = znl.event()
    znl.spawn(function() answer:set(call({ route = route, payload = "" })) end)
    return answer:wait(30000)
  end

  before_each(function()
    nodes, opened, files, level = {}, {}, folder.new(), znl.log.level()
    znl.log.set_level("off") -- what goes wrong here does so on purpose
  end)

  after_each(function()
    for _, node in ipairs(nodes) do node:stop() end
    for _, of in ipairs(opened) do of:close() end
    znl.log.set_level(level)
    files:remove()
  end)

  it("name the file that returned what JSON cannot carry", function()
    files:write("bad.msg.lua", "-- first\nreturn function() return print end")
    files:write("good.msg.lua", "return function() return {} end")
    local m = start(znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" })
    m:handle(open(files.path))
    local _, message, code = slave(m, "one"):call("/bad")
    assert.equal("HANDLER_ERROR", code)
    assert.equal(files:at("bad.msg.lua") .. ":2: returned what JSON cannot carry: a function", message)
  end)

  --- Asks without a break from `slaves`; `floor()` is the number that answers must have reached when
  --- a request begins.
  local function keep_asking(slaves, floor)
    local load = { sent = 0, answered = 0, stale = 0, running = 0, on = true }
    for _, s in ipairs(slaves) do
      for _ = 1, 4 do
        load.running = load.running + 1
        znl.spawn(function()
          while load.on do
            local least = floor()
            load.sent = load.sent + 1
            local reply, message = s:request("x", { timeout_ms = 20000 })
            if reply then load.answered = load.answered + 1 else load.trouble = message end
            if reply and (tonumber(reply) or -1) < least then load.stale = load.stale + 1 end
          end
          load.running = load.running - 1
        end)
      end
    end
    return load
  end

  for _, encrypted in ipairs { false, true } do
    local mode = encrypted and "encrypted" or "plain"

    local function pair()
      local m = start(znl.master {
        id = "master", endpoint = "tcp://127.0.0.1:*", encrypted = encrypted,
        auth_keys = encrypted and { one = "key 1", two = "key 2" } or nil,
      })
      return m, {
        slave(m, "one", { encrypted = encrypted, auth_key = encrypted and "key 1" or nil }),
        slave(m, "two", { encrypted = encrypted, auth_key = encrypted and "key 2" or nil }),
      }
    end

    it("loses nothing and answers nothing stale over 200 reloads of a file, " .. mode, function()
      local text = "return function() require('znl').sleep(%d) return '%d' end"
      files:write("h.lua", text:format(0, 0))
      local of = open(files:at("h.lua"))
      local in_service, written = 0, 0
      of:on("reload", function() in_service = written end)
      local m, slaves = pair()
      m:handle(of)
      local load = keep_asking(slaves, function() return in_service end)
      for i = 1, 200 do
        if i % 5 == 0 then
          files:write("h.lua", "return function( -- broken " .. i)
          eventually(function() return of:counters().failures == i / 5 end, "failure " .. i)
        end
        written = i
        files[i % 2 == 0 and "write" or "replace"](files, "h.lua", text:format(i % 4, i))
        eventually(function() return in_service == i end, "reload " .. i)
      end
      eventually(function() return load.sent > 400 end, "400 requests")
      load.on = false
      eventually(function() return load.running == 0 end, "all callers done")
      assert.is_nil(load.trouble)
      assert.equal(load.sent, load.answered)
      assert.equal(0, load.stale)
      eventually(function() return of:counters().live_versions == 1 end, "old versions retired")
    end)

    it("loses nothing over reloads of a folder and a module in it, " .. mode, function()
      files:write("index.msg.lua", "return function() require('znl').sleep(1) return require('n').text end")
      files:write("other.msg.lua", "return require('n').other")
      files:write("lib/n.lua", "return { text = '0', other = print }")
      local of = open(files.path)
      local in_service, written, last = 0, 0, files:at("other.msg.lua")
      of:on("reload", function(_, path) if path == last then in_service = written end end)
      local m, slaves = pair()
      m:handle(of)
      eventually(function() return of:counters().modules == 1 end, "the module is loaded")
      local load = keep_asking(slaves, function() return in_service end)
      for i = 1, 60 do
        if i % 6 == 0 then files:replace("lib/n.lua", "return { other = " .. i .. " }") end
        written = i
        files:replace("lib/n.lua", ("return { text = '%d', other = print }"):format(i))
        eventually(function() return in_service == i end, "module " .. i)
      end
      load.on = false
      eventually(function() return load.running == 0 end, "all callers done")
      assert.is_nil(load.trouble)
      assert.equal(load.sent, load.answered)
      assert.equal(0, load.stale)
    end)
  end

  it("notices what happens to files and folders", function()
    files:write("a.msg.lua", "return function() return 'a1' end")
    local of = open(files.path)
    local function serves(route, answer)
      eventually(function() return ask(of, route) == answer end, route .. " answers " .. tostring(answer))
    end
    serves("/a", "a1")
    files:write("deep/er/b.msg.lua", "return function() return 'b1' end")
    serves("/deep/er/b", "b1")
    files:replace("deep/er/b.msg.lua", "return function() return 'b2' end")
    serves("/deep/er/b", "b2")
    files:rename("deep", "moved")
    serves("/moved/er/b", "b2")
    serves("/deep/er/b", nil)
    files:write("moved/er/b.msg.lua", "return function() return 'b3' end")
    serves("/moved/er/b", "b3")
    files:remove("moved")
    serves("/moved/er/b", nil)
    files:write("moved/er/b.msg.lua", "return function() return 'b4' end")
    serves("/moved/er/b", "b4")
    -- Written in two steps with a pause between them.
    local file = assert(io.open(files:at("a.msg.lua"), "wb"))
    file:write("return function() return ")
    file:flush()
    znl.sleep(60)
    assert.equal("a1", ask(of, "/a"))
    file:write("'a2' end")
    file:close()
    serves("/a", "a2")
    -- A burst: hundreds of files at once.
    for i = 1, 300 do files:write(("many/%d/x.msg.lua"):format(i), ("return function() return '%d' end"):format(i)) end
    eventually(function() return #of:routes() == 302 end, "300 more routes")
    serves("/many/300/x", "300")
    files:remove("many")
    eventually(function() return #of:routes() == 2 end, "and gone again")
  end)

  it("follows a link that is pointed to another release", function()
    files:write("one/a.msg.lua", "return function() return 'one' end")
    files:write("two/a.msg.lua", "return function() return 'two' end")
    assert(uv.fs_symlink(files:at("one"), files:at("current")))
    local of = open(files:at("current"))
    assert.equal("one", ask(of, "/a"))
    assert(uv.fs_symlink(files:at("two"), files:at("next")))
    files:rename("next", "current")
    eventually(function() return ask(of, "/a") == "two" end, "the new release")
    files:write("two/a.msg.lua", "return function() return 'two again' end")
    eventually(function() return ask(of, "/a") == "two again" end, "its edit")
  end)

  it("lets a request leave the line when its time is up, and keeps the places right", function()
    files:write("a.msg.lua", [[return { max_concurrency = 1,
      handle = function(req) gate:wait(30000) return "done" end }]])
    local of = open(files.path)
    _G.gate = znl.event()
    local first = znl.spawn(function() return ask(of, "/a") end)
    local call
    of:attach(function(given) call = given end)()
    local waiting = znl.spawn(function()
      return znl.with_timeout(20, call, { route = "/a", payload = "" })
    end)
    local third = znl.spawn(function() return ask(of, "/a") end)
    assert.same({ 1, 2 }, { of:counters().running, of:counters().waiting })
    local answer, _, code = waiting:wait(30000)
    assert.is_nil(answer)
    assert.equal("DEADLINE", code)
    assert.equal(1, of:counters().waiting)
    _G.gate:set()
    assert.equal("done", first:wait(30000))
    assert.equal("done", third:wait(30000))
    _G.gate = nil
    assert.same({ 0, 0 }, { of:counters().running, of:counters().waiting })
  end)

  it("reloads for a request with little time, which hears that its time is up", function()
    files:write("a.msg.lua", "return { handle = print, on_load = function() require('znl').sleep(100) end }")
    local of = open(files.path)
    local ok, _, code = znl.with_timeout(20, function() return of:reload() end)
    assert.is_nil(ok)
    assert.equal("DEADLINE", code)
    eventually(function() return of.generation == 2 end, "the reload goes on")
  end)

  it("ends timers and tasks of a version with it", function()
    local text = [[local znl = require("znl")
      znl.every(5, function() ticks[%q] = (ticks[%q] or 0) + 1 end)
      znl.spawn(function() while true do znl.sleep(5) loops[%q] = (loops[%q] or 0) + 1 end end)
      return function() return %q end]]
    _G.ticks, _G.loops = {}, {}
    files:write("h.lua", (text:gsub("%%q", "'v1'")))
    local of = open(files:at("h.lua"))
    eventually(function() return (_G.ticks.v1 or 0) > 2 and (_G.loops.v1 or 0) > 2 end, "v1 ticks")
    files:write("h.lua", (text:gsub("%%q", "'v2'")))
    eventually(function() return of:counters().retired == 1 end, "v1 retired")
    local ticks, loops = _G.ticks.v1, _G.loops.v1
    eventually(function() return (_G.ticks.v2 or 0) > 4 and (_G.loops.v2 or 0) > 4 end, "v2 ticks")
    assert.equal(ticks, _G.ticks.v1)
    assert.equal(loops, _G.loops.v1)
    of:close()
    eventually(function() return of:counters().live_versions == 0 end, "v2 retired")
    ticks, loops = _G.ticks.v2, _G.loops.v2
    znl.sleep(50)
    assert.same({ ticks, loops }, { _G.ticks.v2, _G.loops.v2 })
    _G.ticks, _G.loops = nil, nil
  end)

  it("ends listeners and subscriptions of a version with it", function()
    local text = [[local znl = require("znl")
      local m = znl.node("heard")
      m:on("push", function(_, topic) heard[#heard + 1] = %q .. topic end)
      return { on_load = function() m:on("slave_connected", function() heard[#heard + 1] = %q end) end,
        handle = function() return %q end }]]
    _G.heard = {}
    local m = start(znl.master { id = "heard", endpoint = "tcp://127.0.0.1:*" })
    local s = slave(m, "one")
    files:write("h.lua", (text:gsub("%%q", "'v1'")))
    local of = open(files:at("h.lua"))
    m:handle(of)
    s:push("a", "")
    eventually(function() return #_G.heard == 1 end, "v1 hears")
    -- A version that fails while it loads hears nothing.
    files:write("h.lua", (text:gsub("%%q", "'v2'")) .. " error('late')")
    eventually(function() return of:counters().failures == 1 end, "v2 fails")
    files:write("h.lua", (text:gsub("%%q", "'v3'")))
    eventually(function() return of.generation == 2 end, "v3 serves")
    s:push("b", "")
    slave(m, "two")
    eventually(function() return #_G.heard == 3 end, "v3 hears")
    assert.same({ "v1a", "v3b", "v3" }, _G.heard)
    of:close()
    s:push("c", "")
    s:request("x", { timeout_ms = 100 })
    assert.equal(3, #_G.heard)
    _G.heard = nil
  end)

  it("frees what it replaced: 1,000 reloads, good, broken and renamed", function()
    --- What C holds of Lua. Numbers are places to be used again.
    local function registry_size()
      local count = 0
      for _, value in pairs(debug.getregistry()) do
        if type(value) ~= "number" then count = count + 1 end
      end
      return count
    end
    local function measure()
      znl.sleep(20)
      collectgarbage()
      collectgarbage()
      return collectgarbage("count"), registry_size(), uv.resident_set_memory() / 1024
    end
    local ballast = ("-- %s\n"):format(("x"):rep(20000))
    local text = ballast .. [[local n, znl = require("n"), require("znl")
      local t = {} for i = 1, 2000 do t[i] = { i } end
      znl.every(1000, function() return t end, { name = "beat" })
      znl.spawn(function() znl.sleep(100000) return t end)
      return { on_load = function(old) return { n = (old and old.n or 0) + 1 } end,
        handle = function(_, state) return tostring(#t + state.n + n) end, on_unload = function() end } -- %d]]
    files:write("lib/n.lua", "return 1")
    files:write("a.msg.lua", text:format(0))
    local of = open(files.path, { debounce_ms = 0 })
    local kib, registered, rss
    local name = "a.msg.lua"
    for i = 1, 1000 do
      local counters = of:counters()
      local generation = of.generation
      if i % 10 == 3 then
        files:write(name, "broken( -- " .. i .. "\n" .. text)
        eventually(function() return of:counters().failures > counters.failures end, "failure " .. i)
      elseif i % 50 == 7 then
        local other = name == "a.msg.lua" and "b.msg.lua" or "a.msg.lua"
        files:rename(name, other)
        name = other
        eventually(function() return of.generation > generation and #of:routes() == 1 end, "rename " .. i)
      elseif i % 10 == 5 then
        files:write("lib/n.lua", "return " .. i)
        eventually(function() return of.generation > generation end, "module " .. i)
      else
        files:replace(name, text:format(i))
        eventually(function() return of.generation > generation end, "reload " .. i)
      end
      if i == 200 then kib, registered, rss = measure() end
    end
    eventually(function() return of:counters().live_versions == 1 end, "old versions retired")
    assert.matches("^%d+$", ask(of, name == "a.msg.lua" and "/a" or "/b"))
    local kib_after, registered_after, rss_after = measure()
    -- One version is about 100 KiB: a tenth of one for each of the last 800 would show.
    assert.is_true(kib_after - kib < 1000, ("%d KiB more of Lua memory"):format(kib_after - kib))
    assert.is_true(registered_after - registered < 20, registered .. " -> " .. registered_after)
    if (os.getenv("ZNL_SANITIZE") or "") == "" then -- AddressSanitizer keeps what is freed
      assert.is_true(rss_after - rss < 8192, ("%d KiB more resident"):format(rss_after - rss))
    end
  end)
end)
