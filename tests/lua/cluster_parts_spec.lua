--- The parts of znl.cluster_client, one by one: keys, exports, publications, options, pauses, proofs.
--- SPDX-License-Identifier: MIT
local cluster_options = require("znl.cluster.options")
local election = require("znl.cluster.election")
local exports = require("znl.cluster.exports")
local failure = require("znl.cluster.failure")
local json = require("znl.json")
local publications = require("znl.cluster.publications")
local registration = require("znl.cluster.registration")
local secret = require("znl.cluster.secret")
local values = require("znl.cluster.values")

local function read_vectors(name)
  local file = assert(io.open(os.getenv("ZNL_VECTORS") .. "/cluster/" .. name))
  local ok, value = json.decode(file:read("*a"))
  file:close()
  assert(ok, value)
  return value
end

describe("keys of registrations", function()
  it("are those that followers of the original send, and leaders compute", function()
    local vectors, count = read_vectors("keys.json"), 0
    for _, case in ipairs(vectors.keys) do
      local text = case.connObj_text:match(',"reg":(.*)}$')
      local reg = text and assert(json.raw(text)) or nil
      assert.equal(case.follower_key, (registration.key(reg)))
      count = count + 1
    end
    for _, case in ipairs(vectors.foreign_texts) do
      assert.equal(case.leader_key, (registration.key(assert(json.raw(case.reg_text)))))
      count = count + 1
    end
    assert.equal(30, count)
  end)

  it("sort the names of a table, and keep the order of fields", function()
    assert.equal('$$inner$$__{"2":1,"a":1,"b":[1,null],"c":{"x":1,"y":2}}',
      (registration.key { c = { y = 2, x = 1 }, b = { 1, json.null }, a = 1, ["2"] = 1 }))
    local fields = registration.fields { { "dataId", "x" }, { "absent" }, { "group", { b = 1, a = 2 } }, { "1", true } }
    assert.equal('$$inner$$__{"1":true,"dataId":"x","group":{"a":2,"b":1}}', (registration.key(fields)))
    assert.equal('$$inner$$__{"outer":{"1":true,"dataId":"x","group":{"a":2,"b":1}}}',
      (registration.key { outer = fields }))
    assert.same({ dataId = "x", group = { a = 2, b = 1 }, ["1"] = true }, registration.value(fields))
    assert.same({ "$$inner$$__undefined" }, { registration.key(nil) })
    assert.same({ "$$inner$$__mine", '{"a":1}' }, { registration.key({ a = 1 }, function() return "mine" end) })
    assert.same({ nil, "format_key returned a number, not a text", "INVALID" },
      { registration.key({ a = 1 }, function() return 1 end) })
  end)

  it("refuse what JSON cannot carry", function()
    local key, message, code = registration.key { a = { b = print } }
    assert.is_nil(key)
    assert.equal("INVALID", code)
    assert.truthy(message:find("a.b", 1, true))
    for _, list in ipairs { "text", { "x" }, { { 1, 2 } }, { { "a", print } }, { { "\255", 1 } } } do
      assert.has_error(function() registration.fields(list) end)
    end
  end)
end)

describe("exports", function()
  local function read(given, object) return exports.read(given, object, "it", 1) end

  local function names(list)
    local result = {}
    for name in pairs(list) do result[#result + 1] = name end
    table.sort(result)
    return table.concat(result, " ")
  end

  it("are the functions of an object and its classes, without its private ones", function()
    local function fn() end
    local Base = { inherited = fn, get = fn, _hidden = fn, ready = fn, on_error = fn, new = fn }
    Base.__index = Base
    local Class = setmetatable({ get = fn, subscribe = fn, close = fn, on = fn }, Base)
    Class.__index = Class
    local object = setmetatable({ own = fn, number = 1 }, Class)
    assert.equal("get inherited own publish", names(read(nil, object).methods))
    local loop = {}
    loop.__index = loop
    assert.equal("publish", names(read(nil, setmetatable(loop, loop)).methods))
  end)

  it("are listed, by name or with what they are", function()
    local read_ones = read({ "get", note = "oneway", put = "publish", watch = "subscribe", shut = "close",
      safe = { kind = "invoke", retry = true } })
    assert.equal("get note put safe", names(read_ones.methods))
    assert.same({ "put", "watch", "unsubscribe", "shut" },
      { read_ones.publish, read_ones.subscribe, read_ones.unsubscribe, read_ones.close })
    assert.is_true(read_ones.methods.safe.retry)
    assert.is_false(read_ones.methods.get.retry)
  end)

  it("raise what is wrong with them", function()
    for _, given in ipairs {
      { 1 }, { "" }, { ("x"):rep(257) }, { get = "call" }, { get = { kind = "oneway", retry = true } }, { get = 1 },
      { "get", get = "invoke" }, { a = "publish", b = "publish" }, { get = { sort = "invoke" } },
    } do
      assert.has_error(function() read(given) end)
    end
    assert.has_error(function() read(nil, print) end)
  end)
end)

describe("publications", function()
  it("keep the order of the first ones, replace and forget", function()
    local list = publications.new(3)
    local function all()
      local found = {}
      for index, entry in ipairs(list:entries()) do
        found[index] = entry.value
        assert.is_true(list:has(entry))
      end
      return found
    end
    for _, key in ipairs { "a", "b", "c" } do assert.same({ true, nil, true }, { list:put(key, key .. 1) }) end
    assert.same({ true, "a1", false }, { list:put("a", "a2") })
    assert.is_nil(list:put("d", "d1"))
    assert.same({ "a2", "b1", "c1" }, all())
    local b = list:entries()[2]
    assert.is_true(list:remove("b"))
    assert.is_false(list:has(b))
    assert.is_false(list:remove("b"))
    assert.same({ "a2", "c1" }, all())
    list:remove("c")
    list:remove("a")
    assert.same({ {}, 0 }, { all(), list.count })
    list:put("d", "d1")
    assert.same({ "d1" }, all())
  end)
end)

describe("options of a cluster client", function()
  local function read(given, environment)
    given.name, given.client = given.name or "x", given.client or {}
    return cluster_options.read(given, "it", 1, function(name) return (environment or {})[name] end)
  end

  it("come from the environment where they are not given", function()
    local config = read({})
    assert.same({ 7777, 10000, false }, { config.port, config.connect_timeout_ms, config.single })
    local environment = {
      NODE_CLUSTER_CLIENT_PORT = "7000", NODE_CLUSTER_CLIENT_CONNECT_TIMEOUT = "500",
      NODE_CLUSTER_CLIENT_SINGLE_MODE = "1",
    }
    config = read({}, environment)
    assert.same({ 7000, 500, true }, { config.port, config.connect_timeout_ms, config.single })
    config = read({ port = 1, connect_timeout_ms = 2, single = false }, environment)
    assert.same({ 1, 2, false }, { config.port, config.connect_timeout_ms, config.single })
    for _, text in ipairs { "x", "0", "70000", "1.5" } do
      assert.has_error(function() read({}, { NODE_CLUSTER_CLIENT_PORT = text }) end)
    end
  end)

  it("are those of the originals otherwise", function()
    local config = read {}
    local wanted = {
      host = "127.0.0.1", response_timeout_ms = 3000, heartbeat_ms = 20000, check_heartbeat = true, max_wait_ms = 30000,
      broadcast = true, transcode = "default", any_method = false,
    }
    for name, value in pairs(wanted) do assert.equal(value, config[name], name) end
    for _, name in ipairs { "leader", "subscribe_timeout_ms", "secret", "path" } do
      assert.is_nil(config[name], name)
    end
  end)

  it("want a secret where others than this host can call", function()
    for _, host in ipairs { "127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]" } do read { host = host } end
    for _, host in ipairs { "10.0.0.1", "0.0.0.0", "::", "example.org", "127.0.0.1.example.org" } do
      assert.has_error(function() read { host = host } end,
        ("it: host %s is not loopback: option secret must be given, or anybody could call"):format(host))
      read { host = host, secret = "s" }
      read { host = host, single = true }
    end
  end)

  it("are a unix socket or an address", function()
    assert.equal(384, read({ path = "/run/x.sock", mode = 384 }).mode)
    assert.has_error(function() read { path = "/run/x.sock", host = "127.0.0.1" } end,
      "it: option path stands in place of host")
    assert.has_error(function() read { path = "/run/x.sock", port = 1 } end, "it: option path stands in place of port")
    assert.has_error(function() read { mode = 384 } end,
      "it: option mode is that of a unix socket: option path is missing")
  end)

  it("want a client from who may lead", function()
    local function given(opts) cluster_options.read(opts, "it", 1, function() end) end
    given { name = "x", leader = false }
    assert.has_error(function() given { name = "x" } end)
    assert.has_error(function() given { name = "x", leader = true } end)
    assert.has_error(function() given { name = "x", leader = false, single = true } end)
    assert.has_error(function() given { client = {} } end)
    assert.has_error(function() given { name = "x", client = {}, transcode = "yaml" } end)
    assert.has_error(function() given { name = "x", client = {}, transcode = { encode = print } } end)
  end)
end)

describe("pauses between elections", function()
  it("begin with none, grow, and differ", function()
    assert.equal(0, election.pause_ms(0))
    local function most() return 1 end
    local function least() return 0 end
    local longest, shortest = {}, {}
    for failures = 1, 12 do
      longest[failures] = election.pause_ms(failures, false, false, most)
      shortest[failures] = election.pause_ms(failures, false, false, least)
    end
    assert.same({ 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000 }, longest)
    assert.same({ 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500 }, shortest)
    assert.equal(3000, election.pause_ms(100, false, true, most))
    assert.same({ 100, 200, 5000 }, {
      election.pause_ms(1, true, false, most), election.pause_ms(2, true, true, most),
      election.pause_ms(9, true, false, most),
    })
    local seen, count = {}, 0
    for _ = 1, 100 do
      local ms = election.pause_ms(12)
      assert.is_true(ms >= 500 and ms <= 1000)
      if not seen[ms] then seen[ms], count = true, count + 1 end
    end
    assert.is_true(count > 10)
  end)
end)

describe("secrets of leader and follower", function()
  it("are shown by both, for one channel, once", function()
    local checker = secret.checker { "new", "old" }
    local extension, expected = secret.extension({ "old" }, "channel")
    assert.equal(1, extension.v)
    local ok, answer = secret.check(checker, "channel", extension)
    assert.is_true(ok)
    assert.is_true(secret.is_answered(expected, answer))
    assert.same({ nil, "the proof has been used" }, { secret.check(checker, "channel", extension) })
    assert.same({ nil, "the proof is not made with this secret" },
      { secret.check(checker, "other", (secret.extension({ "old" }, "channel"))) })
    for _, wrong in ipairs { {}, { proof = 1 }, { proof = "" }, { v = 1 }, { proof = extension.proof } } do
      assert.is_nil(secret.check(checker, "channel", wrong))
      assert.is_false(secret.is_answered(expected, wrong))
    end
    assert.same({ nil, "no proof" }, { secret.check(checker, "channel", nil) })
    assert.is_false(secret.is_answered(expected, nil))
    assert.is_true(secret.is_answered(nil, nil))
    assert.is_nil(secret.checker(nil))
    assert.is_nil(secret.extension(nil, "channel"))
  end)
end)

describe("errors of methods", function()
  it("keep what they have, and get what they lack", function()
    local function of(raised) return failure.of_raised(select(2, xpcall(raised, failure.locate))) end
    local err = of(function() error("broken") end)
    assert.same({ "broken", "Error" }, { err.message, err.name })
    assert.truthy(err.stack:find("cluster_parts_spec.lua:%d+: broken"))
    err = of(function() error({ message = "m", name = "N", code = 7, stack = "s", other = 1 }) end)
    assert.same({ message = "m", name = "N", code = 7, stack = "s" }, err)
    assert.equal("(error object is a table value)", of(function() error({}) end).message)
    assert.same({ nil, "m", "FAILED", { message = "m", name = "Error", stack = "Error: m" } },
      { failure.give(failure.of_refusal("m", nil)) })
    local result, message, code = failure.give { message = "m", code = 404 }
    assert.same({ nil, "m", 404 }, { result, message, code })
  end)
end)

describe("values that cross no connection", function()
  it("are copied as if they did", function()
    local value = { list = json.array {}, text = "x", inner = { 1, 2 } }
    for _, pair in ipairs { false, values.pair("json") } do
      local copy = values.copy(pair or nil, value)
      assert.same(value, copy)
      assert.are_not.equal(value.inner, copy.inner)
      assert.is_true(json.is_array(copy.list))
      assert.is_nil((values.copy(pair or nil, nil)))
      local _, message, code = values.copy(pair or nil, { a = print })
      assert.equal("INVALID", code)
      assert.truthy(message)
    end
    assert.is_nil(values.pair("default"))
    local own = { encode = function(text) return text .. "!" end, decode = function(text) return text .. "?" end }
    assert.equal("a!?", (values.copy(values.pair(own), "a")))
  end)
end)
