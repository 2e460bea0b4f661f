-- SPDX-License-Identifier: MIT
local events = require("znl.events")

describe("events", function()
  local emitter, errors, interest

  before_each(function()
    errors, interest = {}, {}
    emitter = events.new {
      names = { "a", "b" },
      what = "master-1",
      on_error = function(message, event) errors[#errors + 1] = { message, event } end,
      on_interest = function(event, wanted) interest[#interest + 1] = event .. "=" .. tostring(wanted) end,
    }
  end)

  it("calls listeners in the order they were added, with all arguments", function()
    local heard = {}
    emitter:on("a", function(...) heard[#heard + 1] = { 1, select("#", ...), ... } end)
    emitter:on("a", function(...) heard[#heard + 1] = { 2, select("#", ...), ... } end)
    emitter:emit("a", "x", nil, "z")
    emitter:emit("b", "nobody")
    assert.same({ { 1, 3, "x", nil, "z" }, { 2, 3, "x", nil, "z" } }, heard)
  end)

  it("reports a listener that raises, with file and line, and goes on", function()
    local ran = 0
    local line = debug.getinfo(1, "l").currentline + 1
    emitter:on("a", function() error("broken") end)
    emitter:on("a", function() error({}) end)
    emitter:on("a", function() error("no position", 0) end)
    emitter:on("a", function() ran = ran + 1 end)
    emitter:emit("a")
    assert.equal(1, ran)
    assert.equal(3, #errors)
    assert.matches("events_spec.lua:" .. line .. ": broken", errors[1][1], 1, true)
    assert.matches("events_spec.lua:" .. line + 1 .. ": table", errors[2][1], 1, true)
    assert.matches("events_spec.lua:" .. line + 2 .. ": no position", errors[3][1], 1, true)
    assert.equal("a", errors[1][2])
  end)

  it("lets a listener wait while the next one waits for its turn", function()
    local heard = {}
    emitter:on("a", function()
      heard[#heard + 1] = "before"
      coroutine.yield()
      heard[#heard + 1] = "after"
    end)
    emitter:on("a", function() heard[#heard + 1] = "second" end)
    local co = coroutine.create(function() emitter:emit("a") end)
    coroutine.resume(co)
    assert.same({ "before" }, heard)
    coroutine.resume(co)
    assert.same({ "before", "after", "second" }, heard)
  end)

  it("calls a once listener once, also when it emits again", function()
    local count = 0
    emitter:once("a", function()
      count = count + 1
      emitter:emit("a")
    end)
    emitter:emit("a")
    emitter:emit("a")
    assert.equal(1, count)
  end)

  it("does not call a listener removed during the event, nor one added", function()
    local heard = {}
    local off
    emitter:on("a", function()
      heard[#heard + 1] = "first"
      off()
      emitter:on("a", function() heard[#heard + 1] = "late" end)
    end)
    off = emitter:on("a", function() heard[#heard + 1] = "removed" end)
    emitter:emit("a")
    assert.same({ "first" }, heard)
  end)

  it("removes by the returned function and by the listener", function()
    local count = 0
    local function listener() count = count + 1 end
    local off = emitter:on("a", listener)
    emitter:on("a", listener)
    off()
    off()
    emitter:emit("a")
    assert.equal(1, count)
    emitter:off("a", listener)
    emitter:off("a", listener)
    emitter:emit("a")
    assert.equal(1, count)
    assert.is_false(emitter:wanted("a"))
  end)

  it("tells when the first listener comes and the last one goes", function()
    local one, two = emitter:on("a", print), emitter:on("a", print)
    one()
    two()
    emitter:once("b", function() end)
    emitter:emit("b")
    assert.same({ "a=true", "a=false", "b=true", "b=false" }, interest)
  end)

  it("refuses unknown events and listeners that are no functions, blaming the caller", function()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() emitter:on("c", print); return 1 end)
    assert.is_false(ok)
    assert.matches("events_spec.lua:" .. line .. ': master-1: there is no event "c" (events: a, b)', message, 1, true)
    ok, message = pcall(function() emitter:on("a", "print"); return 1 end)
    assert.is_false(ok)
    assert.matches("must be a function, not a string", message)
  end)
end)
