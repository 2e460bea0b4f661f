/* heartbeat.c - znl.core.heartbeat: who gave a sign of life lately.
 *
 *     new{max = 10000, timeout_ms = 9000} -> table of ids, at most `max`
 *     h:touch(id [, now_ms]) -> is_new | nil, message, code
 *     h:expire([now_ms]) -> array of the ids silent for more than timeout_ms, longest first; they
 *                           are removed
 *     h:remove(id) -> was_there
 *     h:count() -> number; h:list() -> array of {id=, since_ms=, last_seen_ms=}, longest silent
 *                  first
 *     h:close()
 *
 * It starts no timer: call expire() when it suits. `now_ms` is monotonic and for tests; without it
 * the clock of the loop counts. One table takes its times from one of the two.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/bind.h"

#include "base/err.h"
#include "base/limits.h"
#include "state/presence.h"
#include "transport/loop.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

#define TYPE "znl.core.heartbeat"
#define TIMEOUT_MS_DEFAULT (3u * ZNL_HEARTBEAT_MS_DEFAULT)
#define NOW_MS_MAX 9007199254740992.0 /* 2^53: beyond it doubles skip whole numbers */

struct heartbeat {
    znl_presence *presence; /* NULL when closed */
    uint32_t timeout_ms;
    uint32_t changes; /* counted, for walks that a finalizer may interrupt */
};

static struct heartbeat *check_heartbeat(lua_State *L)
{
    struct heartbeat *heartbeat = luaL_checkudata(L, 1, TYPE);
    luaL_argcheck(L, heartbeat->presence != NULL, 1, "the heartbeat table is closed");
    return heartbeat;
}

static uint64_t check_now(lua_State *L, int idx)
{
    if (lua_isnoneornil(L, idx))
        return znl_loop_now_ms(znl_vm_of(L)->loop);
    lua_Number now = lua_type(L, idx) == LUA_TNUMBER ? lua_tonumber(L, idx) : -1;
    if (!(now >= 0 && now <= NOW_MS_MAX))
        luaL_argerror(L, idx, "now_ms must be a number of milliseconds");
    return (uint64_t)now;
}

static uint32_t read_option(
        lua_State *L, const char *name, uint32_t min, uint32_t max, uint32_t otherwise)
{
    lua_getfield(L, 1, name);
    uint32_t value = otherwise;
    if (!lua_isnil(L, -1))
        value = znl_lua_checku32(L, lua_gettop(L), name, min, max);
    lua_pop(L, 1);
    return value;
}

static void refuse_unknown_options(lua_State *L)
{
    lua_pushnil(L);
    while (lua_next(L, 1) != 0) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2)
                                                          : "(not a name)";
        if (strcmp(name, "max") != 0 && strcmp(name, "timeout_ms") != 0)
            luaL_error(L, "heartbeat.new: unknown option '%s'", name);
        lua_pop(L, 1);
    }
}

static int heartbeat_new(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    refuse_unknown_options(L);
    uint32_t max = read_option(L, "max", 1, ZNL_PEERS_MAX, ZNL_PEERS_DEFAULT);
    uint32_t timeout_ms = read_option(
            L, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX, TIMEOUT_MS_DEFAULT);
    struct heartbeat *heartbeat = lua_newuserdata(L, sizeof *heartbeat);
    *heartbeat = (struct heartbeat){NULL, timeout_ms, 0};
    luaL_getmetatable(L, TYPE);
    lua_setmetatable(L, -2);
    int err = znl_presence_new(&heartbeat->presence, max, 0);
    return err == 0 ? 1 : znl_lua_fail(L, err, "heartbeat.new");
}

static int heartbeat_touch(lua_State *L)
{
    struct heartbeat *heartbeat = check_heartbeat(L);
    znl_frame id = znl_lua_checkframe(L, 2, "id", ZNL_ID_BYTES_MAX);
    uint64_t now_ms = check_now(L, 3);
    znl_presence_entry *entry = NULL;
    int is_new = 0;
    heartbeat->changes++;
    int err = znl_presence_touch(
            heartbeat->presence, id, znl_map_hash(id), now_ms, &entry, &is_new);
    if (err != 0)
        return znl_lua_fail(L, err, "heartbeat.touch");
    lua_pushboolean(L, is_new);
    return 1;
}

static int heartbeat_remove(lua_State *L)
{
    struct heartbeat *heartbeat = check_heartbeat(L);
    znl_frame id = znl_lua_checkframe(L, 2, "id", ZNL_ID_BYTES_MAX);
    znl_presence_entry *entry = znl_presence_find(heartbeat->presence, id, znl_map_hash(id));
    if (entry != NULL) {
        heartbeat->changes++;
        znl_presence_take(heartbeat->presence, entry);
        znl_presence_drop(entry);
    }
    lua_pushboolean(L, entry != NULL);
    return 1;
}

/* Copied first: lua_pushlstring may run finalizers before it reads. */
static void push_id(lua_State *L, const znl_presence_entry *entry)
{
    char id[ZNL_ID_BYTES_MAX];
    size_t size = entry->map.key.size;
    memcpy(id, entry->map.key.data, size);
    lua_pushlstring(L, id, size);
}

static int heartbeat_expire(lua_State *L)
{
    struct heartbeat *heartbeat = check_heartbeat(L);
    uint64_t now_ms = check_now(L, 2);
    znl_presence_entry *entry;
    int count = 0;
    lua_newtable(L);
    check_heartbeat(L); /* a finalizer may have closed it just now */
    while ((entry = znl_presence_oldest(heartbeat->presence)) != NULL &&
            now_ms > entry->last_seen_ms &&
            now_ms - entry->last_seen_ms > heartbeat->timeout_ms) {
        /* Named before it is taken out: both calls can run out of memory and raise. A finalizer
         * that runs in them may have closed or changed the table, so the entry is looked up. */
        uint64_t hash = entry->map.hash;
        push_id(L, entry);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++count);
        if (heartbeat->presence == NULL) {
            lua_pop(L, 1);
            break;
        }
        znl_frame id = {0};
        id.data = (const uint8_t *)lua_tolstring(L, -1, &id.size);
        entry = znl_presence_find(heartbeat->presence, id, hash);
        if (entry != NULL) {
            heartbeat->changes++;
            znl_presence_take(heartbeat->presence, entry);
            znl_presence_drop(entry);
        }
        lua_pop(L, 1);
    }
    return 1;
}

static int heartbeat_count(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)znl_presence_count(check_heartbeat(L)->presence));
    return 1;
}

static int heartbeat_list(lua_State *L)
{
    struct heartbeat *heartbeat = check_heartbeat(L);
    lua_newtable(L);
    check_heartbeat(L); /* a finalizer may have closed it just now */
    uint32_t changes = heartbeat->changes;
    const znl_presence_entry *entry = znl_presence_oldest(heartbeat->presence);
    for (int i = 1; entry != NULL; i++, entry = znl_presence_newer(entry)) {
        lua_Number since_ms = (lua_Number)entry->since_ms;
        lua_Number last_seen_ms = (lua_Number)entry->last_seen_ms;
        push_id(L, entry);
        lua_createtable(L, 0, 3);
        lua_insert(L, -2);
        lua_setfield(L, -2, "id");
        lua_pushnumber(L, since_ms);
        lua_setfield(L, -2, "since_ms");
        lua_pushnumber(L, last_seen_ms);
        lua_setfield(L, -2, "last_seen_ms");
        lua_rawseti(L, -2, i);
        if (heartbeat->changes != changes)
            return luaL_error(L, "heartbeat.list: changed by a finalizer meanwhile");
    }
    return 1;
}

static int heartbeat_close(lua_State *L)
{
    struct heartbeat *heartbeat = luaL_checkudata(L, 1, TYPE);
    heartbeat->changes++;
    znl_presence_free(heartbeat->presence);
    heartbeat->presence = NULL;
    return 0;
}

static const luaL_Reg methods[] = {
        {"touch", heartbeat_touch},
        {"remove", heartbeat_remove},
        {"expire", heartbeat_expire},
        {"count", heartbeat_count},
        {"list", heartbeat_list},
        {"close", heartbeat_close},
        {NULL, NULL},
};

int luaopen_znl_core_heartbeat(lua_State *L)
{
    znl_lua_newtype(L, TYPE, methods, heartbeat_close);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, heartbeat_new);
    lua_setfield(L, -2, "new");
    return 1;
}
