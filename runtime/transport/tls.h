/* tls.h - what a side of TLS knows: certificate, key, whom it trusts. OpenSSL over memory BIOs, so that the
 * bytes stay with stream.c.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_TLS_H
#define ZNL_TRANSPORT_TLS_H

#include "base/bytes.h"

typedef struct znl_tls znl_tls;

typedef struct znl_tls_options {
    int is_server;
    const char *certificate; /* file of a PEM chain; a server needs it; borrowed */
    const char *key;         /* file of the PEM key */
    const char *authorities; /* file of PEM certificates to trust; NULL: the system's */
    const char
            *server_name; /* of the peer, to send and to check; NULL: the host connected to */
    int verify; /* client: check the server (the default); server: ask for a client certificate */
} znl_tls_options;

/* Returns a context, owned, with one reference. On failure `text` (size bytes) says why: no such file,
 * a key that does not match, … 0, ZNL_E_INVALID, ZNL_E_NOMEM. */
int znl_tls_new(znl_tls **out, const znl_tls_options *options, char *text, size_t size);
void znl_tls_hold(const znl_tls *tls);
void znl_tls_release(const znl_tls *tls); /* NULL is accepted */

#endif
