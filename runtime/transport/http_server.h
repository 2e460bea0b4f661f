/* http_server.h - a listener that reads requests and hands each to whoever answers: a WebSocket, a page.
 *
 * One request of a connection at a time: what a peer sends ahead waits, and when that is as much as a
 * head and a body may be, it is not read any more.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_HTTP_SERVER_H
#define ZNL_TRANSPORT_HTTP_SERVER_H

#include "codec/http.h"
#include "transport/stream.h"

typedef struct znl_http_server znl_http_server;
typedef struct znl_http_exchange znl_http_exchange; /* one request that waits for its answer */

typedef struct znl_http_server_options {
    znl_listener_options listen;
    uint32_t head_ms; /* from connecting, or the first byte, to the whole request; 0: default */
    uint32_t idle_ms; /* between requests of one connection; 0: ZNL_HTTP_IDLE_MS_DEFAULT */
    size_t max_head_bytes; /* 0: ZNL_HTTP_HEAD_BYTES_DEFAULT */
    size_t max_body_bytes; /* 0: ZNL_HTTP_BODY_BYTES_DEFAULT */
} znl_http_server_options;

/* A whole request. Answer it now or later, exactly once: znl_http_respond() or znl_http_upgrade(); when
 * the peer goes meanwhile, or the server is closed, the exchange stays valid and the answer is dropped.
 * `head` and `body` are borrowed until this returns. The server may be closed in here.
 *
 * The server itself answers, and closes: 400 malformed (also: no Host, or two), 408 too slow, 413 the body
 * is too large, 417 an Expect it does not know, 431 the head is too large, 501 a body in chunks. */
typedef void (*znl_http_request_fn)(
        void *user, znl_http_exchange *exchange, const znl_http_head *head, znl_frame body);

/* Errors as of znl_listener_open(). */
int znl_http_server_open(znl_http_server **out, znl_loop *loop,
        const znl_http_server_options *options, znl_http_request_fn on_request, void *user);
/* Takes it (NULL is accepted): the listener and every connection that is not upgraded. */
void znl_http_server_close(znl_http_server *server);
uint16_t znl_http_server_port(const znl_http_server *server);

typedef struct znl_http_counters {
    uint64_t accepted, refused, malformed, timeouts,
            requests;     /* malformed: all but 408 above */
    uint32_t connections; /* now, upgraded ones not counted */
} znl_http_counters;
void znl_http_server_count(const znl_http_server *server, znl_http_counters *out);

/* `headers`: further lines "Name: value\r\n", or "", from a source that is trusted not to forge lines.
 * The answer has a Content-Length, and no body to a HEAD. */
void znl_http_respond(
        znl_http_exchange *exchange, int status, const char *headers, znl_frame body);

/* Ends the exchange with a 101 and gives its stream away, owned; with what came after the head (*rest,
 * borrowed until the caller returns, may be changed in place). Set the stream's events at once. NULL when
 * the peer has gone. */
znl_stream *znl_http_upgrade(znl_http_exchange *exchange, const char *headers, znl_frame *rest);

const char *znl_http_peer(const znl_http_exchange *exchange); /* "" when it has gone */

#endif
