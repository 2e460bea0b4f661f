/* answer.c - what goes back to whoever asked: the result of a handler, a refusal, an error.
 *
 * A status that a handler gives crosses as it is, number or text. Without one it is 500, as the originals have
 * it, and to peers of ours the code of what happened (WIRE.md, "Micro").
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/err.h"

#include <stdio.h>

static void send_refusal(
        znl_micro_link *link, znl_micro_job name, const znl_micro_refusal *refusal)
{
    if (name != 0 && link->is_open)
        znl_micro_refuse(link->micro, name, refusal);
}

void znl_micro_link_refuse(znl_micro_link *link, znl_micro_job name, int err, const char *text)
{
    znl_micro_refusal refusal = {.err = err, .text = znl_frame_text(text)};
    send_refusal(link, name, &refusal);
}

/* As the originals say it: 500 and the url (spec, section 5.1). */
void znl_micro_link_refuse_unknown(znl_micro_link *link, const znl_micro_request *request)
{
    znl_micro_refusal refusal = {.err = ZNL_E_NOT_FOUND, .text = request->url};
    send_refusal(link, request->job, &refusal);
}

/* --- refusals ---------------------------------------------------------------------------------- */

static void refuse(znl_micro_call *call, const znl_micro_refusal *refusal)
{
    if (!call->base.is_answered && !call->is_gone)
        send_refusal(call->link, call->name, refusal);
}

/* The handler did what it must not: an "error" event, and an error answer of status 500. */
static void handler_failed(lua_State *L, znl_micro_call *call, int err, const char *text)
{
    /* Without a status of ours an original gets 500, and in a stream no text (micro spec, section 6). */
    znl_micro_refusal refusal = {.err = err,
            .is_number = err != ZNL_E_HANDLER_TIMEOUT && call->link->is_ours,
            .number = 500,
            .text = znl_lua_without_place(znl_lua_error_line(text, strlen(text)))};
    if (err == ZNL_E_HANDLER_TIMEOUT)
        call->base.jobs->handler_timeouts++;
    else
        call->base.jobs->handler_errors++;
    refuse(call, &refusal);
    znl_micro_link_emit_error(L, call->link, text);
}

/* The status at `index`: a number or a text; otherwise that of a refusal without. */
static void read_status(
        lua_State *L, int index, const znl_micro_call *call, znl_micro_refusal *out)
{
    if (lua_type(L, index) == LUA_TNUMBER) {
        out->is_number = 1;
        out->number = lua_tonumber(L, index);
    } else if (lua_type(L, index) == LUA_TSTRING && lua_objlen(L, index) > 0) {
        out->status.data = (const uint8_t *)lua_tolstring(L, index, &out->status.size);
    } else if (call->link->is_ours) {
        out->status = znl_frame_text("REFUSED");
    } else {
        out->is_number = 1;
        out->number = 500;
    }
}

/* nil, message, code at 1 to 3: the handler refuses. */
static void handler_refused(lua_State *L, znl_micro_call *call)
{
    znl_micro_refusal refusal = {0};
    size_t size = 0;
    const char *text = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &size) : NULL;
    if (text == NULL) {
        text = luaL_typename(L, 2);
        size = strlen(text);
    }
    refusal.text = znl_lua_error_line(text, size);
    read_status(L, 3, call, &refusal);
    call->base.jobs->refused++;
    refuse(call, &refusal);
}

/* error{ status =, message = } with the table at 2: as a refusal, when it has a status. */
static int is_refusal(lua_State *L, znl_micro_call *call)
{
    if (!lua_istable(L, 2))
        return 0;
    lua_settop(L, 2);
    lua_pushliteral(L, "status");
    lua_rawget(L, 2);
    lua_pushliteral(L, "message");
    lua_rawget(L, 2);
    if (lua_type(L, 3) != LUA_TNUMBER && lua_type(L, 3) != LUA_TSTRING)
        return 0;
    znl_micro_refusal refusal = {0};
    size_t size = 0;
    const char *text = lua_type(L, 4) == LUA_TSTRING ? lua_tolstring(L, 4, &size) : "";
    refusal.text = znl_lua_error_line(text, size);
    read_status(L, 3, call, &refusal);
    call->base.jobs->refused++;
    refuse(call, &refusal);
    return 1;
}

/* --- results ----------------------------------------------------------------------------------- */

static int is_callable(lua_State *L, int index)
{
    if (lua_isfunction(L, index))
        return 1;
    if (!luaL_getmetafield(L, index, "__call"))
        return 0;
    lua_pop(L, 1);
    return 1;
}

/* What a handler returned cannot be sent: said so that its author finds it. */
static void result_refused(lua_State *L, znl_micro_call *call, const char *problem)
{
    char text[512];
    const char *place = znl_micro_call_place(L, call);
    snprintf(text, sizeof text, "%s: returned what JSON cannot carry: %s", place, problem);
    handler_failed(L, call, ZNL_E_HANDLER_ERROR, text);
}

static void answer(lua_State *L, znl_micro_call *call)
{
    znl_micro_link *link = call->link;
    char problem[ZNL_MICRO_PROBLEM_BYTES];
    znl_frame data;
    int err = znl_micro_box_data(L, 1, link->box, &data, problem);
    if (err == ZNL_E_INVALID && lua_isfunction(L, 1)) {
        static const znl_micro_refusal refusal = {.is_number = 1,
                .number = 500,
                .text = {(const uint8_t *)"Async iterable is not supported", 31}};
        refuse(call,
                &refusal); /* a stream, which the peer did not ask for (spec, section 5.1) */
        return;
    }
    if (err == ZNL_E_INVALID) {
        result_refused(L, call, problem);
        return;
    }
    if (call->name == 0 || call->is_gone || call->base.is_answered)
        return;
    if (err == 0)
        znl_micro_answer(link->micro, call->name, data); /* counts what is lost */
    else
        znl_micro_link_refuse(link, call->name, err, znl_err_text(err));
}

/* Runs what the handler of a stream returned: step, state, control at 1 to 3. 1 when a task does it now. */
static int run_iterator(lua_State *L, znl_micro_call *call)
{
    lua_settop(L, 3);
    lua_rawgeti(L, LUA_REGISTRYINDEX, call->link->box->iterate_ref);
    znl_micro_call_pushbare(L, call);
    for (int i = 1; i <= 3; i++)
        lua_pushvalue(L, i);
    call->is_iterated = 1;
    znl_spawn how = {.kind = ZNL_TASK_FOREGROUND,
            .owner = call->owner,
            .token = call->base.token,
            .done = znl_micro_handler_done,
            .user = call,
            .ref = &call->base.task};
    int err = znl_sched_spawn_as(L, 4, &how);
    if (err != 0)
        znl_micro_link_refuse(call->link, call->name, err, znl_err_text(err));
    return err == 0;
}

/* The handler of a stream returned. 1 when the call goes on. */
static int stream_returned(lua_State *L, znl_micro_call *call)
{
    if (call->is_gone || call->base.is_answered)
        return 0;
    if (lua_isnil(L, 1)) {
        znl_micro_finish(call->link->micro, call->name);
    } else if (!call->is_iterated && is_callable(L, 1)) {
        return run_iterator(L, call);
    } else {
        static const znl_micro_refusal refusal = {.is_number = 1,
                .number = 500,
                .text = {(const uint8_t *)"Invalid async iterable", 22}};
        refuse(call, &refusal);
    }
    return 0;
}

void znl_micro_handler_done(void *user, lua_State *L, int status, int nresults)
{
    znl_micro_call *call = user;
    int was_interrupted = znl_sched_was_interrupted(
            call->link->box->vm->sched); /* before anything else */
    if (status == ZNL_TASK_DROPPED) {
        const char *text = lua_tostring(L, 1);
        znl_micro_refusal refusal = {.err = ZNL_E_STOPPED, .text = znl_frame_text(text)};
        refuse(call, &refusal);
    } else if (status != 0) {
        const char *text = lua_tostring(L, 1);
        if (was_interrupted || !is_refusal(L, call))
            handler_failed(L, call,
                    was_interrupted ? ZNL_E_HANDLER_TIMEOUT : ZNL_E_HANDLER_ERROR,
                    text != NULL ? text : "error without a message");
    } else if (nresults > 1 && lua_isnil(L, 1) && !lua_isnil(L, 2)) {
        lua_settop(L, 3);
        handler_refused(L, call);
    } else {
        if (nresults == 0)
            lua_pushnil(L);
        if (!call->is_stream)
            answer(L, call);
        else if (stream_returned(L, call))
            return;
    }
    if (call->base.is_answered &&
            !call->is_gone) /* nobody waits; the job is still to be ended */
        znl_micro_link_refuse(
                call->link, call->name, ZNL_E_DEADLINE, znl_err_text(ZNL_E_DEADLINE));
    znl_micro_call_done(call);
}
