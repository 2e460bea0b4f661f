/* tls.c - see tls.h. SPDX-License-Identifier: MIT */
#include "transport/tls_backend.h"

#include "base/alloc.h"
#include "base/err.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void znl_tls_explain(char *text, size_t size, const char *fallback)
{
    unsigned long code = ERR_peek_error(); /* the first is the cause */
    const char *reason = code != 0 && !ERR_SYSTEM_ERROR(code) ? ERR_reason_error_string(code)
                                                              : NULL;
    snprintf(text, size, "%s", reason != NULL ? reason : fallback);
    ERR_clear_error();
}

/* A key with a password would have OpenSSL ask for it on the terminal. */
static int no_password(char *password, int size, int is_writing, void *user)
{
    (void)password;
    (void)size;
    (void)is_writing;
    (void)user;
    return -1;
}

/* --- files ------------------------------------------------------------------------------------- */

/* ZNL_E_INVALID with a text, for what OpenSSL has against a file. */
static int blame(const char *file, char *text, size_t size)
{
    char why[128];
    znl_tls_explain(why, sizeof why, "cannot be used");
    snprintf(text, size, "%s: %s", file, why);
    return ZNL_E_INVALID;
}

/* OpenSSL's own words for a file that is missing name no file. */
static int check_file(const char *file, char *text, size_t size)
{
    FILE *stream = fopen(file, "re");
    if (stream == NULL) {
        snprintf(text, size, "%s: %s", file, strerror(errno));
        return ZNL_E_INVALID;
    }
    fclose(stream);
    return 0;
}

static int load_own(SSL_CTX *context, const znl_tls_options *options, char *text, size_t size)
{
    int err = check_file(options->certificate, text, size);
    if (err == 0)
        err = check_file(options->key, text, size);
    if (err != 0)
        return err;
    if (SSL_CTX_use_certificate_chain_file(context, options->certificate) != 1)
        return blame(options->certificate, text, size);
    if (SSL_CTX_use_PrivateKey_file(context, options->key, SSL_FILETYPE_PEM) != 1 ||
            SSL_CTX_check_private_key(context) != 1)
        return blame(options->key, text, size);
    return 0;
}

static int load_authorities(
        SSL_CTX *context, const znl_tls_options *options, char *text, size_t size)
{
    if (options->authorities == NULL) {
        if (SSL_CTX_set_default_verify_paths(context) != 1)
            return blame("the system's authorities", text, size);
        return 0;
    }
    int err = check_file(options->authorities, text, size);
    if (err != 0)
        return err;
    if (SSL_CTX_load_verify_file(context, options->authorities) != 1)
        return blame(options->authorities, text, size);
    if (options->is_server) { /* tells clients which certificates will do */
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(options->authorities);
        if (names == NULL)
            return blame(options->authorities, text, size);
        SSL_CTX_set_client_CA_list(context, names);
    }
    return 0;
}

/* --- life -------------------------------------------------------------------------------------- */

static void discard(znl_tls *tls)
{
    SSL_CTX_free(tls->context);
    BIO_meth_free(tls->memory);
    znl_free(tls->server_name);
    znl_free(tls);
}

/* Options that fit together: 0, or ZNL_E_INVALID with a text. */
static int check(const znl_tls_options *options, char *text, size_t size)
{
    const char *why = NULL;
    if ((options->certificate == NULL) != (options->key == NULL))
        why = "a certificate and its key come together";
    else if (options->is_server && options->certificate == NULL)
        why = "a server needs a certificate and its key";
    else if (options->is_server && options->wants_certificate && options->authorities == NULL)
        why = "authorities are needed to check the certificates of clients";
    if (why == NULL)
        return 0;
    snprintf(text, size, "%s", why);
    return ZNL_E_INVALID;
}

static int configure(znl_tls *tls, const znl_tls_options *options, char *text, size_t size)
{
    SSL_CTX *context = tls->context;
    int checks_peer = options->is_server ? options->wants_certificate : !options->trusts_anyone;
    int err = 0;
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_options(
            context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context,
            SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                    SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(context, no_password);
    if (options->certificate != NULL)
        err = load_own(context, options, text, size);
    if (err == 0 && checks_peer) {
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        err = load_authorities(context, options, text, size);
    }
    return err;
}

int znl_tls_new(znl_tls **out, const znl_tls_options *options, char *text, size_t size)
{
    int err = check(options, text, size);
    if (err != 0)
        return err;
    snprintf(text, size, "%s", znl_err_text(ZNL_E_NOMEM));
    znl_tls *tls = znl_calloc(1, sizeof *tls);
    if (tls == NULL)
        return ZNL_E_NOMEM;
    ERR_clear_error();
    tls->users = 1;
    tls->is_server = options->is_server != 0;
    tls->trusts_anyone = options->trusts_anyone != 0;
    tls->context = SSL_CTX_new(options->is_server ? TLS_server_method() : TLS_client_method());
    tls->memory = znl_tls_session_memory();
    err = ZNL_E_NOMEM;
    if (tls->context == NULL || tls->memory == NULL)
        goto fail;
    if (options->server_name != NULL) {
        size_t length = strlen(options->server_name) + 1;
        tls->server_name = znl_malloc(length);
        if (tls->server_name == NULL)
            goto fail;
        memcpy(tls->server_name, options->server_name, length);
    }
    err = configure(tls, options, text, size);
    if (err != 0)
        goto fail;
    *out = tls;
    return 0;
fail:
    ERR_clear_error();
    discard(tls);
    return err;
}

/* The count changes while everything else is constant. */
static znl_tls *counted(const znl_tls *tls)
{
    return (znl_tls *)(uintptr_t)tls;
}

void znl_tls_hold(const znl_tls *tls)
{
    counted(tls)->users++;
}

void znl_tls_release(const znl_tls *tls)
{
    if (tls != NULL && --counted(tls)->users == 0)
        discard(counted(tls));
}

int znl_tls_is_server(const znl_tls *tls)
{
    return tls->is_server;
}
