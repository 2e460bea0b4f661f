/* tls_session.c - see tls_session.h. OpenSSL's own memory BIOs would copy every byte once more and never
 * give memory back, so a BIO of ours reads what was fed and writes to a buffer.
 *
 * SPDX-License-Identifier: MIT */
#include "transport/tls_session.h"

#include "base/alloc.h"
#include "base/err.h"
#include "transport/tls_backend.h"

#include <arpa/inet.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#define HOST_BYTES_MAX 255u

struct znl_tls_session {
    SSL *ssl;
    const znl_tls *tls;
    znl_frame in; /* fed, not read yet; lies in `kept` when that holds something */
    znl_buffer kept;
    znl_buffer out;
    int is_broken;    /* OpenSSL allows nothing any more */
    int has_finished; /* said that nothing follows */
    int lacks_memory;
    char why[160];
};

/* --- the BIO ----------------------------------------------------------------------------------- */

static int memory_read(BIO *bio, char *data, int size)
{
    znl_tls_session *session = BIO_get_data(bio);
    size_t count = session->in.size;
    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    if (count > (size_t)size)
        count = (size_t)size;
    memcpy(data, session->in.data, count);
    session->in.data += count;
    session->in.size -= count;
    return (int)count;
}

static int memory_write(BIO *bio, const char *data, int size)
{
    znl_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (size <= 0)
        return 0;
    if (znl_buffer_append(&session->out, data, (size_t)size) != 0) {
        session->lacks_memory = 1;
        return -1;
    }
    return size;
}

static long memory_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

BIO_METHOD *znl_tls_session_memory(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "znl memory");
    if (method == NULL)
        return NULL;
    BIO_meth_set_read(method, memory_read);
    BIO_meth_set_write(method, memory_write);
    BIO_meth_set_ctrl(method, memory_control);
    return method;
}

/* --- life -------------------------------------------------------------------------------------- */

/* An address or a name, as it stands in certificates. 0 or ZNL_E_INVALID. */
static int expect_peer(znl_tls_session *session, const char *host)
{
    char name[HOST_BYTES_MAX + 1];
    uint8_t address[16];
    if (session->tls->server_name != NULL)
        host = session->tls->server_name;
    size_t size = strlen(host);
    if (size >= 2 && host[0] == '[' && host[size - 1] == ']') {
        host++;
        size -= 2;
    }
    if (size == 0 || size > HOST_BYTES_MAX)
        return ZNL_E_INVALID;
    memcpy(name, host, size);
    name[size] = '\0';
    int is_address = inet_pton(AF_INET, name, address) == 1 ||
            inet_pton(AF_INET6, name, address) == 1;
    if (is_address)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session->ssl), name) == 1
                ? 0
                : ZNL_E_INVALID;
    if (SSL_set_tlsext_host_name(session->ssl, name) != 1)
        return ZNL_E_INVALID;
    SSL_set_hostflags(session->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(session->ssl, name) == 1 ? 0 : ZNL_E_INVALID;
}

int znl_tls_session_new(znl_tls_session **out, const znl_tls *tls, const char *host)
{
    int err = ZNL_E_NOMEM;
    znl_tls_session *session = znl_calloc(1, sizeof *session);
    if (session == NULL)
        return ZNL_E_NOMEM;
    znl_tls_hold(tls);
    session->tls = tls;
    ERR_clear_error();
    session->ssl = SSL_new(tls->context);
    BIO *bio = session->ssl != NULL ? BIO_new(tls->memory) : NULL;
    if (bio == NULL)
        goto fail;
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio); /* takes it */
    if (tls->is_server) {
        SSL_set_accept_state(session->ssl);
    } else {
        SSL_set_connect_state(session->ssl);
        err = expect_peer(session, host);
        if (err != 0)
            goto fail;
    }
    *out = session;
    return 0;
fail:
    ERR_clear_error();
    znl_tls_session_free(session);
    return err;
}

void znl_tls_session_free(znl_tls_session *session)
{
    if (session == NULL)
        return;
    SSL_free(session->ssl);
    znl_buffer_fini(&session->kept);
    znl_buffer_fini(&session->out);
    znl_tls_release(session->tls);
    znl_free(session);
}

/* --- bytes of the socket ----------------------------------------------------------------------- */

int znl_tls_session_keep(znl_tls_session *session)
{
    znl_buffer *kept = &session->kept;
    if (session->in.size == 0) {
        znl_buffer_fini(kept);
        return 0;
    }
    if (kept->data == NULL) {
        int err = znl_buffer_append(kept, session->in.data, session->in.size);
        if (err != 0)
            return err;
    } else {
        memmove(kept->data, session->in.data, session->in.size);
        kept->size = session->in.size;
    }
    session->in.data = kept->data;
    return 0;
}

int znl_tls_session_feed(znl_tls_session *session, const void *data, size_t size)
{
    if (session->in.size == 0) {
        znl_buffer_fini(&session->kept);
        session->in = znl_frame_of(data, size);
        return 0;
    }
    int err = znl_tls_session_keep(session);
    if (err == 0)
        err = znl_buffer_append(&session->kept, data, size);
    session->in = znl_frame_of(session->kept.data, session->kept.size);
    return err;
}

znl_buffer *znl_tls_session_out(znl_tls_session *session)
{
    return &session->out;
}

/* --- TLS --------------------------------------------------------------------------------------- */

const char *znl_tls_session_why(const znl_tls_session *session)
{
    return session->why;
}

/* What a call of OpenSSL that did not succeed means. */
static int judge(znl_tls_session *session, int rc)
{
    int kind = SSL_get_error(session->ssl, rc);
    if (session->lacks_memory) {
        session->is_broken = 1;
        snprintf(session->why, sizeof session->why, "%s", znl_err_text(ZNL_E_NOMEM));
        ERR_clear_error();
        return ZNL_E_NOMEM;
    }
    if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
        return ZNL_E_BUSY;
    if (kind == SSL_ERROR_ZERO_RETURN)
        return ZNL_E_CLOSED;
    long verdict = SSL_get_verify_result(session->ssl);
    session->is_broken = 1;
    znl_tls_explain(session->why, sizeof session->why, "TLS failed");
    size_t used = strlen(session->why);
    if (verdict != X509_V_OK && !session->tls->trusts_anyone)
        snprintf(session->why + used, sizeof session->why - used, ": %s",
                X509_verify_cert_error_string(verdict));
    return ZNL_E_PROTO;
}

int znl_tls_session_shake(znl_tls_session *session)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(session->ssl);
    return rc == 1 ? 0 : judge(session, rc);
}

int znl_tls_session_read(znl_tls_session *session, uint8_t *data, size_t capacity, size_t *size)
{
    ERR_clear_error();
    int rc = SSL_read_ex(session->ssl, data, capacity, size);
    return rc == 1 ? 0 : judge(session, rc);
}

int znl_tls_session_write(znl_tls_session *session, const uint8_t *data, size_t size)
{
    while (size > 0) {
        size_t count;
        ERR_clear_error();
        int rc = SSL_write_ex(session->ssl, data, size, &count);
        if (rc != 1)
            return judge(session, rc);
        data += count;
        size -= count;
    }
    return 0;
}

void znl_tls_session_finish(znl_tls_session *session)
{
    if (session->is_broken || session->has_finished)
        return;
    session->has_finished = 1;
    ERR_clear_error();
    SSL_shutdown(session->ssl); /* the peer's answer is not waited for */
    ERR_clear_error();
}
