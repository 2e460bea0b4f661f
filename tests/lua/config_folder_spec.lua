--- znl.micro.config_folder and yaml_text: YAML files as JSON texts, read again when they change.
--- SPDX-License-Identifier: MIT
local config_folder = require("znl.micro.config_folder")
local eventually = require("support.eventually")
local folder = require("support.folder")
local yaml_text = require("znl.micro.yaml_text")

local function read(text, max_bytes)
  local members, message = yaml_text.read(text, max_bytes or 100000)
  if not members then return message end
  local list = {}
  for _, member in ipairs(members) do list[#list + 1] = member.key .. " " .. member.json end
  return list
end

describe("znl.micro.yaml_text", function()
  it("writes scalars as JavaScript reads them", function()
    for yaml, json in pairs {
      ["1"] = "1", ["-3"] = "-3", ["+4"] = "4", ["007"] = "7", ["-0"] = "0", ["0o17"] = "15", ["0x1F"] = "31",
      ["12345678901234567890"] = "12345678901234567890", ["1.5"] = "1.5", ["1e3"] = "1000", [".5"] = "0.5",
      ["5."] = "5", ["-1.5e-2"] = "-0.015", ["~"] = "null", ["null"] = "null", ["true"] = "true", ["False"] = "false",
      [".inf"] = "null", ["-.INF"] = "null", [".nan"] = "null", ["yes"] = '"yes"', ["on"] = '"on"',
      ["1_000"] = '"1_000"', ["12:30"] = '"12:30"', ["2020-01-02"] = '"2020-01-02"', ["'true'"] = '"true"',
      ['"x\\ny"'] = '"x\\ny"', ["!!str 5"] = '"5"', ["! 6"] = '"6"', ["."] = '"."', ["0x"] = '"0x"',
      ["{}"] = "{}", ["[]"] = "[]", [""] = "null", ["é"] = '"é"', ["1e999"] = "null",
    } do
      assert.same({ "k " .. json }, read("k: " .. yaml), yaml)
    end
  end)

  it("keeps the order of members and unfolds anchors and merges", function()
    assert.same({ 'b {"z":1,"a":[true,{}]}', 'a {"z":1,"a":[true,{}]}', 'c {"a":2,"z":1}' },
      read("b: &b {z: 1, a: [true, {}]}\na: *b\nc:\n  <<: *b\n  a: 2\n"))
    assert.same({ "80 1", "true 2", "null 3", "x 4" }, read("80: 1\ntrue: 2\n~: 3\n'x': 4"))
  end)

  it("names the items of a list by their index", function()
    assert.same({ "0 1", '1 {"b":2}' }, read("- 1\n- b: 2\n"))
  end)

  it("takes nothing for an empty mapping", function()
    for _, text in ipairs { "", "# nothing\n", "---\n", "{}" } do assert.same({}, read(text)) end
  end)

  it("says why it cannot read a text", function()
    for text, message in pairs {
      ["hello"] = "the document is neither a mapping nor a list",
      ["a: 1\na: 2"] = 'line 2: the key "a" stands twice',
      ["a: 1\n---\nb: 2"] = "line 2: one document is expected, not several",
      ["? [a]\n: b"] = "line 1: a key must be a scalar",
      ["a: *nope"] = "line 1: there is no anchor nope yet",
      ["a: &a [*a]"] = "an alias contains itself",
      ["a: {<<: 1}"] = "line 1: what << merges must be a mapping, or a list of mappings",
      [("["):rep(200)] = "line 1: more than 64 levels",
    } do
      assert.equal(message, read(text))
    end
    assert.matches("^line 2: found character that cannot start any token", read("a:\n\t- b"))
    assert.matches("UTF%-8", read("a: \255\n"))
  end)

  it("bounds what aliases unfold to", function()
    local lines = { "a0: &a0 [" .. ("x,"):rep(9) .. "x]" }
    for i = 1, 30 do
      lines[#lines + 1] = ("a%d: &a%d [%s]"):format(i, i, ("*a" .. i - 1 .. ","):rep(9))
    end
    assert.equal("unfolds to more than 100000 bytes", read(table.concat(lines, "\n")))
  end)
end)

describe("znl.micro.config_folder", function()
  local files, told, problems, open

  before_each(function()
    files, told, problems = folder.new(), {}, {}
    open = config_folder.new {
      path = files.path,
      on_value = function(namespace, key, json) told[#told + 1] = ("%s/%s=%s"):format(namespace, key, json) end,
      on_problem = function(text, path) problems[#problems + 1] = path:match("[^/]+$") .. ": " .. text end,
    }
  end)

  after_each(function()
    open:close()
    files:remove()
  end)

  local function take()
    local list = told
    told = {}
    return list
  end

  it("tells each key once, and again when it changes", function()
    files:write("svc.config.yaml", "debug: true\ndatabase: {host: localhost, port: 5432}\n")
    files:write("a.b.config.yaml", "x: 1\n")
    files:write("svc.yaml", "not: read\n")
    files:write(".config.yaml", "not: read\n")
    assert(open:start())
    assert.same({ "a.b/x=1", "svc/debug=true", 'svc/database={"host":"localhost","port":5432}' }, take())
    assert.same({ { debug = "true", database = '{"host":"localhost","port":5432}' }, { "debug", "database" } },
      { open:of("svc") })
    assert.is_nil(open:of("none"))

    files:write("svc.config.yaml", "debug: false\n") -- the other key stays
    eventually(function() return #told > 0 end)
    assert.same({ "svc/debug=false" }, take())
    files:replace("new.config.yaml", "k: [1]\n")
    eventually(function() return #told > 0 end)
    assert.same({ "new/k=[1]" }, take())
    files:remove("svc.config.yaml")
    files:write("a.b.config.yaml", "x: 2\n")
    eventually(function() return #told > 0 end)
    assert.same({ "a.b/x=2" }, take())
    assert.equal("false", (open:of("svc")).debug)
    assert.same({}, problems)
  end)

  it("keeps what was there when a file cannot be read, and says so once", function()
    files:write("svc.config.yaml", "k: 1\n")
    assert(open:start())
    files:write("svc.config.yaml", "k: [1\n")
    eventually(function() return #problems > 0 end)
    assert.matches("^svc%.config%.yaml: line %d: did not find expected", problems[1])
    files:write("other.config.yaml", "hello\n")
    eventually(function() return #problems > 1 end)
    assert.equal("other.config.yaml: the document is neither a mapping nor a list", problems[2])
    assert.equal("1", (open:of("svc")).k)
    files:write("svc.config.yaml", "k: 2\n")
    eventually(function() return (open:of("svc")).k == "2" end)
    assert.equal(2, #problems)
  end)

  it("refuses files that are too large", function()
    files:write("svc.config.yaml", "k: " .. ("x"):rep(1024 * 1024))
    assert(open:start())
    assert.equal(1, #problems)
    assert.matches("1048576", problems[1])
  end)

  it("says that there is no such folder", function()
    local other = config_folder.new { path = files:at("nowhere"), on_value = error, on_problem = error }
    local ok, message, code = other:start()
    assert.is_nil(ok)
    assert.matches("nowhere", message)
    assert.equal("NOT_FOUND", code)
  end)
end)
