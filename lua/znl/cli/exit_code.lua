--- znl.cli.exit_code: how tools end; the same in all of them.
--- SPDX-License-Identifier: MIT

local M = {}

M.OK = 0
M.FAILED = 1
M.USAGE = 2
M.TIMEOUT = 3
M.UNREACHABLE = 4
M.INTERRUPTED = 130
M.PIPE_CLOSED = 141

--- For help texts, in order.
M.TEXT = {
  { "0", "done" },
  { "1", "the peer answered with an error, or something failed" },
  { "2", "wrong usage" },
  { "3", "no answer in time" },
  { "4", "the peer cannot be reached" },
  { "130", "ended by Ctrl-C" },
  { "141", "who reads the output went away" },
}

local OF = {
  USAGE = M.USAGE, TIMEOUT = M.TIMEOUT, DEADLINE = M.TIMEOUT, UNREACHABLE = M.UNREACHABLE,
  PIPE_CLOSED = M.PIPE_CLOSED,
}

--- The exit code for an error code of the library.
---@param code? string
---@return integer
function M.of(code)
  return OF[code] or M.FAILED
end

return M
