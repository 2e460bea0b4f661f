--- znlrun new: what it makes works at once. SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl")

describe("znlrun new", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local json = require("cjson")
  local process = require("znl.system.process")
  local project = require("support.project")
  local source = require("znl.versions.source")
  local uv = require("luv")
  local here

  before_each(function() here = project.new() end)
  after_each(function() here:remove() end)

  local function has(expected, text)
    assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
  end

  for _, kind in ipairs { "a service", "a slave" } do
    local option = kind == "a slave" and "--slave" or "--endpoint=tcp://127.0.0.1:6003"

    it("makes " .. kind .. " whose tests pass and whose handlers are well", function()
      local code, out, err = here:run { "new", "my-app2", option }
      assert.equal(0, code, err)
      has("   cd my-app2\n", out)
      local cwd = here:at("my-app2")
      code, out, err = here:run({ "test" }, { cwd = cwd })
      assert.equal(0, code, out .. err)
      has(" passed, 0 failed", out)
      code, out = here:run({ "check", "--strict" }, { cwd = cwd })
      assert.equal(0, code, out)
      has("2 files, 0 errors, 0 warnings", out)
      for _, name in ipairs { "README.md", ".luarc.json", ".editorconfig", ".gitignore", "my-app2.service",
        ".vscode/settings.json", ".vscode/extensions.json", "service.lua" } do
        local text = assert(source.read(cwd .. "/" .. name))
        assert.falsy(text:find("{{", 1, true), name)
        assert.equal("\n", text:sub(-1), name)
        if name:find("json$") then json.decode(text) end
      end
    end)
  end

  it("makes a service that answers", function()
    assert.equal(0, (here:run { "new", "app" }))
    local endpoint = "ipc://" .. here:at("app/socket")
    local service = uv.fs_realpath(os.getenv("ZNLRUN") or "build/znlrun")
    local child, pid = uv.spawn(service, {
      args = { "service.lua" }, cwd = here:at("app"), env = { "APP_ENDPOINT=" .. endpoint },
      stdio = { nil, nil, nil },
    }, function() end)
    assert(child, pid)
    local code, out, err = here:run { "call", endpoint, "/greet/Ada", "--wait-for-peer", "--timeout", "10000" }
    child:kill("sigterm")
    child:close()
    assert.equal(0, code, err)
    assert.same({ greeting = "hello Ada", greeted = 1 }, json.decode(out))
  end)

  it("makes a unit that systemd takes", function()
    if not process.run { "systemd-analyze", "--version" } then
      pending("needs systemd-analyze")
      return
    end
    assert.equal(0, (here:run { "new", "app" }))
    local result = assert(process.run { "systemd-analyze", "verify", here:at("app/app.service"), timeout_ms = 20000 })
    assert.falsy((result.stdout .. result.stderr):find("app.service", 1, true), result.stderr)
    result = assert(process.run {
      "systemd-analyze", "security", "--offline=true", "--threshold=30", here:at("app/app.service"), timeout_ms = 20000,
    })
    assert.equal(0, result.code, result.stdout)
  end)

  it("names the folder with the annotations", function()
    assert.equal(0, (here:run { "new", "app" }))
    local settings = json.decode((assert(source.read(here:at("app/.luarc.json")))))
    local library = settings["workspace.library"][1]
    assert.truthy(library and uv.fs_stat(library .. "/znl/init.lua"), tostring(library))
  end)

  it("takes an empty folder, and leaves any other alone", function()
    here:make("empty")
    here:write("full/mine.txt", "mine")
    here:write("file", "mine")
    assert.equal(0, (here:run { "new", "empty" }))
    local code, _, err = here:run { "new", "full" }
    assert.equal(1, code)
    has("full is there already, and is not empty", err)
    assert.is_nil(uv.fs_stat(here:at("full/service.lua")))
    code, _, err = here:run { "new", "file" }
    assert.equal(1, code)
    has("is no folder", err)
    code, _, err = here:run { "new", "no/such/folder" }
    assert.equal(1, code)
    has("no/such/folder", err)
  end)

  it("refuses bad names", function()
    for _, name in ipairs { "Demo", "1a", "a_b", "a b", "-a", "a-", "", "..", ("x"):rep(49), "a.b" } do
      local code, _, err = here:run { "new", "--", name }
      assert.equal(2, code, name)
      has("cannot be the name of a project", err)
    end
    assert.same({}, { uv.fs_scandir_next(uv.fs_scandir(here.path)) })
  end)

  it("prints JSON", function()
    local code, out = here:run { "new", "sub", "--json" }
    assert.equal(0, code)
    local object = json.decode(out)
    assert.equal("sub", object.name)
    assert.equal(11, #object.files)
  end)
end)
