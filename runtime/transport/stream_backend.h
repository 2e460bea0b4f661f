/* stream_backend.h - what listener.c makes streams of.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_STREAM_BACKEND_H
#define ZNL_TRANSPORT_STREAM_BACKEND_H

#include "transport/stream.h"

#include <sys/socket.h>

/* The streams that count as open at one listener, which they may outlive. */
typedef struct znl_stream_gate {
    size_t users; /* the listener and each stream */
    size_t open;
} znl_stream_gate;

void znl_stream_gate_release(znl_stream_gate *gate);

typedef struct znl_stream_adoption {
    int fd;                      /* connected, not blocking; taken on success */
    const struct sockaddr *peer; /* of a unix socket: its own address, the peer has none */
    const znl_tls *tls;
    uint32_t handshake_ms;
    size_t max_queue_bytes;
    znl_stream_gate *gate;
} znl_stream_adoption;

/* Makes a stream of an accepted socket, with no events yet. 0, ZNL_E_NOMEM, ZNL_E_SYSTEM. */
int znl_stream_adopt(znl_stream **out, znl_loop *loop, const znl_stream_adoption *adoption);

/* Sets what every connected socket of ours has: no delay, keep-alive. An accepted one inherits it. */
void znl_stream_tune(int fd);

/* "127.0.0.1:9000", "[::1]:9000", "unix:/run/a.sock"; IPv4 inside IPv6 as IPv4. */
void znl_stream_name(const struct sockaddr *address, char *text, size_t size);

#endif
