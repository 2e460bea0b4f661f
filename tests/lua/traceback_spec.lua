--- Tracebacks of code that was reloaded: the lines shown are those that ran, or none.
--- SPDX-License-Identifier: MIT

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

local function write(path, text)
  local handle = assert(io.open(path, "w"))
  handle:write(text)
  handle:close()
end

describe("a traceback", function()
  it("shows lines of a handler and its module as they were loaded, none once they changed", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder .. "/lib") == 0)
    local script = folder .. "/main.lua"
    write(script, ([[
      local folder = %q
      local znl = require("znl")
      local function write(name, text)
        local file = assert(io.open(folder .. "/" .. name, "w"))
        file:write(text)
        file:close()
      end
      znl.sleep(20) -- what is written now is newer than the process
      write("lib/part.lua", "return { fail = function()\n  error('broken') -- first part\nend }")
      write("a.lua", "local part = require('part')\nreturn function()\n  part.fail() -- first\n  return 1\nend")
      local h = znl.handlers(folder .. "/a.lua", { debounce_ms = 60000 })
      local call, owner
      h:attach(function(fn, of) call, owner = fn, of end)
      local function request()
        znl.core.sched.spawn_owned(owner, function() call({ payload = "" }) end)
        znl.sleep(1)
      end
      request()
      write("a.lua", "local part = require('part')\nreturn function()\n\n  part.fail() -- second\n  return 1\nend")
      assert(h:reload())
      request()
      write("a.lua", "this does\nnot compile\n at all -- third\nnor here -- fourth\n")
      assert(not h:reload())
      request()
      h:close()
    ]]):format(folder))
    local pipe = assert(io.popen(("timeout 30 %s %s 2>&1"):format(znlrun, script)))
    local out = pipe:read("*a")
    pipe:close()
    os.execute("rm -r " .. folder)
    local shown = {}
    for line in out:gmatch("[^\n]*msg=\"task failed\"[^\n]*") do shown[#shown + 1] = line end
    assert.equal(3, #shown, out)
    assert.truthy(shown[1]:find("part.fail() -- first", 1, true), shown[1])
    assert.truthy(shown[1]:find("error('broken') -- first part", 1, true), shown[1])
    assert.truthy(shown[2]:find("part.fail() -- second", 1, true), shown[2])
    assert.truthy(shown[3]:find("a.lua:4: in ", 1, true), shown[3])
    assert.falsy(shown[3]:find("fourth", 1, true), shown[3])
    assert.falsy(shown[3]:find("part.fail() --", 1, true), shown[3])
  end)
end)
