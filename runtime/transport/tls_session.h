/* tls_session.h - one connection's side of TLS: bytes of the socket in and out, bytes of the application
 * out and in. It knows no socket.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_TLS_SESSION_H
#define ZNL_TRANSPORT_TLS_SESSION_H

#include "base/bytes.h"
#include "transport/tls.h"

#define ZNL_TLS_RECORD_BYTES 16384u /* of plain text in one record, at most */

typedef struct znl_tls_session znl_tls_session;

/* `host`: what a client connects to. Holds `tls`. 0 or ZNL_E_NOMEM, ZNL_E_INVALID (a host that cannot be
 * checked). */
int znl_tls_session_new(znl_tls_session **out, const znl_tls *tls, const char *host);
void znl_tls_session_free(znl_tls_session *session); /* NULL is accepted */

/* Bytes of the socket, borrowed until they are read: before that, call znl_tls_session_keep(), which copies
 * what is left. 0 or ZNL_E_NOMEM, then nothing was fed. */
int znl_tls_session_feed(znl_tls_session *session, const void *data, size_t size);
int znl_tls_session_keep(znl_tls_session *session);

/* The functions below may leave bytes for the socket in znl_tls_session_out(), also when they fail.
 * ZNL_E_BUSY: more must be fed. ZNL_E_PROTO, ZNL_E_NOMEM: it is over, znl_tls_session_why() says why. */

/* 0 once hands are shaken. */
int znl_tls_session_shake(znl_tls_session *session);

/* Reads at most one record; `capacity` is at least ZNL_TLS_RECORD_BYTES. ZNL_E_CLOSED: the peer says that
 * nothing follows. */
int znl_tls_session_read(
        znl_tls_session *session, uint8_t *data, size_t capacity, size_t *size);

/* Writes all of it. */
int znl_tls_session_write(znl_tls_session *session, const uint8_t *data, size_t size);

/* Says that nothing follows. */
void znl_tls_session_finish(znl_tls_session *session);

/* What is for the socket. The caller takes from it, and may exchange it for an empty buffer. */
znl_buffer *znl_tls_session_out(znl_tls_session *session);

const char *znl_tls_session_why(const znl_tls_session *session);

#endif
