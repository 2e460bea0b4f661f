/* cluster.c - znl.core.cluster: leaders and followers of the cluster-client protocol as Lua sees them; see
 * cluster.h.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/err.h"
#include "base/log.h"
#include "codec/json.h"

/* --- objects ----------------------------------------------------------------------------------- */

/* Puts the function that field `name` of the table at `index` holds to `place` of the environment at the top.
 * Returns whether there is one. */
static int own_function(lua_State *L, int index, const char *name, int place)
{
    lua_getfield(L, index, name);
    int is_there = !lua_isnil(L, -1);
    if (is_there && !lua_isfunction(L, -1))
        luaL_error(L, "%s must be a function", name);
    lua_rawseti(L, -2, place);
    return is_there;
}

int znl_cluster_own(lua_State *L, const znl_anchor *anchor, int index, int options)
{
    int top = lua_gettop(L), is_custom = 0;
    lua_createtable(L, ZNL_CLUSTER_OWN, 0);
    own_function(L, options, "on_event", ZNL_CLUSTER_ON_EVENT);
    lua_getfield(L, options, "transcode");
    if (!lua_isnil(L, -1)) {
        if (!lua_istable(L, -1))
            luaL_error(L, "transcode must be a table { encode =, decode = }");
        int functions = lua_gettop(L);
        lua_pushvalue(L, -2);
        is_custom = own_function(L, functions, "encode", ZNL_CLUSTER_ENCODE) &&
                own_function(L, functions, "decode", ZNL_CLUSTER_DECODE);
        if (!is_custom)
            luaL_error(L, "transcode must have encode and decode");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    lua_setfenv(L, index);
    lua_pushvalue(L, index);
    znl_anchor_enter(L, anchor);
    lua_settop(L, top);
    return is_custom;
}

void znl_cluster_push_own(lua_State *L, const znl_anchor *anchor, int place)
{
    if (!znl_anchor_push(L, anchor)) {
        lua_pushnil(L);
        return;
    }
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, place);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

int znl_cluster_emit(lua_State *L, const znl_anchor *anchor, int count, int results)
{
    znl_cluster_push_own(L, anchor, ZNL_CLUSTER_ON_EVENT);
    if (lua_isnil(L, -1)) {
        lua_pop(L, count + 1);
        return 0;
    }
    lua_insert(L, -1 - count);
    return znl_lua_callevent(L, "cluster", count, results);
}

int znl_cluster_unsendable(lua_State *L, const char *where, const char *problem)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: cannot send %s", where, problem);
    lua_pushstring(L, znl_err_code(ZNL_E_INVALID));
    return 3;
}

int znl_cluster_fail(lua_State *L, int err, const char *where)
{
    if (err != ZNL_E_TOO_BIG)
        return znl_lua_fail(L, err, where);
    lua_pushnil(L);
    lua_pushfstring(L, "%s: larger than max_message_bytes", where);
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

void znl_cluster_push_frame(lua_State *L, znl_frame frame)
{
    if (frame.data == NULL)
        lua_pushnil(L);
    else
        lua_pushlstring(L, (const char *)frame.data, frame.size);
}

znl_frame znl_cluster_check_json(lua_State *L, int index, const char *name)
{
    znl_frame raw = {NULL, 0};
    if (lua_isnoneornil(L, index))
        return raw;
    znl_frame text = znl_lua_checkframe(L, index, name, ZNL_CLUSTER_KEY_BYTES_MAX);
    znl_json_reader reader;
    znl_json_begin(&reader, text, ZNL_JSON_DEPTH_DEFAULT);
    if (znl_json_skip(&reader, &raw) != 0 || znl_json_end(&reader) != 0)
        luaL_error(L, "%s must be JSON text", name);
    return raw;
}

/* --- counters ---------------------------------------------------------------------------------- */

void znl_cluster_set_number(lua_State *L, const char *name, uint64_t value)
{
    lua_pushnumber(L, (lua_Number)value);
    lua_setfield(L, -2, name);
}

void znl_cluster_add_counters(
        znl_cluster_link_counters *sum, const znl_cluster_link_counters *more)
{
#define ZNL_CLUSTER_ADD(name) sum->name += more->name;
    ZNL_CLUSTER_LINK_COUNTERS(ZNL_CLUSTER_ADD)
#undef ZNL_CLUSTER_ADD
}

void znl_cluster_set_counters(lua_State *L, const znl_cluster_link_counters *counters)
{
#define ZNL_CLUSTER_SET(name) znl_cluster_set_number(L, #name, counters->name);
    ZNL_CLUSTER_LINK_COUNTERS(ZNL_CLUSTER_SET)
#undef ZNL_CLUSTER_SET
}

/* --- streams ----------------------------------------------------------------------------------- */

static int carry(void *stream, size_t size, uint8_t **at)
{
    return znl_stream_reserve(stream, size, at);
}

static void commit(void *stream, size_t size)
{
    znl_stream_commit(stream, size);
}

static size_t queued(void *stream)
{
    return znl_stream_queued(stream);
}

static void await(void *stream, size_t below)
{
    znl_stream_await(stream, below);
}

const znl_cluster_carrier znl_cluster_stream_carrier = {carry, commit, queued, await};

/* --- the module -------------------------------------------------------------------------------- */

int luaopen_znl_core_cluster(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"listen", znl_cluster_listen},
            {"connect", znl_cluster_connect},
            {NULL, NULL},
    };
    znl_anchor_open(L);
    znl_cluster_open_server_type(L);
    znl_cluster_open_channel_type(L);
    znl_cluster_open_request_type(L);
    znl_cluster_open_link_type(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
