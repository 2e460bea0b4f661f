/* open.c - where connections of the micro protocol come from: the listener, connect().
 *
 * Peers of ours are told apart by a header of the upgrade, "Znl-Micro: 1", on the request and on the 101
 * (WIRE.md, "Micro").
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"
#include "bind/net/headers.h"
#include "bind/net/tls.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <stdio.h>
#include <string.h>

#define OURS "Znl-Micro"
#define OURS_LINE OURS ": 1\r\n"

static int is_ours(const znl_http_head *head)
{
    int err = 0;
    znl_frame value = znl_http_header_of(head, OURS, &err);
    return err == 0 && znl_frame_equal(value, znl_frame_text("1"));
}

/* --- listening --------------------------------------------------------------------------------- */

/* An upgrade to be answered. */
struct upgrade {
    znl_micro_box *box;
    znl_http_exchange *exchange; /* NULL once it is answered */
    const znl_http_head *head;
    znl_micro_link *link; /* once it keeps itself */
};

static void push_target(lua_State *L, const znl_http_head *head)
{
    lua_pushlstring(L, (const char *)head->target.data, head->target.size);
}

/* Asks on_event("upgrade"). True when it refuses, and the peer was told. */
static int is_turned_away(lua_State *L, struct upgrade *upgrade)
{
    int top = lua_gettop(L);
    lua_pushliteral(L, "upgrade");
    push_target(L, upgrade->head);
    znl_lua_pushheaders(L, upgrade->head);
    lua_pushstring(L, znl_http_peer(upgrade->exchange));
    int is_refused = 1, status = 500; /* who cannot judge does not let in */
    const char *text = "";
    if (znl_micro_box_emit(L, upgrade->box, 4, 2)) {
        is_refused = !lua_isnil(L, -2);
        status = lua_type(L, -2) == LUA_TNUMBER ? (int)lua_tointeger(L, -2) : 403;
        if (lua_type(L, -1) == LUA_TSTRING)
            text = lua_tostring(L, -1);
    }
    if (is_refused) {
        if (status < 400 || status > 599)
            status = 403;
        upgrade->box->turned_away++;
        znl_ws_refuse(upgrade->exchange, status, text);
        upgrade->exchange = NULL;
    }
    lua_settop(L, top);
    return is_refused;
}

/* (upgrade): answers it with 101 and tells on_event("connection"). */
static int run_upgrade(lua_State *L)
{
    struct upgrade *upgrade = lua_touserdata(L, 1);
    znl_micro_box *box = upgrade->box;
    if (box->checks_upgrades && is_turned_away(L, upgrade))
        return 0;
    if (!box->is_running)
        return 0; /* stopped by on_event */
    znl_micro_link *link = znl_micro_link_new(L, box, 0);
    int conn = lua_gettop(L);
    link->is_inbound = 1;
    link->is_ours = is_ours(upgrade->head) != 0;
    lua_pushstring(L, znl_http_peer(upgrade->exchange));
    int remote = lua_gettop(L);
    lua_getfenv(L, conn);
    push_target(L, upgrade->head);
    lua_rawseti(L, -2, ZNL_CONN_PATH);
    lua_pushvalue(L, remote);
    lua_rawseti(L, -2, ZNL_CONN_KEY);
    lua_pushvalue(L, remote);
    lua_rawseti(L, -2, ZNL_CONN_REMOTE);
    znl_anchor_hold(L, &link->anchor, conn);
    link->is_kept = 1;
    upgrade->link = link;
    int err = znl_ws_accept(&link->ws, box->vm->loop, upgrade->exchange, upgrade->head,
            link->is_ours ? OURS_LINE : NULL, &box->limits, &znl_micro_ws_events, link);
    if (err == 0 || err == ZNL_E_GONE)
        upgrade->exchange = NULL;
    if (err == 0)
        err = znl_micro_link_opened(link);
    if (err != 0) {
        znl_micro_link_end(link, err, znl_err_text(err), 1);
        return 0;
    }
    box->accepted++;
    if (box->event_ref == LUA_NOREF)
        return 0;
    link->was_told = 1;
    lua_pushliteral(L, "connection");
    lua_pushvalue(L, conn);
    push_target(L, upgrade->head);
    znl_lua_pushheaders(L, upgrade->head);
    lua_pushvalue(L, remote);
    if (!znl_micro_box_emit(L, box, 5, 0)) /* half known at best */
        znl_micro_link_end(link, ZNL_E_FAILED, "on_event failed", 1);
    return 0;
}

static void on_http(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body)
{
    znl_micro_box *box = user;
    struct upgrade upgrade = {box, exchange, head, NULL};
    int status;
    (void)body;
    if (!znl_ws_is_upgrade(head, &status)) {
        znl_ws_refuse(exchange, status, "this is a WebSocket of the micro protocol\n");
        return;
    }
    znl_anchor_hold_again(&box->jobs.anchor); /* on_event may stop it; it runs, so it is held */
    int status_of_call = znl_vm_protect(box->vm, run_upgrade, &upgrade, "micro.on_event");
    if (status_of_call != 0 && upgrade.link != NULL)
        znl_micro_link_end(upgrade.link, ZNL_E_NOMEM, znl_err_text(ZNL_E_NOMEM), 1);
    if (upgrade.exchange != NULL)
        znl_ws_refuse(upgrade.exchange, 503, NULL);
    znl_anchor_let_go(&box->jobs.anchor);
}

int znl_micro_box_listen(znl_micro_box *box)
{
    const znl_http_server_options options = {
            .listen = {.host = box->listen_host,
                    .port = (uint16_t)box->listen_port,
                    .tls = box->tls,
                    .max_connections = box->max_connections,
                    .handshake_ms = box->handshake_ms,
                    .max_queue_bytes = box->limits.max_queue_bytes},
            .head_ms = box->handshake_ms,
    };
    return znl_http_server_open(&box->server, box->vm->loop, &options, on_http, box);
}

/* --- connecting -------------------------------------------------------------------------------- */

/* Pushes the header lines of the upgrade: ours, and those of the table at `index` or nil. Raises when one
 * cannot be sent. */
static const char *push_header_lines(lua_State *L, int index)
{
    lua_pushliteral(L, OURS_LINE);
    int lines = lua_gettop(L);
    if (lua_isnil(L, index))
        return lua_tostring(L, lines);
    luaL_checktype(L, index, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "connect: headers must map names to texts");
        size_t name_size, value_size;
        const char *name = lua_tolstring(L, -2, &name_size);
        const char *value = lua_tolstring(L, -1, &value_size);
        if (name_size == 0 || strcspn(name, " \t\r\n:") != name_size ||
                strcspn(value, "\r\n") != value_size)
            luaL_error(L, "connect: the header %s cannot be sent", name);
        lua_pushvalue(L, lines);
        lua_pushvalue(L, -3);
        lua_pushliteral(L, ": ");
        lua_pushvalue(L, -4);
        lua_pushliteral(L, "\r\n");
        lua_concat(L, 5);
        lua_replace(L, lines);
    }
    return lua_tostring(L, lines);
}

/* The connection opens no more, whatever came of it. */
static void opener_done(znl_micro_link *link)
{
    link->is_opening = 0;
    znl_anchor_let_go_later(&link->anchor);
}

/* The task in connect() does not wait any more. */
static void opener_lost(void *user, uint64_t id)
{
    znl_micro_link *link = user;
    (void)id;
    if (!link->is_opening)
        return;
    opener_done(link);
    znl_micro_link_end(link, ZNL_E_CANCELLED, "cancelled", 0);
}

void znl_micro_link_unopened(znl_micro_link *link, int err)
{
    if (!link->is_opening)
        return;
    opener_done(link);
    znl_sched_wake_error_later(link->box->vm->sched, link->opener, err, "connect");
}

/* connect(self, { host=, port=, path=, tls=, timeout_ms=, headers= }) -> conn | nil, message, code */
int znl_micro_core_connect(lua_State *L)
{
    znl_micro_box *box = znl_micro_box_check(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    if (!znl_sched_is_task(L))
        znl_sched_park_as(
                L, "connect"); /* raises, and says why, before there is a connection */
    znl_frame host = znl_lua_fieldtext(L, 2, "host", ZNL_HOST_BYTES_MAX);
    znl_frame path = znl_lua_fieldtext(L, 2, "path", ZNL_MICRO_PATH_BYTES_MAX);
    uint32_t port = znl_lua_fieldu32(L, 2, "port", 0, 65535);
    uint32_t timeout_ms = znl_lua_fieldu32(
            L, 2, "timeout_ms", ZNL_CONNECT_MS_DEFAULT, ZNL_TIMEOUT_MS_MAX);
    if (host.size == 0 || port == 0 || timeout_ms == 0)
        return luaL_error(L, "connect: host, port and timeout_ms are needed, and not 0");
    if (path.size == 0)
        path = znl_frame_text("/");
    int is_limited;
    int err = znl_lua_limit_timeout(L, &timeout_ms, &is_limited);
    if (err != 0)
        return znl_lua_fail(L, err, "connect");
    lua_getfield(L, 2, "tls");
    const znl_tls *tls; /* kept by what is at this place of the stack, then by the stream */
    int results = znl_lua_totls(L, lua_gettop(L), 0, &tls);
    if (results != 0)
        return results;
    lua_getfield(L, 2, "headers");
    const char *lines = push_header_lines(L, lua_gettop(L));
    lua_pushfstring(L, memchr(host.data, ':', host.size) != NULL ? "[%s]:%d" : "%s:%d",
            (const char *)host.data, (int)port);
    int address = lua_gettop(L);
    znl_micro_link *link = znl_micro_link_new(L, box, 1);
    int conn = lua_gettop(L);
    lua_getfenv(L, conn);
    lua_pushlstring(L, (const char *)path.data, path.size);
    lua_rawseti(L, -2, ZNL_CONN_PATH);
    lua_pushvalue(L, address);
    lua_rawseti(L, -2, ZNL_CONN_KEY);
    lua_pushvalue(L, address);
    lua_rawseti(L, -2, ZNL_CONN_REMOTE);
    lua_pop(L, 1);
    znl_anchor_hold(L, &link->anchor, conn);
    link->is_opening = 1;
    link->opener = znl_sched_park_as(L, "connect");
    const znl_ws_connect_options options = {
            .stream = {.host = (const char *)host.data,
                    .port = (uint16_t)port,
                    .tls = tls,
                    .timeout_ms = timeout_ms},
            .path = (const char *)path.data,
            .headers = lines,
            .limits = box->limits,
    };
    err = znl_ws_connect(&link->ws, box->vm->loop, &options, &znl_micro_ws_events, link);
    if (err != 0) {
        opener_done(link);
        znl_micro_link_end(link, err, znl_err_text(err), 0);
        return znl_lua_connect_failed(L, err, lua_tostring(L, address), znl_err_text(err));
    }
    znl_sched_on_lost(box->vm->sched, opener_lost, link, 0);
    return lua_yield(L, 0);
}

/* (conn): it is open. */
static int push_connected(lua_State *L, void *user)
{
    znl_micro_link *link = user;
    znl_anchor_push(L, &link->anchor);
    lua_getfenv(L, -1);
    lua_pushstring(L, znl_ws_peer(link->ws));
    lua_rawseti(L, -2, ZNL_CONN_REMOTE);
    lua_pop(L, 1);
    link->was_told = 1;
    return 1;
}

void znl_micro_link_connected(znl_micro_link *link, const znl_http_head *head)
{
    znl_micro_box *box = link->box;
    link->is_ours = is_ours(head) != 0;
    int err = znl_micro_link_opened(link);
    if (err != 0) {
        znl_micro_link_refused(link, err, znl_err_text(err));
        return;
    }
    box->connected++;
    opener_done(link); /* in the next turn it lets go */
    znl_sched_wake(box->vm->sched, link->opener, push_connected, link);
    if (!link->was_told) /* no memory; or a script resumed the task behind our back */
        znl_micro_link_end(link, ZNL_E_CANCELLED, "nobody waits for it", 1);
}

struct refusal {
    const znl_micro_link *link;
    int err;
    const char *text;
};

static int push_refused(lua_State *L, void *user)
{
    const struct refusal *refusal = user;
    const char *address = "?";
    if (znl_anchor_push(L, &refusal->link->anchor)) {
        lua_getfenv(L, -1);
        lua_rawgeti(L, -1, ZNL_CONN_KEY);
        address = lua_tostring(L, -1);
    }
    return znl_lua_connect_failed(L, refusal->err, address, refusal->text);
}

void znl_micro_link_refused(znl_micro_link *link, int err, const char *text)
{
    struct refusal refusal = {link, err, text};
    if (link->is_opening) {
        opener_done(link);
        znl_sched_wake(link->box->vm->sched, link->opener, push_refused, &refusal);
    }
    znl_micro_link_end(link, err, text, 0);
}
