/* request.c - a request as its handler sees it: a table, with fields and methods that look at
 * the job behind it; and the function that makes it.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/node/node.h"

#include <string.h>

/* What the task of a request runs. Everything that can fail for memory comes before `fetch` returns:
 * until then nothing has happened that anybody could see. Tables are copied from the constant one in
 * the code, which costs a third of filling an empty one. The handler is called in the end, so that no
 * traceback shows this, and no level of error() leads here. */
static const char serving[] =
        "local fetch, meta = ...\n"
        "local setmetatable = setmetatable\n"
        "local function serve()\n"
        "  local req = { false, 0, payload = '', from = '' }\n"
        "  local handler\n"
        "  handler, req[1], req[2], req.payload, req.from = fetch()\n"
        "  return handler(setmetatable(req, meta))\n"
        "end\n"
        "local function serve_call()\n"
        "  local req = { false, 0, payload = '', from = '', route = '' }\n"
        "  local handler, decode\n"
        "  handler, req[1], req[2], req.payload, req.from, req.route, decode = fetch()\n"
        "  setmetatable(req, meta)\n"
        "  if decode then return decode(handler, req) end\n"
        "  return handler(req)\n"
        "end\n"
        "return serve, serve_call\n";

/* fetch() -> handler, node, ticket, payload, from; of a call also route or nil, decode or nil: the
 * request of the running task. A request that is kept keeps the node. */
static int fetch(lua_State *L)
{
    struct job *job = znl_sched_user_of(L, znl_node_box_handler_done);
    const znl_message *message = job != NULL ? job->message : NULL;
    if (message == NULL)
        return luaL_error(L, "a request is fetched once");
    znl_node_job_pushhandler(L, job);
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->jobs.anchor.ref);
    lua_pushnumber(L, (lua_Number)job->base.ticket);
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    znl_node_box_pushframe(L, message->peer);
    if (message->call != NULL) {
        if (message->call->route.size > 0)
            znl_node_box_pushframe(L, message->call->route);
        else
            lua_pushnil(L);
        lua_rawgeti(L, LUA_REGISTRYINDEX, job->is_json ? job->node->run_json_ref : LUA_REFNIL);
    }
    job->message = NULL;
    return message->call != NULL ? 7 : 5;
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

/* The two functions above are upvalues of nothing a script can reach, but kept where each node finds them. */
static const char serve_key, serve_call_key;

static void keep(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void znl_node_box_pushserve(lua_State *L, int is_call)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)(is_call ? &serve_call_key : &serve_key));
    lua_rawget(L, LUA_REGISTRYINDEX);
}

void znl_node_box_open_request_type(lua_State *L)
{
    luaL_newmetatable(L, ZNL_REQUEST_TYPE);
    lua_newtable(L);
    luaL_register(L, NULL, znl_request_methods);
    lua_pushcclosure(L, request_index, 1);
    lua_setfield(L, -2, "__index");
    if (luaL_loadbuffer(L, serving, sizeof serving - 1, "=znl/request") != 0)
        lua_error(L);
    lua_pushcfunction(L, fetch);
    lua_pushvalue(L, -3);
    lua_call(L, 2, 2);
    keep(L, &serve_call_key);
    keep(L, &serve_key);
    lua_pop(L, 1);
}
