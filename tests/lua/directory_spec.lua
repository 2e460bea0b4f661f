--- znl.core.registry: the directory of a registry as scripts see it. SPDX-License-Identifier: MIT
local registry = require("znl.core.registry")

local function ports(directory, namespace, exclude)
  local seen, list = {}, {}
  for _ = 1, 100 do
    local _, port = directory:find(namespace, exclude)
    if port and not seen[port] then
      seen[port] = true
      list[#list + 1] = port
    end
  end
  table.sort(list)
  return list
end

describe("znl.core.registry", function()
  it("finds what is registered, but what is excluded", function()
    local d = registry.new()
    assert.same({ n = 0 }, { n = select("#", d:find("svc")), d:find("svc") })
    local first = assert(d:add("svc", "10.0.0.1", 1))
    assert(d:add("svc", "10.0.0.1", 2))
    assert(d:add("a/b", "[::1]", 3))
    assert.same({ 1, 2 }, ports(d, "svc"))
    assert.same({ 1, 2 }, ports(d, "svc", {}))
    assert.same({ 2 }, ports(d, "svc", { "10.0.0.1:1" }))
    assert.same({}, ports(d, "svc", { "10.0.0.1:1", "10.0.0.1:2" }))
    assert.same({ 1, 2 }, ports(d, "svc", { "10.0.0.9:1", "", 7, false, {} }))
    assert.same({ "[::1]", 3 }, { d:find("a/b") })
    assert.is_true(d:remove(first))
    assert.is_false(d:remove(first))
    assert.same({ 2 }, ports(d, "svc"))
    assert.same({ 2, 2 }, { d:count() })
  end)

  it("names the registration that a later one replaces; its late end changes nothing", function()
    local d = registry.new { max = 1 }
    local first = assert(d:add("svc", "h", 1, 10))
    local second, replaced = d:add("other", "h", 1, 20)
    assert.equal(first, replaced)
    assert.is_false(d:remove(first))
    assert.same({ id = second, namespace = "other", key = "h:1", host = "h", port = 1, since_ms = 20 }, d:get("h:1"))
    assert.is_nil(d:get("h:2"))
    local id, message, code = d:add("other", "h", 2)
    assert.same({ "nil", "registry.add: a configured limit is reached", "LIMIT" }, { tostring(id), message, code })
    assert.same({ added = 2, removed = 0, replaced = 1, refused = 1, finds = 0, misses = 0 }, d:counters())
  end)

  it("lists namespaces and peers", function()
    local d = registry.new()
    for port = 1, 3 do assert(d:add("a", "h", port, port * 100)) end
    assert(d:add("b\0", "h", 4))
    assert.same({ a = 3, ["b\0"] = 1 }, d:namespaces())
    local peers = d:peers("a")
    table.sort(peers, function(x, y) return x.port < y.port end)
    assert.equal(3, #peers)
    for port, peer in ipairs(peers) do
      assert.same({ "a", "h:" .. port, "h", port, port * 100 },
        { peer.namespace, peer.key, peer.host, peer.port, peer.since_ms })
    end
    assert.same({}, d:peers("c"))
    local keys = d:keys("a")
    table.sort(keys)
    assert.same({ "h:1", "h:2", "h:3" }, keys)
    assert.same({ 3, 1, 0 }, { d:count("a"), d:count("b\0"), d:count("c") })
  end)

  it("refuses what is no address", function()
    local d = registry.new()
    assert.equal("INVALID", select(3, d:add("", "h", 1)))
    assert.equal("INVALID", select(3, d:add("svc", "", 1)))
    assert.equal("TOO_BIG", select(3, d:add(("n"):rep(1025), "h", 1)))
    assert.equal("TOO_BIG", select(3, d:add("svc", ("h"):rep(256), 1)))
    assert.same({ 0, 0 }, { d:count() })
  end)

  it("raises on misuse", function()
    local d = registry.new()
    assert.error_matches(function() registry.new { maximum = 1 } end, "the only option is max")
    assert.error_matches(function() registry.new { max = 0 } end, "max must be a whole number in 1..1000000")
    assert.error_matches(function() d:add("svc", "h", 0) end, "port must be a whole number in 1..65535")
    assert.error_matches(function() d:add("svc", 1, 1) end, "host must be a string")
    assert.error_matches(function() d:remove("h:1") end, "id must be a number that add")
    assert.error_matches(function() d:remove(1.5) end, "id must be a number that add")
    assert.error_matches(function() d:find("svc", "h:1") end, "table expected")
    d:close()
    d:close()
    assert.error_matches(function() d:count() end, "the directory is closed")
  end)
end)

describe("znl.core.registry.read_topic", function()
  local read = registry.read_topic

  it("takes the members of a request apart, the payload as it is written", function()
    assert.same({ "t", '{"b": 1,"a":[ ]}', 7.5 }, { read '{"topic":"t","payload": {"b": 1,"a":[ ]} ,"revision":7.5}' })
    assert.same({ n = 3, "t" }, { n = select("#", read '{"topic":"t"}'), (read '{"topic":"t"}') })
    assert.same({ "é\0\n", "null" }, { read '{"payload":null,"x":[{}],"topic":"\\u00e9\\u0000\\n"}' })
    assert.same({ "2", "2" }, { read '{"topic":"1","payload":1,"topic":"2","payload":2}' })
    assert.same({ "t", nil, nil }, { read '{"topic":"t","revision":"7"}' })
  end)

  it("refuses what is none", function()
    for _, text in ipairs { "null", "[]", "1", "{}", '{"topic":1}', '{"topic":"a","topic":null}' } do
      local topic, message, code = read(text)
      assert.same({ "nil", "the data must be an object with a text as its topic", "INVALID" },
        { tostring(topic), message, code })
    end
    for _, text in ipairs { '{"topic":"t"', '{"topic":"t"} x', '{"topic":"t","payload":}', '{"topic":"\255"}' } do
      assert.equal("PROTO", select(3, read(text)), text)
    end
    assert.equal("TOO_BIG", select(3, read('{"topic":"' .. ("x"):rep(1025) .. '"}')))
    assert.equal(1024, #read('{"topic":"' .. ("x"):rep(1024) .. '"}'))
    assert.error_matches(function() read(nil) end, "json must be a string")
  end)
end)
