--- The tools, as a person runs them: the real binary, and where one is needed a real master.
--- SPDX-License-Identifier: MIT

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

--- Runs a shell command; returns its exit code, standard output and standard error.
local function shell(command)
  local errors = os.tmpname()
  local pipe = assert(io.popen(("( %s ) 2>%s; echo \"exit $?\""):format(command, errors), "r"))
  local out = pipe:read("*a")
  pipe:close()
  local file = assert(io.open(errors))
  local err = file:read("*a")
  file:close()
  os.remove(errors)
  local text, code = out:match("^(.*)exit (%d+)\n$")
  return tonumber(code), text, err
end

local function run(arguments)
  return shell("timeout 20 " .. znlrun .. " " .. arguments)
end

local function has(expected, text)
  assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
end

describe("tools", function()
  it("are listed by --help and help", function()
    for _, arguments in ipairs { "--help", "-h", "help" } do
      local code, out = run(arguments)
      assert.equal(0, code)
      has("usage: znlrun", out)
      has("\n  keygen ", out)
    end
  end)

  it("have a help each, also by help NAME", function()
    local tools = require("znl.tools")
    for _, name in ipairs(tools.NAMES) do
      local code, out = run(name .. " --help")
      assert.equal(0, code, name)
      has("Usage: znlrun " .. name, out)
      has("Exit codes:", out)
      local again = select(2, run("help " .. name))
      assert.equal(out, again)
    end
  end)

  it("a wrong name suggests the nearest tool", function()
    local code, out, err = run("keygne")
    assert.equal(2, code)
    assert.equal("", out)
    has("did you mean keygen?", err)
    err = select(3, run("'bad name;'"))
    has("neither a file nor a tool", err)
    assert.equal(2, (run("help nothing-like-it")))
  end)

  it("a file by the name of a tool is a script, a folder is not", function()
    local folder = os.tmpname()
    os.remove(folder)
    local binary = znlrun:sub(1, 1) == "/" and znlrun or "$OLDPWD/" .. znlrun
    local code, out = shell(("mkdir %s && cd %s && echo \"io.write('a script')\" > keygen && %s keygen")
      :format(folder, folder, binary))
    assert.equal(0, code)
    assert.equal("a script", out)
    code, out = shell(("cd %s && rm keygen && mkdir keygen && %s keygen"):format(folder, binary))
    shell("rm -r " .. folder)
    assert.equal(0, code)
    assert.equal(44, #out)
  end)

  it("refuse wrong options, with --json as JSON", function()
    local code, out, err = run("keygen --otu x")
    assert.equal(2, code)
    assert.equal("", out)
    has("--otu", err)
    has("--out", err)
    code, out, err = run("keygen --json --otu x")
    assert.equal(2, code)
    assert.equal("", err)
    local answer = require("cjson").decode(out)
    assert.equal("USAGE", answer.code)
    has("--otu", answer.error)
  end)

  it("say when the output cannot be written, and end when nobody reads", function()
    local code, _, err = run("keygen > /dev/full")
    assert.equal(1, code)
    has("No space left", err)
    assert.is_nil(err:find("traceback"))
    code, _, err = shell(("{ sleep 0.2; %s keygen; echo $? >&2; } | true"):format(znlrun))
    assert.equal(0, code)
    assert.equal("141\n", err)
  end)

  describe("keygen", function()
    it("prints another key each time", function()
      local _, first = run("keygen")
      local _, second = run("keygen --json")
      assert.truthy(first:find("^[%w_-]+\n$"))
      assert.equal(44, #first)
      assert.equal(43, #require("cjson").decode(second).key)
      assert.are_not.equal(first:sub(1, 43), require("cjson").decode(second).key)
    end)

    it("makes a file for its owner only and never writes over one", function()
      local path = os.tmpname()
      local code, _, err = run("keygen --out " .. path)
      assert.equal(1, code)
      has(path, err)
      os.remove(path)
      assert.equal(0, (run("keygen --out " .. path)))
      local _, mode = shell("stat -c %a:%s " .. path)
      assert.equal("600:44\n", mode)
      local znl = require("znl")
      assert.equal(43, #znl.secret("file:" .. path):resolve())
      os.remove(path)
      assert.equal(1, (run("keygen --out /no/such/folder/key")))
    end)
  end)
end)
