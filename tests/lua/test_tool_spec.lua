--- znlrun test, as a person runs it. SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl")

describe("znlrun test", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local json = require("cjson")
  local project = require("support.project")

  local HANDLER = [[
    local znl = require("znl")
    return function(req)
      if req.payload == "sleep" then znl.sleep(3600000) end
      if req.payload == "boom" then error("it broke") end
      return "echo: " .. req.payload
    end
  ]]

  local here

  --- A project with this test file.
  local function test_file(text, files)
    files = files or {}
    files["handlers/echo.lua"] = HANDLER
    files["tests/a_test.lua"] = 'local t = require("znl.test")\nlocal znl = require("znl")\n' .. text
    here = project.new(files)
    return here
  end

  after_each(function()
    if here then here:remove() end
    here = nil
  end)

  local function has(expected, text)
    assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
  end

  --- The results by name, and the summary.
  local function run_json(...)
    local code, out, err = here:run { "test", "--json", ... }
    local results, summary = {}, nil
    for line in out:gmatch("[^\n]+") do
      local object = json.decode(line)
      if object.name then results[object.name] = object else summary = object end
    end
    return code, results, summary, err
  end

  it("blames the line of the test for handlers that are not there", function()
    test_file('t.test("x", function()\n  t.handlers("nowhere")\nend)\n')
    local code, out = here:run { "test" }
    assert.equal(1, code)
    assert.truthy(out:find("a_test.lua:4: znl.handlers: nowhere: No such file or directory", 1, true), out)
  end)

  it("passes what passes, in no time", function()
    test_file [[
      t.test("echoes", function()
        t.equal(t.handlers("handlers/echo.lua"):request("hi"), "echo: hi")
      end)
      t.test("sleeps an hour", function()
        local app, began = t.handlers("handlers/echo.lua"), t.clock:now_ms()
        t.equal(app:request("sleep", { timeout_ms = 4000000 }), "echo: sleep")
        t.equal(t.clock:now_ms() - began, 3600000)
      end)
      t.test("begins on a fixed day", function()
        t.equal(os.date("!%Y-%m-%d"), "2024-01-01")
        t.equal(os.time(), 1704067200)
        t.clock:set(1704067200000 + 86400000)
        t.equal(os.date("!%d"), "02")
      end)
      t.test("has an encrypted pair, slaves on both sides of it", function()
        local pair = t.pair { encrypted = true }
        pair.master:handle(function(req) return req.from end)
        local other = pair:add_slave("other")
        t.equal(pair.slave:request("x"), "slave")
        t.equal(other:request("x"), "other")
        pair:partition(true, "other")
        t.fails("TIMEOUT", other:request("x"))
        t.equal(pair.slave:request("x"), "slave")
      end)
      t.test("serves from the slave", function()
        local app = t.handlers("handlers/echo.lua", { side = "slave", encrypted = true })
        t.equal(app:request("hi"), "echo: hi")
      end)
    ]]
    local code, out, err = here:run { "test" }
    assert.equal(0, code, out .. err)
    has(".....\n", out)
    has("5 passed, 0 failed in", out)
    assert.equal("", err)
  end)

  it("shows a failure with its place, its line and what differs", function()
    test_file [[
t.test("differs", function()
  t.same({ a = { b = { 1, 2, 3 } }, c = "x" }, { a = { b = { 1, 5 } }, c = "x", d = true })
end)
]]
    local code, out = here:run { "test" }
    assert.equal(1, code)
    has("F\n", out)
    has("1) differs\n   tests/a_test.lua:4: not the same\n", out)
    has(">    4 |   t.same({ a = ", out)
    has("   at .a.b[2]\n   expected  5\n   got       2\n", out)
    has("   at .a.b[3]\n   expected  nil\n   got       3\n", out)
    has("   at .d\n   expected  true\n   got       nil\n", out)
    has("0 passed, 1 failed", out)
  end)

  it("finds every kind of failure", function()
    test_file [[
      local function raises() local x; return x.y end
      t.test("equal", function() t.equal(1, 2, "the numbers") end)
      t.test("not_equal", function() t.not_equal(1, 1) end)
      t.test("ok", function() t.ok(nil, "reason", "CODE") end)
      t.test("fails", function() t.fails("TIMEOUT", nil, "reason", "CODE") end)
      t.test("fails with a value", function() t.fails("TIMEOUT", 5) end)
      t.test("error", function() t.error(function() end) end)
      t.test("other error", function() t.error(function() error("one") end, "two") end)
      t.test("match", function() t.match("one", "two") end)
      t.test("match of no text", function() t.match(5, "two") end)
      t.test("fail", function() t.fail("because") end)
      t.test("raises", function() raises() end)
      t.test("in a task", function() znl.spawn(function() t.equal(1, 2) end) end)
      t.test("in a handler", function()
        local pair = t.pair()
        pair.master:handle(function() t.equal(1, 2) end)
        pair.slave:request("x")
      end)
      t.test("deferred", function() t.defer(function() error("deferred broke") end) end)
      t.test("in after_each", function() end)
      t.after_each(function() end)
      t.test("waits for ever", { timeout_ms = 150 }, function() znl.event():wait() end)
      t.test("waits for ever, in steps", { timeout_ms = 150 }, function() while true do znl.sleep(1000) end end)
      t.test("exit", function() znl.exit(0) end)
      t.test("os.exit", function() os.exit(0) end)
      t.test("loops", function() while true do end end)
      t.test("handlers that do not load", function() t.handlers("handlers/none.lua") end)
    ]]
    local code, results, summary = run_json()
    assert.equal(1, code)
    local expected = {
      equal = "the numbers: not equal", not_equal = "is 1, which it must not be", ok = "failed: reason (CODE)",
      fails = "another code", ["fails with a value"] = "expected it to fail with TIMEOUT",
      error = "no error was raised", ["other error"] = "another error", match = "no match",
      ["match of no text"] = "a text was expected, not 5", fail = "because",
      raises = "attempt to index local 'x' (a nil value)", ["in a task"] = "not equal",
      ["in a handler"] = "not equal", deferred = "deferred broke",
      exit = "a test cannot end the process: exit was called",
      ["os.exit"] = "a test cannot end the process: exit was called",
      loops = "ran for 1000 ms without waiting: interrupted by the watchdog",
      ["waits for ever"] = "still running after 150 ms", ["waits for ever, in steps"] = "still running after 150 ms",
    }
    for name, message in pairs(expected) do
      assert.equal("failed", results[name].status, name)
      assert.equal(message, results[name].message, name)
      assert.equal("tests/a_test.lua", results[name].file)
      assert.truthy(results[name].source:find("^tests/a_test.lua:%d+$"), name)
    end
    has("handlers/none.lua", results["handlers that do not load"].message)
    assert.equal("passed", results["in after_each"].status)
    assert.equal(20, summary.failed)
  end)

  it("shows what was logged beside a failure", function()
    test_file [[
      t.test("boom", function() t.ok(t.handlers("handlers/echo.lua"):request("boom")) end)
    ]]
    local code, results = run_json()
    assert.equal(1, code)
    has("it broke", results.boom.log)
    has("HANDLER_ERROR", results.boom.message)
  end)

  it("gives each test a world of its own", function()
    test_file([[
      local state = require("state")
      state.count = state.count + 1
      t.test("leaves things behind", function()
        t.equal(state.count, 1)
        local master = znl.master { id = "left", endpoint = "sim://fixed" }
        assert(master:start())
        znl.every(1000, function() state.ticks = (state.ticks or 0) + 1 end)
        leaked = "a global"
        t.clock:advance(3000)
        t.equal(state.ticks, 3)
      end)
      t.test("and finds nothing of it", function()
        local master = znl.master { id = "left", endpoint = "sim://fixed" }
        t.ok(master:start())
        local ticks = state.ticks
        t.clock:advance(10000)
        t.equal(state.ticks, ticks)
        t.equal(os.time(), 1704067210)
      end)
    ]], {
      ["state.lua"] = "return { count = 0 }",
      ["tests/b_test.lua"] = [[
        local t = require("znl.test")
        t.test("other files load modules anew", function()
          t.equal(require("state").count, 0)
          t.equal(rawget(_G, "leaked"), nil)
        end)
      ]],
    })
    local code, out = here:run { "test" }
    assert.equal(0, code, out)
    has("3 passed", out)
  end)

  it("waits for workers, however long they compute", function()
    test_file([[
      t.test("worker", function()
        local app, began = t.handlers("handlers/cpu.lua", { handlers = { workers = 1 } }), t.clock:now_ms()
        t.equal(app:request("x"), "computed")
        t.equal(t.clock:now_ms(), began)
        local answer
        znl.spawn(function() answer = app:request("x") end)
        t.clock:advance(1000)
        t.equal(answer, "computed")
      end)
    ]], { ["handlers/cpu.lua"] = "return function() for i = 1, 1e7 do math.sin(i) end return 'computed' end" })
    local code, out = here:run { "test" }
    assert.equal(0, code, out)
  end)

  it("runs hooks around each test of a group, outer ones first", function()
    test_file [[
      local order = {}
      t.before_each(function() order[#order + 1] = "a" end)
      t.after_each(function() order[#order + 1] = "z" end)
      t.group("inner", function()
        t.before_each(function() order[#order + 1] = "b" end)
        t.after_each(function() order[#order + 1] = "y" end)
        t.test("one", function()
          t.defer(function() order[#order + 1] = "deferred" end)
          order[#order + 1] = "one"
        end)
      end)
      t.test("two", function() t.same(order, { "a", "b", "one", "y", "z", "deferred", "a" }) end)
    ]]
    local code, out = here:run { "test", "--names" }
    assert.equal(0, code, out)
    has("tests/a_test.lua\npassed  inner > one ", out)
    has("passed  two ", out)
  end)

  it("filters and skips", function()
    test_file [[
      t.test("first thing", function() end)
      t.test("second thing", { skip = "not yet" }, function() error("run") end)
      t.test("other", function() error("run") end)
    ]]
    local code, out = here:run { "test", "--filter", "thing" }
    assert.equal(0, code, out)
    has("1 passed, 0 failed, 1 skipped", out)
    code = here:run { "test", "--filter", "nothing like it" }
    assert.equal(2, code)
  end)

  it("reports a file that does not compile or load, and goes on", function()
    test_file([[ error("broken file") ]], {
      ["tests/b_test.lua"] = "local x = = 1",
      ["tests/c_test.lua"] = 'require("znl.test").test("fine", function() end)',
      ["tests/d_test.lua"] = 'require("znl.test").test("no function")',
      ["tests/helper.lua"] = 'error("no test file")',
    })
    local code, out = here:run { "test" }
    assert.equal(1, code)
    has("tests/a_test.lua:3: broken file", out)
    has("tests/b_test.lua:1: unexpected symbol near '='", out)
    has('tests/d_test.lua:1: t.test "no function": needs a function, not a nil', out)
    has("1 passed, 3 failed", out)
  end)

  it("says what is wrong with its use", function()
    here = project.new { ["empty/readme"] = "", ["one_test.lua"] = 'require("znl.test")' }
    local code, _, err = here:run { "test" }
    assert.equal(2, code)
    has("tests", err)
    code, _, err = here:run { "test", "empty" }
    assert.equal(2, code)
    has("no file *_test.lua in empty", err)
    code, _, err = here:run { "test", "one_test.lua" }
    assert.equal(2, code)
    has("no tests", err)
    code, _, err = here:run { "-e", 'require("znl.test").test("x", function() end)' }
    assert.equal(1, code)
    has("t.test: this file is run with: znlrun test FILE", err)
  end)
end)
