--- znlrun test: runs the tests of a project, which use znl.test.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local exit_code = require("znl.cli.exit_code")
local os_error = require("znl.system.os_error")
local runtime = require("znl.core.runtime")
local source = require("znl.versions.source")
local stage = require("znl.test.stage")
local suite = require("znl.test.suite")
local tree = require("znl.versions.tree")
local uv = require("luv")

local ENDING = "_test.lua"

--- The files meant by the arguments, each once, in order.
local function find_files(paths)
  local files, seen = {}, {}
  local function add(path)
    if seen[path] then return end
    seen[path] = true
    files[#files + 1] = path
  end
  for _, path in ipairs(paths) do
    local stat, problem = uv.fs_stat(path)
    if not stat then return os_error.result(path, problem) end
    if stat.type == "directory" then
      local found, message = tree.scan(path, ENDING)
      if not found then return nil, message end
      for _, file in ipairs(found.files) do add(file.path) end
    else
      add(path)
    end
  end
  if #files == 0 then
    return nil, ("no file *%s in %s"):format(ENDING, table.concat(paths, ", "))
  end
  return files
end

--- The line that failed, between its neighbours.
local function excerpt(path, at)
  local text = source.read(path)
  if not text then return nil end
  local lines, number = {}, 0
  for line in (text:gsub("\r\n", "\n") .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    if number >= at - 1 and number <= at + 1 and (number == at or line:find("%S")) then
      lines[#lines + 1] = ("%s %4d | %s"):format(number == at and ">" or " ", number, line)
    end
    if number > at then break end
  end
  return lines
end

local function indent(out, text)
  for line in (text .. "\n"):gmatch("(.-)\n") do out:line("   " .. line) end
end

local function show_failure(out, index, result)
  out:line()
  out:line(("%d) %s"):format(index, out:paint("bold", result.name)))
  local place = ("%s:%d: "):format(result.source, result.at)
  indent(out, place .. out:paint("red", result.message))
  for _, line in ipairs(excerpt(result.source, result.at) or {}) do
    out:line("   " .. (line:sub(1, 1) == ">" and line or out:paint("dim", line)))
  end
  if result.detail then indent(out, result.detail) end
  if result.source ~= result.file then out:line(("   test at %s:%d"):format(result.file, result.line)) end
  if result.log then
    out:line("   the log meanwhile:")
    indent(out, (result.log:gsub("\n$", ""):gsub("\n", "\n  "):gsub("^", "  ")))
  end
end

local MARKS = { passed = { ".", "green" }, failed = { "F", "red" }, skipped = { "s", "yellow" } }

local function show(out, opts, result)
  if out.json then
    return out:object {
      file = result.file, line = result.line, name = result.name, status = result.status, ms = result.ms,
      message = result.message, detail = result.detail, log = result.log,
      source = result.source and ("%s:%d"):format(result.source, result.at) or nil,
    }
  end
  local mark = MARKS[result.status]
  if opts.names then
    out:line(("%s %s %s"):format(out:paint(mark[2], ("%-7s"):format(result.status)), result.name,
      out:paint("dim", result.status == "skipped" and result.message or ("%.0f ms"):format(result.ms))))
  else
    out:write(out:paint(mark[2], mark[1]))
  end
end

local function run_files(files, opts, out)
  local tests = suite.new { limit_ms = opts.timeout_ms }
  local counts, failures = { passed = 0, failed = 0, skipped = 0 }, {}
  local function note(result)
    counts[result.status] = counts[result.status] + 1
    if result.status == "failed" then failures[#failures + 1] = result end
    show(out, opts, result)
  end
  for _, file in ipairs(files) do
    local first = #tests.cases + 1
    if opts.names and not out.json then out:line(out:paint("bold", file)) end
    local failure = tests:load(file)
    if failure then note(failure) end
    for index = first, #tests.cases do
      local case = tests.cases[index]
      if not opts.filter or case.name:find(opts.filter, 1, true) then note(tests:run(case)) end
    end
    tests:forget(first)
  end
  return counts, failures
end

local function run(opts, out)
  local files, message = find_files(#opts.path > 0 and opts.path or { "tests" })
  if not files then return nil, message, "USAGE" end
  local began = uv.hrtime()
  runtime.hold() -- the process must not end while every test waits
  local counts, failures = run_files(files, opts, out)
  stage.leave()
  runtime.unhold()
  local seconds = (uv.hrtime() - began) / 1e9
  local total = counts.passed + counts.failed + counts.skipped
  if out.json then
    out:object {
      passed = counts.passed, failed = counts.failed, skipped = counts.skipped, files = #files,
      seconds = seconds,
    }
  else
    if not opts.names and total > 0 then out:line() end
    for index, result in ipairs(failures) do show_failure(out, index, result) end
    if #failures > 0 then out:line() end
    out:line(("%s, %s%s in %.2f s"):format(
      out:paint(counts.passed > 0 and "green" or "dim", counts.passed .. " passed"),
      out:paint(counts.failed > 0 and "red" or "dim", counts.failed .. " failed"),
      counts.skipped > 0 and (", %d skipped"):format(counts.skipped) or "", seconds))
  end
  if total == 0 then
    return nil, opts.filter and ("no test has %q in its name"):format(opts.filter) or "the files have no tests",
        "USAGE"
  end
  return counts.failed > 0 and exit_code.FAILED or exit_code.OK
end

return command.new {
  name = "test",
  summary = "Runs the tests of a project, with links in memory and a clock that stands still.",
  description = "Tests are files *_test.lua that use znl.test. Each runs in a world of its own: fresh nodes, " ..
      "the same start of time; what it starts is stopped at its end. Paths are relative to the current folder.",
  examples = {
    { "znlrun test", "everything below tests/" },
    { "znlrun test tests/greet_test.lua --filter empty --names", "one file, the tests with that word" },
    { "znlrun test --json | jq -r 'select(.status==\"failed\").source'", "for programs" },
  },
  exit_codes = {
    { "0", "every test passed" },
    { "1", "a test failed" },
    { "2", "wrong usage, or no test found" },
  },
  configure = function(parser)
    parser:argument("path", "Files, or folders with files *_test.lua in them (default tests)."):args("*")
    parser:option("--filter", "Only tests with this text in their name."):argname("<text>")
    parser:option("--timeout-ms", "Real time one test may take (default 10000)."):argname("<n>")
      :convert(command.whole(1, 3600000)):default("10000"):show_default(false)
    parser:flag("--names", "One line for each test in place of a dot.")
  end,
  run = run,
}
