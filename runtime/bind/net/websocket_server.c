/* websocket_server.c - servers of WebSocket, and their exchanges: a request that its handler accepts,
 * answers or refuses, once.
 *
 * SPDX-License-Identifier: MIT */
#include "bind/net/websocket.h"

#include "base/err.h"
#include "base/limits.h"
#include "bind/anchor.h"
#include "bind/net/headers.h"
#include "bind/net/tls.h"

#include <string.h>

#define SERVER_TYPE "znl.core.websocket.server"
#define EXCHANGE_TYPE "znl.core.websocket.exchange"

typedef struct server {
    znl_anchor anchor; /* while it listens */
    znl_http_server *http;
    int fn_ref;
    znl_websocket_limits limits;
} server;

typedef struct exchange {
    znl_http_exchange *http; /* NULL: answered */
    znl_websocket_limits limits;
    int status; /* 101: it asks for a WebSocket, and does it right */
    size_t key_size;
    char key[32];
} exchange;

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
    const char *lines = znl_lua_checklines(
            L, znl_lua_checkframe(L, 2, "headers", ZNL_HTTP_HEAD_BYTES_DEFAULT), "headers");
    luaL_argcheck(L, e->status == 101, 1, "the request does not ask for a WebSocket");
    znl_http_head head = {.header_count = 1};
    head.headers[0].name = znl_frame_text("Sec-WebSocket-Key");
    head.headers[0].value = znl_frame_of(e->key, e->key_size);
    int err = znl_websocket_pushaccepted(L, e->http, &head, lines, &e->limits);
    if (err == ZNL_E_NOMEM)
        znl_ws_refuse(e->http, 503, NULL);
    e->http = NULL;
    return err == 0 ? 1 : znl_lua_fail(L, err, "websocket.accept");
}

static int exchange_respond(lua_State *L)
{
    exchange *e = check_exchange(L);
    int status = (int)znl_lua_checku32(L, 2, "status", 200, 599);
    const char *lines = znl_lua_checklines(
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

int znl_websocket_listen(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    znl_http_server_options options = {0};
    const znl_websocket_limits limits = znl_websocket_readlimits(L, 1);
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

void znl_websocket_open_server_types(lua_State *L)
{
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
    znl_lua_newtype(L, EXCHANGE_TYPE, exchange_methods, exchange_collect);
    znl_lua_newtype(L, SERVER_TYPE, server_methods, server_collect);
}
