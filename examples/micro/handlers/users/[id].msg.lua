-- /users/:id
local users = require("people")

return function(req)
  local user = users[req.params.id]
  if not user then return nil, "there is no user " .. req.params.id, 404 end
  return { name = user.name, city = user.city }
end
