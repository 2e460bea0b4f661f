--- znl.cli.global_names: which globals a chunk reads and sets, from its bytecode.
---
--- A misspelt name is the mistake a compiler for Lua does not see. Names are found where they are used
--- as globals, so locals and fields never look alike.
--- SPDX-License-Identifier: MIT

local util = require("jit.util")

local M = {}

---@class znl.cli.GlobalUse
---@field name string
---@field line integer
---@field is_set boolean

--- Opcodes have other numbers in other versions of LuaJIT: two tiny chunks tell them.
local function opcode_of(text)
  local fn = assert(load(text))
  for pc = 1, math.huge do
    local instruction = util.funcbc(fn, pc)
    if not instruction then error("no global in: " .. text) end
    local constant = util.funck(fn, -bit.rshift(instruction, 16) - 1)
    if constant == "probe" then return bit.band(instruction, 0xff) end
  end
end

local READ = opcode_of("local x = probe")
local SET = opcode_of("probe = 1")

local function visit(fn, uses)
  for pc = 1, math.huge do
    local instruction = util.funcbc(fn, pc)
    if not instruction then break end
    local code = bit.band(instruction, 0xff)
    if code == READ or code == SET then
      uses[#uses + 1] = {
        name = util.funck(fn, -bit.rshift(instruction, 16) - 1),
        line = util.funcinfo(fn, pc).currentline, is_set = code == SET,
      }
    end
  end
  -- Functions inside are constants of it.
  for index = -1, -math.huge, -1 do
    local constant = util.funck(fn, index)
    if constant == nil then break end
    if type(constant) == "proto" then visit(constant, uses) end
  end
end

--- Every use of a global in a compiled chunk, in the order of lines.
---@param chunk function
---@return znl.cli.GlobalUse[]
function M.uses(chunk)
  local uses = {}
  visit(chunk, uses)
  table.sort(uses, function(a, b)
    if a.line ~= b.line then return a.line < b.line end
    return a.name < b.name
  end)
  return uses
end

return M
