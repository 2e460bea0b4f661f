--- znl.transcode: what values become, what they come back as, what is refused.
--- SPDX-License-Identifier: MIT
local ffi = require("ffi")
local znl = require("znl")

local transcode, null, undefined = znl.transcode, znl.null, znl.undefined

--- The value of the text of a value.
local function through(value)
  local text = assert(transcode.encode(value))
  local back, message = transcode.decode(text)
  assert.is_nil(message)
  return back, text
end

--- What cannot be written of a value, and where.
local function refused(value)
  local text, message, code = transcode.encode(value)
  assert.is_nil(text)
  assert.equal("INVALID", code)
  return message
end

local function read(text)
  local value, message = transcode.decode(text)
  assert.is_nil(message)
  return value
end

describe("znl.transcode", function()
  it("writes what the original writes", function()
    for text, value in pairs {
      ["^^^^-1"] = true, ["^^^^-2"] = false, ["^^^^-3"] = null, ["^^^^-4"] = "", ["hello^^^^0"] = "hello",
      ["+%2B%7C%5E%25^^^^0"] = " +|^%", ["^-10^^^0"] = -36, ["^2GOSA7PA2GV^^^0"] = 2 ^ 53 - 1, ["^^0.1^^0"] = 0.1,
      ["^^5e-324^^0"] = 5e-324, ["^^-Infinity^^0"] = -math.huge, ["^0^^^0"] = -0.0, ["^^^^@]"] = znl.json.array(),
      ["^^^^$]"] = {}, ["a^1^0.5^1^@0|1|2|3]"] = { "a", 1, 0.5, znl.date(1) }, ["a|x^^^^$0|1]"] = { a = "x" },
      ["^1|3^^^@0|-5|1]"] = { 1, nil, 3 }, ["^0|73|G^^^*0|1|2]"] = znl.bytes("\0\255\16"),
      ["message|boom|name|E|code|X^^^^#0|1|2|3|4|5]"] = transcode.error { name = "E", code = "X", message = "boom" },
    } do
      assert.equal(text, transcode.encode(value))
    end
    assert.equal("^^^^-5", transcode.encode(nil))
    assert.equal("^^^^-5", transcode.encode(undefined))
    assert.equal("^^^^@-5]", transcode.encode { undefined })
    assert.equal("^^NaN^^0", transcode.encode(0 / 0))
  end)

  it("gives back plain values", function()
    local value = {
      text = "한 😀 a+b|c^d%e", yes = true, no = false, nothing = null, list = { 1, { 2, {} } }, ["with space"] = -1.5,
      deep = { a = { b = { c = { "x" } } } }, [""] = "",
    }
    assert.same(value, through(value))
  end)

  it("keeps lists lists, also empty ones", function()
    assert.is_true(znl.json.is_array(read("^^^^@]")))
    assert.is_false(znl.json.is_array(read("^^^^$]")))
    assert.equal("^^^^@@]|$]]", transcode.encode(read("^^^^@@]|$]]")))
  end)

  it("tells undefined from null and from what is not there", function()
    local value, message = transcode.decode("^^^^-5")
    assert.is_nil(value)
    assert.is_nil(message)
    assert.equal(null, read("^^^^-3"))
    local list = read("^1^^^@-5|-3|0|-5]")
    assert.equal(4, #list)
    assert.equal(undefined, list[1])
    assert.equal(null, list[2])
    assert.equal(undefined, list[4])
    assert.same({ b = null }, read("a|b^^^^$0|-5|1|-3]"))
    assert.is_nil(next(read("a|a^1^^^$0|2|1|-5]")), "the last field of a name counts")
    assert.equal("undefined", transcode.kind(undefined))
    assert.not_equal(null, undefined)
  end)

  it("reads and writes bytes", function()
    local all = {}
    for byte = 0, 255 do all[byte + 1] = string.char(byte) end
    for _, size in ipairs { 0, 1, 15, 16, 17, 35, 36, 37, 64, 100, 1295, 1296, 1297, 5000 } do
      local text = (table.concat(all):rep(20) .. "tail"):sub(-size - 1, -2)
      local bytes, written = through(znl.bytes(text))
      assert.equal("bytes", transcode.kind(bytes))
      assert.equal(size, #bytes)
      assert.is_true(tostring(bytes) == text)
      assert.equal(written, transcode.encode(bytes))
    end
    local bytes = znl.bytes("abcde")
    assert.is_true(bytes == znl.bytes("abcde"))
    assert.is_false(bytes == znl.bytes("abcdf"))
    for _, range in ipairs { { 1, 5 }, { 2 }, { -2 }, { 2, -2 }, { 0, 9 }, { 4, 2 }, { -9, 2 }, { 6 }, {} } do
      local first, last = range[1], range[2]
      assert.equal(("abcde"):sub(first or 1, last or -1), bytes:sub(first, last))
    end
    assert.has_error(function() bytes.x = 1 end)
    assert.has_error(function() znl.bytes(12) end)
    local list = read("^1^^^@*0]|*]]")
    assert.is_true(list[1] == znl.bytes("\1") and list[2] == znl.bytes(""))
    assert.is_true(read("^-1|73|7P|1^1.9^1^*0|1|2|-1|-3|-5|4|5]") == znl.bytes("\255\255\21\1\0\0\1\1"))
  end)

  it("reads and writes dates", function()
    local date = through(znl.date(1700000000123.9))
    assert.equal("date", transcode.kind(date))
    assert.equal(1700000000123, date.ms)
    assert.equal("2023-11-14T22:13:20.123Z", tostring(date))
    assert.is_true(date == znl.date(1700000000123))
    for ms, text in pairs {
      [0] = "1970-01-01T00:00:00.000Z", [-1] = "1969-12-31T23:59:59.999Z", [951782400000] = "2000-02-29T00:00:00.000Z",
      [4107542400000] = "2100-03-01T00:00:00.000Z", [-62167219200000] = "0000-01-01T00:00:00.000Z",
      [-62167219200001] = "-000001-12-31T23:59:59.999Z", [253402300800000] = "+010000-01-01T00:00:00.000Z",
      [8.64e15] = "+275760-09-13T00:00:00.000Z", [-8.64e15] = "-271821-04-20T00:00:00.000Z",
    } do
      assert.equal(text, tostring(znl.date(ms)))
      assert.equal(ms, through(znl.date(ms)).ms)
    end
    for _, wrong in ipairs { 8.64e15 + 1, 0 / 0, math.huge, "x" } do
      assert.has_error(function() znl.date(wrong) end)
    end
    local invalid = read("^^^-^0")
    assert.is_true(invalid.ms ~= invalid.ms)
    assert.equal("Invalid Date", tostring(invalid))
    assert.equal("a date out of range at when", refused { when = invalid })
    date.ms = "noon"
    assert.equal("a date out of range", refused(date))
  end)

  it("reads and writes errors", function()
    local failure = transcode.error { message = "no", name = "TypeError", code = 404, stack = "at x", more = { 1 } }
    local back, text = through(failure)
    assert.equal("error", transcode.kind(back))
    assert.equal("TypeError: no", tostring(back))
    assert.equal("Error: ", tostring(transcode.error {}))
    assert.same({ message = "no", name = "TypeError", code = 404, stack = "at x", more = { 1 } },
      { message = back.message, name = back.name, code = back.code, stack = back.stack, more = back.more })
    assert.equal("message|no|stack|at+x|name|TypeError|code|more^", text:match("^[^^]*^"))
    assert.equal("error", transcode.kind(transcode.error(failure)), "marked twice is marked")
    assert.has_error(function() transcode.error(setmetatable({}, {})) end)
    assert.equal("a function at cause.code[1]", refused { cause = transcode.error { code = { print } } })
    assert.equal("error", transcode.kind(read("^^^^@#]]")[1]))
  end)

  it("keeps long whole numbers", function()
    for _, value in ipairs {
      9223372036854775807LL, -9223372036854775807LL - 1, 9007199254740993LL, 18446744073709551615ULL,
    } do
      local back = through { value }[1]
      assert.is_true(ffi.istype(value, back) and back == value)
    end
    assert.equal(-12, through(-12LL))
    assert.equal(7, through(7ULL))
    for _, value in ipairs { 2 ^ 53, -2 ^ 53, 2 ^ 53 + 2, 2 ^ 63, 1e21, 1e100, 1.7976931348623157e308 } do
      local back = through(value)
      assert.equal("number", type(back))
      assert.equal(value, back)
    end
  end)

  it("writes keys that are numbers as their texts, reads what is no string so", function()
    assert.same({ ["-1"] = 1, ["1.5"] = 2, a = 3 }, through { [-1] = 1, [1.5] = 2, a = 3 })
    assert.same({ ["7"] = true, ["NaN"] = true, ["null"] = true, ["true"] = true, ["undefined"] = true },
      read("^7^NaN^^$0|-1|1|-1|-3|-1|-1|-1|-5|-1]"))
    for _, text in ipairs { "^^^^$@]|-1]", "^^^^$$]|-1]", "^^^^$*]|-1]", "^^^1^$0|-1]" } do
      assert.equal("PROTO", (select(3, transcode.decode(text))))
    end
  end)

  it("refuses what has no form, and says where it is", function()
    assert.equal("a function", refused(print))
    assert.equal("a function at args.x[2].y", refused { args = { x = { 1, { y = print } } } })
    assert.equal("a thread at t", refused { t = coroutine.create(print) })
    assert.equal("a userdata", refused(newproxy()))
    assert.equal("a userdata", refused(znl.json.raw("1")))
    assert.equal("a cdata", refused(ffi.new("int32_t[1]")))
    assert.equal("a string that is not UTF-8 at a.b", refused { a = { b = "\255" } })
    assert.equal("a string that is not UTF-8 as a key", refused { ["\255"] = 1 })
    assert.equal("a boolean as a key", refused { [true] = 1 })
    assert.equal("an array with more holes than values", refused { [100000] = 1 })
    assert.equal("a key that is no index in an array", refused(znl.json.array { x = 1 }))
    local cycle = {}
    cycle.inner = cycle
    assert.truthy(refused(cycle):find("more than 128 tables inside each other at …", 1, true))
    assert.has_error(function() transcode.encode() end)
  end)

  it("runs no metamethods", function()
    local watched = setmetatable({ a = 1 }, {
      __index = function() error("asked") end, __pairs = function() error("asked") end,
      __len = function() error("asked") end, __tostring = function() error("asked") end,
    })
    assert.equal("a^1^^^$0|1]", transcode.encode(watched))
  end)

  it("reads as deep as it is told", function()
    local text = "^^^^" .. ("@"):rep(128)
    assert.equal(1, #read(text))
    for _, case in ipairs { { text .. "@" }, { text, 127 }, { "^^^^" .. ("$-4|"):rep(100000), 1000 } } do
      local value, message, code = transcode.decode(case[1], case[2])
      assert.is_nil(value)
      assert.equal("LIMIT", code)
      assert.truthy(message)
    end
    assert.equal(1, #read("^^^^" .. ("@"):rep(3)))
    assert.truthy(transcode.decode("^^^^" .. ("@"):rep(1000), 1000))
    assert.has_error(function() transcode.decode(text, 1001) end)
    assert.has_error(function() transcode.decode(12) end)
  end)

  it("refuses texts that are none", function()
    for _, text in ipairs { "", "garbage", "^^^", "\255^^^^0", "^1^^^*@0]]" } do
      local value, message, code = transcode.decode(text)
      assert.is_nil(value)
      assert.equal("PROTO", code)
      assert.equal("transcode.decode: malformed bytes", message)
    end
  end)

  it("gives no more for a text than it is worth", function()
    local text = ("x"):rep(100000) .. "^^^^@" .. ("0|"):rep(100000) .. "]"
    assert.equal("LIMIT", (select(3, transcode.decode(text))))
    assert.same({ "ab", "ab", "c", "ab" }, read("ab|c^^^^@0|0|1|0]"))
  end)

  it("may be called by a finalizer while it is at work", function()
    local count = 0
    local function finalize()
      count = count + 1
      through { ("inner"):rep(300), { count } }
    end
    local list = {}
    for i = 1, 300 do list[i] = { ("outer %d "):format(i):rep(20), znl.bytes(("b"):rep(i)) } end
    local _, text = through(list)
    collectgarbage("collect")
    collectgarbage("setpause", 10)
    for _ = 1, 20 do
      for _ = 1, 50 do
        local proxy = newproxy(true)
        getmetatable(proxy).__gc = finalize
      end
      local back = read(text)
      assert.is_true(text == transcode.encode(back))
      assert.equal(list[300][1], back[300][1])
      assert.is_true(list[300][2] == back[300][2])
    end
    collectgarbage("collect")
    collectgarbage("setpause", 200)
    assert.equal(1000, count)
  end)
end)
