/* hash_crypto.c - SHA-256 by libcrypto. SPDX-License-Identifier: MIT */
#include "security/hash.h"

#ifndef ZNL_HASH_SODIUM

/* The low-level calls are deprecated in OpenSSL 3, but EVP allocates for every state copied,
 * and an HMAC copies two. SHA256_CTX is plain memory. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

_Static_assert(sizeof(SHA256_CTX) <= sizeof(znl_sha256), "znl_sha256 is too small");

static void init(znl_sha256 *hash)
{
    SHA256_Init((SHA256_CTX *)hash->state);
}

static void update(znl_sha256 *hash, const void *bytes, size_t size)
{
    if (size > 0)
        SHA256_Update((SHA256_CTX *)hash->state, bytes, size);
}

static void final(znl_sha256 *hash, uint8_t out[ZNL_SHA256_BYTES])
{
    SHA256_Final(out, (SHA256_CTX *)hash->state);
}

const znl_hash_backend znl_hash_crypto = {"libcrypto", init, update, final};

#endif
