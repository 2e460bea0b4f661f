--- Reads texts of cluster-client's default transcode from a file, one per line in hex. Answers each with a line: the
--- text of the value in hex, or the code and the message of what went wrong. SPDX-License-Identifier: MIT

local sched = require("znl.core.sched")
local transcode = require("znl.transcode")

local function unhex(text) return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)) end
local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local count = 0
for line in io.lines(arg[1]) do
  count = count + 1
  if count % 500 == 0 then sched.sleep(0) end
  local value, message, code = transcode.decode(unhex(line))
  local text
  if not message then
    text, message, code = transcode.encode(value)
  end
  print(text and hex(text) or code .. " " .. message:gsub("%c", "?"))
end
