/* aead.h - AES-256-GCM with a 12-byte iv and a 16-byte tag.
 *
 * libsodium for messages below ZNL_AEAD_SMALL_BYTES where the CPU has AES instructions (its key
 * schedule is kept per key), libcrypto above and everywhere else.
 *
 * Layer: security. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_AEAD_H
#define ZNL_SECURITY_AEAD_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_AEAD_KEY_BYTES 32u
#define ZNL_AEAD_IV_BYTES 12u
#define ZNL_AEAD_TAG_BYTES 16u
#define ZNL_AEAD_SMALL_BYTES 512u

/* One key made ready. Lives in the memory of znl_keys and is wiped with it. */
typedef struct znl_aead_key {
    _Alignas(16) uint8_t schedule[512];
    uint8_t raw[ZNL_AEAD_KEY_BYTES];
    uint64_t serial;  /* never used twice in a process */
    int has_schedule; /* libsodium's key schedule is there */
} znl_aead_key;

typedef enum znl_aead_backend {
    ZNL_AEAD_AUTO,
    ZNL_AEAD_SODIUM,
    ZNL_AEAD_CRYPTO
} znl_aead_backend;

/* Forces a backend (tests). ZNL_E_NOT_FOUND when this CPU or build does not have it. */
int znl_aead_backend_set(znl_aead_backend backend);

/* znl_random_start() must have run before. */
void znl_aead_key_init(znl_aead_key *key, const uint8_t raw[ZNL_AEAD_KEY_BYTES]);

/* Wipes the key, and what the libcrypto backend keeps of it for this thread. */
void znl_aead_key_fini(znl_aead_key *key);

/* Seals `size` bytes of `plain` to `cipher_text` (may be the same memory). 0 or ZNL_E_NOMEM. */
int znl_aead_seal(const znl_aead_key *key, const uint8_t iv[ZNL_AEAD_IV_BYTES],
        const uint8_t *aad, size_t aad_size, const uint8_t *plain, size_t size,
        uint8_t *cipher_text, uint8_t tag[ZNL_AEAD_TAG_BYTES]);

/* Opens; `plain` is wiped when the tag does not match. 0, ZNL_E_OPEN or ZNL_E_NOMEM. */
int znl_aead_open(const znl_aead_key *key, const uint8_t iv[ZNL_AEAD_IV_BYTES],
        const uint8_t *aad, size_t aad_size, const uint8_t *cipher_text, size_t size,
        const uint8_t tag[ZNL_AEAD_TAG_BYTES], uint8_t *plain);

/* Frees and wipes what the libcrypto backend keeps for this thread. */
void znl_aead_thread_end(void);

#endif
