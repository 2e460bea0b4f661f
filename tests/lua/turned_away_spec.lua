--- Connections that end before any message: counted, and said in the log now and then. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")
local log_lines = has_core and require("tests.lua.support.log_lines")

--- The greeting of ZMTP 3.0 of a peer that wants a password.
local PLAIN_GREETING = "\255\0\0\0\0\0\0\0\1\127\3\0PLAIN" .. ("\0"):rep(47)

describe("a node", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local function about_connections(lines)
    local found = {}
    for _, line in ipairs(lines) do
      if line.message:find("no connection with a peer: ", 1, true) then found[#found + 1] = line end
    end
    return found
  end

  it("that is a master says who was turned away", function()
    log_lines.during(function(lines)
      local master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
      assert(master:start())
      local port = tonumber(master:endpoint():match(":(%d+)$"))
      assert(znl.tcp.connect { port = port }):close() -- who only looks is nobody
      for _ = 1, 5 do
        local conn = assert(znl.tcp.connect { port = port })
        assert(conn:write(PLAIN_GREETING))
        while conn:read("some") do end -- it ends the connection
        conn:close()
      end
      eventually(function() return master:counters().turned_away >= 5 end)
      assert.equal(5, master:counters().turned_away)
      local said = about_connections(lines)
      assert.is_true(#said >= 1) -- once in ten seconds, as tests/unit/refusals_test.c has it
      assert.equal("warn", said[1].level)
      assert.truthy(said[1].fields.code)
      assert.falsy(said[1].message:find("127.0.0.1:%d"), "a port makes the same peer look new")
      local slave = znl.slave { id = "s", endpoint = master:endpoint() }
      assert(slave:start())
      eventually(function() return master:is_online("s") end)
      slave:stop()
      master:stop()
    end)
  end)

  it("that is a slave says that it was turned away, and goes on trying", function()
    log_lines.during(function(lines)
      local times = 0
      local listener = assert(znl.tcp.listen({ host = "127.0.0.1", port = 0 }, function(conn)
        times = times + 1
        conn:write(PLAIN_GREETING)
        while conn:read("some") do end
      end))
      local slave = znl.slave { id = "s", endpoint = "tcp://127.0.0.1:" .. listener.port, heartbeat_ms = 500 }
      assert(slave:start())
      eventually(function() return slave:counters().turned_away >= 2 and times >= 2 end)
      assert.is_true(#about_connections(lines) >= 1)
      slave:stop()
      listener:close()
    end)
  end)
end)
