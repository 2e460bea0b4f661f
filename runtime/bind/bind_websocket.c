/* bind_websocket.c - znl.core.websocket: connections of WebSocket, asked for and accepted.
 *
 *     connect{host=, port=, path=, protocols=, headers=(lines), tls=, timeout_ms=, <limits>}
 *         -> conn, headers | nil, message, code, status     yields
 *     listen({host=, port=, tls=, max_connections=, max_body_bytes=, head_ms=, <limits>}, fn)
 *         -> server | nil, message, code                    fn(exchange, request) in a task for each request
 *     limits: max_message_bytes=, max_queue_bytes=, max_inbox_bytes=, close_ms=
 *
 *     exchange:accept(lines) -> conn | nil, message, code;  exchange:respond(status, lines, body)
 *     exchange:refuse()    as its status says
 *     server:port(), server:counters(), server:close()
 *     conn:recv(timeout_ms|nil) -> text, is_binary | true (look again) | nil, message, code    yields
 *     conn:send(data, is_binary) -> true | nil, message, code;  conn:wait_room(timeout_ms|nil)  yields
 *     conn:ping(timeout_ms) -> true | nil, message, code    yields
 *     conn:close(code, reason), conn:is_open(), conn:queued(), conn:inbox(), conn:peer()
 *     conn:ending() -> nil | code, close_code, text
 *
 * Messages that nobody waits for are kept, up to max_inbox_bytes; then the peer has to wait. A connection
 * that is collected is closed. A server is anchored until it is closed.
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#include "bind/bind_websocket.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "bind/anchor.h"
#include "bind/bind_tls.h"
#include "codec/text.h"
#include "codec/websocket.h"
#include "transport/websocket.h"

#include <string.h>

#define CONN_TYPE "znl.core.websocket"
#define SERVER_TYPE "znl.core.websocket.server"
#define EXCHANGE_TYPE "znl.core.websocket.exchange"

typedef struct conn_limits {
    znl_ws_limits ws;
    size_t max_inbox_bytes;
} conn_limits;

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
} conn;

typedef struct record {
    size_t size;
    int is_text;
} record;

typedef struct server {
    znl_anchor anchor; /* while it listens */
    znl_http_server *http;
    int fn_ref;
    conn_limits limits;
} server;

typedef struct exchange {
    znl_vm *vm;
    znl_http_exchange *http; /* NULL: answered */
    conn_limits limits;
    int status; /* 101: it asks for a WebSocket, and does it right */
    size_t key_size;
    char key[32];
} exchange;

/* --- headers ----------------------------------------------------------------------------------- */

static void push_lower(lua_State *L, znl_frame name)
{
    luaL_Buffer text;
    luaL_buffinit(L, &text);
    for (size_t i = 0; i < name.size; i++) {
        int c = name.data[i];
        luaL_addchar(&text, (char)(c >= 'A' && c <= 'Z' ? c + 'a' - 'A' : c));
    }
    luaL_pushresult(&text);
}

void znl_lua_pushheaders(lua_State *L, const znl_http_head *head)
{
    lua_createtable(L, 0, (int)head->header_count);
    for (size_t i = 0; i < head->header_count; i++) {
        znl_frame value = head->headers[i].value;
        push_lower(L, head->headers[i].name);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, value.size > 0 ? (const char *)value.data : "", value.size);
        } else {
            lua_pushliteral(L, ", ");
            lua_pushlstring(L, value.size > 0 ? (const char *)value.data : "", value.size);
            lua_concat(L, 3);
        }
        lua_rawset(L, -3);
    }
}

static const char *check_lines(lua_State *L, znl_frame lines, const char *name)
{
    int is_whole = lines.size == 0 ||
            (lines.size > 2 && memcmp(lines.data + lines.size - 2, "\r\n", 2) == 0);
    for (size_t i = 0; i < lines.size && is_whole; i++) {
        uint8_t c = lines.data[i];
        if (c == '\r' && i + 1 < lines.size && lines.data[i + 1] == '\n')
            i++;
        else if ((c < ' ' && c != '\t') || c == 0x7f)
            is_whole = 0;
    }
    if (!is_whole)
        luaL_error(L, "%s must be lines of headers that end with CR LF", name);
    return lines.size > 0 ? (const char *)lines.data : "";
}

/* Field `name` of the options at `idx`: "Name: value\r\n" lines, "" when absent; kept alive by the table. */
static const char *field_lines(lua_State *L, int idx, const char *name)
{
    return check_lines(L, znl_lua_fieldtext(L, idx, name, ZNL_HTTP_HEAD_BYTES_DEFAULT), name);
}

static conn_limits read_limits(lua_State *L, int idx)
{
    conn_limits read = {.ws.checks_utf8 = 1};
    read.ws.max_message_bytes = znl_lua_fieldu32(
            L, idx, "max_message_bytes", 0, ZNL_FRAME_BYTES_MAX);
    read.ws.max_queue_bytes = znl_lua_fieldu32(
            L, idx, "max_queue_bytes", 0, ZNL_FRAME_BYTES_MAX);
    read.ws.close_ms = znl_lua_fieldu32(L, idx, "close_ms", 0, ZNL_TIMEOUT_MS_MAX);
    read.max_inbox_bytes = znl_lua_fieldu32(
            L, idx, "max_inbox_bytes", ZNL_WS_INBOX_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    return read;
}

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

/* An empty connection at the top of the stack. */
static conn *push_conn(lua_State *L, const conn_limits *limits)
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

static int ws_connect(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    const conn_limits limits = read_limits(L, 1);
    znl_ws_connect_options options = {.limits = limits.ws};
    options.stream.host =
            (const char *)znl_lua_fieldtext(L, 1, "host", ZNL_HOST_BYTES_MAX).data;
    options.stream.port = (uint16_t)znl_lua_fieldu32(L, 1, "port", 0, 65535);
    options.stream.timeout_ms = znl_lua_fieldu32(L, 1, "timeout_ms", 0, ZNL_TIMEOUT_MS_MAX);
    options.path =
            (const char *)znl_lua_fieldtext(L, 1, "path", ZNL_HTTP_HEAD_BYTES_DEFAULT).data;
    options.protocols = (const char *)znl_lua_fieldtext(L, 1, "protocols", 1024).data;
    options.headers = field_lines(L, 1, "headers");
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

/* --- exchanges --------------------------------------------------------------------------------- */

static exchange *check_exchange(lua_State *L)
{
    exchange *e = luaL_checkudata(L, 1, EXCHANGE_TYPE);
    luaL_argcheck(L, e->http != NULL, 1, "the request is answered already");
    return e;
}

static int exchange_accept(lua_State *L)
{
    exchange *e = check_exchange(L);
    const char *lines = check_lines(
            L, znl_lua_checkframe(L, 2, "headers", ZNL_HTTP_HEAD_BYTES_DEFAULT), "headers");
    luaL_argcheck(L, e->status == 101, 1, "the request does not ask for a WebSocket");
    conn *c = push_conn(L, &e->limits);
    znl_http_head head = {.header_count = 1};
    head.headers[0].name = znl_frame_text("Sec-WebSocket-Key");
    head.headers[0].value = znl_frame_of(e->key, e->key_size);
    int err = znl_ws_accept(
            &c->ws, e->vm->loop, e->http, &head, lines, &e->limits.ws, &events, c);
    if (err == ZNL_E_NOMEM)
        znl_ws_refuse(e->http, 503, NULL);
    e->http = NULL;
    return err == 0 ? 1 : znl_lua_fail(L, err, "websocket.accept");
}

static int exchange_respond(lua_State *L)
{
    exchange *e = check_exchange(L);
    int status = (int)znl_lua_checku32(L, 2, "status", 200, 599);
    const char *lines = check_lines(
            L, znl_lua_checkframe(L, 3, "headers", ZNL_HTTP_HEAD_BYTES_DEFAULT), "headers");
    znl_frame body = znl_lua_checkframe(L, 4, "body", ZNL_MESSAGE_BYTES_DEFAULT);
    znl_http_respond(e->http, status, lines, body);
    e->http = NULL;
    return 0;
}

static int exchange_refuse(lua_State *L)
{
    exchange *e = check_exchange(L);
    luaL_argcheck(L, e->status != 101, 1, "nothing is wrong with the request");
    znl_ws_refuse(e->http, e->status, e->status == 426 ? "a WebSocket is served here\n" : NULL);
    e->http = NULL;
    return 0;
}

static int exchange_collect(lua_State *L)
{
    exchange *e = luaL_checkudata(L, 1, EXCHANGE_TYPE);
    if (e->http != NULL)
        znl_ws_refuse(e->http, 503, NULL);
    e->http = NULL;
    return 0;
}

/* --- the server -------------------------------------------------------------------------------- */

struct asked {
    server *server;
    znl_http_exchange *http; /* NULL: somebody owns it */
    const znl_http_head *head;
    znl_frame body;
};

static void set_text(lua_State *L, const char *name, znl_frame text)
{
    lua_pushlstring(L, text.size > 0 ? (const char *)text.data : "", text.size);
    lua_setfield(L, -2, name);
}

static int ask(lua_State *L)
{
    struct asked *asked = lua_touserdata(L, 1);
    int err = 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, asked->server->fn_ref);
    exchange *e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    luaL_getmetatable(L, EXCHANGE_TYPE);
    lua_setmetatable(L, -2);
    e->vm = asked->server->anchor.vm;
    e->limits = asked->server->limits;
    e->http = asked->http;
    asked->http = NULL;
    if (znl_ws_is_upgrade(asked->head, &e->status)) {
        znl_frame key = znl_http_header_of(asked->head, "Sec-WebSocket-Key", &err);
        e->key_size = key.size;
        memcpy(e->key, key.data, key.size < sizeof e->key ? key.size : sizeof e->key);
    }
    lua_createtable(L, 0, 6);
    set_text(L, "method", asked->head->method);
    set_text(L, "target", asked->head->target);
    set_text(L, "body", asked->body);
    lua_pushstring(L, znl_http_peer(e->http));
    lua_setfield(L, -2, "peer");
    lua_pushinteger(L, e->status);
    lua_setfield(L, -2, "status");
    znl_lua_pushheaders(L, asked->head);
    lua_setfield(L, -2, "headers");
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3); /* `e` stays on this stack: the task may end with it unanswered */
    if (znl_sched_spawn(L, 2, NULL, NULL, NULL) != 0 && e->http != NULL) {
        znl_ws_refuse(e->http, 503, NULL);
        e->http = NULL;
    }
    return 0;
}

static void on_request(
        void *user, znl_http_exchange *http, const znl_http_head *head, znl_frame body)
{
    server *s = user;
    struct asked asked = {s, http, head, body};
    znl_vm_protect(s->anchor.vm, ask, &asked, "websocket.listen");
    if (asked.http != NULL)
        znl_ws_refuse(asked.http, 503, NULL);
}

static server *check_server(lua_State *L)
{
    return luaL_checkudata(L, 1, SERVER_TYPE);
}

static int ws_listen(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    znl_http_server_options options = {0};
    const conn_limits limits = read_limits(L, 1);
    options.listen.host =
            (const char *)znl_lua_fieldtext(L, 1, "host", ZNL_HOST_BYTES_MAX).data;
    options.listen.port = (uint16_t)znl_lua_fieldu32(L, 1, "port", 0, 65535);
    options.listen.max_connections = znl_lua_fieldu32(
            L, 1, "max_connections", ZNL_CONNECTIONS_DEFAULT, ZNL_CONNECTIONS_MAX);
    options.listen.handshake_ms = znl_lua_fieldu32(L, 1, "head_ms", 0, ZNL_TIMEOUT_MS_MAX);
    options.listen.max_queue_bytes = limits.ws.max_queue_bytes;
    options.head_ms = options.listen.handshake_ms;
    options.max_body_bytes = znl_lua_fieldu32(L, 1, "max_body_bytes", 0, ZNL_FRAME_BYTES_MAX);
    lua_getfield(L, 1, "tls");
    int count = znl_lua_totls(L, 3, 1, &options.listen.tls);
    if (count > 0)
        return count;
    server *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    znl_anchor_init(&s->anchor, znl_vm_of(L));
    s->fn_ref = LUA_NOREF;
    s->limits = limits;
    luaL_getmetatable(L, SERVER_TYPE);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, 2);
    s->fn_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    znl_anchor_hold(L, &s->anchor, 4);
    int err = znl_http_server_open(&s->http, s->anchor.vm->loop, &options, on_request, s);
    if (err == 0)
        return 1;
    luaL_unref(L, LUA_REGISTRYINDEX, s->fn_ref);
    s->fn_ref = LUA_NOREF;
    znl_anchor_let_go(&s->anchor);
    return znl_lua_fail(L, err, "websocket.listen");
}

/* Idempotent; connections live on. */
static int server_close(lua_State *L)
{
    server *s = check_server(L);
    if (s->http == NULL)
        return 0;
    znl_http_server_close(s->http);
    s->http = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, s->fn_ref);
    s->fn_ref = LUA_NOREF;
    znl_anchor_let_go_later(&s->anchor);
    return 0;
}

static int server_collect(lua_State *L)
{
    server *s = check_server(L);
    znl_http_server_close(s->http); /* only when the state is closed: else it is anchored */
    s->http = NULL;
    znl_anchor_fini(&s->anchor);
    return 0;
}

static int server_port(lua_State *L)
{
    const server *s = check_server(L);
    lua_pushinteger(L, s->http != NULL ? znl_http_server_port(s->http) : 0);
    return 1;
}

static int server_counters(lua_State *L)
{
    const server *s = check_server(L);
    znl_http_counters counters = {0};
    if (s->http != NULL)
        znl_http_server_count(s->http, &counters);
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {{"accepted", counters.accepted}, {"refused", counters.refused},
            {"malformed", counters.malformed}, {"timeouts", counters.timeouts},
            {"requests", counters.requests}};
    lua_createtable(L, 0, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lua_pushnumber(L, (lua_Number)rows[i].value);
        lua_setfield(L, -2, rows[i].name);
    }
    return 1;
}

int luaopen_znl_core_websocket(lua_State *L)
{
    static const luaL_Reg conn_methods[] = {
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
    static const luaL_Reg exchange_methods[] = {
            {"accept", exchange_accept},
            {"respond", exchange_respond},
            {"refuse", exchange_refuse},
            {NULL, NULL},
    };
    static const luaL_Reg server_methods[] = {
            {"port", server_port},
            {"counters", server_counters},
            {"close", server_close},
            {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
            {"connect", ws_connect},
            {"listen", ws_listen},
            {NULL, NULL},
    };
    znl_lua_newtype(L, CONN_TYPE, conn_methods, conn_collect);
    znl_lua_newtype(L, EXCHANGE_TYPE, exchange_methods, exchange_collect);
    znl_lua_newtype(L, SERVER_TYPE, server_methods, server_collect);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
