--- znl.cluster.election: who leads is who has the port (spec cluster-client, section 1): there is no vote and no
--- message. Whoever cannot listen follows whoever can.
---
--- After a loss the first attempt comes at once. Later ones wait a little longer each time, by chance, so that
--- many processes do not meet again and again; a client that was refused waits longer still.
--- SPDX-License-Identifier: MIT

local crypto = require("znl.core.crypto")
local follower = require("znl.cluster.follower")
local leader = require("znl.cluster.leader")
local single = require("znl.cluster.single")

local M = {}

local PAUSE = { first_ms = 1, max_ms = 1000 }
--- The real client failed, here or at the leader: trying again at once would be of no use.
local REFUSED_PAUSE = { first_ms = 100, max_ms = 5000 }
--- A follower that never leads looks for a leader that often (spec, section 1).
local FORCED_PAUSE = { first_ms = 1, max_ms = 3000 }

--- Not math.random: that begins alike in every process.
local function random()
  local high, low = crypto.random(2):byte(1, 2)
  return (high * 256 + low) / 65535
end

--- How long to wait after so many failures in a row.
---@param failures integer
---@param is_refusal boolean|nil
---@param is_forced_follower boolean|nil
---@param chance? fun(): number  0..1; tests pass a fake
---@return integer ms
function M.pause_ms(failures, is_refusal, is_forced_follower, chance)
  if failures == 0 then return 0 end
  local rule = is_refusal and REFUSED_PAUSE or is_forced_follower and FORCED_PAUSE or PAUSE
  local longest_ms = math.min(rule.max_ms, rule.first_ms * 2 ^ math.min(failures - 1, 20))
  return math.max(1, math.floor(longest_ms * (0.5 + (chance or random)() / 2) + 0.5))
end

local LISTEN_OPTIONS = { "max_connections", "register_ms", "max_message_bytes", "max_queue_bytes" }

local function listen_options(opts)
  local config = opts.config
  local given = {
    host = not config.path and config.host or nil, port = not config.path and config.port or nil, path = config.path,
    mode = config.path and config.mode or nil, tls = opts.listen_tls,
    on_event = function(kind, name, remote)
      if kind == "unclaimed" then opts.host.on_unclaimed(name, remote) end
    end,
  }
  for _, name in ipairs(LISTEN_OPTIONS) do given[name] = config[name] end
  return given
end

local function occupied(opts)
  return nil, ('create "%s" leader failed, the port:%s is occupied by other'):format(
    opts.name, opts.config.path or opts.config.port), "ADDRESS_IN_USE"
end

---@class znl.ClusterElectionOptions : znl.ClusterLeaderOptions
---@field candidate znl.ClusterCandidate
---@field listen_tls any
---@field tls any  of connecting

local function lead(opts)
  local term, message, code = leader.new(opts)
  if not term then opts.place:release() end
  return term, message, code
end

--- A term to be opened. Does not yield.
---@param opts znl.ClusterElectionOptions
---@return znl.ClusterTerm|nil term
---@return string? message
---@return string? code
---@return string? trouble  why it does not lead, when that is not the usual reason
function M.next(opts)
  local config, place = opts.config, opts.place
  if config.single then return single.new(opts) end
  local trouble
  if config.leader ~= false and not place.leaders[opts.name] then
    local server, message, code = place:listen(listen_options(opts), opts.candidate)
    if server then return lead(opts) end
    if config.leader then
      if code == "ADDRESS_IN_USE" then return occupied(opts) end
      return nil, message, code
    end
    if code ~= "ADDRESS_IN_USE" then trouble = message end
  elseif config.leader then
    return occupied(opts)
  end
  return follower.new(opts), nil, nil, trouble
end

return M
