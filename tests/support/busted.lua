--- Runs busted inside znlrun: `znlrun tests/support/busted.lua [options] [file or folder ...]`
--- with the options of busted; default: tests/lua. SPDX-License-Identifier: MIT
---
--- Everything runs in the coroutine of this script, so a test may yield: LuaJIT yields through
--- the xpcall that busted puts around it. What busted expects of a host, and does not get here:
---   * it leaves through os.exit, or through error(nil) after a failure; the loop must go on to
---     its end instead, so both are caught and become the exit code;
---   * it looks at the function that called it to find its name: no tail call into the runner.

local DEFAULT_ROOT = "tests/lua"
local PATTERNS = { "--pattern=_test%.lua$", "--pattern=_spec%.lua$" }

--- Where busted lies. This file has the same name as the module and may come first on
--- package.path, so `busted` is loaded from where its runner was found.
local function preload_busted()
  local runner = package.searchpath("busted.runner", package.path)
  if not runner then
    io.stderr:write("busted is missing: apt-get install lua-busted\n")
    return false
  end
  package.preload["busted"] = function(...)
    local init = assert(loadfile((runner:gsub("runner%.lua$", "init.lua"))))
    return init(...)
  end
  return true
end

--- Arguments for busted: ours first, and the default folder when no file or folder is named.
local function arguments(given)
  local exists = require("pl.path").exists
  local list = { [0] = "busted", unpack(PATTERNS) }
  local has_root = false
  for _, text in ipairs(given) do
    list[#list + 1] = text
    has_root = has_root or (text:sub(1, 1) ~= "-" and exists(text) and true)
  end
  if not has_root then list[#list + 1] = DEFAULT_ROOT end
  return list
end

--- Raised in place of leaving the process.
local EXIT = setmetatable({}, { __tostring = function() return "os.exit was called" end })

local function run(given)
  if not preload_busted() then return 1 end
  -- Before the first test file: busted unloads what a file loaded, and these own C state.
  pcall(require, "znl")
  local exit_code
  local os_exit, old_arg = os.exit, arg
  os.exit = function(code)
    exit_code = (code == nil or code == true) and 0 or tonumber(code) or 1
    error(EXIT, 0)
  end
  arg = arguments(given)
  local ok, message = pcall(function()
    require("busted.runner")({ standalone = false }) -- `return` would make it a tail call
  end)
  os.exit, arg = os_exit, old_arg
  if ok then return 0 end
  if message == EXIT then return exit_code end
  -- After failures busted raises nil, having reported them.
  if message ~= nil then io.stderr:write("busted: ", tostring(message), "\n") end
  return 1
end

-- Tests need not wait: the watchdog would take the whole run for one that hangs.
require("znl.core.runtime").watchdog_ms(0)

-- ZNL_TEST_STRESS=gc collects without a pause, ZNL_TEST_STRESS=nojit compiles nothing.
local stress = os.getenv("ZNL_TEST_STRESS")
if stress == "gc" then collectgarbage("setpause", 0) end
if stress == "nojit" then require("jit").off() end

-- What fails is easier to find without what goes on.
require("znl.core.log").set_level("warn")

local code = run(arg and { unpack(arg) } or { ... })
io.stdout:flush()
io.stderr:flush()
-- Not when the loop is empty: a test that left something open must not hang the run.
require("znl.core.runtime").exit(code)
