/* transcode.h - Lua values from the texts of codec/transcode.h and back.
 *
 *     undefined   nil; znl.undefined where nil cannot be: as an item of an array
 *     null        lua_pushlightuserdata(NULL), as in json.h; arrays and long numbers too are those of JSON
 *     bytes       a userdata that holds them: znl.bytes()
 *     date        a table with the field `ms` and a metatable: znl.date()
 *     error       a table with message, stack, name, code … and a metatable: znl.transcode.error()
 *
 *   transcode.c        znl.core.transcode; what these types are
 *   transcode_read.c   text becomes values
 *   transcode_write.c  values become text
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_VALUES_TRANSCODE_H
#define ZNL_BIND_VALUES_TRANSCODE_H

#include "bind/bind.h"
#include "codec/transcode.h"

#define ZNL_LUA_PROBLEM_BYTES 256

/* Writes the value at `index` as the only one of `writer`, which forgets what it held; nil is undefined.
 * 0, ZNL_E_NOMEM, ZNL_E_INVALID: then `problem` says what cannot be written and where, "a function at x.y", in
 * UTF-8. Never raises; runs no metamethods. */
int znl_lua_puttranscode(lua_State *L, int index, znl_transcode_writer *writer,
        char problem[ZNL_LUA_PROBLEM_BYTES]);

/* Pushes the value of a text that znl_transcode_begin() has begun; undefined is nil. 0; ZNL_E_PROTO, ZNL_E_LIMIT
 * (depth, or no room on the stack), ZNL_E_NOMEM: nothing is pushed. Raises on memory alone: then the reader can
 * still be begun anew or finished. A field named twice has its last value, one that is undefined is left out. */
int znl_lua_pushtranscode(lua_State *L, znl_transcode_reader *reader);

/* What kind of value of this file is at `index`: 0 for every other. Runs no metamethods, never raises. */
enum { ZNL_LUA_BYTES = 1, ZNL_LUA_DATE, ZNL_LUA_ERROR };
int znl_lua_transcodetype(lua_State *L, int index);

/* The name of a field that the date or the error at `index` has by its type, from 1: "ms"; "message", "stack",
 * "name", "code". */
#define ZNL_LUA_ERROR_FIELDS 4
void znl_lua_pushtypefield(lua_State *L, int index, int field);

void znl_lua_pushundefined(lua_State *L);
int znl_lua_isundefined(lua_State *L, int index);

/* The new userdata holds a copy of the bytes; marks the table on top of the stack as a date, as an error. */
void znl_lua_pushbytes(lua_State *L, znl_frame bytes);
void znl_lua_marktranscode(lua_State *L, int type);

/* Makes what the functions above need in a new state, for znl_bind_open_all(). May raise. */
void znl_lua_preparetranscode(lua_State *L);

#endif
