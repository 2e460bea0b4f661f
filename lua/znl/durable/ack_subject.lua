--- znl.durable.ack_subject: what JetStream says about a message in the subject its acknowledgement goes to.
---
---   $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time, ns>.<pending>
---   $JS.ACK.<domain>.<account>.<stream>.<consumer>.<the same five>[.<more>]
---
--- SPDX-License-Identifier: MIT

local M = {}

local SHORT = "^%$JS%.ACK%.([^.]+)%.([^.]+)%.(%d+)%.(%d+)%.(%d+)%.(%d+)%.(%d+)$"
local LONG = "^%$JS%.ACK%.[^.]+%.[^.]+%.([^.]+)%.([^.]+)%.(%d+)%.(%d+)%.(%d+)%.(%d+)%.(%d+)%f[.%z]"

--- Whether acknowledgements may go there. Whoever knows an inbox can send to it, and names the reply subject.
---@param subject string|nil
---@return boolean
function M.is(subject) return subject ~= nil and subject:find("$JS.ACK.", 1, true) == 1 end

---@param subject string
---@return string|nil stream  nil: it is none
---@return string? consumer
---@return number? deliveries  1 the first time
---@return number? seq  in the stream
---@return number? time_ms  when the stream took it
---@return number? pending  how many are to come
function M.read(subject)
  local stream, consumer, deliveries, seq, _, time, pending = subject:match(SHORT)
  if not stream then stream, consumer, deliveries, seq, _, time, pending = subject:match(LONG) end
  if not stream then return nil end
  return stream, consumer, tonumber(deliveries), tonumber(seq), math.floor(tonumber(time) / 1e6), tonumber(pending)
end

return M
