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

#endif
