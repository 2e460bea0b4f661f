--- "/users": the names of all, in order.
local store = require("store")

return function() return store.names() end
