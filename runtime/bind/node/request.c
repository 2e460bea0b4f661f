/* request.c - a request as its handler sees it: a table, with fields and methods that look at
 * the job behind it.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/node/node.h"

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
    znl_job_pushticket(L, &job->base);
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->request_meta_ref);
    lua_setmetatable(L, -2);
}

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
    const struct job *job = (const struct job *)znl_job_of(L, znl_node_box_job_ended);
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
    luaL_register(L, NULL, znl_request_methods);
    lua_pushcclosure(L, request_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
