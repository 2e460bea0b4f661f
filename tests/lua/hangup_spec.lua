--- SIGHUP: the real binary, told to load its handlers again, or to end.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl")

describe("SIGHUP", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local eventually = require("tests.lua.support.eventually")
  local folders = require("tests.lua.support.folder")
  local uv = require("luv")

  local znlrun = os.getenv("ZNLRUN") or "build/znlrun"
  local folder, process, out, code, signal

  --- Runs a script away from the terminal, whose end would be another matter.
  local function start(text)
    folder:write("service.lua", text)
    local pipe = uv.new_pipe(false)
    out, code, signal = "", nil, nil
    process = assert(uv.spawn(znlrun, {
      args = { folder:at("service.lua") }, stdio = { nil, pipe, nil }, detached = true,
    }, function(exit_code, by_signal) code, signal = exit_code, by_signal end))
    pipe:read_start(function(_, piece)
      if piece then out = out .. piece else pipe:close() end
    end)
    eventually(function() return out:find("ready", 1, true) end)
  end

  before_each(function() folder = folders.new() end)

  after_each(function()
    if process and code == nil then process:kill("sigkill") end
    if process then
      eventually(function() return code ~= nil end)
      process:close()
    end
    process = nil
    folder:remove()
  end)

  it("loads handlers again, and the process goes on", function()
    folder:write("h.lua", "io.stdout:write('loaded\\n') io.stdout:flush() return function() end")
    start(([[
      local znl = require("znl")
      znl.handlers(%q)
      znl.on_stop(function() io.stdout:write("stopped\n") io.stdout:flush() end)
      io.stdout:write("ready\n")
      io.stdout:flush()
      znl.sleep(60000)
    ]]):format(folder:at("h.lua")))
    for round = 2, 3 do
      process:kill("sighup")
      eventually(function() return select(2, out:gsub("loaded", "")) == round end)
    end
    assert.is_nil(code)
    process:kill("sigterm")
    eventually(function() return out:find("stopped", 1, true) end)
  end)

  it("stops a process that has nothing to load again, as SIGTERM does", function()
    start([[
      local znl = require("znl")
      znl.on_stop(function() io.stdout:write("stopped\n") io.stdout:flush() end)
      io.stdout:write("ready\n")
      io.stdout:flush()
      znl.sleep(60000)
    ]])
    process:kill("sighup")
    eventually(function() return out:find("stopped", 1, true) end)
  end)

  it("ends a process that has nothing to stop", function()
    start("io.stdout:write('ready\\n') io.stdout:flush() require('znl').sleep(60000)")
    process:kill("sighup")
    eventually(function() return code ~= nil end)
    assert.same({ 129, 0 }, { code, signal })
  end)

  it("is heard by who registered, and by nobody who took that back", function()
    -- In a process of its own: this one may have been told to ignore the signal, as by nohup(1).
    start([[
      local hangup, runtime = require("znl.versions.hangup"), require("znl.core.runtime")
      local uv, znl = require("luv"), require("znl")
      local heard = 0
      local function await(count)
        uv.kill(uv.os_getpid(), "sighup")
        while heard ~= count do znl.sleep(1) end
      end
      local forget = hangup.register(function()
        heard = heard + 1
        znl.sleep(1)
      end)
      local other = hangup.register(function() error("nobody's business") end)
      other()
      other()
      await(1)
      forget()
      runtime.on_hangup(function() heard = heard + 10 end)
      await(11)
      runtime.on_hangup(nil)
      assert(not pcall(runtime.on_hangup, 1))
      io.stdout:write("ready\n")]])
    eventually(function() return code ~= nil end)
    assert.same({ 0, 0 }, { code, signal })
  end)
end)
