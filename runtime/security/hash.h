/* hash.h - SHA-256 and HMAC-SHA256, by libcrypto (which uses the CPU's SHA instructions) or, where
 * the build has no libcrypto, by libsodium.
 *
 * One file per backend: hash_crypto.c, hash_sodium.c; both can be compiled into the tests.
 * Layer: security. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_HASH_H
#define ZNL_SECURITY_HASH_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_SHA256_BYTES 32u

/* Room for either backend's state; wiped by whoever holds it. */
typedef struct znl_sha256 {
    _Alignas(16) uint8_t state[128];
} znl_sha256;

/* The states after the inner and the outer key block: an HMAC then costs no key set-up. */
typedef struct znl_hmac_key {
    znl_sha256 inner;
    znl_sha256 outer;
} znl_hmac_key;

typedef struct znl_hash_backend {
    const char *name; /* "libcrypto", "libsodium" */
    void (*init)(znl_sha256 *hash);
    void (*update)(znl_sha256 *hash, const void *bytes, size_t size);
    void (*final)(znl_sha256 *hash, uint8_t out[ZNL_SHA256_BYTES]);
} znl_hash_backend;

extern const znl_hash_backend znl_hash_crypto; /* absent when built without libcrypto hashes */
extern const znl_hash_backend znl_hash_sodium;

/* The backend in use: chosen at build time; the tests switch it. Never NULL. States and keys made
 * with one backend mean nothing to another. */
const znl_hash_backend *znl_hash_backend_get(void);
void znl_hash_backend_set(const znl_hash_backend *backend);

void znl_hmac_key_init(znl_hmac_key *key, const uint8_t *secret, size_t size);
void znl_hmac(
        const znl_hmac_key *key, const void *bytes, size_t size, uint8_t out[ZNL_SHA256_BYTES]);

/* For texts that all begin with the same bytes: these are taken in once, and each text goes on. */
void znl_hmac_begin(const znl_hmac_key *key, const void *bytes, size_t size, znl_sha256 *begun);
void znl_hmac_go_on(const znl_hmac_key *key, const znl_sha256 *begun, const void *bytes,
        size_t size, uint8_t out[ZNL_SHA256_BYTES]);

#endif
