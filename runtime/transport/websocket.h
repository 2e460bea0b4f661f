/* websocket.h - one WebSocket connection (RFC 6455), either end of it.
 *
 *   connecting -> open -> closing -> closed
 *
 * Messages come whole; fragments are put together, pings answered. No extension is ever negotiated.
 * Text is not checked here to be UTF-8 unless asked: who reads JSON checks it on the way.
 * Events come from the loop, never from inside a call; on_close is the last, none after znl_ws_drop().
 * What RFC 6455 forbids closes the connection: the peer is told the code, on_close says why.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_WEBSOCKET_H
#define ZNL_TRANSPORT_WEBSOCKET_H

#include "transport/http_server.h"

typedef struct znl_ws znl_ws;

typedef struct znl_ws_events {
    /* A client's connection is open; `head` is the server's answer, borrowed. Accepted ones are open;
     * NULL will do for them. */
    void (*on_open)(void *user, const znl_http_head *head);
    /* A whole message, borrowed until it returns, may be changed in place. It may close, drop or pause the
     * connection: then no further one comes. */
    void (*on_message)(void *user, uint8_t *data, size_t size, int is_text);
    void (*on_pong)(void *user); /* NULL: not wanted */
    /* The queue is half empty again after a send had found it full. NULL: not wanted. */
    void (*on_writable)(void *user);
    /* The last event; the connection is to be dropped.
     *   err 0        closed in order. `code` is the peer's close code, 0 when its frame had none or the
     *                connection just ended after ours; `text` is its reason
     *   REFUSED      the server answered something else than a WebSocket; `code` is its HTTP status
     *   PROTO        forbidden bytes, TOO_BIG a message past the limit: the peer is told 1002, 1007, 1009
     *   TIMEOUT      it did not open, or did not close, in time
     *   GONE         the connection ended without a close frame
     *   CANCELLED    closed from here before it was open
     *   UNREACHABLE, …   what streams end with
     * `text` says more, for people; borrowed. */
    void (*on_close)(void *user, int err, uint16_t code, const char *text);
} znl_ws_events;

typedef struct znl_ws_limits {
    size_t max_message_bytes; /* 0: ZNL_MESSAGE_BYTES_DEFAULT; larger: closed with 1009 */
    size_t max_queue_bytes; /* 0: ZNL_STREAM_QUEUE_BYTES_DEFAULT; accepted: the listener's counts */
    uint32_t close_ms; /* how long the peer may take to close; 0: ZNL_WS_CLOSE_MS_DEFAULT */
    int checks_utf8;   /* of text messages: 1007 */
} znl_ws_limits;

typedef struct znl_ws_connect_options {
    znl_stream_options stream; /* host, port, tls, timeout_ms: the upgrade included */
    const char *path;          /* begins with "/"; visible ASCII */
    const char *protocols;     /* subprotocols "a, b" to offer, or NULL */
    const char *
            headers; /* further lines "Name: value\r\n", or NULL; what is in them is the caller's */
    znl_ws_limits limits;
} znl_ws_connect_options;

/* Returns a connection that opens, owned: on_open or on_close follows. All options are borrowed for the
 * call, `events` for good. 0, ZNL_E_INVALID (host or path), ZNL_E_NOMEM. */
int znl_ws_connect(znl_ws **out, znl_loop *loop, const znl_ws_connect_options *options,
        const znl_ws_events *events, void *user);

/* True when the request asks for a WebSocket and does it right. Otherwise *status is what to answer
 * (400, 405, 426). */
int znl_ws_is_upgrade(const znl_http_head *head, int *status);
/* Answers so, with the headers that belong to the status, and `body` as text, or NULL. */
void znl_ws_refuse(znl_http_exchange *exchange, int status, const char *body);

/* Answers the exchange, whose head is an upgrade, with 101 (and `headers`, lines or NULL): the connection
 * is open. What the peer sent after its head arrives as events later, from the loop. ZNL_E_GONE when the
 * peer has gone: the exchange is over. ZNL_E_NOMEM: it is still to be answered. */
int znl_ws_accept(znl_ws **out, znl_loop *loop, znl_http_exchange *exchange,
        const znl_http_head *head, const char *headers, const znl_ws_limits *limits,
        const znl_ws_events *events, void *user);

/* Copies. 0, ZNL_E_BUSY (the queue is full: on_writable will come), ZNL_E_CLOSED (not open), ZNL_E_NOMEM.
 * A message larger than the queue goes when the queue is empty. */
int znl_ws_send(znl_ws *ws, int is_text, const void *data, size_t size);
int znl_ws_ping(znl_ws *ws);

/* Sends a close frame, without a code when `code` is 0; on_close follows, within close_ms; no message comes
 * any more. Does nothing when it is closing or closed. */
void znl_ws_close(znl_ws *ws, uint16_t code, const char *reason);

/* Takes it (NULL is accepted); ends the socket now, or within `linger_ms` when something is queued. After
 * the closing handshake it has close_ms at least, so that the peer sees our close frame. */
void znl_ws_drop(znl_ws *ws, uint32_t linger_ms);

int znl_ws_is_open(const znl_ws *ws);
size_t znl_ws_queued(const znl_ws *ws);
/* Stops reading, and goes on. Meanwhile neither pings nor the end of the connection are seen. */
void znl_ws_pause(znl_ws *ws, int on);
const char *znl_ws_peer(const znl_ws *ws);

#endif
