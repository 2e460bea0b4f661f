/* proof.c - see proof.h. SPDX-License-Identifier: MIT */
#include "security/proof.h"

#include "base/err.h"
#include "codec/text.h"

#include <sodium.h>

/* base64url of {"alg":"HS256","typ":"ZNL-AUTH-PROOF","v":1}: the same in every proof. */
#define HEADER ZNL_PROOF_HEADER
#define HEADER_BYTES (sizeof HEADER - 1)
/* With the dot and the beginning of the claim, {"k: hashed once for each key. */
#define BEGINNING_BYTES (sizeof ZNL_PROOF_BEGINNING - 1)
#define SIGNATURE_BYTES (2u * ZNL_SHA256_BYTES)

_Static_assert(BEGINNING_BYTES == 64, "a block of SHA-256");

/* Around the claim: header, two dots, signature. */
#define FRAME_BYTES (HEADER_BYTES + 2 + SIGNATURE_BYTES)
#define CLAIM_BYTES_MAX ((ZNL_PROOF_BYTES_MAX - FRAME_BYTES) / 4 * 3)

/* Gathers short pieces, because every call of a hash costs as much as hashing a block. */
struct gather {
    znl_sha256 hash;
    const znl_hash_backend *backend;
    size_t held;
    uint8_t bytes[512];
};

static void gather_flush(struct gather *gather)
{
    gather->backend->update(&gather->hash, gather->bytes, gather->held);
    gather->held = 0;
}

static void gather_add(struct gather *gather, const uint8_t *bytes, size_t size)
{
    if (size > sizeof gather->bytes - gather->held)
        gather_flush(gather);
    if (size > sizeof gather->bytes) {
        gather->backend->update(&gather->hash, bytes, size);
    } else if (size > 0) {
        memcpy(gather->bytes + gather->held, bytes, size);
        gather->held += size;
    }
}

void znl_proof_digest(const znl_frame *frames, size_t count, char out[ZNL_DIGEST_TEXT_BYTES])
{
    struct gather gather;
    uint8_t number[4];
    uint8_t digest[ZNL_SHA256_BYTES];
    gather.backend = znl_hash_backend_get();
    gather.held = 0;
    gather.backend->init(&gather.hash);
    znl_put_be32(number, (uint32_t)count);
    gather_add(&gather, number, sizeof number);
    for (size_t i = 0; i < count; i++) {
        znl_put_be32(number, (uint32_t)frames[i].size);
        gather_add(&gather, number, sizeof number);
        gather_add(&gather, frames[i].data, frames[i].size);
    }
    gather_flush(&gather);
    gather.backend->final(&gather.hash, digest);
    znl_hex_encode(digest, sizeof digest, out);
}

/* The signature of `text`, as it stands in a proof. */
static void signature(
        const znl_keys *keys, const uint8_t *text, size_t size, char out[SIGNATURE_BYTES])
{
    uint8_t mac[ZNL_SHA256_BYTES];
    if (size >= BEGINNING_BYTES && memcmp(text, ZNL_PROOF_BEGINNING, BEGINNING_BYTES) == 0)
        znl_hmac_go_on(
                &keys->sign, &keys->begun, text + BEGINNING_BYTES, size - BEGINNING_BYTES, mac);
    else
        znl_hmac(&keys->sign, text, size, mac);
    znl_hex_encode(mac, sizeof mac, out);
}

size_t znl_proof_sign(
        const znl_keys *keys, const znl_claim *claim, uint8_t *out, size_t capacity)
{
    uint8_t json[CLAIM_BYTES_MAX];
    size_t json_size = znl_claim_write(claim, json, sizeof json);
    if (json_size == 0)
        return 0;
    size_t signed_size = HEADER_BYTES + 1 + znl_base64url_size(json_size);
    if (capacity < signed_size + 1 + SIGNATURE_BYTES)
        return 0;
    memcpy(out, HEADER ".", HEADER_BYTES + 1);
    znl_base64url_encode(json, json_size, (char *)out + HEADER_BYTES + 1);
    signature(keys, out, signed_size, (char *)out + signed_size + 1);
    out[signed_size] = '.';
    return signed_size + 1 + SIGNATURE_BYTES;
}

static int decode_segment(const uint8_t *text, size_t size, uint8_t *out, size_t *out_size)
{
    return znl_base64url_decode((const char *)text, size, out, out_size) == 0 ? 0 : ZNL_E_PARSE;
}

static int fresh(int64_t timestamp_ms, int64_t now_unix_ms, uint32_t max_skew_ms)
{
    if (timestamp_ms <= 0)
        return 0;
    uint64_t a = (uint64_t)timestamp_ms;
    uint64_t b = (uint64_t)now_unix_ms;
    uint64_t apart = timestamp_ms > now_unix_ms ? a - b : b - a;
    return apart <= max_skew_ms;
}

int znl_proof_decode(const znl_keys *keys, znl_frame proof, int64_t now_unix_ms,
        uint32_t max_skew_ms, uint8_t *scratch, znl_claim *out)
{
    if (proof.size == 0)
        return ZNL_E_MISSING_PROOF;
    if (proof.size > ZNL_PROOF_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    const uint8_t *end = proof.data + proof.size;
    const uint8_t *dot1 = memchr(proof.data, '.', proof.size);
    const uint8_t *dot2 = dot1 == NULL ? NULL : memchr(dot1 + 1, '.', (size_t)(end - dot1 - 1));
    if (dot2 == NULL || memchr(dot2 + 1, '.', (size_t)(end - dot2 - 1)) != NULL)
        return ZNL_E_MALFORMED_PARTS;

    /* Compared as text: only the exact form that senders produce can match. */
    char expected[SIGNATURE_BYTES];
    if ((size_t)(end - dot2 - 1) != SIGNATURE_BYTES)
        return ZNL_E_BAD_SIGNATURE;
    signature(keys, proof.data, (size_t)(dot2 - proof.data), expected);
    _Static_assert(SIGNATURE_BYTES == crypto_verify_64_BYTES, "compared in constant time");
    if (crypto_verify_64((const uint8_t *)expected, dot2 + 1) != 0)
        return ZNL_E_BAD_SIGNATURE;

    size_t size;
    size_t header_size = (size_t)(dot1 - proof.data);
    int header_err = 0;
    if (header_size != HEADER_BYTES || memcmp(proof.data, HEADER, HEADER_BYTES) != 0) {
        header_err = decode_segment(proof.data, header_size, scratch, &size);
        if (header_err == 0)
            header_err = znl_claim_read_header(scratch, size);
        if (header_err != 0 && header_err != ZNL_E_BAD_HEADER)
            return header_err;
    }
    /* Both segments are parsed (step 5) before the header is judged (step 6). */
    int err = decode_segment(dot1 + 1, (size_t)(dot2 - dot1 - 1), scratch, &size);
    if (err == 0)
        err = znl_claim_read(scratch, size, out);
    if (err != 0)
        return err;
    if (header_err != 0)
        return header_err;
    if (out->kind.size == 0 || out->node_id.size == 0 || out->nonce.size == 0)
        return ZNL_E_MISSING_FIELD;
    if (max_skew_ms == 0)
        max_skew_ms = ZNL_SKEW_MS_DEFAULT;
    return fresh(out->timestamp_ms, now_unix_ms, max_skew_ms) ? 0 : ZNL_E_STALE;
}

int znl_proof_expect(const znl_claim *claim, const znl_expectation *expected)
{
    if (!znl_frame_equal(claim->kind, expected->kind))
        return ZNL_E_KIND_MISMATCH;
    if (!znl_frame_equal(claim->subject, expected->subject))
        return ZNL_E_ID_MISMATCH;
    if (expected->own_id.size > 0 && znl_frame_equal(claim->node_id, expected->own_id))
        return ZNL_E_REFLECTED;
    if (expected->node_id.size > 0 && !znl_frame_equal(claim->node_id, expected->node_id))
        return ZNL_E_NODE_MISMATCH;
    if (claim->digest.size == 0)
        return expected->require_digest ? ZNL_E_DIGEST_MISMATCH : 0;
    char digest[ZNL_DIGEST_TEXT_BYTES];
    znl_proof_digest(expected->payload, expected->payload_count, digest);
    return znl_frame_equal(claim->digest, znl_frame_of(digest, sizeof digest))
            ? 0
            : ZNL_E_DIGEST_MISMATCH;
}
