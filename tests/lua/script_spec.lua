--- `znlrun --watch`: the real binary, a script that changes, and a slave that asks all the time.
--- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")
local uv = has_core and require("luv")
local folders = has_core and require("tests.lua.support.folder")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

local SCRIPT = [[
local znl = require("znl")
local greet = require("greet")
local kept = znl.keep("kept", function() return { runs = 0 } end)
local master = znl.master { id = "%s", endpoint = "%s", heartbeat_ms = %d }
master:handle(function(req)
  if req.payload == "slow" then
    io.open("%s/began", "w"):close()
    while not require("luv").fs_stat("%s/go") do znl.sleep(10) end
  end
  return table.concat({ greet.word, "VERSION", kept.runs, req.payload }, " ")
end)
assert(master:start())
kept.runs = kept.runs + 1
%s
]]

describe("znlrun --watch", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local folder, endpoint, process, log, slave, exit_code, ended

  local function script(version, more)
    more = more or {}
    local at = folder.path
    local text = SCRIPT:format(more.id or "m", endpoint, more.heartbeat_ms or 3000, at, at, more.tail or "")
    return (text:gsub("VERSION", version))
  end

  local function start(text)
    if text then folder:write("service.lua", text) end
    local err = uv.new_pipe(false)
    log, ended, exit_code = "", znl.event(), nil
    process = assert(uv.spawn(znlrun, {
      args = { "--watch", folder:at("service.lua"), "an argument" }, stdio = { nil, nil, err },
    }, function(code, signal)
      exit_code = signal ~= 0 and 128 + signal or code
      ended:set(true)
    end))
    err:read_start(function(_, piece)
      if piece then log = log .. piece else err:close() end
    end)
  end

  local function stop()
    if not process then return end
    process:kill("sigterm")
    if not ended:wait(30000) then process:kill("sigkill") end
    process:close()
    process = nil
  end

  before_each(function()
    folder = folders.new()
    endpoint = "ipc://" .. folder:at("socket")
    folder:write("greet.lua", 'return { word = "hello" }')
    slave = znl.slave { id = "s", endpoint = endpoint, heartbeat_ms = 500 }
    assert(slave:start())
  end)

  after_each(function()
    stop()
    slave:stop()
    folder:remove()
  end)

  local function ask(payload, timeout_ms)
    return (slave:request(payload or "x", { timeout_ms = timeout_ms or 30000 }))
  end

  --- Asks until the answer is the wanted one; gives back the last.
  local function await(wanted)
    local answer
    for _ = 1, 1000 do
      answer = ask("x", 500)
      if answer == wanted then break end
      znl.sleep(20)
    end
    assert.equal(wanted, answer)
  end

  local function await_log(text)
    eventually(function() return log:find(text, 1, true) end, text .. " is in the log")
  end

  it("takes over with the same connections, and loses nothing", function()
    start(script("v1"))
    await("hello v1 1 x")
    local offline, failed, asked, going, open = 0, 0, 0, true, 4
    slave:on("master_offline", function() offline = offline + 1 end)
    local done = znl.event()
    for _ = 1, open do
      znl.spawn(function()
        while going do
          asked = asked + 1
          if not ask() then failed = failed + 1 end
        end
        open = open - 1
        if open == 0 then done:set(true) end
      end)
    end
    for number = 2, 11 do
      folder:replace("service.lua", script("v" .. number))
      await(("hello v%d %d x"):format(number, number))
    end
    going = false
    assert.is_true(done:wait(30000))
    assert.equal(0, failed)
    assert.equal(0, offline)
    assert.is_true(asked > 50)
  end)

  it("lets requests end on the version they began with", function()
    start(script("v1"))
    await("hello v1 1 x")
    local answer, done = nil, znl.event()
    znl.spawn(function()
      answer = ask("slow")
      done:set(true)
    end)
    eventually(function() return uv.fs_stat(folder:at("began")) end, "it begins")
    folder:write("service.lua", script("v2"))
    await("hello v2 2 x")
    assert.is_nil(answer)
    folder:write("go", "")
    done:wait(30000)
    assert.equal("hello v1 2 slow", answer) -- what is kept is one table for both
  end)

  it("runs the script again when a module changes", function()
    start(script("v1"))
    await("hello v1 1 x")
    folder:write("greet.lua", 'return { word = "good day" }')
    await("good day v1 2 x")
  end)

  it("hands handlers down with their state", function()
    folder:write("count.lua", [[
      return { handle = function(_, state) state.n = state.n + 1 return "n " .. state.n end,
        on_load = function(before) return before or { n = 0 } end }]])
    local function with_handlers(word)
      return ([[
        local znl = require("znl")
        local master = znl.master { id = "m", endpoint = "%s" }
        master:handle(znl.handlers("%s"))
        assert(master:start())
        znl.log.info("%s")]]):format(endpoint, folder:at("count.lua"), word)
    end
    start(with_handlers("first"))
    --- The next count; a request may be lost and counted all the same.
    local function count()
      return tonumber(eventually(function() return (ask() or ""):match("^n (%d+)$") end, "a count"))
    end
    local before
    repeat before = count() until before >= 20
    folder:write("service.lua", with_handlers("second"))
    await_log("script reloaded")
    assert.is_true(count() > before)
  end)

  it("keeps the version before when the new one fails, and says where", function()
    start(script("v1"))
    await("hello v1 1 x")
    folder:write("service.lua", script("v2", { tail = 'error("boom")' }))
    await_log("service.lua:14: boom")
    assert.equal("hello v1 2 x", ask()) -- the failed run had counted already
    folder:write("greet.lua", "return {")
    folder:write("service.lua", script("v3"))
    await_log("greet.lua:1:")
    assert.equal("hello v1 2 x", ask())
    folder:write("greet.lua", 'return { word = "hi" }')
    await("hi v3 3 x")
  end)

  it("makes a node anew when its options change, and brings the old one back when that fails", function()
    start(script("v1"))
    await("hello v1 1 x")
    folder:write("service.lua", script("v2", { heartbeat_ms = 2000 }))
    await("hello v2 2 x")
    folder:write("service.lua", script("v3", { id = "other" }))
    await("hello v3 3 x")
    folder:write("service.lua", script("v4", { id = "third", tail = 'error("boom")' }))
    await_log("service.lua:14: boom")
    await("hello v3 4 x")
  end)

  it("waits for a mend when the first version fails, and ends on SIGTERM", function()
    start("local x = = 1")
    await_log("service.lua:1:")
    assert.is_nil(exit_code)
    folder:write("service.lua", script("v1", {
      tail = 'assert(arg[1] == "an argument" and ... == arg[1]) znl.every(50, function() end)',
    }))
    await("hello v1 1 x")
    process:kill("sigterm")
    assert.is_true(ended:wait(30000), "timers hold it up")
    assert.equal(0, exit_code)
  end)

  it("runs the script again on SIGHUP, changed or not, and tells it what became of that", function()
    local tail = [[
      local own = znl.script()
      local heard = znl.keep("heard", function() return {} end)
      for _, event in ipairs { "reload", "reload_failed", "retired" } do
        own:on(event, function(what) table.insert(heard, event .. " " .. tostring(what)) end)
      end
      master:handle(function()
        local c = own:counters()
        return table.concat(heard, "; ") .. (" | %d %d %d %d"):format(
          c.generation, c.reloads, c.failures, c.live_versions)
      end)
    ]]
    start(script("v1", { tail = tail }))
    await("reload 1 | 1 0 0 1")
    process:kill("sighup")
    await("reload 1; reload 2; retired 1 | 2 1 0 1")
    folder:replace("service.lua", "error('broken', 0)")
    local answer
    eventually(function()
      answer = ask()
      return answer and answer:find("failed", 1, true)
    end)
    assert.matches("retired 1; reload_failed .*service.lua:1: broken | 2 1 1 1$", answer)
    assert.is_nil(exit_code)
  end)

  it("says once why the first version failed", function()
    start("error('no good')")
    await_log("no good")
    znl.sleep(50)
    local _, count = log:gsub("no good", "")
    assert.equal(1, count)
  end)

  it("follows a symbolic link to the file that is edited", function()
    folder:write("real/real.lua", script("v1"))
    uv.fs_symlink(folder:at("real/real.lua"), folder:at("service.lua"))
    start()
    await("hello v1 1 x")
    folder:replace("real/real.lua", script("v2"))
    await("hello v2 2 x")
  end)

  it("says so when the script cannot be opened", function()
    local pipe = io.popen(("timeout 10 %s --watch no-such.lua 2>&1; echo $?"):format(znlrun))
    local text = pipe:read("*a")
    pipe:close()
    assert.equal("znlrun: cannot open no-such.lua: No such file or directory\n1\n", text)
  end)

  it("refuses what cannot be watched", function()
    for _, arguments in ipairs { "--watch", "--watch -", "--watch -e 'x = 1'", "--watch --check a.lua" } do
      local pipe = io.popen(("%s %s 2>&1; echo $?"):format(znlrun, arguments))
      local text = pipe:read("*a")
      pipe:close()
      assert.truthy(text:find("--watch: needs the file name of a script", 1, true), text)
      assert.truthy(text:find("\n2\n", 1, true), text)
    end
  end)
end)
