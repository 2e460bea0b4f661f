/* keys.h - derives, holds and wipes the two keys behind one configured secret.
 *
 * Spec, section 5: HKDF-SHA256 (RFC 5869) of the secret's bytes under a salt, once for signing and
 * once for sealing. Keys live in locked, guarded memory of libsodium, many to a block, are shared
 * by count, and are wiped when the last holder releases them.
 *
 * Any thread may derive; what it derived belongs to that thread alone. Layer: security. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_KEYS_H
#define ZNL_SECURITY_KEYS_H

#include "base/bytes.h"
#include "security/aead.h"
#include "security/hash.h"

/* How every proof of our own begins, and of the originals too: one block of the hash (proof.c). */
#define ZNL_PROOF_HEADER "eyJhbGciOiJIUzI1NiIsInR5cCI6IlpOTC1BVVRILVBST09GIiwidiI6MX0"
#define ZNL_PROOF_BEGINNING ZNL_PROOF_HEADER ".eyJr"

typedef struct znl_keys {
    znl_hmac_key sign;
    znl_sha256 begun; /* `sign` after ZNL_PROOF_BEGINNING */
    znl_aead_key seal;
    uint8_t sign_raw[32];
    unsigned holders;
    void *block; /* the locked block this lies in; for keys.c only */
} znl_keys;

/* Derives. An empty salt means the default salt. The caller holds the result and releases it.
 * ZNL_E_INVALID for an empty secret, ZNL_E_TOO_BIG past ZNL_SECRET_BYTES_MAX, ZNL_E_NOMEM. */
int znl_keys_derive(znl_keys **out, znl_frame secret, znl_frame salt);

znl_keys *znl_keys_hold(znl_keys *keys);

/* Gives one count back; wipes and frees at zero. Accepts NULL. */
void znl_keys_release(znl_keys *keys);

/* Blocks of locked memory in use: for leak checks. */
size_t znl_keys_blocks(void);

/* Both derived keys as bytes; for vectors and for znl.core.crypto. */
void znl_keys_export(const znl_keys *keys, uint8_t sign[32], uint8_t seal[32]);

#endif
