/* registry.h - the directory behind a table of znl.core.registry, for who answers from it in C.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_MICRO_REGISTRY_H
#define ZNL_BIND_MICRO_REGISTRY_H

#include "state/directory.h"

#include <lua.h>

/* The directory at `idx`, borrowed: hold it to keep it. NULL when the value is anything else, or a
 * directory that was closed. */
znl_directory *znl_lua_todirectory(lua_State *L, int idx);

#endif
