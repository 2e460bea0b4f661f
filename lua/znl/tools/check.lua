--- znlrun check: finds mistakes in handler files before they serve, and lists their routes.
--- SPDX-License-Identifier: MIT

local checkup = require("znl.cli.checkup")
local command = require("znl.cli.command")
local exit_code = require("znl.cli.exit_code")
local os_error = require("znl.system.os_error")
local source = require("znl.versions.source")
local tree = require("znl.versions.tree")
local uv = require("luv")

local ENDING = ".msg.lua"

--- Handlers and the modules beside them.
local function check_folder(checks, folder, out)
  local found, message = tree.scan(folder, ".lua")
  if not found then return nil, message end
  local handlers = 0
  for index, file in ipairs(found.files) do
    out:progress(("checking %d of %d: %s"):format(index, #found.files, file.path))
    if file.relative:sub(-#ENDING) == ENDING then
      handlers = handlers + 1
      checks:handler(file.path, folder, file.relative)
    else
      checks:module(file.path)
    end
  end
  if handlers == 0 then return nil, ("no file *%s in %s"):format(ENDING, folder) end
  return #found.files
end

local function check_all(checks, paths, out)
  local count = 0
  for _, path in ipairs(paths) do
    local stat, problem = uv.fs_stat(path)
    if not stat then return os_error.result(path, problem) end
    if stat.type == "directory" then
      local files, message = check_folder(checks, path, out)
      if not files then return nil, message end
      count = count + files
    else
      checks:handler(path, (source.split(path)))
      count = count + 1
    end
  end
  return count
end

local COLOURS = { error = "red", warning = "yellow" }

local function show_problems(out, checks)
  for _, problem in ipairs(checks.problems) do
    if out.json then
      out:object(problem)
    else
      out:line(("%s:%s %s: %s"):format(problem.file, problem.line and problem.line .. ":" or "",
        out:paint(COLOURS[problem.severity], problem.severity), problem.message))
    end
  end
end

local function show_routes(out, checks)
  local widest = 0
  for _, route in ipairs(checks.routes) do widest = math.max(widest, #route.path) end
  for _, route in ipairs(checks.routes) do
    out:line(route.path .. (" "):rep(widest - #route.path) .. "  " .. out:paint("dim", route.file))
  end
end

local function count_of(number, word)
  return ("%d %s%s"):format(number, word, number == 1 and "" or "s")
end

local function run(opts, out)
  local paths = #opts.path > 0 and opts.path or { "handlers" }
  local checks = checkup.new { limit_ms = opts.timeout_ms, is_run = not opts.no_run, globals = opts.global }
  local count, message = check_all(checks, paths, out)
  out:clear_progress()
  if not count then return nil, message, "USAGE" end
  table.sort(checks.routes, function(a, b) return a.path < b.path end)
  local errors, warnings = checks:count("error"), checks:count("warning")
  if not out.json then show_routes(out, checks) end
  if not out.json and #checks.routes > 0 and #checks.problems > 0 then out:line() end
  show_problems(out, checks)
  if out.json then
    out:object {
      files = count, routes = #checks.routes > 0 and checks.routes or nil, errors = errors, warnings = warnings,
    }
  else
    out:line(("%s%s, %s, %s"):format(#checks.routes + #checks.problems > 0 and "\n" or "",
      count_of(count, "file"), out:paint(errors > 0 and "red" or "dim", count_of(errors, "error")),
      out:paint(warnings > 0 and "yellow" or "dim", count_of(warnings, "warning"))))
  end
  local is_bad = errors > 0 or (opts.strict and warnings > 0)
  return is_bad and exit_code.FAILED or exit_code.OK
end

return command.new {
  name = "check",
  summary = "Finds mistakes in handler files, and lists the routes they serve.",
  description = "Compiles every file, looks for misspelt globals, and runs each handler file as a service " ..
      "would load it: what it registers never starts, and on_load is not called.",
  examples = {
    { "znlrun check", "everything in handlers/" },
    { "znlrun check --no-run handlers/greet.msg.lua", "one file, compiled only" },
    { "znlrun check --json | jq -r 'select(.severity==\"error\").message'", "for programs" },
  },
  exit_codes = {
    { "0", "no error" },
    { "1", "there are errors, or with --strict warnings" },
    { "2", "wrong usage, or no handler file found" },
  },
  configure = function(parser)
    parser:argument("path", "Handler files, or folders with files *.msg.lua in them (default handlers)."):args("*")
    parser:flag("--no-run", "Compile only: do not run the files to see what they return.")
    parser:option("--global", "A global that exists although znlrun has none of that name; may be repeated.")
      :argname("<name>"):count("*")
    parser:flag("--strict", "Warnings count as errors.")
    parser:option("--timeout-ms", "Time running one file may take (default 10000)."):argname("<n>")
      :convert(command.whole(1, 600000)):default("10000"):show_default(false)
  end,
  run = run,
}
