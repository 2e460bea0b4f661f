/* websocket.h - one WebSocket connection (RFC 6455), either end of it.
 *
 *   connecting -> open -> closing -> closed
 *
 * Messages come whole; fragments are put together, pings answered. No extension is ever negotiated.
 * Text is not checked here to be UTF-8 unless asked: who reads JSON checks it on the way.
 * Events come from the loop, never from inside a call; on_close is the last, none after znl_ws_drop().
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_WEBSOCKET_H
#define ZNL_TRANSPORT_WEBSOCKET_H

#include "transport/http_server.h"

typedef struct znl_ws znl_ws;

typedef struct znl_ws_events {
    /* A client's connection is open; `head` is the server's answer, borrowed. Accepted ones are open. */
    void (*on_open)(void *user, const znl_http_head *head);
    /* A whole message, borrowed until it returns, may be changed in place. It may close the connection. */
    void (*on_message)(void *user, uint8_t *data, size_t size, int is_text);
    void (*on_pong)(void *user); /* NULL: not wanted */
    void (*on_writable)(
            void *user); /* the queue is half empty again after a send had found it full */
    /* The last event. `code` is the peer's close code, 0 when its frame had none or the socket just ended;
     * err 0: closed in order; else PROTO, TOO_BIG, TIMEOUT, UNREACHABLE, …; `text` says more. The
     * connection is to be dropped. */
    void (*on_close)(void *user, int err, uint16_t code, const char *text);
} znl_ws_events;

typedef struct znl_ws_limits {
    size_t max_message_bytes; /* 0: ZNL_MESSAGE_BYTES_DEFAULT; larger: closed with 1009 */
    size_t max_queue_bytes;   /* 0: ZNL_STREAM_QUEUE_BYTES_DEFAULT */
    uint32_t close_ms; /* how long the peer may take to close; 0: ZNL_WS_CLOSE_MS_DEFAULT */
    int checks_utf8;   /* of text messages: 1007 */
} znl_ws_limits;

typedef struct znl_ws_connect_options {
    znl_stream_options stream; /* host, port, tls, timeout_ms: the upgrade included */
    const char *path;          /* begins with "/"; borrowed */
    const char *headers;       /* further lines "Name: value\r\n", or NULL */
    znl_ws_limits limits;
} znl_ws_connect_options;

/* Returns a connection that opens, owned: on_open or on_close follows. */
int znl_ws_connect(znl_ws **out, znl_loop *loop, const znl_ws_connect_options *options,
        const znl_ws_events *events, void *user);

/* True when the request asks for a WebSocket and does it right. Otherwise *status is what to answer
 * (400, 405, 426). */
int znl_ws_is_upgrade(const znl_http_head *head, int *status);

/* Answers the exchange with 101 (and `headers`, lines or NULL): the connection is open. What the peer sent
 * after its head arrives as events later, from the loop. ZNL_E_GONE when the peer has gone, ZNL_E_NOMEM. */
int znl_ws_accept(znl_ws **out, znl_loop *loop, znl_http_exchange *exchange,
        const znl_http_head *head, const char *headers, const znl_ws_limits *limits,
        const znl_ws_events *events, void *user);

/* Copies. 0, ZNL_E_BUSY (the queue is full: on_writable will come), ZNL_E_CLOSED, ZNL_E_NOMEM. */
int znl_ws_send(znl_ws *ws, int is_text, const void *data, size_t size);
int znl_ws_ping(znl_ws *ws);

/* Sends a close frame, without a code when `code` is 0; on_close follows, within close_ms. */
void znl_ws_close(znl_ws *ws, uint16_t code, const char *reason);

/* Takes it (NULL is accepted); ends the socket now, or within `linger_ms` when something is queued. */
void znl_ws_drop(znl_ws *ws, uint32_t linger_ms);

int znl_ws_is_open(const znl_ws *ws);
size_t znl_ws_queued(const znl_ws *ws);
void znl_ws_pause(znl_ws *ws, int on); /* stops reading, and goes on */
const char *znl_ws_peer(const znl_ws *ws);

#endif
