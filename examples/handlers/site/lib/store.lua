--- Shared by the handlers of users; no route of its own. Edit it, and both are replaced with it.
local store = {}

local users = {
  ada = { name = "Ada", born = 1815 },
  grace = { name = "Grace", born = 1906 },
}

function store.find(id) return users[id] end

function store.names()
  local names = {}
  for _, user in pairs(users) do names[#names + 1] = user.name end
  table.sort(names)
  return names
end

return store
