/* answer.c - what goes back to a follower: results, refusals, errors (spec cluster-client, sections 6.3
 * and 9). Each invoke is answered once, unless it is oneway or its time is over.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/err.h"

#include <stdio.h>

/* --- sending ----------------------------------------------------------------------------------- */

/* Sends what values->out holds. What is too big for the peer is said instead of sent. */
static int send_answer(znl_cluster_inbound *inbound, const znl_cluster_question *question,
        int is_success, const znl_cluster_values *values)
{
    const znl_cluster_message message = {.kind = ZNL_CLUSTER_RESULT, .is_success = is_success};
    return znl_cluster_link_answer(inbound->link, question->id, question->timeout_ms, &message,
            znl_frame_of(values->out.data, values->out.size));
}

static int is_unwanted(const znl_cluster_inbound *inbound, const znl_cluster_question *question)
{
    return question->is_oneway || question->timeout_ms < 0 || inbound->is_over;
}

/* Whoever cannot even be told that it failed would wait: the connection ends. */
static void give_up(znl_cluster_inbound *inbound, int err)
{
    inbound->lead->jobs.unanswered++;
    znl_cluster_inbound_end(inbound, err, "an answer could not be sent", 0);
}

static void send_failure(lua_State *L, znl_cluster_inbound *inbound,
        const znl_cluster_question *question, const znl_cluster_failure *failure)
{
    znl_cluster_values *values = &inbound->lead->values;
    if (is_unwanted(inbound, question))
        return;
    int err = znl_cluster_write_failure(L, values, failure, 0);
    if (inbound->is_over)
        return;
    if (err == ZNL_E_FAILED) { /* the script's own encode: there is no other way to say it */
        inbound->lead->jobs.unanswered++;
        return;
    }
    if (err == 0)
        err = send_answer(inbound, question, 0, values);
    if (err == ZNL_E_TOO_BIG) {
        static const znl_cluster_failure small = {
                .message = {(const uint8_t *)"the error is too large", 22}};
        err = znl_cluster_write_failure(L, values, &small, 0);
        if (err == 0)
            err = send_answer(inbound, question, 0, values);
    }
    if (err != 0 && err != ZNL_E_CLOSED && err != ZNL_E_FAILED)
        give_up(inbound, err);
}

void znl_cluster_refuse_late(lua_State *L, znl_cluster_inbound *inbound,
        const znl_cluster_question *question, const char *name, int err, const char *text)
{
    const znl_cluster_failure failure = {
            .name = name != NULL ? znl_frame_text(name) : (znl_frame){NULL, 0},
            .message = znl_frame_text(text),
            .code = znl_frame_text(znl_err_code(err)),
    };
    send_failure(L, inbound, question, &failure);
}

void znl_cluster_refuse(znl_cluster_inbound *inbound, const znl_cluster_question *question,
        const char *name, int err, const char *text)
{
    if (is_unwanted(inbound, question))
        return;
    if (inbound->lead->values.is_custom)
        znl_cluster_lead_put_off(inbound, question, name, err, text);
    else
        znl_cluster_refuse_late(NULL, inbound, question, name, err, text);
}

/* --- handlers ---------------------------------------------------------------------------------- */

static int is_answerable(const znl_cluster_call *call)
{
    return !call->base.is_answered && call->inbound != NULL;
}

static void answer_failure(
        lua_State *L, znl_cluster_call *call, const znl_cluster_failure *failure)
{
    const znl_cluster_question question = {call->id, call->timeout_ms, call->is_oneway};
    if (is_answerable(call))
        send_failure(L, call->inbound, &question, failure);
}

/* The handler did what it must not: an "error" event, and an answer that says so. */
static void handler_failed(lua_State *L, znl_cluster_call *call, int err, const char *text)
{
    znl_cluster_failure failure = {
            .message = znl_lua_without_place(znl_lua_error_line(text, strlen(text)))};
    if (err == ZNL_E_HANDLER_TIMEOUT) {
        failure.code = znl_frame_text(znl_err_code(err));
        call->base.jobs->handler_timeouts++;
    } else {
        call->base.jobs->handler_errors++;
    }
    znl_cluster_lead_error(L, call, text);
    answer_failure(L, call, &failure);
}

/* The value at `index`, which becomes a text: what a handler gave as its message. */
static znl_frame message_at(lua_State *L, int index)
{
    if (lua_isboolean(L, index))
        return znl_frame_text(lua_toboolean(L, index) ? "true" : "false");
    size_t size;
    const char *text = lua_tolstring(L, index, &size);
    return text != NULL ? znl_lua_error_line(text, size)
                        : znl_frame_text(luaL_typename(L, index));
}

/* nil, message, code, fields at 1 to 4: the handler refuses. */
static void handler_refused(lua_State *L, znl_cluster_call *call)
{
    znl_cluster_failure failure = {0};
    if (lua_istable(L, 2))
        znl_cluster_read_failure(L, 2, &failure);
    else
        failure.message = message_at(L, 2);
    if (lua_type(L, 3) == LUA_TSTRING) {
        failure.code.data = (const uint8_t *)lua_tolstring(L, 3, &failure.code.size);
    } else if (lua_type(L, 3) == LUA_TNUMBER) {
        failure.has_number = 1;
        failure.number = lua_tonumber(L, 3);
    }
    if (lua_istable(L, 4))
        znl_cluster_read_failure(L, 4, &failure);
    if (failure.message.data == NULL)
        failure.message = znl_frame_text("error");
    call->base.jobs->refused++;
    answer_failure(L, call, &failure);
}

/* error{ message =, name =, code =, stack = } with the table at 2: as a refusal, when it has a message. */
static int is_refusal(lua_State *L, znl_cluster_call *call)
{
    znl_cluster_failure failure = {0};
    if (!lua_istable(L, 2))
        return 0;
    znl_cluster_read_failure(L, 2, &failure);
    if (failure.message.data == NULL)
        return 0;
    call->base.jobs->refused++;
    answer_failure(L, call, &failure);
    return 1;
}

/* The value at 1 is the result. */
static void answer(lua_State *L, znl_cluster_call *call)
{
    znl_cluster_lead *lead = (znl_cluster_lead *)call->base.jobs;
    char problem[ZNL_LUA_PROBLEM_BYTES];
    if (!is_answerable(call))
        return;
    int err = znl_cluster_write_value(L, 1, &lead->values, problem);
    if (err == ZNL_E_INVALID) {
        char text[2 * ZNL_LUA_PROBLEM_BYTES];
        const char *place = znl_cluster_call_place(L, call);
        snprintf(text, sizeof text, "%s: returned what cannot be sent: %s", place, problem);
        handler_failed(L, call, ZNL_E_HANDLER_ERROR, text);
        return;
    }
    if (!is_answerable(call))
        return; /* the script's encode has ended it */
    const znl_cluster_question question = {call->id, call->timeout_ms, 0};
    if (err == 0)
        err = send_answer(call->inbound, &question, 1, &lead->values);
    if (err == ZNL_E_TOO_BIG)
        znl_cluster_refuse(call->inbound, &question, NULL, err, "the result is too large");
    else if (err != 0 && err != ZNL_E_CLOSED)
        give_up(call->inbound, err);
}

void znl_cluster_handler_done(void *user, lua_State *L, int status, int nresults)
{
    znl_cluster_call *call = user;
    const znl_sched *sched = call->base.jobs->anchor.vm->sched;
    int was_interrupted = znl_sched_was_interrupted(sched); /* before anything else */
    if (status == ZNL_TASK_DROPPED) {
        const znl_cluster_failure failure = {.message = message_at(L, 1),
                .code = znl_frame_text(znl_err_code(ZNL_E_STOPPED))};
        answer_failure(L, call, &failure);
    } else if (status != 0) {
        const char *text = lua_tostring(L, 1);
        if (was_interrupted || !is_refusal(L, call))
            handler_failed(L, call,
                    was_interrupted ? ZNL_E_HANDLER_TIMEOUT : ZNL_E_HANDLER_ERROR,
                    text != NULL ? text : "error without a message");
    } else if (nresults > 1 && lua_isnil(L, 1) && !lua_isnil(L, 2)) {
        lua_settop(L, 4);
        handler_refused(L, call);
    } else {
        if (nresults == 0)
            lua_pushnil(L);
        answer(L, call);
    }
    znl_cluster_call_done(call);
}
