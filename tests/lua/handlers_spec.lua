-- SPDX-License-Identifier: MIT
local fake_core = require("support.fake_core")

describe("handlers", function()
  local fake, handlers, path, name, opened

  local function write(text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
  end

  --- Saves as an editor does and lets the change settle.
  local function save(text)
    write(text)
    fake:changed(name)
    fake.modules["znl.core.sched"].sleep(100)
  end

  local function open(opts)
    opened = handlers.open(path, opts)
    return opened
  end

  --- A node: serves what it is given.
  local function node(of)
    local serving = { given = 0 }
    of:attach(function(call, owner)
      serving.call, serving.owner, serving.given = call, owner, serving.given + 1
    end)
    function serving:ask(payload)
      local answer = fake.modules["znl.core.sched"].event()
      fake:spawn(self.owner, function() answer:set(self.call({ payload = payload, from = "x" })) end)
      return answer
    end
    return serving
  end

  before_each(function()
    fake = fake_core.new()
    handlers = fake:require("znl.versions.handlers")
    path = os.tmpname()
    name = path:match("[^/]+$")
    _G.trail = {}
  end)

  after_each(function()
    if opened then fake:run(function() opened:close() end) end
    opened = nil
    os.remove(path)
    assert.is_nil(next(fake.watchers))
    assert.is_nil(next(fake.stops))
    _G.trail = nil
  end)

  it("serves a plain function and replaces it when the file changes", function()
    write("return function(req) return 'one ' .. req.payload end")
    fake:run(function()
      local of = open()
      local serving = node(of)
      assert.equal("one x", serving:ask("x"):wait())
      save("return function(req) return 'two ' .. req.payload end")
      assert.equal("two x", serving:ask("x"):wait())
      assert.equal(2, of.generation)
      assert.equal(2, serving.given)
    end)
  end)

  it("hands state from version to version, and to handle", function()
    local text = [[return {
      on_load = function(previous) return { n = (previous and previous.n or 0) + %d } end,
      handle = function(req, state) return tostring(state.n) end,
    }]]
    write(text:format(1))
    fake:run(function()
      local serving = node(open())
      assert.equal("1", serving:ask():wait())
      save(text:format(10))
      assert.equal("11", serving:ask():wait())
    end)
  end)

  it("finishes requests in flight on the version they began with, then unloads it once", function()
    local text = [[local sched = ...
      return {
        on_load = function() return "%s" end,
        handle = function(req, state) req.gate:wait() return state end,
        on_unload = function(state) trail[#trail + 1] = "unload " .. state end,
      }]]
    write(text:format("v1"))
    fake:run(function()
      local of = open()
      local serving = node(of)
      local sched = fake.modules["znl.core.sched"]
      local gate = sched.event()
      local answers = {}
      for i = 1, 3 do
        fake:spawn(serving.owner, function() answers[i] = serving.call({ gate = gate }) end)
      end
      save(text:format("v2"))
      assert.equal(2, of.generation)
      assert.same({}, _G.trail)
      gate:set()
      sched.sleep(5)
      assert.same({ "v1", "v1", "v1" }, answers)
      assert.same({ "unload v1" }, _G.trail)
      of:close()
      of:close()
      sched.sleep(5)
      assert.same({ "unload v1", "unload v2" }, _G.trail)
      assert.is_nil(serving.call)
    end)
  end)

  it("keeps the old version when the new one is broken, and names file and line", function()
    local broken = {
      ["return {"] = ":1: ",
      ["\nerror('at the top')"] = ":2: at the top",
      ["return 42"] = "must return a function or a table",
      [""] = "not nothing",
      ["return {}"] = "handle must be a function, not missing",
      ["return { handle = print, on_load = 1 }"] = "on_load must be a function, not a number",
      ["return { handle = print,\n on_load = function() error('no database') end }"] = ":2: no database",
      ["\27LJ\2\10"] = "attempt to load",
    }
    write("return function() return 'good' end")
    fake:run(function()
      local of = open()
      local serving = node(of)
      local heard = {}
      of:on("reload_failed", function(message) heard[#heard + 1] = message end)
      for text, expected in pairs(broken) do
        save(text)
        assert.matches(expected, heard[#heard], 1, true)
        assert.matches(path, heard[#heard], 1, true)
        assert.equal("good", serving:ask():wait())
      end
      assert.equal(8, #heard)
      assert.equal(8, #fake:logged("reload failed"))
      assert.equal(1, of.generation)
      save("return function() return 'good' end")
      assert.equal(1, #fake:logged("back to the version in service"))
      assert.equal(1, of.generation)
    end)
  end)

  it("gives every version fresh globals and leaves those of the process alone", function()
    write("seen = (seen or 0) + 1; _G.leak = true; return function() return tostring(seen) end")
    fake:run(function()
      local of = open()
      local serving = node(of)
      assert.equal("1", serving:ask():wait())
      of:reload()
      assert.equal("1", serving:ask():wait())
      assert.is_nil(rawget(_G, "seen"))
      assert.is_nil(rawget(_G, "leak"))
    end)
  end)

  it("ignores other files, unchanged content, and waits for the last of several changes", function()
    write("return function() return 'a' end")
    fake:run(function()
      local of = open { debounce_ms = 50 }
      local loads = 0
      of:on("reload", function() loads = loads + 1 end)
      fake:changed("another.lua")
      save("return function() return 'a' end")
      assert.equal(0, loads)
      for i = 1, 10 do
        write("return function() return '" .. i .. "' end")
        fake:changed(i % 2 == 0 and name or nil)
        fake.modules["znl.core.sched"].sleep(20)
      end
      assert.equal(0, loads)
      fake.modules["znl.core.sched"].sleep(50)
      assert.equal(1, loads)
      assert.equal("10", node(of):ask():wait())
    end)
  end)

  it("reads a file that never stops changing once a second", function()
    write("return function() return 'a' end")
    fake:run(function()
      local of = open { debounce_ms = 50 }
      for i = 1, 110 do
        write("return function() return '" .. i .. "' end")
        fake:changed(name)
        fake.modules["znl.core.sched"].sleep(20)
      end
      assert.equal(3, of.generation)
    end)
  end)

  it("keeps serving when the file goes, and takes it up again", function()
    write("return function() return 'a' end")
    fake:run(function()
      local of = open()
      local serving = node(of)
      os.remove(path)
      fake:changed(name)
      fake.modules["znl.core.sched"].sleep(100)
      fake:changed(name)
      fake.modules["znl.core.sched"].sleep(100)
      assert.equal(1, #fake:logged("gone"))
      assert.equal("a", serving:ask():wait())
      local ok, _, code = of:reload()
      assert.is_nil(ok)
      assert.equal("NOT_FOUND", code)
      save("return function() return 'b' end")
      assert.equal("b", serving:ask():wait())
    end)
  end)

  it("reloads by hand, changed or not, and reports what is wrong", function()
    write("return function() return 'a' end")
    fake:run(function()
      local of = open()
      assert.is_true(of:reload())
      assert.equal(2, of.generation)
      write("return nil")
      local ok, message, code = of:reload()
      assert.is_nil(ok)
      assert.matches("must return", message)
      assert.equal("RELOAD_FAILED", code)
      of:close()
      ok, message, code = of:reload()
      assert.is_nil(ok)
      assert.matches("closed", message)
      assert.equal("CLOSED", code)
    end)
  end)

  it("runs one reload at a time", function()
    write([[local wait = package.loaded["test.gate"]
      return { handle = print, on_load = function(n)
        trail[#trail + 1] = "begin"
        if n then wait() end
        trail[#trail + 1] = "end"
        return (n or 0) + 1
      end }]])
    package.loaded["test.gate"] = function() fake.modules["znl.core.sched"].sleep(30) end
    fake:run(function()
      local of = open()
      local done = 0
      for _ = 1, 3 do fake:spawn(nil, function() of:reload() done = done + 1 end) end
      fake.modules["znl.core.sched"].sleep(200)
      assert.equal(3, done)
      assert.same({ "begin", "end", "begin", "end", "begin", "end", "begin", "end" }, _G.trail)
      assert.equal(4, of.generation)
    end)
    package.loaded["test.gate"] = nil
  end)

  it("gives up on a version that never finishes loading, and drops what it began", function()
    write("return function() return 'a' end")
    fake:run(function()
      local sched = fake.modules["znl.core.sched"]
      local of = open { load_timeout_ms = 100 }
      package.loaded["test.gate"] = sched.event()
      write([[return { handle = print, on_load = function()
          package.loaded["test.gate"]:wait()
          trail[#trail + 1] = "resumed"
        end,
        on_unload = function() trail[#trail + 1] = "unloaded" end }]])
      local ok, message = of:reload()
      assert.is_nil(ok)
      assert.matches("still loading after 100 ms", message)
      assert.equal("a", node(of):ask():wait())
      package.loaded["test.gate"]:set()
      sched.sleep(5)
      assert.same({}, _G.trail)
      package.loaded["test.gate"] = nil
    end)
  end)

  it("raises for a first version that does not load, blaming the caller", function()
    write("return {")
    fake:run(function()
      local line = debug.getinfo(1, "l").currentline + 1
      local ok, message = pcall(function() open(); return 1 end)
      assert.is_false(ok)
      assert.matches("handlers_spec.lua:%d+: znl.handlers: .*:1: ", message)
      assert.is_true(tonumber(message:match("spec.lua:(%d+)")) < line)
      ok, message = pcall(handlers.open, "/no/such/file.lua")
      assert.is_false(ok)
      assert.matches("No such file", message)
      assert.error_matches(function() handlers.open(path, { debounce = 1 }) end, "did you mean debounce_ms")
    end)
    assert.equal(0, #fake:logged("reload failed"))
  end)

  it("survives an on_unload, a listener and a node that raise", function()
    write("return { handle = print, on_unload = function() error('no') end }")
    fake:run(function()
      local of = open()
      local calls, fresh = 0, nil
      of:attach(function() calls = calls + 1 if calls > 1 then error("node closed") end end)
      local serving = node(of)
      of:on("reload", function() error("listener") end)
      of:on("reload", function(generation) fresh = generation end)
      of:reload()
      fake.modules["znl.core.sched"].sleep(5)
      assert.equal(2, fresh)
      assert.equal(2, serving.given)
      assert.equal(1, #fake:logged("on_unload failed"))
      assert.equal(1, #fake:logged("listener failed"))
      assert.is_true(#fake:logged("a node refused the handler") >= 1)
    end)
  end)

  it("works without a watch, with a warning", function()
    fake.watch_fails = true
    write("return function() return 'a' end")
    fake:run(function()
      local of = open()
      assert.equal(1, #fake:logged("not watched"))
      assert.is_true(of:reload())
    end)
  end)

  it("closes when the process is told to end, after the nodes", function()
    write("return function() return 'a' end")
    fake:run(function()
      local of = open()
      local serving = node(of)
      fake:signal()
      assert.is_function(serving.call)
      fake.modules["znl.core.sched"].sleep(5)
      assert.is_nil(serving.call)
      assert.is_true(of.closed)
    end)
  end)
end)
