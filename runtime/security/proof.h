/* proof.h - signed claim of identity, kind, subject, timestamp, nonce and payload digest.
 *
 * Wire: codec/WIRE.md, "Proofs" (spec, sections 6 and 7).
 * Layer: security. No clock: the time is passed in. SPDX-License-Identifier: MIT */
#ifndef ZNL_SECURITY_PROOF_H
#define ZNL_SECURITY_PROOF_H

#include "base/limits.h"
#include "codec/claim.h"
#include "security/keys.h"

#define ZNL_NONCE_TEXT_BYTES 32u
#define ZNL_DIGEST_TEXT_BYTES 64u

/* SHA-256 over count and length-prefixed frames, as 64 lowercase hex digits. */
void znl_proof_digest(const znl_frame *frames, size_t count, char out[ZNL_DIGEST_TEXT_BYTES]);

/* Signs `claim` (all fields set by the caller) into `out`. Returns the size of the proof, or 0
 * when it does not fit: ZNL_PROOF_BYTES_MAX is always enough for names within their limits. */
size_t znl_proof_sign(
        const znl_keys *keys, const znl_claim *claim, uint8_t *out, size_t capacity);

/* Checks steps 2 to 8 of spec section 7 and decodes the claim; `scratch` (ZNL_PROOF_BYTES_MAX)
 * holds what the frames of `out` point to. Strict: hex and base64url only as senders produce them.
 * A skew of 0 means the default. 0, the ZNL_E_ reason of the first failed step, or ZNL_E_TOO_BIG
 * past ZNL_PROOF_BYTES_MAX. */
int znl_proof_decode(const znl_keys *keys, znl_frame proof, int64_t now_unix_ms,
        uint32_t max_skew_ms, uint8_t *scratch, znl_claim *out);

/* What a receiver expects of a decoded claim. */
typedef struct znl_expectation {
    znl_frame kind;           /* znl_kind_proof_name() */
    znl_frame subject;        /* znl_control_proof_subject() */
    znl_frame node_id;        /* size 0: any (a slave that has not pinned a master) */
    znl_frame own_id;         /* a claim with this id is a reflection: refused */
    const znl_frame *payload; /* as received */
    size_t payload_count;
    int require_digest; /* refuse an empty digest; one that is present is always verified */
} znl_expectation;

/* Steps 9 to 12, in the spec's order, with reflection refused as part of step 11. */
int znl_proof_expect(const znl_claim *claim, const znl_expectation *expected);

#endif
