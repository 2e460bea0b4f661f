--- Reads texts from a file, one per line in hex. Answers each with a line: "refused", or the signature,
--- the text that is written of the value, and its canonical form, all in hex. SPDX-License-Identifier: MIT

local core = require("znl.core.json")
local sched = require("znl.core.sched")

local function unhex(text) return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)) end
local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local count = 0
for line in io.lines(arg[1]) do
  count = count + 1
  if count % 500 == 0 then sched.sleep(0) end
  local text = unhex(line)
  local value, message = core.decode(text)
  local signature = core.signature(text)
  if message then
    assert(signature == nil and core.raw(text) == nil, line)
    print("refused")
  else
    local written, problem = core.encode(value)
    local canonical = assert(core.canonical(assert(core.raw(text), line)))
    print(hex(signature) .. " " .. hex(written or problem) .. " " .. hex(canonical))
  end
end
