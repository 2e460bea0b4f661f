/* jobs.c - invokes that arrive: run by a handler in a pooled coroutine, or waiting until one of
 * max_concurrency handlers ends. Followers take turns, one invoke each.
 *
 *   arrives -> at work -> answered        answer.c
 *          `-> queued -> at work
 *          `-> refused: no room, no handler, not readable
 *
 * After the time that the request grants nobody waits: its handler is cancelled, nothing is sent.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/alloc.h"
#include "base/err.h"

/* An invoke that waits; method and data follow. */
struct waiting {
    znl_turn_entry entry;
    znl_cluster_inbound *inbound;
    int64_t id;
    int32_t timeout_ms;
    uint64_t deadline_ms;
    znl_cluster_message message;
    znl_frame data;
};

static struct waiting *of_entry(znl_turn_entry *entry)
{
    return (struct waiting *)(void *)((char *)entry - offsetof(struct waiting, entry));
}

/* --- calls ------------------------------------------------------------------------------------- */

static void call_enter(znl_cluster_call *call, znl_cluster_inbound *inbound)
{
    call->inbound = inbound;
    call->next = inbound->calls;
    call->prev = &inbound->calls;
    if (inbound->calls != NULL)
        inbound->calls->prev = &call->next;
    inbound->calls = call;
}

static void call_leave(znl_cluster_call *call)
{
    *call->prev = call->next;
    if (call->next != NULL)
        call->next->prev = call->prev;
    call->inbound = NULL;
}

void znl_cluster_call_done(znl_cluster_call *call)
{
    if (call->inbound != NULL)
        call_leave(call);
    znl_job_done(&call->base);
}

void znl_cluster_call_timed_out(znl_job *base)
{
    znl_cluster_call *call = (znl_cluster_call *)base;
    const znl_cluster_question question = {call->id, call->timeout_ms, call->is_oneway};
    if (call->inbound != NULL)
        znl_cluster_refuse(call->inbound, &question, NULL, ZNL_E_HANDLER_TIMEOUT,
                "the handler took longer than handler_timeout_ms");
}

const char *znl_cluster_call_place(lua_State *L, const znl_cluster_call *call)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->base.jobs->place_ref);
    return znl_jobs_place(L, znl_frame_of(call->method, call->method_size), "handler");
}

/* --- handlers ---------------------------------------------------------------------------------- */

/* begin: what a task of a request starts with. The request is made here and not by calls from C, so that the
 * compiler makes it together with the handler. */
static const char in_lua[] =
        "local meta = ...\n"
        "local setmetatable = setmetatable\n"
        "return function(handler, channel, ticket, method, args, n, oneway, from)\n"
        "  args.n = n\n"
        "  return handler(setmetatable({\n"
        "    channel, ticket, method = method, args = args, oneway = oneway, from = from,\n"
        "  }, meta))\n"
        "end\n";
#define BEGIN_VALUES 8

void znl_cluster_push_begin(lua_State *L)
{
    if (luaL_loadbuffer(L, in_lua, sizeof in_lua - 1, "=znl.core.cluster") != 0)
        lua_error(L);
    luaL_getmetatable(L, ZNL_CLUSTER_REQUEST_TYPE);
    lua_call(L, 1, 1);
}

struct arrival {
    znl_cluster_inbound *inbound;
    const znl_cluster_message *message;
    znl_cluster_question question;
    uint64_t deadline_ms;
    znl_frame data;
    znl_cluster_call *call; /* until a task has it */
};

static void overloaded(znl_cluster_inbound *inbound, const znl_cluster_question *question)
{
    inbound->lead->jobs.overloaded++;
    znl_cluster_refuse(
            inbound, question, NULL, ZNL_E_OVERLOADED, znl_err_text(ZNL_E_OVERLOADED));
}

/* Pushes the array of arguments. 0, or which one cannot be read (from 1). */
static uint32_t push_arguments(lua_State *L, struct arrival *arrival)
{
    znl_frame rest = arrival->data, argument;
    uint32_t count = arrival->message->arg_count;
    lua_createtable(L, (int)count, 1);
    for (uint32_t i = 1; i <= count; i++) {
        if (znl_cluster_next_argument(&rest, &argument) != 0 ||
                znl_cluster_push_value(L, &arrival->inbound->lead->values, argument) != 0)
            return i;
        lua_rawseti(L, -2, (int)i);
        if (arrival->call->inbound == NULL)
            return i; /* a function of the script has ended the connection: no bytes any more */
    }
    return 0;
}

/* A call at work, NULL when memory is short. */
static znl_cluster_call *call_take(const struct arrival *arrival)
{
    znl_cluster_inbound *inbound = arrival->inbound;
    znl_cluster_call *call = (znl_cluster_call *)znl_job_take(&inbound->lead->jobs);
    if (call == NULL)
        return NULL;
    znl_frame method = arrival->message->method;
    call->id = arrival->question.id;
    call->timeout_ms = arrival->question.timeout_ms;
    call->is_oneway = arrival->question.is_oneway != 0;
    call->base.is_answered = call->is_oneway || call->timeout_ms < 0;
    call->method_size = (uint16_t)method.size;
    memcpy(call->method, method.data, method.size);
    call_enter(call, inbound);
    return call;
}

static int run_invoke(lua_State *L)
{
    struct arrival *arrival = lua_touserdata(L, 1);
    znl_cluster_inbound *inbound = arrival->inbound;
    znl_cluster_lead *lead = inbound->lead;
    const znl_cluster_question *question = &arrival->question;
    lua_rawgeti(L, LUA_REGISTRYINDEX, lead->begin_ref);
    lua_rawgeti(L, LUA_REGISTRYINDEX, lead->jobs.handler_ref);
    if (lua_isnil(L, -1)) {
        znl_cluster_refuse(
                inbound, question, NULL, ZNL_E_NOT_FOUND, "the channel has no handler");
        return 0;
    }
    znl_cluster_call *call = call_take(arrival);
    if (call == NULL) {
        overloaded(inbound, question);
        return 0;
    }
    arrival->call = call;
    if (znl_job_limit(&call->base, arrival->deadline_ms) != 0)
        return luaL_error(L, "%s", znl_err_text(ZNL_E_NOMEM));
    lua_rawgeti(L, LUA_REGISTRYINDEX, lead->jobs.anchor.ref);
    lua_pushnumber(L, (lua_Number)call->base.ticket);
    lua_pushlstring(L, (const char *)call->method, call->method_size);
    uint32_t wrong = push_arguments(L, arrival);
    if (wrong != 0) {
        arrival->call = NULL;
        if (call->inbound != NULL) {
            lua_pushfstring(L, "argument %d cannot be read", (int)wrong);
            znl_cluster_refuse(
                    inbound, question, "TypeError", ZNL_E_INVALID, lua_tostring(L, -1));
        }
        znl_cluster_call_done(call);
        return 0;
    }
    lua_pushinteger(L, (lua_Integer)arrival->message->arg_count);
    lua_pushboolean(L, call->is_oneway);
    lua_rawgeti(L, LUA_REGISTRYINDEX, inbound->remote_ref);
    znl_spawn how = {.kind = ZNL_TASK_FOREGROUND,
            .owner = lead->jobs.handler_owner,
            .token = call->base.token,
            .done = znl_cluster_handler_done,
            .user = call,
            .ref = &call->base.task};
    arrival->call = NULL; /* a task that ended at once has given it back by now */
    int err = znl_sched_spawn_as(L, BEGIN_VALUES, &how);
    if (err == 0)
        return 0;
    if (err == ZNL_E_STOPPED)
        znl_cluster_refuse(inbound, question, NULL, err, "the handler is being stopped");
    else
        overloaded(inbound, question);
    znl_cluster_call_done(call);
    return 0;
}

/* The inbound is not over, but may be so after it. */
static void start(struct arrival *arrival)
{
    znl_cluster_lead *lead = arrival->inbound->lead;
    if (__builtin_expect(
                znl_vm_protect(lead->vm, run_invoke, arrival, "cluster.on_invoke") == 0, 1))
        return;
    /* Out of memory before there was a task. */
    if (!arrival->inbound->is_over)
        overloaded(arrival->inbound, &arrival->question);
    if (arrival->call != NULL)
        znl_cluster_call_done(arrival->call);
}

/* --- the queue --------------------------------------------------------------------------------- */

/* Copies an invoke to the end of what waits. 0, ZNL_E_BUSY, ZNL_E_NOMEM. */
static int enqueue(const struct arrival *arrival)
{
    znl_cluster_inbound *inbound = arrival->inbound;
    znl_turns *turns = &inbound->lead->turns;
    znl_frame method = arrival->message->method;
    size_t bytes = sizeof(struct waiting) + method.size + arrival->data.size;
    if (!znl_turns_has_room(turns, bytes))
        return ZNL_E_BUSY;
    struct waiting *waiting = znl_malloc(bytes);
    if (waiting == NULL)
        return ZNL_E_NOMEM;
    uint8_t *at = (uint8_t *)(waiting + 1);
    *waiting = (struct waiting){.inbound = inbound,
            .id = arrival->question.id,
            .timeout_ms = arrival->question.timeout_ms,
            .deadline_ms = arrival->deadline_ms,
            .message = {.kind = ZNL_CLUSTER_INVOKE,
                    .method = znl_frame_of(at, method.size),
                    .arg_count = arrival->message->arg_count,
                    .is_oneway = arrival->message->is_oneway},
            .data = znl_frame_of(at + method.size, arrival->data.size)};
    memcpy(at, method.data, method.size);
    if (arrival->data.size > 0)
        memcpy(at + method.size, arrival->data.data, arrival->data.size);
    znl_turns_add(turns, &inbound->line, &waiting->entry, bytes);
    return 0;
}

static void run_waiting(struct waiting *waiting)
{
    znl_cluster_inbound *inbound = waiting->inbound;
    znl_cluster_lead *lead = inbound->lead;
    struct arrival arrival = {.inbound = inbound,
            .message = &waiting->message,
            .question = {waiting->id, waiting->timeout_ms, waiting->message.is_oneway},
            .deadline_ms = waiting->deadline_ms,
            .data = waiting->data};
    if (arrival.deadline_ms > 0 && arrival.deadline_ms <= znl_loop_now_ms(lead->vm->loop))
        lead->jobs.expired++; /* nobody waits any more */
    else
        start(&arrival);
    znl_free(waiting);
}

static void run_queue(znl_deferred *deferred)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)(void *)((char *)deferred -
            offsetof(znl_cluster_lead, turns_due));
    if (lead->turns.count == 0)
        return;
    znl_anchor_hold_again(&lead->jobs.anchor); /* by the followers it is held */
    for (unsigned budget = ZNL_BATCH_MESSAGES;
            budget > 0 && lead->turns.count > 0 && lead->jobs.at_work < lead->jobs.max;
            budget--)
        run_waiting(of_entry(znl_turns_next(&lead->turns)));
    if (lead->turns.count > 0 && lead->jobs.at_work < lead->jobs.max)
        znl_loop_defer(lead->vm->loop, &lead->turns_due);
    znl_anchor_let_go(&lead->jobs.anchor);
}

void znl_cluster_job_ended(znl_jobs *jobs)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)jobs;
    if (lead->turns.count > 0)
        znl_loop_defer(lead->vm->loop, &lead->turns_due);
}

void znl_cluster_lead_open_queue(znl_cluster_lead *lead, size_t max_count, size_t max_bytes)
{
    lead->turns.max_count = max_count;
    lead->turns.max_bytes = max_bytes;
    lead->turns_due.run = run_queue;
}

/* --- what arrives ------------------------------------------------------------------------------ */

void znl_cluster_invoke(znl_cluster_inbound *inbound, const znl_cluster_request *request)
{
    znl_cluster_lead *lead = inbound->lead;
    const znl_cluster_message *message = request->message;
    struct arrival arrival = {.inbound = inbound,
            .message = message,
            .question = {request->id, request->timeout_ms, message->is_oneway},
            .data = request->data};
    const char *problem = NULL;
    if (lead->jobs.is_draining) {
        lead->jobs.refused++;
        znl_cluster_refuse(
                inbound, &arrival.question, NULL, ZNL_E_STOPPED, "the leader is stopping");
        return;
    }
    if (message->method.data == NULL || message->method.size > ZNL_CLUSTER_METHOD_BYTES_MAX)
        problem = "the method has no name, or one that is too long";
    else if (message->arg_count > ZNL_CLUSTER_ARGUMENTS_MAX)
        problem = "too many arguments";
    if (problem != NULL) {
        lead->jobs.refused++;
        znl_cluster_refuse(inbound, &arrival.question, "TypeError", ZNL_E_INVALID, problem);
        return;
    }
    if (request->timeout_ms > 0 && !message->is_oneway)
        arrival.deadline_ms = znl_loop_now_ms(lead->vm->loop) +
                (uint64_t)(uint32_t)request->timeout_ms;
    if (lead->jobs.at_work < lead->jobs.max && lead->turns.count == 0)
        start(&arrival);
    else if (enqueue(&arrival) != 0)
        overloaded(inbound, &arrival.question);
}

static void call_cancel(znl_cluster_call *call, const char *reason)
{
    call->base.is_answered = 1;
    znl_job_cancel(&call->base, reason);
}

void znl_cluster_cancel(znl_cluster_inbound *inbound, int64_t id)
{
    znl_cluster_lead *lead = inbound->lead;
    for (znl_cluster_call *call = inbound->calls; call != NULL; call = call->next) {
        if (call->id != id)
            continue;
        lead->jobs.expired += !call->base.is_answered;
        call_cancel(call, "the asker gave it up");
        return;
    }
    for (znl_turn_entry *entry = inbound->line.first; entry != NULL; entry = entry->next) {
        struct waiting *waiting = of_entry(entry);
        if (waiting->id != id)
            continue;
        znl_turns_remove(&lead->turns, entry);
        znl_free(waiting);
        lead->jobs.expired++;
        return;
    }
}

void znl_cluster_inbound_drop_calls(znl_cluster_inbound *inbound)
{
    znl_cluster_lead *lead = inbound->lead;
    while (inbound->line.first != NULL) {
        struct waiting *waiting = of_entry(inbound->line.first);
        znl_turns_remove(&lead->turns, &waiting->entry);
        znl_free(waiting);
    }
    while (inbound->calls != NULL) {
        znl_cluster_call *call = inbound->calls;
        call_leave(call);
        call_cancel(call, "the connection has closed");
    }
    znl_cluster_lead_forget(lead, inbound);
}

void znl_cluster_open_request_type(lua_State *L)
{
    luaL_newmetatable(L, ZNL_CLUSTER_REQUEST_TYPE);
    lua_newtable(L);
    luaL_register(L, NULL, znl_request_methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
