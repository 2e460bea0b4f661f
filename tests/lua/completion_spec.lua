--- What shells and man know about the command line, against what the tools accept.
--- SPDX-License-Identifier: MIT

local has_core = pcall(require, "znl")

local znlrun = os.getenv("ZNLRUN") or "build/znlrun"

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1", "r"))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

local function has(expected, text)
  assert.truthy(text:find(expected, 1, true), ("%q is missing"):format(expected))
end

--- Every option in a help text.
local function options_in(help)
  local names = {}
  for name in help:gmatch("%f[%-%w](%-%-%l[%l%-]+)") do names[name] = true end
  for name in help:gmatch("\n%s+(%-%l),? ") do names[name] = true end
  return names
end

describe("the command line", function()
  if not has_core then
    pending("needs znlrun")
    return
  end

  local manual = require("znl.cli.manual")
  local tools = require("znl.tools")
  local scripts = {
    bash = output_of(znlrun .. " completion bash"),
    zsh = output_of(znlrun .. " completion zsh"),
    man = output_of(znlrun .. " completion man < docs/znlrun.1.in"),
  }

  it("lists every file of lua/znl/tools that is not hidden", function()
    local listed = {}
    for _, name in ipairs(tools.NAMES) do listed[name] = true end
    for name in output_of("ls lua/znl/tools"):gmatch("([%w_]+)%.lua") do
      local tool = tools.get(name)
      assert.truthy(tool, name)
      assert.truthy(tool.summary, name)
      assert.equal(not tool.hidden, listed[name] == true, name)
    end
  end)

  it("has the same options of znlrun in C and in the manual", function()
    local known = {}
    for _, option in ipairs(manual.OPTIONS) do
      for _, name in ipairs(option.names) do known[name] = true end
    end
    local help = output_of(znlrun .. " --help"):gsub("Exit codes:.*", "")
    local documented = {}
    for line in help:gmatch("\n  (%-[^\n]+)") do
      for name in line:gsub("%s%s+.*", ""):gmatch("%-%-?%l[%l%-]*") do documented[name] = true end
    end
    assert.same(documented, known)
  end)

  it("has every tool and option in completion and man page", function()
    local man = scripts.man:gsub("\\%-", "-"):gsub("\\f%u", "")
    for _, name in ipairs(tools.NAMES) do
      has("\n.SS " .. name .. "\n", man)
      has("            " .. name .. ")", scripts.bash)
      has("    " .. name .. ")\n", scripts.zsh)
      has("'" .. name .. ":", scripts.zsh)
      local bash_case = scripts.bash:match("\n            " .. name .. "%)(.-);;")
      local zsh_case = scripts.zsh:match("\n    " .. name .. "%)(.-);;")
      local man_part = man:match("\n%.SS " .. name .. "\n(.-)\n%.S[SH]")
      local count = 0
      for option in pairs(options_in(output_of(znlrun .. " " .. name .. " --help"):match("\nOptions:(.-)\n\n"))) do
        count = count + 1
        has(option, bash_case)
        has(option, zsh_case)
        has(option, man_part)
      end
      assert.is_true(count >= 2, name)
    end
    for _, option in ipairs(manual.OPTIONS) do
      for _, name in ipairs(option.names) do
        has(name, man:match("\n%.SH OPTIONS(.-)\n%.SH"))
        has(name, scripts.bash)
        has(name, scripts.zsh)
      end
    end
  end)

  it("leaves no placeholder behind", function()
    for shell, text in pairs(scripts) do
      assert.is_nil(text:find("@%u+@"), shell)
    end
    assert.is_nil(scripts.man:find('\n.\\" TOOLS', 1, true))
  end)

  it("completes in bash", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(scripts.bash, [[
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_znlrun
printf '%s\n' "${COMPREPLY[@]}"
]])
    file:close()
    local function complete(line)
      local words = {}
      for word in output_of(("ZNL_SOME_KEY=1 bash %s '%s'"):format(path, line)):gmatch("[^\n]+") do
        words[#words + 1] = word
      end
      table.sort(words)
      return table.concat(words, " ")
    end
    assert.equal("request", complete("znlrun req"))
    assert.equal("scripts", complete("znlrun scrip"))
    assert.equal("scripts/master.lua", complete("znlrun scripts/ma"))
    assert.equal("--log-format --log-level", complete("znlrun --log"))
    assert.equal("warn", complete("znlrun --log-level wa"))
    assert.equal("keygen", complete("znlrun --drain-ms 1 keyg"))
    assert.equal("--kdf-salt --key", complete("znlrun request --k"))
    assert.equal("env: file:", complete("znlrun request --key "))
    assert.equal("ZNL_SOME_KEY", complete("znlrun request --key env:ZNL_SOME_K"))
    assert.equal("README.md", complete("znlrun request --key file:READM"))
    assert.equal("@README.md", complete("znlrun request tcp://x:1 --timeout 5 a @READM"))
    assert.equal("ipc:/// tcp://127.0.0.1:", complete("znlrun pub --wait 5 "))
    assert.equal("", complete("znlrun pub tcp://x:1 "))
    assert.equal("keygen", complete("znlrun help key"))
    os.remove(path)
  end)

  it("is valid for the shells", function()
    for _, shell in ipairs { "bash", "zsh" } do
      local path = os.tmpname()
      local file = assert(io.open(path, "w"))
      file:write(scripts[shell])
      file:close()
      if output_of("command -v " .. shell) ~= "" then
        assert.equal("", output_of(shell .. " -n " .. path))
      end
      os.remove(path)
    end
  end)
end)
