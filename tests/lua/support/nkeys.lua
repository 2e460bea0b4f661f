--- Keys and tokens of NATS for a test, made by the command openssl: what `nsc` makes elsewhere.
--- SPDX-License-Identifier: MIT

local bit = require("bit")
local process = require("znl").process
local uv = require("luv")

local M = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
local PREFIX = { S = 18, O = 14, A = 0, U = 20 }

local function base32(bytes)
  local out, value, count = {}, 0, 0
  for i = 1, #bytes do
    value = bit.band(bit.bor(bit.lshift(value, 8), bytes:byte(i)), 0xffff)
    count = count + 8
    while count >= 5 do
      count = count - 5
      local index = bit.band(bit.rshift(value, count), 31)
      out[#out + 1] = ALPHABET:sub(index + 1, index + 1)
    end
  end
  if count > 0 then
    local index = bit.band(bit.lshift(value, 5 - count), 31)
    out[#out + 1] = ALPHABET:sub(index + 1, index + 1)
  end
  return table.concat(out)
end

local function with_sum(bytes)
  local crc = 0
  for i = 1, #bytes do
    crc = bit.bxor(crc, bit.lshift(bytes:byte(i), 8))
    for _ = 1, 8 do
      crc = bit.band(crc, 0x8000) ~= 0 and bit.bxor(bit.lshift(crc, 1), 0x1021) or bit.lshift(crc, 1)
      crc = bit.band(crc, 0xffff)
    end
  end
  return bytes .. string.char(bit.band(crc, 255), bit.rshift(crc, 8))
end

local function base64url(bytes)
  local letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
  local out = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local value = a * 65536 + (b or 0) * 256 + (c or 0)
    for k = 0, c and 3 or b and 2 or 1 do
      local index = math.floor(value / 64 ^ (3 - k)) % 64
      out[#out + 1] = letters:sub(index + 1, index + 1)
    end
  end
  return table.concat(out)
end

local function run(args)
  local result = assert(process.run(args))
  assert(result.code == 0, table.concat(args, " ") .. ": " .. tostring(result.stderr))
  return result.stdout
end

---@class TestNkey
---@field seed string  "SU…"
---@field public string  "U…"
---@field path string

--- A new key; kind is "O" (operator), "A" (account) or "U" (user). Yields.
---@param folder TestFolder
---@param kind string
---@return TestNkey
function M.new(folder, kind)
  local path = folder:at(("%s%d.pem"):format(kind, math.random(1000000)))
  run { "openssl", "genpkey", "-algorithm", "ed25519", "-out", path }
  local private = run { "openssl", "pkey", "-in", path, "-outform", "DER" }
  local public = run { "openssl", "pkey", "-in", path, "-pubout", "-outform", "DER" }
  local prefix = PREFIX[kind] * 8
  local first = bit.bor(PREFIX.S * 8, bit.rshift(prefix, 5))
  return {
    path = path,
    seed = base32(with_sum(string.char(first, bit.band(bit.lshift(bit.band(prefix, 31), 3), 255)) .. private:sub(-32))),
    public = base32(with_sum(string.char(prefix) .. public:sub(-32))),
  }
end

--- A token about `subject`, signed by `issuer`; `claims` is JSON of its "nats" part. Yields.
---@param folder TestFolder
---@param issuer TestNkey
---@param subject string
---@param claims string
---@return string
function M.token(folder, issuer, subject, claims)
  local head = base64url('{"typ":"JWT","alg":"ed25519-nkey"}')
  local body = base64url(('{"jti":"%s","iat":%d,"iss":"%s","name":"test","sub":"%s","nats":%s}'):format(
    tostring(math.random(1e9)), os.time(), issuer.public, subject, claims))
  local path = folder:at("to_sign")
  local file = assert(io.open(path, "wb"))
  file:write(head, ".", body)
  file:close()
  local signature = run { "openssl", "pkeyutl", "-sign", "-rawin", "-inkey", issuer.path, "-in", path }
  uv.fs_unlink(path)
  return ("%s.%s.%s"):format(head, body, base64url(signature))
end

--- The text of a credentials file.
---@param token string
---@param seed string
---@return string
function M.credentials(token, seed)
  return ("-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"
    .. "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n"):format(token, seed)
end

return M
