-- A handler that returns what cannot be sent is named by file and line, whatever serves it.
-- Inside znlrun only.
-- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("what a handler must not return", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local folder = require("support.folder")

  local files, level, m, s, opened

  --- Line 3 is where every handler begins.
  local function text(result) return ("local result = %s\n\nreturn function() return result end\n"):format(result) end

  before_each(function()
    level = znl.log.level()
    znl.log.set_level("off")
    files, opened = folder.new(), {}
    m = znl.master { id = "m", endpoint = "tcp://127.0.0.1:*" }
    assert.is_true(m:start())
    s = znl.slave { id = "s", endpoint = m:endpoint() }
    local met = znl.event()
    s:once("master_online", function() met:set(true) end)
    assert.is_true(s:start())
    assert.is_true(met:wait(3000))
  end)

  after_each(function()
    s:stop()
    m:stop()
    for _, handlers in ipairs(opened) do handlers:close() end
    files:remove()
    znl.log.set_level(level)
  end)

  local function open(path, opts)
    local handlers = znl.handlers(path, opts)
    opened[#opened + 1] = handlers
    return handlers
  end

  local function refusal(...)
    local value, message, code = ...
    assert.is_nil(value)
    assert.equal("HANDLER_ERROR", code)
    return message
  end

  --- The error of a plain request, of a raw call and of a JSON call.
  local function refusals(route)
    return refusal(s:request("x")), refusal(s:call(route, "x", { raw = true })), refusal(s:call(route))
  end

  local NO_PAYLOAD = ": returned a number; a handler returns a string, an array of strings or nil"

  for _, workers in ipairs { 0, 1 } do
    local where = workers == 0 and "on the loop" or "in workers"

    it("is blamed on the file of a folder, " .. where, function()
      files:write("index.msg.lua", text("42"))
      files:write("users/[id].msg.lua", text("{ [1] = 1, x = 2 }"))
      files:write("deep.msg.lua", text("{ a = { b = 0/0 } }"))
      m:handle(open(files.path, { workers = workers }))
      local plain, raw = refusal(s:request("x")), refusal(s:call("/users/7", "x", { raw = true }))
      assert.equal(files:at("index.msg.lua:3") .. NO_PAYLOAD, plain)
      assert.equal(files:at("users/[id].msg.lua:3") ..
        ": returned a table that is no array of strings; a handler returns a string, an array of strings or nil", raw)
      assert.equal(files:at("deep.msg.lua:3") .. ": returned what JSON cannot carry: the number nan at a.b",
        refusal(s:call("/deep")))
    end)

    it("is blamed on a file with a limit, " .. where, function()
      files:write("h.lua", "\n\nreturn { handle = function() return 1 end, max_concurrency = 1 }")
      m:handle(open(files:at("h.lua"), { workers = workers }))
      assert.equal(files:at("h.lua:3") .. NO_PAYLOAD, refusal(s:request("x")))
    end)
  end

  it("is blamed on a file whose result cannot leave its worker", function()
    files:write("h.msg.lua", text("print"))
    m:handle(open(files.path, { workers = 1 }))
    local message = refusal(s:call("/h"))
    assert.equal(files:at("h.msg.lua:3") .. ": the result: a function cannot go from one thread to another; " ..
      "strings, numbers, booleans, nil and tables of these can", message)
  end)

  it("is blamed on the function that a router calls, in it or mounted in it", function()
    files:write("file.msg.lua", text("true"))
    local handlers = open(files.path)
    local function bad() return print end
    local line = debug.getinfo(bad, "S").linedefined
    local inner = znl.router()
    inner:route("/deep/:id", bad)
    local r = znl.router()
    r:use(function(req, next) return next(req) end)
    r:route("/", bad)
    r:route("/table", { handle = bad })
    r:mount("/inner", inner)
    r:mount("/fn", bad)
    r:mount("/files", handlers)
    r:route("/file", handlers)
    m:handle(r)
    m:use(function(req, next) return next(req) end)
    local here = ("blame_spec.lua:%d: returned "):format(line):gsub("%p", "%%%0")
    for _, message in ipairs { refusals("/") } do assert.matches(here, message) end
    for _, route in ipairs { "/table", "/inner/deep/1", "/fn/x" } do
      assert.matches(here .. "a function;", refusal(s:call(route, "x", { raw = true })))
      assert.matches(here .. "what JSON", refusal(s:call(route)))
    end
    for _, route in ipairs { "/files/file", "/file" } do
      assert.equal(files:at("file.msg.lua:3") .. NO_PAYLOAD:gsub("number", "boolean"),
        refusal(s:call(route, "x", { raw = true })))
    end
    for _, route in ipairs(r:routes()) do
      if route.path == "/file" then assert.equal(files:at("file.msg.lua:3"), route.where) end
    end
  end)

  it("is blamed on no handler when the route is too long to be kept", function()
    m:handle((function()
      local r = znl.router()
      r:route("/**", function() return 1 end)
      return r
    end)())
    assert.equal("handler" .. NO_PAYLOAD, refusal(s:call("/" .. ("x"):rep(255), "x", { raw = true })))
    assert.matches("blame_spec.lua:%d+" .. NO_PAYLOAD:gsub("%p", "%%%0") .. "$",
      refusal(s:call("/" .. ("x"):rep(254), "x", { raw = true })))
  end)
end)

describe("a module that is missing", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local folder = require("support.folder")

  local files

  before_each(function() files = folder.new() end)
  after_each(function() files:remove() end)

  local function problem(name)
    local ok, message = pcall(znl.handlers, files:at(name))
    assert.is_false(ok)
    return message:match("^[^\n]*")
  end

  it("is blamed on the line that requires it, also in a tail call", function()
    local expected = "znl.handlers: " .. files:at("h.lua:2: module \"absent\" not found:")
    for _, text in ipairs {
      "\nreturn require('absent')",
      "local function load()\nreturn require('absent') end\nreturn load()",
      "local function load(name) return require(name) end\nlocal m = load('absent')\nreturn m",
      "\nlocal m = require 'absent'\nreturn m",
    } do
      files:write("h.lua", text)
      assert.equal(expected, problem("h.lua"))
    end
    files:write("h.lua", "\nreturn require(5)")
    assert.equal("znl.handlers: " .. files:at("h.lua:2: require: the name of a module must be a text, not a number"),
      problem("h.lua"))
  end)

  it("is blamed on the module that requires it", function()
    files:write("h.lua", "return require('first')")
    files:write("lib/first.lua", "\n\nreturn require('absent')")
    assert.matches(files:at("lib/first.lua:3: module \"absent\" not found:"), problem("h.lua"), 1, true)
  end)

  it("is blamed on the handler that requires it for a request", function()
    files:write("h.lua", "return function()\n  return require('absent')\nend")
    local handlers, call = znl.handlers(files:at("h.lua")), nil
    handlers:attach(function(fn) call = fn end)
    local ok, message = pcall(call, {})
    handlers:close()
    assert.is_false(ok)
    assert.equal(files:at("h.lua:2: module \"absent\" not found:"), message:match("^[^\n]*"))
  end)
end)
