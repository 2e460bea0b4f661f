/* nats_request.c - asks and flushes of NATS, and the tasks that wait for them. SPDX-License-Identifier: MIT */
#include "bind/net/nats.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <stddef.h>
#include <string.h>

/* One wait. It lives until the answer is there, or the connection is closed; an ask that is given up ends at once, a
 * flush when its time is over. */
typedef struct znl_nats_pending pending;
struct znl_nats_pending {
    pending *next, **link; /* of the box */
    znl_nats_box *box;     /* held */
    znl_nats_ask *ask;     /* of a request */
    znl_wait wait;
    int err;
    const znl_nats_message *message;
    const char *where;
};

static void enter(znl_nats_box *box, pending *p)
{
    p->box = box;
    p->next = box->pendings;
    p->link = &box->pendings;
    if (p->next != NULL)
        p->next->link = &p->next;
    box->pendings = p;
    znl_anchor_hold_again(&box->anchor); /* it is open: held already */
}

static void leave(pending *p)
{
    *p->link = p->next;
    if (p->next != NULL)
        p->next->link = p->link;
}

static int push_result(lua_State *L, void *user)
{
    const pending *p = user;
    if (p->err != 0)
        return znl_nats_fail(L, p->err, p->where);
    if (p->message == NULL) {
        lua_pushboolean(L, 1);
        return 1;
    }
    znl_anchor_push(L, &p->box->anchor);
    znl_nats_pushmessage(L, lua_gettop(L), p->message);
    return 1;
}

static void end_wait(pending *p, int err, const znl_nats_message *message)
{
    znl_nats_box *box = p->box;
    p->err = err;
    p->message = message;
    leave(p);
    znl_sched_wake(box->anchor.vm->sched, p->wait, push_result, p);
    znl_free(p);
    znl_anchor_let_go(&box->anchor);
}

static void on_reply(void *user, int err, const znl_nats_message *message)
{
    end_wait(user, err, message);
}

static void on_flushed(void *user, int err)
{
    end_wait(user, err, NULL);
}

static void on_lost(void *user, uint64_t id)
{
    pending *p = user;
    znl_nats_box *box = p->box;
    (void)id;
    leave(p);
    znl_nats_cancel(p->ask);
    znl_free(p);
    znl_anchor_let_go_later(&box->anchor);
}

/* How long may be waited. 0 or the number of results to return. */
static int read_timeout(lua_State *L, int idx, const char *where, uint32_t *timeout_ms)
{
    int is_limited;
    *timeout_ms = znl_lua_checku32(L, idx, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
    if (!znl_sched_is_task(L))
        luaL_error(L, "%s must be called from a coroutine made by znl", where);
    if (znl_sched_is_cancelled(znl_vm_of(L)->sched) != 0)
        return znl_lua_cancelled(L, where);
    int err = znl_lua_limit_timeout(L, timeout_ms, &is_limited);
    return err == 0 ? 0 : znl_lua_fail(L, err, where);
}

/* Waits for what `p` was entered for. */
static int wait_for(lua_State *L, pending *p)
{
    p->wait = znl_sched_park_as(L, p->where);
    if (p->ask != NULL)
        znl_sched_on_lost(p->box->anchor.vm->sched, on_lost, p, 0);
    return lua_yield(L, 0);
}

int znl_nats_request_method(lua_State *L)
{
    static const char where[] = "nats.request";
    uint32_t timeout_ms;
    znl_nats_box *box = znl_nats_checkbox(L);
    const char *subject = znl_nats_checksubject(L, 2);
    znl_frame data = znl_lua_checkframe(L, 3, "data", SIZE_MAX);
    znl_nats_headers headers = znl_nats_checkheaders(L, 5);
    int results = read_timeout(L, 4, where, &timeout_ms);
    if (results != 0)
        return results;
    if (box->nats == NULL)
        return znl_nats_fail(L, ZNL_E_CLOSED, where);
    pending *p = znl_calloc(1, sizeof *p);
    if (p == NULL)
        return znl_nats_fail(L, ZNL_E_NOMEM, where);
    p->where = where;
    int err = znl_nats_request(&p->ask, box->nats, subject, &headers, data.data, data.size,
            timeout_ms, on_reply, p);
    if (err != 0) {
        znl_free(p);
        return znl_nats_fail(L, err, where);
    }
    enter(box, p);
    return wait_for(L, p);
}

int znl_nats_flush_method(lua_State *L)
{
    static const char where[] = "nats.flush";
    uint32_t timeout_ms;
    znl_nats_box *box = znl_nats_checkbox(L);
    int results = read_timeout(L, 2, where, &timeout_ms);
    if (results != 0)
        return results;
    if (box->nats == NULL)
        return znl_nats_fail(L, ZNL_E_CLOSED, where);
    pending *p = znl_calloc(1, sizeof *p);
    if (p == NULL)
        return znl_nats_fail(L, ZNL_E_NOMEM, where);
    p->where = where;
    int err = znl_nats_flush(box->nats, timeout_ms, on_flushed, p);
    if (err != 0) {
        znl_free(p);
        return znl_nats_fail(L, err, where);
    }
    enter(box, p);
    return wait_for(L, p);
}

void znl_nats_end_pendings(znl_nats_box *box)
{
    while (box->pendings != NULL) {
        pending *p = box->pendings;
        leave(p);
        if (p->ask != NULL)
            znl_nats_cancel(p->ask);
        znl_sched_wake_error_later(box->anchor.vm->sched, p->wait, ZNL_E_CLOSED, p->where);
        znl_free(p);
        znl_anchor_let_go_later(&box->anchor);
    }
}
