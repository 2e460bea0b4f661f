# znl_embed_lua(out SOURCES_UNDER folder [EXTRA file...]): Lua modules as bytecode in C arrays.
#
# Every .lua file under `folder` becomes a module named by its path: znl/init.lua is "znl",
# znl/roles/master.lua "znl.roles.master"; an EXTRA file by what follows the last lua/5.1/. Debug
# information stays, so tracebacks show znl/init.lua:12. Sets `out` to the C files to compile; the
# table in them is declared in runtime/host/embedded.h.

function(znl_embed_lua out)
  cmake_parse_arguments(EMBED "" "SOURCES_UNDER" "EXTRA" ${ARGN})
  get_filename_component(root ${EMBED_SOURCES_UNDER} ABSOLUTE BASE_DIR ${CMAKE_SOURCE_DIR})
  set(folder ${CMAKE_BINARY_DIR}/embedded)
  file(MAKE_DIRECTORY ${folder})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${root}/*.lua)
  list(SORT sources)

  set(includes "")
  set(rows "")
  set(headers "")
  foreach(source ${sources} ${EMBED_EXTRA})
    # Compiled from inside its folder, because the relative path becomes the chunk name.
    if(source IN_LIST EMBED_EXTRA)
      string(REGEX REPLACE "^(.*/lua/5\\.1)/.*$" "\\1" base ${source})
    else()
      set(base ${root})
    endif()
    file(RELATIVE_PATH path ${base} ${source})
    string(REGEX REPLACE "\\.lua$" "" module ${path})
    string(REGEX REPLACE "/init$" "" module ${module})
    string(REPLACE "/" "." module ${module})
    string(MAKE_C_IDENTIFIER ${module} symbol)
    set(header ${folder}/${symbol}.h)
    add_custom_command(
      OUTPUT ${header}
      COMMAND ${LUAJIT_EXECUTABLE} -b -g -t h -n ${symbol} ${path} ${header}
      WORKING_DIRECTORY ${base}
      DEPENDS ${source}
      COMMENT "Embedding Lua module ${module}"
      VERBATIM)
    list(APPEND headers ${header})
    string(APPEND includes "#include \"${symbol}.h\"\n")
    string(APPEND rows
      "        {\"${module}\", luaJIT_BC_${symbol}, luaJIT_BC_${symbol}_SIZE},\n")
  endforeach()

  set(table ${folder}/embedded.c)
  file(CONFIGURE OUTPUT ${table} @ONLY CONTENT [[/* Made by cmake/embed.cmake. */
#include "host/embedded.h"

@includes@
const struct znl_embedded_module znl_embedded[] = {
@rows@        {NULL, NULL, 0},
};

const size_t znl_embedded_count = sizeof znl_embedded / sizeof znl_embedded[0] - 1;
]])
  set_source_files_properties(${table} PROPERTIES OBJECT_DEPENDS "${headers}"
    INCLUDE_DIRECTORIES ${folder})
  set(${out} ${table} PARENT_SCOPE)
endfunction()
