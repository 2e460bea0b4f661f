/* request.c - a request as its handler sees it, and the chunks that it writes.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/err.h"

#include <stdio.h>

/* Chunks written in a row before the other connections have their turn (spec, section 24, 10). */
#define CHUNKS_IN_A_ROW 16u

void znl_micro_call_pushbare(lua_State *L, const znl_micro_call *call)
{
    const znl_micro_box *box = call->link->box;
    lua_createtable(L, 2, 0);
    znl_job_pushticket(L, &call->base);
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->request_meta_ref);
    lua_setmetatable(L, -2);
}

int znl_micro_call_pushrequest(
        lua_State *L, const znl_micro_call *call, const znl_micro_request *request)
{
    const znl_micro_link *link = call->link;
    /* The rest is made when asked for. A request that is kept keeps the core. */
    lua_rawgeti(L, LUA_REGISTRYINDEX, link->box->jobs.anchor.ref);
    lua_pushnumber(L, (lua_Number)call->base.ticket);
    lua_pushlstring(L, (const char *)request->url.data, request->url.size);
    int err = 0;
    if (request->data.data == NULL)
        lua_pushnil(L);
    else
        err = znl_lua_pushjson(L, request->data);
    if (err != 0) {
        lua_pop(L, 3);
        return err;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, link->anchor.ref);
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, ZNL_CONN_KEY);
    lua_rawgeti(L, -2, ZNL_CONN_CLIENT);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushvalue(L, -3);
    }
    lua_replace(L, -3); /* over the environment, */
    lua_replace(L, -3); /* over the connection */
    lua_pushboolean(L, call->name == 0);
    lua_pushboolean(L, call->is_stream);
    return 0;
}

static znl_micro_call *call_of(lua_State *L)
{
    return (znl_micro_call *)znl_job_of(L, znl_micro_box_job_ended);
}

/* --- chunks ------------------------------------------------------------------------------------ */

static void writer_lost(void *user, uint64_t id)
{
    znl_micro_call *call = user;
    (void)id;
    call->writer = (znl_wait){NULL, 0};
}

void znl_micro_call_drop_writer(znl_micro_call *call)
{
    znl_wait writer = call->writer;
    call->writer = (znl_wait){NULL, 0};
    if (writer.task != NULL)
        znl_sched_wake_error_later(
                call->link->box->vm->sched, writer, ZNL_E_CANCELLED, "write");
}

static int write_failed(lua_State *L, const char *text)
{
    lua_pushnil(L);
    lua_pushfstring(L, "write: %s", text);
    lua_pushstring(L, znl_err_code(ZNL_E_CANCELLED));
    return 3;
}

/* write(req, chunk) -> true | nil, message, code: waits while there is no room */
int znl_micro_request_write(lua_State *L)
{
    znl_micro_call *call = call_of(L);
    if (call == NULL || call->is_gone || call->base.is_answered || call->base.is_cancelled)
        return write_failed(L, "nobody waits for it any more");
    if (!call->is_stream)
        return luaL_error(L, "write: no stream was asked for");
    if (call->writer.task != NULL)
        return luaL_error(L, "write: another task writes to this stream");
    if (!znl_sched_is_task(L))
        znl_sched_park(L); /* raises, and says why */
    znl_micro_box *box = call->link->box;
    char problem[ZNL_MICRO_PROBLEM_BYTES];
    znl_frame chunk;
    int err = znl_micro_box_data(L, 2, box, &chunk, problem);
    if (err == ZNL_E_INVALID)
        return luaL_error(L, "write: JSON cannot carry %s", problem);
    if (err == 0)
        err = znl_micro_chunk(call->link->micro, call->name, chunk);
    if (err == ZNL_E_INVALID)
        return luaL_error(L,
                "write: a chunk that is null ends the stream of this peer; wrap it in a table");
    if (err == ZNL_E_NOT_FOUND)
        return write_failed(L, "nobody waits for it any more");
    if (err == ZNL_E_BUSY) {
        call->held.size = 0;
        err = znl_buffer_append(&call->held, chunk.data, chunk.size);
        if (err == 0) {
            call->writer = znl_sched_park_as(L, "write");
            znl_sched_on_lost(box->vm->sched, writer_lost, call, 0);
            if (call->writer.ticket == 0)
                call->writer.task = NULL;
            return lua_yield(L, 0);
        }
    }
    if (err != 0)
        return znl_lua_fail(L, err, "write");
    if (++call->writes % CHUNKS_IN_A_ROW == 0) {
        znl_sched_wake_later(box->vm->sched, znl_sched_park_as(L, "write"));
        return lua_yield(L, 0);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int push_true(lua_State *L, void *user)
{
    (void)user;
    lua_pushboolean(L, 1);
    return 1;
}

void znl_micro_call_write_on(znl_micro_call *call)
{
    znl_micro_link *link = call->link;
    znl_sched *sched = link->box->vm->sched;
    znl_wait writer = call->writer;
    if (writer.task == NULL)
        return;
    znl_frame chunk = {NULL, 0}; /* absent; JSON has one byte at least */
    if (call->held.size > 0)
        chunk = znl_frame_of(call->held.data, call->held.size);
    int err = znl_micro_chunk(link->micro, call->name, chunk);
    if (err == ZNL_E_BUSY)
        return;
    call->writer = (znl_wait){NULL, 0};
    call->writes++;
    if (err != 0)
        znl_sched_wake_error_later(sched, writer, err, "write");
    else if (znl_sched_busy(sched))
        znl_sched_wake_later(sched, writer);
    else
        znl_sched_wake(sched, writer, push_true, NULL);
}

/* --- methods ----------------------------------------------------------------------------------- */

/* Pushes the JSON text of req.data; nothing when there is none, or a handler put something else there. */
static int push_payload(lua_State *L)
{
    char problem[ZNL_MICRO_PROBLEM_BYTES];
    znl_frame data;
    lua_rawgeti(L, 1, 1);
    znl_jobs *jobs = znl_jobs_at(L, -1);
    if (jobs == NULL || jobs->ended != znl_micro_box_job_ended)
        return 0;
    lua_pushliteral(L, "data");
    lua_rawget(L, 1);
    if (znl_micro_box_data(L, lua_gettop(L), (znl_micro_box *)jobs, &data, problem) != 0 ||
            data.data == NULL)
        return 0;
    lua_pushlstring(L, (const char *)data.data, data.size);
    return 1;
}

/* The methods; req.payload; req.id, while the handler runs. */
static int request_index(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING || !lua_istable(L, 1))
        return 0;
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(1));
    if (!lua_isnil(L, -1))
        return 1;
    const char *key = lua_tostring(L, 2);
    if (strcmp(key, "payload") == 0)
        return push_payload(L);
    if (strcmp(key, "id") != 0)
        return 0;
    const znl_micro_call *call = call_of(L);
    if (call == NULL || call->name == 0)
        return 0;
    char id[24];
    int size = snprintf(id, sizeof id, "%llu", (unsigned long long)call->name);
    lua_pushlstring(L, id, (size_t)size);
    return 1;
}

void znl_micro_open_request_type(lua_State *L)
{
    luaL_newmetatable(L, ZNL_MICRO_REQUEST_TYPE);
    lua_newtable(L);
    luaL_register(L, NULL, znl_request_methods);
    lua_pushcfunction(L, znl_micro_request_write);
    lua_setfield(L, -2, "write");
    lua_pushcclosure(L, request_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
