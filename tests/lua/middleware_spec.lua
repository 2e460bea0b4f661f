-- SPDX-License-Identifier: MIT
local cjson = require("cjson")
local middleware = require("znl.routing.middleware")
local retry = require("znl.roles.retry")
local schema = require("znl.routing.schema")

local function failure(fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  return message
end

local function done() return "done" end

describe("rate_limit", function()
  local now
  before_each(function() now = 1000 end)

  local function limit(opts)
    opts.clock_ms = function() return now end
    return middleware.rate_limit(opts)
  end

  it("lets a burst through, then as many as fit into the time", function()
    local run = limit { per_second = 10, burst = 3 }
    local req = { from = "a" }
    for _ = 1, 3 do assert.equal("done", run(req, done)) end
    local result, message, code = run(req, done)
    assert.is_nil(result)
    assert.equal("RATE_LIMITED", code)
    assert.equal("rate_limit: too many requests, the next one in 100 ms", message)
    assert.equal("done", run({ from = "b" }, done))
    now = now + 99
    assert.is_nil(run(req, done))
    now = now + 1
    assert.equal("done", run(req, done))
    assert.is_nil(run(req, done))
    now = now + 100000 -- no more than a burst is saved up
    for _ = 1, 3 do assert.equal("done", run(req, done)) end
    assert.is_nil(run(req, done))
  end)

  it("asks for the key, and takes fractions", function()
    local run = limit { per_second = 0.5, key = function(req) return req.user end }
    assert.equal("done", run({ user = "u", from = "1" }, done))
    assert.is_nil(run({ user = "u", from = "2" }, done))
    now = now + 1999
    assert.is_nil(run({ user = "u" }, done))
    now = now + 1
    assert.equal("done", run({ user = "u" }, done))
  end)

  it("keeps a bounded number of keys; strangers beyond them share one bucket", function()
    local run = limit { per_second = 1, burst = 2, max_keys = 2 }
    assert.equal("done", run({ from = "a" }, done))
    assert.equal("done", run({ from = "b" }, done))
    local passed = 0
    for i = 1, 100 do passed = passed + (run({ from = "stranger " .. i }, done) and 1 or 0) end
    assert.equal(2, passed)
    assert.equal("done", run({ from = "a" }, done))
    assert.is_nil(run({ from = "a" }, done))
    -- Both tables full of active keys: still not more than two buckets.
    now = now + 2000
    assert.equal("done", run({ from = "a" }, done))
    assert.equal("done", run({ from = "b" }, done))
    passed = 0
    for i = 1, 100 do passed = passed + (run({ from = "other " .. i }, done) and 1 or 0) end
    assert.equal(2, passed)
    -- A key that was silent while its bucket filled made room.
    now = now + 2000
    run({ from = "x" }, done)
    now = now + 2000
    for _ = 1, 2 do assert.equal("done", run({ from = "c" }, done)) end
    assert.is_nil(run({ from = "c" }, done))
    assert.equal("done", run({ from = "stranger" }, done))
  end)

  it("does not forget who has used up its burst when tables turn", function()
    local run = limit { per_second = 1, burst = 10 }
    now = now + 9999
    for _ = 1, 10 do run({ from = "a" }, done) end
    now = now + 1 -- a turn
    assert.is_nil(run({ from = "a" }, done))
  end)

  it("must be told how many", function()
    assert.matches("middleware_spec.lua:%d+: rate_limit: option per_second is missing", failure(function()
      local made = middleware.rate_limit {}
      return made
    end))
    assert.matches("burst is 0", failure(middleware.rate_limit, { per_second = 1, burst = 0 }))
  end)
end)

describe("log", function()
  local lines, now, run
  before_each(function()
    lines, now = {}, 0
    local function line(level)
      return function(message, fields)
        fields.level, fields.text = level, message
        lines[#lines + 1] = fields
      end
    end
    run = middleware.log {
      logger = { info = line("info"), warn = line("warn") },
      clock_ms = function() return now end,
      fields = function(req) return { user = req.user } end,
    }
  end)

  it("writes one line with route, sender, time and outcome, and passes results on", function()
    local req = { route = "/a", from = "s1", user = "u" }
    local function line(ms, outcome, message)
      return {
        level = "info", text = "request", route = "/a", from = "s1", user = "u", ms = ms, outcome = outcome,
        message = message,
      }
    end
    assert.same({ "x", nil, nil, 4 }, { run(req, function()
      now = now + 12.34
      return "x", nil, nil, 4
    end) })
    assert.same({ nil, "no", "DENIED" }, { run(req, function() return nil, "no", "DENIED" end) })
    run(req, function() end)
    assert.same({ line(12.3, "ok"), line(0, "DENIED", "no"), line(0, "ok") }, lines)
  end)

  it("reports what a handler raises and lets it go on", function()
    local message = failure(run, {}, function() error("broken") end)
    assert.matches("^[^\n]*middleware_spec.lua:%d+: broken\n", message)
    assert.equal(1, #lines)
    assert.equal("warn", lines[1].level)
    assert.equal("HANDLER_ERROR", lines[1].outcome)
    assert.matches("middleware_spec.lua:%d+: broken$", lines[1].message)
    local value = {}
    assert.equal(value, failure(run, {}, function() error(value) end))
  end)

  it("refuses wrong options", function()
    assert.matches("it must be trace, debug, info, warn or error", failure(middleware.log, { level = "loud" }))
  end)
end)

describe("auth", function()
  it("lets pass, names the user, or refuses", function()
    local req = {}
    assert.equal("done", middleware.auth(function() return true end)(req, done))
    assert.is_nil(req.user)
    assert.equal("done", middleware.auth(function() return { name = "n" } end)(req, done))
    assert.same({ name = "n" }, req.user)
    local called = false
    local function handler() called = true end
    local refuse = middleware.auth(function() return nil, "no key" end)
    assert.same({ nil, "auth: no key", "DENIED" }, { refuse(req, handler) })
    refuse = middleware.auth(function() return false end)
    assert.same({ nil, "auth: not allowed", "DENIED" }, { refuse(req, handler) })
    failure(middleware.auth(function() error("store is down") end), req, handler)
    assert.is_false(called)
    assert.matches("must be a function%(req%), not a table", failure(middleware.auth, {}))
  end)
end)

describe("validate", function()
  local run = middleware.validate { type = "object", properties = { n = { type = "integer" } } }

  it("checks data, or the payload as JSON", function()
    local seen
    local function handler(req) seen = req.data; return "done" end
    assert.equal("done", run({ data = { n = 1 } }, handler))
    assert.equal("done", run({ payload = '{"n":2}' }, handler))
    assert.same({ n = 2 }, seen)
    assert.same({ nil, "validate: data.n: must be integer", "INVALID" }, { run({ data = { n = 1.5 } }, handler) })
    assert.same({ nil, "validate: data: must be JSON", "INVALID" }, { run({ payload = "{" }, handler) })
    assert.same({ nil, "validate: data: must be object", "INVALID" }, { run({ payload = "null" }, handler) })
    assert.same({ nil, "validate: data: must be object", "INVALID" }, { run({ payload = { "a", "b" } }, handler) })
  end)

  it("blames whoever wrote a wrong schema", function()
    assert.matches("middleware_spec.lua:%d+: validate: the schema of user has type = \"text\"", failure(function()
      local made = middleware.validate { properties = { user = { type = "text" } } }
      return made
    end))
  end)
end)

describe("schema", function()
  local function problem(rules, data)
    return schema.compile(rules)(data, "data")
  end

  it("finds what is wrong and says where", function()
    local rules = {
      type = "object", required = { "user" }, additionalProperties = false,
      properties = {
        user = {
          type = "object", required = { "name", "age" },
          properties = {
            name = { type = "string", minLength = 2, maxLength = 4, pattern = "^%a" },
            age = { type = "integer", minimum = 0, maximum = 150 },
            tags = { type = "array", minItems = 1, maxItems = 2, items = { enum = { "a", 1 } } },
          },
        },
        version = { const = 2 },
        extra = { additionalProperties = { type = { "string", "null" } } },
      },
    }
    for _, case in ipairs {
      { '{"user":{"name":"Ann","age":3,"tags":["a",1]},"version":2,"extra":{"x":"y","z":null}}', nil },
      { '[]', "data.user: must be there" },
      { '[1]', "data: must be object" },
      { '{"user":{"name":"Ann"}}', "data.user.age: must be there" },
      { '{"user":{"name":"A","age":3}}', "data.user.name: must have at least 2 characters" },
      { '{"user":{"name":"Aäöü","age":3}}', nil },
      { '{"user":{"name":"Anna!","age":3}}', "data.user.name: must have at most 4 characters" },
      { '{"user":{"name":"1nn","age":3}}', "data.user.name: must match ^%a" },
      { '{"user":{"name":"Ann","age":3.5}}', "data.user.age: must be integer" },
      { '{"user":{"name":"Ann","age":-1}}', "data.user.age: must be at least 0" },
      { '{"user":{"name":"Ann","age":1e9}}', "data.user.age: must be at most 150" },
      { '{"user":{"name":"Ann","age":null}}', "data.user.age: must be integer" },
      { '{"user":{"name":"Ann","age":3,"tags":[]}}', "data.user.tags: must have at least 1 items" },
      { '{"user":{"name":"Ann","age":3,"tags":[1,1,1]}}', "data.user.tags: must have at most 2 items" },
      { '{"user":{"name":"Ann","age":3,"tags":[1,"b"]}}', 'data.user.tags[1]: must be one of "a", 1' },
      { '{"user":{"name":"Ann","age":3},"version":3}', "data.version: must be 2" },
      { '{"user":{"name":"Ann","age":3},"x y":1}', 'data["x y"]: must not be there' },
      { '{"user":{"name":"Ann","age":3},"extra":{"q":1}}', "data.extra.q: must be string or null" },
    } do
      assert.equal(case[2], problem(rules, cjson.decode(case[1])), case[1])
    end
  end)

  it("knows every type", function()
    for name, good in pairs {
      object = { a = 1 }, array = { 1 }, string = "", number = 1.5, integer = 3, boolean = false, null = cjson.null,
    } do
      assert.is_nil(problem({ type = name }, good), name)
      local values = { object = { a = 1 }, array = { 1 }, string = "1", boolean = true, null = cjson.null }
      for other, value in pairs(values) do
        if other ~= name then assert.equal("data: must be " .. name, problem({ type = name }, value)) end
      end
    end
    assert.is_nil(problem({ type = "object" }, {}))
    assert.is_nil(problem({ type = "array" }, {}))
    assert.is_nil(problem({ type = "null" }, nil))
    assert.is_nil(problem({ const = cjson.null }, nil))
    assert.equal("data: must be integer", problem({ type = "integer" }, math.huge))
    assert.equal("data: must be at most 1", problem({ maximum = 1 }, 0 / 0))
  end)

  it("compares values deeply", function()
    local rules = { const = { a = { 1, 2 } } }
    assert.is_nil(problem(rules, { a = { 1, 2 } }))
    assert.equal('data: must be {"a":[1,2]}', problem(rules, { a = { 1, 2, 3 } }))
    assert.truthy(problem(rules, { a = { 1 } }))
    assert.is_nil(problem({ enum = { { 1 }, cjson.null } }, cjson.null))
  end)

  it("refuses schemas that cannot be meant", function()
    local endless = { properties = {} }
    endless.properties.again = endless
    for expected, rules in pairs {
      ["must be a table, not a string"] = "string",
      ["unknown word, propertys"] = { propertys = {} },
      ["of a.b has minimum = "] = { properties = { a = { properties = { b = { minimum = "1" } } } } },
      ["it must be a Lua pattern"] = { pattern = "[" },
      ["it must be an array of names"] = { required = { 1 } },
      ["it must be a whole number of at least 0"] = { minLength = -1 },
      ["it must be an array of values"] = { enum = {} },
      ["it must be a schema"] = { items = "x" },
      ["it must be true, false or a schema"] = { additionalProperties = "no" },
      ["nests too deep"] = endless,
    } do
      local message = failure(schema.compile, rules)
      assert.truthy(message:find(expected, 1, true), expected .. ": " .. message)
    end
  end)
end)

describe("retry", function()
  --- A function that fails with the codes given, then succeeds.
  local function failing(codes)
    local calls = 0
    return function(attempt)
      calls = calls + 1
      assert.equal(calls, attempt)
      local code = codes[calls]
      if code then return nil, "try " .. calls, code end
      return "result", calls
    end
  end

  it("repeats what is safe, up to the number of attempts", function()
    local opts = { attempts = 3, backoff_ms = 0 }
    assert.same({ "result", 3 }, { retry.run(opts, failing { "UNREACHABLE", "OVERLOADED" }) })
    assert.same({ nil, "try 3", "BUSY" }, { retry.run(opts, failing { "BUSY", "BUSY", "BUSY" }) })
    assert.same({ nil, "try 1", "TIMEOUT" }, { retry.run(opts, failing { "TIMEOUT" }) })
    assert.same({ nil, "try 2", "HANDLER_ERROR" }, { retry.run(opts, failing { "BUSY", "HANDLER_ERROR" }) })
    opts.idempotent = true
    assert.same({ "result", 2 }, { retry.run(opts, failing { "TIMEOUT" }) })
    opts.codes = { "NOT_FOUND" }
    assert.same({ "result", 2 }, { retry.run(opts, failing { "NOT_FOUND" }) })
    assert.same({ nil, "try 1", "TIMEOUT" }, { retry.run(opts, failing { "TIMEOUT" }) })
    assert.same({ false, "as it is" }, { retry.run(opts, function() return false, "as it is" end) })
    assert.matches("broken$", failure(retry.run, opts, function() error("broken") end))
  end)

  it("waits longer each time, with jitter", function()
    local sched = require("znl.core.sched")
    local slept, sleep = {}, sched.sleep
    sched.sleep = function(ms) slept[#slept + 1] = ms; return true end
    local random = 0
    local function run()
      retry.run({ attempts = 5, backoff_ms = 100, max_backoff_ms = 300, random = function() return random end },
        failing { "BUSY", "BUSY", "BUSY", "BUSY", "BUSY" })
    end
    local ok, message = pcall(function()
      run()
      random = 1
      run()
    end)
    sched.sleep = sleep
    assert.is_true(ok, message)
    assert.same({ 100, 200, 300, 300, 50, 100, 150, 150 }, slept)
  end)

  it("does not begin a wait that ends too late, and ends when its wait is cut", function()
    local sched = require("znl.core.sched")
    local sleep = sched.sleep
    local slept
    sched.sleep = function(ms) slept = ms; return nil, "sleep: cancelled", "CANCELLED" end
    local ok, message = pcall(function()
      local opts = { backoff_ms = 1000, timeout_ms = 400 }
      assert.same({ nil, "try 1", "BUSY" }, { retry.run(opts, failing { "BUSY" }) })
      assert.is_nil(slept)
      assert.same({ nil, "sleep: cancelled", "CANCELLED" }, { retry.run({ backoff_ms = 10 }, failing { "BUSY" }) })
    end)
    sched.sleep = sleep
    assert.is_true(ok, message)
    assert.truthy(slept)
  end)

  it("does not begin a wait that ends after the deadline of its task", function()
    local sched, token = require("znl.core.sched"), require("znl.core.token")
    local ended = sched.event()
    sched.spawn(function()
      token.enter(token.new(nil, 10000), false)
      local began_ms = sched.now_ms()
      local _, _, code = retry.run({ backoff_ms = 20000, max_backoff_ms = 20000 }, failing { "BUSY", "BUSY" })
      ended:set(code, sched.now_ms() - began_ms)
    end)
    local code, took_ms = ended:wait(30000)
    assert.equal("BUSY", code)
    assert.is_true(took_ms < 5000, took_ms)
  end)

  it("refuses misuse", function()
    assert.matches("must be a function to call, not a nil", failure(retry.run, {}))
    assert.matches("did you mean attempts", failure(retry.run, { attempt = 1 }, done))
  end)
end)
