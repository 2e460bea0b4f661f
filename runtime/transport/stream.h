/* stream.h - bytes over TCP or a unix socket, in plain or under TLS: what HTTP, WebSocket and packet links stand on.
 *
 *   connecting -> open -> ended -> closed
 *
 * What is written in one turn of the loop leaves together, before the loop waits; in plain, a long turn offers every
 * 4 KiB (`early_bytes`), or every 16 larger pieces, to the system as it goes. Events come from the loop, never from
 * inside a call; none comes after znl_stream_close(), nor after on_end. One stream gives on_data at most 64 KiB before
 * others have their turn.
 *
 * The program must ignore SIGPIPE.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_STREAM_H
#define ZNL_TRANSPORT_STREAM_H

#include "base/bytes.h"
#include "transport/loop.h"
#include "transport/tls.h"

typedef struct znl_stream znl_stream;

typedef struct znl_stream_events {
    /* Connected, and with TLS the hands are shaken. Not for accepted streams in plain: they are open. */
    void (*on_open)(void *user);
    /* Bytes arrived: borrowed until it returns, and may be changed in place. It may close the stream. */
    void (*on_data)(void *user, uint8_t *data, size_t size);
    /* Plain streams: where the next bytes are to be read to, and how many at most, so that they need not be moved there;
     * on_data tells. The place stays until then, or until the stream is closed. False: no matter where. NULL: never
     * asked. */
    int (*on_room)(void *user, uint8_t **at, size_t *size);
    /* Asked for by znl_stream_await(), or by a write that found the queue full: then it comes when the queue
     * is down to half of its limit. NULL: not wanted. */
    void (*on_writable)(void *user);
    /* The last event: 0 the peer ended it in order, and may still read; otherwise why: TIMEOUT,
     * UNREACHABLE (refused, no such host), GONE (reset), LIMIT (descriptors), PROTO (TLS), NOMEM,
     * SYSTEM; `text` says it for people, borrowed. The stream is still to be closed. */
    void (*on_end)(void *user, int err, const char *text);
} znl_stream_events;

typedef struct znl_stream_options {
    /* Name or address to connect to; IPv6 with or without brackets; borrowed. Beside a path only the
     * name that the certificate must be for; NULL: "localhost". */
    const char *host;
    uint16_t port;
    const char *path;    /* of a unix socket, instead of host and port; borrowed; NULL: none */
    const znl_tls *tls;  /* NULL: plain; held while the stream lives */
    uint32_t timeout_ms; /* name, connection and TLS together; 0: ZNL_CONNECT_MS_DEFAULT */
    size_t max_queue_bytes; /* 0: ZNL_STREAM_QUEUE_BYTES_DEFAULT */
    /* Offered as they are written in a long turn; 0: 4 KiB. More saves work of both ends, fewer lets the peer begin
     * earlier. */
    uint32_t early_bytes;
} znl_stream_options;

/* Returns a stream that connects, owned; on_open or on_end follows. Every address of the name is tried.
 * 0, ZNL_E_NOMEM, ZNL_E_INVALID, ZNL_E_ADDRESS (the path is empty or too long). */
int znl_stream_connect(znl_stream **out, znl_loop *loop, const znl_stream_options *options,
        const znl_stream_events *events, void *user);

/* Goes on under TLS, as the protocol of the peers agreed in plain: on_open comes again, or on_end. `host` as in the
 * options. The stream is open, in plain, and nothing is queued; whoever calls has read all that came in plain. 0,
 * ZNL_E_NOMEM, ZNL_E_INVALID. */
int znl_stream_start_tls(
        znl_stream *stream, const znl_tls *tls, const char *host, uint32_t timeout_ms);

/* Takes `stream` (NULL is accepted). With `linger_ms` what is queued has that long to leave and the peer
 * to end its side, so that nothing is lost by a reset; 0: what is queued is lost. */
void znl_stream_close(znl_stream *stream, uint32_t linger_ms);

/* Room for `size` bytes at the end of the queue through *at, to be filled at once and committed (fewer is
 * fine). 0, ZNL_E_BUSY (the queue is full: on_writable will come), ZNL_E_CLOSED (the peer is not there
 * any more), ZNL_E_NOMEM. An empty queue takes any size. What is written before the stream is open waits. */
int znl_stream_reserve(znl_stream *stream, size_t size, uint8_t **at);
void znl_stream_commit(znl_stream *stream, size_t size);

/* Copies. Errors as of znl_stream_reserve(). */
int znl_stream_write(znl_stream *stream, const void *data, size_t size);

/* Writes all pieces, one behind the other: large ones without a copy, as far as the system takes them at once. Errors
 * as of znl_stream_reserve(). */
int znl_stream_write_pieces(znl_stream *stream, const znl_frame *pieces, size_t count);

size_t znl_stream_queued(const znl_stream *stream); /* bytes not yet handed to the system */

/* on_writable comes once, when at most `below` bytes are queued, also if that is so already. Asked for again
 * before it came: once, for the fewest bytes. */
void znl_stream_await(znl_stream *stream, size_t below);

/* Stops reading, and goes on: the peer's window closes meanwhile. The end of the stream is not seen
 * while it is on, but a write that fails ends it. */
void znl_stream_pause(znl_stream *stream, int on);

/* The same for whoever goes on by itself, soon: a write that fails leaves what has come to be read first. */
void znl_stream_rest(znl_stream *stream, int on);

/* Replaces who hears the events: an upgrade of the protocol. `events` is borrowed for good. */
void znl_stream_set_events(znl_stream *stream, const znl_stream_events *events, void *user);

/* "127.0.0.1:9000", "[::1]:9000", "unix:<path>" on both sides; valid as long as the stream. Empty before
 * it is open, unless it is a path. */
const char *znl_stream_peer(const znl_stream *stream);

/* --- listening ---------------------------------------------------------------------------------- */

typedef struct znl_listener znl_listener;

typedef struct znl_listener_options {
    /* A connection was closed at once: ZNL_E_LIMIT (no descriptor left, or beyond max_connections), ZNL_E_NOMEM. May
     * close the listener. NULL: only counted. */
    void (*on_refused)(void *user, int err);
    const char *host; /* address to bind; "localhost"; NULL or "*": all interfaces; borrowed */
    uint16_t port;    /* 0: the system chooses */
    /* Of a unix socket, instead of host and port; borrowed; NULL: none. Owned as socket_path.h says: a
     * socket there that nobody listens on is replaced, and it is removed at the close. */
    const char *path;
    uint32_t mode;      /* of that file, up to 0777; 0: ZNL_SOCKET_MODE_DEFAULT */
    const znl_tls *tls; /* NULL: plain; held */
    uint32_t
            max_connections; /* beyond it connections are closed at once and counted; 0: the default */
    uint32_t handshake_ms;  /* TLS; 0: ZNL_HANDSHAKE_MS_DEFAULT */
    size_t max_queue_bytes; /* of each stream; 0: the default */
} znl_listener_options;

/* Gives a stream away: `on_accept` owns it and sets its events (or closes it) before it returns. Plain
 * streams are open; under TLS on_open follows, or on_end. */
typedef void (*znl_accept_fn)(void *user, znl_stream *stream);

/* 0, ZNL_E_ADDRESS_IN_USE, ZNL_E_ADDRESS, ZNL_E_INVALID (the mode), ZNL_E_NOMEM, ZNL_E_LIMIT
 * (descriptors), ZNL_E_SYSTEM. */
int znl_listener_open(znl_listener **out, znl_loop *loop, const znl_listener_options *options,
        znl_accept_fn on_accept, void *user);

/* Takes it (NULL is accepted); accepted streams live on. The port or path is free when this returns. */
void znl_listener_close(znl_listener *listener);

/* 0: a unix socket. */
uint16_t znl_listener_port(const znl_listener *listener);
uint64_t znl_listener_accepted(const znl_listener *listener);
/* Closed at once: beyond max_connections, without descriptors or memory. */
uint64_t znl_listener_refused(const znl_listener *listener);

#endif
