--- znlrun call: calls a route of a master of our kind, or asks any master plainly.
--- SPDX-License-Identifier: MIT

local command = require("znl.cli.command")
local json = require("znl.json")
local output = require("znl.cli.output")
local payload = require("znl.cli.payload")
local peer = require("znl.cli.peer")
local runtime = require("znl.core.runtime")
local uv = require("luv")

--- What is sent, and whether it is JSON. Arguments are read before anything is connected.
local function read_data(opts)
  if not opts.route or opts.raw then return payload.read_all(opts.data) end
  if #opts.data > 1 then return nil, "a call takes one JSON text; --raw sends several frames", "USAGE" end
  if #opts.data == 0 then return "null" end
  local text, message, code = payload.read(opts.data[1])
  if not text then return nil, message, code end
  local ok, problem = json.decode(text)
  if not ok then
    return nil, ("the data is no JSON: %s; a text stands in double quotes, '\"text\"'"):format(problem), "USAGE"
  end
  return text
end

--- JSON goes as text, both ways: through Lua tables [] would become {}. So this asks the core.
local function call_json(slave, route, text, timeout_ms)
  local answer, is_json, code = slave.core:call(route, text, timeout_ms, true)
  if code ~= nil then return nil, is_json, code end
  if not is_json or not json.decode(answer) then return nil, "the answer is no JSON", "PROTO" end
  return answer
end

local function print_answer(out, opts, answer, ms)
  if opts.route and not opts.raw then
    if out.json then
      out:line(('{"data":%s,"ms":%.3f}'):format(answer, ms))
    else
      out:line(answer)
    end
    return
  end
  if out.json then
    local object = { ms = tonumber(("%.3f"):format(ms)) }
    output.put_payload(object, "reply", answer)
    out:object(object)
    return
  end
  local text = type(answer) == "table" and table.concat(answer, "\n") or answer
  local needs_end = (out.is_terminal or type(answer) == "table") and text:sub(-1) ~= "\n"
  out:write(needs_end and text .. "\n" or text)
end

local function run(opts, out)
  if opts.route and opts.route:sub(1, 1) ~= "/" then
    table.insert(opts.data, 1, opts.route)
    opts.route = nil
  end
  local data, message, code = read_data(opts)
  if not data then return nil, message, code end
  local master
  master, message, code = peer.open(opts, { tool = "call" })
  if not master then return nil, message, code end
  local slave, began = master.slave, uv.hrtime()
  local answer
  if opts.route and opts.raw then
    answer, message, code = slave:call(opts.route, data, { timeout_ms = opts.timeout, raw = true })
  elseif opts.route then
    answer, message, code = call_json(slave, opts.route, data, opts.timeout)
  else
    answer, message, code = slave:request(data, { timeout_ms = opts.timeout })
  end
  local ms = (uv.hrtime() - began) / 1e6
  local _
  if answer == nil then _, message, code = master:explain(message, code, opts.timeout) end
  master:close()
  if runtime.stopping() then return nil end
  if answer == nil then return nil, message, code end
  print_answer(out, opts, answer, ms)
end

return command.new {
  name = "call",
  summary = "Calls a route of a running master, JSON in and out.",
  description = "Routes are served by znlrun masters. Without a route the payloads are sent as a plain request, " ..
      "which any master answers.",
  examples = {
    { "znlrun call tcp://127.0.0.1:6003 /users/42", "a route without data" },
    { "znlrun call tcp://127.0.0.1:6003 /users '{\"name\":\"Ann\"}'", "with JSON" },
    { "znlrun call tcp://127.0.0.1:6003 /report @data.json > answer.json", "from a file, into a file" },
    { "znlrun call tcp://127.0.0.1:6003 'hello'", "no route: a plain request" },
  },
  configure = function(parser)
    peer.configure(parser)
    parser:argument("route", "Route, beginning with /. What begins otherwise is the first payload."):args("?")
    parser:argument("data", "JSON to send, without: null. " .. payload.HELP):args("*")
    parser:flag("--raw", "Send payloads and print the bytes of the answer, no JSON.")
  end,
  run = run,
}
