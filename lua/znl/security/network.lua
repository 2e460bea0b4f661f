--- znl.security.network: IP addresses and networks, "10.0.0.0/8" or "fd00::/8", for lists of who is allowed.
--- Pure: looks up no names. SPDX-License-Identifier: MIT

local M = {}

local function parse_v4(text)
  local a, b, c, d = text:match("^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$")
  if not a then return nil end
  local bytes = { tonumber(a), tonumber(b), tonumber(c), tonumber(d) }
  for _, byte in ipairs(bytes) do
    if byte > 255 then return nil end
  end
  return bytes
end

--- Appends the 16-bit groups of one side of "::"; false when they are none.
local function add_groups(bytes, text)
  if text == "" then return true end
  for group in (text .. ":"):gmatch("([^:]*):") do
    if not group:find("^%x%x?%x?%x?$") then return false end
    local value = tonumber(group, 16)
    bytes[#bytes + 1], bytes[#bytes + 2] = math.floor(value / 256), value % 256
  end
  return true
end

local function parse_v6(text)
  -- The last 32 bits may be written as IPv4.
  local before, v4 = text:match("^(.*:)(%d+%.%d+%.%d+%.%d+)$")
  if v4 then
    local bytes = parse_v4(v4)
    if not bytes then return nil end
    text = before .. ("%x:%x"):format(bytes[1] * 256 + bytes[2], bytes[3] * 256 + bytes[4])
  end
  local left, right = text:match("^(.-)::(.*)$")
  local bytes, rest = {}, {}
  if not left then
    return add_groups(bytes, text) and #bytes == 16 and bytes or nil
  end
  if not add_groups(bytes, left) or not add_groups(rest, right) or #bytes + #rest > 14 then return nil end
  for _ = #bytes + #rest + 1, 16 do bytes[#bytes + 1] = 0 end
  for _, byte in ipairs(rest) do bytes[#bytes + 1] = byte end
  return bytes
end

--- ::ffff:10.0.0.1 is 10.0.0.1.
local function unmapped(bytes)
  if #bytes ~= 16 or bytes[11] ~= 255 or bytes[12] ~= 255 then return bytes end
  for i = 1, 10 do
    if bytes[i] ~= 0 then return bytes end
  end
  return { bytes[13], bytes[14], bytes[15], bytes[16] }
end

--- The bytes of an address, 4 or 16; nil when it is none. Brackets and a zone are dropped.
---@param text string
---@return integer[]|nil
function M.address(text)
  text = text:match("^%[(.*)%]$") or text
  text = text:match("^([^%%]+)%%[%w_.-]+$") or text
  local bytes = parse_v4(text) or (text:find(":", 1, true) and parse_v6(text))
  return bytes and unmapped(bytes) or nil
end

---@class znl.Network
---@field bytes integer[]
---@field bits integer  that count

--- A network, or an address alone.
---@param text string
---@return znl.Network|nil
---@return string? problem
function M.parse(text)
  local base, bits = text:match("^([^/]+)/(%d%d?%d?)$")
  local bytes = M.address(base or text)
  if not bytes then return nil, "it is no IP address or network such as 10.0.0.0/8" end
  bits = bits and tonumber(bits) or #bytes * 8
  if bits > #bytes * 8 then return nil, ("it has %d bits; at most %d are there"):format(bits, #bytes * 8) end
  return { bytes = bytes, bits = bits }
end

---@param network znl.Network
---@param bytes integer[]
---@return boolean
function M.contains(network, bytes)
  if #network.bytes ~= #bytes then return false end
  local whole, rest = math.floor(network.bits / 8), network.bits % 8
  for i = 1, whole do
    if network.bytes[i] ~= bytes[i] then return false end
  end
  if rest == 0 then return true end
  local unit = 2 ^ (8 - rest)
  return math.floor(network.bytes[whole + 1] / unit) == math.floor(bytes[whole + 1] / unit)
end

--- The host in "10.0.0.1:5000" or "[::1]:5000", as a socket names its other end.
---@param remote string
---@return string
function M.host_of(remote)
  return remote:match("^%[(.-)%]:%d+$") or remote:match("^(.*):%d+$") or remote
end

---@param a integer[]
---@param b integer[]
---@return boolean
function M.equal(a, b)
  return M.contains({ bytes = a, bits = #a * 8 }, b)
end

return M
