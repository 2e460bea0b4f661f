--- znlrun check, as a person runs it. SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl")

describe("znlrun check", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local json = require("cjson")
  local project = require("support.project")
  local here

  after_each(function()
    if here then here:remove() end
    here = nil
  end)

  local function has(expected, text)
    assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
  end

  it("lists the routes of handlers that are well", function()
    here = project.new {
      ["handlers/index.msg.lua"] = "return function(req) return req.payload end",
      ["handlers/users/[id].msg.lua"] = 'local m = require("names") return { handle = m.handle }',
      ["handlers/(admin)/top.msg.lua"] = "return function() end",
      ["handlers/lib/names.lua"] = "local M = {} function M.handle() end return M",
    }
    local code, out, err = here:run { "check" }
    assert.equal(0, code, out .. err)
    assert.equal("/           handlers/index.msg.lua\n" ..
      "/top        handlers/(admin)/top.msg.lua\n" ..
      "/users/:id  handlers/users/[id].msg.lua\n\n4 files, 0 errors, 0 warnings\n", out)
    assert.equal("", err)
  end)

  it("finds every kind of mistake, with its place", function()
    here = project.new {
      ["h/syntax.msg.lua"] = "\nlocal x = = 1",
      ["h/globals.msg.lua"] = "count = 0\nreturn function(req)\n  return strng.upper(req.payload) .. count\nend",
      ["h/shape.msg.lua"] = "return 5",
      ["h/field.msg.lua"] = "return { handle = function() end, on_lod = function() end }",
      ["h/raises.msg.lua"] = "\n\nerror('at the top')",
      ["h/missing.msg.lua"] = 'return require("nothing.like.it")',
      ["h/[open.msg.lua"] = "return function() end",
      ["h/twice.msg.lua"] = "return function() end",
      ["h/twice/index.msg.lua"] = "return function() end",
      ["h/lib/module.lua"] = "return tabel.concat",
      ["h/slow.msg.lua"] = 'require("znl").sleep(60000) return function() end',
    }
    local code, out = here:run { "check", "h", "--timeout-ms", "200" }
    assert.equal(1, code)
    for _, expected in ipairs {
      "h/syntax.msg.lua:2: error: unexpected symbol near '='",
      "h/globals.msg.lua:1: warning: sets the global 'count'; is a local missing?",
      "h/globals.msg.lua:3: error: there is no global 'strng'; is string meant?",
      "h/shape.msg.lua: error: must return a function",
      'h/field.msg.lua: error: unknown field "on_lod" in the table of the handler; did you mean on_load?',
      "h/raises.msg.lua:3: error: at the top",
      'h/missing.msg.lua:1: error: module "nothing.like.it" not found',
      "h/[open.msg.lua: error: route of [open.msg.lua: brackets must pair up",
      "serves /twice, which h/twice",
      "h/lib/module.lua:1: error: there is no global 'tabel'; is table meant?",
      "h/slow.msg.lua: error: is still running after 200 ms",
      "11 files, 10 errors, 1 warning",
    } do has(expected, out) end
  end)

  it("does not start what a handler registers, nor call on_load", function()
    here = project.new {
      ["handlers/index.msg.lua"] = [[
        local znl = require("znl")
        znl.every(1, function() io.stderr:write("TICK\n") end)
        znl.spawn(function() znl.sleep(1) io.stderr:write("TASK\n") end)
        return {
          on_load = function() io.stderr:write("LOADED\n") end,
          on_unload = function() io.stderr:write("UNLOADED\n") end,
          handle = function() end,
        }
      ]],
      ["handlers/later.msg.lua"] = 'require("znl").sleep(50) return function() end',
    }
    local code, out, err = here:run { "check" }
    assert.equal(0, code, out)
    assert.equal("", err)
  end)

  it("compiles only when asked so, and takes names and warnings as told", function()
    here = project.new {
      ["one.lua"] = "ran = true\nerror('it ran')\nprint(vendor)\nreturn 5",
    }
    local code, out = here:run { "check", "--no-run", "--global", "vendor", "one.lua" }
    assert.equal(0, code, out)
    has("1 file, 0 errors, 1 warning", out)
    assert.equal(1, (here:run { "check", "--no-run", "--global", "vendor", "--strict", "one.lua" }))
    assert.equal(1, (here:run { "check", "--no-run", "one.lua" }))
  end)

  it("prints JSON", function()
    here = project.new {
      ["handlers/index.msg.lua"] = "return function() end",
      ["handlers/bad.msg.lua"] = "return 5",
    }
    local code, out = here:run { "check", "--json" }
    assert.equal(1, code)
    local problem, summary = out:match("^([^\n]+)\n([^\n]+)\n$")
    problem, summary = json.decode(problem), json.decode(summary)
    assert.same({ file = "handlers/bad.msg.lua", severity = "error" },
      { file = problem.file, severity = problem.severity })
    assert.same({ errors = 1, warnings = 0, files = 2, routes = {
      { path = "/", file = "handlers/index.msg.lua" }, { path = "/bad", file = "handlers/bad.msg.lua" },
    } }, summary)
  end)

  it("says what is wrong with its use", function()
    here = project.new { ["empty/readme"] = "" }
    local code, _, err = here:run { "check" }
    assert.equal(2, code)
    has("handlers", err)
    code, _, err = here:run { "check", "empty" }
    assert.equal(2, code)
    has("no file *.msg.lua in empty", err)
  end)
end)
