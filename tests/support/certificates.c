/* certificates.c - see certificates.h. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support/certificates.h"

#define NAMES "DNS:localhost,IP:127.0.0.1,IP:::1"

typedef struct pair {
    EVP_PKEY *key;
    X509 *certificate;
} pair;

static void extend(X509 *certificate, X509 *issuer, int kind, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* Signed by `issuer`; by itself when that is NULL. */
static pair make(const char *name, const char *names, int is_authority, const pair *issuer)
{
    static long serial = 1;
    pair made = {EVP_EC_gen("P-256"), X509_new()};
    assert_non_null(made.key);
    assert_non_null(made.certificate);
    X509_set_version(made.certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.certificate), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(made.certificate), 86400);
    X509_set_pubkey(made.certificate, made.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made.certificate), "CN", MBSTRING_ASC,
            (const unsigned char *)name, -1, -1, 0);
    X509 *signer = issuer != NULL ? issuer->certificate : made.certificate;
    X509_set_issuer_name(made.certificate, X509_get_subject_name(signer));
    extend(made.certificate, signer, NID_basic_constraints,
            is_authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (names != NULL)
        extend(made.certificate, signer, NID_subject_alt_name, names);
    assert_true(X509_sign(made.certificate, issuer != NULL ? issuer->key : made.key,
                        EVP_sha256()) > 0);
    return made;
}

static void write_certificate(
        const certificates *made, char file[96], const char *name, X509 *it)
{
    snprintf(file, 96, "%s/%s", made->folder, name);
    FILE *stream = fopen(file, "w");
    assert_non_null(stream);
    assert_int_equal(PEM_write_X509(stream, it), 1);
    fclose(stream);
}

static void write_key(const certificates *made, char file[96], const char *name, EVP_PKEY *key,
        const char *password)
{
    snprintf(file, 96, "%s/%s", made->folder, name);
    FILE *stream = fopen(file, "w");
    assert_non_null(stream);
    assert_int_equal(
            PEM_write_PrivateKey(stream, key, password != NULL ? EVP_aes_128_cbc() : NULL, NULL,
                    0, NULL, (void *)(uintptr_t)password),
            1);
    fclose(stream);
}

static void discard(pair it)
{
    EVP_PKEY_free(it.key);
    X509_free(it.certificate);
}

void certificates_make(certificates *made)
{
    snprintf(made->folder, sizeof made->folder, "/tmp/znl-tls-XXXXXX");
    assert_non_null(mkdtemp(made->folder));
    pair authority = make("authority", NULL, 1, NULL);
    pair server = make("server", NAMES, 0, &authority);
    pair client = make("client", NULL, 0, &authority);
    pair stranger = make("stranger", NAMES, 0, NULL);
    write_certificate(made, made->authority, "authority", authority.certificate);
    write_certificate(made, made->server, "server", server.certificate);
    write_certificate(made, made->client, "client", client.certificate);
    write_certificate(made, made->stranger, "stranger", stranger.certificate);
    write_key(made, made->server_key, "server_key", server.key, NULL);
    write_key(made, made->client_key, "client_key", client.key, NULL);
    write_key(made, made->stranger_key, "stranger_key", stranger.key, NULL);
    write_key(made, made->locked_key, "locked_key", server.key, "password");
    discard(authority);
    discard(server);
    discard(client);
    discard(stranger);
}

void certificates_remove(const certificates *made)
{
    const char *const files[] = {made->authority, made->server, made->server_key, made->client,
            made->client_key, made->stranger, made->stranger_key, made->locked_key};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        unlink(files[i]);
    rmdir(made->folder);
}
