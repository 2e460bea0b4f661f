/* json_read.c - JSON text becomes values of Lua.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/json.h"

#include "base/err.h"
#include "base/limits.h"
#include "bind/values/array.h"

#include <lauxlib.h>
#include <lua.h>

/* Elements of an array that wait on the stack until their number is known: then the table is made with
 * that size at once. Not in deep arrays: the stack holds 8,000 values. */
#define BATCH 64
#define BATCH_DEPTH 8u

/* Objects whose first names are equal usually have as many members: the number of the last one is the
 * size that the next is made with. A wrong guess costs time or room, no more. */
#define SIZES 64u
#define SIZE_MAX_GUESS 32u
static _Thread_local uint8_t sizes[SIZES];

/* Strings with escapes up to here are undone on the C stack. */
#define ESCAPED_BYTES 512u

static int push_value(lua_State *L, znl_json_reader *reader);

static void push_text(lua_State *L, znl_frame text)
{
    lua_pushlstring(L, (const char *)text.data, text.size);
}

/* Pushes a string with escapes. Not inlined: its buffer must not lie on the stack at every depth. */
__attribute__((noinline)) static void push_escaped(lua_State *L, znl_frame quoted)
{
    uint8_t small[ESCAPED_BYTES];
    znl_frame text;
    if (quoted.size <= sizeof small) {
        znl_buffer scratch = {.data = small, .capacity = sizeof small};
        znl_json_unescape(
                quoted, &text, &scratch); /* has the room it needs: no error, no memory */
        push_text(L, text);
        return;
    }
    znl_buffer scratch = {.data = lua_newuserdata(L, quoted.size), .capacity = quoted.size};
    znl_json_unescape(quoted, &text, &scratch);
    push_text(L, text);
    lua_remove(L, -2);
}

static int push_number(lua_State *L, znl_json_reader *reader)
{
    double value;
    int is_integer;
    int64_t integer;
    int err = znl_json_number(reader, &value, &is_integer, &integer);
    if (err != 0)
        return err;
    if (is_integer == 2)
        znl_lua_pushlong(L, ZNL_LONG_UNSIGNED, (uint64_t)integer);
    else if (is_integer && (integer > ZNL_LUA_EXACT_MAX || integer < -ZNL_LUA_EXACT_MAX))
        znl_lua_pushlong(L, ZNL_LONG_SIGNED, (uint64_t)integer);
    else
        lua_pushnumber(L, value);
    return 0;
}

static uint8_t *size_of(znl_frame first_name)
{
    uint32_t hash = (uint32_t)first_name.size;
    if (first_name.size > 0)
        hash += 31u * first_name.data[0] + 7u * first_name.data[first_name.size - 1];
    return &sizes[hash % SIZES];
}

static int push_object(lua_State *L, znl_json_reader *reader)
{
    znl_frame name;
    int is_plain, more = znl_json_next(reader, &name, &is_plain);
    if (more <= 0) {
        lua_newtable(L);
        return more;
    }
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    uint8_t *size = size_of(name);
    unsigned count = 0;
    lua_createtable(L, 0, *size);
    do {
        if (is_plain)
            push_text(L, name);
        else
            push_escaped(L, name);
        int err = push_value(L, reader);
        if (err != 0)
            return err;
        lua_rawset(L, -3);
        count++;
        more = znl_json_next(reader, &name, &is_plain);
    } while (more > 0);
    *size = (uint8_t)(count < SIZE_MAX_GUESS ? count : SIZE_MAX_GUESS);
    return more;
}

static int push_array(lua_State *L, znl_json_reader *reader)
{
    int more, count = 0, batch = reader->depth <= BATCH_DEPTH ? BATCH : 0;
    int is_table = batch == 0;
    if (!lua_checkstack(L, batch + 8))
        return ZNL_E_LIMIT;
    if (is_table)
        znl_lua_collectarray(L, 0);
    while ((more = znl_json_next(reader, NULL, NULL)) > 0) {
        if (!is_table && count == batch) {
            znl_lua_collectarray(L, count);
            is_table = 1;
        }
        int err = push_value(L, reader);
        if (err != 0)
            return err;
        count++;
        if (is_table)
            lua_rawseti(L, -2, count);
    }
    if (!is_table && more == 0)
        znl_lua_collectarray(L, count);
    return more;
}

/* Pushes one value; leaves any number of values when it fails. */
static int push_value(lua_State *L, znl_json_reader *reader)
{
    znl_frame text;
    int is_plain, err;
    int kind = znl_json_peek(reader);
    switch (kind) {
    case ZNL_JSON_STRING:
        err = znl_json_quoted(reader, &text, &is_plain);
        if (err != 0)
            return err;
        if (is_plain)
            push_text(L, text);
        else
            push_escaped(L, text);
        return 0;
    case ZNL_JSON_NUMBER:
        return push_number(L, reader);
    case ZNL_JSON_NULL:
    case ZNL_JSON_FALSE:
    case ZNL_JSON_TRUE:
        err = znl_json_literal(reader);
        if (err != 0)
            return err;
        if (kind == ZNL_JSON_NULL)
            lua_pushlightuserdata(L, NULL);
        else
            lua_pushboolean(L, kind == ZNL_JSON_TRUE);
        return 0;
    case ZNL_JSON_ARRAY:
        err = znl_json_enter(reader);
        return err != 0 ? err : push_array(L, reader);
    case ZNL_JSON_OBJECT:
        err = znl_json_enter(reader);
        return err != 0 ? err : push_object(L, reader);
    default:
        return kind;
    }
}

int znl_lua_pushjsonvalue(lua_State *L, znl_json_reader *reader)
{
    int top = lua_gettop(L);
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    int err = push_value(L, reader);
    if (err != 0)
        lua_settop(L, top);
    return err;
}

int znl_lua_pushjsonall(lua_State *L, znl_json_reader *reader)
{
    int err = znl_lua_pushjsonvalue(L, reader);
    if (err != 0)
        return err;
    err = znl_json_end(reader);
    if (err != 0)
        lua_pop(L, 1);
    return err;
}

int znl_lua_pushjson(lua_State *L, znl_frame text)
{
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_MAX);
    return znl_lua_pushjsonall(L, &reader);
}
