/* hash_sodium.c - SHA-256 by libsodium. SPDX-License-Identifier: MIT */
#include "security/hash.h"

#include <sodium.h>

_Static_assert(
        sizeof(crypto_hash_sha256_state) <= sizeof(znl_sha256), "znl_sha256 is too small");

static void init(znl_sha256 *hash)
{
    crypto_hash_sha256_init((crypto_hash_sha256_state *)hash->state);
}

static void update(znl_sha256 *hash, const void *bytes, size_t size)
{
    if (size > 0)
        crypto_hash_sha256_update((crypto_hash_sha256_state *)hash->state, bytes, size);
}

static void final(znl_sha256 *hash, uint8_t out[ZNL_SHA256_BYTES])
{
    crypto_hash_sha256_final((crypto_hash_sha256_state *)hash->state, out);
}

const znl_hash_backend znl_hash_sodium = {"libsodium", init, update, final};
