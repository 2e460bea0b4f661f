--- What a prompt is made of: the line editor, history, completion, and values as text.
--- SPDX-License-Identifier: MIT

describe("the line editor", function()
  local history = require("znl.cli.history")
  local line_editor = require("znl.cli.line_editor")

  local function typed(keys, lines)
    local past = history.open()
    for _, line in ipairs(lines or {}) do past:add(line) end
    local editor = line_editor.new(past)
    local actions = editor:feed(keys)
    return editor, actions
  end

  local function line(keys, lines)
    local editor = typed(keys, lines)
    return editor:text(true) .. "|" .. editor:text():sub(#editor:text(true) + 1)
  end

  it("edits as readline does", function()
    for keys, expected in pairs {
      ["abc"] = "abc|", ["abc\2\2X"] = "aX|bc", ["abc\1X"] = "X|abc", ["abc\1\6X"] = "aX|bc", ["abc\1\5X"] = "abcX|",
      ["abc\127"] = "ab|", ["abc\1\4"] = "|bc", ["\127abc"] = "abc|", ["one two\23"] = "one |",
      ["one two  \23X"] = "one X|", ["abc\2\11"] = "ab|", ["abc\2\21"] = "|c", ["one two\23\1\25"] = "two|one ",
      ["abc\27[DX"] = "abX|c", ["abc\27[HX"] = "X|abc", ["abc\27[H\27[FX"] = "abcX|", ["abc\27OH\27[3~"] = "|bc",
      ["one two\27bX"] = "one X|two", ["one two\1\27fX"] = "oneX| two", ["one two\1\27d"] = "| two",
      ["one two\27\127"] = "one |", ["one two\27[1;5DX"] = "one X|two", ["abc\27[15~\27[99zd"] = "abcd|",
      ["h\195\169\127"] = "h|", ["h\195\169llo\1\6\4"] = "h|llo", ["日本\2\127"] = "|本", ["a\128\255b"] = "ab|",
      ["\0a\28b"] = "ab|", ["\27[200~a\9b\27[201~"] = "a  b|",
    } do
      assert.equal(expected, line(keys), ("%q"):format(keys))
    end
  end)

  it("takes keys however they are cut", function()
    local whole = "a\27[D\195\169\27[3~\27[1;5C日\1X"
    local editor = typed("")
    for at = 1, #whole do editor:feed(whole:sub(at, at)) end
    assert.equal(line(whole), editor:text(true) .. "|" .. editor:text():sub(#editor:text(true) + 1))
  end)

  it("says what keys amount to", function()
    local editor, actions = typed("one\rtwo\n\3x\9\12\4\3\4")
    local kinds = {}
    for index, action in ipairs(actions) do kinds[index] = action.kind .. (action.text or "") end
    assert.same({ "lineone", "linetwo", "interrupt", "complete", "clear", "interrupt", "eof" }, kinds)
    assert.equal("", editor:text())
  end)

  it("recalls lines, and keeps what was being typed", function()
    local lines = { "first", "second" }
    assert.equal("second|", line("\16", lines))
    assert.equal("first|", line("\27[A\27[A", lines))
    assert.equal("first|", line("\16\16\16\16", lines))
    assert.equal("new|", line("new\16\16\14\14", lines))
    assert.equal("new|", line("new\14", lines))
  end)

  it("searches backwards", function()
    local lines = { "print(1)", "x = 2", "print(3)" }
    assert.equal("print(3)|", line("\18pr", lines))
    assert.equal("print(1)|", line("\18pr\18", lines))
    assert.equal("print(1)|", line("\18pr\18\18\18", lines))
    assert.equal("x = 2|", line("\18pr\127\127x\5", lines))
    assert.equal("typed|", line("typed\18pr\7", lines))
    local editor, actions = typed("\18pr\r", lines)
    assert.equal("print(3)", actions[1].text)
    assert.equal("", editor:text())
  end)

  it("draws the line in one row, with the cursor in it", function()
    local editor = typed("hello")
    editor.prompt = "> "
    assert.equal("\r> hello\27[K\r\27[7C", editor:render(80))
    editor:set(("x"):rep(200) .. "END")
    local drawn = editor:render(40)
    assert.truthy(drawn:find("END\27[K", 1, true))
    assert.truthy(#drawn < 60)
    editor:feed("\1")
    assert.equal("\r> " .. ("x"):rep(37) .. "\27[K\r\27[2C", editor:render(40))
    editor:set("日本")
    assert.equal("\r> 日本\27[K\r\27[6C", editor:render(40))
    for columns = 0, 12 do editor:render(columns) end
  end)

  it("holds no more than it may", function()
    local editor = typed("")
    editor:feed(("x"):rep(line_editor.CHARACTERS_MAX - 1))
    editor:replace(0, "12345")
    assert.equal(line_editor.CHARACTERS_MAX - 1, #editor:text())
  end)
end)

describe("the history", function()
  local folder = require("support.folder")
  local history = require("znl.cli.history")
  local uv = require("luv")
  local here

  before_each(function() here = folder.new() end)
  after_each(function() here:remove() end)

  it("survives, for its owner only", function()
    local past = history.open(here:at("h"))
    for _, text in ipairs { "one", "two\nlines \\n", "", "  ", "three", "three" } do past:add(text) end
    assert.is_true(past:save())
    assert.equal(384, bit.band(uv.fs_stat(here:at("h")).mode, 511)) -- 0600
    assert.same({ "one", "two\nlines \\n", "three" }, history.open(here:at("h")).lines)
    past:add("four")
    assert.is_true(past:save())
    assert.equal(4, #history.open(here:at("h")).lines)
  end)

  it("is bounded", function()
    local past = history.open(here:at("h"))
    for index = 1, 1500 do past:add("line " .. index) end
    assert.is_true(past:save())
    past = history.open(here:at("h"))
    assert.equal(1000, #past.lines)
    assert.equal("line 1500", past.lines[1000])
  end)

  it("does without a file", function()
    local past = history.open(here:at("no/such/folder/h"))
    past:add("one")
    local ok, message = past:save()
    assert.is_nil(ok)
    assert.truthy(message:find("ENOENT"))
    here:make("folder")
    assert.same({}, history.open(here:at("folder")).lines)
  end)
end)

describe("completion of names", function()
  local name_completion = require("znl.cli.name_completion")

  local class = { method = function() end, field = 1 }
  class.__index = class
  local environment = setmetatable({
    alpha = { one = 1, other = { deep = 1 } }, alpine = 1, object = setmetatable({}, class),
  }, { __index = _G })

  it("finds globals, fields and methods", function()
    for text, expected in pairs {
      ["alp"] = { "alpha", "alpine" }, ["x = alph"] = { "alpha" }, ["alpha.o"] = { "one", "other" },
      ["alpha.other."] = { "deep" }, ["object:"] = { "method" }, ["object."] = { "__index", "field", "method" },
      ["string.for"] = { "format" }, ["print(tos"] = { "tostring" }, ["func"] = { "function" }, ["nothing.x"] = {},
      ["alpha.one.x"] = {}, [""] = {}, ["1 + "] = {}, ["f()."] = {}, ["'text'."] = {},
    } do
      assert.same(expected, (name_completion.find(text, environment)), text)
    end
  end)

  it("runs nothing of what it looks at", function()
    local trap = setmetatable({}, { __index = function() error("called") end })
    assert.same({}, (name_completion.find("trap.x.y", { trap = trap })))
  end)

  it("knows how far candidates agree", function()
    assert.equal("alp", name_completion.common { "alpha", "alpine" })
    assert.equal("", name_completion.common { "a", "b" })
    assert.equal("", name_completion.common {})
  end)
end)

describe("values as text", function()
  local pretty = require("znl.pretty")

  it("read as Lua where they can", function()
    local cycle = { name = "x" }
    cycle.self = cycle
    for _, row in ipairs {
      { nil, "nil" }, { true, "true" }, { 1, "1" }, { -0.5, "-0.5" }, { 1e15, "1000000000000000" }, { 1e300, "1e+300" },
      { 0 / 0, "nan" }, { 1 / 0, "inf" }, { 0.1, "0.1" }, { 1 / 3, "0.33333333333333331" },
      { "a\n\"b\"\0", '"a\\n\\"b\\"\\000"' },
      { {}, "{}" }, { { 1, 2, x = "y" }, '{ 1, 2, x = "y" }' }, { { ["end"] = 1, [3] = 2, ["a b"] = 3 },
        '{ [3] = 2, ["a b"] = 3, ["end"] = 1 }' }, { cycle, '{ name = "x", self = <the table above> }' },
      { setmetatable({}, { __tostring = function() return "an object" end }), "an object" },
      { setmetatable({}, { __tostring = function() error("broken") end }), "table" },
    } do
      assert.equal(row[2], pretty.format(row[1]))
    end
  end)

  it("are cut where they are long", function()
    assert.equal('"aaa" … 10 bytes in all', pretty.format(("a"):rep(10), { bytes = 3 }))
    assert.equal("{ 1, 2, … 3 more }", pretty.format({ 1, 2, 3, 4, 5 }, { items = 2 }))
    assert.equal("{ { {…} } }", pretty.format({ { { 1 } } }, { depth = 2 }))
    assert.equal("{\n  aaaa = 1,\n  bbbb = 2\n}", pretty.format({ aaaa = 1, bbbb = 2 }, { width = 10 }))
  end)
end)
