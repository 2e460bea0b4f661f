--- Answers a greeting. Edit the word while it runs: the next request gets the new one.

local WORD = "Hello"

return {
  handle = function(req, state)
    state.count = state.count + 1
    return ("%s, %s! (answer %d)"):format(WORD, req.payload, state.count)
  end,

  -- Called with the state of the version before, or nil the first time: the count goes on.
  on_load = function(previous) return previous or { count = 0 } end,
}
