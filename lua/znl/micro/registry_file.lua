--- znl.micro.registry_file: what a registry knows, on disk, so that one that is started again has it at once
--- instead of after everybody came back.
---
--- One JSON value in a line:
---
---     {"znl_registry":1,"revision":7}
---     ["r","users","10.0.0.1",9001]             a registration: namespace, host, port
---     ["p","prices","10.0.0.1:9001",7,"[1]"]    a publisher: topic, key, revision, payload as text or null
---
--- The file is replaced as a whole, a moment after something has changed. Lines that cannot be read are
--- skipped and counted. What configuration files say is not in it.
--- SPDX-License-Identifier: MIT

local file = require("znl.system.file")
local json = require("znl.json")
local sched = require("znl.core.sched")
local task = require("znl.tasks.task")
local uv = require("luv")

local M = {}

local FILE_BYTES_MAX = 512 * 1024 * 1024
local SETTLE_MS = 500
--- Writing takes a tenth of the time at most.
local REST_FACTOR = 10
--- Lines written before the loop has a turn.
local BATCH = 500
local MODE = tonumber("600", 8)

---@class znl.RegistryFileOptions
---@field path string
---@field directory userdata
---@field topics znl.TopicStore
---@field registrations znl.Registrations
---@field owner any  for the task that writes
---@field log znl.Logger

---@class znl.RegistryFile
local File = {}
File.__index = File

---@param opts znl.RegistryFileOptions
---@return znl.RegistryFile
function M.new(opts)
  return setmetatable({ opts = opts, path = opts.path, is_dirty = false }, File)
end

local READ = {}

function READ.r(self, row)
  local namespace, host, port = row[2], row[3], row[4]
  if type(namespace) ~= "string" or type(host) ~= "string" or type(port) ~= "number" or port < 1 or port > 65535
      or port ~= math.floor(port) then
    return false
  end
  return self.opts.registrations:restore(namespace, host, port)
end

function READ.p(self, row)
  local topic, key, revision, payload = row[2], row[3], row[4], row[5]
  if type(topic) ~= "string" or type(key) ~= "string" or type(revision) ~= "number" then return false end
  if type(payload) == "string" then
    -- It is handed on as it is: it must be JSON.
    if not json.decode(payload) then return false end
  else
    payload = nil
  end
  return self.opts.registrations:restore_publisher(key, topic, payload, revision)
end

--- Reads what there is. Yields.
---@return integer|nil count  of lines that were taken; 0 without a file
---@return integer|string skipped  or a message
---@return string? code
function File:load()
  local text, message, code = file.read(self.path, { max_bytes = FILE_BYTES_MAX })
  if not text then
    if code ~= "NOT_FOUND" then return nil, message, code end
    local folder = self.path:match("^(.*/)") or "./"
    if uv.fs_access(folder, "w") then return 0, 0 end
    return nil, ("%s cannot be written: its folder is missing, or somebody else's"):format(self.path), "DENIED"
  end
  local taken, skipped, line_number = 0, 0, 0
  for line in text:gmatch("[^\n]+") do
    line_number = line_number + 1
    local ok, value = json.decode(line)
    if line_number == 1 then
      if not ok or type(value) ~= "table" or value.znl_registry ~= 1 then
        return nil, self.path .. ": this is no file of a registry", "INVALID"
      end
      self.opts.topics:raise_revision(value.revision)
    else
      local read = ok and type(value) == "table" and READ[value[1]]
      if read and read(self, value) then taken = taken + 1 else skipped = skipped + 1 end
    end
    if line_number % BATCH == 0 then sched.sleep(0) end
  end
  self.is_dirty = false
  return taken, skipped
end

--- All lines. `pause` is called every few: what changes meanwhile is written the next time.
local function lines_of(self, pause)
  local lines = { (json.encode { znl_registry = 1, revision = self.opts.topics:counts().revision }) }
  local function add(row)
    local line = json.encode(row) -- names that are no UTF-8 cannot be written, and are no text of JSON peers
    if line then lines[#lines + 1] = line end
    if #lines % BATCH == 0 then pause() end
  end
  for namespace in pairs(self.opts.directory:namespaces()) do
    for _, peer in ipairs(self.opts.directory:peers(namespace)) do add { "r", namespace, peer.host, peer.port } end
  end
  for _, name in ipairs(self.opts.topics:names()) do
    for _, row in ipairs(self.opts.topics:published(name)) do
      add { "p", name, row.member.key, row.revision, row.payload }
    end
  end
  lines[#lines + 1] = ""
  return lines
end

local function report(self, message)
  self.opts.log.error("what the registry knows cannot be written", { error = message })
end

--- Writes all. Yields.
local function save(self)
  self.is_dirty = false
  local text = table.concat(lines_of(self, function() sched.sleep(0) end), "\n")
  if self.closed then return end
  local ok, message = file.write(self.path, text, { atomic = true, mode = MODE })
  if not ok then report(self, message) end
end

local function write_soon(self)
  while self.is_dirty and not self.closed do
    if not sched.sleep(SETTLE_MS) then break end
    if self.closed then break end
    local began = sched.now_ms()
    save(self)
    if not sched.sleep(math.ceil((sched.now_ms() - began) * REST_FACTOR)) then break end
  end
  self.is_writing = false
end

--- Something has changed: it is written in a moment.
function File:touch()
  self.is_dirty = true
  if self.is_writing or self.closed then return end
  self.is_writing = true
  if not task.background(self.opts.owner, write_soon, self) then self.is_writing = false end
end

--- Writes all a last time, at once: a registry that stops is about to forget. Never yields.
function File:close()
  if self.closed then return end
  self.closed = true
  local path = self.path .. ".new"
  local out, message = io.open(path, "wb")
  if not out then return report(self, message) end
  uv.fs_chmod(path, MODE)
  local ok
  ok, message = out:write(table.concat(lines_of(self, function() end), "\n"))
  out:close()
  if ok then ok, message = os.rename(path, self.path) end
  if not ok then report(self, message) end
end

return M
