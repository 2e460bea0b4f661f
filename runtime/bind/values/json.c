/* json.c - znl.core.json: Lua values from JSON text and back.
 *
 *     decode(text) -> value | nil, message, code       null is json.null, also at the top
 *     encode(value) -> text | nil, message, code       nil is null
 *     canonical(value) -> text | nil, message, code    one text for each value: json_canonical.h
 *     array(table?) -> table     marked as an array, so that it is written as one when it is empty
 *     is_array(value) -> boolean
 *     raw(text) -> value | nil, message, code          stands for this text wherever it is written
 *     null
 *     signature(text?) -> text | nil, message, code    by which topics judge payloads equal; nil is absent
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/json.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/json_signature.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#define RAW_TYPE "znl.core.json.raw"
#define SCRATCH_TYPE "znl.core.json.scratch"
#define SCRATCH_KEEP_BYTES (1024u * 1024)

/* Keys in the registry. */
static char array_key; /* the metatable of arrays */
static char raw_key;   /* the metatable of json.raw() */
static char long_key;  /* { int64_t, uint64_t, ffi.istype } */

/* In the table of long_key, after the two kinds. */
#define LONG_ISTYPE 3

static void push_kept(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

static int raw_tostring(lua_State *L)
{
    const char *text = luaL_checkudata(L, 1, RAW_TYPE);
    lua_pushlstring(L, text, lua_objlen(L, 1));
    return 1;
}

void znl_lua_preparejson(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    lua_pushlightuserdata(L, &array_key);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "znl.json.array");
    lua_setfield(L, -2, "__name");
    lua_rawset(L, LUA_REGISTRYINDEX);

    znl_lua_newtype(L, RAW_TYPE, none, NULL);
    lua_pushlightuserdata(L, &raw_key);
    luaL_getmetatable(L, RAW_TYPE);
    lua_pushcfunction(L, raw_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_rawset(L, LUA_REGISTRYINDEX);

    lua_pushlightuserdata(L, &long_key);
    lua_createtable(L, LONG_ISTYPE, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "istype");
    lua_rawseti(L, -3, LONG_ISTYPE);
    lua_getfield(L, -1, "typeof");
    lua_pushvalue(L, -1);
    lua_pushliteral(L, "int64_t");
    lua_call(L, 1, 1);
    lua_rawseti(L, -4, ZNL_LONG_SIGNED);
    lua_pushliteral(L, "uint64_t");
    lua_call(L, 1, 1);
    lua_rawseti(L, -3, ZNL_LONG_UNSIGNED);
    lua_pop(L, 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

/* --- arrays, raw texts, long numbers ---------------------------------------------------------- */

/* Whether the metatable of the value at `index` is the one kept under `key`. */
static int has_kept(lua_State *L, int index, const char *key)
{
    if (!lua_getmetatable(L, index))
        return 0;
    push_kept(L, key);
    int is_it = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is_it;
}

int znl_lua_isjsonarray(lua_State *L, int index)
{
    return has_kept(L, index, &array_key);
}

int znl_lua_isjsonraw(lua_State *L, int index)
{
    return has_kept(L, index, &raw_key);
}

void znl_lua_markjsonarray(lua_State *L)
{
    push_kept(L, &array_key);
    lua_setmetatable(L, -2);
}

/* Whether the number of the FFI at `index` is of that kind. */
static int is_long(lua_State *L, int index, int kinds, int kind)
{
    lua_rawgeti(L, kinds, LONG_ISTYPE);
    lua_rawgeti(L, kinds, kind);
    lua_pushvalue(L, index);
    int is_it = lua_pcall(L, 2, 1, 0) == 0 && lua_toboolean(L, -1);
    lua_pop(L, 1);
    return is_it;
}

int znl_lua_tolong(lua_State *L, int index, uint64_t *bits)
{
    int kind = 0;
    if (lua_type(L, index) != ZNL_LUA_TCDATA)
        return 0;
    push_kept(L, &long_key);
    int kinds = lua_gettop(L);
    if (lua_istable(L, kinds))
        kind = is_long(L, index, kinds, ZNL_LONG_SIGNED)      ? ZNL_LONG_SIGNED
                : is_long(L, index, kinds, ZNL_LONG_UNSIGNED) ? ZNL_LONG_UNSIGNED
                                                              : 0;
    lua_settop(L, kinds - 1);
    if (kind != 0)
        memcpy(bits, lua_topointer(L, index), sizeof *bits);
    return kind;
}

void znl_lua_pushlong(lua_State *L, int kind, uint64_t bits)
{
    push_kept(L, &long_key);
    lua_rawgeti(L, -1, kind);
    lua_remove(L, -2);
    lua_call(L, 0, 1);
    memcpy((void *)(uintptr_t)lua_topointer(L, -1), &bits, sizeof bits);
}

/* --- the module ------------------------------------------------------------------------------- */

static int scratch_collect(lua_State *L)
{
    znl_buffer_fini(luaL_checkudata(L, 1, SCRATCH_TYPE));
    return 0;
}

static znl_frame check_text(lua_State *L)
{
    size_t size;
    luaL_checktype(L, 1, LUA_TSTRING);
    const char *text = lua_tolstring(L, 1, &size);
    return znl_frame_of(text, size);
}

/* nil, "json: malformed at byte 17", code. */
static int fail_reading(lua_State *L, int err, const znl_json_reader *reader, znl_frame text)
{
    size_t at = (size_t)(reader->at - text.data);
    lua_pushnil(L);
    if (err == ZNL_E_LIMIT)
        lua_pushfstring(L, "json: nested too deeply at byte %d", (int)at + 1);
    else if (at >= text.size)
        lua_pushliteral(L, "json: ends too early");
    else
        lua_pushfstring(L, "json: malformed at byte %d", (int)at + 1);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int json_decode(lua_State *L)
{
    znl_frame text = check_text(L);
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_DEFAULT);
    int err = znl_lua_pushjsonall(L, &reader);
    return err == 0 ? 1 : fail_reading(L, err, &reader, text);
}

typedef int write_function(
        lua_State *L, int index, znl_buffer *out, char *problem, size_t size);

static int write_text(lua_State *L, write_function *write, const char *name)
{
    znl_buffer *scratch = lua_touserdata(L, lua_upvalueindex(1));
    char problem[256];
    luaL_checkany(L, 1);
    scratch->size = 0;
    int err = write(L, 1, scratch, problem, sizeof problem);
    if (err == 0) {
        lua_pushlstring(L, (const char *)scratch->data, scratch->size);
        znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
        return 1;
    }
    znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
    if (err != ZNL_E_INVALID)
        return znl_lua_fail(L, err, name);
    lua_pushnil(L);
    lua_pushstring(L, problem);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int json_encode(lua_State *L)
{
    return write_text(L, znl_lua_writejson, "json.encode");
}

static int json_canonical(lua_State *L)
{
    return write_text(L, znl_lua_writecanonical, "json.canonical");
}

static int json_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (lua_getmetatable(L, 1)) {
        luaL_argcheck(L, znl_lua_isjsonarray(L, 1), 1, "the table has a metatable already");
        lua_pop(L, 1);
    }
    znl_lua_markjsonarray(L);
    return 1;
}

static int json_is_array(lua_State *L)
{
    lua_pushboolean(L, lua_istable(L, 1) && znl_lua_isjsonarray(L, 1));
    return 1;
}

static int json_raw(lua_State *L)
{
    znl_frame text = check_text(L), value;
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_DEFAULT);
    int err = znl_json_skip(&reader, &value);
    if (err == 0)
        err = znl_json_end(&reader);
    if (err != 0)
        return fail_reading(L, err, &reader, text);
    memcpy(lua_newuserdata(L, value.size), value.data, value.size);
    push_kept(L, &raw_key);
    lua_setmetatable(L, -2);
    return 1;
}

static int json_signature(lua_State *L)
{
    znl_buffer *scratch = lua_touserdata(L, lua_upvalueindex(1));
    znl_frame text = {0};
    if (!lua_isnoneornil(L, 1))
        text = check_text(L);
    scratch->size = 0;
    int err = znl_json_signature(text, ZNL_JSON_DEPTH_DEFAULT, scratch);
    if (err == 0)
        lua_pushlstring(L, (const char *)scratch->data, scratch->size);
    znl_buffer_trim(scratch, SCRATCH_KEEP_BYTES);
    return err == 0 ? 1 : znl_lua_fail(L, err, "json.signature");
}

int luaopen_znl_core_json(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
            {"decode", json_decode},
            {"array", json_array},
            {"is_array", json_is_array},
            {"raw", json_raw},
            {NULL, NULL},
    };
    znl_lua_newtype(L, SCRATCH_TYPE, none, scratch_collect);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    znl_buffer *scratch = lua_newuserdata(L, sizeof *scratch);
    *scratch = (znl_buffer){0};
    luaL_getmetatable(L, SCRATCH_TYPE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, json_encode, 1);
    lua_setfield(L, -3, "encode");
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, json_canonical, 1);
    lua_setfield(L, -3, "canonical");
    lua_pushcclosure(L, json_signature, 1);
    lua_setfield(L, -2, "signature");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
