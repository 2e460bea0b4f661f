--- CURVE: encrypted connections on libzmq. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local crypto = has_core and require("znl.core.crypto")
local eventually = has_core and require("tests.lua.support.eventually")
local socket = has_core and require("znl.core.socket")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"
local LONG = { timeout_ms = 60000 }

describe("curve", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local nodes, level

  local function made(kind, opts)
    local node = znl[kind](opts)
    nodes[#nodes + 1] = node
    return node
  end

  local function master(secret_key, allow, more)
    local opts = {
      id = "m", endpoint = "tcp://127.0.0.1:*", curve = { secret_key = secret_key, allow = allow },
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    local node = made("master", opts)
    node:handle(function(req) return "got " .. req.payload end)
    assert(node:start())
    return node
  end

  local function slave(id, to, curve, more)
    local opts = { id = id, endpoint = to:endpoint(), curve = curve, heartbeat_ms = 500 }
    for name, value in pairs(more or {}) do opts[name] = value end
    local node = made("slave", opts)
    assert(node:start())
    return node
  end

  before_each(function()
    nodes, level = {}, znl.log.level()
    znl.log.set_level("off")
  end)

  after_each(function()
    for _, node in ipairs(nodes) do node:stop() end
    znl.log.set_level(level)
  end)

  it("encrypts, with keys of this run or given ones", function()
    local public_key, secret_key = crypto.curve_pair()
    local own_public, own_secret = crypto.curve_pair()
    for _, endpoint in ipairs { "tcp://127.0.0.1:*", "ipc://*" } do
      local server = master(secret_key, nil, { endpoint = endpoint, id = "m" .. #nodes })
      for index, curve in ipairs {
        { server_key = public_key },
        { server_key = public_key, secret_key = own_secret },
        { server_key = public_key, secret_key = own_secret, public_key = own_public },
      } do
        local client = slave("s" .. index, server, curve)
        assert.equal("got x", client:request("x", LONG))
        client:stop()
      end
    end
  end)

  it("and encrypted go together", function()
    local public_key, secret_key = crypto.curve_pair()
    local keys = { encrypted = true, auth_key = "a key of this test" }
    local server = master(secret_key, nil, keys)
    assert.equal("got x", slave("s", server, { server_key = public_key }, keys):request("x", LONG))
  end)

  it("turns away who does not know the key of the master, or speaks plain", function()
    local public_key, secret_key = crypto.curve_pair()
    local server = master(secret_key)
    local stranger = slave("stranger", server, { server_key = (crypto.curve_pair()) })
    local plain = slave("plain", server, nil)
    eventually(function() return stranger:counters().turned_away > 0 end, "nobody told the stranger")
    eventually(function() return plain:counters().turned_away > 0 end, "nobody told the plain one")
    eventually(function() return server:counters().turned_away > 1 end)
    assert.is_nil((stranger:request("x", { timeout_ms = 100 })))
    assert.equal("got x", slave("s", server, { server_key = public_key }):request("x", LONG))
    assert.equal(1, #server:slaves())
  end)

  it("of a slave keeps it away from a plain master", function()
    local server = made("master", { id = "m", endpoint = "tcp://127.0.0.1:*" })
    assert(server:start())
    local client = slave("s", server, { server_key = (crypto.curve_pair()) })
    eventually(function() return client:counters().turned_away > 0 end)
    assert.equal(0, #server:slaves())
    assert.equal(0, server:counters().received)
  end)

  it("lets in whom the master allows, and nobody else", function()
    local public_key, secret_key = crypto.curve_pair()
    local friend_public, friend_secret = crypto.curve_pair()
    local other_public, other_secret = crypto.curve_pair()
    local server = master(secret_key, { friend_public })
    local others = master(secret_key, { other_public, (crypto.curve_pair()) }, { id = "m2" })
    local open = master(secret_key, nil, { id = "m3" })
    local refused = slave("refused", server, { server_key = public_key, secret_key = other_secret })
    local nameless = slave("nameless", server, { server_key = public_key })
    eventually(function() return refused:counters().turned_away > 0 end)
    eventually(function() return nameless:counters().turned_away > 0 end)
    for id, to in pairs { a = server, b = open } do
      local friend = slave(id, to, { server_key = public_key, secret_key = friend_secret })
      assert.equal("got x", friend:request("x", LONG))
    end
    local second = slave("c", others, { server_key = public_key, secret_key = other_secret })
    assert.equal("got x", second:request("x", LONG))
    assert.equal(1, #server:slaves())
    assert.equal("a", server:slaves()[1].id)
    server:stop() -- the last list but one ends; then the last, and it comes again
    others:stop()
    assert(server:start())
    local again = slave("d", server, { server_key = public_key, secret_key = friend_secret })
    assert.equal("got x", again:request("x", LONG))
  end)

  it("asks nobody but the list, whatever else of the process speaks to it", function()
    local public_key, secret_key = crypto.curve_pair()
    local friend_public, friend_secret = crypto.curve_pair()
    local server = master(secret_key, { friend_public })
    local nosy = assert(socket.dealer { endpoint = "inproc://zeromq.zap.01" })
    local answers = {}
    nosy:on_message(function(frames) answers[#answers + 1] = frames[4] end)
    local asked = {
      { "", "1.0" },
      { "", "1.0", "1", "", "", "", "NULL" },
      { "", "1.0", ("i"):rep(300), "1", "", "", "CURVE", "short" },
      { "", "1.0", "1", ("1"):rep(1000), "", "", "CURVE", ("k"):rep(32) },
      { "", "1.0", "1", "1", "", "", "CURVE", ("k"):rep(32), "and", "more" },
      { "", "1.0", "1", "99", "", "", "CURVE", ("k"):rep(32) },
    }
    for _, frames in ipairs(asked) do eventually(function() return nosy:send(frames) end) end
    eventually(function() return #answers == #asked end)
    assert.equal(("400"):rep(#asked), table.concat(answers))
    local friend = slave("friend", server, { server_key = public_key, secret_key = friend_secret })
    assert.equal("got x", friend:request("x", LONG))
    nosy:close()
    server:stop()
    local other = assert(socket.router { endpoint = "inproc://zeromq.zap.01" })
    local ok, _, code = server:start()
    assert.is_nil(ok)
    assert.equal("ADDRESS_IN_USE", code)
    other:close()
  end)

  it("is of bare sockets too", function()
    local public_key, secret_key = crypto.curve_pair()
    local server = assert(socket.router { endpoint = "tcp://127.0.0.1:*", curve = { secret_key = secret_key } })
    server:on_message(function(frames) server:send(frames) end)
    local client = assert(socket.dealer {
      endpoint = server:endpoint(), routing_id = "c", curve = { server_key = public_key },
    })
    local answer
    client:on_message(function(frames) answer = frames[1] end)
    eventually(function() return client:send { "hello" } end)
    eventually(function() return answer end)
    assert.equal("hello", answer)
    client:close()
    server:close()
  end)

  it("names what is wrong with it, and shows no secret", function()
    local public_key, secret_key = crypto.curve_pair()
    local function wrong(kind, opts, want)
      opts.id = "wrong"
      local ok, message = pcall(znl[kind], opts)
      assert.is_false(ok)
      assert.truthy(message:find(want, 1, true), message)
      assert.is_nil(message:find(secret_key, 1, true))
    end
    local no_curve = 'option engine is "zmtp", which has no CURVE'
    wrong("master", { engine = "zmtp", curve = { secret_key = secret_key } }, no_curve)
    wrong("slave", { engine = "zmtp", curve = { server_key = public_key } }, no_curve)
    wrong("master", { endpoint = "inproc://x", curve = { secret_key = secret_key } }, "not for inproc://x")
    wrong("slave", { endpoint = "sim://x", curve = { server_key = public_key } }, "not for sim://x")
    wrong("master", { curve = {} }, "secret_key is missing")
    wrong("slave", { curve = { secret_key = secret_key } }, "server_key is missing")
    wrong("master", { curve = { secret_key = secret_key:sub(2) } }, "curve.secret_key is no key of CURVE")
    wrong("master", { curve = { secret_key = secret_key:sub(2) .. "~" } }, "curve.secret_key is no key of CURVE")
    wrong("master", { curve = { secret_key = ("#"):rep(40) } }, "secret_key: invalid argument")
    wrong("master", { curve = { secret_key = ("0"):rep(40) } }, "secret_key: invalid argument")
    wrong("slave", { curve = { server_key = ("0"):rep(40) } }, "server_key: invalid argument")
    wrong("slave", { curve = { server_key = "short" } }, "curve.server_key is no key of CURVE")
    wrong("slave", { curve = { server_key = public_key, public_key = public_key } }, "needs curve.secret_key")
    wrong("slave", { curve = { server_key = public_key, secret_key = secret_key, public_key = crypto.curve_pair() } },
      "public_key: invalid argument")
    wrong("master", { curve = { secret_key = secret_key, allow = {} } }, "an array of 1 to 100000 public keys")
    wrong("master", { curve = { secret_key = secret_key, allow = { public_key, "x" } } }, "curve.allow[2] is no key")
    wrong("master", { curve = { secret_key = secret_key, server_key = public_key } }, "unknown option")
    wrong("master", { curve = { secret_key = znl.secret("env:ZNL_NO_SUCH_VARIABLE") } }, "the variable is not set")
  end)

  it("gets keys from znlrun keygen --curve", function()
    local function output(arguments)
      local pipe = assert(io.popen(("timeout 60 %s keygen --curve %s 2>/dev/null"):format(znlrun, arguments)))
      local text = pipe:read("*a")
      pipe:close()
      return text
    end
    local public_key, secret_key = output(""):match("^public_key (%S+)\nsecret_key (%S+)\n$")
    local read = znl.json.decode
    local _, pair = read(output("--json"))
    local path = os.tmpname()
    os.remove(path)
    local file_public = output("--out " .. path):match("^(%S+)\n$")
    for own_public, own_secret in pairs {
      [public_key] = secret_key, [pair.public_key] = pair.secret_key, [file_public] = znl.secret("file:" .. path),
    } do
      local server = master(own_secret, nil, { id = "m" .. #nodes })
      assert.equal("got x", slave("s", server, { server_key = own_public }):request("x", LONG))
    end
    os.remove(path)
  end)

  it("is for tools and scripts", function()
    local server_public, server_secret = crypto.curve_pair()
    local friend_public, friend_secret = crypto.curve_pair()
    local other_secret = select(2, crypto.curve_pair())
    local handler = os.tmpname()
    local file = assert(io.open(handler, "w"))
    file:write("return function(req) return 'got ' .. req.payload end")
    file:close()
    local place = "ipc://" .. os.tmpname() .. ".sock"
    local text = ("export S='%s' P='%s' F='%s' FP='%s' O='%s'; "):format(
      server_secret, server_public, friend_secret, friend_public, other_secret)
    local function shell(command)
      local pipe = assert(io.popen("( " .. text .. command .. " ) 2>&1; echo \"exit $?\""))
      local out = pipe:read("*a")
      pipe:close()
      return tonumber(out:match("exit (%d+)\n$")), out
    end
    local ask = ("timeout 100 %s request %s x --server-key env:P"):format(znlrun, place)
    local code, out = shell(([[
      timeout 120 %s --log-level error scripts/master.lua --endpoint %s --handlers %s --curve-key env:S --allow env:FP &
      master=$!
      %s --curve-key env:F --wait-for-peer --timeout 60000; asked=$?
      %s --server-key "$P" --curve-key env:F --timeout 60000
      %s --curve-key env:O --timeout 1000
      kill $master; wait $master; exit $asked]]):format(
      znlrun, place, handler, ask, (ask:gsub(" %-%-server%-key env:P", "")), ask))
    os.remove(handler)
    assert.equal(0, code, out)
    assert.equal(2, select(2, out:gsub("got x", "")), out)
    assert.truthy(out:find("no sign of life", 1, true), out)
    for arguments, want in pairs {
      ["x --curve-key env:F"] = "--curve-key needs --server-key",
      ["x --server-key short"] = "a public key is 40 characters of Z85",
      ["x --server-key env:HOME"] = "the server key of CURVE is no key",
    } do
      code, out = shell(("timeout 60 %s request %s %s --wait-for-peer"):format(znlrun, place, arguments))
      assert.equal(2, code, out)
      assert.truthy(out:find(want, 1, true), out)
    end
  end)
end)
