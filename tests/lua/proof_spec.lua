--- znl.micro.proof: what a registry with a secret lets in. SPDX-License-Identifier: MIT
local crypto = require("znl.core.crypto")
local proof = require("znl.micro.proof")
local sched = require("znl.core.sched")
local security = require("znl.security.proof")

local PATH = "/10.0.0.1/9001/users"

--- As an implementation of another hand would make it, from SECURITY.md.
local function made(secret, path, unix_ms, nonce)
  local text = ("znl-registry-proof 1\n%d\n%s\n%s"):format(unix_ms, nonce, path)
  return ("1 %d %s %s"):format(unix_ms, nonce, crypto.hmac(secret, text))
end

local function nonce(number) return ("%032x"):format(number) end

describe("znl.micro.proof", function()
  local now_ms, checker

  before_each(function()
    now_ms = 1700000000000
    checker = proof.checker({ "secret", "old secret" }, function() return now_ms end)
  end)

  it("makes what it takes", function()
    local real = proof.checker({ "secret" })
    local name, value = proof.header("secret", PATH)
    assert.equal("Znl-Proof", name)
    assert.is_true(real:check(value, PATH))
    local _, other = proof.header("secret", PATH)
    assert.is_true(real:check(other, PATH)) -- each has a nonce of its own
    local unix_ms = tonumber(value:match("^1 (%d+) "))
    assert.is_true(math.abs(unix_ms - sched.unix_ms()) < 60000)
    assert.equal(value, made("secret", PATH, unix_ms, value:match("^1 %d+ (%x+)")))
  end)

  it("takes each of its secrets, and no other", function()
    assert.is_true(checker:check(made("secret", PATH, now_ms, nonce(1)), PATH))
    assert.is_true(checker:check(made("old secret", PATH, now_ms, nonce(2)), PATH))
    assert.same({ nil, "the proof is not made with this secret" },
      { checker:check(made("Secret", PATH, now_ms, nonce(3)), PATH) })
  end)

  it("takes a proof for its path only", function()
    local value = made("secret", PATH, now_ms, nonce(1))
    for _, path in ipairs { PATH .. "2", PATH .. "/", "/10.0.0.2/9001/users", "" } do
      assert.same({ nil, "the proof is not made with this secret" }, { checker:check(value, path) })
    end
    assert.is_true(checker:check(value, PATH))
  end)

  it("takes a proof once, as long as it could be shown again", function()
    local value = made("secret", PATH, now_ms + 30000, nonce(1))
    assert.is_true(checker:check(value, PATH))
    for _ = 1, 60 do -- its time is within the window until the end
      assert.same({ nil, "the proof has been used" }, { checker:check(value, PATH) })
      now_ms = now_ms + 1000
      assert.is_true(checker:check(made("secret", PATH, now_ms, nonce(now_ms)), PATH))
    end
    now_ms = now_ms + 1
    assert.same({ nil, "the proof is too old, or the clocks differ" }, { checker:check(value, PATH) })
  end)

  it("takes none whose time is far from its clock", function()
    now_ms = now_ms + 100000
    for offset, is_good in pairs { [30000] = true, [30001] = false, [-30000] = true, [-30001] = false } do
      local ok = checker:check(made("secret", PATH, now_ms + offset, nonce(1000000 + offset)), PATH)
      assert.equal(is_good or nil, ok)
    end
  end)

  it("takes none of before it started: it could have been used then", function()
    assert.is_true(checker:check(made("secret", PATH, now_ms - 2000, nonce(1)), PATH))
    assert.same({ nil, "the proof is from before this registry started" },
      { checker:check(made("secret", PATH, now_ms - 2001, nonce(2)), PATH) })
  end)

  it("takes no proof for another purpose", function()
    local other = security.checker { purpose = "znl-cluster-proof", what = "leader", secrets = { "secret" } }
    local _, value = proof.header("secret", PATH)
    assert.same({ nil, "the proof is not made with this secret" }, { other:check(value, PATH) })
    local own, own_nonce = security.make("znl-cluster-proof", "secret", PATH)
    assert.same({ true, "secret", own_nonce }, { other:check(own, PATH) })
  end)

  it("refuses what is no proof", function()
    local good = made("secret", PATH, now_ms, nonce(1))
    assert.same({ nil, "no proof" }, { checker:check(nil, PATH) })
    for _, value in ipairs {
      "", "1", good .. " ", " " .. good, good:gsub("^1", "2"), good:sub(1, -2), good .. "0", good:gsub("%x$", "g"),
      "1 99999999999999999999 " .. nonce(1) .. " " .. ("0"):rep(64), "1 -5 " .. nonce(1) .. " " .. ("0"):rep(64),
    } do
      assert.same({ nil, "the proof is malformed" }, { checker:check(value, PATH) })
    end
    assert.is_true(checker:check(good, PATH))
  end)
end)
