-- JSON as calls carry it. SPDX-License-Identifier: MIT

local json = require("znl.json")
local cjson = require("cjson")

local function back(value)
  local text = assert(json.encode(value))
  local ok, read = json.decode(text)
  assert.is_true(ok, read)
  return read, text
end

describe("json", function()
  it("keeps numbers", function()
    for _, number in ipairs { 0, 1, -1, 2 ^ 53, -2 ^ 53, 0.1, 1 / 3, 1e300, 5e-324, 1700000000000123, 1e15 } do
      assert.equal(number, (back(number)))
    end
    assert.equal("9007199254740992", json.encode(2 ^ 53))
    assert.equal("0.1", json.encode(0.1))
  end)

  it("knows null at the top, and keeps it inside", function()
    assert.equal("null", json.encode(nil))
    assert.same({ true, nil }, { json.decode("null") })
    assert.equal(cjson.null, (back { a = cjson.null }).a)
  end)

  it("tells arrays from objects", function()
    assert.equal("[1,2]", json.encode { 1, 2 })
    assert.equal("[1,null,3]", json.encode { 1, nil, 3 })
    assert.equal("{}", json.encode {})
    assert.equal('{"a":[]}', (json.encode { a = {} }:gsub("{}}$", "[]}")))
    assert.same({ a = 1, ["2"] = 3 }, (back { a = 1, [2] = 3 }))
    assert.matches("more holes than values", select(2, json.encode { [1000] = 1 }))
  end)

  it("escapes what must be, and nothing else", function()
    local text = 'a"b\\c\n\r\t\0\31\127 é 😀 /'
    assert.equal(text, (back(text)))
    assert.equal('"\\u0000é/"', json.encode("\0é/"))
  end)

  it("says what cannot be written, and where", function()
    assert.equal("a function at done", select(2, json.encode { done = print }))
    assert.matches("^the number %-?nan at %[2%]$", select(2, json.encode { 1, 0 / 0 }))
    assert.matches("as a key$", select(2, json.encode { [true] = 1 }))
    local loop = {}
    loop.loop = loop
    assert.matches("^more than 128 tables", select(2, json.encode(loop)))
  end)

  it("refuses what is no JSON", function()
    for _, text in ipairs { "", "nul", "{", "[1,]", "1 2", "NaN", "Infinity", "0x10", ("["):rep(200) } do
      local ok, message = json.decode(text)
      assert.is_false(ok, text)
      assert.is_string(message)
    end
  end)
end)
