--- znl.shared, as scripts use it; threads are in tests/unit/shared_test.c and workers_spec.lua.
--- SPDX-License-Identifier: MIT

local znl = require("znl")

describe("znl.workers.shared", function()
  local dictionary, count = nil, 0

  before_each(function()
    count = count + 1
    dictionary = znl.shared("spec-" .. count, { max_entries = 100 })
  end)

  it("gives everyone who asks for a name the same dictionary", function()
    dictionary:set("k", "v")
    assert.equal("v", znl.shared("spec-" .. count):get("k"))
    assert.equal("v", znl.shared("spec-" .. count, { max_entries = 100 }):get("k"))
    assert.is_nil(znl.shared("spec-other"):get("k"))
  end)

  it("refuses other limits for a dictionary that is open", function()
    local ok, message = pcall(znl.shared, "spec-" .. count, { max_entries = 5 })
    assert.is_false(ok)
    assert.truthy(message:find("open with other limits", 1, true))
  end)

  it("keeps strings, numbers and booleans as they are", function()
    for _, value in ipairs { "text", "", "a\0b", 0, -1.5, 1e300, true, false } do
      assert.is_true(dictionary:set("k", value))
      assert.equal(value, dictionary:get("k"))
    end
    local long = ("x"):rep(100000)
    assert.is_true(dictionary:set("k", long))
    assert.equal(long, dictionary:get("k"))
    assert.is_nil(dictionary:get("absent"))
  end)

  it("adds, replaces, counts and deletes", function()
    local ok, _, code = dictionary:replace("k", 1)
    assert.is_nil(ok)
    assert.equal("NOT_FOUND", code)
    assert.is_true(dictionary:add("k", 1))
    ok, _, code = dictionary:add("k", 2)
    assert.is_nil(ok)
    assert.equal("EXISTS", code)
    assert.equal(2, dictionary:incr("k"))
    assert.equal(12, dictionary:incr("k", 10))
    ok, _, code = dictionary:incr("n", 1)
    assert.is_nil(ok)
    assert.equal("NOT_FOUND", code)
    assert.equal(6, dictionary:incr("n", 1, 5))
    dictionary:set("text", "x")
    local message
    ok, message, code = dictionary:incr("text", 1)
    assert.is_nil(ok)
    assert.equal("INVALID", code)
    assert.truthy(message:find("not a number", 1, true))
    assert.is_true(dictionary:delete("text"))
    assert.is_false(dictionary:delete("text"))
    local keys = dictionary:keys()
    table.sort(keys)
    assert.same({ "k", "n" }, keys)
    assert.equal(1, #dictionary:keys(1))
    assert.equal(2, dictionary:size())
    dictionary:flush()
    assert.equal(0, dictionary:size())
    assert.same({}, dictionary:keys())
  end)

  it("forgets what expired", function()
    dictionary:set("k", 1, 20)
    dictionary:incr("n", 1, 0, 20)
    dictionary:set("long", 1, 60000)
    znl.sleep(30)
    assert.is_nil(dictionary:get("k"))
    assert.equal(1, dictionary:get("long"))
    assert.equal(1, dictionary:incr("n", 1, 0))
    assert.equal(2, dictionary:size())
  end)

  it("makes room, and says so", function()
    for i = 1, 100 do
      local ok, evicted = dictionary:set("k" .. i, i)
      assert.is_true(ok)
      assert.equal(0, evicted)
    end
    local _, evicted = dictionary:set("one more", 1)
    assert.equal(1, evicted)
    assert.equal(100, dictionary:size())
    assert.equal(1, dictionary:stats().evicted)
  end)

  it("refuses instead when told to", function()
    local strict = znl.shared("spec-strict", { max_entries = 1, evict = false })
    assert.is_true(strict:set("a", 1))
    local ok, message, code = strict:set("b", 1)
    assert.is_nil(ok)
    assert.equal("NO_MEMORY", code)
    assert.truthy(message:find("^shared: "))
    local tiny = znl.shared("spec-tiny", { max_bytes = 4096 })
    assert.equal("TOO_BIG", select(3, tiny:set("a", ("x"):rep(5000))))
  end)

  it("raises for misuse, by name", function()
    for expected, call in pairs {
      ["value must be a string, a number or a boolean, not table"] = function() dictionary:set("k", {}) end,
      ["key must be a string, not number"] = function() dictionary:get(1) end,
      ["key must not be empty"] = function() dictionary:get("") end,
      ["key must be at most 1024 bytes long"] = function() dictionary:get(("k"):rep(1025)) end,
      ["ttl_ms must be a whole number in 0..4294967295"] = function() dictionary:set("k", 1, -1) end,
      ["by must be a number"] = function() dictionary:incr("k", "1") end,
      ["znl.shared: the name must be"] = function() znl.shared("") end,
      ["did you mean max_entries"] = function() znl.shared("spec-x", { entries = 1 }) end,
    } do
      local ok, message = pcall(call)
      assert.is_false(ok)
      assert.truthy(message:find(expected, 1, true), message)
    end
  end)
end)
