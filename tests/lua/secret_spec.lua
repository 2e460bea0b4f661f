-- SPDX-License-Identifier: MIT
local secret = require("znl.secret")

local function write(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

describe("secret", function()
  it("reads an environment variable", function()
    assert.equal(os.getenv("PATH"), secret.new("env:PATH"):resolve())
  end)

  it("reads a file and drops one newline at its end", function()
    local cases = { ["k1"] = "k1", ["k2\n"] = "k2", ["k3\n\n"] = "k3\n", ["k4\r\n"] = "k4", [" k5 "] = " k5 " }
    for text, expected in pairs(cases) do
      local path = write(text)
      local key = secret.new("file:" .. path):resolve()
      os.remove(path)
      assert.equal(expected, key)
    end
  end)

  it("raises when there is nothing to use", function()
    local path = write("\n")
    assert.error_matches(function() secret.new("file:" .. path):resolve() end, "it is empty")
    os.remove(path)
    assert.error_matches(function() secret.new("file:" .. path):resolve() end, "No such file")
    assert.error_matches(function() secret.new("env:ZNL_NOT_SET_AT_ALL"):resolve() end,
      "secret%(env:ZNL_NOT_SET_AT_ALL%): the variable is not set")
  end)

  it("shows where it is kept, not what it is", function()
    local key = secret.new("env:PATH")
    assert.equal("secret(env:PATH)", tostring(key))
    assert.is_nil(next(key))
    assert.equal("znl.secret", getmetatable(key))
  end)

  it("refuses other references without repeating them", function()
    for _, reference in ipairs { "hunter2", "env:", "vault:hunter2", 42, {} } do
      local ok, message = pcall(secret.new, reference)
      assert.is_false(ok)
      assert.matches("env:NAME", message)
      assert.is_nil(message:find("hunter2", 1, true))
    end
  end)

  it("tells secrets from other values", function()
    assert.is_true(secret.is(secret.new("env:PATH")))
    assert.is_false(secret.is("env:PATH"))
    assert.is_false(secret.is({}))
    assert.is_false(secret.is(nil))
    assert.equal("plain", secret.text("plain"))
  end)
end)
