/* bind_node_request.c - a request as its handler sees it: a table, with fields and methods that look at
 * the job behind it.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "bind/bind_node.h"

#include <string.h>

void znl_node_job_pushrequest(lua_State *L, const struct job *job, const znl_message *message)
{
    const znl_node_box *b = job->node;
    lua_createtable(L, 2, message->call != NULL ? 8 : 2);
    /* Not lua_setfield(), which would hash the word for each request. */
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->payload_ref);
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    lua_rawset(L, -3);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->from_ref);
    znl_node_box_pushframe(L, message->peer);
    lua_rawset(L, -3);
    if (message->call != NULL && message->call->route.size > 0) {
        znl_node_box_pushframe(L, message->call->route);
        lua_setfield(L, -2, "route");
    }
    /* The rest is made when asked for, by request_index. A request that is kept keeps the box. */
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->self_ref);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, (lua_Number)job->ticket);
    lua_rawseti(L, -2, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->request_meta_ref);
    lua_setmetatable(L, -2);
}

/* The job of the request at index 1, NULL once its handler has ended. */
static const struct job *job_of(lua_State *L)
{
    if (!lua_istable(L, 1))
        luaL_argerror(L, 1, "request expected");
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    const znl_node_box *b = znl_node_box_at(L, -2);
    lua_Number number = lua_tonumber(L, -1); /* a script may have written anything there */
    uint64_t ticket = number >= 0 && number < 9007199254740992.0 ? (uint64_t)number
                                                                 : UINT64_MAX;
    size_t slot = ticket % ZNL_JOB_SLOTS;
    lua_pop(L, 2);
    if (b == NULL || slot >= b->made_count || b->made[slot]->ticket != ticket)
        return NULL;
    return b->made[slot];
}

/* req:deadline_ms() -> monotonic instant | nil */
static int request_deadline_ms(lua_State *L)
{
    const struct job *job = job_of(L);
    if (job == NULL || job->deadline_ms == 0)
        return 0;
    lua_pushnumber(L, (lua_Number)job->deadline_ms);
    return 1;
}

/* req:remaining_ms() -> milliseconds, 0 when it has passed | nil */
static int request_remaining_ms(lua_State *L)
{
    const struct job *job = job_of(L);
    if (job == NULL || job->deadline_ms == 0)
        return 0;
    uint64_t now_ms = znl_clock_mono_ms();
    lua_pushnumber(L, job->deadline_ms > now_ms ? (lua_Number)(job->deadline_ms - now_ms) : 0);
    return 1;
}

/* req:cancelled() -> true when nobody waits for the answer any more */
static int request_cancelled(lua_State *L)
{
    const struct job *job = job_of(L);
    lua_pushboolean(L,
            job == NULL || job->is_cancelled ||
                    (job->token != NULL && znl_token_is_cancelled(job->token) != 0));
    return 1;
}

static const luaL_Reg request_methods[] = {
        {"deadline_ms", request_deadline_ms},
        {"remaining_ms", request_remaining_ms},
        {"cancelled", request_cancelled},
        {NULL, NULL},
};

/* The methods; req.id, req.service: while the handler runs. Other keys, such as the route a request may
 * not have, are asked for often and end soon. */
static int request_index(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        return 0;
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    const char *key = lua_tostring(L, 2);
    int is_id = strcmp(key, "id") == 0;
    if (!is_id && strcmp(key, "service") != 0)
        return 0;
    const struct job *job = job_of(L);
    if (job == NULL || (!is_id && !job->is_service))
        return 0;
    if (is_id)
        lua_pushlstring(L, (const char *)job->id, job->id_size);
    else
        lua_pushlstring(L, (const char *)job->service, job->service_size);
    return 1;
}

void znl_node_box_open_request_type(lua_State *L)
{
    luaL_newmetatable(L, ZNL_REQUEST_TYPE);
    lua_newtable(L);
    luaL_register(L, NULL, request_methods);
    lua_pushcclosure(L, request_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
