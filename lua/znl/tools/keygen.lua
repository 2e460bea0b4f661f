--- znlrun keygen: makes a key for encrypted nodes.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local crypto = require("znl.core.crypto")
local uv = require("luv")

local KEY_BYTES = 32

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

--- RFC 4648, section 5, without padding.
local function base64url(bytes)
  local parts = {}
  for at = 1, #bytes, 3 do
    local a, b, c = bytes:byte(at, at + 2)
    local number = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 3, c and 0 or b and 1 or 2, -1 do
      local index = math.floor(number / 64 ^ place) % 64
      parts[#parts + 1] = ALPHABET:sub(index + 1, index + 1)
    end
  end
  return table.concat(parts)
end

--- Makes the file, which must not exist; nobody else may read it.
local function write_new(path, text)
  local descriptor, message = uv.fs_open(path, "wx", 384) -- 0600
  if not descriptor then
    if tostring(message):find("^EEXIST") then
      message = path .. " is there already; a key is never written over"
    end
    return nil, message
  end
  local written, write_message = uv.fs_write(descriptor, text, 0)
  local is_whole = written == #text and uv.fs_fsync(descriptor)
  uv.fs_close(descriptor)
  if is_whole then return true end
  uv.fs_unlink(path)
  return nil, ("%s: %s"):format(path, write_message or "could not be written in full")
end

local function make_key(opts, out)
  local key = base64url(crypto.random(KEY_BYTES))
  if opts.out then
    local ok, message = write_new(opts.out, key .. "\n")
    if not ok then return nil, message end
    if out.json then out:object { file = opts.out } else out:note("key written to " .. opts.out) end
  elseif out.json then
    out:object { key = key }
  else
    out:line(key)
  end
end

local function make_pair(opts, out)
  local public_key, secret_key = crypto.curve_pair()
  if opts.out then
    local ok, message = write_new(opts.out, secret_key .. "\n")
    if not ok then return nil, message end
    if out.json then
      out:object { file = opts.out, public_key = public_key }
    else
      out:note("secret key written to " .. opts.out)
      out:line(public_key)
    end
  elseif out.json then
    out:object { public_key = public_key, secret_key = secret_key }
  else
    out:line("public_key " .. public_key)
    out:line("secret_key " .. secret_key)
  end
end

return command.new {
  name = "keygen",
  summary = "Makes a key: 32 random bytes as base64url text.",
  description = "Masters and slaves read it by znl.secret(\"file:PATH\") or --key file:PATH. With --curve it makes " ..
      "a pair for the option curve of nodes, as Z85 text: a master keeps the secret key, slaves get the public one.",
  examples = {
    { "znlrun keygen --out slave-001.key", "a new file that only you may read" },
    { "SLAVE_KEY=$(znlrun keygen)", "keeps it in a variable of the shell" },
    { "znlrun keygen --curve --out master.key", "the secret key to a new file; prints the public one" },
  },
  configure = function(parser)
    parser:option("--out", "File to make, mode 0600; an existing file is refused."):argname("<file>")
    parser:flag("--curve", "A pair for CURVE: a public and a secret key.")
  end,
  run = function(opts, out) return (opts.curve and make_pair or make_key)(opts, out) end,
}
