/* pack.c - see pack.h. SPDX-License-Identifier: MIT
 *
 * A value is a tag and what it needs: a number 8 bytes, a string u32 length and bytes, an array u32
 * count and values, a table u32 count of array values, these, then pairs up to PACK_END; a table that
 * is marked as a JSON array has a tag of its own. */
#include "bind/values/pack.h"

#include "base/err.h"
#include "bind/values/json.h"

#include <lauxlib.h>
#include <string.h>

enum tag {
    PACK_NIL,
    PACK_FALSE,
    PACK_TRUE,
    PACK_NULL,
    PACK_NUMBER,
    PACK_STRING,
    PACK_TABLE,
    PACK_ARRAY,
    PACK_SIGNED,
    PACK_UNSIGNED,
    PACK_END
};

struct measure {
    size_t size;
    const char *refused;
};

/* True for the keys 1 .. count, which are written as the array. */
static int is_in_array(lua_State *L, int idx, size_t count)
{
    if (lua_type(L, idx) != LUA_TNUMBER)
        return 0;
    lua_Number key = lua_tonumber(L, idx);
    return key >= 1 && key <= (lua_Number)count && (lua_Number)(size_t)key == key;
}

/* lua_objlen may count past a hole; what is nil there is written as nil, and read as nothing. */
static int measure(lua_State *L, int idx, int depth, struct measure *out);

static int measure_table(lua_State *L, int idx, int depth, struct measure *out)
{
    size_t count = lua_objlen(L, idx);
    if (depth >= ZNL_PACK_DEPTH_MAX)
        return ZNL_E_INVALID;
    if (!lua_checkstack(L, 12))
        return ZNL_E_NOMEM;
    if (count > INT32_MAX)
        return ZNL_E_TOO_BIG;
    out->size += 1 + sizeof(uint32_t) + 1;
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, idx, (int)i);
        int err = measure(L, lua_gettop(L), depth + 1, out);
        lua_pop(L, 1);
        if (err != 0)
            return err;
    }
    for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
        int top = lua_gettop(L);
        if (is_in_array(L, top - 1, count))
            continue;
        int err = measure(L, top - 1, depth + 1, out);
        if (err == 0)
            err = measure(L, top, depth + 1, out);
        if (err != 0) {
            lua_pop(L, 2);
            return err;
        }
    }
    return 0;
}

static int measure(lua_State *L, int idx, int depth, struct measure *out)
{
    int type = lua_type(L, idx);
    uint64_t bits;
    if (out->size > UINT32_MAX) /* tables that share tables grow beyond all bounds: end early */
        return ZNL_E_TOO_BIG;
    switch (type) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
        out->size += 1;
        break;
    case LUA_TNUMBER:
        out->size += 1 + sizeof(lua_Number);
        break;
    case LUA_TSTRING:
        if (lua_objlen(L, idx) > UINT32_MAX)
            return ZNL_E_TOO_BIG;
        out->size += 1 + sizeof(uint32_t) + lua_objlen(L, idx);
        break;
    case LUA_TLIGHTUSERDATA:
        if (lua_touserdata(L, idx) != NULL) {
            out->refused = "light userdata";
            return ZNL_E_INVALID;
        }
        out->size += 1;
        break;
    case LUA_TTABLE:
        return measure_table(L, idx, depth, out);
    default:
        if (znl_lua_tolong(L, idx, &bits) != 0) {
            out->size += 1 + sizeof bits;
            break;
        }
        out->refused = lua_typename(L, type);
        return ZNL_E_INVALID;
    }
    return 0;
}

int znl_pack_measure(lua_State *L, int first, int count, size_t *size, const char **refused)
{
    struct measure out = {0};
    int err = 0;
    for (int i = 0; i < count && err == 0; i++)
        err = measure(L, first + i, 0, &out);
    *refused = out.refused;
    *size = out.size;
    return err == 0 && out.size > UINT32_MAX ? ZNL_E_TOO_BIG : err;
}

/* --- writing ---------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *at, const void *bytes, size_t size)
{
    if (size > 0)
        memcpy(at, bytes, size);
    return at + size;
}

static uint8_t *write_value(lua_State *L, int idx, uint8_t *at);

static uint8_t *write_table(lua_State *L, int idx, uint8_t *at)
{
    uint32_t count = (uint32_t)lua_objlen(L, idx);
    *at++ = znl_lua_isjsonarray(L, idx) ? PACK_ARRAY : PACK_TABLE;
    at = put(at, &count, sizeof count);
    for (uint32_t i = 1; i <= count; i++) {
        lua_rawgeti(L, idx, (int)i);
        at = write_value(L, lua_gettop(L), at);
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, idx) != 0; lua_pop(L, 1)) {
        int top = lua_gettop(L);
        if (is_in_array(L, top - 1, count))
            continue;
        at = write_value(L, top - 1, at);
        at = write_value(L, top, at);
    }
    *at++ = PACK_END;
    return at;
}

static uint8_t *write_value(lua_State *L, int idx, uint8_t *at)
{
    switch (lua_type(L, idx)) {
    case LUA_TBOOLEAN:
        *at++ = lua_toboolean(L, idx) ? PACK_TRUE : PACK_FALSE;
        return at;
    case LUA_TNUMBER: {
        lua_Number number = lua_tonumber(L, idx);
        *at++ = PACK_NUMBER;
        return put(at, &number, sizeof number);
    }
    case LUA_TSTRING: {
        size_t length;
        const char *text = lua_tolstring(L, idx, &length);
        uint32_t size = (uint32_t)length;
        *at++ = PACK_STRING;
        at = put(at, &size, sizeof size);
        return put(at, text, length);
    }
    case LUA_TTABLE:
        return write_table(L, idx, at);
    case LUA_TLIGHTUSERDATA:
        *at++ = PACK_NULL;
        return at;
    case LUA_TNIL:
        *at++ = PACK_NIL;
        return at;
    default: {
        uint64_t bits = 0;
        *at++ = znl_lua_tolong(L, idx, &bits) == 1 ? PACK_SIGNED : PACK_UNSIGNED;
        return put(at, &bits, sizeof bits);
    }
    }
}

void znl_pack_write(lua_State *L, int first, int count, uint8_t *out)
{
    for (int i = 0; i < count; i++)
        out = write_value(L, first + i, out);
}

/* --- reading ---------------------------------------------------------------------------------- */

static const uint8_t *take_u32(const uint8_t *at, uint32_t *out)
{
    memcpy(out, at, sizeof *out);
    return at + sizeof *out;
}

static const uint8_t *push_value(lua_State *L, const uint8_t *at);

static const uint8_t *push_table(lua_State *L, const uint8_t *at)
{
    uint32_t count;
    at = take_u32(at, &count);
    luaL_checkstack(L, 8, "packed table");
    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 1; i <= count; i++) {
        at = push_value(L, at);
        lua_rawseti(L, -2, (int)i);
    }
    while (*at != PACK_END) {
        at = push_value(L, at);
        at = push_value(L, at);
        lua_rawset(L, -3);
    }
    return at + 1;
}

static const uint8_t *push_value(lua_State *L, const uint8_t *at)
{
    enum tag tag = (enum tag)at[0];
    at++;
    switch (tag) {
    case PACK_FALSE:
        lua_pushboolean(L, 0);
        return at;
    case PACK_TRUE:
        lua_pushboolean(L, 1);
        return at;
    case PACK_NULL:
        lua_pushlightuserdata(L, NULL);
        return at;
    case PACK_NUMBER: {
        lua_Number number;
        memcpy(&number, at, sizeof number);
        lua_pushnumber(L, number);
        return at + sizeof number;
    }
    case PACK_STRING: {
        uint32_t size;
        at = take_u32(at, &size);
        lua_pushlstring(L, (const char *)at, size);
        return at + size;
    }
    case PACK_TABLE:
        return push_table(L, at);
    case PACK_ARRAY:
        at = push_table(L, at);
        znl_lua_markjsonarray(L);
        return at;
    case PACK_SIGNED:
    case PACK_UNSIGNED: {
        uint64_t bits;
        memcpy(&bits, at, sizeof bits);
        znl_lua_pushlong(L, tag == PACK_SIGNED ? 1 : 2, bits);
        return at + sizeof bits;
    }
    case PACK_NIL:
    case PACK_END:
    default:
        lua_pushnil(L);
        return at;
    }
}

int znl_pack_push(lua_State *L, const uint8_t *bytes, size_t size)
{
    const uint8_t *end = bytes + size;
    int count = 0;
    while (bytes < end) {
        luaL_checkstack(L, 8, "packed values");
        bytes = push_value(L, bytes);
        count++;
    }
    return count;
}
