/* bind_json.h - Lua values from JSON and back, for the bindings whose messages are JSON.
 *
 * null is lua_pushlightuserdata(NULL), which is also cjson.null; arrays carry a metatable, so that [] and {}
 * stay apart; whole numbers beyond 2^53 are int64_t or uint64_t of LuaJIT.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_BIND_JSON_H
#define ZNL_BIND_BIND_JSON_H

#include "bind/bind.h"

/* Pushes the value of a text. 0; ZNL_E_PROTO or ZNL_E_LIMIT: nothing is pushed. Raises on memory alone. */
int znl_lua_pushjson(lua_State *L, znl_frame text);

/* Appends the text of the value at `index`. 0, ZNL_E_NOMEM, ZNL_E_INVALID: then `problem` says what cannot
 * be written and where: "a function at on_done". Never raises; runs no metamethods. */
int znl_lua_writejson(lua_State *L, int index, znl_buffer *out, char *problem, size_t size);

#endif
