/* ask.c - requests and calls of a script, and the answers that wake it.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "bind/node/node.h"

static znl_waiter park(lua_State *L, const char *where)
{
    znl_wait wait = znl_sched_park_as(L, where);
    return (znl_waiter){wait.task, wait.ticket};
}

/* Argument `index` as a payload; one of the wrong type is misuse and raises. */
int znl_node_box_checkpayload(
        lua_State *L, int index, znl_node_box *b, znl_frame **frames, size_t *count)
{
    int err = znl_node_box_payload(L, index, b, frames, count);
    if (err == ZNL_E_INVALID)
        luaL_argerror(L, index, "payload must be a string, an array of strings, or nil");
    return err;
}

static uint32_t check_timeout(lua_State *L, int index)
{
    return znl_lua_checku32(L, index, "timeout_ms", 1, ZNL_TIMEOUT_MS_MAX);
}

/* What every question has in common. */
struct question {
    znl_frame *payload;
    size_t count;
    uint32_t timeout_ms;
    int is_limited;
};

/* Reads the payload at `index` and the timeout after it, which is then limited as above. 0, or why
 * the question cannot be asked; misuse raises. */
static int read_question(lua_State *L, int index, znl_node_box *b, struct question *q)
{
    q->timeout_ms = check_timeout(L, index + 1);
    int err = znl_node_box_checkpayload(L, index, b, &q->payload, &q->count);
    return err != 0 ? err : znl_lua_limit_timeout(L, &q->timeout_ms, &q->is_limited);
}

/* A route: "" or a path. */
static znl_frame check_route(lua_State *L, int index)
{
    znl_frame route = znl_lua_checkframe(L, index, "route", ZNL_ROUTE_BYTES_MAX);
    luaL_argcheck(L, znl_call_is_route(route), index, "route must begin with \"/\"");
    return route;
}

/* A request that carries its deadline. */
static const znl_call plain = {.route = {NULL, 0}};

/* request(self, slave_id, payload, timeout_ms): yields. Of a task with a deadline, to a peer that
 * reads calls, it goes as a call without route. */
int znl_node_master_request(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    znl_frame none = {NULL, 0};
    struct question q;
    int err = read_question(L, 3, b, &q);
    if (err == 0 && q.is_limited && znl_master_calls(b->master, id) == ZNL_CALLS_YES)
        err = znl_master_call(
                b->master, id, &plain, q.payload, q.count, q.timeout_ms, park(L, "request"));
    else if (err == 0)
        err = znl_master_request(
                b->master, id, none, q.payload, q.count, q.timeout_ms, park(L, "request"));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "request");
}

/* service_request(self, slave_id, service, payload, timeout_ms): yields */
int znl_node_master_service_request(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    znl_frame service = znl_lua_checkframe(L, 3, "service", ZNL_SERVICE_BYTES_MAX);
    luaL_argcheck(L, service.size > 0, 3, "service must not be empty");
    struct question q;
    int err = read_question(L, 4, b, &q);
    if (err == 0)
        err = znl_master_request(b->master, id, service, q.payload, q.count, q.timeout_ms,
                park(L, "service_request"));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "service_request");
}

/* call(self, slave_id, route, payload, timeout_ms, is_json): yields */
int znl_node_master_call(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkmaster(L);
    znl_frame id = znl_lua_checkframe(L, 2, "slave_id", ZNL_ID_BYTES_MAX);
    znl_call call = {.route = check_route(L, 3), .is_json = lua_toboolean(L, 6)};
    struct question q;
    int err = read_question(L, 4, b, &q);
    if (err == 0)
        err = znl_master_call(
                b->master, id, &call, q.payload, q.count, q.timeout_ms, park(L, "call"));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "call");
}

/* request(self, payload, timeout_ms): yields */
int znl_node_slave_request(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkslave(L);
    struct question q;
    int err = read_question(L, 2, b, &q);
    if (err == 0 && q.is_limited && znl_slave_calls(b->slave) == ZNL_CALLS_YES)
        err = znl_slave_call(
                b->slave, &plain, q.payload, q.count, q.timeout_ms, park(L, "request"));
    else if (err == 0)
        err = znl_slave_request(b->slave, q.payload, q.count, q.timeout_ms, park(L, "request"));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "request");
}

/* call(self, route, payload, timeout_ms, is_json): yields */
int znl_node_slave_call(lua_State *L)
{
    znl_node_box *b = znl_node_box_checkslave(L);
    znl_call call = {.route = check_route(L, 2), .is_json = lua_toboolean(L, 5)};
    struct question q;
    int err = read_question(L, 3, b, &q);
    if (err == 0)
        err = znl_slave_call(
                b->slave, &call, q.payload, q.count, q.timeout_ms, park(L, "call"));
    return err == 0 ? lua_yield(L, 0) : znl_lua_fail(L, err, "call");
}

/* --- answers ----------------------------------------------------------------------------------- */

/* payload; payload, true for JSON; or nil, message, code as the peer has them. */
static int push_reply(lua_State *L, void *user)
{
    const znl_message *message = user;
    if (message->call != NULL && message->call->is_error) {
        lua_pushnil(L);
        znl_node_box_pushframe(L, message->payload[1]);
        znl_node_box_pushframe(L, message->payload[0]);
        return 3;
    }
    znl_lua_pushpayload(L, message->payload, message->payload_count);
    if (message->call == NULL || !message->call->is_json)
        return 1;
    lua_pushboolean(L, 1);
    return 2;
}

void znl_node_box_on_reply(void *user, znl_waiter waiter, const znl_message *message)
{
    znl_node_box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    znl_sched_wake(b->vm->sched, wait, push_reply, (void *)(uintptr_t)message);
}

void znl_node_box_on_failed(void *user, znl_waiter waiter, int err)
{
    znl_node_box *b = user;
    znl_wait wait = {waiter.owner, waiter.ticket};
    /* Later: a rebuild, a removal and a stop end many requests in one sweep, and a caller that asks
     * again must not be caught by the same sweep. */
    znl_sched_wake_error_later(b->vm->sched, wait, err, "request");
}
