/* tls_backend.h - what tls_session.c makes sessions of.
 *
 * Layer: transport. SPDX-License-Identifier: MIT */
#ifndef ZNL_TRANSPORT_TLS_BACKEND_H
#define ZNL_TRANSPORT_TLS_BACKEND_H

#include "transport/tls.h"

#include <openssl/ssl.h>

struct znl_tls {
    SSL_CTX *context;
    BIO_METHOD *memory; /* how a session reads and writes */
    char *server_name;  /* or NULL */
    int is_server;
    int trusts_anyone;
    unsigned users;
};

/* Made by tls_session.c; NULL: no memory. */
BIO_METHOD *znl_tls_session_memory(void);

/* What OpenSSL says about the last failure, and forgets. `fallback` when it says nothing. */
void znl_tls_explain(char *text, size_t size, const char *fallback);

#endif
