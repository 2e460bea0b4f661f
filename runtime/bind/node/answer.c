/* answer.c - what goes back to whoever asked: the result of a handler, a refusal, an error.
 *
 * An error has an answer where the protocol has one: on the service channel, and to peers that read
 * calls (WIRE.md, "Calls"). Others run into their timeout.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "bind/node/node.h"

#include <stdio.h>
#include <string.h>

#define SERVICE_ERROR_BYTES                                                                    \
    (2 * (ZNL_SERVICE_BYTES_MAX + ZNL_ERROR_TEXT_BYTES_MAX) + 64) /* escaped */

static int answer(znl_node_box *b, const struct asker *to, const znl_call *call,
        const znl_frame *payload, size_t count)
{
    if (b->master != NULL)
        return znl_master_reply(b->master, to->peer, to->id, call, payload, count);
    return znl_slave_reply(b->slave, to->id, to->service, call, payload, count);
}

/* --- errors ------------------------------------------------------------------------------------ */

static size_t put_text(char *out, size_t size, const char *text)
{
    size_t length = strlen(text);
    memcpy(out + size, text, length);
    return size + length;
}

static size_t put_json(char *out, size_t size, znl_frame text)
{
    for (size_t i = 0; i < text.size; i++) {
        char c = (char)text.data[i];
        if (c == '"' || c == '\\')
            out[size++] = '\\';
        out[size++] = (unsigned char)c < 0x20 ? ' ' : c;
    }
    return size;
}

/* The service channel answers errors (spec, section 16.1). */
static int send_service_error(znl_node_box *b, const struct asker *to, znl_frame text)
{
    char json[SERVICE_ERROR_BYTES];
    size_t size = put_text(json, 0, "{\"service\":\"");
    size = put_json(json, size, to->service);
    size = put_text(json, size, "\",\"ok\":false,\"error\":\"");
    size = put_json(json, size, text);
    size = put_text(json, size, "\"}");
    znl_frame frame = znl_frame_of(json, size);
    return answer(b, to, NULL, &frame, 1);
}

void znl_node_box_refuse(
        znl_node_box *b, const struct asker *to, znl_frame code, const char *text, size_t size)
{
    static const znl_call error = {.is_answer = 1, .is_error = 1};
    znl_frame line = znl_lua_error_line(text, size);
    int err;
    if (b->node == NULL)
        return;
    if (to->service.size > 0) {
        err = send_service_error(b, to, line);
    } else if (to->is_capable) {
        znl_frame payload[2] = {code, line};
        err = answer(b, to, &error, payload, 2);
    } else {
        err = ZNL_E_UNSUPPORTED;
    }
    if (err != 0)
        b->jobs.unanswered++;
}

void znl_node_box_refuse_err(znl_node_box *b, const struct asker *to, int err, const char *text)
{
    znl_node_box_refuse(b, to, znl_frame_text(znl_err_code(err)), text, strlen(text));
}

/* --- results ----------------------------------------------------------------------------------- */

static const char *kind_of(const struct job *job)
{
    return job->is_service ? "service" : "handler";
}

/* Answers with an error, unless there is an answer already. */
static void refuse(
        znl_node_box *b, const struct job *job, znl_frame code, const char *text, size_t size)
{
    struct asker to = znl_node_job_asker(job);
    if (!job->base.is_answered)
        znl_node_box_refuse(b, &to, code, text, size);
}

/* The handler did what it must not: an "error" event and an error answer. */
static void handler_failed(znl_node_box *b, const struct job *job, int err, const char *text)
{
    if (err == ZNL_E_HANDLER_TIMEOUT)
        b->jobs.handler_timeouts++;
    else
        b->jobs.handler_errors++;
    znl_node_box_emit_error(b, text, kind_of(job), znl_frame_of(job->peer, job->peer_size));
    refuse(b, job, znl_frame_text(znl_err_code(err)), text, strlen(text));
}

/* nil, message, code: the handler refuses. */
static void handler_refused(lua_State *L, znl_node_box *b, const struct job *job)
{
    size_t size = 0;
    const char *text = lua_type(L, 2) == LUA_TSTRING ? lua_tolstring(L, 2, &size) : NULL;
    znl_frame code = {NULL, 0};
    if (text == NULL) {
        text = luaL_typename(L, 2);
        size = strlen(text);
    }
    if (lua_type(L, 3) == LUA_TSTRING)
        code.data = (const uint8_t *)lua_tolstring(L, 3, &code.size);
    if (!znl_call_is_code(code))
        code = znl_frame_text("REFUSED");
    b->jobs.refused++;
    if (znl_frame_equal(code, znl_frame_text(znl_err_code(ZNL_E_OVERLOADED))))
        b->jobs.overloaded++;
    refuse(b, job, code, text, size);
}

/* What a handler returned cannot be sent: said so that its author finds it. */
static void result_refused(lua_State *L, znl_node_box *b, const struct job *job, int err)
{
    const char *place = znl_node_job_place(L, job);
    const char *what = lua_type(L, 1) == LUA_TTABLE ? "table that is no array of strings"
                                                    : luaL_typename(L, 1);
    char text[512];
    if (err == ZNL_E_TOO_BIG)
        snprintf(text, sizeof text, "%s: the answer is larger than the limit", place);
    else
        snprintf(text, sizeof text,
                "%s: returned a %s; a handler returns a string, an array of strings or nil",
                place, what);
    handler_failed(b, job, ZNL_E_HANDLER_ERROR, text);
}

/* What a handler returned goes out as the answer. 0 or why not. */
static int send_result(
        znl_node_box *b, const struct job *job, const znl_frame *frames, size_t count)
{
    struct asker to = znl_node_job_asker(job);
    znl_call marked = {.is_answer = 1, .is_json = job->is_json};
    return answer(b, &to, job->is_call ? &marked : NULL, frames, count);
}

/* An answer could not be sent for something that its author need not know. */
static int is_unsent(int err)
{
    return err != 0 && err != ZNL_E_INVALID && err != ZNL_E_TOO_BIG;
}

int znl_node_box_handler_returned(void *user, lua_State *co, int nresults)
{
    struct job *job = user;
    znl_node_box *b = job->node;
    int type = nresults > 0 ? lua_type(co, 1) : LUA_TNIL;
    znl_frame frame = {(const uint8_t *)"", 0};
    if (type == LUA_TSTRING)
        frame.data = (const uint8_t *)lua_tolstring(co, 1, &frame.size);
    else if (type != LUA_TNIL || nresults > 1)
        return 0;
    if (b->node != NULL && !job->base.is_answered) {
        int err = send_result(b, job, &frame, 1);
        if (err != 0 && !is_unsent(err))
            return 0; /* it is told what is wrong, which takes more */
        b->jobs.unanswered += err != 0;
    }
    znl_job_done(&job->base);
    return 1;
}

static void handler_returned(lua_State *L, znl_node_box *b, const struct job *job)
{
    znl_frame *frames;
    size_t count;
    int err = znl_node_box_payload(L, 1, b, &frames, &count);
    if (err == ZNL_E_INVALID || err == ZNL_E_TOO_BIG) {
        result_refused(L, b, job, err);
        return;
    }
    if (err == 0 && job->base.is_answered)
        return;
    if (err == 0)
        err = send_result(b, job, frames, count);
    if (err == ZNL_E_INVALID)
        handler_failed(b, job, ZNL_E_HANDLER_ERROR,
                "the first frame of an answer must not be the proof marker in plain mode, nor the "
                "call marker before it is known whether the peer reads calls");
    else if (err == ZNL_E_TOO_BIG)
        result_refused(L, b, job, err);
    else if (err != 0)
        b->jobs.unanswered++;
}

void znl_node_box_handler_done(void *user, lua_State *L, int status, int nresults)
{
    struct job *job = user;
    znl_node_box *b = job->node;
    int was_interrupted = znl_sched_was_interrupted(b->vm->sched); /* before anything else */
    if (status == ZNL_TASK_DROPPED) {
        size_t size;
        const char *text = lua_tolstring(L, 1, &size);
        refuse(b, job, znl_frame_text(znl_err_code(ZNL_E_STOPPED)), text, size);
    } else if (status != 0 && job->message != NULL) {
        /* Memory ended before there was a request to handle. */
        b->jobs.overloaded++;
        refuse(b, job, znl_frame_text(znl_err_code(ZNL_E_OVERLOADED)),
                znl_err_text(ZNL_E_OVERLOADED), strlen(znl_err_text(ZNL_E_OVERLOADED)));
    } else if (status != 0) {
        const char *text = lua_tostring(L, 1);
        handler_failed(b, job, was_interrupted ? ZNL_E_HANDLER_TIMEOUT : ZNL_E_HANDLER_ERROR,
                text != NULL ? text : "error without a message");
    } else if (b->node != NULL) {
        if (nresults == 0)
            lua_pushnil(L); /* no value is one empty frame, as nil is */
        if (nresults > 1 && lua_isnil(L, 1) && !lua_isnil(L, 2)) {
            lua_settop(L, 3);
            handler_refused(L, b, job);
        } else {
            handler_returned(L, b, job);
        }
    }
    znl_job_done(&job->base);
}
