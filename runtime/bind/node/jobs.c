/* jobs.c - requests that arrive: run by a handler in a pooled coroutine, or waiting in the
 * queue until one of max_jobs handlers ends.
 *
 *   arrives -> at work -> answered        answer.c
 *          `-> queued -> at work
 *          `-> refused: no room, no handler, not readable
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "bind/node/node.h"

#include <string.h>

/* --- jobs -------------------------------------------------------------------------------------- */

static struct job *job_take(znl_node_box *b, const znl_message *message)
{
    struct job *job = (struct job *)znl_job_take(&b->jobs);
    if (job == NULL)
        return NULL;
    job->node = b;
    job->is_service = message->kind == ZNL_KIND_SERVICE_REQUEST;
    job->is_capable = message->is_capable;
    job->is_call = message->call != NULL;
    job->is_json = job->is_call && message->call->is_json;
    job->message = message;
    job->peer_size = message->peer.size; /* lengths were checked by the node */
    job->id_size = message->subject.size;
    job->service_size = message->service.size;
    if (job->peer_size > 0)
        memcpy(job->peer, message->peer.data, job->peer_size);
    memcpy(job->id, message->subject.data, job->id_size);
    if (job->service_size > 0)
        memcpy(job->service, message->service.data, job->service_size);
    job->route_size = job->is_call ? message->call->route.size : 0;
    if (job->route_size > 0 && job->route_size <= sizeof job->route)
        memcpy(job->route, message->call->route.data, job->route_size);
    return job;
}

void znl_node_box_job_ended(znl_jobs *jobs)
{
    znl_node_box *b = (znl_node_box *)jobs;
    if (b->queue.count > 0)
        znl_loop_defer(b->vm->loop, &b->queue_due);
}

struct asker znl_node_job_asker(const struct job *job)
{
    return (struct asker){.peer = znl_frame_of(job->peer, job->peer_size),
            .id = znl_frame_of(job->id, job->id_size),
            .service = znl_frame_of(job->service, job->service_size),
            .is_capable = job->is_capable};
}

void znl_node_job_timed_out(znl_job *base)
{
    struct job *job = (struct job *)base;
    struct asker to = znl_node_job_asker(job);
    znl_node_box_refuse_err(job->node, &to, ZNL_E_HANDLER_TIMEOUT,
            "the handler took longer than handler_timeout_ms");
}

void znl_node_box_cancel_jobs(znl_node_box *b, znl_frame peer)
{
    const char *reason = peer.size > 0 ? "the asker went off line" : "the node stopped";
    for (size_t i = 0; i < b->jobs.made_count; i++) {
        struct job *job = (struct job *)b->jobs.made[i];
        if (job->base.is_at_work &&
                (peer.size == 0 ||
                        znl_frame_equal(peer, znl_frame_of(job->peer, job->peer_size))))
            znl_job_cancel(&job->base, reason);
    }
}

static struct asker asker_of(const znl_message *message)
{
    return (struct asker){
            message->peer, message->subject, message->service, message->is_capable};
}

static const char stopping[] = "the node is stopping";

void znl_node_box_refuse_all(znl_node_box *b)
{
    for (size_t i = 0; i < b->jobs.made_count; i++) {
        struct job *job = (struct job *)b->jobs.made[i];
        if (!job->base.is_at_work || job->base.is_answered)
            continue;
        struct asker to = znl_node_job_asker(job);
        znl_node_box_refuse_err(b, &to, ZNL_E_STOPPED, stopping);
        job->base.is_answered = 1;
    }
    while (b->queue.count > 0) {
        znl_parcel *parcel = znl_parcels_take(&b->queue);
        struct asker to = asker_of(&parcel->message);
        znl_node_box_refuse_err(b, &to, ZNL_E_STOPPED, stopping);
        znl_parcel_free(parcel);
    }
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

struct arrival {
    znl_node_box *node;
    const znl_message *message;
    znl_owner *owner; /* of the handler; NULL: none */
    int is_found;     /* there is a handler */
};

static int look_service_up(lua_State *L)
{
    struct arrival *arrival = lua_touserdata(L, 1);
    push_service(L, arrival->node, arrival->message->service);
    if (lua_isnil(L, -1))
        return 0;
    lua_rawgeti(L, -1, 2);
    if (!lua_isnil(L, -1))
        arrival->owner = znl_lua_checkowner(L, lua_gettop(L));
    arrival->is_found = 1;
    return 0;
}

/* Is there a handler, and whose? 0, or ZNL_E_NOMEM: it cannot be said. */
static int find_handler(struct arrival *arrival)
{
    const znl_jobs *jobs = &arrival->node->jobs;
    if (is_for_console(arrival->message)) {
        arrival->is_found = jobs->console_ref != LUA_NOREF;
    } else if (arrival->message->service.size == 0) {
        arrival->is_found = jobs->handler_ref != LUA_NOREF;
        arrival->owner = jobs->handler_owner;
    } else if (znl_vm_protect(arrival->node->vm, look_service_up, arrival, "node.on_request") !=
            0) {
        return ZNL_E_NOMEM;
    }
    return 0;
}

void znl_node_job_pushhandler(lua_State *L, const struct job *job)
{
    const znl_jobs *jobs = &job->node->jobs;
    if (!job->is_service) {
        lua_rawgeti(L, LUA_REGISTRYINDEX,
                is_for_console(job->message) ? jobs->console_ref : jobs->handler_ref);
        return;
    }
    push_service(L, job->node, job->message->service);
    lua_rawgeti(L, -1, 1);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

const char *znl_node_job_place(lua_State *L, const struct job *job)
{
    if (job->is_service) {
        push_service(L, job->node, znl_frame_of(job->service, job->service_size));
        if (lua_istable(L, -1))
            lua_rawgeti(L, -1, 3);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, job->node->jobs.place_ref);
    }
    znl_frame route = znl_frame_of(job->route, job->route_size);
    if (job->route_size > sizeof job->route)
        route.data = NULL;
    return znl_jobs_place(L, route, job->is_service ? "service" : "handler");
}

static void overloaded(znl_node_box *b, const struct asker *to)
{
    b->jobs.overloaded++;
    znl_node_box_refuse_err(b, to, ZNL_E_OVERLOADED, znl_err_text(ZNL_E_OVERLOADED));
}

/* Runs the handler until it waits or ends. 0, or why it does not run. */
static int run_handler(const struct arrival *arrival)
{
    znl_node_box *b = arrival->node;
    const znl_message *message = arrival->message;
    struct job *job = job_take(b, message);
    if (job == NULL)
        return ZNL_E_LIMIT;
    int err = znl_job_limit(&job->base, message->deadline_ms);
    znl_spawn how = {.kind = ZNL_TASK_FOREGROUND,
            .owner = arrival->owner,
            .token = job->base.token,
            .done = znl_node_box_handler_done,
            .returned = znl_node_box_handler_returned,
            .user = job,
            .ref = &job->base.task};
    if (err == 0)
        err = znl_sched_run(
                b->vm->sched, message->call != NULL ? b->serve_call_ref : b->serve_ref, &how);
    if (err != 0)
        znl_job_done(&job->base);
    return err;
}

static void start(znl_node_box *b, const znl_message *message)
{
    struct arrival arrival = {.node = b, .message = message};
    struct asker to = asker_of(message);
    int err = find_handler(&arrival);
    if (err == 0 && !arrival.is_found) {
        znl_node_box_refuse_err(b, &to, ZNL_E_NOT_FOUND,
                is_for_console(message)             ? "the console of this node is off"
                        : message->service.size > 0 ? "unknown service"
                                                    : "no handler is set");
        return;
    }
    if (err == 0)
        err = run_handler(&arrival);
    if (err == ZNL_E_STOPPED)
        znl_node_box_refuse_err(b, &to, err, "the handler is being stopped");
    else if (err != 0)
        overloaded(b, &to);
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
    znl_anchor_hold_again(
            &b->jobs.anchor); /* a handler may stop the node; what runs it may then be collected */
    for (unsigned budget = ZNL_BATCH_MESSAGES;
            budget > 0 && b->queue.count > 0 && b->jobs.at_work < b->jobs.max; budget--) {
        znl_parcel *parcel = znl_parcels_take(&b->queue);
        if (is_over(b, &parcel->message))
            b->jobs.expired++;
        else
            start(b, &parcel->message);
        znl_parcel_free(parcel);
    }
    if (b->queue.count > 0 && b->jobs.at_work < b->jobs.max)
        znl_loop_defer(b->vm->loop, &b->queue_due);
    znl_anchor_let_go(&b->jobs.anchor);
}

void znl_node_box_on_request(void *user, const znl_message *message)
{
    znl_node_box *b = user;
    struct asker to = asker_of(message);
    if (message->is_malformed) {
        znl_node_box_refuse_err(b, &to, ZNL_E_INVALID, "the call cannot be read");
        return;
    }
    if (b->jobs.is_draining) {
        b->jobs.refused++;
        znl_node_box_refuse_err(b, &to, ZNL_E_STOPPED, stopping);
        return;
    }
    if ((b->jobs.at_work < b->jobs.max && b->queue.count == 0) ||
            (is_for_console(message) && b->jobs.at_work < b->jobs.max + ZNL_CONSOLE_JOBS)) {
        start(b, message);
        return;
    }
    if (znl_parcels_put(&b->queue, message) != 0)
        overloaded(b, &to);
}

void znl_node_box_open_queue(znl_node_box *b, size_t max_requests, size_t max_bytes)
{
    znl_parcels_init(&b->queue, max_requests, max_bytes);
    b->queue_due.run = run_queue;
}

void znl_node_box_drop_queue(znl_node_box *b)
{
    znl_loop_undefer(b->vm->loop, &b->queue_due);
    b->jobs.expired += b->queue.count;
    znl_parcels_fini(&b->queue);
}
