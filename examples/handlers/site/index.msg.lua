--- "/", which is also where requests without a route arrive.
return function() return { routes = { "/users", "/users/:id" } } end
