/* bind_node_jobs.c - requests that arrive: run by a handler in a pooled coroutine, or waiting in the
 * queue until one of max_jobs handlers ends.
 *
 *   arrives -> at work -> answered        bind_node_answer.c
 *          `-> queued -> at work
 *          `-> refused: no room, no handler, not readable
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "bind/bind_node.h"

#include <string.h>

/* --- jobs -------------------------------------------------------------------------------------- */

/* A job in a new slot, NULL when memory is short. */
static struct job *job_make(znl_node_box *b)
{
    if (b->made_count == b->made_capacity) {
        size_t capacity = b->made_capacity > 0 ? 2 * b->made_capacity : 16;
        struct job **made = znl_realloc(b->made, capacity * sizeof(struct job *));
        if (made == NULL)
            return NULL;
        b->made = made;
        b->made_capacity = capacity;
    }
    struct job *job = znl_calloc(1, sizeof *job);
    if (job == NULL)
        return NULL;
    job->node = b;
    job->slot = (uint32_t)b->made_count;
    job->ticket = job->slot;
    b->made[b->made_count++] = job;
    return job;
}

static struct job *job_take(znl_node_box *b, const znl_message *message)
{
    struct job *job = b->free_jobs;
    if (job != NULL)
        b->free_jobs = job->next_free;
    else if ((job = job_make(b)) == NULL)
        return NULL;
    job->is_service = message->kind == ZNL_KIND_SERVICE_REQUEST;
    job->is_capable = message->is_capable;
    job->is_call = message->call != NULL;
    job->is_json = job->is_call && message->call->is_json;
    job->deadline_ms = message->deadline_ms;
    job->peer_size = message->peer.size; /* lengths were checked by the node */
    job->id_size = message->subject.size;
    job->service_size = message->service.size;
    if (job->peer_size > 0)
        memcpy(job->peer, message->peer.data, job->peer_size);
    memcpy(job->id, message->subject.data, job->id_size);
    if (job->service_size > 0)
        memcpy(job->service, message->service.data, job->service_size);
    b->jobs++;
    b->holds++;
    return job;
}

void znl_node_job_done(struct job *job)
{
    znl_node_box *b = job->node;
    job->ticket += ZNL_JOB_SLOTS; /* requests that are kept no longer find it */
    job->next_free = b->free_jobs;
    b->free_jobs = job;
    b->jobs--;
    if (b->queue.count > 0)
        znl_loop_defer(b->vm->loop, &b->queue_due);
    znl_node_box_let_go(b);
}

struct asker znl_node_job_asker(const struct job *job)
{
    return (struct asker){.peer = znl_frame_of(job->peer, job->peer_size),
            .id = znl_frame_of(job->id, job->id_size),
            .service = znl_frame_of(job->service, job->service_size),
            .is_capable = job->is_capable};
}

static struct asker asker_of(const znl_message *message)
{
    return (struct asker){
            message->peer, message->subject, message->service, message->is_capable};
}

/* --- requests as a handler sees them ----------------------------------------------------------- */

static void push_request(lua_State *L, const struct job *job, const znl_message *message)
{
    lua_createtable(L, 2, 4);
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    lua_setfield(L, -2, "payload");
    znl_node_box_pushframe(L, message->peer);
    lua_setfield(L, -2, "from");
    if (message->call != NULL && message->call->route.size > 0) {
        znl_node_box_pushframe(L, message->call->route);
        lua_setfield(L, -2, "route");
    }
    /* The rest is made when asked for, by request_index. A request that is kept keeps the box. */
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->self_ref);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, (lua_Number)job->ticket);
    lua_rawseti(L, -2, 2);
    lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->request_meta_ref);
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
    uint64_t ticket = (uint64_t)lua_tonumber(L, -1);
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
    uint64_t now_ms = znl_loop_now_ms(job->node->vm->loop);
    lua_pushnumber(L, job->deadline_ms > now_ms ? (lua_Number)(job->deadline_ms - now_ms) : 0);
    return 1;
}

/* req:cancelled() -> true when nobody waits for the answer any more */
static int request_cancelled(lua_State *L)
{
    const struct job *job = job_of(L);
    int is_over = job == NULL || job->node->node == NULL || !job->node->node->running ||
            (job->deadline_ms > 0 && job->deadline_ms <= znl_loop_now_ms(job->node->vm->loop));
    lua_pushboolean(L, is_over);
    return 1;
}

static const luaL_Reg request_methods[] = {
        {"deadline_ms", request_deadline_ms},
        {"remaining_ms", request_remaining_ms},
        {"cancelled", request_cancelled},
        {NULL, NULL},
};

/* req.id, req.service: while the handler runs; and the methods. */
static int request_index(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING)
        return 0;
    const char *key = lua_tostring(L, 2);
    const struct job *job = job_of(L);
    if (job != NULL && strcmp(key, "id") == 0) {
        lua_pushlstring(L, (const char *)job->id, job->id_size);
    } else if (job != NULL && job->is_service && strcmp(key, "service") == 0) {
        lua_pushlstring(L, (const char *)job->service, job->service_size);
    } else {
        lua_pushvalue(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
    }
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

/* --- handlers ---------------------------------------------------------------------------------- */

/* Pushes what stands for a service: { function, owner or nil, place }, or nil. */
static void push_service(lua_State *L, znl_node_box *b, znl_frame name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, b->services_ref);
    znl_node_box_pushframe(L, name);
    lua_rawget(L, -2);
}

/* Routes under "/-/" belong to the console; the handler never hears of them. */
static int is_for_console(const znl_message *message)
{
    return message->call != NULL && message->call->route.size >= 3 &&
            memcmp(message->call->route.data, "/-/", 3) == 0;
}

/* Pushes the handler for a request, nil when there is none. */
static void push_handler(
        lua_State *L, znl_node_box *b, const znl_message *message, znl_owner **owner)
{
    znl_frame service = message->service;
    *owner = NULL;
    if (is_for_console(message)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, b->console_ref);
        return;
    }
    if (service.size == 0) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, b->handler_ref);
        *owner = b->handler_owner;
        return;
    }
    push_service(L, b, service);
    if (lua_isnil(L, -1))
        return;
    lua_rawgeti(L, -1, 2);
    if (!lua_isnil(L, -1))
        *owner = znl_lua_checkowner(L, lua_gettop(L));
    lua_rawgeti(L, -2, 1);
}

const char *znl_node_job_place(lua_State *L, const struct job *job)
{
    if (job->is_service) {
        push_service(L, job->node, znl_frame_of(job->service, job->service_size));
        if (lua_istable(L, -1))
            lua_rawgeti(L, -1, 3);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->place_ref);
    }
    const char *place = lua_tostring(L, -1);
    return place != NULL ? place : job->is_service ? "service" : "handler";
}

struct arrival {
    znl_node_box *node;
    const znl_message *message;
};

static int run_request(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    const znl_message *message = arrival->message;
    znl_node_box *b = arrival->node;
    struct asker to = asker_of(message);
    znl_owner *owner;
    push_handler(L, b, message, &owner);
    if (lua_isnil(L, -1)) {
        znl_node_box_refuse_err(b, &to, ZNL_E_NOT_FOUND,
                is_for_console(message)             ? "the console of this node is off"
                        : message->service.size > 0 ? "unknown service"
                                                    : "no handler is set");
        return 0;
    }
    struct job *job = job_take(b, message);
    if (job == NULL) {
        b->overloaded++;
        return 0;
    }
    int nargs = 1;
    if (job->is_json && b->run_json_ref != LUA_NOREF) {
        /* A function of the library decodes, runs the handler, and encodes. */
        lua_rawgeti(L, LUA_REGISTRYINDEX, b->run_json_ref);
        lua_insert(L, -2);
        nargs = 2;
    }
    push_request(L, job, message);
    if (znl_sched_spawn(L, nargs, owner, znl_node_box_handler_done, job) != 0) {
        b->overloaded++;
        znl_node_box_refuse_err(b, &to, ZNL_E_OVERLOADED, znl_err_text(ZNL_E_OVERLOADED));
        znl_node_job_done(job);
    }
    return 0;
}

static void start(znl_node_box *b, const znl_message *message)
{
    struct arrival arrival = {b, message};
    znl_vm_protect(b->vm, run_request, &arrival, "node.on_request");
}

/* --- the queue --------------------------------------------------------------------------------- */

/* Nobody waits for the answer any more. */
static int is_over(const znl_node_box *b, const znl_message *message)
{
    if (message->deadline_ms > 0 && message->deadline_ms <= znl_loop_now_ms(b->vm->loop))
        return 1;
    return b->master != NULL &&
            znl_presence_find(znl_master_presence(b->master), message->peer,
                    znl_map_hash(message->peer)) == NULL;
}

static void run_queue(znl_deferred *deferred)
{
    znl_node_box *b =
            (znl_node_box *)(void *)((char *)deferred - offsetof(znl_node_box, queue_due));
    if (b->queue.count == 0 || b->node == NULL)
        return;
    b->holds++; /* a handler may stop the node; what runs it may then be collected */
    for (unsigned budget = ZNL_BATCH_MESSAGES;
            budget > 0 && b->queue.count > 0 && b->jobs < b->max_jobs; budget--) {
        znl_parcel *parcel = znl_parcels_take(&b->queue);
        if (is_over(b, &parcel->message))
            b->expired++;
        else
            start(b, &parcel->message);
        znl_parcel_free(parcel);
    }
    if (b->queue.count > 0 && b->jobs < b->max_jobs)
        znl_loop_defer(b->vm->loop, &b->queue_due);
    znl_node_box_let_go(b);
}

void znl_node_box_on_request(void *user, const znl_message *message)
{
    znl_node_box *b = user;
    struct asker to = asker_of(message);
    if (message->is_malformed) {
        znl_node_box_refuse_err(b, &to, ZNL_E_INVALID, "the call cannot be read");
        return;
    }
    if ((b->jobs < b->max_jobs && b->queue.count == 0) ||
            (is_for_console(message) && b->jobs < b->max_jobs + ZNL_CONSOLE_JOBS)) {
        start(b, message);
        return;
    }
    if (znl_parcels_put(&b->queue, message) == 0)
        return;
    b->overloaded++;
    znl_node_box_refuse_err(b, &to, ZNL_E_OVERLOADED, znl_err_text(ZNL_E_OVERLOADED));
}

void znl_node_box_open_queue(znl_node_box *b, size_t max_requests, size_t max_bytes)
{
    znl_parcels_init(&b->queue, max_requests, max_bytes);
    b->queue_due.run = run_queue;
}

void znl_node_box_drop_queue(znl_node_box *b)
{
    znl_loop_undefer(b->vm->loop, &b->queue_due);
    b->expired += b->queue.count;
    znl_parcels_fini(&b->queue);
}

/* --- memory ------------------------------------------------------------------------------------ */

void znl_node_box_drop_jobs(znl_node_box *b)
{
    for (size_t i = 0; i < b->made_count; i++)
        znl_free(b->made[i]);
    znl_free(b->made);
    b->made = NULL;
    b->made_count = b->made_capacity = 0;
    b->free_jobs = NULL;
}
