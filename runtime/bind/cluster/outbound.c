/* outbound.c - the connection of a follower: its life, its end, its methods.
 *
 *   opening -> open -> over -> ended
 *
 *   over    by either side, or the heartbeat: nothing is sent or received any more
 *   ended   in the next turn of the loop: "closed" was reported, then what waits is told
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/cluster/cluster.h"
#include "bind/net/tls.h"

#include "base/alloc.h"
#include "base/err.h"

#include <stdio.h>

/* Names the userdata that knows all of a state: whoever is in the middle of its end when the state is closed
 * is freed by it. */
static const char home;

typedef struct all {
    znl_cluster_outbound *first;
} all;

/* --- the end ----------------------------------------------------------------------------------- */

/* The connection opens no more, whatever came of it. */
static void opener_done(znl_cluster_outbound *outbound)
{
    outbound->is_opening = 0;
    znl_anchor_let_go_later(&outbound->anchor);
}

void znl_cluster_outbound_end(
        znl_cluster_outbound *outbound, int err, const char *text, int polite)
{
    if (outbound->is_over)
        return;
    outbound->is_over = 1;
    outbound->is_open = 0;
    outbound->is_polite = polite != 0;
    outbound->end_err = err;
    snprintf(outbound->end_text, sizeof outbound->end_text, "%s", text);
    if (outbound->is_opening) {
        opener_done(outbound);
        znl_sched_wake_error_later(outbound->vm->sched, outbound->opener, err, "connect");
    }
    znl_loop_defer(outbound->vm->loop, &outbound->end_due);
}

/* What it has of transport and protocol. */
static void release(znl_cluster_outbound *outbound)
{
    if (outbound->is_ended)
        return;
    outbound->is_ended = 1;
    if (outbound->link != NULL) {
        znl_cluster_link_close(outbound->link, ZNL_E_CLOSED);
        znl_cluster_link_count(outbound->link, &outbound->counters);
        znl_cluster_link_free(outbound->link);
        outbound->link = NULL;
    }
    znl_stream_close(outbound->stream, outbound->is_polite ? ZNL_CLUSTER_CLOSE_MS : 0);
    outbound->stream = NULL;
    znl_cluster_values_fini(&outbound->values);
}

static void outbound_free(znl_cluster_outbound *outbound)
{
    if (outbound->handle != NULL)
        outbound->handle->outbound = NULL;
    *outbound->prev = outbound->next;
    if (outbound->next != NULL)
        outbound->next->prev = outbound->prev;
    znl_anchor_fini(&outbound->anchor);
    znl_free(outbound);
}

/* The state is being closed. */
static int all_gc(lua_State *L)
{
    const all *links = lua_touserdata(L, 1);
    while (links->first != NULL) {
        znl_cluster_outbound *outbound = links->first;
        znl_loop_undefer(outbound->vm->loop, &outbound->end_due);
        outbound->is_over = 1;
        outbound->is_open = 0;
        release(outbound);
        outbound_free(outbound);
    }
    return 0;
}

/* (outbound): "closed", reason, code */
static int report_end(lua_State *L)
{
    const znl_cluster_outbound *outbound = lua_touserdata(L, 1);
    lua_pushliteral(L, "closed");
    lua_pushstring(L, outbound->end_text);
    if (outbound->end_err == 0)
        lua_pushnil(L);
    else
        lua_pushstring(L, znl_err_code(outbound->end_err));
    znl_cluster_emit(L, &outbound->anchor, 3, 0);
    return 0;
}

static void end_turn(znl_deferred *deferred)
{
    znl_cluster_outbound *outbound = (znl_cluster_outbound *)(void *)((char *)deferred -
            offsetof(znl_cluster_outbound, end_due));
    if (outbound->is_told)
        znl_vm_protect(outbound->vm, report_end, outbound, "cluster.on_event");
    release(outbound);
    if (outbound->handle == NULL)
        outbound_free(outbound);
}

/* Nobody holds it any more, or the state is being closed. */
static int link_gc(lua_State *L)
{
    znl_cluster_handle *handle = lua_touserdata(L, 1);
    znl_cluster_outbound *outbound = handle->outbound;
    if (outbound == NULL)
        return 0;
    handle->outbound = NULL;
    outbound->handle = NULL;
    outbound->is_told = 0;
    if (outbound->is_ended)
        outbound_free(outbound);
    else
        znl_cluster_outbound_end(outbound, ZNL_E_CLOSED, "collected", 1);
    return 0;
}

/* --- the protocol ------------------------------------------------------------------------------ */

/* A value that arrives. */
struct arrival {
    znl_cluster_outbound *outbound;
    const znl_cluster_request *request;
};

/* "value", key, value */
static int run_value(lua_State *L)
{
    const struct arrival *arrival = lua_touserdata(L, 1);
    znl_cluster_outbound *outbound = arrival->outbound;
    int err = 0;
    lua_pushliteral(L, "value");
    znl_cluster_push_frame(L, arrival->request->message->key);
    err = znl_cluster_push_value(L, &outbound->values, arrival->request->data);
    if (err == 0) {
        znl_cluster_emit(L, &outbound->anchor, 3, 0);
        return 0;
    }
    lua_pushliteral(L, "trouble");
    lua_pushfstring(L, "the value of %s cannot be read: %s",
            lua_isnil(L, -2) ? "a key without name" : lua_tostring(L, -2), znl_err_text(err));
    lua_pushstring(L, znl_err_code(err));
    znl_cluster_emit(L, &outbound->anchor, 3, 0);
    return 0;
}

static void on_request(void *user, const znl_cluster_request *request)
{
    struct arrival arrival = {user, request};
    const znl_cluster_outbound *outbound = arrival.outbound;
    /* A leader asks for nothing else. */
    if (!outbound->is_over && request->message->kind == ZNL_CLUSTER_VALUE)
        znl_vm_protect(outbound->vm, run_value, &arrival, "cluster.on_event");
}

static void on_broken(void *user, int err, const char *text)
{
    znl_cluster_outbound_end(user, err, text, 0);
}

static const znl_cluster_link_events link_events = {
        .on_request = on_request,
        .on_answer = znl_cluster_on_answer,
        .on_failed = znl_cluster_on_failed,
        .on_broken = on_broken,
};

/* --- connecting -------------------------------------------------------------------------------- */

/* (link): it is open. */
static int push_connected(lua_State *L, void *user)
{
    znl_cluster_outbound *outbound = user;
    znl_anchor_push(L, &outbound->anchor);
    lua_getfenv(L, -1);
    lua_pushstring(L, znl_stream_peer(outbound->stream));
    lua_rawseti(L, -2, ZNL_CLUSTER_REMOTE);
    lua_pop(L, 1);
    outbound->is_told = 1;
    return 1;
}

struct refusal {
    const znl_cluster_outbound *outbound;
    int err;
    const char *text;
};

static int push_refused(lua_State *L, void *user)
{
    const struct refusal *refusal = user;
    znl_cluster_push_own(L, &refusal->outbound->anchor, ZNL_CLUSTER_REMOTE);
    const char *address = lua_tostring(L, -1);
    return znl_lua_connect_failed(
            L, refusal->err, address != NULL ? address : "?", refusal->text);
}

static void refused(znl_cluster_outbound *outbound, int err, const char *text)
{
    struct refusal refusal = {outbound, err, text};
    if (outbound->is_opening) {
        opener_done(outbound);
        znl_sched_wake(outbound->vm->sched, outbound->opener, push_refused, &refusal);
    }
    znl_cluster_outbound_end(outbound, err, text, 0);
}

static void on_open(void *user)
{
    znl_cluster_outbound *outbound = user;
    if (outbound->is_over)
        return;
    int err = znl_cluster_link_new(&outbound->link, outbound->vm->loop, &outbound->options,
            &znl_cluster_stream_carrier, outbound->stream, &link_events, outbound);
    if (err != 0) {
        refused(outbound, err, znl_err_text(err));
        return;
    }
    outbound->is_open = 1;
    opener_done(outbound); /* in the next turn it lets go */
    znl_sched_wake(outbound->vm->sched, outbound->opener, push_connected, outbound);
    if (!outbound->is_told) /* no memory; or a script resumed the task behind our back */
        znl_cluster_outbound_end(outbound, ZNL_E_CANCELLED, "nobody waits for it", 1);
}

static void on_data(void *user, uint8_t *data, size_t size)
{
    const znl_cluster_outbound *outbound = user;
    if (outbound->is_open)
        znl_cluster_link_receive(outbound->link, data, size);
}

static void on_writable(void *user)
{
    const znl_cluster_outbound *outbound = user;
    if (outbound->is_open)
        znl_cluster_link_writable(outbound->link);
}

static void on_end(void *user, int err, const char *text)
{
    znl_cluster_outbound *outbound = user;
    if (outbound->is_over)
        return;
    if (!outbound->is_open)
        refused(outbound, err != 0 ? err : ZNL_E_GONE, err != 0 ? text : "closed by the peer");
    else
        znl_cluster_outbound_end(outbound, err, err != 0 ? text : "closed by the peer", 0);
}

static const znl_stream_events stream_events = {
        .on_open = on_open, .on_data = on_data, .on_writable = on_writable, .on_end = on_end};

/* The task in connect() does not wait any more. */
static void opener_lost(void *user, uint64_t id)
{
    znl_cluster_outbound *outbound = user;
    (void)id;
    if (!outbound->is_opening)
        return;
    opener_done(outbound);
    znl_cluster_outbound_end(outbound, ZNL_E_CANCELLED, "cancelled", 0);
}

/* Pushes the userdata of a connection that is not open; `options` is the table of connect(). May raise. */
static znl_cluster_outbound *push_new(lua_State *L, int options)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&home);
    lua_rawget(L, LUA_REGISTRYINDEX);
    all *links = lua_touserdata(L, -1);
    znl_cluster_handle *handle = lua_newuserdata(L, sizeof *handle);
    int index = lua_gettop(L);
    *handle = (znl_cluster_handle){0};
    luaL_getmetatable(L, ZNL_CLUSTER_LINK_TYPE);
    handle->metatable = lua_topointer(L, -1);
    lua_setmetatable(L, -2);
    znl_cluster_outbound *outbound = znl_calloc(1, sizeof *outbound);
    if (outbound == NULL)
        luaL_error(L, "%s", znl_err_text(ZNL_E_NOMEM));
    outbound->vm = znl_vm_of(L);
    outbound->handle = handle;
    outbound->end_due.run = end_turn;
    outbound->is_ended = 1; /* nothing to end yet */
    znl_anchor_init(&outbound->anchor, outbound->vm);
    handle->outbound = outbound; /* the collector frees it from here on */
    outbound->next = links->first;
    outbound->prev = &links->first;
    if (links->first != NULL)
        links->first->prev = &outbound->next;
    links->first = outbound;
    outbound->values.owner = &outbound->anchor;
    outbound->values.is_custom = znl_cluster_own(L, &outbound->anchor, index, options) != 0;
    outbound->values.max_depth = znl_lua_fieldu32(
            L, options, "max_depth", ZNL_TRANSCODE_DEPTH_DEFAULT, ZNL_TRANSCODE_DEPTH_MAX);
    outbound->options = (znl_cluster_link_options){
            .max_pending = znl_lua_fieldu32(
                    L, options, "max_pending", ZNL_CLUSTER_PENDING_DEFAULT, ZNL_PENDING_MAX),
            .max_bytes = znl_lua_fieldu32(L, options, "max_message_bytes",
                    ZNL_CLUSTER_MESSAGE_BYTES_DEFAULT, ZNL_CLUSTER_MESSAGE_BYTES_MAX),
            .max_depth = ZNL_JSON_DEPTH_DEFAULT,
            .heartbeat_ms = znl_lua_fieldu32(
                    L, options, "heartbeat_ms", ZNL_CLUSTER_HEARTBEAT_MS, ZNL_HEARTBEAT_MS_MAX),
            .timeout_ms = znl_lua_fieldu32(L, options, "response_timeout_ms",
                    ZNL_CLUSTER_RESPONSE_MS, ZNL_TIMEOUT_MS_MAX),
    };
    return outbound;
}

/* connect(options) -> link | nil, message, code: yields */
int znl_cluster_connect(lua_State *L)
{
    znl_lua_check_main(L, "the cluster-client protocol");
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    if (!znl_sched_is_task(L))
        znl_sched_park_as(
                L, "connect"); /* raises, and says why, before there is a connection */
    znl_frame host = znl_lua_fieldtext(L, 1, "host", ZNL_HOST_BYTES_MAX);
    znl_frame path = znl_lua_fieldtext(L, 1, "path", ZNL_HOST_BYTES_MAX);
    znl_stream_options options = {
            .host = (const char *)host.data,
            .path = (const char *)path.data,
            .port = (uint16_t)znl_lua_fieldu32(L, 1, "port", 0, 65535),
            .timeout_ms = znl_lua_fieldu32(
                    L, 1, "timeout_ms", ZNL_CLUSTER_CONNECT_MS, ZNL_TIMEOUT_MS_MAX),
            .max_queue_bytes = znl_lua_fieldu32(L, 1, "max_queue_bytes",
                    ZNL_STREAM_QUEUE_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX),
    };
    if ((path.size == 0 && (host.size == 0 || options.port == 0)) || options.timeout_ms == 0)
        return luaL_error(L, "connect: path, or host and port, and timeout_ms are needed");
    int is_limited;
    int err = znl_lua_limit_timeout(L, &options.timeout_ms, &is_limited);
    if (err != 0)
        return znl_lua_fail(L, err, "connect");
    lua_getfield(
            L, 1, "tls"); /* kept by what is at this place of the stack, then by the stream */
    int results = znl_lua_totls(L, lua_gettop(L), 0, &options.tls);
    if (results != 0)
        return results;
    znl_cluster_outbound *outbound = push_new(L, 1);
    int link = lua_gettop(L);
    lua_getfenv(L, link);
    if (path.size > 0)
        lua_pushfstring(L, "unix:%s", options.path);
    else
        lua_pushfstring(L, strchr(options.host, ':') != NULL ? "[%s]:%d" : "%s:%d",
                options.host, (int)options.port);
    const char *address = lua_tostring(L, -1);
    lua_rawseti(L, -2, ZNL_CLUSTER_REMOTE);
    znl_anchor_hold(L, &outbound->anchor, link);
    outbound->is_opening = 1;
    outbound->is_ended = 0;
    outbound->opener = znl_sched_park_as(L, "connect");
    err = znl_stream_connect(
            &outbound->stream, outbound->vm->loop, &options, &stream_events, outbound);
    if (err != 0) {
        opener_done(outbound);
        znl_cluster_outbound_end(outbound, err, znl_err_text(err), 0);
        return znl_lua_connect_failed(L, err, address, znl_err_text(err));
    }
    znl_sched_on_lost(outbound->vm->sched, opener_lost, outbound, 0);
    return lua_yield(L, 0);
}

/* --- methods ----------------------------------------------------------------------------------- */

static znl_cluster_handle *check_handle(lua_State *L)
{
    /* A link knows the address of its metatable: quicker than looking it up. */
    znl_cluster_handle *handle = lua_touserdata(L, 1);
    if (handle == NULL || lua_type(L, 1) != LUA_TUSERDATA ||
            lua_objlen(L, 1) != sizeof *handle || !lua_getmetatable(L, 1))
        luaL_argerror(L, 1, "link expected");
    const void *metatable = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (handle->metatable != metatable)
        luaL_argerror(L, 1, "link expected");
    return handle;
}

znl_cluster_outbound *znl_cluster_check_link(lua_State *L)
{
    return check_handle(L)->outbound;
}

/* begin(): heartbeats start */
static int link_begin(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    if (outbound != NULL && outbound->is_open)
        znl_cluster_link_beat(outbound->link);
    return 0;
}

static int link_close(lua_State *L)
{
    znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    if (outbound != NULL)
        znl_cluster_outbound_end(outbound, 0, "closed here", 1);
    return 0;
}

static int link_is_open(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    lua_pushboolean(L, outbound != NULL && outbound->is_open);
    return 1;
}

/* is_ours() -> true when the answer to the registration said so */
static int link_is_ours(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    lua_pushboolean(L, outbound != NULL && outbound->is_ours);
    return 1;
}

static int link_pending(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    lua_pushnumber(L,
            outbound != NULL && outbound->link != NULL
                    ? znl_cluster_link_pending(outbound->link)
                    : 0);
    return 1;
}

static int link_remote(lua_State *L)
{
    check_handle(L);
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, ZNL_CLUSTER_REMOTE);
    return 1;
}

static int link_counters(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    znl_cluster_link_counters counters = {0};
    if (outbound != NULL)
        counters = outbound->counters;
    if (outbound != NULL && outbound->link != NULL)
        znl_cluster_link_count(outbound->link, &counters);
    lua_newtable(L);
    znl_cluster_set_counters(L, &counters);
    link_pending(L);
    lua_setfield(L, -2, "pending");
    return 1;
}

static int link_tostring(lua_State *L)
{
    const znl_cluster_outbound *outbound = znl_cluster_check_link(L);
    link_remote(L);
    const char *remote = lua_tostring(L, -1);
    lua_pushfstring(L, "link to %s%s", remote != NULL ? remote : "?",
            outbound != NULL && outbound->is_open ? "" : " (closed)");
    return 1;
}

static const luaL_Reg methods[] = {
        {"begin", link_begin},
        {"close", link_close},
        {"is_open", link_is_open},
        {"is_ours", link_is_ours},
        {"pending", link_pending},
        {"remote", link_remote},
        {"counters", link_counters},
        {NULL, NULL},
};

/* Makes the userdata that knows all, once. */
static void open_home(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)&home);
    lua_rawget(L, LUA_REGISTRYINDEX);
    int is_there = lua_isuserdata(L, -1);
    lua_pop(L, 1);
    if (is_there)
        return;
    lua_pushlightuserdata(L, (void *)(uintptr_t)&home);
    all *links = lua_newuserdata(L, sizeof *links);
    links->first = NULL;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, all_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

void znl_cluster_open_link_type(lua_State *L)
{
    open_home(L);
    znl_lua_newtype(L, ZNL_CLUSTER_LINK_TYPE, methods, link_gc);
    luaL_getmetatable(L, ZNL_CLUSTER_LINK_TYPE);
    lua_getfield(L, -1, "__index");
    luaL_register(L, NULL, znl_cluster_ask_methods);
    lua_pop(L, 1);
    lua_pushcfunction(L, link_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
}
