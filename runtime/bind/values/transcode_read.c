/* transcode_read.c - texts of the default transcode become values of Lua.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/values/transcode.h"

#include "base/err.h"
#include "bind/values/array.h"
#include "bind/values/json.h"
#include "codec/json.h"

#include <lauxlib.h>
#include <lua.h>

/* Items of an array that wait on the stack until their number is known: then the table is made with that size
 * at once. Not in deep arrays: the stack holds 8,000 values. */
#define BATCH 64
#define BATCH_DEPTH 8u

/* Objects whose first names are equal usually have as many fields: the number of the last one is the size that
 * the next is made with. A wrong guess costs time or room, no more. */
#define SIZES 64u
#define SIZE_MAX_GUESS 32u
static _Thread_local uint8_t sizes[SIZES];

#define NUMBER_BYTES_MAX 40u /* of a number as a name */

static int push_token(
        lua_State *L, znl_transcode_reader *reader, const znl_transcode_token *token);

static void push_text(lua_State *L, znl_frame text)
{
    lua_pushlstring(L, (const char *)text.data, text.size);
}

static void push_number(lua_State *L, const znl_transcode_token *token)
{
    int64_t integer = token->integer;
    if (token->is_integer == 2)
        znl_lua_pushlong(L, ZNL_LONG_UNSIGNED, (uint64_t)integer);
    else if (token->is_integer && (integer > ZNL_LUA_EXACT_MAX || integer < -ZNL_LUA_EXACT_MAX))
        znl_lua_pushlong(L, ZNL_LONG_SIGNED, (uint64_t)integer);
    else
        lua_pushnumber(L, token->number);
}

static void push_date(lua_State *L, double unix_ms)
{
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "ms");
    lua_pushnumber(L, unix_ms);
    lua_rawset(L, -3);
    znl_lua_marktranscode(L, ZNL_LUA_DATE);
}

static int push_array(lua_State *L, znl_transcode_reader *reader)
{
    znl_transcode_token token;
    int count = 0, batch = reader->depth <= BATCH_DEPTH ? BATCH : 0, err;
    int is_table = batch == 0;
    if (!lua_checkstack(L, batch + 8))
        return ZNL_E_LIMIT;
    if (is_table)
        znl_lua_collectarray(L, 0);
    while ((err = znl_transcode_next(reader, &token)) == 0 && token.kind != ZNL_TRANSCODE_END) {
        if (!is_table && count == batch) {
            znl_lua_collectarray(L, count);
            is_table = 1;
        }
        if (token.kind == ZNL_TRANSCODE_UNDEFINED)
            znl_lua_pushundefined(L); /* keeps its place */
        else
            err = push_token(L, reader, &token);
        if (err != 0)
            return err;
        count++;
        if (is_table)
            lua_rawseti(L, -2, count);
    }
    if (!is_table && err == 0)
        znl_lua_collectarray(L, count);
    return err;
}

/* Pushes a field's name: JavaScript takes what is no string for its text. Arrays, objects and the like have none
 * that means anything. */
static int push_name(lua_State *L, const znl_transcode_token *token)
{
    switch (token->kind) {
    case ZNL_TRANSCODE_STRING:
        push_text(L, token->bytes);
        return 0;
    case ZNL_TRANSCODE_NUMBER: {
        uint8_t text[NUMBER_BYTES_MAX];
        znl_buffer out = {.data = text, .capacity = sizeof text};
        if (znl_json_put_number(&out, token->number) == 0)
            push_text(L, znl_frame_of(text, out.size));
        else
            lua_pushstring(L,
                    token->number > 0           ? "Infinity"
                            : token->number < 0 ? "-Infinity"
                                                : "NaN");
        return 0;
    }
    case ZNL_TRANSCODE_TRUE:
        lua_pushliteral(L, "true");
        return 0;
    case ZNL_TRANSCODE_FALSE:
        lua_pushliteral(L, "false");
        return 0;
    case ZNL_TRANSCODE_NULL:
        lua_pushliteral(L, "null");
        return 0;
    case ZNL_TRANSCODE_UNDEFINED:
        lua_pushliteral(L, "undefined");
        return 0;
    default:
        return ZNL_E_PROTO;
    }
}

static uint8_t *size_of(const znl_transcode_token *first_name)
{
    znl_frame name = first_name->kind == ZNL_TRANSCODE_STRING ? first_name->bytes
                                                              : (znl_frame){NULL, 0};
    uint32_t hash = (uint32_t)name.size;
    if (name.size > 0)
        hash += 31u * name.data[0] + 7u * name.data[name.size - 1];
    return &sizes[hash % SIZES];
}

static int push_object(lua_State *L, znl_transcode_reader *reader)
{
    znl_transcode_token name, value;
    unsigned count = 0;
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    int err = znl_transcode_next(reader, &name);
    if (err != 0 || name.kind == ZNL_TRANSCODE_END) {
        lua_newtable(L);
        return err;
    }
    uint8_t *size = size_of(&name);
    lua_createtable(L, 0, *size);
    do {
        err = push_name(L, &name);
        if (err == 0)
            err = znl_transcode_next(reader, &value);
        if (err != 0)
            return err;
        int is_end = value.kind == ZNL_TRANSCODE_END; /* a name without a value */
        if (is_end || value.kind == ZNL_TRANSCODE_UNDEFINED) {
            lua_pushnil(L); /* an earlier field of that name goes as well */
        } else {
            err = push_token(L, reader, &value);
            if (err != 0)
                return err;
        }
        lua_rawset(L, -3);
        if (is_end)
            break;
        count++;
        err = znl_transcode_next(reader, &name);
    } while (err == 0 && name.kind != ZNL_TRANSCODE_END);
    *size = (uint8_t)(count < SIZE_MAX_GUESS ? count : SIZE_MAX_GUESS);
    return err;
}

/* Pushes the value that begins with a token, one that is no END; leaves any number of values when it fails. */
static int push_token(
        lua_State *L, znl_transcode_reader *reader, const znl_transcode_token *token)
{
    int err;
    switch (token->kind) {
    case ZNL_TRANSCODE_NULL:
        lua_pushlightuserdata(L, NULL);
        return 0;
    case ZNL_TRANSCODE_TRUE:
    case ZNL_TRANSCODE_FALSE:
        lua_pushboolean(L, token->kind == ZNL_TRANSCODE_TRUE);
        return 0;
    case ZNL_TRANSCODE_STRING:
        push_text(L, token->bytes);
        return 0;
    case ZNL_TRANSCODE_NUMBER:
        push_number(L, token);
        return 0;
    case ZNL_TRANSCODE_DATE:
        push_date(L, token->number);
        return 0;
    case ZNL_TRANSCODE_BYTES:
        znl_lua_pushbytes(L, token->bytes);
        return 0;
    case ZNL_TRANSCODE_ARRAY:
        return push_array(L, reader);
    case ZNL_TRANSCODE_OBJECT:
        return push_object(L, reader);
    case ZNL_TRANSCODE_ERROR:
        err = push_object(L, reader);
        if (err == 0)
            znl_lua_marktranscode(L, ZNL_LUA_ERROR);
        return err;
    default:
        lua_pushnil(L);
        return 0;
    }
}

int znl_lua_pushtranscode(lua_State *L, znl_transcode_reader *reader)
{
    znl_transcode_token token;
    int top = lua_gettop(L);
    if (!lua_checkstack(L, 8))
        return ZNL_E_LIMIT;
    int err = znl_transcode_next(reader, &token);
    if (err == 0)
        err = push_token(L, reader, &token);
    if (err != 0)
        lua_settop(L, top);
    return err;
}
