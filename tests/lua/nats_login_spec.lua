-- Ways to log in at a NATS server, and TLS. Runs inside znlrun only. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("nats login", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local make_certificate = require("tests.lua.support.certificate")
  local eventually = require("tests.lua.support.eventually")
  local folders = require("tests.lua.support.folder")
  local nats_server = require("tests.lua.support.nats_server")
  local nkeys = require("tests.lua.support.nkeys")
  local folder, server
  local open = {}

  setup(function() folder = folders.new() end)
  teardown(function() folder:remove() end)

  after_each(function()
    for _, nats in ipairs(open) do nats:close() end
    open = {}
    if server then server:remove() end
    server = nil
  end)

  local function start(config) server = nats_server.start { config = config } end

  local function connect(opts)
    opts.servers = opts.servers or server.url
    opts.reconnect_max_ms = 50
    opts.wait_ms = opts.wait_ms or 20000
    local nats, message, code = znl.nats.connect(opts)
    open[#open + 1] = nats
    return nats, message, code
  end

  local function works(opts)
    local nats = assert(connect(opts))
    local sub = nats:subscribe("w")
    assert.is_true(nats:publish("w", "x"))
    assert.equal("x", sub:next(20000).data)
    return nats
  end

  local function refused(opts, text)
    local nats, message, code = connect(opts)
    assert.is_nil(nats)
    assert.equal("REFUSED", code, message)
    assert.is_truthy(message:find(text or "Authorization Violation", 1, true), message)
  end

  --- Why the first attempt failed.
  local function problem(opts)
    opts.wait_ms = 0
    local nats = connect(opts)
    local text, its_code
    local function listen(message, code) text, its_code = text or message, its_code or code end
    nats:on("error", listen)
    nats:on("disconnected", listen)
    eventually(function() return text end)
    nats:close()
    return text, its_code
  end

  it("takes user and password", function()
    start 'authorization { user: "alice", password: "s3 c:r@t/" }'
    works { user = "alice", password = "s3 c:r@t/" }
    works { servers = server.url:gsub("//", "//alice:s3%%20c%%3Ar%%40t%%2F@") }
    refused { user = "alice", password = "wrong" }
    refused {}
    local path = folder:at("password")
    folder:write("password", "s3 c:r@t/\n")
    works { user = "alice", password = znl.secret("file:" .. path) }
    local ok, message = pcall(connect, { user = "alice", password = znl.secret("file:/nowhere") })
    assert.is_false(ok)
    assert.is_truthy(message:find("option password", 1, true), message)
  end)

  it("takes a token", function()
    start 'authorization { token: "t0ken" }'
    works { token = "t0ken" }
    works { servers = server.url:gsub("//", "//t0ken@") }
    refused { token = "other" }
  end)

  it("signs with an nkey", function()
    local key, other = nkeys.new(folder, "U"), nkeys.new(folder, "U")
    start(('authorization { users: [ { nkey: "%s" } ] }'):format(key.public))
    folder:write("seed", "# mine\n" .. key.seed .. "\n")
    folder:write("other_seed", other.seed)
    folder:write("no_seed", "hello\n")
    local nats = works { nkey = folder:at("seed") }
    refused { nkey = folder:at("other_seed") }
    assert.equal("INVALID", (select(2, problem { nkey = folder:at("no_seed") })))
    local message = problem { nkey = folder:at("nowhere") }
    assert.is_truthy(message:find("No such file", 1, true), message)
    server:restart()
    eventually(function() return nats:is_connected() end)
  end)

  it("shows credentials", function()
    local operator, account, user = nkeys.new(folder, "O"), nkeys.new(folder, "A"), nkeys.new(folder, "U")
    local operator_token = nkeys.token(folder, operator, operator.public, '{"type":"operator","version":2}')
    local limits = '"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,'
      .. '"conn":-1,"leaf":-1}'
    local account_token = nkeys.token(folder, operator, account.public,
      ('{"type":"account","version":2,%s}'):format(limits))
    local user_token = nkeys.token(folder, account, user.public,
      '{"type":"user","version":2,"subs":-1,"data":-1,"payload":-1}')
    start(("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s }"):format(
      operator_token, account.public, account_token))
    folder:write("user.creds", nkeys.credentials(user_token, user.seed))
    works { credentials = folder:at("user.creds") }
    folder:write("bad.creds", nkeys.credentials(user_token, nkeys.new(folder, "U").seed))
    refused { credentials = folder:at("bad.creds") }
    refused {}
  end)

  it("uses TLS, and checks whom it talks to", function()
    local certificate, key = make_certificate(folder)
    start(('tls { cert_file: "%s", key_file: "%s" }'):format(certificate, key))
    local by_name = ("tls://localhost:%d"):format(server.port)
    works { servers = by_name, tls = { ca = certificate } }
    works { tls = { ca = certificate } }
    works { tls = { ca = certificate, server_name = "localhost" } }
    works { servers = by_name, tls = { insecure = true } }
    for _, opts in ipairs {
      { servers = by_name }, { tls = { ca = certificate, server_name = "example.org" } },
      {}, -- the server demands it, nobody asked, and the system does not vouch for it
    } do
      local message, code = problem(opts)
      assert.equal("PROTO", code, message)
      assert.is_truthy(message:find("TLS: ", 1, true), message)
    end
    local nats = works { tls = { ca = certificate } }
    server:restart()
    eventually(function() return nats:is_connected() end)
    -- Much both ways, in pieces.
    local sub = nats:subscribe("big")
    for i = 1, 40 do assert.is_true(nats:publish("big", (tostring(i) .. ","):rep(100000))) end
    for i = 1, 40 do assert.is_true(sub:next(20000).data == (tostring(i) .. ","):rep(100000)) end
  end)

  it("shows a certificate of its own", function()
    local certificate, key = make_certificate(folder)
    start(('tls { cert_file: "%s", key_file: "%s", ca_file: "%s", verify: true }'):format(
      certificate, key, certificate))
    works { tls = { ca = certificate, cert = certificate, key = key } }
    assert.is_truthy(problem { tls = { ca = certificate } })
  end)

  it("refuses a server without TLS when it is asked for", function()
    start()
    local _, message, code = connect { tls = true }
    assert.equal("REFUSED", code)
    assert.is_truthy(message:find("TLS is asked for", 1, true), message)
  end)

  it("ends asks at once when answers are not permitted", function()
    start [[authorization { users: [ { user: a, password: b,
      permissions: { publish: [ ">" ], subscribe: [ "ok.>", "_MINE.>" ] } } ] }]]
    local nats = assert(connect { user = "a", password = "b" })
    nats:subscribe("ok.up", function(message) message:respond("fine") end)
    for _ = 1, 2 do
      local answer, message, code = nats:request("ok.up", "", { timeout_ms = 60000 })
      assert.is_nil(answer)
      assert.equal("REFUSED", code)
      assert.is_truthy(message:find("inbox_prefix", 1, true), message)
    end
    local other = assert(connect { user = "a", password = "b", inbox_prefix = "_MINE" })
    assert.equal("fine", assert(other:request("ok.up", "", { timeout_ms = 60000 })).data)
  end)

  it("tells what is not permitted, and goes on", function()
    start [[authorization { users: [ { user: a, password: b,
      permissions: { publish: [ "ok.>", "_INBOX.>" ], subscribe: [ "ok.>", "_INBOX.>" ] } } ] }]]
    local nats = assert(connect { user = "a", password = "b" })
    local errors = {}
    nats:on("error", function(message, code, subject) errors[#errors + 1] = { message, code, subject } end)
    local sub = nats:subscribe("ok.*")
    assert.is_true(nats:publish("bad", "x"))
    nats:subscribe("bad.*", function() end)
    eventually(function() return #errors == 2 end)
    table.sort(errors, function(x, y) return x[3] < y[3] end)
    assert.equal("bad", errors[1][3])
    assert.equal("bad.*", errors[2][3])
    assert.equal("REFUSED", errors[1][2])
    nats:publish("ok.1", "y")
    assert.equal("y", sub:next(20000).data)
  end)
end)
