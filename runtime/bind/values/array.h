/* array.h - which tables are arrays, for those who write values of Lua, and arrays for those who read them.
 *
 * One is an array when its keys are whole numbers from 1. There may be holes, as in { 1, nil, 3 }, but not
 * mostly holes. Functions here run no metamethods and, but for the last, never raise.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_VALUES_ARRAY_H
#define ZNL_BIND_VALUES_ARRAY_H

#include <lua.h>

/* Whether the keys of the table at `index` after the one at `key`, which is `i`, are i + 1, i + 2 … one after
 * the other. *last: the one reached. */
int znl_lua_isinorder(lua_State *L, int index, int key, int i, int *last);

/* The length of the table at `index` as an array; 0 when it is none, or empty; -1 when it is one with more holes
 * than values. */
int znl_lua_arraylength(lua_State *L, int index);

/* Makes an array, marked as one, of the `count` values on top of the stack, in their place. May raise for memory. */
void znl_lua_collectarray(lua_State *L, int count);

#endif
