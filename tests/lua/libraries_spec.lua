-- The Lua libraries inside the binary: there, and not another's from package.path.
-- SPDX-License-Identifier: MIT

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

describe("libraries", function()
  it("are found without package.path and package.cpath", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write [[
      package.path, package.cpath = "", ""
      for _, name in ipairs { "luv", "cjson", "cjson.safe", "argparse", "lpeg", "re", "lyaml" } do
        assert(type(require(name)) == "table", name)
      end
      io.write("all here")
    ]]
    file:close()
    local pipe = assert(io.popen(znlrun .. " " .. path .. " 2>&1"))
    local text = pipe:read("*a")
    pipe:close()
    os.remove(path)
    assert.equal("all here", text)
  end)

  it("walk tables to the end, also in compiled loops inside of loops", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write [[
      local inner = { 1, 2, 3, 4, 5 }
      local outer = { a = inner, b = inner, c = inner, d = inner, e = inner }
      local function leave_the_trace(...) for _ = 1, 100 do end end
      for round = 1, 100000 do
        leave_the_trace()
        local seen = 0
        for _, list in pairs(outer) do
          for _ in pairs(list) do end
          seen = seen + 1
        end
        assert(seen == 5, seen)
      end
      io.write("all seen")
    ]]
    file:close()
    local pipe = assert(io.popen(znlrun .. " " .. path .. " 2>&1"))
    local text = pipe:read("*a")
    pipe:close()
    os.remove(path)
    assert.equal("all seen", text)
  end)

  it("say where pairs and next were misused", function()
    local ok, message = pcall(function() for _ in pairs(nil) do end end)
    assert.is_false(ok)
    assert.matches("libraries_spec%.lua:%d+: bad argument #1 to 'pairs' %(table expected, got nil%)", message)
    assert.is_nil(next({}))
    assert.same({ 1, 7 }, { next({ 7 }) })
  end)

  it("lyaml reads and writes YAML", function()
    local lyaml = require("lyaml")
    local read = lyaml.load("name: znl\nports: [6003, 6004]\nnested:\n  flag: on\n  none: null\n")
    assert.equal("znl", read.name)
    assert.same({ 6003, 6004 }, read.ports)
    assert.is_true(read.nested.flag)
    assert.equal(lyaml.null, read.nested.none)
    local data = { list = { 1, 2.5, "three" }, text = "a: b\n", yes = true }
    assert.same(data, lyaml.load(lyaml.dump { data }))
    assert.is_false(pcall(lyaml.load, "a: [1, 2"))
  end)

  it("lpeg and re match grammars", function()
    local lpeg, re = require("lpeg"), require("re")
    local number = lpeg.R("09") ^ 1 / tonumber
    assert.same({ 1, 22, 3 }, lpeg.Ct(number * ("," * number) ^ 0):match("1,22,3"))
    assert.same({ { "a", "1" }, { "b", "2" } }, re.match("a=1;b=2", [[
      list  <- {| pair (';' pair)* |} !.
      pair  <- {| {[a-z]+} '=' {[0-9]+} |}
    ]]))
    assert.is_nil(re.match("a=;", "{[a-z]+} '=' {[0-9]+}"))
  end)
end)
