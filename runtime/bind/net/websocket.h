/* websocket.h - what the files behind znl.core.websocket share.
 *
 *   websocket.c         the module, and the limits that both sides take
 *   websocket_conn.c    a connection: its messages, its end, its methods, connect()
 *   websocket_server.c  a server, and the requests that become connections or are answered
 *
 * Layer: bind. SPDX-License-Identifier: MIT */
#ifndef ZNL_BIND_NET_WEBSOCKET_H
#define ZNL_BIND_NET_WEBSOCKET_H

#include "bind/bind.h"
#include "transport/websocket.h"

typedef struct znl_websocket_limits {
    znl_ws_limits ws;
    size_t max_inbox_bytes;
} znl_websocket_limits;

/* The limits among the options at `idx`; raises on a bad value. */
znl_websocket_limits znl_websocket_readlimits(lua_State *L, int idx);

/* Make the metatables; leave nothing on the stack. */
void znl_websocket_open_conn_type(lua_State *L);
void znl_websocket_open_server_types(lua_State *L);

/* Functions of the module. */
int znl_websocket_connect(lua_State *L);
int znl_websocket_listen(lua_State *L);

/* Pushes a connection, made of an exchange whose request has been checked. Errors as of znl_ws_accept();
 * then what is pushed is closed. */
int znl_websocket_pushaccepted(lua_State *L, znl_http_exchange *http, const znl_http_head *head,
        const char *lines, const znl_websocket_limits *limits);

/* Somebody else in C who sends over a connection. Its own fields; set on_end, leave the rest zero. */
typedef struct znl_websocket_user znl_websocket_user;
struct znl_websocket_user {
    znl_websocket_user *next, **link;
    /* The connection is no more: what znl_websocket_use() returned must not be touched after this. No Lua may
     * run in here. */
    void (*on_end)(znl_websocket_user *user);
};

/* The connection at `idx`, borrowed until on_end() or znl_websocket_unuse(); raises when it is none. NULL: it has
 * ended, and `user` is not entered. The caller does not keep the connection: whose messages nobody reads is
 * collected and closed. */
znl_ws *znl_websocket_use(lua_State *L, int idx, znl_websocket_user *user);
/* Does nothing after on_end(). */
void znl_websocket_unuse(znl_websocket_user *user);

#endif
