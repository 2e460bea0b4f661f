--- A real nats-server for a test, on a port of 127.0.0.1 that was free, with a folder of its own.
---
---     local server = nats_server.start { jetstream = true }
---     server.url, server.port, server.folder
---     server:kill()  server:stop()  server:restart()  server:signal("sigstop")  server:remove()
---
--- `start` and `restart` wait until it accepts. Each must be removed at the end of its test; it is killed when the
--- process that started it ends in any way. Yields. SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local eventually = require("tests.lua.support.eventually")
local znl = require("znl")
local uv = require("luv")

local M = {}

local Server = {}
Server.__index = Server

--- Below the ports that the system gives to who connects: nobody takes it in between.
local function free_port()
  for _ = 1, 1000 do
    -- Every process has its own chances: math.random begins alike in all of them.
    local low, high = crypto.random(2):byte(1, 2)
    local port = 20000 + (high * 256 + low) % 12000
    local socket = uv.new_tcp()
    local is_free = socket:bind("127.0.0.1", port) and socket:listen(1, function() end)
    socket:close()
    if is_free then return port end
  end
  error("no free port")
end

local function accepts(port)
  local conn = znl.tcp.connect { host = "127.0.0.1", port = port, io_timeout_ms = 3000 }
  if not conn then return false end
  local line = conn:read("line")
  conn:close()
  return line ~= nil and line:find("^INFO ") ~= nil
end

local function write_config(self, config)
  local lines = { ('listen: "127.0.0.1:%d"'):format(self.port), config or "" }
  if self.jetstream then lines[#lines + 1] = ('jetstream { store_dir: "%s/store" }'):format(self.folder) end
  local file = assert(io.open(self.folder .. "/nats.conf", "w"))
  file:write(table.concat(lines, "\n"), "\n")
  file:close()
end

--- Ends the server when our end of the pipe closes, however that comes.
local RUN = [[
exec 3<&0
nats-server -c "$1" >"$2" 2>&1 </dev/null 3<&- &
server=$!
echo $server >"$3"
(cat <&3 >/dev/null; kill -9 $server) >/dev/null 2>&1 &
wait $server
]]

local function run(self)
  local input = uv.new_pipe(false)
  self.ended = znl.event()
  local log, pid = self.folder .. "/server.log", self.folder .. "/pid"
  os.remove(pid) -- of the one before
  self.input = input
  self.process = uv.spawn("/bin/sh", {
    args = { "-c", RUN, "sh", self.folder .. "/nats.conf", log, pid },
    stdio = { input, nil, nil },
  }, function() self.ended:set(true) end)
  assert(self.process, "nats-server cannot be started")
  eventually(function()
    if self.ended:is_set() then
      local file = io.open(log)
      error("nats-server did not start: " .. (file and file:read("*a") or ""))
    end
    return accepts(self.port)
  end, "nats-server accepts")
  -- The shell may be slower than the server.
  self.server_pid = eventually(function()
    local file = io.open(pid)
    local text = file and file:read("*a") or ""
    if file then file:close() end
    return text:find("\n", 1, true) and tonumber(text)
  end, "the pid of nats-server")
end

---@class NatsServerOptions
---@field jetstream? boolean
---@field port? integer
---@field config? string  further lines of its configuration

---@param opts? NatsServerOptions
function M.start(opts)
  opts = opts or {}
  local self = setmetatable({ jetstream = opts.jetstream, port = opts.port or free_port() }, Server)
  self.folder = assert(uv.fs_mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/znl_nats_XXXXXX"))
  self.url = ("nats://127.0.0.1:%d"):format(self.port)
  self.config = opts.config
  write_config(self, opts.config)
  run(self)
  return self
end

--- Sends it a signal.
function Server:signal(name) uv.kill(self.server_pid, name) end

local function gone(self)
  self.ended:wait()
  if not self.input:is_closing() then self.input:close() end
  if not self.process:is_closing() then self.process:close() end
  self.server_pid = nil
end

--- SIGKILL, and waits for its end.
function Server:kill()
  if not self.server_pid then return end
  uv.kill(self.server_pid, "sigkill")
  gone(self)
end

--- SIGTERM, and waits for its end.
function Server:stop()
  if not self.server_pid then return end
  uv.kill(self.server_pid, "sigterm")
  gone(self)
end

--- The same port and folder again; with other lines of configuration if given.
function Server:restart(config)
  self:stop()
  write_config(self, config or self.config)
  run(self)
end

local function remove(path)
  local scan = uv.fs_scandir(path)
  while scan do
    local name, kind = uv.fs_scandir_next(scan)
    if not name then break end
    if kind == "directory" then remove(path .. "/" .. name) else uv.fs_unlink(path .. "/" .. name) end
  end
  uv.fs_rmdir(path)
end

--- Ends it and removes its folder. Twice is harmless.
function Server:remove()
  self:kill()
  if self.folder then remove(self.folder) end
  self.folder = nil
end

return M
