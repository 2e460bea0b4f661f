-- SPDX-License-Identifier: MIT
local cjson = require("cjson")
local middleware = require("znl.routing.middleware")
local regexp = require("znl.routing.regexp")
local route_file = require("znl.routing.route_file")
local router = require("znl.routing.router")

local VECTORS = os.getenv("ZNL_VECTORS") or "tests/vectors"

local function vectors()
  local file = assert(io.open(VECTORS .. "/micro/routes.json"))
  local text = file:read("*a")
  file:close()
  return cjson.decode(text)
end

local function failure(fn, ...)
  local ok, message = pcall(fn, ...)
  assert.is_false(ok)
  return message
end

local function answer(text) return function() return text end end

--- What a request for `route` gets: the path of the route, or nil and the code.
local function reached(r, route)
  local text, _, code = r:dispatch { route = route }
  return text, code
end

describe("router", function()
  local data = vectors()

  for _, set in ipairs(data.sets) do
    it("matches as the vectors have it: " .. set.name, function()
      local r = router.new()
      local paths = {}
      for _, pattern in ipairs(set.patterns) do
        local handler = answer(pattern)
        paths[handler] = pattern
        r:route(pattern, handler)
      end
      assert.is_true(#set.cases > 0)
      for _, case in ipairs(set.cases) do
        local handler, params, path = r:match(case.url)
        local expected = case.match ~= cjson.null and case.match or nil
        assert.equal(expected, handler and paths[handler], case.url)
        assert.equal(expected, path, case.url)
        assert.same(expected and case.params, params, case.url)
        local req = { route = case.url }
        local text, _, code = r:dispatch(req)
        assert.equal(expected, text, case.url)
        assert.same(expected and case.params or {}, req.params, case.url)
        assert.equal(not expected and "NOT_FOUND" or nil, code, case.url)
      end
    end)
  end

  it("keeps the first of a path twice registered, and removes both", function()
    local r = router.new()
    local remove = r:route("/d", answer("first"))
    local remove_second = r:route("/d", answer("second"))
    assert.equal("first", reached(r, "/d"))
    remove_second()
    assert.equal("NOT_FOUND", select(2, reached(r, "/d")))
    r:route("/d", answer("third"))
    remove() -- removed already: what came later stays
    remove_second()
    assert.equal("third", reached(r, "/d"))

    r:route("/p/:id", answer("first"))
    local remove_name = r:route("/p/:name", answer("second"))
    local handler, params = r:match("/p/1")
    assert.equal("first", handler())
    assert.same({ id = "1" }, params)
    remove_name()
    assert.equal("first", reached(r, "/p/1"))
  end)

  it("leaves nothing behind of removed routes", function()
    local r = router.new()
    local removals = {}
    for _, path in ipairs { "/", "/a/:b/c", "/a/b", "/o/:x?/y", "/w/**", "/n/:id(\\d+)", "/z/:p*" } do
      removals[#removals + 1] = r:route(path, answer(path))
    end
    for _, remove in ipairs(removals) do remove() end
    assert.same({}, r.root)
    assert.same({}, r.static)
    assert.same({}, r:routes())
  end)

  it("shows a static route again when the one before it is removed", function()
    local r = router.new()
    local remove = r:route("/z/:p*", answer("rest"))
    r:route("/z", answer("z"))
    assert.equal("rest", reached(r, "/z"))
    remove()
    assert.equal("z", reached(r, "/z"))
    assert.is_nil(r:match("/z/1"))
  end)

  it("takes a step back where a branch leads nowhere", function()
    local r = router.new()
    for _, path in ipairs { "/k/fixed/q", "/k/:p/z", "/k/**", "/:a/:b/:c/deep", "/**:rest" } do
      r:route(path, answer(path))
    end
    assert.equal("/k/:p/z", reached(r, "/k/fixed/z"))
    assert.equal("/k/**", reached(r, "/k/fixed/other"))
    assert.equal("/:a/:b/:c/deep", reached(r, "/k2/2/3/deep"))
    assert.equal("/**:rest", reached(r, "/k2/2/3"))
  end)

  it("prefers a parameter with a regexp, in whatever order they come", function()
    local r = router.new()
    r:route("/n/:name", answer("name"))
    r:route("/n/:id(\\d+)", answer("id"))
    r:route("/n/:a(\\d+)/:b(\\d+)", answer("digits"))
    r:route("/n/:a(\\d+)/:b([a-z]+)", answer("letters"))
    r:route("/v/:major(\\d+).:minor(\\d+)-:tag", answer("version"))
    assert.equal("id", reached(r, "/n/12"))
    assert.equal("name", reached(r, "/n/1x"))
    assert.equal("digits", reached(r, "/n/1/2"))
    assert.equal("letters", reached(r, "/n/1/b"))
    assert.is_nil(reached(r, "/n/1/B"))
    local _, params = r:match("/v/1.12-a.b-c")
    assert.same({ major = "1", minor = "12", tag = "a.b-c" }, params)
    assert.is_nil(r:match("/v/1.x-a"))
  end)

  it("answers a hostile url fast and without running out of stack", function()
    local r = router.new()
    r:route("/:a/:b/:c/:d/x", answer("x"))
    r:route("/m/:a-:b-:c-:d.json", answer("mixed"))
    r:route("/e/:a((a*)*b)", answer("regexp"))
    r:route("/r/**", answer("rest"))
    local began = os.clock()
    assert.is_nil(r:match(("/a"):rep(100000)))
    assert.is_nil(r:match("/" .. ("a"):rep(router.MAX_URL_BYTES)))
    assert.is_nil(r:match("/r" .. ("/"):rep(router.MAX_SEGMENTS)  .. "a"))
    assert.truthy(r:match("/r" .. ("/a"):rep(router.MAX_SEGMENTS - 1)))
    assert.is_nil(r:match("/r" .. ("/a"):rep(router.MAX_SEGMENTS)))
    assert.is_nil(r:match("/m/" .. ("-"):rep(255)))
    assert.is_nil(r:match("/m/" .. ("-"):rep(4000)))
    assert.is_nil(r:match("/e/" .. ("a"):rep(255)))
    assert.is_nil(r:match(("/.."):rep(1000)))
    assert.is_true(os.clock() - began < 1)
  end)

  it("says what is wrong with a path", function()
    local r = router.new()
    for path, expected in pairs {
      ["users"] = "must begin with /",
      ["/a/:"] = "needs a name",
      ["/a/:...rest"] = "the rest of a path is **:name",
      ["/a/**/b"] = "nothing can follow",
      ["/p/:p+/more"] = "nothing can follow",
      ["/a/**x"] = "stands alone",
      ["/a/*.png"] = "stand alone",
      ["/a/(x)"] = "behind a parameter",
      ["/a/:id(x"] = "never closed",
      ["/a/:id)"] = "without (",
      ["/a/:id(a/b)"] = "cannot hold a /",
      ["/a/:id([z-a])"] = "wrong range",
      ["/a/:id((?=x))"] = "(? is not supported",
      ["/m/:a/:a"] = "parameter a twice",
      ["/a/../b"] = "never reached",
      ["/a\nb"] = "control character",
      ["/" .. ("x"):rep(1024)] = "at most 1024 bytes",
      [("/x"):rep(65)] = "more than 64 segments",
      ["/:a?/:b?/:c?/:d?/:e?"] = "too many optional",
    } do
      local message = failure(r.route, r, path, answer("x"))
      assert.truthy(message:find(expected, 1, true), path .. ": " .. message)
      assert.truthy(message:find("router:route: ", 1, true), message)
    end
    assert.matches("router_spec.lua:%d+: router:route: the path must be a text, not a nil", failure(function()
      r:route(nil, answer("x"))
    end))
    assert.matches("must be a function or a table with handle, not a string", failure(r.route, r, "/a", "x"))
    assert.matches("not a table without it", failure(r.route, r, "/a", {}))
    assert.matches("r:mount", failure(r.route, r, "/a", router.new()))
    assert.same({}, r:routes())
  end)

  it("runs middleware around handlers and around a missing route", function()
    local r = router.new()
    local seen = {}
    r:route("/a/:id", function(req) return "a" .. req.params.id end)
    r:use(function(req, next)
      seen[#seen + 1] = "outer " .. (req.params.id or "none")
      return next(req)
    end)
    r:use(function(req, next)
      if req.stop then return nil, "stopped", "STOPPED" end
      local text, message, code = next(req)
      return text and text .. "!", message, code
    end)
    r:route("/b", answer("b"))
    assert.equal("a7!", r:dispatch { route = "/a/7" })
    assert.equal("b!", r:dispatch { route = "/b" })
    assert.same({ nil, "stopped", "STOPPED" }, { r:dispatch { route = "/b", stop = true } })
    assert.equal("NOT_FOUND", select(3, r:dispatch { route = "/c" }))
    assert.same({ "outer 7", "outer none", "outer none", "outer none" }, seen)
    assert.matches("function%(req, next%), not a table", failure(r.use, r, {}))
  end)

  it("gives a plain request the route /", function()
    local r = router.new()
    assert.equal("router: no route /", (select(2, r:dispatch {})))
    r:route("/", answer("root"))
    assert.equal("root", r:dispatch {})
    assert.equal("root", r:dispatch { route = "" })
  end)

  it("mounts routers, handler sources and functions under a prefix", function()
    local inner, r = router.new(), router.new()
    inner:route("/", function(req) return "inner " .. req.route end)
    inner:route("/:id", function(req) return "inner " .. req.params.id end)
    local unmount = r:mount("/in/side/", inner)
    r:route("/in/side/static", answer("static"))
    r:mount("/fn", function(req) return "fn " .. req.route end)
    local req = { route = "/in/side/5" }
    assert.equal("inner 5", r:dispatch(req))
    assert.equal("/in/side/5", req.route)
    assert.equal("inner /", reached(r, "/in/side"))
    assert.equal("static", reached(r, "/in/side/static"))
    assert.equal("fn /a/b", reached(r, "/fn/a/b"))

    local apply, detached
    local source = { attach = function(_, fn)
      apply = fn
      fn(answer("v1"))
      return function() detached = true end
    end }
    local remove = r:mount("/src", source)
    assert.equal("v1", reached(r, "/src/x"))
    apply(answer("v2"))
    assert.equal("v2", reached(r, "/src"))
    apply(nil)
    assert.equal("NOT_FOUND", select(2, reached(r, "/src")))
    remove()
    assert.is_true(detached)
    local remove_one = r:route("/one", source)
    assert.equal("v1", reached(r, "/one"))
    remove_one()

    local paths = {}
    for _, route in ipairs(r:routes()) do paths[#paths + 1] = route.path end
    assert.same({ "/fn/**", "/in/side", "/in/side/**", "/in/side/:id", "/in/side/static" }, paths)
    unmount()
    assert.is_nil(reached(r, "/in/side/5"))
    assert.matches("no parameters", failure(r.mount, r, "/:tenant", inner))
    assert.matches("in itself", failure(r.mount, r, "/x", r))
    assert.matches("not a nil", failure(r.mount, r, "/x"))
  end)

  it("says where a handler was written", function()
    local r = router.new()
    r:route("/b", answer("b"))
    r:route("/a", { handle = answer("a") })
    local routes = r:routes()
    assert.equal("/a", routes[1].path)
    assert.matches("router_spec.lua:%d+$", routes[1].where)
    assert.equal("a", reached(r, "/a"))
  end)

  it("attaches to a node like any handler", function()
    local r = router.new()
    local call, owner
    local detach = r:attach(function(...) call, owner = ... end)
    r:route("/later", answer("later"))
    assert.equal("later", call { route = "/later" })
    assert.is_nil(owner)
    detach()
  end)
end)

describe("compose", function()
  it("runs the first outermost", function()
    local function wrap(letter)
      return function(req, next) return letter .. next(req) .. letter end
    end
    local run = middleware.compose({ wrap("a"), wrap("b") }, function(req) return req.text end)
    assert.equal("ab-ba", run { text = "-" })
    assert.equal("x", middleware.compose({}, answer("x"))())
  end)

  it("refuses what cannot run", function()
    assert.matches("middleware 2 must be a function", failure(middleware.compose, { print, 1 }, print))
    assert.matches("handler must be a function", failure(middleware.compose, {}, nil))
    assert.matches("an array of functions, not a function", failure(middleware.compose, print, print))
  end)
end)

describe("route_file", function()
  it("has the routes of the vectors", function()
    local files = vectors().files
    assert.is_true(#files > 0)
    for _, case in ipairs(files) do
      assert.equal(case.route, (route_file.path(case.file, { extension = "ts" })), case.file)
      assert.equal(case.withPrefix, (route_file.path(case.file, { extension = "ts", prefix = "/-" })), case.file)
    end
  end)

  it("knows what is no handler file, and names that are wrong", function()
    assert.equal("/users/:id", (route_file.path("(admin)/users/[id].msg.lua")))
    assert.same({ n = 1 }, { n = select("#", route_file.path("readme.lua")) })
    assert.is_nil(route_file.path("msg.lua"))
    for _, name in ipairs { "[id.msg.lua", "a]/b.msg.lua", "(a/b.msg.lua", "[[a]].msg.lua" } do
      local route, message, code = route_file.path(name)
      assert.is_nil(route)
      assert.truthy(message:find(name, 1, true))
      assert.equal("INVALID", code)
    end
  end)
end)

describe("regexp", function()
  --- The longest match from the start, or nil.
  local function longest(expression, text)
    local ends = assert(regexp.compile(expression)):ends(text, 1)
    return #ends > 0 and text:sub(1, ends[#ends] - 1) or nil
  end

  it("matches what JavaScript would", function()
    for _, case in ipairs {
      { "\\d+", "12a", "12" }, { "\\d+", "a", nil }, { "a|bc|", "bcd", "bc" }, { "a|bc|", "x", "" },
      { "(ab)*", "ababa", "abab" }, { "(?:a|b)+c", "abac", "abac" }, { "[a-c_]+", "ab_cd", "ab_c" },
      { "[^a-c]+", "xyza", "xyz" },
      { "\\w{2,3}", "abcd", "abc" }, { "\\w{2}", "a", nil }, { "a{2,}", "aaaa", "aaaa" },
      { "a.c", "abc", "abc" }, { "a\\.c", "abc", nil }, { "[\\d.-]+", "1.2-3x", "1.2-3" },
      { "\\S\\s\\D", "a b", "a b" },
      { "(a?){3}", "aa", "aa" }, { "[]", "a", nil }, { "colou?r", "color", "color" }, { "\\W", "-", "-" },
    } do
      assert.equal(case[3], longest(case[1], case[2]), case[1] .. " on " .. case[2])
    end
  end)

  it("refuses what it does not know", function()
    for _, expression in ipairs {
      "(", ")", "[a", "*", "a**", "a+?", "^a", "a$", "(?!a)", "\\b", "\\", "a{2,1}", "a{999}", "x{", "[b-a]",
      "(((a{100}){100}))", ("("):rep(30) .. (")"):rep(30),
    } do
      local compiled, message, code = regexp.compile(expression)
      assert.is_nil(compiled, expression)
      assert.matches("^regexp: ", message)
      assert.equal("INVALID", code)
    end
  end)
end)
