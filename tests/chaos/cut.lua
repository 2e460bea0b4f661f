--- cut: ends TCP connections of this process from inside, as a network does. Needs LuaJIT's ffi; for tests only.
--- SPDX-License-Identifier: MIT

local ffi = require("ffi")
local uv = require("luv")

ffi.cdef [[
  struct cut_address { uint16_t family; uint8_t port[2]; uint8_t rest[24]; };
  int getsockname(int fd, struct cut_address *address, unsigned *size);
  int getpeername(int fd, struct cut_address *address, unsigned *size);
  int shutdown(int fd, int how);
  int connect(int fd, const struct cut_address *address, unsigned size);
]]

local AF_UNSPEC, AF_INET, SHUT_RDWR = 0, 2, 2

local M = {}

--- The port of one end of a socket, nil when it is no connection over IPv4.
local function port_of(name, fd)
  local address, size = ffi.new("struct cut_address"), ffi.new("unsigned[1]", ffi.sizeof("struct cut_address"))
  if ffi.C[name](fd, address, size) ~= 0 or address.family ~= AF_INET then return nil end
  return address.port[0] * 256 + address.port[1]
end

--- The connections of this process from or to that port.
local function connections(port)
  local found = {}
  local scan = assert(uv.fs_scandir("/proc/self/fd"))
  for name in function() return uv.fs_scandir_next(scan) end do
    local fd = tonumber(name)
    local there = port_of("getpeername", fd)
    if there and (there == port or port_of("getsockname", fd) == port) then found[#found + 1] = fd end
  end
  return found
end

--- Ends one of them, chosen by chance: in peace, or by a reset that throws away what was under way.
---@param port integer
---@return integer count  connections that were ended, 0 or 1
function M.one(port)
  local found = connections(port)
  if #found == 0 then return 0 end
  local fd = found[math.random(#found)]
  if math.random(2) == 1 then return ffi.C.shutdown(fd, SHUT_RDWR) == 0 and 1 or 0 end
  return ffi.C.connect(fd, ffi.new("struct cut_address", { family = AF_UNSPEC }), 16) == 0 and 1 or 0
end

return M
