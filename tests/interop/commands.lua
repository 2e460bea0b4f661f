--- Commands as JSON lines on standard input, each in a task of its own; what they come to, and events, as
--- JSON lines on standard output. SPDX-License-Identifier: MIT

local json = require "znl.json"
local uv = require "luv"
local znl = require "znl"

local M = { encode = json.encode } -- or that of cjson, which writes text that is not UTF-8, too

function M.write(object)
  io.stdout:write(assert(M.encode(object)), "\n")
  io.stdout:flush()
end

--- JSON null in a command means "not given", as an absent member does.
function M.given(value)
  if value == json.null then return nil end
  return value
end

--- Turns `nil, message, code` into an error, which is answered. A nil without message is a value.
function M.check(value, message, code)
  if value == nil and message then error({ code = code or "ERROR", message = message }, 0) end
  return value
end

local function run(commands, subject, line)
  local read, cmd = json.decode(line)
  assert(read, cmd)
  local ok, value = xpcall(function()
    local fn = commands[cmd.cmd] or error("unknown command " .. tostring(cmd.cmd))
    return fn(cmd, subject and subject(cmd))
  end, function(problem)
    if type(problem) == "table" then return problem end
    return { code = "ERROR", message = debug.traceback(tostring(problem)) }
  end)
  if ok then
    M.write { re = cmd.n, ok = true, value = value }
  else
    M.write { re = cmd.n, ok = false, code = value.code, error = tostring(value.message), name = value.name }
  end
end

--- Runs commands until standard input ends: then `commands.exit`.
---@param commands table<string, fun(cmd: table, object: any): any>
---@param subject? fun(cmd: table): any  the object that a command is about
function M.serve(commands, subject)
  local rest = ""
  local input = uv.new_pipe(false)
  input:open(0)
  input:read_start(function(err, chunk)
    if err or not chunk then
      input:close()
      znl.spawn(commands.exit)
      return
    end
    -- Plain finds: a pattern would scan a long line without its end once per character.
    rest = rest .. chunk
    local from, newline = 1, rest:find("\n", 1, true)
    while newline do
      znl.spawn(run, commands, subject, rest:sub(from, newline - 1))
      from = newline + 1
      newline = rest:find("\n", from, true)
    end
    rest = rest:sub(from)
  end)
end

return M
