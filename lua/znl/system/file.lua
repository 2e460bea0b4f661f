--- znl.system.file: files and directories, without holding up anybody else.
---
--- The work is done by libuv's threads. A wait that is cancelled leaves no descriptor and no temporary
--- file behind; what was under way may still happen, except that an atomic write not yet renamed is
--- taken back.
--- SPDX-License-Identifier: MIT

local await = require("znl.tasks.await")
local crypto = require("znl.core.crypto")
local guard = require("znl.tasks.guard")
local options = require("znl.options")
local os_error = require("znl.system.os_error")
local sched = require("znl.core.sched")
local uv = require("luv")

local M = {}

local MIB = 1024 * 1024
local CHUNK_BYTES = 256 * 1024
local O = uv.constants
--- Deeper trees are a mistake, or a loop of mounts.
local MAX_DEPTH = 200

local MODE = { type = "integer", min = 0, max = 4095 }

---@class znl.FileReadOptions
---@field max_bytes? integer  a larger file is refused, TOO_BIG
local READ_SPEC = { max_bytes = { type = "integer", min = 0, max = 1024 * MIB, default = 64 * MIB } }

---@class znl.FileWriteOptions
---@field atomic? boolean  readers see the old content or the new one, never a part
---@field sync? boolean  returns when the content is on the disk
---@field mode? integer  of a new file; default 0644, less the umask
local WRITE_SPEC = {
  atomic = { type = "boolean", default = false },
  sync = { type = "boolean", default = false },
  mode = MODE,
}
local APPEND_SPEC = { sync = WRITE_SPEC.sync, mode = MODE }
local STAT_SPEC = { follow = { type = "boolean", default = true } }
local LIST_SPEC = { max_entries = { type = "integer", min = 1, max = 10000000, default = 100000 } }
local MKDIR_SPEC = {
  parents = { type = "boolean", default = false },
  mode = { type = "integer", min = 0, max = 4095, default = tonumber("755", 8) },
}
local REMOVE_SPEC = { recursive = { type = "boolean", default = false } }
local LINES_SPEC = { max_line_bytes = { type = "integer", min = 1, max = 1024 * MIB, default = MIB } }

--- "file.read: notes.txt", or an error that blames the caller of a public function. The second
--- result is set when the path cannot be one: C would end it at the zero byte.
local function check(name, path)
  if type(path) ~= "string" then
    error(("file.%s: the path must be a text, not a %s"):format(name, type(path)), 3)
  end
  local what = ("file.%s: %s"):format(name, path)
  if path:find("%z") then return what, what .. ": a path cannot hold a zero byte" end
  return what
end

local function close_later(fd)
  uv.fs_close(fd, function() end)
end

--- Runs `body(fd, job)` on the open file and closes it, whatever happens.
local function with_file(what, path, flags, mode, body)
  return await.job(what, function(fd, job)
    local function closing(ok, ...)
      close_later(fd)
      if not ok then error((...), 0) end
      return ...
    end
    return closing(xpcall(body, debug.traceback, fd, job))
  end, uv.fs_open, path, flags, mode)
end

local REFUSED = { fifo = "a pipe", socket = "a socket", directory = "a directory" }

local function read_all(what, fd, job, max_bytes)
  local stat, message, code = await.call(what, uv.fs_fstat, fd)
  if not stat then return nil, message, code end
  if REFUSED[stat.type] then return nil, ("%s: is %s"):format(what, REFUSED[stat.type]), "INVALID" end
  local pieces, total = {}, 0
  repeat
    -- The size says how much there is, except where it says 0, as in /proc.
    local wanted = math.max(1, math.min(math.max(stat.size + 1 - total, 4096), 16 * MIB, max_bytes + 1 - total))
    local piece
    piece, message, code = await.call(what, uv.fs_read, fd, wanted, -1)
    if not piece then return nil, message, code end
    total = total + #piece
    if total > max_bytes then
      return nil, ("%s: has more than %d bytes"):format(what, max_bytes), "TOO_BIG"
    end
    pieces[#pieces + 1] = piece
  until piece == "" or job.abandoned
  return table.concat(pieces)
end

--- Reads a file. Yields.
---@param path string
---@param opts? znl.FileReadOptions
---@return string|nil content
---@return string? message
---@return string? code  NOT_FOUND, DENIED, INVALID (not a file), TOO_BIG, SYSTEM, …
function M.read(path, opts)
  local what, problem = check("read", path)
  opts = options.read(READ_SPEC, opts, "file.read")
  if problem then return nil, problem, "INVALID" end
  -- Not waiting: a pipe without a writer would hold one of libuv's few threads for ever.
  return with_file(what, path, O.O_RDONLY + O.O_NONBLOCK, 0, function(fd, job)
    return read_all(what, fd, job, opts.max_bytes)
  end)
end

local function write_all(what, fd, content)
  while content ~= "" do
    local written, message, code = await.call(what, uv.fs_write, fd, content, -1)
    if not written then return nil, message, code end
    content = content:sub(written + 1)
  end
  return true
end

--- Some file systems report only when closing that the content could not be stored.
local function store(what, path, flags, mode, content, sync)
  return await.job(what, function(fd)
    local ok, message, code = write_all(what, fd, content)
    if ok and sync then ok, message, code = await.call(what, uv.fs_fsync, fd) end
    local closed, close_message, close_code = await.call(what, uv.fs_close, fd)
    if not ok then return nil, message, code end
    if not closed then return nil, close_message, close_code end
    return true
  end, uv.fs_open, path, flags, mode)
end

local function sync_directory(what, path)
  local directory = path:match("^(.*)/[^/]*$") or "."
  return with_file(what, directory == "" and "/" or directory, O.O_RDONLY, 0, function(fd)
    return await.call(what, uv.fs_fsync, fd)
  end)
end

--- Runs in a task of its own and to its end; `job` says whether anybody still waits.
local function replace(what, path, content, opts, job)
  -- A link stays a link: the file it names is replaced.
  path = await.call(what, uv.fs_realpath, path) or path
  local before = await.call(what, uv.fs_stat, path)
  if before and before.type ~= "file" then
    return nil, ("%s: is %s, which cannot be replaced"):format(what, REFUSED[before.type] or "not a file"), "INVALID"
  end
  local mode = opts.mode or (before and before.mode % 4096) or tonumber("644", 8)
  local temporary = ("%s.%s.tmp"):format(path, (crypto.random(8):gsub(".", function(byte)
    return ("%02x"):format(byte:byte())
  end)))
  local flags = O.O_WRONLY + O.O_CREAT + O.O_EXCL
  local ok, message, code = store(what, temporary, flags, mode, content, opts.sync)
  if ok and before then ok, message, code = await.call(what, uv.fs_chmod, temporary, mode) end
  if ok and job.abandoned then ok, message, code = nil, what .. ": cancelled", "CANCELLED" end
  if ok then ok, message, code = await.call(what, uv.fs_rename, temporary, path) end
  if not ok then
    if code ~= "EXISTS" then await.call(what, uv.fs_unlink, temporary) end
    return nil, message, code
  end
  if opts.sync then return sync_directory(what, path) end
  return true
end

local function check_content(name, content)
  if type(content) == "table" then
    for i, piece in ipairs(content) do
      if type(piece) ~= "string" then
        error(("file.%s: piece %d of the content is a %s, not a text"):format(name, i, type(piece)), 3)
      end
    end
    return table.concat(content)
  end
  if type(content) ~= "string" then
    error(("file.%s: the content must be a text or an array of texts, not a %s"):format(name, type(content)), 3)
  end
  return content
end

--- Writes a file, over what was there. Yields.
---@param path string
---@param content string|string[]
---@param opts? znl.FileWriteOptions
---@return true|nil ok
---@return string? message
---@return string? code
function M.write(path, content, opts)
  local what, problem = check("write", path)
  content = check_content("write", content)
  opts = options.read(WRITE_SPEC, opts, "file.write")
  if problem then return nil, problem, "INVALID" end
  if opts.atomic then
    -- In the task of a callback, so that the temporary file is removed whatever becomes of ours.
    return await.job(what, function(_, job) return replace(what, path, content, opts, job) end,
      uv.fs_stat, path:match("^(.*/)[^/]*$") or ".")
  end
  local flags = O.O_WRONLY + O.O_CREAT + O.O_TRUNC + O.O_NONBLOCK
  return store(what, path, flags, opts.mode or tonumber("644", 8), content, opts.sync)
end

--- Adds to the end of a file, which is made when it does not exist. Yields.
---@param path string
---@param content string|string[]
---@param opts? { sync: boolean?, mode: integer? }
---@return true|nil ok
---@return string? message
---@return string? code
function M.append(path, content, opts)
  local what, problem = check("append", path)
  content = check_content("append", content)
  opts = options.read(APPEND_SPEC, opts, "file.append")
  if problem then return nil, problem, "INVALID" end
  local flags = O.O_WRONLY + O.O_CREAT + O.O_APPEND + O.O_NONBLOCK
  return store(what, path, flags, opts.mode or tonumber("644", 8), content, opts.sync)
end

---@class znl.FileStat
---@field type string  "file" "directory" "link" "fifo" "socket" "char" "block"
---@field size integer  bytes
---@field mode integer  permission bits
---@field modified_ms number  milliseconds since 1970
---@field uid integer
---@field gid integer

local function stat_of(what, path, follow)
  local stat, message, code = await.call(what, follow and uv.fs_stat or uv.fs_lstat, path)
  if not stat then return nil, message, code end
  return {
    type = stat.type, size = stat.size, mode = stat.mode % 4096, uid = stat.uid, gid = stat.gid,
    modified_ms = stat.mtime.sec * 1000 + math.floor(stat.mtime.nsec / 1000000),
  }
end

--- What the system knows of a file. Yields.
---@param path string
---@param opts? { follow: boolean? }  false: of a link itself
---@return znl.FileStat|nil
---@return string? message
---@return string? code
function M.stat(path, opts)
  local what, problem = check("stat", path)
  opts = options.read(STAT_SPEC, opts, "file.stat")
  if problem then return nil, problem, "INVALID" end
  return stat_of(what, path, opts.follow)
end

--- Whether there is something of that name. Yields.
---@param path string
---@return boolean|nil exists  nil: it cannot be told
---@return string? message
---@return string? code
function M.exists(path)
  local what, problem = check("exists", path)
  if problem then return false end
  local stat, message, code = await.call(what, uv.fs_stat, path)
  if stat then return true end
  -- INVALID: something on the way is no directory, or the name is too long to be one.
  if code == "NOT_FOUND" or code == "INVALID" then return false end
  return nil, message, code
end

--- Not with fs_scandir: luv 1.44 never frees its requests.
local function open_directory(path, callback) return uv.fs_opendir(path, callback, 256) end

local function collect_entries(what, stream, max_entries)
  local entries = {}
  local some, message = uv.fs_readdir(stream)
  while some do
    for _, entry in ipairs(some) do
      if #entries == max_entries then
        return nil, ("%s: has more than %d entries"):format(what, max_entries), "LIMIT"
      end
      entries[#entries + 1] = { name = entry.name, type = entry.type or "unknown" }
    end
    some, message = uv.fs_readdir(stream)
  end
  if message then return os_error.result(what, message) end
  table.sort(entries, function(a, b) return a.name < b.name end)
  return entries
end

local function entries_of(what, path, max_entries)
  return await.job(what, function(stream)
    local entries, message, code = collect_entries(what, stream, max_entries)
    uv.fs_closedir(stream)
    return entries, message, code
  end, open_directory, path)
end

--- What a directory holds, by name, without "." and "..". Yields.
---@param path string
---@param opts? { max_entries: integer? }
---@return { name: string, type: string }[]|nil
---@return string? message
---@return string? code
function M.list(path, opts)
  local what, problem = check("list", path)
  opts = options.read(LIST_SPEC, opts, "file.list")
  if problem then return nil, problem, "INVALID" end
  return entries_of(what, path, opts.max_entries)
end

--- Makes a directory; with `parents` also those above it, and one that exists is fine. Yields.
---@param path string
---@param opts? { parents: boolean?, mode: integer? }  mode: default 0755, less the umask
---@return true|nil ok
---@return string? message
---@return string? code
function M.mkdir(path, opts)
  local what, problem = check("mkdir", path)
  opts = options.read(MKDIR_SPEC, opts, "file.mkdir")
  if problem then return nil, problem, "INVALID" end
  local ok, message, code = await.call(what, uv.fs_mkdir, path, opts.mode)
  if ok or not opts.parents then return ok, message, code end
  if code == "EXISTS" then
    local stat = await.call(what, uv.fs_stat, path)
    if stat and stat.type == "directory" then return true end
    return nil, message, code
  end
  local parent = path:match("^(.*[^/])/+[^/]+/*$")
  if code ~= "NOT_FOUND" or not parent then return nil, message, code end
  ok, message, code = M.mkdir(parent, opts)
  if not ok then return nil, message, code end
  ok, message, code = await.call(what, uv.fs_mkdir, path, opts.mode)
  if code == "EXISTS" then return true end -- somebody else was faster
  return ok, message, code
end

local function remove_tree(what, path, depth)
  if depth > MAX_DEPTH then return nil, ("%s: nests deeper than %d"):format(what, MAX_DEPTH), "LIMIT" end
  local entries, message, code = entries_of(what, path, LIST_SPEC.max_entries.max)
  if not entries then return nil, message, code end
  for _, entry in ipairs(entries) do
    local ok
    local inner = path .. "/" .. entry.name
    local kind = entry.type
    if kind == "unknown" then kind = (stat_of(what, inner, false) or {}).type end
    if kind == "directory" then
      ok, message, code = remove_tree(what, inner, depth + 1)
    else
      ok, message, code = await.call(what, uv.fs_unlink, inner)
    end
    if not ok and code ~= "NOT_FOUND" then return nil, message, code end
  end
  return await.call(what, uv.fs_rmdir, path)
end

--- Removes a file, a link (not what it names) or an empty directory; with `recursive` also a full
--- one. Yields.
---@param path string
---@param opts? { recursive: boolean? }
---@return true|nil ok
---@return string? message
---@return string? code  NOT_FOUND; EXISTS: the directory is not empty
function M.remove(path, opts)
  local what, problem = check("remove", path)
  opts = options.read(REMOVE_SPEC, opts, "file.remove")
  if problem then return nil, problem, "INVALID" end
  local stat, message, code = stat_of(what, path, false)
  if not stat then return nil, message, code end
  if stat.type ~= "directory" then return await.call(what, uv.fs_unlink, path) end
  if opts.recursive then return remove_tree(what, path, 1) end
  return await.call(what, uv.fs_rmdir, path)
end

--- Renames, over a file that is there. Yields.
---@param from string
---@param to string
---@return true|nil ok
---@return string? message
---@return string? code
function M.rename(from, to)
  local what, problem = check("rename", from)
  local _, other = check("rename", to)
  if problem or other then return nil, problem or other, "INVALID" end
  return await.call(what, uv.fs_rename, from, to)
end

--- A file that is read line by line, closed when the last one was read or nobody holds it.
local function close_reader(reader)
  if reader.closed then return end
  reader.closed = true
  if not reader.reading then close_later(reader.fd) end
end

local function read_piece(what, reader)
  local done = sched.event()
  reader.reading = true
  local request, message = uv.fs_read(reader.fd, CHUNK_BYTES, -1, function(err, piece)
    reader.reading = false
    -- Not before: the number could be another file's by the time the thread reads from it.
    if reader.closed then close_later(reader.fd) end
    done:set(true, err, piece)
  end)
  if not request then
    reader.reading = false
    return os_error.result(what, message)
  end
  local answered, err, piece = done:wait()
  if answered ~= true then return nil, err, piece end
  if err then return os_error.result(what, err) end
  return piece
end

--- The next line of what has been read, or nil and where to look on.
local function next_line(reader)
  local at = reader.text:find("\n", reader.scanned, true)
  if not at then
    reader.scanned = #reader.text + 1
    return nil
  end
  local line = reader.text:sub(reader.from, at - 1)
  reader.from, reader.scanned = at + 1, at + 1
  return line
end

--- Goes through the lines of a file, without their ends (LF or CR LF):
---
---     for line in assert(znl.file.lines("notes.txt")) do … end
---
--- A failure on the way raises, as a loop has no other way to tell. Yields, also in the loop.
---@param path string
---@param opts? { max_line_bytes: integer? }
---@return (fun(): string|nil)|nil next
---@return string? message
---@return string? code
function M.lines(path, opts)
  local what, problem = check("lines", path)
  opts = options.read(LINES_SPEC, opts, "file.lines")
  if problem then return nil, problem, "INVALID" end
  local reader, message, code = await.job(what, function(fd, job)
    local opened = { fd = fd, text = "", from = 1, scanned = 1, closed = false, reading = false }
    opened.guard = guard.new(function() close_reader(opened) end)
    local stat, why, reason = await.call(what, uv.fs_fstat, fd)
    if stat and REFUSED[stat.type] then
      stat, why, reason = nil, ("%s: is %s"):format(what, REFUSED[stat.type]), "INVALID"
    end
    if not stat or job.abandoned then
      close_reader(opened)
      return nil, why, reason
    end
    return opened
  end, uv.fs_open, path, O.O_RDONLY + O.O_NONBLOCK, 0)
  if not reader then return nil, message, code end
  local held = { reader = reader, guard = reader.guard }
  reader.guard = nil -- it must not be reachable from what it runs

  local function fail(message_now)
    close_reader(reader)
    error(message_now, 3)
  end

  return function()
    local of = held.reader
    while not of.closed do
      local line = next_line(of)
      if not line then
        if #of.text - of.from + 1 > opts.max_line_bytes then fail(what .. ": a line is too long") end
        local piece, why = read_piece(what, of)
        if not piece then fail(why) end
        of.scanned = of.scanned - of.from + 1
        of.text, of.from = of.text:sub(of.from) .. piece, 1
        if piece == "" then
          close_reader(of)
          line = of.text ~= "" and of.text or nil
        end
      end
      if line and #line > opts.max_line_bytes then fail(what .. ": a line is too long") end
      if line then return (line:gsub("\r$", "")) end
    end
  end
end

return M
