--- znlrun repl: a prompt for Lua inside the runtime, or inside a node that runs elsewhere.
---
--- Each input runs in a task, so it may wait; meanwhile Ctrl-C cancels it, and everything else typed is
--- kept for the next prompt.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local name_completion = require("znl.cli.name_completion")
local evaluation = require("znl.console.evaluation")
local exit_code = require("znl.cli.exit_code")
local history = require("znl.cli.history")
local line_editor = require("znl.cli.line_editor")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local sched = require("znl.core.sched")
local uv = require("luv")

local PROMPT, MORE = "> ", ">> "

--- The terminal marks what is pasted, so that its tabs complete nothing.
local PASTE_ON, PASTE_OFF = "\27[?2004h", "\27[?2004l"

local HELP = [[
Type Lua. An expression is shown, a statement is run; what waits, waits. znl is at hand:

  > slave = znl.slave { id = "me", endpoint = "tcp://127.0.0.1:6003" }
  > slave:start()
  > slave:request("hello")

Globals stay, locals end with their input. An input that is not complete goes on in the next line.

  .help    this
  .stats   what the runtime is doing
  .exit    ends; so does Ctrl-D

Ctrl-C cancels the input that runs. Tab completes names, the arrows and Ctrl-R recall lines.]]

local REMOTE_HELP = [[
Type Lua. It runs inside the node: an expression is shown, a statement is run, what waits, waits.
There are node, which is the node itself, and znl:

  > node:counters()
  > node:slaves()
  > node.source:routes()

Globals stay, locals end with their input. An input that is not complete goes on in the next line.

  .help    this
  .stats   what its runtime is doing
  .exit    ends; so does Ctrl-D]]

local STATS = "return require('znl.core.runtime').counters()"

---@class znl.cli.Session
---@field evaluate fun(self: table, text: string): boolean, string, string?  yields
---@field cancel fun(self: table)
---@field environment table  for completion
---@field help string

--- Inputs run here.
local Local = {}
Local.__index = Local

local function open_local()
  return setmetatable({ environment = evaluation.environment(), help = HELP }, Local)
end

function Local:evaluate(text)
  local chunk, message = evaluation.compile(text, self.environment)
  if not chunk then return false, message end
  local done = sched.event()
  self.done, self.owner = done, sched.owner()
  sched.spawn_owned(self.owner, function() done:set(evaluation.run(chunk)) end)
  local ok, result = done:wait()
  self.done, self.owner = nil, nil
  io.stdout:flush()
  return ok, result
end

function Local:cancel()
  if not self.done then return end
  -- Dropped where it waits, and not just told: a loop of sleeps would never hear of it.
  self.owner:cut("interrupted")
  self.done:set(false, "interrupted")
end

--- Inputs run in a node that allows it.
local Remote = {}
Remote.__index = Remote

local function open_remote(opts)
  local connection, message, code = peer.open(opts, { tool = "repl" })
  if not connection then return nil, message, code end
  local ok
  ok, message, code = connection:wait_online(opts.timeout)
  if not ok then return nil, message, code end
  local self = setmetatable(
    { peer = connection, timeout = opts.timeout, environment = {}, help = REMOTE_HELP }, Remote)
  -- Better now than after the first line somebody typed.
  local may
  may, message, code = self:evaluate("")
  if may or not code then return self end
  connection:close()
  return nil, ("%s: %s"):format(opts.endpoint, message), code
end

function Remote:evaluate(text)
  local answer, message, code = self.peer.slave:call("/-/eval", { code = text }, { timeout_ms = self.timeout })
  if type(answer) == "table" then
    return answer.ok and true or false, (tostring(answer.text or ""):gsub("\n$", ""))
  end
  if code == "NOT_FOUND" or code == "UNSUPPORTED" then
    return false, "the node runs no Lua for others; with console = { eval = true } it would", "NOT_FOUND"
  end
  return false, ("%s (%s)"):format(tostring(message), tostring(code)), code
end

function Remote.cancel() end

--- Dot commands; true when it was one. The second result ends the prompt.
local function dot_command(session, text, say)
  local name = text:match("^%s*%.(%a+)%s*$")
  if not name then return false end
  if name == "exit" or name == "quit" then return true, true end
  if name == "stats" then
    local _, result = session:evaluate(STATS)
    say(result)
  elseif name == "help" then
    say(session.help)
  else
    say(("there is no .%s; .help lists what there is"):format(name))
  end
  return true
end

--- --- a terminal -----------------------------------------------------------------------------------

---@class znl.cli.Prompt
local Prompt = {}
Prompt.__index = Prompt

local function open_prompt(session, out)
  local tty, message = uv.new_tty(0, true)
  if not tty then return nil, message end
  local ok
  ok, message = tty:set_mode(1)
  if not ok then return nil, message end
  local self = setmetatable({ tty = tty, session = session, out = out, inbox = "", wake = sched.event() }, Prompt)
  self.history = history.open(history.path("repl"))
  self.editor = line_editor.new(self.history)
  self.editor.prompt = PROMPT
  tty:read_start(function(err, bytes)
    if err or not bytes then self.is_over = true else self.inbox = self.inbox .. bytes end
    self.wake:set()
  end)
  return self
end

function Prompt:close()
  self.tty:read_stop()
  self.tty:set_mode(0)
  self.tty:close()
  uv.tty_reset_mode()
  local ok, message = self.history:save()
  if not ok then self.out:note("the history was not saved: " .. tostring(message)) end
end

function Prompt:columns()
  local ok, columns = pcall(self.tty.get_winsize, self.tty)
  return ok and type(columns) == "number" and columns > 0 and columns or 80
end

function Prompt:draw()
  self.out:write(self.editor:render(self:columns()))
end

--- Prints above the line being typed.
function Prompt:say(text)
  if text == "" then return end
  self.out:write("\r\27[K" .. text .. "\n")
end

local function in_columns(list, width)
  local widest = 0
  for _, text in ipairs(list) do widest = math.max(widest, #text + 2) end
  local per_row = math.max(1, math.floor(width / widest))
  local rows = {}
  for index, text in ipairs(list) do
    local row = math.floor((index - 1) / per_row) + 1
    rows[row] = (rows[row] or "") .. text .. (" "):rep(widest - #text)
  end
  return (table.concat(rows, "\n"):gsub(" +\n", "\n"):gsub(" +$", ""))
end

function Prompt:complete()
  local list, wanted = name_completion.find(self.editor:text(true), self.session.environment)
  if #list == 0 then return end
  local common = name_completion.common(list)
  if common ~= wanted or #list == 1 then
    self.editor:replace(#wanted, common)
  else
    self:say(in_columns(list, self:columns()))
  end
end

--- Runs an input while the terminal is read: Ctrl-C cancels it.
function Prompt:evaluate(text)
  local ok, result
  local is_done = false
  sched.spawn(function()
    ok, result = self.session:evaluate(text)
    is_done = true
    self.wake:set()
  end)
  while not is_done and not self.is_over do
    if self.inbox:find("\3", 1, true) then
      self.inbox = self.inbox:gsub("^.*\3", "")
      sched.spawn(function() self.session:cancel() end)
    end
    self.wake:wait()
    self.wake:clear()
  end
  if is_done then self:say(ok and result or self.out:paint("red", result)) end
end

--- A line was entered. True when the prompt shall end.
function Prompt:enter(line)
  self.out:write("\r" .. self.editor.prompt .. line .. "\27[K\n")
  local text = self.input and self.input .. "\n" .. line or line
  if not self.input then
    local is_command, ends = dot_command(self.session, text, function(said) self:say(said) end)
    if is_command then
      self.history:add(text)
      return ends
    end
  end
  local chunk, _, is_incomplete = evaluation.compile(text, {})
  if not chunk and is_incomplete then
    self.input, self.editor.prompt = text, MORE
    return
  end
  self.input, self.editor.prompt = nil, PROMPT
  if not text:find("%S") then return end
  self.history:add(text)
  self:evaluate(text)
end

--- True when the prompt shall end.
function Prompt:act(action)
  if action.kind == "line" then return self:enter(action.text) end
  if action.kind == "complete" then
    self:complete()
  elseif action.kind == "clear" then
    self.out:write("\27[H\27[2J")
  elseif action.kind == "interrupt" then
    self.out:write("^C\n")
    self.input, self.editor.prompt = nil, PROMPT
  elseif action.kind == "eof" then
    self.out:write("\n")
    return true
  end
end

function Prompt:run()
  self:draw()
  while not self.is_over do
    if self.inbox == "" then
      self.wake:wait()
      self.wake:clear()
    end
    -- Byte by byte: what is typed behind an input waits until that has run.
    while self.inbox ~= "" do
      local byte = self.inbox:sub(1, 1)
      self.inbox = self.inbox:sub(2)
      for _, action in ipairs(self.editor:feed(byte)) do
        if self:act(action) then return end
        if action.kind ~= "line" then self:draw() end
      end
    end
    self:draw()
  end
end

--- A failed write is a table, which `znl.cli.command` knows.
local function trace(err)
  return type(err) == "table" and err or debug.traceback(tostring(err), 2)
end

local function run_terminal(session, opts, out)
  local prompt, message = open_prompt(session, out)
  if not prompt then return nil, message end
  session.environment.print = function(...)
    local parts = {}
    for index = 1, select("#", ...) do parts[index] = tostring((select(index, ...))) end
    prompt:say(table.concat(parts, "\t"))
    if not session.done then prompt:draw() end
  end
  local where = opts.endpoint and "in " .. opts.endpoint or "znlrun " .. runtime.version.znlrun
  out:write(where .. ", .help explains\n" .. PASTE_ON)
  local ok, err = xpcall(prompt.run, trace, prompt)
  prompt:close()
  if not ok then error(err, 0) end
  out:write(PASTE_OFF)
  return exit_code.OK
end

--- --- no terminal ----------------------------------------------------------------------------------

--- The next piece of standard input; nil at its end. Yields.
local function read_piece()
  local done = sched.event()
  uv.fs_read(0, 65536, -1, function(err, bytes) done:set(err, bytes) end)
  local err, bytes = done:wait()
  if err then return nil, err end
  return bytes ~= "" and bytes or nil
end

local function run_plain(session, out)
  local rest, text, failed = "", nil, false
  local function take(line)
    text = text and text .. "\n" .. line or line
    if dot_command(session, text, function(said) out:line(said) end) then
      text = nil
      return
    end
    local chunk, _, is_incomplete = evaluation.compile(text, {})
    if not chunk and is_incomplete then return end
    local input = text
    text = nil
    if not input:find("%S") then return end
    local ok, result = session:evaluate(input)
    failed = failed or not ok
    if out.json then
      out:object { ok = ok, text = result }
    elseif not ok then
      out:note(result)
    elseif result ~= "" then
      out:line(result)
    end
  end
  while true do
    local piece, message = read_piece()
    if message then return nil, "standard input: " .. tostring(message) end
    rest = rest .. (piece or (rest ~= "" and "\n" or ""))
    for line in rest:gmatch("(.-)\n") do take((line:gsub("\r$", ""))) end
    rest = rest:match("([^\n]*)$")
    if not piece then break end
  end
  if text then
    out:note(select(2, evaluation.compile(text, {})))
    failed = true
  end
  return failed and exit_code.FAILED or exit_code.OK
end

local function run(opts, out)
  local session, message, code
  if opts.endpoint then
    session, message, code = open_remote(opts)
    if not session then return nil, message, code end
  else
    session = open_local()
  end
  runtime.hold() -- nothing else may be alive while a line is typed
  local is_terminal = uv.guess_handle(0) == "tty" and out.is_terminal and not out.json
  local result
  if is_terminal then
    result, message, code = run_terminal(session, opts, out)
  else
    result, message, code = run_plain(session, out)
  end
  runtime.unhold()
  if session.peer then session.peer:close() end
  return result, message, code
end

return command.new {
  name = "repl",
  summary = "A prompt for Lua inside the runtime, or inside a running node.",
  description = "Without ENDPOINT inputs run here. With it they run in that node, if its console allows it. " ..
      "When standard input is no terminal, lines are read from it and results printed.",
  examples = {
    { "znlrun repl", "try things; .help explains" },
    { "znlrun repl tcp://127.0.0.1:6003 --key env:CONSOLE_KEY", "look into a running node" },
    { "echo 'znl.version' | znlrun repl", "one line of a shell script" },
  },
  configure = function(parser)
    peer.configure(parser, { is_endpoint_optional = true })
  end,
  run = run,
}
