/* tls.h - what a side of TLS knows: certificate, key, whom it trusts. OpenSSL reads and writes memory, so
 * that the sockets stay with stream.c. TLS 1.2 and 1.3; no renegotiation, no resumption.
 *
 * Layer: transport. Everything here belongs to the loop thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_TLS_H
#define ZNL_TRANSPORT_TLS_H

#include <stddef.h>

typedef struct znl_tls znl_tls;

typedef struct znl_tls_options {
    int is_server;
    const char *certificate; /* file of a PEM chain; a server needs it; borrowed */
    const char *key;         /* file of the PEM key, without a password */
    const char *authorities; /* file of PEM certificates to trust; NULL: the system's */
    const char
            *server_name;  /* of the peer, to send and to check; NULL: the host connected to */
    int trusts_anyone;     /* client: whatever certificate the server shows, for tests */
    int wants_certificate; /* server: clients must show one that `authorities` vouch for */
} znl_tls_options;

/* Reads the files; returns what was made of them, owned, with one reference. On failure `text` (size
 * bytes) says why: no such file, a key that does not match, … 0, ZNL_E_INVALID, ZNL_E_NOMEM. */
int znl_tls_new(znl_tls **out, const znl_tls_options *options, char *text, size_t size);
void znl_tls_hold(const znl_tls *tls);
void znl_tls_release(const znl_tls *tls); /* NULL is accepted */

int znl_tls_is_server(const znl_tls *tls);

#endif
