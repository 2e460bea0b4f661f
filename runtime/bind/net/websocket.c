/* websocket.c - znl.core.websocket: connections of WebSocket, asked for and accepted.
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
#include "bind/net/websocket.h"

#include "base/limits.h"

znl_websocket_limits znl_websocket_readlimits(lua_State *L, int idx)
{
    znl_websocket_limits read = {.ws.checks_utf8 = 1};
    read.ws.max_message_bytes = znl_lua_fieldu32(
            L, idx, "max_message_bytes", 0, ZNL_FRAME_BYTES_MAX);
    read.ws.max_queue_bytes = znl_lua_fieldu32(
            L, idx, "max_queue_bytes", 0, ZNL_FRAME_BYTES_MAX);
    read.ws.close_ms = znl_lua_fieldu32(L, idx, "close_ms", 0, ZNL_TIMEOUT_MS_MAX);
    read.max_inbox_bytes = znl_lua_fieldu32(
            L, idx, "max_inbox_bytes", ZNL_WS_INBOX_BYTES_DEFAULT, ZNL_FRAME_BYTES_MAX);
    return read;
}

int luaopen_znl_core_websocket(lua_State *L)
{
    static const luaL_Reg functions[] = {
            {"connect", znl_websocket_connect},
            {"listen", znl_websocket_listen},
            {NULL, NULL},
    };
    znl_websocket_open_conn_type(L);
    znl_websocket_open_server_types(L);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
