-- Files, processes, names and streams on the real system. Runs inside znlrun only.
-- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")

describe("io", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local file, process, tcp = znl.file, znl.process, znl.tcp
  local await = require("znl.tasks.await")
  local uv = require("luv")
  local folder

  local function failure(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  local function code_of(...) return (select(3, ...)) end

  local function names(path)
    local list = {}
    for _, entry in ipairs(assert(file.list(path))) do list[#list + 1] = entry.name end
    return list
  end

  local function open_descriptors()
    return #assert(file.list("/proc/self/fd"))
  end

  --- Waits until nothing is left over that was not there before.
  local function until_same(before, count, what)
    for _ = 1, 3000 do
      collectgarbage()
      if count() <= before then return end
      znl.sleep(10)
    end
    error(("%s: %d, and %d before"):format(what, count(), before), 2)
  end

  before_each(function()
    folder = assert(uv.fs_mkdtemp("/tmp/znl-io-XXXXXX"))
  end)

  after_each(function()
    assert(file.remove(folder, { recursive = true }))
  end)

  describe("file", function()
    it("writes, appends, reads, and says what is there", function()
      local path = folder .. "/a.txt"
      assert.is_false(file.exists(path))
      assert.is_true(file.write(path, "one\n"))
      assert.is_true(file.append(path, { "two", "\n" }))
      assert.equal("one\ntwo\n", file.read(path))
      assert.is_true(file.exists(path))
      assert.is_true(file.write(path, ""))
      assert.equal("", file.read(path))
      local big = ("0123456789"):rep(300000)
      assert.is_true(file.write(path, big, { sync = true, mode = tonumber("600", 8) }))
      assert.is_true(big == file.read(path))
      local stat = assert(file.stat(path))
      assert.equal("file", stat.type)
      assert.equal(3000000, stat.size)
      assert.is_true(math.abs(stat.modified_ms - os.time() * 1000) < 60000)
      assert.is_true(#assert(file.read("/proc/self/status")) > 100)
    end)

    it("replaces a file as a whole and keeps its mode and its link", function()
      local path, link = folder .. "/a.txt", folder .. "/link"
      assert.is_true(file.write(path, "old", { mode = tonumber("640", 8) }))
      assert(uv.fs_symlink(path, link))
      assert.is_true(file.write(link, "new", { atomic = true, sync = true }))
      assert.equal("new", file.read(path))
      assert.equal(tonumber("640", 8), file.stat(path).mode)
      assert.equal("link", file.stat(link, { follow = false }).type)
      assert.is_true(file.write(folder .. "/fresh", "x", { atomic = true }))
      assert.same({ "a.txt", "fresh", "link" }, names(folder))
      assert.equal("INVALID", code_of(file.write(folder, "x", { atomic = true })))
      assert.equal("NOT_FOUND", code_of(file.write(folder .. "/no/x", "x", { atomic = true })))
      assert.same({ "a.txt", "fresh", "link" }, names(folder))
    end)

    it("leaves nothing of a list behind in the process", function()
      local function held()
        local count = 0
        for _, value in pairs(debug.getregistry()) do
          if type(value) == "userdata" then count = count + 1 end
        end
        return count
      end
      file.list(folder)
      local before = held()
      for _ = 1, 50 do
        file.list(folder)
        file.list(folder .. "/none")
      end
      assert.is_true(held() - before < 5, before .. " -> " .. held())
    end)

    it("lists, makes, renames and removes", function()
      assert.is_true(file.mkdir(folder .. "/x/y/z", { parents = true }))
      assert.is_true(file.mkdir(folder .. "/x/y/z", { parents = true }))
      assert.equal("EXISTS", code_of(file.mkdir(folder .. "/x")))
      assert.equal("NOT_FOUND", code_of(file.mkdir(folder .. "/p/q")))
      for _, name in ipairs { "b", "a" } do assert.is_true(file.write(folder .. "/x/" .. name, name)) end
      assert.same({
        { name = "a", type = "file" }, { name = "b", type = "file" }, { name = "y", type = "directory" },
      }, file.list(folder .. "/x"))
      assert.equal("LIMIT", code_of(file.list(folder .. "/x", { max_entries = 2 })))
      assert.is_true(file.rename(folder .. "/x/a", folder .. "/x/c"))
      assert.equal("a", file.read(folder .. "/x/c"))
      assert.equal("EXISTS", code_of(file.remove(folder .. "/x")))
      assert(uv.fs_symlink("/etc", folder .. "/x/y/etc")) -- the link goes, what it names stays
      assert.is_true(file.remove(folder .. "/x", { recursive = true }))
      assert.is_true(file.exists("/etc"))
      assert.same({}, names(folder))
      assert.equal("NOT_FOUND", code_of(file.remove(folder .. "/x")))
    end)

    it("names path, reason and code of what the system refuses", function()
      local content, message, code = file.read(folder .. "/no")
      assert.is_nil(content)
      assert.equal(("file.read: %s/no: no such file or directory"):format(folder), message)
      assert.equal("NOT_FOUND", code)
      assert.equal("INVALID", code_of(file.read(folder)))
      assert.equal("INVALID", code_of(file.write(folder, "x")))
      assert.equal("INVALID", code_of(file.read("a\0b")))
      assert.equal("INVALID", code_of(file.rename("a", "b\0")))
      assert.is_false(file.exists("a\0b"))
      assert.is_false(file.exists("/etc/passwd/x"))
      assert.is_true(file.write(folder .. "/a", "12345"))
      assert.equal("TOO_BIG", code_of(file.read(folder .. "/a", { max_bytes = 4 })))
      assert.equal("12345", file.read(folder .. "/a", { max_bytes = 5 }))
      assert.equal("TOO_BIG", code_of(file.read("/dev/zero", { max_bytes = 100000 })))
      assert.matches("io_spec.lua:%d+: file.read: the path must be a text, not a nil", failure(function()
        local content_now = file.read(nil)
        return content_now
      end))
      assert.matches("piece 2 of the content is a number", failure(file.write, folder .. "/a", { "a", 2 }))
      assert.matches("unknown option \"atomik\"", failure(file.write, folder .. "/a", "", { atomik = true }))
    end)

    it("does not wait for ever on a pipe without a writer", function()
      assert.equal(0, assert(process.run { "mkfifo", folder .. "/pipe" }).code)
      assert.equal("INVALID", code_of(file.read(folder .. "/pipe")))
      assert.equal("INVALID", code_of(file.lines(folder .. "/pipe")))
      assert.is_nil((file.write(folder .. "/pipe", "x")))
    end)

    it("goes through lines of any length", function()
      local path = folder .. "/lines"
      local long = ("x"):rep(600000)
      assert.is_true(file.write(path, "one\r\n\n" .. long .. "\nlast"))
      local seen = {}
      for line in assert(file.lines(path)) do seen[#seen + 1] = line end
      assert.same({ "one", "", long, "last" }, seen)
      assert.is_true(file.write(path, ""))
      for _ in assert(file.lines(path)) do error("there is none") end
      assert.is_true(file.write(path, "a\n" .. long))
      local next_line = assert(file.lines(path, { max_line_bytes = 1000 }))
      assert.equal("a", next_line())
      assert.matches("a line is too long", failure(next_line))
      assert.is_nil(next_line())
      assert.equal("NOT_FOUND", code_of(file.lines(folder .. "/no")))
    end)

    it("keeps no file open, also not one whose reader went away", function()
      local path = folder .. "/a"
      assert.is_true(file.write(path, ("line\n"):rep(100)))
      local before = open_descriptors()
      for _ = 1, 5 do
        file.read(path)
        file.read(path, { max_bytes = 1 })
        file.write(path, "line\nline\n", { atomic = true })
        assert.equal("line", assert(file.lines(path))())
        pcall(file.lines(path, { max_line_bytes = 1 }))
      end
      until_same(before, open_descriptors, "descriptors")
    end)
  end)

  describe("process", function()
    it("runs a command with input, environment and folder", function()
      local result = assert(process.run { "cat", stdin = { "in", "put" } })
      assert.same({ code = 0, signal = 0, stdout = "input", stderr = "" }, result)
      result = assert(process.run {
        "sh", "-c", 'printf "%s %s|$1" "$A" "${HOME-none}"; pwd; echo oops >&2; exit 3', "sh", "it's $x",
        env = { A = "a b", HOME = false }, cwd = folder,
      })
      assert.same({ code = 3, signal = 0, stdout = "a b none|it's $x" .. folder .. "\n", stderr = "oops\n" }, result)
      result = assert(process.run { "sh", "-c", "kill -TERM $$" })
      assert.equal(15, result.signal)
    end)

    it("passes a lot through both ways, also past one that does not read", function()
      local big = ("0123456789abcdef"):rep(60000)
      assert.is_true(big == assert(process.run { "cat", stdin = big }).stdout)
      assert.equal(0, assert(process.run { "true", stdin = big }).code)
      local result, message, code = process.run { "cat", stdin = big, max_output_bytes = 1000 }
      assert.is_nil(result)
      assert.equal("TOO_BIG", code)
      assert.equal("process.run: cat: more than 1000 bytes of output", message)
    end)

    it("says that there is no such command or folder", function()
      local before = open_descriptors()
      assert.same({ nil, "process.run: no-such-command: no such file or directory", "NOT_FOUND" },
        { process.run { "no-such-command" } })
      assert.equal("NOT_FOUND", code_of(process.run { "true", cwd = folder .. "/no" }))
      assert.equal("DENIED", code_of(process.run { "/etc/passwd" }))
      until_same(before, open_descriptors, "descriptors")
    end)

    --- Processes whose arguments hold this text.
    local function running(text)
      local count = 0
      for _, entry in ipairs(assert(file.list("/proc"))) do
        local line = entry.name:find("^%d+$") and file.read("/proc/" .. entry.name .. "/cmdline")
        if line and line:find("sleep%z" .. text, 1) then count = count + 1 end
      end
      return count
    end

    it("kills the command and what it started when the time is up", function()
      local began = znl.now_ms()
      local result, message, code = process.run { "sh", "-c", "sleep 98.7651; true", timeout_ms = 100 }
      assert.is_nil(result)
      assert.equal("TIMEOUT", code)
      assert.equal("process.run: sh: not done after 100 ms", message)
      assert.is_true(znl.now_ms() - began < 60000)
      until_same(0, function() return running("98.7651") end, "processes")
    end)

    it("does not wait for one that outlives the command in the background longer than its time", function()
      assert.equal("TIMEOUT", code_of(process.run { "sh", "-c", "sleep 40 &", timeout_ms = 100 }))
      assert.equal(0, assert(process.run { "sh", "-c", "sleep 0.1 &" }).code)
    end)

    it("refuses misuse", function()
      assert.matches("there is no command", failure(process.run, {}))
      assert.matches("word 2 of the command", failure(process.run, { "a", 5 }))
      assert.matches("word 2 of the command", failure(process.run, { "a", nil, "c" }))
      assert.matches("word 1 of the command", failure(process.run, { "a\0b" }))
      assert.matches("env must map names", failure(process.run, { "a", env = { ["A=B"] = "" } }))
      assert.matches("did you mean timeout_ms", failure(process.run, { "a", timeout = 5 }))
      assert.matches("must be a table, not a string", failure(process.run, "ls"))
      assert.matches("stdin is 5; it must be a text or an array of texts", failure(process.run, { "a", stdin = 5 }))
    end)
  end)

  describe("dns", function()
    it("resolves names and addresses", function()
      assert.same({ { address = "127.0.0.1", family = "inet" } }, znl.dns.resolve("127.0.0.1"))
      local found = {}
      for _, item in ipairs(assert(znl.dns.resolve("localhost"))) do found[item.address] = true end
      assert.is_true(found["127.0.0.1"] or found["::1"])
      assert.equal("INVALID", code_of(znl.dns.resolve("")))
      assert.equal("INVALID", code_of(znl.dns.resolve("a b")))
      assert.matches("family is", failure(znl.dns.resolve, "localhost", { family = "ipx" }))
    end)
  end)

  describe("tcp", function()
    local listener
    after_each(function()
      if listener then listener:close() end
      listener = nil
    end)

    local function listen(fn, opts)
      listener = assert(tcp.listen(opts or {}, fn))
      return listener.port
    end

    local function connect(port, opts)
      opts = opts or {}
      opts.port = port
      return assert(tcp.connect(opts))
    end

    it("reads lines, counts, what is there, and all of it", function()
      local port = listen(function(c)
        assert.equal("hello", c:read("line"))
        c:write("first\r\nsecond\n12345")
        znl.sleep(20)
        c:write { "67890", "rest ", "of it" }
      end)
      local c = connect(port, { host = "localhost" })
      assert.is_true(c:write("hello\n"))
      assert.equal("first", c:read("line"))
      assert.equal("second", c:read("line"))
      assert.equal("1234567890", c:read(10))
      assert.matches("^rest", c:read("some"))
      c:read("all")
      assert.equal("", c:read("all"))
      local text, message, code = c:read("some")
      assert.is_nil(text)
      assert.equal(("tcp: localhost:%d: closed by the peer"):format(port), message)
      assert.equal("CLOSED", code)
      c:close()
      c:close()
      assert.is_true(c:is_closed())
      assert.equal("CLOSED", code_of(c:read("all")))
      assert.equal("CLOSED", code_of(c:write("x")))
    end)

    it("takes bytes that trickle in, whatever their borders", function()
      local text = {}
      for i = 1, 700 do text[i] = ("line %d\n"):format(i) end
      local all = table.concat(text)
      local port = listen(function(c)
        local at = 1
        while at <= #all do
          local size = at % 7 + 1
          c:write(all:sub(at, at + size - 1))
          at = at + size
        end
      end)
      local c = connect(port)
      for i = 1, 700 do assert.equal("line " .. i, c:read("line")) end
      assert.equal("CLOSED", code_of(c:read("line")))
      c:close()
    end)

    it("keeps what came before a timeout, and before the peer closed", function()
      local go_on = znl.event()
      local port = listen(function(c)
        c:write("half")
        go_on:wait()
        c:write(" line\nrest")
      end)
      local c = connect(port)
      local _, message, code = c:read("line", 30)
      assert.equal("TIMEOUT", code)
      assert.matches("nothing to read in time", message)
      go_on:set(true)
      assert.equal("half line", c:read("line"))
      assert.equal("CLOSED", code_of(c:read(100)))
      assert.equal("CLOSED", code_of(c:read("line")))
      assert.equal("rest", c:read("all"))
      c:close()
    end)

    it("lets the peer wait instead of reading without bound", function()
      local sent, done = 0, znl.event()
      local piece = ("x"):rep(65536)
      local port = listen(function(c)
        for _ = 1, 400 do
          if not c:write(piece) then break end
          sent = sent + #piece
        end
        done:set()
      end)
      local c = connect(port, { max_buffer_bytes = 65536 })
      znl.sleep(100)
      assert.is_true(sent < 20 * 1024 * 1024, sent) -- what the system buffers, and no more
      assert.is_true(c.stream.size <= 2 * 65536 + 65536, c.stream.size)
      local total = 0
      repeat
        local some = c:read("some")
        total = total + #(some or "")
      until not some
      assert.equal(400 * 65536, total)
      c:close()
    end)

    it("refuses a line or a rest that is too long, and ends a write nobody reads", function()
      local port = listen(function(c)
        c:write(("x"):rep(5000))
        c:read("all")
      end, { io_timeout_ms = 60000 })
      local c = connect(port, { max_buffer_bytes = 1024, max_read_bytes = 4000 })
      assert.equal("TOO_BIG", code_of(c:read("line")))
      assert.equal("TOO_BIG", code_of(c:read("all")))
      assert.equal(4000, #c:read(4000))
      assert.matches("in 1..4000", failure(c.read, c, 4001))
      c:close()

      local held = znl.event()
      local port_held = assert(tcp.listen({ max_buffer_bytes = 1024 }, function() held:wait(30000) end))
      c = connect(port_held.port)
      local ok, message, code = c:write(("x"):rep(32 * 1024 * 1024), 100)
      assert.is_nil(ok)
      assert.equal("TIMEOUT", code)
      assert.matches("not written in time", message)
      assert.is_true(c:is_closed())
      held:set()
      port_held:close()
    end)

    it("lets one coroutine read at a time, and ends it when another closes", function()
      local port = listen(function(c) c:read("all") end)
      local c = connect(port)
      local ended = znl.event()
      znl.spawn(function() ended:set(c:read("line")) end)
      assert.equal("BUSY", code_of(c:read("line")))
      c:close()
      assert.same({ nil, ("tcp: 127.0.0.1:%d: closed"):format(port), "CLOSED" }, { ended:wait(30000) })
    end)

    it("finishes one direction and goes on with the other", function()
      local port = listen(function(c)
        local text = c:read("all")
        c:write("got " .. text)
      end)
      local c = connect(port)
      assert.is_true(c:write("question"))
      c:finish()
      assert.equal("got question", c:read("all"))
      assert.same({ "127.0.0.1", port }, { c.address, c.port })
      c:close()
    end)

    it("says why there is no connection", function()
      local port = listen(function() end)
      listener:close()
      local c, message, code = tcp.connect { port = port }
      assert.is_nil(c)
      assert.equal(("tcp.connect: 127.0.0.1:%d: connection refused"):format(port), message)
      assert.equal("UNREACHABLE", code)
      assert.matches("option port is missing", failure(tcp.connect, {}))
      assert.matches("a function%(connection%) is needed", failure(tcp.listen, {}))
      port = listen(function() end)
      assert.equal("ADDRESS_IN_USE", code_of(tcp.listen({ port = port }, function() end)))
      assert.equal("ADDRESS", code_of(tcp.listen({ host = "192.0.2.1" }, function() end)))
    end)

    it("takes no more connections than it may at once", function()
      local now, most, served = 0, 0, 0
      local port = listen(function(c)
        now = now + 1
        most = math.max(most, now)
        c:read("line")
        now = now - 1
        served = served + 1
      end, { max_connections = 2 })
      local all = {}
      for i = 1, 5 do all[i] = connect(port) end
      eventually(function() return now == 2 end)
      znl.sleep(30)
      assert.equal(2, now)
      for i = 1, 5 do all[i]:write("bye\n") end
      eventually(function() return served == 5 end)
      assert.equal(2, most)
      for i = 1, 5 do all[i]:close() end
    end)

    it("closes the connection of a handler that raises, and one that nobody holds", function()
      local level = znl.log.level()
      znl.log.set_level("off")
      local port = listen(function() error("on purpose") end)
      local c = connect(port)
      assert.equal("", c:read("all"))
      c:close()
      listener:close()
      local ended = znl.event()
      port = listen(function(peer) ended:set(peer:read("all")) end)
      do
        local lost = connect(port)
        lost:write("last words")
      end
      c = nil
      local text
      for _ = 1, 1000 do
        collectgarbage()
        text = ended:wait(20)
        if text then break end
      end
      znl.log.set_level(level)
      assert.is_nil(c)
      assert.equal("last words", text)
    end)
  end)

  describe("cancelling", function()
    local sched, token = require("znl.core.sched"), require("znl.core.token")

    --- Runs `fn` under a token; returns that, and an event with what `fn` returned.
    local function under_token(fn, timeout_ms)
      local made, ended = token.new(nil, timeout_ms), znl.event()
      sched.spawn(function()
        token.enter(made, false)
        ended:set(fn())
      end)
      return made, ended
    end

    it("kills a command whose time is up, and one that nobody waits for any more", function()
      local _, ended = under_token(function() return process.run { "sleep", "97.1231" } end, 50)
      assert.equal("DEADLINE", code_of(ended:wait(30000)))
      local cancelled
      cancelled, ended = under_token(function() return process.run { "sleep", "97.1232" } end)
      cancelled:cancel("enough")
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      local owner = sched.owner()
      sched.spawn_background(owner, function() process.run { "sleep", "97.1233" } end)
      local child = assert(process.run { "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '" })
      assert.matches("sleep 97.1233", child.stdout)
      owner:end_background()
      until_same(0, function()
        child = assert(process.run { "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '" })
        return select(2, child.stdout:gsub("sleep 97%.123", ""))
      end, "processes")
    end)

    it("leaves a connection as it was when a read is cancelled, and closes one half written", function()
      local hold = znl.event()
      local listener = assert(tcp.listen({}, function(c)
        znl.sleep(60)
        c:write("late\n")
        hold:wait(30000)
      end))
      local c = assert(tcp.connect { port = listener.port })
      local made, ended = under_token(function() return c:read("line") end)
      made:cancel()
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      assert.equal("late", c:read("line"))
      made, ended = under_token(function() return c:write(("x"):rep(64 * 1024 * 1024)) end)
      znl.sleep(10)
      made:cancel()
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      assert.is_true(c:is_closed())
      hold:set()
      listener:close()
    end)

    it("takes a cancelled atomic write back, and closes every file", function()
      local path, before = folder .. "/a", open_descriptors()
      assert.is_true(file.write(path, "old\nold\n"))
      local big = ("x"):rep(8 * 1024 * 1024)
      local made, ended = under_token(function() return file.write(path, big, { atomic = true }) end)
      made:cancel()
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      made, ended = under_token(function() return file.read(path) end)
      made:cancel()
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      local next_line = assert(file.lines(path))
      made, ended = under_token(function() return pcall(next_line) end)
      made:cancel()
      assert.is_false((ended:wait(30000)))
      made, ended = under_token(function() return file.lines(path) end)
      made:cancel()
      assert.equal("CANCELLED", code_of(ended:wait(30000)))
      local owner = sched.owner()
      sched.spawn_background(owner, function() file.read(path) end)
      sched.spawn_background(owner, function()
        for _ in assert(file.lines(path)) do znl.sleep(10000) end
      end)
      znl.sleep(20)
      owner:end_background()
      until_same(before, open_descriptors, "descriptors")
      until_same(1, function() return #names(folder) end, "files")
      assert.equal("old\nold\n", file.read(path))
    end)
  end)

  describe("await", function()
    it("raises what a body raises, after its callback", function()
      local message = failure(await.job, "x", function() error("broken") end, uv.fs_stat, "/")
      assert.matches("io_spec.lua:%d+: broken", message)
    end)
  end)
end)
