--- The option engine: of nodes, sockets, scripts and tools. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

local function shell(command)
  local pipe = assert(io.popen("( " .. command .. " ) 2>&1; echo \"exit $?\"", "r"))
  local out = pipe:read("*a")
  pipe:close()
  local text, code = out:match("^(.*)exit (%d+)\n$")
  return tonumber(code), text
end

describe("engine", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  it("is one of three names", function()
    for _, make in ipairs { znl.master, znl.slave } do
      for _, engine in ipairs { "zmq", "", "ZMTP", 1, true } do
        local ok, message = pcall(make, { id = "e", engine = engine })
        assert.is_false(ok)
        assert.truthy(message:find('option engine is .-; it must be "auto", "zmtp" or "libzmq"'), message)
      end
    end
    local socket = require("znl.core.socket")
    local ok, message = pcall(socket.router, { endpoint = "tcp://127.0.0.1:*", engine = "zmq" })
    assert.is_false(ok)
    assert.truthy(message:find("engine must be auto, zmtp or libzmq", 1, true), message)
  end)

  it("is refused by name for endpoints it does not speak", function()
    for _, endpoint in ipairs { "inproc://e", "ipc://@e" } do
      for kind, make in pairs { master = znl.master, slave = znl.slave } do
        local ok, message = pcall(make, { id = "e", engine = "zmtp", endpoint = endpoint })
        assert.is_false(ok)
        assert.truthy(message:find("znl." .. kind .. ': option engine is "zmtp", which does not speak ' .. endpoint ..
          '; engine = "libzmq" does', 1, true), message)
      end
      local socket, message, code = require("znl.core.socket").router { endpoint = endpoint, engine = "zmtp" }
      assert.is_nil(socket)
      assert.equal("UNSUPPORTED", code)
      assert.truthy(message:find(endpoint, 1, true) and message:find('engine = "libzmq"', 1, true), message)
    end
    local ok, message = pcall(znl.slave, {
      id = "e", engine = "zmtp", endpoints = { "tcp://127.0.0.1:1", "inproc://e" },
    })
    assert.is_false(ok)
    assert.truthy(message:find("inproc://e", 1, true), message)
  end)

  it("of libzmq, or left open, moves messages", function()
    for _, engine in ipairs { "libzmq", "auto" } do
      local master = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*", engine = engine }
      master:handle(function(req) return "got " .. req.payload end)
      assert(master:start())
      local slave = znl.slave { id = "s", endpoint = master:endpoint(), engine = engine }
      assert(slave:start())
      assert.equal("got x", slave:request("x", { timeout_ms = 60000 }))
      slave:stop()
      master:stop()
    end
  end)

  it("of the environment is checked before anything runs", function()
    local code, text = shell("ZNL_ENGINE=zmq timeout 60 " .. znlrun .. " -e 'print(1)'")
    assert.equal("znlrun: ZNL_ENGINE 'zmq': must be auto, zmtp or libzmq\n", text)
    assert.equal(2, code)
    for _, name in ipairs { "", "auto", "zmtp", "libzmq" } do
      code, text = shell(("ZNL_ENGINE=%s timeout 60 %s -e 'print(1)'"):format(name, znlrun))
      assert.equal("1\n", text)
      assert.equal(0, code)
    end
  end)

  it("is an option of scripts and tools", function()
    for _, line in ipairs {
      "scripts/master.lua", "scripts/slave.lua --id e", "request tcp://127.0.0.1:1 x", "pub tcp://127.0.0.1:* t x",
    } do
      local code, text = shell(("timeout 60 %s %s --engine zmq"):format(znlrun, line))
      assert.not_equal(0, code)
      assert.truthy(text:find("'--engine' must be one of 'auto', 'zmtp', 'libzmq'", 1, true), text)
    end
    for _, line in ipairs { "pub inproc://e t x", "request ipc://@e x", "request inproc://e x" } do
      local code, text = shell(("timeout 60 %s %s --engine zmtp"):format(znlrun, line))
      assert.equal(2, code)
      assert.truthy(text:find("%-%-engine zmtp does not speak %a+://@?e; %-%-engine libzmq does"), text)
      assert.falsy(text:find("traceback", 1, true), text)
    end
  end)
end)
