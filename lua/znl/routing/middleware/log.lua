--- znl.routing.middleware.log: one line for each request, when it has ended.
--- SPDX-License-Identifier: MIT

local log = require("znl.log")
local options = require("znl.options")
local sched = require("znl.core.sched")

local M = {}

---@class znl.LogMiddlewareOptions
---@field area? string  of the lines
---@field level? znl.LogLevel  of requests that went well or were refused; failures are "warn"
---@field fields? fun(req: znl.Request): table<string, any>  more to write, such as a user
---@field logger? znl.Logger
---@field clock_ms? fun(): number  tests pass a fake
local LEVELS = { trace = true, debug = true, info = true, warn = true, error = true }
local SPEC = {
  area = { type = "string", min = 1, max = 64, default = "request" },
  level = {
    type = "string", default = "info", check = function(level) return LEVELS[level] == true end,
    allowed = "trace, debug, info, warn or error",
  },
  fields = { type = "function" },
  logger = { type = "table" },
  clock_ms = { type = "function", default = sched.now_ms },
}

---@param opts? znl.LogMiddlewareOptions
---@return znl.Middleware
function M.new(opts)
  opts = options.read(SPEC, opts, "log")
  local logger = opts.logger or log.new(opts.area)

  --- Writes the line and passes on what the handler came to.
  local function finish(line, began_ms, ok, result, message, code, ...)
    line.ms = math.floor((opts.clock_ms() - began_ms) * 10 + 0.5) / 10
    if ok then
      line.outcome = (result == nil and message ~= nil) and (code or "REFUSED") or "ok"
      if line.outcome ~= "ok" then line.message = message end
      logger[opts.level]("request", line)
      return result, message, code, ...
    end
    line.outcome, line.message = "HANDLER_ERROR", tostring(result):match("^[^\n]*")
    logger.warn("request", line)
    error(result, 0)
  end

  return function(req, next)
    local line = opts.fields and opts.fields(req) or {}
    line.route, line.from = req.route, req.from
    -- The traceback ends here otherwise; who reports the error wants it.
    return finish(line, opts.clock_ms(), xpcall(next, debug.traceback, req))
  end
end

return M
