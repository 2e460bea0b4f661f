--- Who there is. A module: it has no route.
return {
  ["7"] = { name = "Ada", city = "London" },
  ["8"] = { name = "Grace", city = "New York" },
  ["9"] = { name = "Radia", city = "Portsmouth" },
}
