--- znl.system.process: runs a command and waits for it, without holding up anybody else.
---
---     local result, message, code = znl.process.run { "git", "log", "-1", cwd = "/srv/app", timeout_ms = 5000 }
---     if result and result.code == 0 then print(result.stdout) end
---
--- No shell is involved: arguments are passed as they are. The command gets a process group of its
--- own, which is killed as a whole when its time is up, when it prints too much, and when whoever
--- waits for it is cancelled or gone.
--- SPDX-License-Identifier: MIT

local guard = require("znl.tasks.guard")
local options = require("znl.options")
local os_error = require("znl.system.os_error")
local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

local MIB = 1024 * 1024

---@class znl.ProcessOptions
---@field [integer] string  the command, found by PATH, and its arguments
---@field stdin? string|string[]  what it reads; default: nothing
---@field env? table<string, string|false>  added to the environment; false takes a variable away
---@field cwd? string
---@field timeout_ms? integer  then it is killed, TIMEOUT; default: none
---@field max_output_bytes? integer  of both outputs together; beyond it is killed, TOO_BIG
local SPEC = {
  stdin = {
    type = "any", check = function(value) return type(value) == "string" or type(value) == "table" end,
    allowed = "a text or an array of texts",
  },
  env = { type = "table" },
  cwd = { type = "string", min = 1 },
  timeout_ms = { type = "integer", min = 1, max = 86400000 },
  max_output_bytes = { type = "integer", min = 0, max = 1024 * MIB, default = 16 * MIB },
}

---@class znl.ProcessResult
---@field code integer  exit code; 0 when a signal ended it
---@field signal integer  number of the signal that ended it; 0: none
---@field stdout string
---@field stderr string

--- The command line and the options, which stand in one table.
local function read(given)
  if type(given) ~= "table" then error("process.run: options must be a table, not a " .. type(given), 3) end
  local words, named = {}, {}
  for key, value in pairs(given) do
    if type(key) == "number" then words[key] = value else named[key] = value end
  end
  local opts = options.read(SPEC, named, "process.run", 3)
  local count = #given
  for index in pairs(words) do count = math.max(count, index) end
  for index = 1, count do
    local word = words[index]
    if type(word) ~= "string" or word:find("%z") then
      error(("process.run: word %d of the command must be a text without zero bytes"):format(index), 3)
    end
  end
  if count == 0 or words[1] == "" then error("process.run: there is no command", 3) end
  if type(opts.stdin) == "table" then
    for index, piece in ipairs(opts.stdin) do
      if type(piece) ~= "string" then error(("process.run: piece %d of stdin is no text"):format(index), 3) end
    end
    opts.stdin = table.concat(opts.stdin)
  end
  for name, value in pairs(opts.env or {}) do
    if type(name) ~= "string" or name == "" or name:find("[=%z]")
        or not (value == false or (type(value) == "string" and not value:find("%z"))) then
      error("process.run: env must map names to texts, or to false", 3)
    end
  end
  return words, opts
end

local function environment(changes)
  if not changes then return nil end
  local list, all = {}, uv.os_environ()
  for name, value in pairs(changes) do all[name] = value or nil end
  for name, value in pairs(all) do list[#list + 1] = name .. "=" .. value end
  return list
end

--- All that belongs to one command. It ends when the command has ended and both outputs are closed,
--- or when it is aborted; `done` is set once.
---@class znl.Child
local Child = {}
Child.__index = Child

local function close_handle(handle)
  if handle and not handle:is_closing() then handle:close() end
end

local function release(self)
  self.over = true
  for _, pipe in pairs(self.pipes) do close_handle(pipe) end
  close_handle(self.timer)
end

--- Kills what runs, closes what is open. Called by the collector, too: must not wait.
function Child:abort(message, code)
  if self.over then return end
  release(self)
  -- Only while it has not been waited for: afterwards the number may be another's.
  if self.pid and not self.exit then uv.kill(-self.pid, "sigkill") end
  -- The process itself is left to its exit callback, so that no zombie stays.
  self.done:set(nil, message, code)
end

local function settle(self)
  if self.over or not self.exit or self.open_outputs > 0 then return end
  release(self)
  self.done:set({
    code = self.exit.code, signal = self.exit.signal,
    stdout = table.concat(self.output.stdout), stderr = table.concat(self.output.stderr),
  })
end

local function on_exit(self, code, signal)
  self.exit = { code = code, signal = signal }
  close_handle(self.process)
  settle(self)
end

local function read_output(self, name)
  local pipe, pieces = self.pipes[name], self.output[name]
  self.open_outputs = self.open_outputs + 1
  pipe:read_start(function(err, piece)
    if self.over then return end
    if err or not piece then
      close_handle(pipe)
      self.open_outputs = self.open_outputs - 1
      settle(self)
      return
    end
    self.output_bytes = self.output_bytes + #piece
    if self.output_bytes > self.max_output_bytes then
      self:abort(("%s: more than %d bytes of output"):format(self.what, self.max_output_bytes), "TOO_BIG")
      return
    end
    pieces[#pieces + 1] = piece
  end)
end

--- One that does not read its input closes it early: no failure of ours.
local function feed(self, content)
  local pipe = self.pipes.stdin
  if content == nil or content == "" then return close_handle(pipe) end
  pipe:write(content, function() close_handle(pipe) end)
end

local function start(words, opts, what)
  local self = setmetatable({
    what = what, done = sched.event(), over = false, open_outputs = 0, output_bytes = 0,
    max_output_bytes = opts.max_output_bytes, output = { stdout = {}, stderr = {} },
    pipes = { stdin = uv.new_pipe(false), stdout = uv.new_pipe(false), stderr = uv.new_pipe(false) },
  }, Child)
  local pipes = self.pipes
  local process, pid = uv.spawn(words[1], {
    args = { unpack(words, 2) }, env = environment(opts.env), cwd = opts.cwd, detached = true,
    stdio = { pipes.stdin, pipes.stdout, pipes.stderr },
  }, function(code, signal) on_exit(self, code, signal) end)
  if not process then
    for _, pipe in pairs(pipes) do close_handle(pipe) end
    return os_error.result(what, pid)
  end
  self.process, self.pid = process, pid
  read_output(self, "stdout")
  read_output(self, "stderr")
  feed(self, opts.stdin)
  if opts.timeout_ms then
    self.timer = uv.new_timer()
    self.timer:start(opts.timeout_ms, 0, function()
      self:abort(("%s: not done after %d ms"):format(what, opts.timeout_ms), "TIMEOUT")
    end)
  end
  return self
end

--- Runs a command and waits until it has ended and closed its outputs. Yields.
---@param opts znl.ProcessOptions
---@return znl.ProcessResult|nil result  also when it failed: look at `code`
---@return string? message
---@return string? code  NOT_FOUND (no such command), DENIED, TIMEOUT, TOO_BIG, CANCELLED, DEADLINE, …
function M.run(opts)
  local words
  words, opts = read(opts)
  local what = "process.run: " .. words[1] .. (opts.cwd and " in " .. opts.cwd or "")
  local child, message, code = start(words, opts, what)
  if not child then return nil, message, code end
  -- This coroutine may be dropped where it waits; the callbacks hold the child, but not the guard.
  local net = guard.new(function() child:abort() end)
  local result
  result, message, code = child.done:wait()
  guard.disarm(net)
  child:abort(message, code) -- does nothing when it ended by itself
  return result, message, code
end

return M
