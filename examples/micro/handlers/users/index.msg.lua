-- /users, a stream: one chunk for each user. `write` waits while the reader is behind.
local users = require("people")

return function(req)
  for id, user in pairs(users) do
    if not req:write { id = id, name = user.name } then return end -- nobody reads it any more
  end
end
