--- The parts of znl.queue and znl.topic that need no server.
--- SPDX-License-Identifier: MIT
local ack_subject = require("znl.durable.ack_subject")
local jetstream = require("znl.durable.jetstream")
local settings = require("znl.durable.settings")

describe("the subject of an acknowledgement", function()
  it("says what the message is, with and without a domain", function()
    local expected = { "jobs", "workers", 2, 17, 1700000000123, 5 }
    assert.same(expected, { ack_subject.read("$JS.ACK.jobs.workers.2.17.9.1700000000123456789.5") })
    assert.same(expected, { ack_subject.read("$JS.ACK.hub.ACCOUNT.jobs.workers.2.17.9.1700000000123456789.5") })
    assert.same(expected, { ack_subject.read("$JS.ACK.hub.ACCOUNT.jobs.workers.2.17.9.1700000000123456789.5.random") })
  end)

  it("is nothing else", function()
    for _, subject in ipairs {
      "", "$JS.ACK", "$JS.ACK.", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.a.b.1.2.3.4", "x.$JS.ACK.a.b.1.2.3.4.5",
      "$JS.ACK.a.b.1.2.3.4.-5", "$JS.ACK..b.1.2.3.4.5", "$JS.ACK.a.b.c.1.2.3.4.5",
    } do
      assert.is_nil((ack_subject.read(subject)), subject)
    end
    assert.is_true(ack_subject.is("$JS.ACK.a.b.1.2.3.4.5"))
    assert.is_false(ack_subject.is("x.$JS.ACK.a.b.1.2.3.4.5"))
    assert.is_false(ack_subject.is(nil))
  end)
end)

describe("an answer of JetStream", function()
  it("is an object, or says what is wrong", function()
    assert.same({ seq = 3 }, jetstream.read('{"seq":3}'))
    for text, expected in pairs {
      ["nonsense"] = "PROTO", ["[1]x"] = "PROTO", ["7"] = "PROTO",
      ['{"error":7}'] = "REFUSED", ['{"error":{}}'] = "REFUSED",
      ['{"error":{"err_code":10059,"description":"stream not found"}}'] = "NOT_FOUND",
      ['{"error":{"err_code":10077,"description":"maximum bytes exceeded"}}'] = "LIMIT",
      ['{"error":{"err_code":10077,"description":"disk broken"}}'] = "REFUSED",
      ['{"error":{"code":503,"err_code":1,"description":"busy"}}'] = "UNREACHABLE",
      ['{"error":{"err_code":"x","description":["y"]}}'] = "REFUSED",
    } do
      local answer, message, code = jetstream.read(text)
      assert.is_nil(answer, text)
      assert.equal("string", type(message))
      assert.equal(expected, code, text)
    end
  end)
end)

describe("settings", function()
  it("differ where both say something else, or one nothing", function()
    assert.is_nil(settings.differences({ a = 1, b = "x", c = { "y" }, d = "", e = false },
      { a = 1, b = "x", c = { "y" }, f = 7 }))
    assert.equal("a is 2 there and 1 here, b is not set there and x here, c is { y, z } there and { y } here",
      settings.differences({ a = 1, b = "x", c = { "y" }, d = 4 }, { a = 2, c = { "y", "z" } }, { d = true }))
  end)
end)
