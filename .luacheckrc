std = "luajit"
max_line_length = 120
files["tests/lua"] = { std = "luajit+busted" }
exclude_files = { "build*", "tests/interop/node_modules", "tests/vectors" }
