-- Handles of luv that a version of code makes end with it. Inside znlrun only.
-- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("handles of luv", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local folder = require("support.folder")
  local scope = require("znl.versions.scope")
  local sched = require("znl.core.sched")
  local uv = require("luv")

  -- luacheck: globals made open_handles znl_go
  local files, handlers, call, owner, level

  before_each(function()
    level = znl.log.level()
    znl.log.set_level("off")
    files = folder.new()
    _G.made = {}
  end)

  after_each(function()
    if handlers then handlers:close() end
    handlers = nil
    files:remove()
    znl.log.set_level(level)
    _G.made = nil
  end)

  local function open(text, opts)
    files:write("h.lua", text)
    handlers = znl.handlers(files:at("h.lua"), opts)
    handlers:attach(function(fn, its_owner) call, owner = fn, its_owner end)
  end

  local function request()
    return znl.spawn(function()
      sched.become(owner)
      return call({})
    end)
  end

  local function open_handles()
    local count = 0
    for _, handle in ipairs(made) do
      if not handle:is_closing() then count = count + 1 end
    end
    return count
  end

  local ALL = [[
    local uv = require("uv")
    local function keep(handle) made[#made + 1] = assert(handle) return handle end
    keep(uv.new_timer()):start(1, 1, function() ticks = (ticks or 0) + 1 end)
    local server = keep(uv.new_tcp())
    server:bind("127.0.0.1", 0)
    server:listen(8, function() end)
    keep(uv.new_udp())
    keep(uv.new_pipe(false))
    keep(uv.new_fs_event()):start(".", {}, function() end)
    keep(uv.new_fs_poll())
    keep(uv.new_async(function() end))
    keep(uv.new_idle())
    keep(uv.spawn("sleep", { args = { "1000" } }, function() end))
    return function() return "one" end
  ]]

  it("end when the last request of their version has", function()
    open((ALL:gsub("return function.*$", [[
      return function()
        keep(uv.new_timer())
        znl_go:wait()
        return open_handles()
      end
    ]])))
    _G.open_handles, _G.znl_go = open_handles, znl.event()
    assert.equal(9, #made)
    assert.equal(9, open_handles())
    local asked = request()
    assert.equal(10, #made)
    local pid = made[9]:get_pid()
    assert.is_true(uv.kill(pid, 0) == 0)
    files:replace("h.lua", "return function() return 'two' end")
    assert.is_true(handlers:reload())
    assert.equal("two", request():wait(1000))
    assert.equal(10, open_handles())
    _G.znl_go:set(true)
    assert.equal(10, asked:wait(1000))
    eventually(function() return open_handles() == 0 end)
    assert.is_nil((uv.kill(pid, 0)))
    _G.open_handles, _G.znl_go = nil, nil
  end)

  it("of a process stay until it has ended", function()
    local handles = require("znl.versions.handles")
    local process, pid = uv.spawn("sleep", { args = { "1000" } }, function() end)
    handles.close(process)
    assert.is_false(process:is_closing())
    eventually(function() return process:is_closing() end)
    assert.is_nil((uv.kill(pid, 0)))
    handles.close(process)
  end)

  it("are still open in on_unload, and closed after it", function()
    open([[
      local znl, uv = require("znl"), require("luv")
      local timer = uv.new_timer()
      made[1], made[2] = timer, uv.new_timer()
      return {
        handle = function() end,
        on_unload = function()
          made.was_open = not timer:is_closing() and not made[2]:is_closing()
          local done = znl.event()
          timer:start(1, 0, function() done:set(true) end)
          made.called_back = done:wait(1000)
          timer:close()
        end,
      }
    ]])
    files:replace("h.lua", "return function() end")
    assert.is_true(handlers:reload())
    eventually(function() return open_handles() == 0 end)
    assert.is_true(made.was_open)
    assert.is_true(made.called_back)
  end)

  it("of a version that fails end with it", function()
    open("return function() return 'one' end")
    files:replace("h.lua", "made[1] = require('luv').new_timer() made[1]:start(1, 1, function() end) error('no')")
    assert.is_nil((handlers:reload()))
    assert.is_true(made[1]:is_closing())
    assert.equal("one", request():wait(1000))
  end)

  it("of a module end with the module", function()
    files:write("m.lua", "made[1] = require('luv').new_timer() return {}")
    open("require('m') return function() end")
    files:replace("h.lua", "return function() end")
    assert.is_true(handlers:reload())
    eventually(function() return made[1]:is_closing() end)
  end)

  it("call back for the version, which ends what its callbacks began", function()
    open([[
      local znl, uv = require("znl"), require("luv")
      made[1] = uv.new_timer()
      made[1]:start(0, 0, function()
        made[2] = uv.new_timer()
        made.began = true
        znl.sleep(3600000)
      end)
      return function() end
    ]])
    local its_owner = owner
    eventually(function() return made.began end)
    assert.equal(1, its_owner:background())
    assert.equal(0, its_owner:active())
    files:replace("h.lua", "return function() end")
    assert.is_true(handlers:reload())
    eventually(function() return made[2]:is_closing() end)
    eventually(function() return its_owner:background() == 0 end)
  end)

  it("that nobody keeps any more are forgotten", function()
    local made_scope = assert(scope.new { name = "v" })
    made_scope:run(function()
      for _ = 1, 1000 do uv.new_timer():close() end
    end)
    znl.sleep(1)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(made_scope.handles.list))
    made_scope:abandon()
  end)

  it("that belong to no version stay open, and mistakes are blamed on who made them", function()
    local timer = uv.new_timer()
    assert.is_false(timer:is_closing())
    timer:close()
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() uv.new_poll("x") end)
    assert.is_false(ok)
    assert.matches(("handles_spec.lua:%d: bad argument #1 to 'new_poll'"):format(line), message, 1, true)
    assert.equal(uv, require("uv"))
  end)

  it("are those of znl.tcp.listen, too, with its connections", function()
    open([[
      local znl = require("znl")
      local server = assert(znl.tcp.listen({ host = "127.0.0.1", port = 0 }, function(connection)
        made.served = (made.served or 0) + 1
        connection:read("line")
      end))
      return function() return server.port end
    ]])
    local port, its_owner = request():wait(1000), owner
    local client = assert(znl.tcp.connect { host = "127.0.0.1", port = port })
    eventually(function() return made.served == 1 end)
    assert.equal(1, its_owner:background())
    files:replace("h.lua", "return function() end")
    assert.is_true(handlers:reload())
    local line, _, code = client:read("line", 1000)
    assert.is_nil(line)
    assert.not_equal("TIMEOUT", code)
    client:close()
    assert.is_nil((znl.tcp.connect { host = "127.0.0.1", port = port }))
    eventually(function() return its_owner:background() == 0 end)
  end)

  it("end in workers, too", function()
    open([[
      local uv = require("luv")
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(8, function() end)
      return function() return tostring(server:getsockname().port) end
    ]], { workers = 1 })
    local port = tonumber((request():wait(5000)))
    local function connects()
      local connection = znl.tcp.connect { host = "127.0.0.1", port = port, timeout_ms = 1000 }
      if connection then connection:close() end
      return connection ~= nil
    end
    assert.is_true(connects())
    files:replace("h.lua", "return function() end")
    assert.is_true(handlers:reload())
    eventually(function() return not connects() end)
  end)
end)
