/* json.h - Lua values from JSON and back, for the bindings whose messages are JSON.
 *
 * null is lua_pushlightuserdata(NULL), which is also cjson.null; arrays carry a metatable, so that [] and {}
 * stay apart; whole numbers beyond 2^53 are int64_t or uint64_t of LuaJIT.
 *
 *   json.c        znl.core.json; what arrays, raw texts and long numbers are
 *   json_read.c   text becomes values
 *   json_write.c  values become text
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_VALUES_JSON_H
#define ZNL_BIND_VALUES_JSON_H

#include "bind/bind.h"
#include "codec/json.h"

/* What lua_type() says of values of the FFI; lua.h has no name for it. */
#define ZNL_LUA_TCDATA 10

/* Doubles hold every whole number up to here. */
#define ZNL_LUA_EXACT_MAX (INT64_C(1) << 53)

/* Kinds of numbers of the FFI. */
enum { ZNL_LONG_SIGNED = 1, ZNL_LONG_UNSIGNED };

/* Pushes the value of a text. 0; ZNL_E_PROTO or ZNL_E_LIMIT (nested deeper than ZNL_JSON_DEPTH_MAX, or no
 * room on the stack): nothing is pushed. Raises on memory alone. A member named twice has its last value. */
int znl_lua_pushjson(lua_State *L, znl_frame text);

/* The same for the value that `reader` is at, to the depth it allows; moves it past the value. */
int znl_lua_pushjsonvalue(lua_State *L, znl_json_reader *reader);

/* The same for a whole text: nothing may follow the value. */
int znl_lua_pushjsonall(lua_State *L, znl_json_reader *reader);

/* Appends the text of the value at `index`; nil is null. 0, ZNL_E_NOMEM, ZNL_E_INVALID: then `problem` says
 * what cannot be written and where: "a function at on_done"; it is UTF-8 and needs 256 bytes at most. `out`
 * is as before when it fails. Never raises; runs no metamethods. */
int znl_lua_writejson(lua_State *L, int index, znl_buffer *out, char *problem, size_t size);

/* The same in the canonical form of codec/json_canonical.h; the names of a table, which has no order, are sorted
 * first. A raw text keeps its order. */
int znl_lua_writecanonical(
        lua_State *L, int index, znl_buffer *out, char *problem, size_t size);

/* Whether the table at `index` is marked as an array; marks the one on top of the stack. */
int znl_lua_isjsonarray(lua_State *L, int index);
void znl_lua_markjsonarray(lua_State *L);

/* Whether the value at `index` is one of json.raw(): a userdata that holds checked text. */
int znl_lua_isjsonraw(lua_State *L, int index);

/* Numbers of the FFI. tolong: the kind and *bits for an int64_t or a uint64_t at `index`, 0 for anything
 * else; pushlong takes the same kind. Neither runs metamethods; the first never raises. */
int znl_lua_tolong(lua_State *L, int index, uint64_t *bits);
void znl_lua_pushlong(lua_State *L, int kind, uint64_t bits);

/* Makes what the functions above need in a new state, for znl_bind_open_all(). May raise. */
void znl_lua_preparejson(lua_State *L);

#endif
