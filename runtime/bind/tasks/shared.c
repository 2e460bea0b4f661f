/* shared.c - znl.core.shared: the dictionaries that all threads share, as Lua sees them.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/shared.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/bind.h"

#include <math.h>

#define SHARED_TYPE "znl.core.shared"
#define KEYS_TYPE "znl.core.shared.keys"
#define KEYS_DEFAULT 1024u
#define STACK_BYTES 1024u /* longer values take the way over a block of Lua's memory */

typedef struct box {
    znl_shared *shared; /* lives until the process ends */
} box;

static znl_shared *check_shared(lua_State *L)
{
    return ((box *)luaL_checkudata(L, 1, SHARED_TYPE))->shared;
}

static znl_frame check_key(lua_State *L)
{
    znl_frame key = znl_lua_checkframe(L, 2, "key", ZNL_SHARED_KEY_BYTES_MAX);
    if (key.size == 0)
        luaL_error(L, "key must not be empty");
    return key;
}

/* nil and 0: for ever */
static uint64_t check_ttl(lua_State *L, int idx)
{
    return lua_isnoneornil(L, idx) ? 0 : znl_lua_checku32(L, idx, "ttl_ms", 0, UINT32_MAX);
}

static double check_number(lua_State *L, int idx, const char *name)
{
    double value = lua_tonumber(L, idx);
    if (lua_type(L, idx) != LUA_TNUMBER || isnan(value))
        luaL_error(L, "%s must be a number", name);
    return value;
}

/* open(name, max_entries|nil, max_bytes|nil, evict|nil) -> dictionary | nil, message, code. With
 * limits: all of them. */
static int shared_open(lua_State *L)
{
    znl_frame name = znl_lua_checkframe(L, 1, "name", ZNL_SHARED_NAME_BYTES_MAX);
    znl_shared_limits limits, *given = NULL;
    if (!lua_isnoneornil(L, 2)) {
        limits.max_entries = znl_lua_checku32(L, 2, "max_entries", 1, ZNL_SHARED_ENTRIES_MAX);
        double bytes = check_number(L, 3, "max_bytes");
        if (floor(bytes) != bytes || bytes < ZNL_SHARED_BYTES_MIN ||
                bytes > (double)ZNL_SHARED_BYTES_MAX)
            return luaL_error(L, "max_bytes must be a whole number of at least %d",
                    (int)ZNL_SHARED_BYTES_MIN);
        limits.max_bytes = (size_t)bytes;
        limits.evict = lua_toboolean(L, 4);
        given = &limits;
    }
    box *b = lua_newuserdata(L, sizeof *b);
    b->shared = NULL;
    int err = znl_shared_open(&b->shared, name, given);
    if (err != 0)
        return znl_lua_fail(L, err, "shared");
    luaL_getmetatable(L, SHARED_TYPE); /* last: a box without dictionary has no methods */
    lua_setmetatable(L, -2);
    return 1;
}

static int push_value(lua_State *L, const znl_shared_value *value)
{
    if (value->type == ZNL_SHARED_STRING)
        lua_pushlstring(L, (const char *)value->text.data, value->text.size);
    else if (value->type == ZNL_SHARED_NUMBER)
        lua_pushnumber(L, value->number);
    else
        lua_pushboolean(L, value->number != 0);
    return 1;
}

/* dictionary:get(key) -> string, number or boolean; nil when it is not there */
static int shared_get(lua_State *L)
{
    znl_shared *shared = check_shared(L);
    znl_frame key = check_key(L);
    uint64_t now_ms = znl_clock_mono_ms();
    znl_shared_value value;
    uint8_t small[STACK_BYTES];
    int err = znl_shared_get(shared, key, now_ms, small, sizeof small, &value);
    while (err == ZNL_E_TOO_BIG) { /* again when another thread made it longer meanwhile */
        size_t size = value.text.size;
        uint8_t *big = lua_newuserdata(L, size);
        err = znl_shared_get(shared, key, now_ms, big, size, &value);
    }
    if (err != 0) {
        lua_pushnil(L);
        return 1;
    }
    return push_value(L, &value);
}

/* true, and how many live entries had to go; or nil, message, code */
static int written(lua_State *L, int err, size_t evicted)
{
    if (err != 0)
        return znl_lua_fail(L, err, "shared");
    lua_pushboolean(L, 1);
    lua_pushnumber(L, (lua_Number)evicted);
    return 2;
}

static int put(lua_State *L, znl_shared_rule rule)
{
    znl_shared *shared = check_shared(L);
    znl_frame key = check_key(L);
    uint64_t ttl_ms = check_ttl(L, 4);
    znl_shared_value value = {0};
    size_t evicted = 0;
    switch (lua_type(L, 3)) {
    case LUA_TSTRING:
        value.type = ZNL_SHARED_STRING;
        value.text.data = (const uint8_t *)lua_tolstring(L, 3, &value.text.size);
        break;
    case LUA_TNUMBER:
        value.type = ZNL_SHARED_NUMBER;
        value.number = lua_tonumber(L, 3);
        break;
    case LUA_TBOOLEAN:
        value.type = ZNL_SHARED_BOOLEAN;
        value.number = lua_toboolean(L, 3);
        break;
    default:
        return luaL_error(L, "value must be a string, a number or a boolean, not %s",
                luaL_typename(L, 3));
    }
    int err = znl_shared_put(shared, rule, key, &value, ttl_ms, znl_clock_mono_ms(), &evicted);
    return written(L, err, evicted);
}

/* dictionary:set(key, value, ttl_ms|nil) -> true, evicted | nil, message, code */
static int shared_set(lua_State *L)
{
    return put(L, ZNL_SHARED_SET);
}

/* dictionary:add(key, value, ttl_ms|nil): as set; nil, message, "EXISTS" when it is there */
static int shared_add(lua_State *L)
{
    return put(L, ZNL_SHARED_ADD);
}

/* dictionary:replace(key, value, ttl_ms|nil): as set; nil, message, "NOT_FOUND" when it is not */
static int shared_replace(lua_State *L)
{
    return put(L, ZNL_SHARED_REPLACE);
}

/* dictionary:incr(key, by|nil, init|nil, ttl_ms|nil) -> the sum | nil, message, code */
static int shared_incr(lua_State *L)
{
    znl_shared *shared = check_shared(L);
    znl_frame key = check_key(L);
    double by = lua_isnoneornil(L, 3) ? 1 : check_number(L, 3, "by");
    int has_init = !lua_isnoneornil(L, 4);
    double init = has_init ? check_number(L, 4, "init") : 0;
    uint64_t ttl_ms = check_ttl(L, 5);
    double result = 0;
    size_t evicted = 0;
    int err = znl_shared_incr(shared, key, by, has_init ? &init : NULL, ttl_ms,
            znl_clock_mono_ms(), &result, &evicted);
    if (err == ZNL_E_INVALID) {
        lua_pushnil(L);
        lua_pushliteral(L, "shared: the value is not a number");
        lua_pushstring(L, znl_err_code(err));
        return 3;
    }
    if (err != 0)
        return znl_lua_fail(L, err, "shared");
    lua_pushnumber(L, result);
    return 1;
}

/* dictionary:delete(key) -> true when it was there */
static int shared_delete(lua_State *L)
{
    znl_shared *shared = check_shared(L);
    lua_pushboolean(L, znl_shared_delete(shared, check_key(L), znl_clock_mono_ms()) == 0);
    return 1;
}

static int shared_flush(lua_State *L)
{
    znl_shared_flush(check_shared(L));
    return 0;
}

static int shared_size(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_shared_size(check_shared(L), znl_clock_mono_ms()));
    return 1;
}

static int keys_gc(lua_State *L)
{
    uint8_t **block = lua_touserdata(L, 1);
    znl_free(*block);
    *block = NULL;
    return 0;
}

/* dictionary:keys(max|nil) -> array | nil, message, code */
static int shared_keys(lua_State *L)
{
    znl_shared *shared = check_shared(L);
    uint32_t max = lua_isnoneornil(L, 2)
            ? KEYS_DEFAULT
            : znl_lua_checku32(L, 2, "max", 1, ZNL_SHARED_ENTRIES_MAX);
    size_t count = 0;
    uint8_t **block = lua_newuserdata(L, sizeof *block);
    *block = NULL;
    luaL_getmetatable(L, KEYS_TYPE);
    lua_setmetatable(L, -2);
    int err = znl_shared_keys(shared, max, znl_clock_mono_ms(), block, &count);
    if (err != 0)
        return znl_lua_fail(L, err, "shared");
    lua_createtable(L, (int)count, 0);
    const uint8_t *at = *block;
    for (size_t i = 1; i <= count; i++) {
        uint32_t size;
        memcpy(&size, at, sizeof size);
        lua_pushlstring(L, (const char *)at + sizeof size, size);
        lua_rawseti(L, -2, (int)i);
        at += sizeof size + size;
    }
    znl_free(*block);
    *block = NULL;
    return 1;
}

/* dictionary:stats() -> { entries=, bytes=, evicted=, expired=, max_entries=, max_bytes= } */
static int shared_stats(lua_State *L)
{
    znl_shared *shared = check_shared(L);
    znl_shared_limits limits = znl_shared_limits_of(shared);
    znl_shared_stats stats;
    znl_shared_stats_of(shared, &stats);
    const struct {
        const char *name;
        double value;
    } rows[] = {
            {"entries", (double)stats.entries},
            {"bytes", (double)stats.bytes},
            {"evicted", (double)stats.evicted},
            {"expired", (double)stats.expired},
            {"max_entries", (double)limits.max_entries},
            {"max_bytes", (double)limits.max_bytes},
    };
    lua_newtable(L);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lua_pushnumber(L, rows[i].value);
        lua_setfield(L, -2, rows[i].name);
    }
    return 1;
}

int luaopen_znl_core_shared(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"get", shared_get},
            {"set", shared_set},
            {"add", shared_add},
            {"replace", shared_replace},
            {"incr", shared_incr},
            {"delete", shared_delete},
            {"flush", shared_flush},
            {"size", shared_size},
            {"keys", shared_keys},
            {"stats", shared_stats},
            {NULL, NULL},
    };
    static const luaL_Reg no_methods[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {{"open", shared_open}, {NULL, NULL}};
    znl_lua_newtype(L, SHARED_TYPE, methods, NULL);
    znl_lua_newtype(L, KEYS_TYPE, no_methods, keys_gc);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
