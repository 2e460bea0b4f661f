--- znl.micro.topic_store: revisions, values, retained topics, limits; and the recorded exchanges.
--- SPDX-License-Identifier: MIT
local cjson = require("cjson")
local topic_store = require("znl.micro.topic_store")

local VECTORS = os.getenv("ZNL_VECTORS") .. "/micro/"

--- A store that tells what it pushes: "member topic payload".
local function new(opts)
  local pushed = {}
  opts = opts or {}
  local store = topic_store.new {
    signature = opts.signature or function(payload) return payload or "undefined" end,
    notify = function(member, topic, payload)
      pushed[#pushed + 1] = ("%s %s %s"):format(member, topic, payload or "-")
    end,
    max_topics = opts.max_topics or 100, max_topic_bytes = opts.max_topic_bytes or 100,
    max_payload_bytes = opts.max_payload_bytes or 1000, max_bytes = opts.max_bytes or 1000000,
    max_member_topics = opts.max_member_topics or 100,
  }
  return store, function()
    local list = pushed
    pushed = {}
    return list
  end
end

describe("znl.micro.topic_store", function()
  it("tells subscribers of each new value, and new subscribers of the value there is", function()
    local store, pushed = new()
    assert.same({ false }, { store:subscribe("s", "t") })
    assert.equal(1, store:declare("p", "t", "1"))
    assert.same({ "s t 1" }, pushed())
    assert.equal(2, store:declare("p", "t", "1")) -- equal: not pushed again
    assert.same({}, pushed())
    assert.equal(3, store:declare("p", "t", "2"))
    assert.same({ "s t 2" }, pushed())
    assert.same({ true, "2" }, { store:subscribe("late", "t") })
    assert.same({ true, "2" }, { store:subscribe("s", "t") }) -- again: harmless
    assert.equal(4, store:declare("p", "t", nil)) -- absent is a value
    assert.same({ "s t -", "late t -" }, pushed())
    assert.same({ true }, { store:subscribe("later", "t") })
    assert.equal(1, store:unsubscribe("late", "t"))
    assert.equal(0, store:unsubscribe("late", "t"))
    assert.equal(0, store:unsubscribe("s", "unknown"))
    store:declare("p", "t", "3")
    assert.same({ "s t 3", "later t 3" }, pushed())
  end)

  it("has the payload with the highest revision; where two are equal the first publisher's", function()
    local store, pushed = new()
    store:subscribe("s", "t")
    assert.equal(7, store:declare("a", "t", '"a"', 7))
    assert.equal(3, store:declare("b", "t", '"b"', 3)) -- lower: not shown
    assert.same({ 's t "a"' }, pushed())
    assert.equal(8, store:declare("b", "t", '"b"')) -- the counter was raised to 7
    assert.equal(8, store:declare("a", "t", '"a"', 8))
    assert.same({ 's t "b"', 's t "a"' }, pushed())
    assert.equal(1, store:undeclare("a", "t"))
    assert.same({ 's t "b"' }, pushed())
    assert.equal(0, store:undeclare("a", "t"))
    assert.equal(1, store:undeclare("b", "t"))
    assert.same({}, pushed()) -- losing the value is not announced
    assert.same({ false }, { store:subscribe("s", "t") })
  end)

  it("takes over no revision that would stop the counter", function()
    local store = new()
    for _, bad in ipairs { 0, -1, 1 / 0, -1 / 0, 0 / 0, 2 ^ 53, "9", {}, 9007199254740993LL } do
      local before = store:counts().revision
      assert.equal(before + 1, store:declare("p", "t", "1", bad))
    end
    assert.equal(1.5, store:declare("p", "x", "1", 1.5))
    assert.equal(2 ^ 52, store:declare("p", "x", "1", 2 ^ 52))
    assert.equal(2 ^ 52 + 1, store:declare("p", "x", "1"))
  end)

  it("compares by signature", function()
    local store, pushed = new { signature = function(payload) return (payload:gsub("%s", "")) end }
    store:subscribe("s", "t")
    store:declare("p", "t", '{"a":1}')
    store:declare("p", "t", '{ "a": 1 }')
    assert.same({ 's t {"a":1}' }, pushed())
  end)

  it("compares payloads as the originals do", function()
    local store, pushed = new { signature = require("znl.core.json").signature }
    store:subscribe("s", "t")
    for _, payload in ipairs { '{"a":1,"b":[2]}', '{ "b": [2.0], "a": 1 }', "[]", "{}", "[ ]", '"1"', "1", "1e0" } do
      store:declare("p", "t", payload)
    end
    assert.same({ 's t {"a":1,"b":[2]}', "s t []", "s t {}", "s t [ ]", 's t "1"', "s t 1" }, pushed())
    local deep = ("["):rep(200) .. ("]"):rep(200)
    assert.equal("LIMIT", select(3, store:declare("p", "t", deep)))
    assert.equal("LIMIT", select(3, store:update("x", "t", deep)))
    assert.equal("1e0", store:get("t").payload)
  end)

  it("forgets topics that nobody uses", function()
    local store = new()
    store:declare("p", "t", "1")
    store:subscribe("s", "t")
    store:undeclare("p", "t")
    assert.equal(1, store:counts().topics)
    store:unsubscribe("s", "t")
    assert.same({ topics = 0, retained = 0, publishers = 0, subscribers = 0, bytes = 0, revision = 1 },
      store:counts())
    assert.is_false(store:update("x", "t", "1")) -- and makes none
    assert.equal(0, store:counts().topics)
  end)

  it("lets a member leave everything", function()
    local store, pushed = new()
    store:subscribe("a", "one")
    store:subscribe("b", "one")
    store:declare("a", "one", "1", 10)
    store:declare("b", "one", "2", 5)
    store:declare("a", "two", "3")
    pushed()
    store:leave("a")
    assert.same({ "b one 2" }, pushed())
    assert.is_nil(store:get("two"))
    store:leave("a")
    store:leave("b")
    assert.equal(0, store:counts().topics)
    assert.equal(0, store:counts().bytes)
  end)

  it("takes updates from publishers as declared, from others as the value", function()
    local store, pushed = new()
    store:subscribe("s", "t")
    assert.equal(1, store:declare("p", "t", "1"))
    assert.equal(2, store:update("p", "t", "2"))
    assert.equal(3, store:update("x", "t", "3"))
    assert.is_false(store:update("x", "t", "3"))
    assert.same({ "s t 1", "s t 2", "s t 3" }, pushed())
    assert.equal("3", store:get("t").payload)
    store:declare("p", "t", "2") -- the publishers decide again
    assert.same({ "s t 2" }, pushed())
  end)

  it("shows of retained topics what they were given, not what is published", function()
    local store, pushed = new()
    store:subscribe("s", "t")
    assert.is_true(store:retain("t", "1"))
    assert.is_false(store:retain("t", "1"))
    assert.equal(1, store:declare("p", "t", "2"))
    assert.equal(2, store:update("p", "t", "3"))
    assert.same({ "s t 1" }, pushed())
    assert.same({ true, "1" }, { store:subscribe("late", "t") })
    assert.equal(3, store:update("x", "t", "4"))
    store:leave("p")
    assert.equal("4", store:get("t").payload)
    assert.is_true(store:retain("t", "5"))
    for _, member in ipairs { "s", "late", "x" } do store:leave(member) end
    assert.same({ topic = "t", retained = true, has_data = true, payload = "5", publishers = 0, subscribers = 0 },
      store:get("t"))
    assert.same({ "t" }, store:names())
  end)

  it("keeps within its limits, and gets room back", function()
    local function code(...) return (select(3, ...)) end
    local store = new { max_topics = 2, max_topic_bytes = 4, max_payload_bytes = 10, max_member_topics = 3 }
    assert.equal("TOO_BIG", code(store:declare("p", "12345", "1")))
    assert.equal("TOO_BIG", code(store:subscribe("p", "12345")))
    assert.equal("TOO_BIG", code(store:declare("p", "a", ("1"):rep(11))))
    assert.equal(0, store:counts().topics)
    assert.truthy(store:declare("p", "a", "1"))
    assert.truthy(store:declare("p", "b", "1"))
    assert.equal("LIMIT", code(store:declare("q", "c", "1")))
    assert.equal("LIMIT", code(store:subscribe("q", "c")))
    assert.equal("TOO_BIG", code(store:update("q", "a", ("1"):rep(11))))
    store:retain("config", "1") -- counts for no limit
    assert.equal("LIMIT", code(store:declare("q", "c", "1")))
    assert.is_false(store:subscribe("p", "config") == nil)
    assert.equal("LIMIT", code(store:subscribe("p", "a"))) -- the fourth of this member
    assert.truthy(store:declare("p", "a", "2")) -- what it has it may change
    store:undeclare("p", "a")
    assert.truthy(store:declare("q", "c", "1"))
  end)

  it("counts the bytes it holds", function()
    local store = new { max_bytes = 4000 }
    local last
    for i = 1, 100 do
      local revision, _, code = store:declare("p", "t" .. i, ('"%s"'):format(("x"):rep(100)))
      if not revision then
        last = i
        assert.equal("LIMIT", code)
        break
      end
    end
    assert.is_true(last and last >= 4 and last <= 6, last)
    assert.is_true(store:counts().bytes <= 4000)
    store:subscribe("s", "t1")
    store:update("s", "t1", '"y"')
    store:update("s", "t1", '"yyy"')
    store:declare("p", "t1", '"z"')
    store:leave("p")
    store:leave("s")
    assert.equal(0, store:counts().bytes)
  end)

  it("stays consistent whatever is done to it", function()
    math.randomseed(7)
    local store = new { max_topics = 8, max_bytes = 20000, max_member_topics = 6 }
    local members, names = { "a", "b", "c", "d" }, { "1", "2", "3", "4", "5", "6", "7", "8", "9", "10" }
    local function any(list) return list[math.random(#list)] end
    for _ = 1, 20000 do
      local member, name, payload = any(members), any(names), ("x"):rep(math.random(0, 600))
      local kind = math.random(20)
      if kind <= 6 then store:declare(member, name, payload, math.random() < 0.3 and math.random(100) or nil)
      elseif kind <= 9 then store:undeclare(member, name)
      elseif kind <= 13 then store:subscribe(member, name)
      elseif kind <= 16 then store:unsubscribe(member, name)
      elseif kind <= 19 then store:update(member, name, payload)
      else store:leave(member) end
      local counts = store:counts()
      assert(counts.topics <= 8 and counts.bytes <= 20000 and counts.bytes >= 0)
    end
    for _, member in ipairs(members) do store:leave(member) end
    local counts = store:counts()
    assert.same({ 0, 0, 0, 0 }, { counts.topics, counts.publishers, counts.subscribers, counts.bytes })
    assert.is_nil(next(store.members))
  end)
end)

--- The frames of a transcript: what clients ask is asked, what the registry pushed and answered must come.
local function replay(name)
  local file = assert(io.open(VECTORS .. name .. ".json"))
  local transcript = cjson.decode(file:read("*a"))
  file:close()
  local pushed = {}
  local store
  store = topic_store.new {
    signature = function(payload) return payload or "undefined" end,
    notify = function(member, topic, payload)
      pushed[member] = pushed[member] or {}
      table.insert(pushed[member], { topic = topic, payload = payload and cjson.decode("[" .. payload .. "]")[1] })
    end,
    max_topics = 100, max_topic_bytes = 100, max_payload_bytes = 1000, max_bytes = 100000, max_member_topics = 100,
  }
  local answers, checked = {}, 0
  for _, frame in ipairs(transcript.frames) do
    local json, member = frame.json, frame.connection
    if json and json.mode == 0 and frame.direction == "client-to-server" then
      local url, data = json.data.url, json.data.data
      local payload = data.payload ~= nil and cjson.encode(data.payload) or nil
      local answer
      if url == "/-/declare" then answer = store:declare(member, data.topic, payload, data.revision)
      elseif url == "/-/undeclare" then answer = store:undeclare(member, data.topic)
      elseif url == "/-/unsubscribe" then answer = store:unsubscribe(member, data.topic)
      elseif url == "/-/topic/update" then
        answer = store:update(member, data.topic, payload) or "<epoch-ms>"
      elseif url == "/-/subscribe" then
        local has, value = store:subscribe(member, data.topic)
        answer = { hasData = has, payload = value and cjson.decode("[" .. value .. "]")[1] }
      end
      answers[member .. json.id] = answer
    elseif json and json.mode == 0 and json.data.url == "/-/topic/update" then
      assert.same(table.remove(pushed[member], 1), json.data.data)
      checked = checked + 1
    elseif json and json.mode == 1 and answers[member .. json.id] ~= nil then
      assert.same(answers[member .. json.id], json.data.data)
      checked = checked + 1
    end
  end
  for _, rest in pairs(pushed) do assert.same({}, rest) end
  return checked
end

describe("recorded topics", function()
  for _, name in ipairs {
    "v2-pubsub-basic", "v2-pubsub-late-subscriber", "v2-pubsub-publish-offline", "v2-pubsub-topic-update-route",
    "v2-pubsub-two-publishers", "v2-pubsub-undefined",
  } do
    it(name, function() assert.is_true(replay(name) >= 2) end)
  end
end)
