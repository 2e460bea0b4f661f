--- znl.system.os_error: what the operating system refuses, as `nil, message, code`.
--- SPDX-License-Identifier: MIT

local M = {}

--- libuv's name -> our code; others are "SYSTEM".
local CODES = {
  ENOENT = "NOT_FOUND", EAI_NONAME = "NOT_FOUND", EAI_NODATA = "NOT_FOUND", ESRCH = "NOT_FOUND",
  EEXIST = "EXISTS", ENOTEMPTY = "EXISTS",
  EACCES = "DENIED", EPERM = "DENIED", EROFS = "DENIED",
  ECONNREFUSED = "UNREACHABLE", EHOSTUNREACH = "UNREACHABLE", ENETUNREACH = "UNREACHABLE",
  EHOSTDOWN = "UNREACHABLE", ENETDOWN = "UNREACHABLE", EAI_AGAIN = "UNREACHABLE", EAI_FAIL = "UNREACHABLE",
  ETIMEDOUT = "TIMEOUT",
  ECONNRESET = "CLOSED", ECONNABORTED = "CLOSED", EPIPE = "CLOSED", ENOTCONN = "CLOSED", EOF = "CLOSED",
  ECANCELED = "CANCELLED",
  EADDRINUSE = "ADDRESS_IN_USE", EADDRNOTAVAIL = "ADDRESS",
  EISDIR = "INVALID", ENOTDIR = "INVALID", EINVAL = "INVALID", ENAMETOOLONG = "INVALID", ELOOP = "INVALID",
  EFBIG = "TOO_BIG", E2BIG = "TOO_BIG",
  EMFILE = "LIMIT", ENFILE = "LIMIT", EAGAIN = "LIMIT",
  ENOMEM = "NO_MEMORY", EAI_MEMORY = "NO_MEMORY",
}

--- For those of which libuv's Lua binding gives the name only.
local TEXTS = {
  ECONNREFUSED = "connection refused", EHOSTUNREACH = "host is unreachable",
  ENETUNREACH = "network is unreachable", ETIMEDOUT = "connection timed out",
  ECONNRESET = "connection reset by the peer", EPIPE = "the peer has closed the connection",
  ECANCELED = "closed", EADDRINUSE = "the address is in use",
  EADDRNOTAVAIL = "the address is not one of this machine", EACCES = "permission denied",
  EAI_NONAME = "no such host", EAI_NODATA = "the host has no address",
  EAI_AGAIN = "the name server does not answer", EMFILE = "too many open files",
}

--- libuv's name of an error, such as "ENOENT".
---@param err string  as luv passes it: a name, or "NAME: text: path"
---@return string
function M.name(err)
  return tostring(err):match("^([%u%d_]+)") or "UNKNOWN"
end

---@param what string  begins the message: "file.read: notes.txt"
---@param err string
---@return nil, string, string
function M.result(what, err)
  local name = M.name(err)
  local text = TEXTS[name] or tostring(err):match("^[%u%d_]+: ([^:]+)") or tostring(err)
  return nil, ("%s: %s"):format(what, text), CODES[name] or "SYSTEM"
end

return M
