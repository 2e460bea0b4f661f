--- znl.core.testing: nodes over sim:// endpoints by a clock that stands still.
--- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")

describe("znl.core.testing", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local sched = require("znl.core.sched")
  local testing = require("znl.core.testing")
  local START = 1700000000000
  local master, slave

  local function open(encrypted)
    local key = encrypted and "a key of both" or nil
    master = znl.master { id = "m", endpoint = "sim://*", encrypted = encrypted, auth_key = key }
    assert(master:start())
    slave = znl.slave { id = "s", endpoint = master:endpoint(), encrypted = encrypted, auth_key = key }
    assert(slave:start())
    testing.advance(0)
  end

  before_each(function() testing.freeze(START) end)

  after_each(function()
    if slave then slave:stop() end
    if master then master:stop() end
    master, slave = nil, nil
    testing.reset()
    testing.thaw()
  end)

  for _, encrypted in ipairs { false, true } do
    local how = encrypted and "encrypted" or "plain"

    it("answers over sim://, " .. how, function()
      open(encrypted)
      master:handle(function(req) return req.from .. ": " .. req.payload end)
      slave:handle(function(req) return "slave: " .. req.payload end)
      assert.is_true(master:is_online("s"))
      assert.equal("s: hello", slave:request("hello"))
      assert.equal("slave: hello", master:request("s", "hello"))
      assert.equal(START, sched.unix_ms())
    end)

    it("keeps a slave on line for an hour of heartbeats, " .. how, function()
      open(encrypted)
      testing.advance(3600000)
      assert.equal(START + 3600000, sched.unix_ms())
      assert.is_true(master:is_online("s"))
      -- Every 3 s, the first at the start.
      assert.equal(1201, slave:counters().heartbeats)
    end)

    it("loses and finds a slave behind a partition, " .. how, function()
      local heard = {}
      open(encrypted)
      master:on("slave_disconnected", function(id, reason)
        heard[#heard + 1] = ("%s %s at %d"):format(id, reason, sched.unix_ms() - START)
      end)
      testing.partition(master:endpoint(), true)
      testing.advance(60000)
      assert.same(1, #heard)
      assert.is_false(master:is_online("s"))
      testing.partition(master:endpoint(), false)
      testing.advance(10000)
      assert.is_true(master:is_online("s"))
      assert.is_true(slave:master_online())
    end)
  end

  it("ends a request at its timeout, to the millisecond", function()
    open(false)
    master:handle(function() znl.sleep(60000) return "late" end)
    local code, ended
    znl.spawn(function()
      local _, _, failure = slave:request("x", { timeout_ms = 2500 })
      code, ended = failure, sched.unix_ms()
    end)
    testing.advance(2499)
    assert.is_nil(code)
    testing.advance(1)
    assert.equal("TIMEOUT", code)
    assert.equal(START + 2500, ended)
  end)

  it("runs what is due in order", function()
    local order = {}
    for _, ms in ipairs { 30, 10, 20, 10 } do
      znl.spawn(function()
        znl.sleep(ms)
        order[#order + 1] = ms .. "@" .. (sched.unix_ms() - START)
        if ms == 10 then
          znl.sleep(5)
          order[#order + 1] = "then@" .. (sched.unix_ms() - START)
        end
      end)
    end
    testing.advance(100)
    assert.same({ "10@10", "10@10", "then@15", "then@15", "20@20", "30@30" }, order)
  end)

  it("moves by itself while everything waits", function()
    open(false)
    testing.auto(true)
    master:handle(function() znl.sleep(3600000) return "an hour later" end)
    local began = sched.now_ms()
    assert.equal("an hour later", slave:request("x", { timeout_ms = 7200000 }))
    assert.equal(3600000, sched.now_ms() - began)
  end)

  it("does not pass over a process, a file or a timer of luv", function()
    local process, file, uv = require("znl.system.process"), require("znl.system.file"), require("luv")
    testing.auto(true)
    local began = sched.now_ms()
    assert.equal(0, assert(process.run { "sleep", "0.05", timeout_ms = 10 * 1000 }).code)
    assert.truthy(file.read("/proc/self/status"))
    local done = sched.event()
    local timer = uv.new_timer()
    timer:start(20, 0, function()
      timer:close()
      done:set("real")
    end)
    assert.equal("real", done:wait(5000))
    assert.equal(began, sched.now_ms())
  end)

  it("delays and drops as it is told", function()
    open(false)
    master:handle(function(req) return req.payload end)
    testing.faults(master:endpoint(), { delay_ms = 40 })
    testing.auto(true)
    local began = sched.now_ms()
    assert.equal("x", slave:request("x"))
    assert.equal(80, sched.now_ms() - began)
    testing.faults(master:endpoint(), { drop_permille = 1000 })
    local _, _, code = slave:request("x", { timeout_ms = 100 })
    assert.equal("TIMEOUT", code)
  end)

  it("reconnects after a disconnect", function()
    open(false)
    assert.equal(1, testing.disconnect(master:endpoint(), "s"))
    testing.advance(10000)
    assert.is_true(master:is_online("s"))
    assert.is_true(slave:master_online())
  end)

  it("keeps the log back", function()
    testing.divert_log(true)
    znl.log.warn("kept back", { number = 7 })
    local text = testing.take_log()
    testing.divert_log(false)
    assert.truthy(text:find('msg="kept back" number=7', 1, true), text)
    assert.equal("", testing.take_log())
  end)

  it("refuses misuse", function()
    assert.has_error(function() testing.faults("tcp://127.0.0.1:1", {}) end,
      "testing.faults: endpoint must be sim://name")
    assert.has_error(function() testing.freeze(1.5) end)
    assert.has_error(function() testing.advance(-1) end)
    local returned = false
    znl.spawn(function()
      testing.advance(1000)
      returned = true
    end)
    assert.has_error(function() testing.advance(1) end, "testing.advance: another task is moving the clock")
    testing.thaw()
    assert.has_error(function() testing.advance(1) end)
    assert.has_error(function() testing.auto(true) end)
    eventually(function() return returned end)
    testing.freeze()
    local owner = sched.owner()
    sched.spawn_owned(owner, function() testing.advance(1000) end)
    owner:cut("gone")
    testing.advance(0)
  end)
end)
