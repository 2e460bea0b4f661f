/* ask.c - what a follower asks its leader: registration, invokes, subscriptions; and the answers that
 * wake the task.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"

#include "base/err.h"

/* Values of invoke and oneway before the arguments: self, method, timeout_ms, n. */
#define BEFORE_ARGUMENTS 4

/* --- waiting ----------------------------------------------------------------------------------- */

/* The task that asked does not wait any more: it was cancelled, or dropped. */
static void lost(void *user, uint64_t id)
{
    znl_cluster_outbound *outbound = user;
    if (outbound->link != NULL)
        znl_cluster_link_give_up(outbound->link, (int64_t)id);
    if (outbound->is_open && outbound->is_ours) {
        const znl_cluster_message message = {.kind = ZNL_CLUSTER_CANCEL};
        znl_cluster_link_tell(outbound->link, &message, (znl_frame){NULL, 0}, 0, (int64_t)id);
    }
    znl_anchor_let_go(&outbound->anchor);
}

static void registrar_lost(void *user, uint64_t id)
{
    znl_cluster_outbound *outbound = user;
    outbound->registrar = (znl_wait){NULL, 0};
    if (outbound->link != NULL)
        znl_cluster_link_give_up(outbound->link, (int64_t)id);
    znl_anchor_let_go(&outbound->anchor);
}

/* How long may be waited: timeout_ms at `index`, 0 for ever, and no longer than the task lives. 0, or the number
 * of results to return. */
static int read_timeout(lua_State *L, int index, const char *where, uint32_t *timeout_ms)
{
    uint32_t wanted_ms = znl_lua_checku32(L, index, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    uint32_t left_ms = wanted_ms != 0 ? wanted_ms : UINT32_MAX;
    int is_limited;
    int err = znl_lua_limit_timeout(L, &left_ms, &is_limited);
    if (err != 0)
        return znl_lua_fail(L, err, where);
    *timeout_ms = left_ms != UINT32_MAX ? left_ms : 0;
    if (*timeout_ms > INT32_MAX)
        *timeout_ms = INT32_MAX;
    return 0;
}

/* Keeps the link until its answer is there. Before the data is written: it allocates. */
static void hold(lua_State *L, znl_cluster_outbound *outbound)
{
    if (outbound->anchor.holds > 0)
        znl_anchor_hold_again(&outbound->anchor);
    else
        znl_anchor_hold(L, &outbound->anchor, 1);
}

static int fail_held(lua_State *L, znl_cluster_outbound *outbound, int err, const char *where)
{
    znl_anchor_let_go(&outbound->anchor);
    return znl_cluster_fail(L, err, where);
}

/* Sends a question of a link that is held, and waits: yields. */
static int ask(lua_State *L, znl_cluster_outbound *outbound, const znl_cluster_message *message,
        znl_frame data, uint32_t timeout_ms, const char *where)
{
    int64_t id;
    znl_wait wait = znl_sched_park_as(L, where);
    if (wait.ticket == 0) { /* it is being dropped */
        znl_anchor_let_go(&outbound->anchor);
        return lua_yield(L, 0);
    }
    int err = znl_cluster_link_ask(outbound->link, message, data, timeout_ms,
            (znl_waiter){wait.task, wait.ticket}, &id);
    if (err != 0)
        return fail_held(L, outbound, err, where);
    int is_registration = message->kind == ZNL_CLUSTER_REGISTER;
    if (is_registration)
        outbound->registrar = wait;
    znl_sched_on_lost(outbound->vm->sched, is_registration ? registrar_lost : lost, outbound,
            (uint64_t)id);
    return lua_yield(L, 0);
}

/* --- registration ------------------------------------------------------------------------------ */

/* register(self, channel, timeout_ms, extension or nil) -> { success =, error = }, extension | nil, message, code */
static int link_register(lua_State *L)
{
    znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    lua_settop(L, 4);
    znl_cluster_message message = {.kind = ZNL_CLUSTER_REGISTER};
    message.channel = znl_lua_checkframe(L, 2, "channel", ZNL_CLUSTER_NAME_BYTES_MAX);
    if (outbound == NULL || !outbound->is_open)
        return znl_lua_fail(L, ZNL_E_CLOSED, "register");
    if (outbound->registrar.task != NULL)
        return luaL_error(L, "register: another task registers this link");
    uint32_t timeout_ms;
    int results = read_timeout(L, 3, "register", &timeout_ms);
    if (results != 0)
        return results;
    if (!znl_sched_is_task(L))
        znl_sched_park_as(L, "register"); /* raises, and says why */
    znl_buffer *out = &outbound->values.out;
    char problem[ZNL_LUA_PROBLEM_BYTES];
    outbound->is_offering = !lua_isnil(L, 4);
    if (outbound->is_offering)
        luaL_checktype(L, 4, LUA_TTABLE);
    hold(L, outbound);
    if (outbound->is_offering) {
        out->size = 0;
        int err = znl_lua_writejson(L, 4, out, problem, sizeof problem);
        if (err == ZNL_E_INVALID) {
            znl_anchor_let_go(&outbound->anchor);
            return znl_cluster_unsendable(L, "register", problem);
        }
        if (err != 0)
            return fail_held(L, outbound, err, "register");
        message.extension = znl_frame_of(out->data, out->size);
    }
    return ask(L, outbound, &message, (znl_frame){NULL, 0}, timeout_ms, "register");
}

/* An answer being handed to its task. */
struct answer {
    znl_cluster_outbound *outbound;
    const znl_cluster_message *message;
    znl_frame data;
};

static int unreadable(lua_State *L, const char *where)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: the answer cannot be read", where);
    lua_pushstring(L, znl_err_code(ZNL_E_PROTO));
    return 3;
}

static int push_registration(lua_State *L, void *user)
{
    const struct answer *answer = user;
    znl_cluster_outbound *outbound = answer->outbound;
    if (znl_cluster_push_value(L, &outbound->values, answer->data) != 0)
        return unreadable(L, "register");
    if (!lua_istable(L, -1))
        return unreadable(L, "register");
    znl_frame extension = answer->message->extension;
    outbound->is_ours = outbound->is_offering && extension.data != NULL;
    if (extension.data == NULL || znl_lua_pushjson(L, extension) != 0)
        lua_pushnil(L);
    return 2;
}

/* --- invokes ----------------------------------------------------------------------------------- */

/* What invoke and oneway have in common. */
struct question {
    znl_cluster_outbound *outbound; /* open */
    znl_cluster_message message;
    znl_frame data;
    uint32_t timeout_ms;
};

/* 0, or the number of results to return; misuse raises. */
static int read_invoke(lua_State *L, const char *where, struct question *q)
{
    *q = (struct question){.outbound = znl_cluster_check_link(L)};
    q->message.kind = ZNL_CLUSTER_INVOKE;
    q->message.method = znl_lua_checkframe(L, 2, "method", ZNL_CLUSTER_METHOD_BYTES_MAX);
    q->message.arg_count = znl_lua_checku32(L, 4, "n", 0, ZNL_CLUSTER_ARGUMENTS_MAX);
    lua_settop(L, BEFORE_ARGUMENTS + (int)q->message.arg_count);
    if (q->outbound == NULL || !q->outbound->is_open)
        return znl_lua_fail(L, ZNL_E_CLOSED, where);
    return read_timeout(L, 3, where, &q->timeout_ms);
}

/* Writes the arguments. The same. */
static int write_invoke(lua_State *L, const char *where, struct question *q)
{
    char problem[ZNL_LUA_PROBLEM_BYTES];
    znl_cluster_values *values = &q->outbound->values;
    int err = znl_cluster_write_arguments(
            L, BEFORE_ARGUMENTS + 1, (int)q->message.arg_count, values, problem);
    if (err == 0 && !q->outbound->is_open)
        err = ZNL_E_CLOSED; /* by the script's encode */
    q->data = znl_frame_of(values->out.data, values->out.size);
    if (err == 0)
        return 0;
    return err == ZNL_E_INVALID ? znl_cluster_unsendable(L, where, problem)
                                : znl_cluster_fail(L, err, where);
}

/* invoke(self, method, timeout_ms, n, ...) -> result | nil, message, code, error: yields */
static int link_invoke(lua_State *L)
{
    struct question q;
    int results = read_invoke(L, "invoke", &q);
    if (results != 0)
        return results;
    if (!znl_sched_is_task(L))
        znl_sched_park_as(L, "invoke"); /* raises, and says why */
    hold(L, q.outbound);
    results = write_invoke(L, "invoke", &q);
    if (results != 0) {
        znl_anchor_let_go(&q.outbound->anchor);
        return results;
    }
    return ask(L, q.outbound, &q.message, q.data, q.timeout_ms, "invoke");
}

/* oneway(self, method, timeout_ms, n, ...) -> true | nil, message, code */
static int link_oneway(lua_State *L)
{
    struct question q;
    int results = read_invoke(L, "oneway", &q);
    if (results == 0)
        results = write_invoke(L, "oneway", &q);
    if (results != 0)
        return results;
    q.message.is_oneway = 1;
    int err = znl_cluster_link_tell(q.outbound->link, &q.message, q.data, q.timeout_ms, 0);
    if (err != 0)
        return znl_cluster_fail(L, err, "oneway");
    lua_pushboolean(L, 1);
    return 1;
}

/* The value at the top is what the leader failed with: nil, message, code, value. */
static int push_error(lua_State *L)
{
    int error = lua_gettop(L);
    znl_cluster_failure failure = {0};
    if (lua_istable(L, error))
        znl_cluster_read_failure(L, error, &failure);
    int name = error + 1;
    lua_pushnil(L);
    if (failure.message.data != NULL)
        lua_pushlstring(L, (const char *)failure.message.data, failure.message.size);
    else if (lua_type(L, error) == LUA_TSTRING)
        lua_pushvalue(L, error);
    else if (failure.name.data != NULL)
        lua_pushvalue(L, name);
    else
        lua_pushliteral(L, "the leader failed");
    if (failure.code.data != NULL)
        lua_pushlstring(L, (const char *)failure.code.data, failure.code.size);
    else if (failure.has_number)
        lua_pushnumber(L, failure.number);
    else
        lua_pushstring(L, znl_err_code(ZNL_E_FAILED));
    lua_pushvalue(L, error);
    return 4;
}

static int push_result(lua_State *L, void *user)
{
    const struct answer *answer = user;
    int is_result = answer->message->kind == ZNL_CLUSTER_RESULT;
    /* No data is no value, which is what followers of the original make of it. */
    if (is_result && answer->message->is_success && answer->data.size == 0) {
        lua_pushnil(L);
        return 1;
    }
    if (!is_result || znl_cluster_push_value(L, &answer->outbound->values, answer->data) != 0)
        return unreadable(L, "invoke");
    return answer->message->is_success ? 1 : push_error(L);
}

/* --- answers ----------------------------------------------------------------------------------- */

/* Whether it is link:register() that waits; it does so no more. */
static int take_registrar(znl_cluster_outbound *outbound, znl_waiter waiter)
{
    int is_it = outbound->registrar.task == waiter.owner &&
            outbound->registrar.ticket == waiter.ticket;
    if (is_it)
        outbound->registrar = (znl_wait){NULL, 0};
    return is_it;
}

void znl_cluster_on_answer(
        void *user, znl_waiter waiter, const znl_cluster_message *message, znl_frame data)
{
    struct answer answer = {user, message, data};
    znl_cluster_outbound *outbound = answer.outbound;
    int is_registration = take_registrar(outbound, waiter);
    znl_anchor_let_go(&outbound->anchor);
    znl_sched_wake(outbound->vm->sched, (znl_wait){waiter.owner, waiter.ticket},
            is_registration ? push_registration : push_result, &answer);
}

void znl_cluster_on_failed(void *user, znl_waiter waiter, int err)
{
    znl_cluster_outbound *outbound = user;
    const char *where = take_registrar(outbound, waiter) ? "register" : "invoke";
    znl_anchor_let_go(&outbound->anchor);
    /* Later: the end of a connection fails many in one sweep, and who asks again must not be caught by it. */
    znl_sched_wake_error_later(
            outbound->vm->sched, (znl_wait){waiter.owner, waiter.ticket}, err, where);
}

/* --- subscriptions ----------------------------------------------------------------------------- */

static int tell_subscription(lua_State *L, znl_cluster_kind kind, const char *where)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    znl_cluster_message message = {.kind = kind};
    message.key = znl_lua_checkframe(L, 2, "key", ZNL_CLUSTER_KEY_BYTES_MAX);
    message.reg = znl_cluster_check_json(L, 3, "registration");
    int err = outbound != NULL && outbound->is_open
            ? znl_cluster_link_tell(outbound->link, &message, (znl_frame){NULL, 0},
                      outbound->options.timeout_ms, 0)
            : ZNL_E_CLOSED;
    if (err != 0)
        return znl_lua_fail(L, err, where);
    lua_pushboolean(L, 1);
    return 1;
}

/* subscribe(self, key, registration or nil) -> true | nil, message, code */
static int link_subscribe(lua_State *L)
{
    return tell_subscription(L, ZNL_CLUSTER_SUBSCRIBE, "subscribe");
}

/* unsubscribe(self, key, registration or nil) -> true | nil, message, code */
static int link_unsubscribe(lua_State *L)
{
    return tell_subscription(L, ZNL_CLUSTER_UNSUBSCRIBE, "unsubscribe");
}

const luaL_Reg znl_cluster_ask_methods[] = {
        {"register", link_register},
        {"invoke", link_invoke},
        {"oneway", link_oneway},
        {"subscribe", link_subscribe},
        {"unsubscribe", link_unsubscribe},
        {NULL, NULL},
};
