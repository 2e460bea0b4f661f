# znl_layer(name USES layer... LINKS library...): one static library per folder of runtime/, with what is below it.

function(znl_flags target)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
    -fno-omit-frame-pointer -fno-plt $<$<BOOL:${ZNL_WERROR}>:-Werror>)
  if(ZNL_SANITIZE STREQUAL "address")
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  elseif(ZNL_SANITIZE STREQUAL "thread")
    target_compile_options(${target} PRIVATE -fsanitize=thread)
    target_link_options(${target} PRIVATE -fsanitize=thread)
  elseif(ZNL_SANITIZE STREQUAL "fuzzer")
    target_compile_options(${target} PRIVATE -fsanitize=address,undefined,fuzzer-no-link
      -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()

function(znl_layer name)
  cmake_parse_arguments(LAYER "" "" "USES;LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/runtime/${name}/*.c)
  add_library(znl_${name} STATIC ${sources})
  target_include_directories(znl_${name} PUBLIC ${CMAKE_SOURCE_DIR}/runtime)
  foreach(other ${LAYER_USES})
    target_link_libraries(znl_${name} PUBLIC znl_${other})
  endforeach()
  target_link_libraries(znl_${name} PUBLIC ${LAYER_LINKS})
  if(ZNL_HASH_SODIUM)
    target_compile_definitions(znl_${name} PUBLIC ZNL_HASH_SODIUM=1)
  endif()
  znl_flags(znl_${name})
endfunction()
