--- znlrun repl, on a pipe and on a terminal, here and in another node. SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")

describe("znlrun repl", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local ffi = require("ffi")
  local json = require("cjson")
  local project = require("support.project")
  local uv = require("luv")
  local here

  before_each(function() here = project.new() end)
  after_each(function() here:remove() end)

  local function has(expected, text)
    assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
  end

  describe("without a terminal", function()
    local function repl(input, ...)
      return here:run({ "repl", ... }, { stdin = input })
    end

    it("reads lines and prints what they come to", function()
      local code, out, err = repl('1 + 1\nx = {\n  a = 1,\n}\n= x\nx.a, nil, "t"\nfor i = 1, 2 do\nprint(i)\nend\n' ..
        'znl.sleep(20)\n-- nothing\n\n(function() return 1, nil end)()\nlast = 7 last')
      assert.equal(1, code) -- "last = 7 last" is no Lua
      assert.equal('2\n{ a = 1 }\n1\tnil\t"t"\n1\n2\ntrue\n1\tnil\n', out)
      has("expected near '<eof>'", err)
    end)

    it("goes on after errors, which have a traceback", function()
      local code, out, err = repl("error('first')\nlocal function f() return nil + 1 end f()\nerror({ code = 7 })\n5\n")
      assert.equal(1, code)
      assert.equal("5\n", out)
      has("(input):1: first\nstack traceback:", err)
      has("in function 'f'", err)
      has("{ code = 7 }", err)
      assert.falsy(err:find("xpcall", 1, true), err)
    end)

    it("names the line that was typed", function()
      local _, _, err = repl("nope.x\n")
      has("(input):1: attempt to index global 'nope'", err)
      local code, out = repl("1 -- a comment\n")
      assert.equal(0, code)
      assert.equal("1\n", out)
    end)

    it("knows its commands, and JSON", function()
      local code, out = repl(".stats\n.help\n.nope\n")
      assert.equal(0, code)
      has("tasks = ", out)
      has("Ctrl-C cancels", out)
      has("there is no .nope", out)
      code, out = repl("1\nfoo.bar\n", "--json")
      assert.equal(1, code)
      local first, second = out:match("^([^\n]+)\n([^\n]+)\n$")
      assert.same({ ok = true, text = "1" }, json.decode(first))
      assert.is_false(json.decode(second).ok)
    end)

    it("says that an input is not complete", function()
      local code, _, err = repl("for i = 1, 3 do\n")
      assert.equal(1, code)
      has("'end' expected", err)
    end)
  end)

  describe("on a terminal", function()
    pcall(ffi.cdef, [[
      int openpty(int *, int *, char *, const void *, const void *);
      int close(int);
      int fcntl(int, int, ...);
    ]])

    local ends = ffi.new("int[2]")
    if ffi.C.openpty(ends, ends + 1, nil, nil, nil) ~= 0 then
      pending("needs terminals: /dev/pts is not mounted")
      return
    end
    ffi.C.close(ends[0])
    ffi.C.close(ends[1])

    --- Runs the prompt on a terminal of its own; returns how to type and how to wait for a text.
    local function open()
      assert(ffi.C.openpty(ends, ends + 1, nil, nil, nil) == 0)
      -- F_SETFD, FD_CLOEXEC: the prompt must not hold the other end of its own terminal.
      assert(ffi.C.fcntl(ends[0], 2, ffi.cast("int", 1)) == 0)
      local pipe, ended = uv.new_pipe(false), znl.event()
      local screen, changed = "", znl.event()
      local process = assert(uv.spawn(uv.fs_realpath(os.getenv("ZNLRUN") or "build/znlrun"), {
        args = { "repl" }, stdio = { ends[1], ends[1], ends[1] }, detached = true,
        env = { "TERM=xterm", "NO_COLOR=1", "XDG_STATE_HOME=" .. here.path },
      }, function(code) ended:set(code) end))
      ffi.C.close(ends[1])
      assert(pipe:open(ends[0]))
      pipe:read_start(function(_, piece)
        if piece then
          screen = screen .. piece
          changed:set()
        end
      end)
      local prompt = {}
      function prompt.type(keys) pipe:write(keys) end
      function prompt.await(text)
        local deadline = znl.now_ms() + 10000
        while not screen:find(text, 1, true) do
          if znl.now_ms() > deadline then error(("%q did not appear in: %q"):format(text, screen), 2) end
          changed:clear()
          changed:wait(100)
        end
        screen = screen:sub((select(2, screen:find(text, 1, true))) + 1)
      end
      function prompt.hang_up() pipe:close() end
      function prompt.close()
        local code = ended:wait(30000)
        process:kill("sigkill")
        process:close()
        if not pipe:is_closing() then pipe:close() end
        return code
      end
      return prompt
    end

    it("edits, completes, runs, cancels, remembers and ends", function()
      local prompt = open()
      prompt.await(".help explains")
      prompt.await("> ")
      prompt.type("1 + 1\r")
      prompt.await("2\r\n")
      prompt.type("tostr\t(4")
      prompt.await("tostring(4")
      prompt.type("2)\r")
      prompt.await('"42"\r\n')
      prompt.type("znl.s\t")
      prompt.await("secret ")
      prompt.type("\3")
      prompt.await("^C")
      prompt.type("for i = 1, 2 do\r")
      prompt.await(">> ")
      prompt.type("print('line', i)\rend\r")
      prompt.await("line\t1\r\n")
      prompt.await("line\t2\r\n")
      -- A loop of sleeps cannot be told, only ended; what is typed meanwhile is kept.
      prompt.type("while true do znl.sleep(5) end\r")
      prompt.await("end\27[K\r\n")
      znl.sleep(100)
      prompt.type("\003'after'\r")
      prompt.await("interrupted")
      prompt.await('"after"\r\n')
      prompt.type("znl.event():wait()\r")
      znl.sleep(100)
      prompt.type("\3")
      prompt.await("interrupted")
      prompt.type("\27[A\27[A\r")
      prompt.await('"after"\r\n')
      prompt.type("typed in vain\21znl.spawn(function() znl.sleep(50) print('from behind') end)\r")
      prompt.await("from behind\r\n")
      prompt.type("\4")
      assert.equal(0, prompt.close())
      local file = assert(io.open(here:at("znlrun/repl_history")))
      local text = file:read("*a")
      file:close()
      has("1 + 1\ntostring(42)\n", text)
      has("for i = 1, 2 do\\nprint('line', i)\\nend\n", text)
      assert.equal(384, bit.band(uv.fs_stat(here:at("znlrun/repl_history")).mode, 511))
    end)

    it("ends when its terminal is gone, and remembers", function()
      for _, busy in ipairs { "", "znl.event():wait()\r" } do
        local prompt = open()
        prompt.await("> ")
        prompt.type("'remembered'\r")
        prompt.await('"remembered"\r\n')
        prompt.type(busy)
        znl.sleep(50)
        prompt.hang_up()
        assert.truthy(prompt.close())
        assert.truthy(uv.fs_stat(here:at("znlrun/repl_history")))
        os.remove(here:at("znlrun/repl_history"))
      end
    end)

    it("ends with .exit, nodes and all", function()
      local prompt = open()
      prompt.await("> ")
      prompt.type("m = znl.master { id = 'm', endpoint = 'sim://x' }\rm:start()\r")
      prompt.await("true\r\n")
      prompt.type(".exit\r")
      assert.equal(0, prompt.close())
    end)
  end)

  describe("in another node", function()
    local master

    local function open(config)
      config.id, config.endpoint, config.encrypted = "m", "ipc://" .. here:at("socket"), true
      config.auth_keys = { operator = "operator key", other = "other key" }
      master = znl.master(config)
      assert(master:start())
    end

    after_each(function() if master then master:stop() end end)

    local function repl(id, input)
      return here:run({ "repl", "ipc://" .. here:at("socket"), "--id", id, "--key", "env:KEY" },
        { stdin = input, env = { KEY = id .. " key" } })
    end

    it("evaluates there", function()
      open { console = { eval = true } }
      master.mark = "seen from outside"
      local code, out, err = repl("operator",
        "node.mark\nvalue = 20\nprint('hello') value = value + 1\nvalue\nznl.sleep(5)\n")
      assert.equal(0, code, out .. err)
      assert.equal('"seen from outside"\nhello\n21\ntrue\n', out)
      code, out, err = repl("operator", "error('broken')\n")
      assert.equal(1, code)
      assert.equal("", out)
      has("(input):1: broken", err)
    end)

    it("is told when the node does not", function()
      for _, console in ipairs { true, false } do
        open { console = console }
        local code, out, err = repl("operator", "1\n")
        assert.equal(1, code)
        assert.equal("", out)
        has("socket: the node runs no Lua for others; with console = { eval = true } it would", err)
        master:stop()
        os.remove(here:at("socket"))
      end
    end)

    it("is refused with a wrong key", function()
      open { console = { eval = true } }
      local code, _, err = here:run({ "repl", "ipc://" .. here:at("socket"), "--id", "operator", "--key", "env:KEY",
        "--timeout", "300" }, { stdin = "1\n", env = { KEY = "another key" } })
      assert.equal(4, code)
      has("no sign of life", err)
    end)
  end)
end)
