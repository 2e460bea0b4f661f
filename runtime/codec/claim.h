/* claim.h - the JSON inside a proof: who says what, when.
 *
 * Wire: WIRE.md, "Proofs" (spec, section 6). Written by hand into the caller's buffer; read by a
 * small strict JSON reader that takes any key order, white space and unknown fields.
 *
 * Layer: codec. Pure functions: no I/O, no clock, no Lua, no allocation. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_CLAIM_H
#define ZNL_CODEC_CLAIM_H

#include "base/bytes.h"

typedef struct znl_claim {
    znl_frame kind;
    znl_frame node_id;
    znl_frame subject; /* "requestId" */
    int64_t timestamp_ms;
    znl_frame nonce;
    znl_frame digest; /* "payloadDigest": 64 hex digits, or empty */
} znl_claim;

/* Writes the compact JSON in the exact form of the spec. Returns its size, or 0 when it does not
 * fit `capacity`. */
size_t znl_claim_write(const znl_claim *claim, uint8_t *out, size_t capacity);

/* Reads a claim. `json` is decoded in place: strings with escapes are rewritten inside it, and the
 * frames of `out` point into it. Fields that are absent come out empty, a timestamp as 0.
 * So does everything when the JSON is no object, and a kind, node id, nonce or timestamp of the
 * wrong type: the checks after this refuse it by name, as the original peers do.
 * ZNL_E_PARSE for what is not JSON in valid UTF-8, for nesting past 32, and for a subject or
 * digest of the wrong type. */
int znl_claim_read(uint8_t *json, size_t size, znl_claim *out);

/* Reads a proof header; 0, ZNL_E_PARSE, or ZNL_E_BAD_HEADER when alg or typ differ. In place. */
int znl_claim_read_header(uint8_t *json, size_t size);

#endif
