/* hash.c - the backend in use, and HMAC on top of it. SPDX-License-Identifier: MIT */
#include "security/hash.h"

#include <sodium.h>
#include <string.h>

#define BLOCK_BYTES 64u

#ifdef ZNL_HASH_SODIUM
static const znl_hash_backend *backend = &znl_hash_sodium;
#else
static const znl_hash_backend *backend = &znl_hash_crypto;
#endif

const znl_hash_backend *znl_hash_backend_get(void)
{
    return backend;
}

void znl_hash_backend_set(const znl_hash_backend *other)
{
    backend = other;
}

/* RFC 2104: a secret longer than a block is replaced by its hash. */
void znl_hmac_key_init(znl_hmac_key *key, const uint8_t *secret, size_t size)
{
    uint8_t block[BLOCK_BYTES] = {0};
    if (size > sizeof block) {
        znl_sha256 hash;
        backend->init(&hash);
        backend->update(&hash, secret, size);
        backend->final(&hash, block);
        sodium_memzero(&hash, sizeof hash);
    } else if (size > 0) {
        memcpy(block, secret, size);
    }
    memset(key, 0, sizeof *key);
    for (size_t i = 0; i < sizeof block; i++)
        block[i] ^= 0x36;
    backend->init(&key->inner);
    backend->update(&key->inner, block, sizeof block);
    for (size_t i = 0; i < sizeof block; i++)
        block[i] ^= 0x36 ^ 0x5c;
    backend->init(&key->outer);
    backend->update(&key->outer, block, sizeof block);
    sodium_memzero(block, sizeof block);
}

void znl_hmac_begin(const znl_hmac_key *key, const void *bytes, size_t size, znl_sha256 *begun)
{
    *begun = key->inner;
    backend->update(begun, bytes, size);
}

void znl_hmac_go_on(const znl_hmac_key *key, const znl_sha256 *begun, const void *bytes,
        size_t size, uint8_t out[ZNL_SHA256_BYTES])
{
    znl_sha256 hash = *begun;
    backend->update(&hash, bytes, size);
    backend->final(&hash, out);
    hash = key->outer;
    backend->update(&hash, out, ZNL_SHA256_BYTES);
    backend->final(&hash, out);
    sodium_memzero(&hash, sizeof hash);
}

void znl_hmac(
        const znl_hmac_key *key, const void *bytes, size_t size, uint8_t out[ZNL_SHA256_BYTES])
{
    znl_hmac_go_on(key, &key->inner, bytes, size, out);
}
