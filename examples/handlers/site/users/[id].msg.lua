--- "/users/:id": one user. At most two such requests run at once, ten wait.
local store = require("store")

return {
  max_concurrency = 2,
  max_queue = 10,
  handle = function(req)
    local user = store.find(req.params.id)
    if not user then return nil, "no user " .. req.params.id, "NOT_FOUND" end
    return user
  end,
}
