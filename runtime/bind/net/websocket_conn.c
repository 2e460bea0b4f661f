/* websocket_conn.c - connections of WebSocket: messages that wait, tasks that wait, the end.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/net/websocket.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/anchor.h"
#include "bind/net/headers.h"
#include "bind/net/tls.h"
#include "codec/text.h"
#include "codec/websocket.h"

#include <string.h>

#define CONN_TYPE "znl.core.websocket"

typedef struct conn {
    znl_anchor anchor; /* while it opens */
    znl_ws *ws;        /* NULL: closed */
    znl_wait opener;
    znl_wait reader;
    znl_buffer writers; /* znl_wait: for room */
    znl_buffer pingers; /* znl_wait: for a pong */
    znl_buffer inbox;   /* records: struct record, bytes */
    size_t inbox_at;    /* of the first */
    size_t max_inbox_bytes;
    int is_paused;
    int is_opening;
    int is_closing; /* by us */
    int err;
    uint16_t close_code;
    char *text;
    znl_websocket_user *users;
} conn;

typedef struct record {
    size_t size;
    int is_text;
} record;

/* --- waiting ----------------------------------------------------------------------------------- */

/* Room for one more wait; those that are over make room first. */
static int extend_waits(conn *c, znl_buffer *list)
{
    const znl_sched *sched = c->anchor.vm->sched;
    znl_wait *waits = (znl_wait *)(void *)list->data;
    size_t count = list->size / sizeof *waits;
    if (list->capacity - list->size < sizeof *waits) {
        size_t kept = 0;
        for (size_t i = 0; i < count; i++) {
            if (znl_sched_waits(sched, waits[i]))
                waits[kept++] = waits[i];
        }
        list->size = kept * sizeof *waits;
    }
    return znl_buffer_extend(list, sizeof *waits);
}

/* They run in the next turn of the loop: what is on the stack is safe from what they do. */
static void wake_all(conn *c, znl_buffer *list)
{
    znl_wait *waits = (znl_wait *)(void *)list->data;
    for (size_t i = 0; i < list->size / sizeof *waits; i++)
        znl_sched_wake_later(c->anchor.vm->sched, waits[i]);
    znl_buffer_fini(list);
}

/* Waits in `list`; there is room. A timeout of nil: as long as it takes. */
static int wait_in(lua_State *L, znl_buffer *list, int timeout_idx, const char *where)
{
    znl_wait wait;
    if (lua_isnoneornil(L, timeout_idx))
        wait = znl_sched_park_as(L, where);
    else
        wait = znl_sched_park_for(L,
                znl_lua_checku32(L, timeout_idx, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX), where);
    znl_buffer_append(list, &wait, sizeof wait);
    return lua_yield(L, 0);
}

/* --- the inbox --------------------------------------------------------------------------------- */

static size_t inbox_bytes(const conn *c)
{
    return c->inbox.size - c->inbox_at;
}

static int keep(conn *c, const uint8_t *data, size_t size, int is_text)
{
    znl_buffer *inbox = &c->inbox;
    record head = {size, is_text};
    if (c->inbox_at > 0 && c->inbox_at >= inbox->size / 2) {
        inbox->size -= c->inbox_at;
        memmove(inbox->data, inbox->data + c->inbox_at, inbox->size);
        c->inbox_at = 0;
    }
    if (size > SIZE_MAX - sizeof head || znl_buffer_extend(inbox, sizeof head + size) != 0)
        return ZNL_E_NOMEM;
    znl_buffer_append(inbox, &head, sizeof head);
    znl_buffer_append(inbox, data, size);
    return 0;
}

static void clear_inbox(conn *c)
{
    znl_buffer_fini(&c->inbox);
    c->inbox_at = 0;
}

/* Pushes the oldest message: two values. */
static int take(lua_State *L, conn *c)
{
    record head;
    memcpy(&head, c->inbox.data + c->inbox_at, sizeof head);
    lua_pushlstring(L, (const char *)c->inbox.data + c->inbox_at + sizeof head, head.size);
    lua_pushboolean(L, !head.is_text);
    c->inbox_at += sizeof head + head.size;
    if (c->inbox_at == c->inbox.size)
        clear_inbox(c);
    if (c->is_paused && c->ws != NULL && inbox_bytes(c) <= c->max_inbox_bytes / 2) {
        c->is_paused = 0;
        znl_ws_pause(c->ws, 0);
    }
    return 2;
}

/* --- who else uses it -------------------------------------------------------------------------- */

void znl_websocket_unuse(znl_websocket_user *user)
{
    if (user->link == NULL)
        return;
    *user->link = user->next;
    if (user->next != NULL)
        user->next->link = user->link;
    user->link = NULL;
}

static void end_users(conn *c)
{
    while (c->users != NULL) {
        znl_websocket_user *user = c->users;
        znl_websocket_unuse(user);
        user->on_end(user);
    }
}

/* --- events of a connection -------------------------------------------------------------------- */

struct arrival {
    const uint8_t *data;
    size_t size;
    int is_text;
};

static int push_message(lua_State *L, void *user)
{
    const struct arrival *arrival = user;
    lua_pushlstring(L, (const char *)arrival->data, arrival->size);
    lua_pushboolean(L, !arrival->is_text);
    return 2;
}

/* The task that is woken may end with the last reference to the connection: nothing of it is touched
 * after a wake. */
static void on_message(void *user, uint8_t *data, size_t size, int is_text)
{
    conn *c = user;
    znl_sched *sched = c->anchor.vm->sched;
    if (inbox_bytes(c) == 0 && znl_sched_waits(sched, c->reader)) {
        struct arrival arrival = {data, size, is_text};
        znl_sched_wake(sched, c->reader, push_message, &arrival);
    } else if (keep(c, data, size, is_text) != 0) {
        znl_ws_close(c->ws, ZNL_WS_CODE_ERROR, "out of memory");
    } else if (inbox_bytes(c) >= c->max_inbox_bytes) {
        c->is_paused = 1;
        znl_ws_pause(c->ws, 1);
    }
}

static void on_pong(void *user)
{
    conn *c = user;
    wake_all(c, &c->pingers);
}

static void on_writable(void *user)
{
    conn *c = user;
    wake_all(c, &c->writers);
}

struct opened {
    conn *conn;
    const znl_http_head *head;
    int err;
    uint16_t status;
    const char *text;
};

static int push_opened(lua_State *L, void *user)
{
    const struct opened *opened = user;
    lua_rawgeti(L, LUA_REGISTRYINDEX, opened->conn->anchor.ref);
    znl_lua_pushheaders(L, opened->head);
    return 2;
}

static int push_refused(lua_State *L, void *user)
{
    const struct opened *opened = user;
    lua_pushnil(L);
    lua_pushfstring(L, "websocket.connect: %s", opened->text);
    lua_pushstring(L, znl_err_code(opened->err));
    if (opened->status == 0)
        return 3;
    lua_pushinteger(L, opened->status);
    return 4;
}

static void on_open(void *user, const znl_http_head *head)
{
    conn *c = user;
    struct opened opened = {.conn = c, .head = head};
    c->is_opening = 0;
    znl_anchor_let_go_later(&c->anchor);
    znl_sched_wake(c->anchor.vm->sched, c->opener, push_opened, &opened);
}

static void on_close(void *user, int err, uint16_t code, const char *text)
{
    conn *c = user;
    znl_sched *sched = c->anchor.vm->sched;
    end_users(c);
    znl_ws_drop(c->ws, 0);
    c->ws = NULL;
    if (c->is_opening) {
        struct opened opened = {.err = err, .status = code, .text = text};
        c->is_opening = 0;
        znl_anchor_let_go_later(&c->anchor);
        znl_sched_wake(sched, c->opener, push_refused, &opened);
        return;
    }
    size_t size = strlen(text) + 1;
    c->err = err;
    c->close_code = code;
    c->text = znl_malloc(size);
    if (c->text != NULL)
        memcpy(c->text, text, size);
    znl_sched_wake_later(sched, c->reader);
    wake_all(c, &c->writers);
    wake_all(c, &c->pingers);
}

static const znl_ws_events events = {
        .on_open = on_open,
        .on_message = on_message,
        .on_pong = on_pong,
        .on_writable = on_writable,
        .on_close = on_close,
};

/* --- methods of a connection ------------------------------------------------------------------- */

static conn *check_conn(lua_State *L)
{
    return luaL_checkudata(L, 1, CONN_TYPE);
}

znl_ws *znl_websocket_use(lua_State *L, int idx, znl_websocket_user *user)
{
    conn *c = luaL_checkudata(L, idx, CONN_TYPE);
    if (c->ws == NULL)
        return NULL;
    user->next = c->users;
    user->link = &c->users;
    if (user->next != NULL)
        user->next->link = &user->next;
    c->users = user;
    return c->ws;
}

/* An empty connection at the top of the stack. */
static conn *push_conn(lua_State *L, const znl_websocket_limits *limits)
{
    conn *c = lua_newuserdata(L, sizeof *c);
    memset(c, 0, sizeof *c);
    znl_anchor_init(&c->anchor, znl_vm_of(L));
    c->max_inbox_bytes = limits->max_inbox_bytes;
    luaL_getmetatable(L, CONN_TYPE);
    lua_setmetatable(L, -2);
    return c;
}

/* nil, message, code: why it is not open. */
static int fail_closed(lua_State *L, const conn *c)
{
    lua_pushnil(L);
    if (c->ws != NULL || c->is_closing)
        lua_pushliteral(L, "websocket: closed");
    else if (c->err != 0)
        lua_pushfstring(L, "websocket: %s", c->text != NULL ? c->text : znl_err_text(c->err));
    else if (c->close_code != 0)
        lua_pushfstring(L, "websocket: closed by the peer: %d%s%s", (int)c->close_code,
                c->text != NULL && c->text[0] != '\0' ? " " : "",
                c->text != NULL ? c->text : "");
    else
        lua_pushliteral(L, "websocket: closed by the peer");
    int err = c->err != 0 && !c->is_closing ? c->err : ZNL_E_CLOSED;
    lua_pushstring(L, znl_err_code(err));
    return 3;
}

static int conn_recv(lua_State *L)
{
    conn *c = check_conn(L);
    if (inbox_bytes(c) > 0)
        return take(L, c);
    if (c->ws == NULL || c->is_closing)
        return fail_closed(L, c);
    if (znl_sched_waits(c->anchor.vm->sched, c->reader)) {
        lua_pushnil(L);
        lua_pushliteral(L, "websocket.recv: another coroutine receives from it");
        lua_pushstring(L, znl_err_code(ZNL_E_BUSY));
        return 3;
    }
    if (lua_isnoneornil(L, 2))
        c->reader = znl_sched_park_as(L, "websocket.recv");
    else
        c->reader = znl_sched_park_for(L,
                znl_lua_checku32(L, 2, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX), "websocket.recv");
    return lua_yield(L, 0);
}

static int conn_send(lua_State *L)
{
    conn *c = check_conn(L);
    znl_frame data = znl_lua_checkframe(L, 2, "data", SIZE_MAX);
    int is_text = !lua_toboolean(L, 3);
    if (c->ws == NULL || c->is_closing)
        return fail_closed(L, c);
    if (is_text && !znl_utf8_valid(data.data, data.size)) {
        lua_pushnil(L);
        lua_pushliteral(L, "websocket.send: the text is not UTF-8; send it as binary");
        lua_pushstring(L, znl_err_code(ZNL_E_INVALID));
        return 3;
    }
    int err = znl_ws_send(c->ws, is_text, data.data, data.size);
    if (err == ZNL_E_CLOSED)
        return fail_closed(L, c);
    if (err != 0)
        return znl_lua_fail(L, err, "websocket.send");
    lua_pushboolean(L, 1);
    return 1;
}

static int conn_wait_room(lua_State *L)
{
    conn *c = check_conn(L);
    if (c->ws == NULL || !znl_ws_is_open(c->ws))
        return fail_closed(L, c);
    if (extend_waits(c, &c->writers) != 0)
        return znl_lua_fail(L, ZNL_E_NOMEM, "websocket.send");
    return wait_in(L, &c->writers, 2, "websocket.send");
}

static int conn_ping(lua_State *L)
{
    conn *c = check_conn(L);
    if (c->ws == NULL || !znl_ws_is_open(c->ws))
        return fail_closed(L, c);
    int err = extend_waits(c, &c->pingers);
    if (err == 0)
        err = znl_ws_ping(c->ws);
    if (err != 0)
        return znl_lua_fail(L, err, "websocket.ping");
    return wait_in(L, &c->pingers, 2, "websocket.ping");
}

/* Also what waits for something of it hears of it, in the next turn. */
static void close_conn(conn *c, uint16_t code, const char *reason)
{
    if (c->ws == NULL || c->is_closing)
        return;
    c->is_closing = 1;
    clear_inbox(c);
    znl_ws_close(c->ws, code, reason);
    znl_sched_wake_later(c->anchor.vm->sched, c->reader);
    wake_all(c, &c->writers);
    wake_all(c, &c->pingers);
}

/* conn:close(code|nil, reason|nil); code 0: a close frame without one. */
static int conn_close(lua_State *L)
{
    conn *c = check_conn(L);
    uint32_t code = lua_isnoneornil(L, 2) ? ZNL_WS_CODE_NORMAL
                                          : znl_lua_checku32(L, 2, "code", 0, 4999);
    znl_frame reason = lua_isnoneornil(L, 3)
            ? znl_frame_of("", 0)
            : znl_lua_checkframe(L, 3, "reason", ZNL_WS_REASON_BYTES_MAX);
    luaL_argcheck(L, code == 0 || znl_ws_code_is_valid(code), 2,
            "code must be 1000, one of 1001 to 1014 that may be sent, or in 3000..4999");
    luaL_argcheck(L, znl_utf8_valid(reason.data, reason.size), 3, "reason must be UTF-8");
    close_conn(c, (uint16_t)code, (const char *)reason.data);
    return 0;
}

static int conn_collect(lua_State *L)
{
    conn *c = check_conn(L);
    end_users(c);
    if (c->ws != NULL) {
        znl_ws_close(c->ws, ZNL_WS_CODE_AWAY, "");
        znl_ws_drop(c->ws, 0);
        c->ws = NULL;
    }
    clear_inbox(c);
    znl_buffer_fini(&c->writers);
    znl_buffer_fini(&c->pingers);
    znl_free(c->text);
    c->text = NULL;
    znl_anchor_fini(&c->anchor);
    return 0;
}

static int conn_is_open(lua_State *L)
{
    const conn *c = check_conn(L);
    lua_pushboolean(L, c->ws != NULL && znl_ws_is_open(c->ws));
    return 1;
}

static int conn_queued(lua_State *L)
{
    const conn *c = check_conn(L);
    lua_pushnumber(L, c->ws != NULL ? (lua_Number)znl_ws_queued(c->ws) : 0);
    return 1;
}

static int conn_inbox(lua_State *L)
{
    lua_pushnumber(L, (lua_Number)inbox_bytes(check_conn(L)));
    return 1;
}

static int conn_peer(lua_State *L)
{
    const conn *c = check_conn(L);
    lua_pushstring(L, c->ws != NULL ? znl_ws_peer(c->ws) : "");
    return 1;
}

static int conn_ending(lua_State *L)
{
    const conn *c = check_conn(L);
    if (c->ws != NULL)
        return 0;
    lua_pushstring(L, znl_err_code(c->err != 0 ? c->err : ZNL_E_CLOSED));
    lua_pushinteger(L, c->close_code);
    lua_pushstring(L, c->text != NULL ? c->text : "");
    return 3;
}

/* --- connecting -------------------------------------------------------------------------------- */

/* The task that connects has gone: nobody wants the connection any more. */
static void on_lost(void *user, uint64_t id)
{
    conn *c = user;
    (void)id;
    if (c->is_opening)
        znl_ws_close(c->ws, 0, NULL); /* on_close lets go */
}

int znl_websocket_connect(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    const znl_websocket_limits limits = znl_websocket_readlimits(L, 1);
    znl_ws_connect_options options = {.limits = limits.ws};
    options.stream.host =
            (const char *)znl_lua_fieldtext(L, 1, "host", ZNL_HOST_BYTES_MAX).data;
    options.stream.port = (uint16_t)znl_lua_fieldu32(L, 1, "port", 0, 65535);
    options.stream.timeout_ms = znl_lua_fieldu32(L, 1, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    options.path =
            (const char *)znl_lua_fieldtext(L, 1, "path", ZNL_HTTP_HEAD_BYTES_DEFAULT).data;
    options.protocols = (const char *)znl_lua_fieldtext(L, 1, "protocols", 1024).data;
    options.headers = znl_lua_fieldlines(L, 1, "headers");
    if (options.stream.host == NULL || options.path == NULL || options.stream.port == 0)
        luaL_error(L, "host, port and path are needed");
    znl_vm *vm = znl_vm_of(L);
    if (!znl_sched_is_task(L))
        luaL_error(L, "websocket.connect must be called from a coroutine made by znl");
    if (znl_sched_is_cancelled(vm->sched) != 0)
        return znl_lua_cancelled(L, "websocket.connect");
    lua_getfield(L, 1, "tls");
    int count = znl_lua_totls(L, 2, 0, &options.stream.tls);
    if (count > 0)
        return count;
    conn *c = push_conn(L, &limits);
    znl_anchor_hold(L, &c->anchor, 3);
    int err = znl_ws_connect(&c->ws, vm->loop, &options, &events, c);
    if (err != 0) {
        znl_anchor_let_go(&c->anchor);
        return znl_lua_fail(L, err, "websocket.connect");
    }
    c->is_opening = 1;
    c->opener = znl_sched_park_as(L, "websocket.connect");
    znl_sched_on_lost(vm->sched, on_lost, c, 0);
    return lua_yield(L, 0);
}

/* --- accepting --------------------------------------------------------------------------------- */

int znl_websocket_pushaccepted(lua_State *L, znl_http_exchange *http, const znl_http_head *head,
        const char *lines, const znl_websocket_limits *limits)
{
    conn *c = push_conn(L, limits);
    return znl_ws_accept(
            &c->ws, c->anchor.vm->loop, http, head, lines, &limits->ws, &events, c);
}

void znl_websocket_open_conn_type(lua_State *L)
{
    static const luaL_Reg methods[] = {
            {"recv", conn_recv},
            {"send", conn_send},
            {"wait_room", conn_wait_room},
            {"ping", conn_ping},
            {"close", conn_close},
            {"is_open", conn_is_open},
            {"queued", conn_queued},
            {"inbox", conn_inbox},
            {"peer", conn_peer},
            {"ending", conn_ending},
            {NULL, NULL},
    };
    znl_lua_newtype(L, CONN_TYPE, methods, conn_collect);
}
