/* jobs.c - requests that arrive: run by a handler in a pooled coroutine, or waiting until one of
 * max_concurrency handlers ends. Connections that have requests waiting take turns, one request each, so
 * that none starves the others.
 *
 *   arrives -> at work -> answered        answer.c
 *          `-> queued -> at work
 *          `-> refused: no room, no handler, not readable
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#define WORKS_KEPT 64u

/* --- jobs by name ------------------------------------------------------------------------------ */

znl_micro_work *znl_micro_link_work(const znl_micro_link *link, znl_micro_job name)
{
    uint32_t slot = znl_micro_job_slot(name);
    return name != 0 && slot < link->works_size ? &link->works[slot] : NULL;
}

/* The entry of a new job. NULL when memory is short; a push has none. */
static znl_micro_work *enter(znl_micro_link *link, znl_micro_job name)
{
    uint32_t slot = znl_micro_job_slot(name);
    if (slot >= link->works_size) {
        uint32_t size = link->works_size > 0 ? link->works_size : 8;
        while (size <= slot)
            size *= 2;
        znl_micro_work *works = znl_realloc(link->works, size * sizeof *works);
        if (works == NULL)
            return NULL;
        memset(works + link->works_size, 0, (size - link->works_size) * sizeof *works);
        link->works = works;
        link->works_size = size;
    }
    return &link->works[slot];
}

void znl_micro_call_done(znl_micro_call *call)
{
    znl_micro_link *link = call->link;
    znl_micro_work *work = znl_micro_link_work(link, call->name);
    if (work != NULL && work->call == call)
        work->call = NULL;
    znl_micro_call_drop_writer(call);
    if (call->owner != NULL) {
        znl_owner_release(call->owner);
        call->owner = NULL;
    }
    if (call->held.capacity > 0)
        znl_buffer_fini(&call->held);
    if (link->works_size > WORKS_KEPT && link->micro != NULL &&
            znl_micro_jobs(link->micro) == 0) {
        znl_free(link->works); /* small again after a burst */
        link->works = NULL;
        link->works_size = 0;
    }
    call->link = NULL;
    znl_job_done(&call->base);
    znl_anchor_let_go(&link->anchor);
}

void znl_micro_call_timed_out(znl_job *base)
{
    znl_micro_call *call = (znl_micro_call *)base;
    if (!call->is_gone)
        znl_micro_link_refuse(call->link, call->name, ZNL_E_HANDLER_TIMEOUT,
                "the handler took longer than handler_timeout_ms");
    znl_micro_call_drop_writer(call);
}

const char *znl_micro_call_place(lua_State *L, const znl_micro_call *call)
{
    znl_frame route = znl_frame_of(call->route, call->route_size);
    if (call->route_size > sizeof call->route)
        route.data = NULL;
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->base.jobs->place_ref);
    return znl_jobs_place(L, route, "handler");
}

/* --- handlers ---------------------------------------------------------------------------------- */

/* Routes under "/-/" are the console's where there is one, which has places of its own. */
static int is_for_console(const znl_micro_box *box, const znl_micro_request *request)
{
    return box->jobs.console_ref != LUA_NOREF && request->url.size >= 3 &&
            memcmp(request->url.data, "/-/", 3) == 0;
}

struct arrival {
    znl_micro_link *link;
    const znl_micro_request *request;
    znl_micro_call *call; /* until a task has it */
};

static void overloaded(znl_micro_link *link, znl_micro_job name)
{
    link->box->jobs.overloaded++;
    znl_micro_link_refuse(link, name, ZNL_E_OVERLOADED, znl_err_text(ZNL_E_OVERLOADED));
}

/* A call at work, NULL when memory is short. The connection is held. */
static znl_micro_call *call_take(znl_micro_link *link, const znl_micro_request *request)
{
    znl_micro_work *work = NULL;
    if (request->job != 0 && (work = enter(link, request->job)) == NULL)
        return NULL;
    znl_micro_call *call = (znl_micro_call *)znl_job_take(&link->box->jobs);
    if (call == NULL)
        return NULL;
    call->link = link;
    call->name = request->job;
    call->is_stream = request->is_stream != 0;
    call->is_gone = call->is_iterated = 0;
    call->writes = 0;
    call->writer = (znl_wait){NULL, 0};
    call->route_size = request->url.size;
    if (call->route_size <= sizeof call->route)
        memcpy(call->route, request->url.data, call->route_size);
    if (work != NULL)
        work->call = call;
    return call;
}

static int run_request(lua_State *L)
{
    struct arrival *arrival = lua_touserdata(L, 1);
    znl_micro_link *link = arrival->link;
    const znl_micro_request *request = arrival->request;
    znl_micro_box *box = link->box;
    int is_console = is_for_console(box, request);
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->begin_ref);
    lua_rawgeti(
            L, LUA_REGISTRYINDEX, is_console ? box->jobs.console_ref : box->jobs.handler_ref);
    if (lua_isnil(L, -1)) {
        znl_micro_link_refuse_unknown(link, request);
        return 0;
    }
    if (!znl_anchor_hold_found(L, &link->anchor)) {
        znl_micro_link_end(link, ZNL_E_CLOSED, "collected", 1);
        return 0;
    }
    znl_micro_call *call = call_take(link, request);
    if (call == NULL) {
        znl_anchor_let_go(&link->anchor);
        overloaded(link, request->job);
        return 0;
    }
    arrival->call = call;
    if (znl_job_limit(&call->base, request->deadline_ms) != 0)
        return luaL_error(L, "%s", znl_err_text(ZNL_E_NOMEM));
    if (znl_micro_call_pushrequest(L, call, request) != 0) {
        arrival->call = NULL;
        znl_micro_link_refuse(link, request->job, ZNL_E_INVALID, "the data cannot be read");
        znl_micro_call_done(call);
        return 0;
    }
    znl_owner *owner = is_console ? NULL : box->jobs.handler_owner;
    if (call->is_stream && owner != NULL) {
        znl_owner_hold(owner); /* the iterator it may return runs for it, too */
        call->owner = owner;
    }
    znl_spawn how = {.kind = ZNL_TASK_FOREGROUND,
            .owner = owner,
            .token = call->base.token,
            .done = znl_micro_handler_done,
            .user = call,
            .ref = &call->base.task};
    arrival->call = NULL; /* a task that ended at once has given it back by now */
    int err = znl_sched_spawn_as(L, 1 + ZNL_MICRO_BEGIN_VALUES, &how);
    if (err != 0) {
        if (err == ZNL_E_STOPPED)
            znl_micro_link_refuse(link, request->job, err, "the handler is being stopped");
        else
            overloaded(link, request->job);
        znl_micro_call_done(call);
    }
    return 0;
}

static void start(znl_micro_link *link, const znl_micro_request *request)
{
    struct arrival arrival = {link, request, NULL};
    znl_micro_box *box = link->box;
    if (__builtin_expect(
                znl_vm_protect(box->vm, run_request, &arrival, "micro.on_request") == 0, 1))
        return;
    /* Out of memory before there was a task. */
    overloaded(link, request->job);
    if (arrival.call != NULL)
        znl_micro_call_done(arrival.call);
}

/* --- the queue --------------------------------------------------------------------------------- */

struct waiter {
    znl_micro_link *link;
    int is_held;
};

static int run_hold(lua_State *L)
{
    struct waiter *waiter = lua_touserdata(L, 1);
    waiter->is_held = znl_anchor_hold_found(L, &waiter->link->anchor);
    return 0;
}

static znl_micro_waiting *of_entry(znl_turn_entry *entry)
{
    return (znl_micro_waiting *)(void *)((char *)entry - offsetof(znl_micro_waiting, entry));
}

/* Copies a request to the end of what waits of its connection. 0, ZNL_E_BUSY, ZNL_E_NOMEM. */
static int enqueue(znl_micro_link *link, const znl_micro_request *request)
{
    znl_micro_box *box = link->box;
    size_t bytes = sizeof(znl_micro_waiting) + request->url.size + request->data.size;
    if (!znl_turns_has_room(&box->queue, bytes))
        return ZNL_E_BUSY;
    znl_micro_work *work = NULL;
    if (request->job != 0 && (work = enter(link, request->job)) == NULL)
        return ZNL_E_NOMEM;
    znl_micro_waiting *waiting = znl_malloc(bytes);
    if (waiting == NULL)
        return ZNL_E_NOMEM;
    struct waiter waiter = {link, 0};
    if (znl_vm_protect(box->vm, run_hold, &waiter, "micro.on_request") != 0 ||
            !waiter.is_held) {
        znl_free(waiting);
        return ZNL_E_NOMEM;
    }
    uint8_t *at = (uint8_t *)(waiting + 1);
    *waiting = (znl_micro_waiting){.link = link, .request = *request};
    memcpy(at, request->url.data, request->url.size);
    waiting->request.url.data = at;
    if (request->data.data != NULL) {
        memcpy(at + request->url.size, request->data.data, request->data.size);
        waiting->request.data.data = at + request->url.size;
    }
    znl_turns_add(&box->queue, &link->line, &waiting->entry, bytes);
    if (work != NULL)
        work->waiting = waiting;
    return 0;
}

/* It waits no more. */
static void forget(const znl_micro_waiting *waiting)
{
    znl_micro_work *work = znl_micro_link_work(waiting->link, waiting->request.job);
    if (work != NULL && work->waiting == waiting)
        work->waiting = NULL;
}

/* Takes a request out of what waits; the connection stays held. */
static void unqueue(znl_micro_waiting *waiting)
{
    forget(waiting);
    znl_turns_remove(&waiting->link->box->queue, &waiting->entry);
}

static void run_waiting(znl_micro_waiting *waiting)
{
    znl_micro_link *link = waiting->link;
    znl_micro_box *box = link->box;
    const znl_micro_request *request = &waiting->request;
    if (request->deadline_ms > 0 && request->deadline_ms <= znl_loop_now_ms(box->vm->loop)) {
        box->jobs.expired++;
        znl_micro_link_refuse(link, request->job, ZNL_E_DEADLINE, znl_err_text(ZNL_E_DEADLINE));
    } else {
        start(link, request);
    }
    znl_free(waiting);
    znl_anchor_let_go(&link->anchor);
}

static void run_queue(znl_deferred *deferred)
{
    znl_micro_box *box =
            (znl_micro_box *)(void *)((char *)deferred - offsetof(znl_micro_box, queue_due));
    if (box->queue.count == 0)
        return;
    znl_anchor_hold_again(&box->jobs.anchor); /* by the connections it is held */
    for (unsigned budget = ZNL_BATCH_MESSAGES;
            budget > 0 && box->queue.count > 0 && box->jobs.at_work < box->jobs.max; budget--) {
        znl_micro_waiting *waiting = of_entry(znl_turns_next(&box->queue));
        forget(waiting);
        run_waiting(waiting);
    }
    if (box->queue.count > 0 && box->jobs.at_work < box->jobs.max)
        znl_loop_defer(box->vm->loop, &box->queue_due);
    znl_anchor_let_go(&box->jobs.anchor);
}

void znl_micro_box_job_ended(znl_jobs *jobs)
{
    znl_micro_box *box = (znl_micro_box *)jobs;
    if (box->queue.count > 0)
        znl_loop_defer(box->vm->loop, &box->queue_due);
}

void znl_micro_box_open_queue(znl_micro_box *box, size_t max_requests, size_t max_bytes)
{
    box->queue.max_count = max_requests;
    box->queue.max_bytes = max_bytes;
    box->queue_due.run = run_queue;
}

/* --- events of the protocol ---------------------------------------------------------------------- */

static const char stopping[] = "the node is stopping";

void znl_micro_on_request(void *user, const znl_micro_request *request)
{
    znl_micro_link *link = user;
    znl_micro_box *box = link->box;
    if (box->directory != NULL && znl_micro_box_find(box, link, request))
        return;
    if (box->jobs.is_draining) {
        box->jobs.refused++;
        znl_micro_link_refuse(link, request->job, ZNL_E_STOPPED, stopping);
        return;
    }
    if ((box->jobs.at_work < box->jobs.max && box->queue.count == 0) ||
            (is_for_console(box, request) &&
                    box->jobs.at_work < box->jobs.max + ZNL_CONSOLE_JOBS)) {
        start(link, request);
        return;
    }
    if (enqueue(link, request) != 0)
        overloaded(link, request->job);
}

void znl_micro_on_abort(void *user, znl_micro_job name)
{
    znl_micro_link *link = user;
    znl_micro_work *work = znl_micro_link_work(link, name);
    if (work == NULL)
        return;
    znl_micro_waiting *waiting = work->waiting;
    znl_micro_call *call = work->call;
    if (waiting != NULL && waiting->request.job == name) {
        unqueue(waiting);
        znl_free(waiting);
        link->box->jobs.expired++;
        znl_anchor_let_go_later(&link->anchor); /* an event of it is on the stack */
    }
    if (call != NULL && call->name == name) {
        work->call = NULL; /* the slot may be another job's soon */
        call->is_gone = 1;
        znl_job_cancel(&call->base,
                link->is_over ? "the connection has closed" : "the asker gave it up");
        znl_micro_call_drop_writer(call); /* it may be another task's */
    }
}

void znl_micro_on_room(void *user, znl_micro_job name)
{
    const znl_micro_link *link = user;
    znl_micro_work *work = znl_micro_link_work(link, name);
    if (work != NULL && work->call != NULL && work->call->name == name)
        znl_micro_call_write_on(work->call);
}

/* --- the end ----------------------------------------------------------------------------------- */

void znl_micro_box_refuse_all(znl_micro_box *box)
{
    for (znl_micro_link *link = box->links; link != NULL; link = link->next) {
        while (link->line.first != NULL) {
            znl_micro_waiting *waiting = of_entry(link->line.first);
            unqueue(waiting);
            znl_micro_link_refuse(link, waiting->request.job, ZNL_E_STOPPED, stopping);
            znl_free(waiting);
            znl_anchor_let_go_later(&link->anchor);
        }
    }
    for (size_t i = 0; i < box->jobs.made_count; i++) {
        znl_micro_call *call = (znl_micro_call *)box->jobs.made[i];
        if (!call->base.is_at_work)
            continue;
        if (!call->base.is_answered && !call->is_gone)
            znl_micro_link_refuse(call->link, call->name, ZNL_E_STOPPED, stopping);
        znl_micro_work *work = znl_micro_link_work(call->link, call->name);
        if (work != NULL && work->call == call)
            work->call = NULL;
        call->is_gone = 1;
        znl_job_cancel(&call->base, "the node stopped");
        znl_micro_call_drop_writer(call);
    }
}

void znl_micro_link_drop_waiting(znl_micro_link *link)
{
    while (link->line.first != NULL) {
        znl_micro_waiting *waiting = of_entry(link->line.first);
        unqueue(waiting);
        znl_free(waiting);
    }
}

void znl_micro_box_drop_queue(znl_micro_box *box)
{
    znl_loop_undefer(box->vm->loop, &box->queue_due);
}
