--- The documents against the library: what a script can use is in docs/LUA_API.md, and nothing else.
--- SPDX-License-Identifier: MIT
local znl = require("znl")

local function read(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

local REFERENCE = read("docs/LUA_API.md")

--- The words between backticks and in examples.
local function words_of(text, words)
  for span in text:gmatch("`+[^`]+`+") do
    for word in span:gmatch("[%w_]+") do words[word] = true end
  end
  return words
end

local WORDS = words_of(REFERENCE, {})

--- Methods of tasks, timers and hubs for the library itself.
local INTERNAL = { ended = true, on_end = true, undo = true, enter = true, report = true }

--- What is in the tables but not among the words.
local function missing(words, ...)
  local list = {}
  for _, names in ipairs { ... } do
    for name in pairs(names) do
      if not words[name] and not INTERNAL[name] and not name:find("^__") then list[#list + 1] = name end
    end
  end
  table.sort(list)
  return table.concat(list, " ")
end

local function is_spec(value)
  for name, rule in pairs(value) do
    if type(name) ~= "string" or type(rule) ~= "table" then return false end
    if type(rawget(rule, "type")) ~= "string" then return false end -- znl.core would look for a module
  end
  return next(value) ~= nil
end

--- Adds the names of all options that functions within `value` read: their specs are upvalues.
local function add_options(value, names, seen)
  if type(value) ~= "table" and type(value) ~= "function" or seen[value] then return end
  seen[value] = true
  if type(value) == "table" then
    local take = is_spec(value)
    for name, inner in pairs(value) do
      if take then names[name] = true else add_options(inner, names, seen) end
    end
    return
  end
  local index = 1
  while debug.getupvalue(value, index) do
    add_options(select(2, debug.getupvalue(value, index)), names, seen)
    index = index + 1
  end
end

local function options_below(folder)
  local names, seen, list = {}, {}, io.popen("find " .. folder .. " -name '*.lua'")
  for path in list:lines() do
    local name = path:gsub("^lua/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
    if read(path):find("options.read(", 1, true) then add_options(require(name), names, seen) end
  end
  list:close()
  return names
end

--- Rows of the table under a heading: what stands between backticks in the first column.
local function first_column(heading)
  local _, from = REFERENCE:find("\n" .. heading .. "\n", 1, true)
  assert(from, heading)
  local names = {}
  for row in REFERENCE:sub(from, (REFERENCE:find("\n## ", from, true))):gmatch("\n| ([^|]*)") do
    for name in row:gmatch("`([^`]+)`") do names[name] = true end
  end
  return names
end

describe("docs/LUA_API.md", function()
  local master = znl.master { id = "api-m", endpoint = "sim://*", encrypted = true, auth_key = "key of the test" }
  local slave = znl.slave { id = "api-s", endpoint = "sim://api" }

  it("names every member of znl, of nodes and of other objects", function()
    local nodes = getmetatable(master).__index
    assert.equal("", missing(WORDS, znl, znl.file, znl.process, znl.dns, znl.tcp, znl.middleware, znl.log))
    assert.equal("", missing(WORDS, nodes, getmetatable(slave).__index, getmetatable(nodes).__index))
    assert.equal("", missing(WORDS, require("znl.roles.role").Role, require("znl.roles.registry").Registry))
    assert.equal("", missing(WORDS, znl.websocket))
    local server = assert(znl.websocket.serve { listen = "127.0.0.1:0", handle = function(conn) conn:recv() end })
    local conn = assert(znl.websocket.connect("ws://127.0.0.1:" .. server.port))
    local internal = { is_closing = true, get_type = true, is_active = true } -- for scopes
    for name, value in pairs(getmetatable(server).__index) do internal[name] = not internal[name] and value or nil end
    assert.equal("", missing(WORDS, internal, getmetatable(conn).__index, server:counters()))
    server:close()
    local nats = znl.nats.connect { servers = "127.0.0.1:1", wait_ms = 0 }
    local scoped = { is_closing = true, get_type = true, is_active = true }
    for name in pairs(getmetatable(nats).__index) do
      assert.is_true(scoped[name] or WORDS[name] or name:find("^__") ~= nil, name)
    end
    assert.equal("", missing(WORDS, nats:counters()))
    nats:close()
    for _, object in ipairs {
      znl.cluster_client { name = "api", client = {} }, znl.hub { app = "api", listen = "127.0.0.1:0" },
      znl.router(), znl.channel(), znl.wait_group(), znl.semaphore(1), znl.token(), znl.event(),
      znl.spawn(function() end), znl.timer(0, function() end), znl.shared("api"),
    } do
      assert.equal("", missing(WORDS, getmetatable(object).__index))
    end
  end)

  it("names every option", function()
    -- For tests of the library: a clock, a source of chance, somebody to log to.
    words_of(read("docs/TESTING.md"), WORDS)
    local names = options_below("lua/znl")
    names.clock_ms, names.random, names.logger = nil, nil, nil
    assert.is_true(names.max_queue and names.per_second and names.recursive)
    assert.equal("", missing(WORDS, names))
  end)

  it("names every code, here or among the reasons of auth_failed", function()
    local names = {}
    for code in read("runtime/base/err.h"):gmatch('X%([%w_]+, %-%d+, "([%w_]+)"') do names[code] = true end
    assert.is_true(names.TIMEOUT and names.replay)
    assert.equal("", missing(words_of(read("docs/PROTOCOLS.md"), words_of(REFERENCE, {})), names))
  end)

  it("names every counter of a node, and no other", function()
    local counters = {}
    for _, node in ipairs { master, slave } do
      for name in pairs(node:counters()) do counters[name] = true end
    end
    assert.equal("", missing(first_column("## Counters"), counters))
    assert.equal("", missing(counters, first_column("## Counters")))
  end)

  it("names every counter of a hub, and no other", function()
    local hub = znl.hub { app = "api", listen = "127.0.0.1:0" }
    assert(hub:start())
    local counters = hub:counters()
    hub:close(0)
    assert.equal("", missing(first_column("## Counters of hubs"), counters))
    assert.equal("", missing(counters, first_column("## Counters of hubs")))
  end)

  it("names no function of znl that is not there", function()
    for name in REFERENCE:gmatch("`znl%.([%l_]+)[({`]") do
      assert.is_true(pcall(function() return znl[name] end) or name == "test" or name == "scope", name)
    end
  end)
end)

describe("docs/CORE_API.md", function()
  it("names every function and method of znl.core", function()
    local words, text = {}, read("docs/CORE_API.md")
    words_of(text, words)
    for name in pairs(package.preload) do
      if name:find("^znl%.core%.") then
        assert(text:find("\n## " .. name .. "\n", 1, true), name)
        assert.equal("", missing(words, require(name)))
      end
    end
    local core, socket = znl.core, assert(znl.core.socket.router { endpoint = "sim://*" })
    words_of(REFERENCE, words)
    for _, object in ipairs {
      core.sched.owner(), core.sched.event(), core.token.new(), core.heartbeat.new {}, core.crypto.derive("a key"),
      socket, core.watch.watch("docs", function() end), core.node.master { id = "m", endpoint = "sim://*" },
      core.node.slave { id = "s", endpoint = "sim://s" }, core.shared.open("core"), core.micro.new {},
      core.hub.new { prefix = "p", app = "a", origin = "o" }, core.roster.new { subject = "s" },
    } do
      local methods = debug.getmetatable(object).__index
      assert.is_table(methods)
      assert.equal("", missing(words, methods))
    end
    for _, name in ipairs { "connection", "stream" } do
      assert.equal("", missing(words, debug.getregistry()["znl.core.micro." .. name].__index))
    end
    socket:close()
  end)
end)

describe("runtime/codec/WIRE.md", function()
  it("has an example with the bytes that are sent and read", function()
    local example, lines = read("runtime/codec/WIRE.md"):match("### An example\n(.-)\n## "), {}
    for line in example:gmatch("\n    ([%x ]+)") do
      local hex = line:match("^[%x ]-%f[ ]   ") or line
      lines[#lines + 1] = (hex:gsub(" ", ""):gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
    end
    -- register 1..4, heartbeat_ack 5..8, request 9..14, response 15..20, error 21..23
    assert.equal(23, #lines)
    local function frames(from, to) return { unpack(lines, from, to) } end

    local seen = {}
    local server = assert(znl.core.socket.router { endpoint = "sim://*" })
    server:on_message(function(message)
      local peer = table.remove(message, 1)
      if message[2] == "register" then
        seen.register = message
        assert(server:send { peer, unpack(frames(5, 8)) })
      elseif message[2] == "req" then
        local refused = { lines[15], lines[16], "", lines[18], lines[21], lines[22], lines[23] }
        local answer = seen.request and refused or frames(15, 20)
        seen.request = seen.request or { unpack(message) }
        answer[3] = message[3]
        assert(server:send { peer, unpack(answer) })
      end
    end)
    local caller = znl.slave { id = "slave-1", endpoint = server:endpoint(), heartbeat_ms = 0 }
    assert(caller:start())
    local data = caller:call("/users", { name = "Ada" }, { timeout_ms = 1000 })
    local nothing, message, code = caller:call("/users", { name = "Ada" }, { timeout_ms = 1000 })
    caller:stop()
    server:close()

    assert.same(frames(1, 4), seen.register)
    seen.request[3] = lines[11] -- its id
    -- What is left of the timeout may be less by the time it is sent.
    local header = lines[13]:sub(1, 2) .. seen.request[5]:sub(3, 6) .. lines[13]:sub(7)
    assert.same({ lines[9], lines[10], lines[11], lines[12], header, lines[14] }, seen.request)
    assert.same({ id = 7 }, data)
    assert.same({ "nil", "no such route", "NOT_FOUND" }, { tostring(nothing), message, code })
  end)
end)

describe("the documents", function()
  local PAGES = {}
  for path in io.popen("find docs README.md CHANGELOG.md CONTRIBUTING.md runtime/codec -name '*.md'"):lines() do
    PAGES[path] = read(path)
  end

  it("have examples that compile", function()
    local count = 0
    for path, text in pairs(PAGES) do
      for indent, code in text:gmatch("\n( *)```lua\n(.-)\n *```") do
        local chunk, message = loadstring(code, "=" .. path)
        assert(chunk, ("%s\n%s%s"):format(message, indent, code))
        count = count + 1
      end
    end
    assert.is_true(count > 50, count)
  end)

  --- The anchor of a heading, as hosts of repositories make it.
  local function anchor(heading)
    return (heading:lower():gsub("[^%w%s_-]", ""):gsub(" ", "-"))
  end

  it("have links that lead somewhere", function()
    local count = 0
    for path, text in pairs(PAGES) do
      for target in text:gsub("\n```.-\n```", ""):gmatch("%]%(([^)%s]+)%)") do
        if not target:find("^%a+:") then
          local file, mark = target:match("^([^#]*)#?(.*)$")
          local full = file == "" and path or (path:match("^(.*/)") or "") .. file
          full = full:gsub("[^/]+/%.%./", "")
          assert(io.open(full), path .. ": " .. target):close()
          local found = mark == ""
          for heading in ("\n" .. (PAGES[full] or "")):gmatch("\n#+ ([^\n]+)") do
            found = found or anchor(heading) == mark
          end
          assert.is_true(found, path .. ": " .. target)
          count = count + 1
        end
      end
    end
    assert.is_true(count > 50, count)
  end)
end)
