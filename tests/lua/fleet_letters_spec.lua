--- What masters of a fleet write each other. SPDX-License-Identifier: MIT

local has_core, letters = pcall(require, "znl.fleet.letters")

describe("letters of a fleet", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local now_ms
  local function open(origin, secret)
    return letters.new { origin = origin, secret = secret, clock_ms = function() return now_ms end }
  end

  before_each(function() now_ms = 1700000000000 end)

  local QUESTION = {
    slave_id = "s\0\255", name = "/users/7?x=1", timeout_ms = 5000, is_json = true, is_limited = true,
    payload = { "one", "", "\0\1" },
  }

  for _, secret in ipairs { false, "the secret" } do
    it("arrive as they were written, " .. (secret and "signed" or "plain"), function()
      local a, b = open("a", secret or nil), open("b", secret or nil)
      local text, number = a:write("to.b", "call", QUESTION)
      assert.equal(1, number)
      local letter = assert(b:read("to.b", text))
      assert.same({
        kind = "call", origin = "a", number = 1, slave_id = "s\0\255", name = "/users/7?x=1", timeout_ms = 5000,
        is_json = true, is_limited = true, is_error = false, is_elsewhere = false, payload = { "one", "", "\0\1" },
      }, letter)
      for given, expected in pairs { [""] = "", text = "text" } do
        local read = assert(b:read("to.b", (a:write("to.b", "request", { payload = given }))))
        assert.equal(expected, read.payload)
      end
      assert.equal("", assert(b:read("to.b", (a:write("to.b", "request", {})))).payload)
      assert.equal("", assert(b:read("to.b", (a:write("to.b", "request", { payload = {} })))).payload)
    end)
  end

  it("are not read when they are cut, changed or no letters", function()
    local a, b = open("a"), open("b")
    local text = a:write("to.b", "call", QUESTION)
    for size = 0, #text - 1 do assert.is_nil((b:read("to.b", text:sub(1, size)))) end
    assert.is_nil((b:read("to.b", text .. "x")))
    assert.is_nil((b:read("to.b", "\255\255\255\255")))
    assert.is_nil((b:read("to.b", letters.pack { "1 call - 1 1 1", "a", "s" })))
    for _, head in ipairs {
      "", "1 call - 1 1", "2 call - 1 1 1", "1 other - 1 1 1", "1 call - 1 1 1 ", "1 call x 1 1 1", "1 call - -1 1 1",
      "1 call - 1234567890 1 1", "1 call - 1 1 1234567890123456",
    } do
      assert.is_nil((b:read("to.b", letters.pack { head, "a", "s", "n", "" })), head)
    end
    for _, origin in ipairs { "", "a.b", ">", ("a"):rep(65), "a b" } do
      assert.is_nil((b:read("to.b", letters.pack { "1 call - 1 1 1", origin, "s", "n", "" })))
    end
  end)

  it("with random bytes in them never raise", function()
    local seed = 1
    local function random(limit)
      seed = seed * 16807 % 2147483647
      return seed % limit
    end
    local a, b = open("a"), open("b")
    local text = a:write("to.b", "call", QUESTION)
    for _ = 1, 3000 do
      local at = random(#text) + 1
      b:read("to.b", text:sub(1, at - 1) .. string.char(random(256)) .. text:sub(at + 1))
    end
  end)

  it("are refused without the secret, with another one, and elsewhere", function()
    local a, b = open("a", "the secret"), open("b", "the secret")
    local reasons = {}
    local function refused(target, text)
      local letter, reason = b:read(target, text)
      assert.is_nil(letter)
      reasons[#reasons + 1] = reason
    end
    refused("to.b", (open("a"):write("to.b", "call", QUESTION)))
    refused("to.b", (open("a", "another"):write("to.b", "call", QUESTION)))
    local text = a:write("to.b", "call", QUESTION)
    refused("to.c", text)
    refused("to.b", (text:gsub("users", "admin")))
    refused("to.b", "")
    for _, reason in ipairs(reasons) do assert.equal("it is not signed with this secret", reason) end
    assert.is_nil((open("c"):read("to.b", text))) -- who expects no signature does not skip one
    assert.is_truthy(b:read("to.b", text))
  end)

  it("with a secret are good once, and not for long", function()
    local a, b = open("a", "x"), open("b", "x")
    local first, second = a:write("to.b", "call", QUESTION), a:write("to.b", "call", QUESTION)
    assert.is_truthy(b:read("to.b", first))
    assert.equal("it has been read already", select(2, b:read("to.b", first)))
    assert.is_truthy(b:read("to.b", second))
    assert.equal("it has been read already", select(2, b:read("to.b", first)))
    assert.is_truthy(b:read("to.b", (open("c", "x"):write("to.b", "call", QUESTION)))) -- numbers are each origin's own
    local third = a:write("to.b", "call", QUESTION)
    now_ms = now_ms + 30001
    assert.equal("it is too old, or the clocks differ", select(2, b:read("to.b", third)))
    -- As long as a letter is young enough its number is remembered.
    local fourth = a:write("to.b", "call", QUESTION)
    now_ms = now_ms - 30000
    assert.is_truthy(b:read("to.b", fourth))
    for _ = 1, 61 do
      now_ms = now_ms + 1000
      open("d", "x"):write("to.b", "call", QUESTION)
      b:read("to.b", (open("d", "x"):write("to.b", "call", QUESTION)))
      assert.is_nil((b:read("to.b", fourth)))
    end
  end)

  it("do not publish again what was published before the reader started", function()
    local a = open("a", "x")
    local text = a:write("all", "publish", { name = "topic", payload = "old" })
    now_ms = now_ms + 3000
    assert.equal("it is from before this master started", select(2, open("b", "x"):read("all", text)))
  end)

  it("answer one question only", function()
    local a, b = open("a", "x"), open("b", "x")
    local _, number = a:write("to.b", "call", QUESTION)
    local answer = b:write(letters.question("a", number), "answer", { number = number, payload = "yes" })
    assert.is_nil((a:read(letters.question("a", number + 1), answer)))
    assert.is_nil((a:read(letters.question("c", number), answer)))
    assert.equal("yes", assert(a:read(letters.question("a", number), answer)).payload)
  end)
end)
