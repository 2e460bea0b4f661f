# Every outside library, each with the Debian package that brings it.

find_package(Threads REQUIRED)
find_program(PKG_CONFIG_EXECUTABLE pkg-config)
if(NOT PKG_CONFIG_EXECUTABLE)
  message(FATAL_ERROR "pkg-config is missing: apt-get install pkg-config")
endif()
find_package(PkgConfig REQUIRED)

function(znl_need name module package)
  pkg_check_modules(${name} QUIET IMPORTED_TARGET GLOBAL ${module})
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "${module} is missing: apt-get install ${package}")
  endif()
endfunction()

znl_need(luajit luajit libluajit-5.1-dev)
znl_need(uv "libuv>=1.44" libuv1-dev)
znl_need(zmq "libzmq>=4.3" libzmq3-dev)
znl_need(sodium "libsodium>=1.0.18" libsodium-dev)
znl_need(crypto "libcrypto>=3.0" libssl-dev)

find_program(LUAJIT_EXECUTABLE luajit)
if(NOT LUAJIT_EXECUTABLE)
  message(FATAL_ERROR "luajit is missing: apt-get install luajit")
endif()

# Lua modules inside the binary: luv and cjson as static libraries, argparse as Lua.
set(ZNL_LUA_MODULES)
foreach(module luv cjson)
  find_library(ZNL_LUA_${module} NAMES liblua5.1-${module}.a)
  if(NOT ZNL_LUA_${module})
    message(FATAL_ERROR "lua-${module} is missing: apt-get install lua-${module}-dev")
  endif()
  list(APPEND ZNL_LUA_MODULES ${ZNL_LUA_${module}})
endforeach()
list(APPEND ZNL_LUA_MODULES PkgConfig::uv PkgConfig::luajit)

find_file(ZNL_ARGPARSE_LUA NAMES argparse.lua PATHS /usr/share/lua/5.1 /usr/local/share/lua/5.1)
if(NOT ZNL_ARGPARSE_LUA)
  message(FATAL_ERROR "argparse for Lua is missing: apt-get install lua-argparse")
endif()
