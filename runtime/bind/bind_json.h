/* bind_json.h - Lua values from JSON and back, for the bindings whose messages are JSON.
 *
 * null is lua_pushlightuserdata(NULL), which is also cjson.null; arrays carry a metatable, so that [] and {}
 * stay apart; whole numbers beyond 2^53 are int64_t or uint64_t of LuaJIT.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_BIND_JSON_H
#define ZNL_BIND_BIND_JSON_H

#include "bind/bind.h"
#include "codec/json.h"

/* Pushes the value of a text. 0; ZNL_E_PROTO or ZNL_E_LIMIT (nested deeper than ZNL_JSON_DEPTH_MAX, or no
 * room on the stack): nothing is pushed. Raises on memory alone. A member named twice has its last value. */
int znl_lua_pushjson(lua_State *L, znl_frame text);

/* The same for the value that `reader` is at, to the depth it allows; moves it past the value. */
int znl_lua_pushjsonvalue(lua_State *L, znl_json_reader *reader);

/* Appends the text of the value at `index`; nil is null. 0, ZNL_E_NOMEM, ZNL_E_INVALID: then `problem` says
 * what cannot be written and where: "a function at on_done"; it is UTF-8 and needs 256 bytes at most. `out`
 * is as before when it fails. Never raises; runs no metamethods. */
int znl_lua_writejson(lua_State *L, int index, znl_buffer *out, char *problem, size_t size);

/* Whether the table at `index` is marked as an array; marks the one on top of the stack. */
int znl_lua_isjsonarray(lua_State *L, int index);
void znl_lua_markjsonarray(lua_State *L);

/* Numbers of the FFI. tolong: 1 and *bits for an int64_t at `index`, 2 for a uint64_t, 0 for anything else;
 * pushlong takes the same 1 or 2. Neither runs metamethods; the first never raises. */
int znl_lua_tolong(lua_State *L, int index, uint64_t *bits);
void znl_lua_pushlong(lua_State *L, int kind, uint64_t bits);

/* Makes what the functions above need in a new state, for znl_bind_open_all(). May raise. */
void znl_lua_preparejson(lua_State *L);

#endif
