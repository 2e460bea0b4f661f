--- znlrun new: makes a project folder with a service that runs and tests that pass.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local master = require("znl.project.master")
local os_error = require("znl.system.os_error")
local peer = require("znl.cli.peer")
local shared = require("znl.project.shared")
local slave = require("znl.project.slave")
local uv = require("luv")

local FOLDER_MODE, FILE_MODE = 493, 420 -- 0755, 0644

--- It becomes a folder, a systemd unit, an id and part of the names of variables.
local NAME_RULE = "a name is 1 to 48 of a-z, 0-9 and -, beginning with a letter, such as my-service"

local function split(path)
  path = path:gsub("/+$", "")
  return path, path:match("([^/]*)$")
end

local function check_name(name)
  if #name <= 48 and name:find("^%l[%l%d%-]*$") and not name:find("%-$") then return true end
  return nil, ("'%s' cannot be the name of a project; %s"):format(name, NAME_RULE), "USAGE"
end

--- Where the annotated Lua files lie: beside an installed binary, or in the source tree of a built one.
local function find_library()
  local binary = uv.exepath()
  local folder = binary and binary:match("^(.*)/[^/]*$")
  for _, candidate in ipairs { "/../share/znlrun/lua", "/../lua" } do
    local real = folder and uv.fs_realpath(folder .. candidate)
    if real and uv.fs_stat(real .. "/znl/init.lua") then return real end
  end
end

local function fill(text, values)
  return (text:gsub("{{(%a+)}}", values))
end

--- The folder must not exist, or be empty.
local function prepare(path)
  local made, message = uv.fs_mkdir(path, FOLDER_MODE)
  if made then return true, nil, true end
  local stat = uv.fs_stat(path)
  if not stat then return os_error.result(path, message) end
  if stat.type ~= "directory" then return nil, path .. " is there already, and is no folder" end
  local request, scan_message = uv.fs_scandir(path)
  if not request then return os_error.result(path, scan_message) end
  if uv.fs_scandir_next(request) then return nil, path .. " is there already, and is not empty" end
  return true
end

local function make_folders(root, path, made)
  local folder = root
  for part in path:gmatch("([^/]+)/") do
    folder = folder .. "/" .. part
    if not made[folder] then
      local ok, message = uv.fs_mkdir(folder, FOLDER_MODE)
      if not ok then return os_error.result(folder, message) end
      made[folder] = true
      made[#made + 1] = folder
    end
  end
  return true
end

local function write(path, text)
  local descriptor, message = uv.fs_open(path, "wx", FILE_MODE)
  if not descriptor then return os_error.result(path, message) end
  local written, write_message = uv.fs_write(descriptor, text, 0)
  uv.fs_close(descriptor)
  if written == #text then return true end
  uv.fs_unlink(path)
  return nil, write_message or path .. ": could not be written in full"
end

--- Takes back what was made.
local function undo(root, files, folders, is_new)
  for _, path in ipairs(files) do uv.fs_unlink(root .. "/" .. path) end
  for index = #folders, 1, -1 do uv.fs_rmdir(folders[index]) end
  if is_new then uv.fs_rmdir(root) end
end

local function write_all(root, texts, is_new)
  local paths, files, folders = {}, {}, {}
  for path in pairs(texts) do paths[#paths + 1] = path end
  table.sort(paths)
  for _, path in ipairs(paths) do
    local ok, message = make_folders(root, path, folders)
    if ok then ok, message = write(root .. "/" .. path, texts[path]) end
    if not ok then
      undo(root, files, folders, is_new)
      return nil, message
    end
    files[#files + 1] = path
  end
  return files
end

local function report(out, path, name, files, next_commands)
  if out.json then
    out:object { name = name, folder = path, files = files }
    return
  end
  out:line(out:paint("bold", path .. "/"))
  for _, file in ipairs(files) do out:line("   " .. file) end
  out:line()
  out:line("next:")
  out:line("   cd " .. path)
  local widest = 0
  for _, row in ipairs(next_commands) do widest = math.max(widest, #row[1]) end
  for _, row in ipairs(next_commands) do
    out:line(("   %s%s   %s"):format(row[1], (" "):rep(widest - #row[1]), out:paint("dim", row[2])))
  end
end

local function run(opts, out)
  local path, name = split(opts.name)
  local ok, message, code = check_name(name)
  if not ok then return nil, message, code end
  local library = find_library()
  local values = {
    name = name, NAME = name:upper():gsub("%-", "_"), endpoint = opts.endpoint,
    znlrun = uv.exepath() or "/usr/bin/znlrun", library = library and ('"%s"'):format(library) or "",
  }
  local project = opts.slave and slave or master
  local texts = {}
  for _, files in ipairs { shared.FILES, project.FILES } do
    for file, text in pairs(files) do texts[fill(file, values)] = fill(text, values) end
  end
  local is_new
  ok, message, is_new = prepare(path)
  if not ok then return nil, message end
  local files
  files, message = write_all(path, texts, is_new)
  if not files then return nil, message end
  local next_commands = {}
  for index, row in ipairs(project.NEXT) do next_commands[index] = { fill(row[1], values), fill(row[2], values) } end
  report(out, path, name, files, next_commands)
  if not library then
    out:note("editors: the annotated files of znlrun were not found beside it; name their folder in\n" ..
      "workspace.library of " .. path .. "/.luarc.json")
  end
end

return command.new {
  name = "new",
  summary = "Makes a project: a service, handlers, tests, a systemd unit, editor settings.",
  description = "NAME is the folder, in the current one or with a path before it; " .. NAME_RULE .. ".",
  examples = {
    { "znlrun new demo && cd demo && znlrun test", "a service that answers, and its tests" },
    { "znlrun new worker --slave --endpoint tcp://10.0.0.5:6003", "a slave of that master" },
  },
  exit_codes = {
    { "0", "done" },
    { "1", "the folder is there already, or a file could not be written" },
    { "2", "wrong usage, or a bad name" },
  },
  configure = function(parser)
    parser:argument("name", "Name of the project and of its folder.")
    parser:flag("--slave", "A slave, which connects to a master, in place of a master.")
    parser:option("--endpoint", "Where it listens, or where its master is (default tcp://127.0.0.1:6003).")
      :argname("<endpoint>"):convert(peer.CONVERT.endpoint):default("tcp://127.0.0.1:6003"):show_default(false)
  end,
  run = run,
}
