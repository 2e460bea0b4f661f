/* link.c - a connection of the micro protocol: its life, its end, its methods.
 *
 *   opening -> open -> over -> ended
 *
 *   over    by either side, the core, the heartbeat: what waits is told, nothing is sent any more
 *   ended   in the next turn of the loop: "closed" was reported, the WebSocket is dropped
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/micro/micro.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <stdio.h>

static void end_turn(znl_deferred *deferred);

/* --- the userdata ------------------------------------------------------------------------------ */

znl_micro_link *znl_micro_link_new(lua_State *L, znl_micro_box *box, int box_index)
{
    znl_micro_handle *handle = lua_newuserdata(L, sizeof *handle);
    *handle = (znl_micro_handle){0};
    luaL_getmetatable(L, ZNL_MICRO_CONNECTION_TYPE);
    handle->metatable = lua_topointer(L, -1);
    lua_setmetatable(L, -2);
    lua_createtable(L, ZNL_CONN_REMOTE, 0);
    lua_setfenv(L, -2);
    znl_micro_link *link = znl_calloc(1, sizeof *link);
    if (link == NULL)
        luaL_error(L, "%s", znl_err_text(ZNL_E_NOMEM));
    link->box = box;
    link->handle = handle;
    link->end_due.run = end_turn;
    znl_anchor_init(&link->anchor, box->vm);
    handle->link = link; /* the collector frees it from here on, and needs what follows */
    link->next = box->links;
    link->prev = &box->links;
    if (box->links != NULL)
        box->links->prev = &link->next;
    box->links = link;
    box->link_count++;
    if (box_index > 0)
        znl_anchor_hold(L, &box->jobs.anchor, box_index);
    else
        znl_anchor_hold_again(&box->jobs.anchor);
    link->holds_box = 1;
    znl_anchor_enter(L, &link->anchor);
    return link;
}

/* Takes it from the box and frees the block. Nothing of it is in use any more. */
static void link_free(znl_micro_link *link)
{
    znl_micro_box *box = link->box;
    *link->prev = link->next;
    if (link->next != NULL)
        link->next->prev = link->prev;
    if (link->handle != NULL)
        link->handle->link = NULL;
    znl_anchor_fini(&link->anchor);
    znl_free(link->works);
    int holds_box = link->holds_box;
    znl_free(link);
    if (holds_box)
        znl_anchor_let_go(&box->jobs.anchor);
}

/* What it has of transport and protocol. */
static void release(znl_micro_link *link)
{
    if (link->is_ended)
        return;
    link->is_ended = 1;
    link->box->link_count--;
    if (link->micro != NULL)
        znl_micro_box_add_counters(link->box, link->micro);
    znl_micro_free(link->micro);
    link->micro = NULL;
    znl_ws_drop(link->ws, link->is_polite ? ZNL_WS_CLOSE_MS_DEFAULT : 0);
    link->ws = NULL;
}

/* --- the end ----------------------------------------------------------------------------------- */

void znl_micro_link_end(znl_micro_link *link, int err, const char *text, int polite)
{
    if (link->is_over)
        return;
    link->is_over = 1;
    link->is_open = 0;
    link->end_err = err;
    snprintf(link->end_text, sizeof link->end_text, "%s", text);
    int says_goodbye = polite && link->ws != NULL && znl_ws_is_open(link->ws);
    if (says_goodbye && link->micro != NULL)
        znl_micro_leave(link->micro);
    /* Whoever waits is queued before end_due, so "closed" comes after all have heard. */
    if (link->micro != NULL)
        znl_micro_close(link->micro, err == ZNL_E_STOPPED ? ZNL_E_STOPPED : ZNL_E_CLOSED);
    znl_micro_link_unopened(link, err);
    if (says_goodbye) {
        link->is_polite = 1;
        znl_ws_close(link->ws, 0, NULL);
    }
    znl_loop_defer(link->box->vm->loop, &link->end_due);
}

/* (link): "closed", conn, reason, code */
static int report_end(lua_State *L)
{
    znl_micro_link *link = lua_touserdata(L, 1);
    lua_pushliteral(L, "closed");
    if (!znl_anchor_push(L, &link->anchor))
        return 0;
    lua_pushstring(L, link->end_text);
    if (link->end_err == 0)
        lua_pushnil(L);
    else
        lua_pushstring(L, znl_err_code(link->end_err));
    znl_micro_box_emit(L, link->box, 4, 0);
    return 0;
}

static void end_turn(znl_deferred *deferred)
{
    znl_micro_link *link =
            (znl_micro_link *)(void *)((char *)deferred - offsetof(znl_micro_link, end_due));
    znl_micro_box *box = link->box;
    int holds_box =
            link->holds_box; /* else it is being made by a task that failed, and collected */
    if (holds_box)
        znl_anchor_hold_again(&box->jobs.anchor);
    if (link->was_told)
        znl_vm_protect(box->vm, report_end, link, "micro.on_event");
    release(link);
    if (link->is_kept)
        znl_anchor_let_go(&link->anchor);
    if (link->handle == NULL)
        link_free(link);
    if (holds_box)
        znl_anchor_let_go(&box->jobs.anchor);
}

void znl_micro_link_discard(znl_micro_link *link)
{
    znl_loop_undefer(link->box->vm->loop, &link->end_due);
    link->is_over = 1;
    link->is_open = 0;
    if (link->micro != NULL)
        znl_micro_close(link->micro, ZNL_E_STOPPED);
    znl_micro_link_drop_waiting(link);
    release(link);
    link_free(link);
}

/* Nobody holds it any more. */
static int conn_gc(lua_State *L)
{
    znl_micro_handle *handle = lua_touserdata(L, 1);
    znl_micro_link *link = handle->link;
    if (link == NULL)
        return 0;
    handle->link = NULL;
    link->handle = NULL;
    if (link->is_ended) {
        link_free(link);
    } else {
        link->was_told = 0;
        znl_micro_link_end(link, ZNL_E_CLOSED, "collected", 1);
    }
    return 0;
}

/* --- events of the WebSocket and the protocol ---------------------------------------------------- */

static int carry(void *user, const void *text, size_t size)
{
    const znl_micro_link *link = user;
    return znl_ws_send(link->ws, 1, text, size);
}

static void ping(void *user)
{
    const znl_micro_link *link = user;
    znl_ws_ping(link->ws);
}

static void pause_reading(void *user, int on)
{
    const znl_micro_link *link = user;
    znl_ws_pause(link->ws, on);
}

static const znl_micro_carrier carrier = {carry, ping, pause_reading};

static void on_silent(void *user)
{
    znl_micro_link_end(user, ZNL_E_TIMEOUT, "no heartbeat in time", 1);
}

static void on_flooded(void *user)
{
    znl_micro_link_end(user, ZNL_E_LIMIT, "the peer asks and does not read", 0);
}

static const znl_micro_events micro_events = {
        .on_request = znl_micro_on_request,
        .on_abort = znl_micro_on_abort,
        .on_answer = znl_micro_on_answer,
        .on_refused = znl_micro_on_refused,
        .on_chunk = znl_micro_on_chunk,
        .on_stream_end = znl_micro_on_stream_end,
        .on_room = znl_micro_on_room,
        .on_silent = on_silent,
        .on_flooded = on_flooded,
};

int znl_micro_link_opened(znl_micro_link *link)
{
    znl_micro_box *box = link->box;
    znl_micro_options options = box->options;
    options.is_ours = link->is_ours;
    options.max_held_bytes = box->limits.max_queue_bytes;
    int err = znl_micro_new(
            &link->micro, box->vm->loop, &options, &carrier, link, &micro_events, link);
    if (err == 0)
        link->is_open = 1;
    return err;
}

static void on_open(void *user, const znl_http_head *head)
{
    znl_micro_link *link = user;
    if (!link->is_over)
        znl_micro_link_connected(link, head);
}

static void on_message(void *user, uint8_t *data, size_t size, int is_text)
{
    znl_micro_link *link = user;
    if (is_text && link->is_open)
        znl_micro_receive(link->micro, data, size);
}

static void on_pong(void *user)
{
    znl_micro_link *link = user;
    if (link->is_open)
        znl_micro_ponged(link->micro);
}

static void on_writable(void *user)
{
    znl_micro_link *link = user;
    if (link->is_open)
        znl_micro_writable(link->micro);
}

static void on_close(void *user, int err, uint16_t code, const char *text)
{
    znl_micro_link *link = user;
    char words[ZNL_MICRO_END_TEXT_BYTES];
    if (link->is_over)
        return;
    if (!link->is_open) {
        znl_micro_link_refused(link, err, text);
        return;
    }
    if (err == 0 && code != 0)
        snprintf(words, sizeof words, "closed by the peer with code %u%s%s", code,
                text[0] != '\0' ? ": " : "", text);
    else
        snprintf(words, sizeof words, "%s", err != 0 ? text : "closed by the peer");
    znl_micro_link_end(link, err, words, 0);
    link->is_polite = err == 0; /* our answer to its close frame still leaves */
}

const znl_ws_events znl_micro_ws_events = {
        .on_open = on_open,
        .on_message = on_message,
        .on_pong = on_pong,
        .on_writable = on_writable,
        .on_close = on_close,
};

/* --- methods ----------------------------------------------------------------------------------- */

static znl_micro_handle *check_handle(lua_State *L)
{
    /* A connection knows the address of its metatable, as cores do: quicker than looking it up. */
    znl_micro_handle *handle = lua_touserdata(L, 1);
    if (handle == NULL || lua_type(L, 1) != LUA_TUSERDATA ||
            lua_objlen(L, 1) != sizeof *handle || !lua_getmetatable(L, 1))
        luaL_argerror(L, 1, "connection expected");
    const void *metatable = lua_topointer(L, -1);
    lua_pop(L, 1);
    if (handle->metatable != metatable)
        luaL_argerror(L, 1, "connection expected");
    return handle;
}

znl_micro_link *znl_micro_link_check(lua_State *L)
{
    return check_handle(L)->link;
}

static int conn_end(lua_State *L, int polite)
{
    znl_micro_link *link = znl_micro_link_check(L);
    if (link != NULL)
        znl_micro_link_end(link, 0, "closed here", polite);
    return 0;
}

/* close(): with a close frame */
static int conn_close(lua_State *L)
{
    return conn_end(L, 1);
}

/* drop(): at once */
static int conn_drop(lua_State *L)
{
    return conn_end(L, 0);
}

static int conn_is_open(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    lua_pushboolean(L, link != NULL && link->is_open);
    return 1;
}

/* pending() -> requests and streams of ours on it */
static int conn_pending(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    lua_pushnumber(L, link != NULL && link->is_open ? znl_micro_pending(link->micro) : 0);
    return 1;
}

/* jobs() -> requests of the peer at work or waiting here */
static int conn_jobs(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    lua_pushnumber(L, link != NULL && link->is_open ? znl_micro_jobs(link->micro) : 0);
    return 1;
}

static int conn_is_ours(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    lua_pushboolean(L, link != NULL && link->is_ours);
    return 1;
}

static int conn_is_inbound(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    lua_pushboolean(L, link != NULL && link->is_inbound);
    return 1;
}

/* The value at `place` of what belongs to the connection. */
static int push_own(lua_State *L, int place)
{
    check_handle(L);
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, place);
    return 1;
}

static int conn_remote(lua_State *L)
{
    return push_own(L, ZNL_CONN_REMOTE);
}

static int conn_path(lua_State *L)
{
    return push_own(L, ZNL_CONN_PATH);
}

/* set_peer(key, client): what requests of it have as `from` and `client` */
static int conn_set_peer(lua_State *L)
{
    check_handle(L);
    luaL_checktype(L, 2, LUA_TSTRING);
    lua_settop(L, 3);
    lua_getfenv(L, 1);
    lua_insert(L, 2);
    lua_rawseti(L, 2, ZNL_CONN_CLIENT);
    lua_rawseti(L, 2, ZNL_CONN_KEY);
    return 0;
}

/* peer() -> key, client */
static int conn_peer(lua_State *L)
{
    push_own(L, ZNL_CONN_KEY);
    push_own(L, ZNL_CONN_CLIENT);
    lua_remove(L, -2);
    return 2;
}

static int conn_tostring(lua_State *L)
{
    const znl_micro_link *link = znl_micro_link_check(L);
    push_own(L, ZNL_CONN_REMOTE);
    const char *remote = lua_tostring(L, -1);
    lua_pushfstring(L, "connection %s %s%s", link != NULL && !link->is_inbound ? "to" : "from",
            remote != NULL ? remote : "?", link != NULL && link->is_open ? "" : " (closed)");
    return 1;
}

static const luaL_Reg methods[] = {
        {"request", znl_micro_conn_request},
        {"push", znl_micro_conn_push},
        {"stream", znl_micro_conn_stream},
        {"close", conn_close},
        {"drop", conn_drop},
        {"is_open", conn_is_open},
        {"pending", conn_pending},
        {"jobs", conn_jobs},
        {"is_ours", conn_is_ours},
        {"is_inbound", conn_is_inbound},
        {"remote", conn_remote},
        {"path", conn_path},
        {"set_peer", conn_set_peer},
        {"peer", conn_peer},
        {NULL, NULL},
};

void znl_micro_open_connection_type(lua_State *L)
{
    znl_anchor_open(L);
    znl_lua_newtype(L, ZNL_MICRO_CONNECTION_TYPE, methods, conn_gc);
    luaL_getmetatable(L, ZNL_MICRO_CONNECTION_TYPE);
    lua_pushcfunction(L, conn_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
}
