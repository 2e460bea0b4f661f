/* nats_subscription.c - subscriptions of NATS as Lua has them.
 *
 *     connection:subscribe(subject, { fn=, owner=, max_concurrency=, queue=, max_messages=, max_bytes= }) -> subscription
 *     subscription:next(timeout_ms|nil) -> message | nil, message, code       yields; one without fn
 *     subscription:unsubscribe() :stop() :pause(on) :pending() -> messages, bytes, handlers at work
 *     subscription:wait_idle(timeout_ms) -> true | nil, message, code       yields
 *
 * With fn each message is a task of it, and the subscription lives until it is unsubscribed; without, it ends when
 * nobody holds it any more. Messages begin in their order.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/net/nats.h"

#include "base/err.h"
#include "base/limits.h"
#include "base/log.h"

#include <string.h>

#define SUBSCRIPTION_TYPE "znl.core.nats.subscription"

struct znl_nats_reader {
    znl_anchor anchor;             /* with fn, while it is open; and by each handler at work */
    znl_nats_reader *next, **link; /* of the box */
    znl_nats_box *box;             /* its userdata is in the environment of this one */
    znl_nats_subscription *raw;    /* NULL: unsubscribed */
    int fn_ref;
    znl_owner *owner;
    uint32_t at_work, max_concurrency;
    int is_paused; /* by the script */
    int is_full;   /* as many handlers as may be are at work */
    int is_anchored;
    znl_wait reader;
    znl_wait idler;
};

typedef znl_nats_reader reader;

/* --- its end ----------------------------------------------------------------------------------------- */

/* The transport's half is gone, or goes with the connection. */
static void forget(reader *r)
{
    znl_sched *sched = r->anchor.vm->sched;
    r->raw = NULL;
    *r->link = r->next;
    if (r->next != NULL)
        r->next->link = r->link;
    znl_sched_wake_error_later(sched, r->reader, ZNL_E_CLOSED, "nats.next");
    if (r->at_work == 0)
        znl_sched_wake_later(sched, r->idler);
    if (r->is_anchored) {
        r->is_anchored = 0;
        znl_anchor_let_go_later(&r->anchor);
    }
}

void znl_nats_end_readers(znl_nats_box *box)
{
    while (box->readers != NULL)
        forget(box->readers);
}

static void unsubscribe(reader *r)
{
    znl_nats_subscription *raw = r->raw;
    if (raw == NULL)
        return;
    forget(r);
    znl_nats_unsubscribe(raw);
}

/* --- handlers ---------------------------------------------------------------------------------------- */

static int is_idle(const reader *r)
{
    return r->at_work == 0 && (r->raw == NULL || znl_nats_waiting(r->raw, NULL) == 0);
}

static void done(void *user, lua_State *L, int status, int nresults)
{
    reader *r = user;
    (void)nresults;
    if (status != 0) {
        size_t size = 0;
        const char *text = lua_tolstring(L, 1, &size);
        znl_log_field field = {"error", text != NULL ? text : "", size, 0};
        if (status != ZNL_TASK_DROPPED)
            znl_log_write(ZNL_LOG_ERROR, "nats", "a handler failed", &field, 1);
    }
    r->at_work--;
    if (r->is_full && r->at_work < r->max_concurrency) {
        r->is_full = 0;
        if (r->raw != NULL && !r->is_paused)
            znl_nats_pause(r->raw, 0);
    }
    if (is_idle(r))
        znl_sched_wake_later(r->anchor.vm->sched, r->idler);
    znl_anchor_let_go_later(&r->anchor);
}

struct arrival {
    reader *reader;
    const znl_nats_message *message;
};

static int start_handler(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    reader *r = arrival->reader;
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->fn_ref);
    if (!znl_anchor_push(L, &r->box->anchor))
        return 0;
    znl_nats_pushmessage(L, lua_gettop(L), arrival->message);
    lua_remove(L, -2);
    const znl_spawn how = {
            .owner = r->owner, .kind = ZNL_TASK_FOREGROUND, .done = done, .user = r};
    /* `done` may come before this returns. */
    znl_anchor_hold_again(&r->anchor);
    r->at_work++;
    int err = znl_sched_spawn_as(L, 1, &how);
    if (err != 0) {
        r->at_work--;
        znl_anchor_let_go_later(&r->anchor);
        luaL_error(L, "no task for a message: %s", znl_err_text(err));
    }
    if (r->raw != NULL && r->at_work >= r->max_concurrency && !r->is_full) {
        r->is_full = 1;
        znl_nats_pause(r->raw, 1);
    }
    return 0;
}

static void on_message(void *user, const znl_nats_message *message)
{
    reader *r = user;
    struct arrival arrival = {r, message};
    znl_anchor_hold_again(&r->anchor);
    znl_vm_protect(r->anchor.vm, start_handler, &arrival, "nats");
    znl_anchor_let_go_later(&r->anchor);
}

/* --- messages that a task takes ---------------------------------------------------------------------- */

/* The message on top of the stack is out of the queue. Argument 1 or `r` is the subscription. */
static int take(lua_State *L, reader *r)
{
    if (!znl_anchor_push(L, &r->box->anchor))
        return znl_nats_fail(L, ZNL_E_CLOSED, "nats.next");
    znl_nats_pushmessage(L, lua_gettop(L), znl_nats_peek(r->raw));
    znl_nats_pop(r->raw);
    if (is_idle(r))
        znl_sched_wake_later(r->anchor.vm->sched, r->idler);
    return 1;
}

static int push_taken(lua_State *L, void *user)
{
    return take(L, user);
}

/* It is paused for good: each message waits first. The task that is woken may end with the last reference. */
static void on_waiting(void *user)
{
    reader *r = user;
    znl_sched *sched = r->anchor.vm->sched;
    if (!r->is_paused && znl_sched_waits(sched, r->reader))
        znl_sched_wake(sched, r->reader, push_taken, r);
}

static reader *check_reader(lua_State *L)
{
    return luaL_checkudata(L, 1, SUBSCRIPTION_TYPE);
}

static int subscription_next(lua_State *L)
{
    static const char where[] = "nats.next";
    reader *r = check_reader(L);
    luaL_argcheck(L, r->fn_ref == LUA_NOREF, 1, "messages of this subscription have a handler");
    if (r->raw == NULL)
        return znl_nats_fail(L, ZNL_E_CLOSED, where);
    if (!r->is_paused && znl_nats_waiting(r->raw, NULL) > 0)
        return take(L, r);
    if (znl_sched_waits(r->anchor.vm->sched, r->reader)) {
        lua_pushnil(L);
        lua_pushliteral(L, "nats.next: another coroutine waits for its messages");
        lua_pushstring(L, znl_err_code(ZNL_E_BUSY));
        return 3;
    }
    if (lua_isnoneornil(L, 2))
        r->reader = znl_sched_park_as(L, where);
    else
        r->reader = znl_sched_park_for(
                L, znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX), where);
    return lua_yield(L, 0);
}

/* --- methods ----------------------------------------------------------------------------------------- */

static int subscription_unsubscribe(lua_State *L)
{
    unsubscribe(check_reader(L));
    return 0;
}

static int subscription_stop(lua_State *L)
{
    reader *r = check_reader(L);
    if (r->raw != NULL)
        znl_nats_stop(r->raw);
    return 0;
}

static int subscription_pause(lua_State *L)
{
    reader *r = check_reader(L);
    r->is_paused = lua_toboolean(L, 2);
    if (r->raw == NULL)
        return 0;
    if (r->fn_ref != LUA_NOREF)
        znl_nats_pause(r->raw, r->is_paused || r->is_full);
    else if (!r->is_paused && znl_nats_waiting(r->raw, NULL) > 0 &&
            znl_sched_waits(r->anchor.vm->sched, r->reader))
        znl_sched_wake_later(r->anchor.vm->sched, r->reader); /* it looks again: Lua's half */
    return 0;
}

static int subscription_pending(lua_State *L)
{
    const reader *r = check_reader(L);
    size_t bytes = 0;
    size_t messages = r->raw != NULL ? znl_nats_waiting(r->raw, &bytes) : 0;
    lua_pushnumber(L, (lua_Number)messages);
    lua_pushnumber(L, (lua_Number)bytes);
    lua_pushnumber(L, (lua_Number)r->at_work);
    return 3;
}

static int subscription_wait_idle(lua_State *L)
{
    static const char where[] = "nats.drain";
    reader *r = check_reader(L);
    uint32_t timeout_ms = znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    if (is_idle(r)) {
        lua_pushboolean(L, 1);
        return 1;
    }
    r->idler = znl_sched_park_for(L, timeout_ms, where);
    return lua_yield(L, 0);
}

static int subscription_collect(lua_State *L)
{
    reader *r = check_reader(L);
    unsubscribe(r);
    luaL_unref(L, LUA_REGISTRYINDEX, r->fn_ref);
    r->fn_ref = LUA_NOREF;
    znl_owner_release(r->owner);
    r->owner = NULL;
    znl_anchor_fini(&r->anchor);
    return 0;
}

int znl_nats_subscribe_method(lua_State *L)
{
    znl_nats_box *box = znl_nats_checkbox(L);
    const char *subject = znl_nats_checksubject(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 3);
    uint32_t max_messages = znl_lua_fieldu32(L, 3, "max_messages", 0, UINT32_MAX);
    uint32_t max_bytes = znl_lua_fieldu32(L, 3, "max_bytes", 0, UINT32_MAX);
    uint32_t max_concurrency = znl_lua_fieldu32(
            L, 3, "max_concurrency", ZNL_CONCURRENCY_DEFAULT, ZNL_CONCURRENCY_MAX);
    znl_frame queue = znl_lua_fieldtext(L, 3, "queue", ZNL_NATS_SUBJECT_BYTES_MAX);
    if (queue.size > 0 && memchr(queue.data, 0, queue.size) != NULL)
        subject = ""; /* neither is a name */
    lua_getfield(L, 3, "owner");
    znl_owner *owner = lua_isnil(L, 4) ? NULL : znl_lua_checkowner(L, 4);
    if (box->nats == NULL)
        return znl_nats_fail(L, ZNL_E_CLOSED, "nats.subscribe");
    reader *r = lua_newuserdata(L, sizeof *r);
    memset(r, 0, sizeof *r);
    znl_anchor_init(&r->anchor, box->anchor.vm);
    r->fn_ref = LUA_NOREF;
    r->box = box;
    r->max_concurrency = max_concurrency > 0 ? max_concurrency : 1;
    luaL_getmetatable(L, SUBSCRIPTION_TYPE);
    lua_setmetatable(L, 5);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, 5);
    r->fn_ref = znl_lua_fieldfunction(L, 3, "fn");
    if (owner != NULL) {
        r->owner = owner;
        znl_owner_hold(owner);
    }
    int has_handler = r->fn_ref != LUA_NOREF;
    if (has_handler)
        znl_anchor_hold(L, &r->anchor, 5);
    int err = znl_nats_subscribe(&r->raw, box->nats, subject,
            queue.size > 0 ? (const char *)queue.data : NULL, max_messages, max_bytes,
            on_message, r);
    if (err != 0) {
        r->raw = NULL;
        if (has_handler)
            znl_anchor_let_go(&r->anchor);
        return znl_nats_fail(L, err, "nats.subscribe");
    }
    r->is_anchored = has_handler;
    r->next = box->readers;
    r->link = &box->readers;
    if (r->next != NULL)
        r->next->link = &r->next;
    box->readers = r;
    if (!has_handler) {
        znl_nats_pause(r->raw, 1);
        znl_nats_on_waiting(r->raw, on_waiting);
    }
    return 1;
}

void znl_nats_open_subscription_type(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"next", subscription_next},
            {"unsubscribe", subscription_unsubscribe},
            {"stop", subscription_stop},
            {"pause", subscription_pause},
            {"pending", subscription_pending},
            {"wait_idle", subscription_wait_idle},
            {NULL, NULL},
    };
    znl_lua_newtype(L, SUBSCRIPTION_TYPE, methods, subscription_collect);
}
