--- znl.core.roster: own members, what is said of them and of those of others. Inside znlrun only.
--- SPDX-License-Identifier: MIT

local has_core, core = pcall(require, "znl.core.roster")

describe("znl.core.roster", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local cjson = require("cjson")
  local eventually = require("tests.lua.support.eventually")
  local sched = require("znl.core.sched")

  local rosters, events

  local function new(options)
    options = options or {}
    options.subject = options.subject or "mega.ws.main.roster"
    options.origin = options.origin or "instA"
    local mine = events
    options.on_event = options.on_event or function(...) mine[#mine + 1] = { ... } end
    local roster = assert(core.new(options))
    rosters[#rosters + 1] = roster
    return roster
  end

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  before_each(function() rosters, events = {}, {} end)
  after_each(function()
    for _, roster in ipairs(rosters) do roster:stop() end
    collectgarbage()
  end)

  it("without a bus it knows its own members", function()
    local roster = new()
    assert.is_true(roster:start())
    assert.is_true(roster:start())
    assert.equal("instA", roster:origin())
    assert.same({}, roster:list("/c"))
    local metadata = { name = "\195\128nn", list = { 1, 2.5 }, none = cjson.null }
    assert.is_true(roster:join { ns = "/c", session_id = "s1", user_id = "ann", metadata = metadata })
    assert.is_true(roster:join { ns = "/c", session_id = "s2" })
    assert.is_true(roster:join { ns = "/d", session_id = "s3", user_id = "ann" })
    assert.same({
      { session_id = "s1", user_id = "ann", metadata = metadata },
      { session_id = "s2" },
    }, roster:list("/c"))
    assert.same({ ns = "/d", session_id = "s3", user_id = "ann", owner = "instA", own = true }, roster:find("s3"))
    assert.is_nil(roster:find("s4"))
    assert.same(metadata, cjson.decode(roster:metadata_text("s1")))
    assert.is_nil(roster:metadata_text("s2"))
    assert.is_nil(roster:metadata_text("s4"))
    assert.equal(3, roster:count())
    assert.equal(2, roster:count("/c"))
    assert.equal(0, roster:count("/x"))
    assert.same({}, roster:owners())
    assert.is_false(roster:is_partial())
    roster:sync()
    assert.is_true(roster:join { ns = "/c", session_id = "s1", user_id = "bob" })
    assert.same({ session_id = "s1", user_id = "bob" }, roster:list("/c")[1])
    assert.is_true(roster:leave("s1"))
    assert.is_false(roster:leave("s1"))
    assert.same({ { session_id = "s2" } }, roster:list("/c"))
    assert.equal(0, roster:counters().sent)
  end)

  it("tells what happens from the loop, in order", function()
    local roster = new()
    roster:join { ns = "/c", session_id = "s1", user_id = "ann" }
    assert(roster:start())
    roster:join { ns = "/c", session_id = "s2" }
    roster:join { ns = "/c", session_id = "s2", user_id = "bob" }
    roster:leave("s1")
    assert.same({}, events) -- not from inside a call
    eventually(function() return #events >= 4 end)
    assert.same({
      { "added", "/c", "s1", "ann", "instA" },
      { "added", "/c", "s2", nil, "instA" },
      { "updated", "/c", "s2", "bob", "instA" },
      { "removed", "/c", "s1", "ann", "instA", "left" },
    }, events)
    roster:stop()
    eventually(function() return #events >= 5 end)
    assert.same({ "removed", "/c", "s2", "bob", "instA", "stopped" }, events[5])
  end)

  it("is over after stop", function()
    local roster = new()
    roster:join { ns = "/c", session_id = "s1" }
    assert(roster:start())
    roster:stop()
    roster:stop()
    assert.same({}, roster:list("/c"))
    assert.equal("STOPPED", (select(3, roster:start())))
    assert.equal("STOPPED", (select(3, roster:join { ns = "/c", session_id = "s1" })))
    assert.is_false(roster:leave("s1"))
  end)

  it("goes on when an event fails, and events may change the roster", function()
    local roster
    local names = {}
    roster = new { on_event = function(name, _, session_id)
      names[#names + 1] = name .. " " .. session_id
      if name == "added" and session_id == "s1" then roster:join { ns = "/c", session_id = "s2" } end
      error("oops")
    end }
    roster:join { ns = "/c", session_id = "s1" }
    eventually(function() return #names == 2 end)
    assert.same({ "added s1", "added s2" }, names)
    roster = nil
  end)

  it("is collected when nobody has it any more", function()
    local weak = setmetatable({}, { __mode = "v" })
    local function make()
      local roster
      roster = new { on_event = function() return roster end }
      roster:start()
      roster:join { ns = "/c", session_id = "s" }
      roster:stop()
      weak[1] = roster
    end
    make()
    rosters = {}
    eventually(function() collectgarbage() return weak[1] == nil end)
  end)

  it("is not changed under the one who looks, by a finalizer", function()
    local roster = new()
    for i = 1, 200 do
      roster:join { ns = "/c", session_id = "s" .. i, user_id = "u" .. i, metadata = { i } }
    end
    local pending_count = 200
    collectgarbage("collect")
    for i = 1, 200 do
      local proxy = newproxy(true)
      getmetatable(proxy).__gc = function()
        roster:leave("s" .. i)
        pending_count = pending_count - 1
      end
    end
    collectgarbage("step", 1)
    local seen = 0
    repeat
      for _, member in ipairs(roster:list("/c")) do
        assert.equal("u" .. member.session_id:sub(2), member.user_id)
        assert.equal(tonumber(member.session_id:sub(2)), member.metadata[1])
        seen = seen + 1
      end
      local found = roster:find("s200")
      if found then assert.equal("u200", found.user_id) end
    until pending_count == 0
    assert.same({}, roster:list("/c"))
    assert.is_true(seen >= 0)
  end)

  it("refuses what it is not made for", function()
    local roster = new { max_members = 2, max_member_bytes = 200 }
    local function code_of(...) return (select(3, ...)) end
    assert.equal("INVALID", code_of(roster:join { ns = "/c", session_id = "\255" }))
    assert.equal("TOO_BIG", code_of(roster:join { ns = "/c", session_id = "s", metadata = { ("x"):rep(300) } }))
    local _, message, code = roster:join { ns = "/c", session_id = "s", metadata = { done = print } }
    assert.equal("roster.join: metadata cannot be sent: a function at done", message)
    assert.equal("INVALID", code)
    assert.is_true(roster:join { ns = "/c", session_id = "s1" })
    assert.is_true(roster:join { ns = "/c", session_id = "s2" })
    assert.equal("LIMIT", code_of(roster:join { ns = "/c", session_id = "s3" }))
    assert.is_true(roster:join { ns = "/d", session_id = "s2" })
    assert.equal(2, roster:count())

    assert.truthy(failure(roster.join, roster, { session_id = "s" }):find("ns must be a string, not nil"))
    assert.truthy(failure(roster.join, roster, { ns = "/c" }):find("session_id must be a string, not nil"))
    assert.truthy(failure(roster.join, roster, { ns = "/c", session_id = "s", user_id = 7 }):find("user_id must be"))
    assert.truthy(failure(roster.join, roster, "s"):find("table expected"))
    assert.truthy(failure(roster.leave, roster):find("session_id must be a string"))
    assert.truthy(failure(roster.list, roster):find("ns must be a string"))
    assert.truthy(failure(core.new, {}):find("subject must be a string"))
    assert.truthy(failure(core.new, { subject = "" }):find("subject must be a string, not empty"))
    assert.truthy(failure(core.new, { subject = "a\0b" }):find("subject must be a string, not empty"))
    assert.truthy(failure(core.new, { subject = "s", origin = "" }):find("origin must be a string, not empty"))
    assert.truthy(failure(core.new, { subject = "s", origin = "\255" }):find("must be UTF%-8"))
    assert.truthy(failure(core.new, { subject = "s", ttl_ms = 1999 })
      :find("ttl_ms must be a whole number in 2000..3600000", 1, true))
    assert.truthy(failure(core.new, { subject = "s", ttl_ms = 3600001 }):find("ttl_ms"))
    assert.truthy(failure(core.new, { subject = "s", on_event = 7 }):find("on_event must be a function"))
    assert.is_true(#assert(core.new { subject = "s" }):origin() >= 16)
    sched.sleep(1)
  end)
end)
