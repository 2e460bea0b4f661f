/* modules.h - what `require` finds in a new Lua state: znl.core.*, luv, cjson, and the Lua library
 * inside the binary or under ZNL_LUA_PATH.
 *
 * Layer: host. Any thread, each on a state of its own. SPDX-License-Identifier: MIT */
#ifndef ZNL_HOST_MODULES_H
#define ZNL_HOST_MODULES_H

#include <lua.h>

/* Fills package.preload and package.loaders of the state. Call protected, once per state. */
void znl_modules_open(lua_State *L);

#endif
