-- Nodes that nobody holds any more are collected. Inside znlrun only.
-- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("nodes that were dropped", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local sched = require("znl.core.sched")
  local level

  before_each(function()
    level = znl.log.level()
    znl.log.set_level("off") -- a console that evaluates warns
  end)

  after_each(function() znl.log.set_level(level) end)

  --- What C holds of Lua. Numbers are places to be used again.
  local function registry_size()
    local count = 0
    for _, value in pairs(debug.getregistry()) do
      if type(value) ~= "number" then count = count + 1 end
    end
    return count
  end

  --- Compiled code holds the functions it was made for, and with them a node or two: it goes first.
  local function collect()
    jit.flush()
    for _ = 1, 3 do
      collectgarbage()
      znl.sleep(2)
    end
  end

  --- What a task or a closing socket still holds goes with it, later on a busy machine.
  local function all_gone(alive)
    local ends = sched.now_ms() + 5000
    repeat collect() until next(alive) == nil or sched.now_ms() > ends
    return next(alive) == nil
  end

  --- Nodes whose handlers, listeners, services and console all lead back to them.
  local function make(alive, id, starts)
    local master = znl.master { id = id, endpoint = "sim://" .. id, console = { eval = true } }
    local slave = znl.slave { id = id .. "s", endpoint = "sim://" .. id }
    master:on("slave_connected", function() return master end)
    slave:subscribe("news", function() return slave end)
    slave:service("time", function() return slave.id end)
    for _, node in ipairs { master, slave } do
      node:handle(function() return node.id end)
      node:use(function(req, next) return next(req, node) end)
      alive[node] = true
      if starts then
        assert(node:start())
        node:stop()
      end
    end
  end

  it("leave nothing behind, started or not", function()
    local alive = setmetatable({}, { __mode = "k" })
    local function round(count)
      -- In a coroutine of its own: this one's stack may hold the last of them.
      for i = 1, count do coroutine.wrap(make)(alive, "n" .. i % 7, i % 2 == 0) end
      assert.is_true(all_gone(alive))
      return registry_size(), collectgarbage("count")
    end
    local entries, kib = round(100)
    for _ = 1, 4 do
      local entries_now, kib_now = round(100)
      assert.is_true(entries_now <= entries + 20, ("%d entries, then %d"):format(entries, entries_now))
      assert.is_true(kib_now <= kib + 300, ("%d KiB, then %d"):format(kib, kib_now))
    end
  end)

  it("run on while they run, and serve again after a restart", function()
    local function start()
      local master = znl.master { id = "lasting", endpoint = "sim://lasting" }
      local node = master
      master:handle(function() return node.id end)
      assert(master:start())
    end
    start()
    collect()
    local slave = znl.slave { id = "asker", endpoint = "sim://lasting" }
    slave:service("who", function() return slave.id end)
    assert(slave:start())
    assert.equal("lasting", (slave:request("x")))
    for _ = 1, 2 do
      assert(znl.node("lasting"):restart())
      assert(slave:restart())
      assert.equal("lasting", (slave:request("x")))
      assert.equal("asker", (znl.node("lasting"):service_request("asker", "who", "x")))
    end
    slave:stop()
    znl.node("lasting"):stop()
    slave = nil
    collect()
    assert.is_nil(znl.node("lasting"))
  end)
end)
