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
    assert.matches("^the number nan at %[2%]$", select(2, json.encode { 1, 0 / 0 }))
    assert.matches("as a key$", select(2, json.encode { [true] = 1 }))
    local loop = {}
    loop.loop = loop
    assert.matches("^more than 128 tables", select(2, json.encode(loop)))
  end)

  it("has one text for equal values", function()
    assert.equal('{"a":{"b":[1,null,{}],"c":[]},"ab":true,"b":null}',
      json.canonical { b = json.null, ab = true, a = { c = json.array(), b = { 1, nil, {} } } })
    -- Array indexes are first, in numeric order; numbers as JavaScript has them.
    assert.equal('{"2":1.5,"10":100,"01":0}', json.canonical { ["10"] = 1e2, ["01"] = -0, [2] = 1.5 })
    assert.equal("[1e+21,1e-7,9007199254740992]", json.canonical { 1e21, 1e-7, 9007199254740993LL })
    assert.equal("null", json.canonical(nil))
    assert.equal('"/\\u001f"', json.canonical("/\31"))
    local many, names = {}, {}
    for i = 1, 200 do
      names[i] = ("n%03d"):format(i)
      many[names[i]] = { z = i, a = 0 }
    end
    local text = assert(json.canonical(many))
    local at = 0
    for i, name in ipairs(names) do
      local found = text:find(('"%s":{"a":0,"z":%d}'):format(name, i), at + 1, true)
      assert.is_true(found and found > at)
      at = found
    end
  end)

  it("keeps the order of a raw text", function()
    local raw = assert(json.raw(' { "b" : 1.0, "a" : "\\u00e9", "b" : 2, "1" : 0 } '))
    assert.equal('{"1":0,"b":2,"a":"é"}', json.canonical(raw))
    assert.equal('[{"1":0,"b":2,"a":"é"}]', json.canonical { raw })
  end)

  it("says what has no canonical text", function()
    assert.same({ [2] = "a function at a.done", [3] = "INVALID" }, { json.canonical { a = { done = print } } })
    assert.same({ [2] = "a number and a string as the same key at a", [3] = "INVALID" },
      { json.canonical { a = { [1] = 1, ["1"] = 2 } } })
    assert.matches("^the number nan", select(2, json.canonical { 0 / 0 }))
  end)

  it("keeps empty arrays and empty objects apart", function()
    for _, text in ipairs { "[]", "{}", "[[],{}]", '{"a":[]}', '{"a":{}}' } do
      local ok, value = json.decode(text)
      assert.is_true(ok)
      assert.equal(text, json.encode(value))
    end
    assert.equal("[]", json.encode(json.array()))
    assert.equal("[1]", json.encode(json.array { 1 }))
    local list = select(2, json.decode("[1]"))
    assert.is_true(json.is_array(list))
    table.remove(list)
    assert.equal("[]", json.encode(list))
    assert.is_false(json.is_array {})
    assert.matches("no index in an array", select(2, json.encode(json.array { x = 1 })))
    assert.has_error(function() json.array(setmetatable({}, {})) end)
    local marked = json.array { 1 }
    assert.equal(marked, json.array(marked))
  end)

  it("keeps whole numbers past 2^53, both ways", function()
    for _, text in ipairs { "9007199254740993", "-9007199254740993", "9223372036854775807",
      "-9223372036854775808", "9223372036854775808", "18446744073709551615" } do
      local ok, value = json.decode(text)
      assert.is_true(ok and json.is_long(value))
      assert.equal(text, json.encode(value))
    end
    assert.equal(9007199254740993LL, select(2, json.decode("9007199254740993")))
    assert.equal("5", json.encode(5ULL))
    -- Doubles stay doubles.
    for _, number in ipairs { 2 ^ 53, -2 ^ 53, 2 ^ 60, 2 ^ 63, 1e20, 1e21, -2 ^ 64 } do
      local value = back(number)
      assert.equal("number", type(value))
      assert.equal(number, value)
    end
    assert.equal("number", type((select(2, json.decode("18446744073709551616")))))
    assert.equal(math.huge, select(2, json.decode("1e400")))
    assert.is_false(json.is_long(5))
    assert.matches("^a cdata", select(2, json.encode(require("ffi").new("int64_t[1]"))))
  end)

  it("writes text as it is when asked to", function()
    assert.equal('[{"b": [1]},2]', json.encode { json.raw(' {"b": [1]} '), 2 })
    assert.equal("1", tostring(json.raw("1")))
    for _, text in ipairs { "", "[1,", "1 2", "nan", '"\xff"' } do
      local value, message, code = json.raw(text)
      assert.is_nil(value)
      assert.matches("^json: ", message)
      assert.equal("PROTO", code)
    end
    assert.has_error(function() json.raw(1) end)
  end)

  it("refuses text that is not UTF-8, both ways", function()
    assert.same({ false, "json: malformed at byte 2" }, { json.decode('"\xff"') })
    assert.same({ nil, "a string that is not UTF-8 at a[2]", "INVALID" }, { json.encode { a = { 1, "\xff" } } })
    assert.matches("not UTF%-8 as a key", select(2, json.encode { ["\xff"] = 1 }))
  end)

  it("names the place of a problem, however deep", function()
    assert.equal("a function at list[2].done", select(2, json.encode { list = { 1, { done = print } } }))
    assert.equal("a function at ?", select(2, json.encode { [("x"):rep(70)] = print }))
    local value = print
    for _ = 1, 100 do value = { [("k"):rep(20)] = value } end
    local message = select(2, json.encode(value))
    assert.is_true(#message < 200)
    assert.matches("^a function at …%.kkk", message)
    assert.equal("a userdata", select(2, json.encode(io.stdout)))
  end)

  it("reads tables of any size and depth", function()
    local object, list = {}, {}
    for i = 1, 300 do
      object["key" .. i] = { i, { i } }
      list[i] = { n = i, inner = { {}, { i } } }
    end
    assert.same(object, (back(object)))
    assert.same(list, (back(list)))
    local deep = ('{"a":['):rep(64) .. ("]}"):rep(64)
    assert.equal(deep, json.encode(select(2, json.decode(deep))))
    assert.matches("nested too deeply", select(2, json.decode(("["):rep(129) .. ("]"):rep(129))))
    assert.equal(2, select(2, json.decode('{"a":1,"b":0,"a":2}')).a)
  end)

  it("takes time in proportion to a tree, not to its depth", function()
    local node, holes = { 1 }, { 1 }
    for _ = 1, 100 do node, holes = { 1, node, name = "x" }, { 1, nil, holes, 4 } end
    assert.equal(100, select(2, json.encode(node):gsub('"name"', "")))
    assert.equal(101, select(2, json.encode(holes):gsub("%[", "")))
  end)

  it("refuses what is no JSON", function()
    for _, text in ipairs { "", "nul", "{", "[1,]", "1 2", "NaN", "Infinity", "0x10", ("["):rep(200) } do
      local ok, message = json.decode(text)
      assert.is_false(ok, text)
      assert.is_string(message)
    end
  end)
end)
