/* websocket_handshake.h - the two HTTP heads that open a WebSocket (RFC 6455, section 4).
 *
 * Layer: transport. No I/O. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_WEBSOCKET_HANDSHAKE_H
#define ZNL_TRANSPORT_WEBSOCKET_HANDSHAKE_H

#include "codec/http.h"

#define ZNL_WS_KEY_CHARS 24u
#define ZNL_WS_ACCEPT_CHARS 28u

/* A fresh Sec-WebSocket-Key, and the Sec-WebSocket-Accept that answers one. */
void znl_ws_key_make(char key[ZNL_WS_KEY_CHARS + 1]);
void znl_ws_key_answer(const char key[ZNL_WS_KEY_CHARS], char accept[ZNL_WS_ACCEPT_CHARS + 1]);

/* What a client asks for. */
typedef struct znl_ws_request {
    const char *host; /* IPv6 with or without brackets */
    uint16_t port;
    int is_tls;
    const char *path;
    const char *protocols; /* "a, b", or NULL */
    const char *headers;   /* lines, or NULL */
} znl_ws_request;

/* Appends the head of the request. 0; ZNL_E_INVALID for a path that is none; ZNL_E_NOMEM. */
int znl_ws_request_write(
        znl_buffer *out, const znl_ws_request *request, const char key[ZNL_WS_KEY_CHARS + 1]);

/* Reads what the server answered to it. 0; ZNL_E_REFUSED: another status than 101; ZNL_E_PROTO: a 101
 * that is wrong. `text` (size bytes) says which. */
int znl_ws_response_check(const znl_http_head *head, const char key[ZNL_WS_KEY_CHARS],
        const char *protocols, char *text, size_t size);

#endif
