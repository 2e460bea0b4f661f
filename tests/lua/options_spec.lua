-- SPDX-License-Identifier: MIT
local options = require("znl.options")

local SPEC = {
  name = { type = "string", min = 1, max = 5, required = true },
  count = { type = "integer", min = 1, max = 10, default = 3 },
  on = { type = "boolean", default = false },
  fn = { type = "function" },
  key = { type = "secret" },
  rate = { type = "number", min = 0.5, max = 10 },
  heartbeat_ms = { type = "integer", min = 0, default = 3000 },
  map = { type = "table", check = function(t) return t.ok == true end, allowed = "a table with ok" },
}

local function failure(given)
  local ok, message = pcall(function()
    local result = options.read(SPEC, given, "thing", 1)
    return result
  end)
  assert.is_false(ok)
  return message
end

describe("options", function()
  it("fills in defaults and leaves the given table alone", function()
    local given = { name = "a" }
    local read = options.read(SPEC, given, "thing")
    assert.same({ name = "a", count = 3, on = false, heartbeat_ms = 3000 }, read)
    assert.same({ name = "a" }, given)
  end)

  it("names option, value and what is allowed", function()
    assert.matches("thing: option count is 11; it must be a whole number in 1..10", failure { name = "a", count = 11 })
    assert.matches('option count is "5"; it must be a whole number', failure { name = "a", count = "5" }, 1, true)
    assert.matches("option on is 1; it must be true or false", failure { name = "a", on = 1 })
    assert.matches("option fn is a table; it must be a function", failure { name = "a", fn = {} })
    assert.matches("option map is a table; it must be a table with ok", failure { name = "a", map = {} })
  end)

  it("refuses numbers that are not whole", function()
    for _, value in ipairs { 1.5, 0 / 0, math.huge, -math.huge } do
      assert.matches("must be a whole number", failure { name = "a", count = value })
    end
  end)

  it("takes fractions where a number is asked for", function()
    assert.equal(0.5, options.read(SPEC, { name = "a", rate = 0.5 }, "thing").rate)
    for _, value in ipairs { 0.4, 10.1, 0 / 0, math.huge, "1" } do
      assert.matches("it must be a number in 0.5..10", failure { name = "a", rate = value }, 1, true)
    end
  end)

  it("refuses texts that are too long and says how long", function()
    assert.matches('option name is "abcdef"; it must be a text of 1 to 5 bytes', failure { name = "abcdef" })
    assert.matches("a text of 100 bytes", failure { name = ("x"):rep(100) })
  end)

  it("says that a required option is missing", function()
    assert.matches("option name is missing", failure {})
    assert.matches("option name is missing", failure(nil))
  end)

  it("suggests the name that was probably meant", function()
    assert.matches('unknown option "heartbeat"; did you mean heartbeat_ms?',
      failure { name = "a", heartbeat = 1 }, 1, true)
    assert.matches('unknown option "cuont"; did you mean count?', failure { name = "a", cuont = 1 }, 1, true)
    assert.matches("options: count, fn, heartbeat_ms", failure { name = "a", zzzzzzzzzz = 1 })
  end)

  it("never shows what may be a key", function()
    local message = failure { name = "a", key = 12345 }
    assert.matches("option key is 12345", message) -- a number is no key
    message = failure { name = "a", key = "" }
    assert.matches("option key is empty", message)
    assert.is_nil(message:find("hunter2", 1, true))
  end)

  it("blames the line of the caller", function()
    local function make(opts)
      local read = options.read(SPEC, opts, "thing", 2)
      return read
    end
    local line = debug.getinfo(1, "l").currentline + 1
    local ok, message = pcall(function() make { name = 5 }; return 1 end)
    assert.is_false(ok)
    assert.matches("options_spec.lua:" .. line .. ": thing: option name", message, 1, true)
  end)

  it("refuses what is no table", function()
    assert.matches("options must be a table, not a string", failure("x"))
  end)

  it("extends a spec without changing it", function()
    local more = options.extend(SPEC, { extra = { type = "boolean", default = true } })
    assert.is_true(options.read(more, { name = "a" }, "thing").extra)
    assert.is_nil(SPEC.extra)
  end)
end)
