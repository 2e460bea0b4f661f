/* bind_node_jobs.c - handlers at work in pooled coroutines, whose result is sent when they end; and
 * the replies that wake the coroutine which asked.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/bind_node.h"

#include <string.h>

static struct job *job_take(znl_node_box *b, const znl_message *message)
{
    struct job *job = b->free_jobs;
    if (job != NULL)
        b->free_jobs = job->next;
    else if ((job = znl_malloc(sizeof *job)) == NULL)
        return NULL;
    else {
        job->next_made = b->all_jobs;
        b->all_jobs = job;
    }
    job->node = b;
    job->serial = ++b->job_serial;
    job->is_service = message->kind == ZNL_KIND_SERVICE_REQUEST;
    job->route_size = message->peer.size; /* lengths were checked by the node */
    job->id_size = message->subject.size;
    job->service_size = message->service.size;
    if (job->route_size > 0)
        memcpy(job->route, message->peer.data, job->route_size);
    memcpy(job->id, message->subject.data, job->id_size);
    if (job->service_size > 0)
        memcpy(job->service, message->service.data, job->service_size);
    b->jobs++;
    b->holds++;
    return job;
}

static void job_done(struct job *job)
{
    znl_node_box *b = job->node;
    job->serial = 0;
    job->next = b->free_jobs;
    b->free_jobs = job;
    b->jobs--;
    znl_node_box_let_go(b);
}

static int reply(znl_node_box *b, const struct job *job, const znl_frame *payload, size_t count)
{
    znl_frame id = znl_frame_of(job->id, job->id_size);
    if (b->master != NULL)
        return znl_master_reply(
                b->master, znl_frame_of(job->route, job->route_size), id, payload, count);
    return znl_slave_reply(
            b->slave, id, znl_frame_of(job->service, job->service_size), payload, count);
}

static void add_json_text(luaL_Buffer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            luaL_addchar(out, '\\');
            luaL_addchar(out, (char)c);
        } else if (c < 0x20) {
            luaL_addchar(out, ' ');
        } else {
            luaL_addchar(out, (char)c);
        }
    }
}

/* The service channel answers errors (spec, section 16.1). Needs a protected call. */
static void reply_service_error(
        lua_State *L, znl_node_box *b, const struct job *job, const char *text)
{
    luaL_Buffer json;
    luaL_buffinit(L, &json);
    luaL_addstring(&json, "{\"service\":\"");
    add_json_text(&json, (const char *)job->service, job->service_size);
    luaL_addstring(&json, "\",\"ok\":false,\"error\":\"");
    add_json_text(&json, text, strcspn(text, "\n")); /* the message, not the traceback */
    luaL_addstring(&json, "\"}");
    luaL_pushresult(&json);
    znl_frame frame;
    frame.data = (const uint8_t *)lua_tolstring(L, -1, &frame.size);
    reply(b, job, &frame, 1);
    lua_pop(L, 1);
}

/* A handler ended: send what it returned. Runs protected. */
static void handler_done(void *user, lua_State *L, int status, int nresults)
{
    struct job *job = user;
    znl_node_box *b = job->node;
    znl_frame *frames;
    size_t count;
    int err = 0;
    if (status != 0) {
        const char *text = lua_tostring(L, 1);
        b->handler_errors++;
        znl_node_box_emit_error(b, text != NULL ? text : "error without a message",
                job->is_service ? "service" : "handler");
        if (job->is_service && b->node != NULL)
            reply_service_error(L, b, job, text != NULL ? text : "error");
    } else if (b->node != NULL) {
        if (nresults == 0)
            lua_pushnil(L); /* no value is one empty frame, as nil is */
        err = znl_node_box_payload(L, 1, b, &frames, &count);
        if (err == 0)
            err = reply(b, job, frames, count);
        if (err == ZNL_E_INVALID) {
            b->handler_errors++;
            znl_node_box_emit_error(b,
                    "a handler must return a string, an array of strings, or nil; in plain mode "
                    "the first frame must not be the proof marker",
                    job->is_service ? "service" : "handler");
        } else if (err != 0) {
            b->unanswered++;
        }
    }
    job_done(job);
}

struct arrival {
    znl_node_box *node;
    const znl_message *message;
};

static void push_request(lua_State *L, const struct job *job, const znl_message *message)
{
    lua_createtable(L, 0, 4);
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    lua_setfield(L, -2, "payload");
    znl_node_box_pushframe(L, message->peer);
    lua_setfield(L, -2, "from");
    /* The rest is made when asked for, by request_index. */
    lua_pushlightuserdata(L, (void *)(uintptr_t)job);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, (lua_Number)job->serial);
    lua_rawseti(L, -2, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->request_meta_ref);
    lua_setmetatable(L, -2);
}

/* Pushes the handler for a message; 0 when there is none. */
static int push_handler(
        lua_State *L, znl_node_box *b, const znl_message *message, znl_owner **owner)
{
    *owner = NULL;
    if (message->kind == ZNL_KIND_REQUEST) {
        if (b->handler_ref == LUA_NOREF)
            return 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, b->handler_ref);
        *owner = b->handler_owner;
        return 1;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->services_ref);
    znl_node_box_pushframe(L, message->service);
    lua_rawget(L, -2);
    if (!lua_istable(L, -1))
        return 0;
    lua_rawgeti(L, -1, 2);
    if (!lua_isnil(L, -1))
        *owner = znl_lua_checkowner(L, lua_gettop(L));
    lua_rawgeti(L, -2, 1);
    return 1;
}

static int run_request(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    znl_node_box *b = arrival->node;
    znl_owner *owner;
    if (!push_handler(L, b, arrival->message, &owner)) {
        b->unanswered++;
        if (arrival->message->kind == ZNL_KIND_SERVICE_REQUEST) {
            struct job *job = job_take(b, arrival->message);
            if (job != NULL) {
                reply_service_error(L, b, job, "unknown service");
                job_done(job);
            }
        }
        return 0;
    }
    struct job *job = job_take(b, arrival->message);
    if (job == NULL) {
        b->overloaded++;
        return 0;
    }
    push_request(L, job, arrival->message);
    if (znl_sched_spawn(L, 1, owner, handler_done, job) != 0) {
        b->overloaded++;
        job_done(job);
    }
    return 0;
}

void znl_node_box_on_request(void *user, const znl_message *message)
{
    znl_node_box *b = user;
    struct arrival arrival = {b, message};
    if (b->jobs >= b->max_jobs) {
        b->overloaded++;
        return;
    }
    znl_vm_protect(b->vm, run_request, &arrival, "node.on_request");
}

/* req.id, req.service: while the handler runs. */
static int request_index(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        return 0;
    const char *key = lua_tostring(L, 2);
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 1, 2);
    const struct job *job = lua_touserdata(L, -2);
    if (job == NULL || job->serial != (uint64_t)lua_tonumber(L, -1))
        return 0;
    if (strcmp(key, "id") == 0)
        lua_pushlstring(L, (const char *)job->id, job->id_size);
    else if (strcmp(key, "service") == 0 && job->is_service)
        lua_pushlstring(L, (const char *)job->service, job->service_size);
    else
        return 0;
    return 1;
}

/* --- replies ----------------------------------------------------------------------------------- */

static int push_reply(lua_State *L, void *user)
{
    const znl_message *message = user;
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    return 1;
}

void znl_node_box_on_reply(void *user, znl_waiter waiter, const znl_message *message)
{
    znl_node_box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_sched_wake(b->vm->sched, wait, push_reply, (void *)(uintptr_t)message);
}

void znl_node_box_on_failed(void *user, znl_waiter waiter, int err)
{
    znl_node_box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    /* Later: a rebuild, a removal and a stop end many requests in one sweep, and a caller that asks
     * again must not be caught by the same sweep. */
    znl_sched_wake_error_later(b->vm->sched, wait, err, "request");
}

/* --- type and memory --------------------------------------------------------------------------- */

void znl_node_box_open_request_type(lua_State *L)
{
    luaL_newmetatable(L, ZNL_REQUEST_TYPE);
    lua_pushcfunction(L, request_index);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

void znl_node_box_drop_jobs(znl_node_box *b)
{
    while (b->all_jobs != NULL) {
        struct job *next = b->all_jobs->next_made;
        znl_free(b->all_jobs);
        b->all_jobs = next;
    }
    b->free_jobs = NULL;
}
