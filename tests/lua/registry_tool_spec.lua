--- znlrun registry and scripts/registry.lua, as a person runs them. SPDX-License-Identifier: MIT
local eventually = require("support.eventually")
local folder = require("support.folder")
local json = require("znl.json")
local uv = require("luv")
local znl = require("znl")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

describe("znlrun registry", function()
  local registry, where, files, children, level

  before_each(function()
    files, children, level = folder.new(), {}, znl.log.level()
    znl.log.set_level("off") -- who is refused here is so on purpose
    registry = znl.registry { host = "127.0.0.1", port = 0, config_dir = false, secret = "the secret" }
    assert(registry:start())
    where = "127.0.0.1:" .. registry:port()
    files:write("secret", "the secret\n")
  end)

  after_each(function()
    for _, child in ipairs(children) do child:kill("sigkill") end
    registry:stop()
    files:remove()
    znl.log.set_level(level)
  end)

  local function run(...)
    local command = { znlrun, "registry", ... }
    command.timeout_ms = 60000
    local result = assert(znl.process.run(command))
    return result.code, result.stdout, result.stderr
  end

  --- One that goes on: returns what it has written so far.
  local function begin(arguments)
    local pipe, parts = uv.new_pipe(false), {}
    local child
    child = assert(uv.spawn(znlrun, { args = arguments, stdio = { nil, pipe, 2 } }, function() child:close() end))
    children[#children + 1] = child
    pipe:read_start(function(_, piece)
      if piece then parts[#parts + 1] = piece else pipe:close() end
    end)
    return function() return table.concat(parts) end
  end

  local function join(namespace, port)
    local name, value = require("znl.micro.proof").header("the secret", ("/10.0.0.1/%d/%s"):format(port, namespace))
    return assert(znl.client.connect {
      host = "127.0.0.1", port = registry:port(), path = ("/10.0.0.1/%d/%s"):format(port, namespace),
      headers = { [name] = value },
    })
  end

  local function secret() return "--secret", "file:" .. files:at("secret") end

  it("says that a registry is alone", function()
    local code, out, err = run("cluster", where, secret())
    assert.equal(1, code)
    assert.equal("", out)
    assert.matches("this registry is alone", err)
  end)

  it("lists namespaces and addresses, and finds one", function()
    join("users", 1)
    join("users", 2)
    join("orders", 3)
    local code, out = run("ls", where, secret())
    assert.same({ 0, "orders 1 address\nusers 2 addresses\n" }, { code, (out:gsub(" +", " ")) })
    code, out = run("ls", where, "users", "--json", secret())
    assert.equal(0, code)
    local keys = {}
    for line in out:gmatch("[^\n]+") do
      local _, row = json.decode(line)
      keys[#keys + 1] = row.namespace .. " " .. row.key
    end
    assert.same({ "users 10.0.0.1:1", "users 10.0.0.1:2" }, keys)
    assert.same({ 0, "10.0.0.1:2\n", "" },
      { run("find", "ws://" .. where, "users", "--exclude", "10.0.0.1:1", secret()) })
    local message
    code, out, message = run("find", where, "none", secret())
    assert.same({ 1, "" }, { code, out })
    assert.matches("nothing is found for none", message)
    assert.equal(0, registry:namespaces().znlrun or 0) -- it is not listed itself
  end)

  it("tells what is wrong", function()
    local code, _, message = run("ls", where)
    assert.equal(1, code)
    assert.matches("401", message)
    code, _, message = run("ls", "127.0.0.1:1")
    assert.equal(4, code)
    assert.matches("127%.0%.0%.1:1", message)
    for _, arguments in ipairs {
      { "ls", "nowhere" }, { "ls", "http://h:1" }, { "find", where }, { "look", where }, { "ls" },
    } do
      assert.equal(2, (run(unpack(arguments))), table.concat(arguments, " "))
    end
  end)

  it("prints who comes and goes, and the values of topics", function()
    local client = join("users", 1)
    local names = begin { "registry", "watch", where, "--interval", "100", secret() }
    local values = begin { "registry", "watch", where, "prices", "--interval", "100", secret() }
    eventually(function() return names():find("+ users 10.0.0.1:1\n", 1, true) end)
    client:request("/-/declare", { topic = "prices", payload = { a = 1 } })
    eventually(function() return values() == 'prices {"a":1}\n' end)
    client:request("/-/declare", { topic = "prices", payload = znl.null })
    eventually(function() return values() == 'prices {"a":1}\nprices null\n' end)
    client:close()
    eventually(function() return names():find("- users 10.0.0.1:1\n", 1, true) end)
  end)

  it("has a stock role to look into", function()
    files:make("configs")
    files:write("configs/svc.config.yaml", "limit: 5\n")
    files:write("script", "")
    local log = files:at("log")
    local child
    child = assert(uv.spawn("/bin/sh", {
      args = { "-c", ("exec %s scripts/registry.lua --host 127.0.0.1 --port 0 --config-dir %s --log-events " ..
        "--secret file:%s --allow 127.0.0.0/8 >%s 2>&1"):format(znlrun, files:at("configs"), files:at("secret"), log) },
    }, function() child:close() end))
    children[#children + 1] = child
    local port = eventually(function()
      local file = io.open(log)
      local text = file and file:read("*a") or ""
      if file then file:close() end
      return text:match("registry is up.-endpoint=ws://127%.0%.0%.1:(%d+)")
    end)
    local values = begin { "registry", "watch", "127.0.0.1:" .. port, "registry:svc/limit", secret() }
    eventually(function() return values() == "registry:svc/limit 5\n" end)
    assert.same({ 0, "", "nothing is registered\n" }, { run("ls", "127.0.0.1:" .. port, secret()) })
    for _, arguments in ipairs {
      "--cluster x", "--label x", "--cluster x --bus y --cluster-secret z", "--port x", "--secret x",
      "--allow 1.2.3", "--tls-key x",
    } do
      local result = assert(znl.process.run { "/bin/sh", "-c", znlrun .. " scripts/registry.lua " .. arguments })
      assert.is_true(result.code ~= 0, arguments)
      assert.matches("Error: ", result.stderr)
    end
  end)
end)
