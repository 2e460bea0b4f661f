--- znl.micro.registrations and registry_file: who is listed, and what outlives a registry.
--- SPDX-License-Identifier: MIT
local core_registry = require("znl.core.registry")
local eventually = require("support.eventually")
local folder = require("support.folder")
local json = require("znl.json")
local log = require("znl.log")
local registrations = require("znl.micro.registrations")
local registry_file = require("znl.micro.registry_file")
local sched = require("znl.core.sched")
local topic_store = require("znl.micro.topic_store")

--- A connection that only remembers what was done to it.
local function conn()
  local fake = { is_closed = false }
  function fake.close() fake.is_closed = true end
  function fake.is_inbound() return true end
  function fake.set_peer(_, key, client) fake.key, fake.client = key, client end
  return fake
end

local function new(max)
  local news, pushed = {}, {}
  local directory = core_registry.new { max = max or 100 }
  local topics = topic_store.new {
    signature = function(payload) return payload or "undefined" end,
    notify = function(client, topic, payload) pushed[#pushed + 1] = ("%s %s %s"):format(client.key, topic, payload) end,
    max_topics = 100, max_topic_bytes = 100, max_payload_bytes = 1000, max_bytes = 100000, max_member_topics = 100,
  }
  local made = registrations.new {
    directory = directory, topics = topics,
    on_connected = function(client) news[#news + 1] = "+ " .. client.key .. " " .. client.namespace end,
    on_disconnected = function(client, reason) news[#news + 1] = ("- %s %s"):format(client.key, reason) end,
    on_refused = function(reason, key) news[#news + 1] = "! " .. key .. " " .. reason end,
    on_unlisted = function() end,
    on_changed = function() if news.on_changed then news.on_changed() end end,
  }
  local function take()
    local list = {}
    for index, text in ipairs(news) do list[index], news[index] = text, nil end
    return list
  end
  return { list = made, directory = directory, topics = topics, news = take, events = news, pushed = pushed }
end

describe("znl.micro.registrations", function()
  it("lists who connects, by its path, until it closes", function()
    local r = new()
    local one = conn()
    local client = r.list:accept(one, "/10.0.0.1/9001/a/b?x=1")
    assert.same({ "10.0.0.1:9001", "10.0.0.1:9001", client }, { client.key, one.key, one.client })
    assert.same({ "10.0.0.1", 9001 }, { r.directory:find("a/b") })
    assert.equal(client, r.list.clients["10.0.0.1:9001"])
    r.list:closed(one, "gone")
    r.list:closed(one, "gone")
    assert.is_nil(r.directory:find("a/b"))
    assert.is_nil(r.list.clients["10.0.0.1:9001"])
    assert.same({ "+ 10.0.0.1:9001 a/b", "- 10.0.0.1:9001 gone" }, r.news())
    assert.same({ 0, 0, false }, { r.list.count, r.directory:count(), client.is_listed })
  end)

  it("closes who says nothing usable", function()
    local r = new(1)
    for _, path in ipairs { "/", "", "/h/9", "/h/x/svc", "/h/65536/svc", "//9/svc", "/h\255/9/svc", "/h/9/\1",
      "/h/9/" .. ("n"):rep(1025) } do
      local one = conn()
      assert.is_nil(r.list:accept(one, path))
      assert.is_true(one.is_closed, path)
    end
    assert.same({ "! h:9 the path is empty or too long" }, r.news())
    assert.truthy(r.list:accept(conn(), "/h/1/svc"))
    local late = conn()
    assert.is_nil(r.list:accept(late, "/h/2/svc"))
    assert.is_true(late.is_closed)
    assert.same({ "+ h:1 svc", "! h:2 there is no room for more registrations" }, r.news())
  end)

  it("gives the place to the later of two; what the first does late changes nothing", function()
    local r = new()
    local first, second = conn(), conn()
    local old = r.list:accept(first, "/h/1/old")
    r.topics:declare(old, "t", "1")
    r.topics:subscribe(old, "t")
    local client = r.list:accept(second, "/h/1/new")
    assert.is_true(first.is_closed)
    assert.is_false(second.is_closed)
    assert.equal(0, r.topics:counts().topics) -- gone before the new one came
    assert.same({ "+ h:1 old", "- h:1 replaced", "+ h:1 new" }, r.news())
    r.list:closed(first, "closed")
    assert.same({ "h", 1 }, { r.directory:find("new") })
    assert.is_nil(r.directory:find("old"))
    assert.equal(client, r.list.clients["h:1"])
    assert.same({}, r.news())
    assert.same({ 1, 1 }, { r.list.count, r.directory:count("new") })
  end)

  it("tells what the end of a publisher changes", function()
    local r = new()
    local a, b, s = conn(), conn(), conn()
    local first, second = r.list:accept(a, "/h/1/p"), r.list:accept(b, "/h/2/p")
    r.topics:subscribe(r.list:accept(s, "/h/3/s"), "t")
    r.topics:declare(second, "t", "2")
    r.topics:declare(first, "t", "1")
    r.list:closed(a)
    assert.same({ "h:3 t 2", "h:3 t 1", "h:3 t 2" }, r.pushed)
  end)

  it("does not list observers", function()
    local r = new()
    local one, two = conn(), conn()
    r.list:accept(conn(), "/h/1/svc")
    local observer = r.list:accept(one, "/h/1/svc", { ["znl-observer"] = "1" })
    r.list:accept(two, "/h/1/svc", { ["znl-observer"] = "1" })
    assert.are_not.equal(one.key, two.key)
    assert.is_true(observer.is_listed)
    assert.same({ 3, 1 }, { r.list.count, r.directory:count("svc") })
    r.topics:subscribe(observer, "t")
    r.list:closed(one)
    assert.same({ "+ h:1 svc" }, r.news()) -- who was never listed is not reported as unlisted either
    assert.equal(0, r.topics:counts().topics)
    assert.equal(1, r.directory:count("svc"))
  end)

  it("unlists all before the first is closed", function()
    local r = new()
    local listed = {}
    for port = 1, 3 do
      local one = conn()
      function one.close() listed[#listed + 1] = r.directory:get("h:" .. port) ~= nil end
      r.list:accept(one, ("/h/%d/svc"):format(port))
    end
    r.list:close()
    assert.same({ false, false, false }, listed)
    assert.equal(0, (r.directory:count()))
  end)
end)

describe("znl.micro.registry_file", function()
  local files, owner

  before_each(function() files, owner = folder.new(), sched.owner() end)
  after_each(function()
    owner:cut()
    files:remove()
  end)

  local function kept(r)
    local made = registry_file.new {
      path = files:at("state"), directory = r.directory, topics = r.topics, registrations = r.list, owner = owner,
      log = log.new("test"),
    }
    r.events.on_changed = function() made:touch() end
    return made
  end

  local function content()
    local file = assert(io.open(files:at("state"), "rb"))
    local text = file:read("*a")
    file:close()
    return text
  end

  it("brings back addresses and publishers, until they speak for themselves or are forgotten", function()
    local before = new()
    local file = kept(before)
    assert.same({ 0, 0 }, { file:load() })
    local client = before.list:accept(conn(), "/h/1/svc")
    before.list:accept(conn(), "/h/2/svc")
    before.topics:declare(client, "t", '{"a":"\\u0000é"}', 7)
    before.topics:declare(client, "absent", nil)
    before.topics:retain("config", "1")
    before.topics:declare(client, "config", "2")
    eventually(function() return require("luv").fs_stat(files:at("state")) end)
    file:close()
    before.list:close() -- a registry that stops forgets; its file does not

    local after = new()
    file = kept(after)
    assert.same({ 4, 0 }, { file:load() })
    assert.equal(9, after.topics:counts().revision)
    assert.same({ 2, 1 }, { after.directory:count() })
    assert.same({ true, '{"a":"\\u0000é"}' }, { after.topics:subscribe("s", "t") })
    assert.same({ true }, { after.topics:subscribe("s", "absent") })
    assert.is_nil(after.topics:get("config"))

    local back = conn()
    client = after.list:accept(back, "/h/1/svc")
    assert.same({ "+ h:1 svc" }, after.news()) -- nobody was replaced
    assert.equal(7, after.topics:declare(client, "t", '{"a":"\\u0000é"}', 7))
    after.list:supersede(client, "t")
    assert.equal(1, after.topics:get("t").publishers)
    assert.equal(1, after.list:forget_restored())
    assert.same({ "h:1" }, after.directory:keys("svc"))
    assert.same({ false }, { after.topics:subscribe("s", "absent") })
    assert.equal(7, after.topics:get("t").revision)
    file:close()
  end)

  it("skips what it cannot read, and takes no other file for its own", function()
    files:write("state", table.concat({
      '{"znl_registry":1,"revision":"x"}', '["r","svc","h",1]', '["r","svc","h",0]', '["r","svc",null,1]', "rubbish",
      '["x"]', "[]", "7", '["p","t","h:1",1,"not json"]', '["p","t","h:1"]', '["p","t","h:1",3,"[1]"]', "",
    }, "\n"))
    local r = new()
    assert.same({ 2, 8 }, { kept(r):load() })
    assert.same({ "h:1" }, r.directory:keys("svc"))
    assert.equal("[1]", r.topics:get("t").payload)
    for _, text in ipairs { "hello\n", "[]\n", '{"znl_registry":2}\n', "7" } do
      files:write("state", text)
      local taken, message, code = kept(new()):load()
      assert.is_nil(taken)
      assert.matches("no file of a registry", message)
      assert.equal("INVALID", code)
    end
  end)

  it("writes a moment after a change, for the owner of the file alone", function()
    local r = new()
    local file = kept(r)
    r.list:accept(conn(), "/h/1/svc")
    eventually(function()
      local found = io.open(files:at("state"))
      if found then found:close() end
      return found
    end)
    assert.equal(33152, require("luv").fs_stat(files:at("state")).mode) -- -rw-------
    r.list:accept(conn(), "/h/2/svc")
    eventually(function() return content():find('"h",2', 1, true) end)
    for line in content():gmatch("[^\n]+") do assert.is_true((json.decode(line))) end
    file:close()
    r.list:accept(conn(), "/h/3/svc")
    assert.is_nil(content():find('"h",3', 1, true))
  end)
end)
