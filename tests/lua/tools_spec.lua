--- The tools, as a person runs them: the real binary, and where one is needed a real master.
--- SPDX-License-Identifier: MIT

local has_core, znl = pcall(require, "znl")
local eventually = has_core and require("tests.lua.support.eventually")
local uv = has_core and require("luv")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

--- Runs a shell command; returns its exit code, standard output and standard error. Yields, so that
--- nodes of the test go on. `started(pid)` may signal it.
local function shell(command, started)
  local pipes, texts, open, done = { uv.new_pipe(false), uv.new_pipe(false) }, {}, 3, znl.event()
  local exit_code
  local function one_less()
    open = open - 1
    if open == 0 then done:set(true) end
  end
  local process, pid = uv.spawn("/bin/sh", {
    args = { "-c", command }, stdio = { nil, pipes[1], pipes[2] },
  }, function(code, signal)
    exit_code = signal ~= 0 and 128 + signal or code
    one_less()
  end)
  assert(process, pid)
  for index, pipe in ipairs(pipes) do
    local parts = {}
    pipe:read_start(function(_, piece)
      if piece then
        parts[#parts + 1] = piece
        return
      end
      texts[index] = table.concat(parts)
      pipe:close()
      one_less()
    end)
  end
  if started then znl.spawn(started, pid) end
  assert(done:wait(60000), "never ended: " .. command)
  process:close()
  return exit_code, texts[1], texts[2]
end

local function run(arguments, started)
  return shell("exec timeout 50 " .. znlrun .. " " .. arguments, started)
end

--- How wide the widest line is.
local function columns(lines)
  local widest = 0
  for _, line in ipairs(lines) do widest = math.max(widest, #line) end
  return widest
end

local function has(expected, text)
  assert.truthy(text:find(expected, 1, true), ("%q is not in: %s"):format(expected, text))
end

describe("tools", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  it("are listed by --help and help", function()
    for _, arguments in ipairs { "--help", "-h", "help" } do
      local code, out = run(arguments)
      assert.equal(0, code)
      has("usage: znlrun", out)
      has("\n  keygen ", out)
    end
  end)

  it("have a help each, also by help NAME", function()
    local tools = require("znl.tools")
    for _, name in ipairs(tools.NAMES) do
      local code, out = run(name .. " --help")
      assert.equal(0, code, name)
      has("Usage: znlrun " .. name, out)
      has("Exit codes:", out)
      local again = select(2, run("help " .. name))
      assert.equal(out, again)
    end
  end)

  it("a wrong name suggests the nearest tool", function()
    local code, out, err = run("keygne")
    assert.equal(2, code)
    assert.equal("", out)
    has("did you mean keygen?", err)
    err = select(3, run("'bad name;'"))
    has("neither a file nor a tool", err)
    assert.equal(2, (run("help nothing-like-it")))
  end)

  it("a file by the name of a tool is a script, a folder is not", function()
    local folder = os.tmpname()
    os.remove(folder)
    local binary = znlrun:sub(1, 1) == "/" and znlrun or "$OLDPWD/" .. znlrun
    local code, out = shell(("mkdir %s && cd %s && echo \"io.write('a script')\" > keygen && %s keygen")
      :format(folder, folder, binary))
    assert.equal(0, code)
    assert.equal("a script", out)
    code, out = shell(("cd %s && rm keygen && mkdir keygen && %s keygen"):format(folder, binary))
    shell("rm -r " .. folder)
    assert.equal(0, code)
    assert.equal(44, #out)
  end)

  it("refuse wrong options, with --json as JSON", function()
    local code, out, err = run("keygen --otu x")
    assert.equal(2, code)
    assert.equal("", out)
    has("--otu", err)
    has("--out", err)
    code, out, err = run("keygen --json --otu x")
    assert.equal(2, code)
    assert.equal("", err)
    local answer = require("cjson").decode(out)
    assert.equal("USAGE", answer.code)
    has("--otu", answer.error)
  end)

  it("name the option whose value is wrong, and show their usage to who left something out", function()
    local code, _, err = run("call tcp://127.0.0.1:1 /x --timeout abc")
    assert.equal(2, code)
    assert.equal("znlrun call: --timeout: 'abc' must be a whole number in 1..86400000\n" ..
      "znlrun call --help says more\n", err)
    has("znlrun bench: --key: a key is given as env:NAME", select(3, run("bench tcp://127.0.0.1:1 --key secret")))
    err = select(3, run("call"))
    has("znlrun call: missing argument 'endpoint'\nUsage: znlrun call [--id <id>]", err)
    assert.equal("znlrun check: no-such: no such file or directory\n", (select(3, run("check no-such"))))
    assert.equal("znlrun test: no-such: no such file or directory\n", (select(3, run("test no-such"))))
    assert.equal("znlrun new: no-such/demo: no such file or directory\n", (select(3, run("new no-such/demo"))))
  end)

  it("say when the output cannot be written, and end when nobody reads", function()
    local code, _, err = run("keygen > /dev/full")
    assert.equal(1, code)
    has("No space left", err)
    assert.is_nil(err:find("traceback"))
    code, _, err = shell(("{ sleep 0.2; %s keygen; echo $? >&2; } | true"):format(znlrun))
    assert.equal(0, code)
    assert.equal("141\n", err)
  end)

  it("show progress on one line, however narrow the terminal", function()
    local shown, stderr = {}, io.stderr
    local out = require("znl.cli.output").new("bench", {})
    out.has_progress = true
    local fake = { write = function(_, ...) shown[#shown + 1] = table.concat { ... } end, flush = function() end }
    rawset(io, "stderr", fake)
    local ok, message = pcall(function()
      out:progress("half of it")
      out:clear_progress()
    end)
    rawset(io, "stderr", stderr)
    assert.is_true(ok, message)
    assert.same({ "\r\27[K\27[?7lhalf of it\27[?7h", "\r\27[K" }, shown)
  end)

  it("show a node in as many columns as there are", function()
    local node_view = require("znl.cli.node_view")
    local function sample(at, received)
      local latency = { count = 9, p50_ms = 0.001, p90_ms = 0.01, p99_ms = 12.5, max_ms = 1234 }
      return {
        at = at * 1e9,
        stats = {
          id = "demo", role = "master", endpoint = "tcp://127.0.0.1:6003", uptime_ms = 90000, clock_ms = 9000,
          counters = { requests_in = received, received = received, sent = received, handlers = 4, queued = 1,
            pending = 2, outbox = 3, handler_errors = 0, refused = received },
          limits = { max_concurrency = 1000, max_queue = 10000, max_pending = 1000, outbox_messages = 10000,
            max_peers = 10000 },
          console = { asked = 0 }, latency = { recent = latency, total = latency },
          process = { rss_bytes = 2 ^ 24, lua_bytes = 2 ^ 20, cpu_ms = at * 500 },
          runtime = { tasks = 3, timers = 1234 }, handlers = { handlers = 3, broken = 1, reloads = 5, failures = 2 },
          slave_count = 1, slaves = { { id = ("s"):rep(80), since_ms = 1000, last_seen_ms = 8000 } },
        },
      }
    end
    local before, now = sample(1, 0), sample(2, 1234567)
    local wide = node_view.render(now, before, 100)
    assert.is_true(columns(wide) <= 100)
    local text = table.concat(wide, "\n")
    has("requests  1,234,567/s, 0 errors/s, 1,234,567 refused/s, 1,234,567 messages in/s, 1,234,567 out/s", text)
    has("lately    handlers took p50 0.001, p90 0.01, p99 12.5, max 1.23e+03 ms", text)
    has("memory    16.0 MiB, Lua 1.0 MiB, cpu 50 %", text)
    has("files     3 handlers, 1 broken, 5 reloads, 2 failed", text)
    has("SLAVE                                                       ON LINE  LAST SEEN", text)
    local narrow = node_view.render(now, before, 60)
    assert.is_true(columns(narrow) <= 60, table.concat(narrow, "\n"))
    text = table.concat(narrow, "\n")
    has("\nrequests  1,234,567/s, 0 errors/s, 1,234,567 refused/s,\n          1,234,567 messages in/s", text)
    has(("s"):rep(38) .. "         8s         1s", text)
  end)

  describe("with a master", function()
    local cjson = require("cjson")
    local nodes, level, endpoint, pushes

    local function node(kind, opts)
      local made = znl[kind](opts)
      nodes[#nodes + 1] = made
      return made
    end

    local function start_master(opts)
      opts = opts or {}
      opts.id, opts.endpoint = "master", "tcp://127.0.0.1:*"
      local master = node("master", opts)
      master:on("push", function(from, topic, payload) pushes[#pushes + 1] = { from, topic, payload } end)
      master:handle(function(req)
        if req.payload == "slow" then znl.sleep(60000) end
        if req.payload == "frames" then return { "one", "two" } end
        if req.payload == "binary" then return "\0\255" end
        if req.payload == "who" then return req.from end
        return type(req.payload) == "table" and table.concat(req.payload, "+") or "got " .. req.payload
      end)
      assert(master:start())
      endpoint = master:endpoint()
      return master
    end

    before_each(function()
      nodes, pushes, level = {}, {}, znl.log.level()
      znl.log.set_level("off")
    end)

    after_each(function()
      znl.log.set_level(level)
      for _, made in ipairs(nodes) do made:stop() end
    end)

    it("request prints the bytes of the answer and nothing else", function()
      start_master()
      local code, out, err = run("request " .. endpoint .. " hello")
      assert.equal("got hello", out)
      assert.equal("", err)
      assert.equal(0, code)
      assert.equal("\0\255", select(2, run("request " .. endpoint .. " binary")))
      assert.equal("one\ntwo\n", select(2, run("request " .. endpoint .. " frames")))
      assert.equal("00ff\n", select(2, run("request " .. endpoint .. " binary --hex")))
      assert.equal("a+b", select(2, run("request " .. endpoint .. " a b")))
      assert.equal("got ", select(2, run("request " .. endpoint)))
    end)

    it("request reads files and standard input", function()
      start_master()
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:write("from a file")
      file:close()
      assert.equal("got from a file", select(2, run("request " .. endpoint .. " @" .. path)))
      os.remove(path)
      assert.equal("got @text", select(2, run("request " .. endpoint .. " @@text")))
      assert.equal("got piped", select(2, shell("printf piped | " .. znlrun .. " request " .. endpoint .. " -")))
      local code, _, err = run("request " .. endpoint .. " @/no/such/file")
      assert.equal(2, code)
      has("/no/such/file", err)
      code, _, err = run("request " .. endpoint .. " - -")
      assert.equal(2, code)
      has("only once", err)
    end)

    it("request --json says what came", function()
      start_master()
      local reply = cjson.decode((select(2, run("request " .. endpoint .. " hello --json"))))
      assert.equal("got hello", reply.reply)
      assert.is_true(reply.ms > 0)
      assert.equal("00ff", cjson.decode((select(2, run("request " .. endpoint .. " binary --json")))).reply_hex)
      local frames = cjson.decode((select(2, run("request " .. endpoint .. " frames --json")))).reply_frames
      assert.same({ "one", "two" }, frames)
      local code, out = run("request " .. endpoint .. " slow --timeout 1500 --json")
      assert.equal(3, code)
      assert.equal("TIMEOUT", cjson.decode(out).code)
    end)

    it("request repeats and counts", function()
      start_master()
      local code, out, err = run("request " .. endpoint .. " x --count 3 --interval 1")
      assert.equal(0, code)
      assert.equal("got x\ngot x\ngot x\n", out)
      has("3 of 3 answered", err)
      code, out = run("request " .. endpoint .. " slow --count 2 --interval 1 --timeout 1000 --json")
      assert.equal(3, code)
      assert.equal(2, select(2, out:gsub("TIMEOUT", "")))
    end)

    it("request registers under the id it is given, else under one of its own", function()
      start_master()
      assert.equal("me", select(2, run("request " .. endpoint .. " who --id me")))
      local _, first = run("request " .. endpoint .. " who")
      local _, second = run("request " .. endpoint .. " who")
      assert.truthy(first:find("^znlrun%-request%-%x+%-"))
      assert.are_not.equal(first, second)
    end)

    it("request tells time-out from unreachable", function()
      start_master()
      local code, _, err = run("request " .. endpoint .. " slow --timeout 1500")
      assert.equal(3, code)
      has("no answer within 1500 ms", err)
      code, _, err = run("request ipc:///no/such/socket hello")
      assert.equal(4, code)
      has("no such socket", err)
      code, _, err = run("request tcp://127.0.0.1:1 hello")
      assert.equal(4, code)
      has("refused", err)
      -- A listener that is no master: it accepts and says nothing.
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(8, function() end)
      local silent = "tcp://127.0.0.1:" .. server:getsockname().port
      code, _, err = run("request " .. silent .. " hello --timeout 300")
      server:close()
      assert.equal(4, code)
      has("no sign of life", err)
    end)

    it("request waits for a master that is not there yet, when asked to", function()
      local path = os.tmpname()
      os.remove(path)
      local late = node("master", { id = "late", endpoint = "ipc://" .. path })
      late:handle(function() return "late" end)
      local code, out = run("request ipc://" .. path .. " x --wait-for-peer", function()
        znl.sleep(300)
        assert(late:start())
      end)
      assert.equal("late", out)
      assert.equal(0, code)
    end)

    it("a key makes it encrypted, and is never taken from the command line", function()
      start_master { encrypted = true, auth_keys = { me = "a key for tests" } }
      local code, out = shell(("K='a key for tests' %s request %s hello --id me --key env:K"):format(znlrun, endpoint))
      assert.equal("got hello", out)
      assert.equal(0, code)
      local _, err
      code, out, err = run("request " .. endpoint .. " hello --id me --key 's3cret'")
      assert.equal(2, code)
      has("env:NAME", err)
      assert.is_nil((out .. err):find("s3cret", 1, true))
      code, _, err = shell(("K=wrong %s request %s hello --id me --key env:K --timeout 1500"):format(znlrun, endpoint))
      assert.equal(4, code)
      has("refuses this id or key; its log says why", err)
      code, _, err = run("request " .. endpoint .. " hello --id me --timeout 1500")
      assert.equal(4, code)
      has("needs --id and --key", err)
      assert.equal(2, (run("request " .. endpoint .. " hello --key env:NOT_SET_ANYWHERE")))
    end)

    it("Ctrl-C ends a tool with 130, at once and without an error", function()
      local master = start_master()
      local function interrupt(pid)
        local before = master:counters().requests_in
        eventually(function() return master:counters().requests_in > before end, "it asks")
        uv.kill(pid, "sigint")
      end
      local function interrupt_later(pid)
        znl.sleep(400)
        uv.kill(pid, "sigint")
      end
      for arguments, started in pairs {
        ["request " .. endpoint .. " slow --timeout 60000"] = interrupt,
        ["request " .. endpoint .. " x --count 0"] = interrupt,
        ["bench " .. endpoint .. " --duration 60 --concurrency 2"] = interrupt,
        ["pub tcp://127.0.0.1:* topic x"] = interrupt_later,
      } do
        local began = znl.now_ms()
        local code, _, err = shell("exec " .. znlrun .. " " .. arguments, started)
        assert.equal(130, code, arguments .. ": " .. err)
        assert.is_true(znl.now_ms() - began < 50000, arguments) -- a request waits 60 s, the bench as well
        assert.is_nil(err:find("znlrun " .. arguments:match("%a+") .. ":", 1, true), err)
      end
    end)

    it("request stops when nobody reads its answers", function()
      start_master()
      local code, out, err = shell(("{ %s request %s x --count 0 --interval 1; echo $? >&2; } | head -n 1")
        :format(znlrun, endpoint))
      assert.equal(0, code)
      assert.equal("got x\n", out)
      assert.equal("141\n", err)
    end)

    it("push ends when the master has it", function()
      start_master()
      local code, out = run("push " .. endpoint .. " news a b --id pusher --json")
      assert.equal(0, code)
      assert.is_true(cjson.decode(out).arrived)
      assert.same({ { "pusher", "news", { "a", "b" } } }, pushes)
      local err
      code, out, err = run("push " .. endpoint .. " more x")
      assert.equal(0, code)
      assert.equal("", out)
      has("the master has received it", err)
      assert.equal("x", pushes[2][3])
      assert.equal(4, (run("push tcp://127.0.0.1:1 news a")))
    end)

    it("pub reaches the slaves it waits for", function()
      local path = os.tmpname()
      os.remove(path)
      local got = {}
      for _, id in ipairs { "one", "two" } do
        local slave = node("slave", { id = id, endpoint = "ipc://" .. path })
        slave:subscribe("news", function(payload) got[#got + 1] = id .. " " .. payload end)
        assert(slave:start())
      end
      local code, out = run("pub ipc://" .. path .. " news hello --slaves 2 --json")
      assert.same({ topic = "news", sent = 2, dropped = 0 }, cjson.decode(out))
      assert.equal(0, code)
      table.sort(got)
      assert.same({ "one hello", "two hello" }, got)
    end)

    it("pub says when nobody came, and when the endpoint is taken", function()
      start_master()
      local code, _, err = run("pub tcp://127.0.0.1:* news hello --wait 100")
      assert.equal(3, code)
      has("nothing was published", err)
      code, _, err = run("pub " .. endpoint .. " news hello --wait 100")
      assert.equal(1, code)
      has("is in use", err)
    end)

    it("call speaks JSON with a route and bytes without", function()
      local router = znl.router()
      router:route("/users/:id", function(req) return { id = req.params.id, got = req.data } end)
      router:route("/null", function() return nil end)
      router:route("/refuse", function() return nil, "not today", "CLOSED" end)
      router:route("/fail", function() error("broken") end)
      router:route("/slow", function() znl.sleep(60000) end)
      router:route("/bytes", function(req) return "raw " .. req.payload end)
      router:route("/", function(req) return "plain " .. req.payload end)
      start_master():handle(router)
      local code, out, err = run("call " .. endpoint .. " /users/42 '{\"a\":[1]}'")
      assert.equal(0, code, err)
      assert.same({ id = "42", got = { a = { 1 } } }, cjson.decode(out))
      assert.equal("\n", out:sub(-1))
      assert.equal("null\n", select(2, run("call " .. endpoint .. " /null")))
      assert.equal("7", cjson.decode((select(2, run("call " .. endpoint .. " /users/7 --json")))).data.id)
      assert.equal("plain hello", select(2, run("call " .. endpoint .. " hello")))
      assert.equal("raw hello", select(2, run("call " .. endpoint .. " /bytes hello --raw")))
      for arguments, expected in pairs {
        ["/refuse"] = { 1, "CLOSED" }, ["/fail"] = { 1, "HANDLER_ERROR" }, ["/nothing"] = { 1, "NOT_FOUND" },
        ["/slow --timeout 1500"] = { 3, "TIMEOUT" }, ["/users/1 {"] = { 2, "USAGE" }, ["/users/1 1 2"] = { 2, "USAGE" },
      } do
        code, out = run("call " .. endpoint .. " " .. arguments .. " --json")
        assert.equal(expected[1], code, arguments)
        assert.equal(expected[2], cjson.decode(out).code, arguments)
      end
      has("not today (CLOSED)", (select(3, run("call " .. endpoint .. " /refuse"))))
      assert.equal(4, (run("call tcp://127.0.0.1:1 /users/1")))
    end)

    it("top shows a node whose console is on, and says when it is off", function()
      local master = start_master { console = true }
      assert.equal(0, (run("request " .. endpoint .. " hello")))
      local code, out, err, _ = run("top " .. endpoint .. " --once")
      assert.equal(0, code, err)
      has("master  master  " .. endpoint, out)
      has("requests  1 so far", out)
      has("znlrun-top-", out)
      assert.is_nil(out:find("\27", 1, true))
      code, out = run("top " .. endpoint .. " --once --json")
      assert.equal(0, code)
      local stats = cjson.decode(out)
      assert.equal("master", stats.id)
      assert.equal(1, stats.latency.total.count)
      assert.equal(1, stats.counters.requests_in - stats.console.asked)
      -- Without --once it goes on, here until a signal comes.
      code, out = shell("exec " .. znlrun .. " top " .. endpoint .. " --interval 100", function(pid)
        local before = master:counters().requests_in
        eventually(function() return master:counters().requests_in >= before + 4 end, "it asks again and again")
        uv.kill(pid, "sigint")
      end)
      assert.equal(130, code)
      has("/s, 0 errors/s", out)
      master:stop()
      start_master()
      code, _, err = run("top " .. endpoint)
      assert.equal(1, code)
      has("console = true", err)
    end)

    it("bench reports rates, latencies and errors by code", function()
      start_master()
      local code, out = run("bench " .. endpoint .. " --duration 300ms --concurrency 4 --connections 2 --json")
      assert.equal(0, code)
      local result = cjson.decode(out)
      assert.is_true(result.requests > 10)
      assert.equal(0, result.errors)
      assert.is_true(result.latency_ms.p50 > 0 and result.latency_ms.p50 <= result.latency_ms["p99.9"])
      assert.is_true(result.latency_ms["p99.9"] <= result.latency_ms.max)
      code, out = run("bench " .. endpoint .. " --duration 300ms --concurrency 2 --payload slow --timeout 1000")
      assert.equal(3, code)
      has("TIMEOUT", out)
      code, out = run("bench " .. endpoint .. " --duration 300ms --concurrency 2 --route /x --payload 5 --json")
      assert.equal(0, code, out)
      assert.is_true(cjson.decode(out).requests > 10)
      assert.equal(2, (run("bench " .. endpoint .. " --route /x --payload '{'")))
      assert.equal(2, (run("bench " .. endpoint .. " --route x")))
      assert.equal(2, (run("bench " .. endpoint .. " --route /x --payload-bytes 5")))
      assert.equal(2, (run("bench " .. endpoint .. " --concurrency 2 --connections 3")))
      assert.equal(2, (run("bench " .. endpoint .. " --duration soon")))
      assert.equal(4, (run("bench tcp://127.0.0.1:1")))
    end)
  end)

  describe("keygen", function()
    it("prints another key each time", function()
      local _, first = run("keygen")
      local _, second = run("keygen --json")
      assert.truthy(first:find("^[%w_-]+\n$"))
      assert.equal(44, #first)
      assert.equal(43, #require("cjson").decode(second).key)
      assert.are_not.equal(first:sub(1, 43), require("cjson").decode(second).key)
    end)

    it("makes a file for its owner only and never writes over one", function()
      local path = os.tmpname()
      local code, _, err = run("keygen --out " .. path)
      assert.equal(1, code)
      has(path, err)
      os.remove(path)
      assert.equal(0, (run("keygen --out " .. path)))
      local _, mode = shell("stat -c %a:%s " .. path)
      assert.equal("600:44\n", mode)
      assert.equal(43, #znl.secret("file:" .. path):resolve())
      os.remove(path)
      assert.equal(1, (run("keygen --out /no/such/folder/key")))
    end)
  end)
end)
