std = "luajit"
max_line_length = 120
files["tests/lua"] = { std = "luajit+busted" }
exclude_files = { "build*", "tests/interop/node_modules", "tests/vectors" }
-- Catches how busted leaves the process.
files["tests/support/busted.lua"] = { ignore = { "122/os", "121/arg" } }
-- In a test the clock of the script follows the held one.
files["lua/znl/test/stage.lua"] = { ignore = { "122/os" } }
-- A table that only keeps its slaves alive.
files["tests/bench/fan.lua"] = { ignore = { "241/slaves" } }
