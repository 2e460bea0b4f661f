/* ask.c - requests and pushes of a script, and the answers that wake it.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/err.h"

int znl_micro_read_question(lua_State *L, const char *where, znl_micro_question *question)
{
    znl_micro_link *link = znl_micro_link_check(L);
    if (lua_type(L, 2) != LUA_TSTRING)
        return luaL_argerror(L, 2, "url must be a string");
    question->url.data = (const uint8_t *)lua_tolstring(L, 2, &question->url.size);
    if (link == NULL || !link->is_open)
        return znl_lua_fail(L, ZNL_E_CLOSED, where);
    question->link = link;
    char problem[ZNL_MICRO_PROBLEM_BYTES];
    int err = znl_micro_box_data(L, 3, link->box, &question->data, problem);
    if (err == ZNL_E_INVALID) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: JSON cannot carry %s", where, problem);
        lua_pushstring(L, znl_err_code(err));
        return 3;
    }
    return err != 0 ? znl_lua_fail(L, err, where) : 0;
}

/* The task that asked does not wait any more: it was cancelled, or dropped. */
static void lost(void *user, uint64_t id)
{
    znl_micro_link *link = user;
    if (link->micro != NULL)
        znl_micro_abort(link->micro, id);
    znl_anchor_let_go(&link->anchor);
}

/* request(self, url, data, timeout_ms) -> data | nil, message, code, is_remote: yields */
int znl_micro_conn_request(lua_State *L)
{
    lua_settop(L, 4);
    uint32_t timeout_ms = ZNL_MICRO_REQUEST_MS;
    if (!lua_isnil(L, 4))
        timeout_ms = znl_lua_checku32(L, 4, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    znl_micro_question q;
    int results = znl_micro_read_question(L, "request", &q);
    if (results != 0)
        return results;
    int is_limited;
    int err = znl_lua_limit_timeout(L, &timeout_ms, &is_limited);
    if (err != 0)
        return znl_lua_fail(L, err, "request");
    znl_wait wait = znl_sched_park_as(L, "request");
    if (wait.ticket == 0)
        return lua_yield(L, 0); /* it is being dropped */
    if (q.link->anchor.holds > 0)
        znl_anchor_hold_again(&q.link->anchor);
    else
        znl_anchor_hold(L, &q.link->anchor, 1);
    uint64_t id;
    err = znl_micro_ask(q.link->micro, q.url, q.data, timeout_ms, is_limited,
            (znl_waiter){wait.task, wait.ticket}, &id);
    if (err != 0) {
        znl_anchor_let_go(&q.link->anchor);
        return znl_lua_fail(L, err, "request");
    }
    znl_sched_on_lost(q.link->box->vm->sched, lost, q.link, id);
    return lua_yield(L, 0);
}

/* push(self, url, data) -> true | nil, message, code */
int znl_micro_conn_push(lua_State *L)
{
    znl_micro_question q;
    lua_settop(L, 3);
    int results = znl_micro_read_question(L, "push", &q);
    if (results != 0)
        return results;
    int err = znl_micro_push(q.link->micro, q.url, q.data);
    if (err != 0)
        return znl_lua_fail(L, err, "push");
    lua_pushboolean(L, 1);
    return 1;
}

/* --- answers ----------------------------------------------------------------------------------- */

static int push_answer(lua_State *L, void *user)
{
    const znl_frame *data = user;
    int err = 0;
    if (data->data == NULL)
        lua_pushnil(L);
    else
        err = znl_lua_pushjson(L, *data);
    return err == 0 ? 1 : znl_lua_fail(L, err, "request: the answer");
}

void znl_micro_on_answer(void *user, znl_waiter waiter, znl_frame data)
{
    znl_micro_link *link = user;
    znl_sched *sched = link->box->vm->sched;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_anchor_let_go(&link->anchor);
    znl_sched_wake(sched, wait, push_answer, &data);
}

int znl_micro_push_refusal(lua_State *L, const znl_micro_refusal *refusal)
{
    lua_pushnil(L);
    lua_pushlstring(L, refusal->text.size > 0 ? (const char *)refusal->text.data : "",
            refusal->text.size);
    if (refusal->is_number)
        lua_pushnumber(L, refusal->number);
    else
        lua_pushlstring(L, refusal->status.size > 0 ? (const char *)refusal->status.data : "",
                refusal->status.size);
    lua_pushboolean(L, 1);
    return 4;
}

static int push_refusal(lua_State *L, void *user)
{
    return znl_micro_push_refusal(L, user);
}

void znl_micro_on_refused(void *user, znl_waiter waiter, const znl_micro_refusal *refusal)
{
    znl_micro_link *link = user;
    znl_sched *sched = link->box->vm->sched;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_anchor_let_go(&link->anchor);
    if (refusal->is_remote)
        znl_sched_wake(sched, wait, push_refusal, (void *)(uintptr_t)refusal);
    else
        /* Later: the end of a connection refuses many in one sweep, and who asks again must not be
         * caught by the same sweep. */
        znl_sched_wake_error_later(sched, wait, refusal->err, "request");
}
