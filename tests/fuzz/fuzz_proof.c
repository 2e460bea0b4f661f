/* Proofs: any text, and any two parts under a right signature, so that the fuzzer gets past it.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "base/random.h"
#include "codec/text.h"
#include "security/proof.h"

#define NOW_MS INT64_C(1700000000000)

static znl_keys *keys;

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    FUZZ_HOLDS(znl_random_start() == 0);
    FUZZ_HOLDS(znl_keys_derive(&keys, znl_frame_text("shared-secret-01"), (znl_frame){0}) == 0);
    return 0;
}

static void check(const uint8_t *text, size_t size)
{
    uint8_t *scratch = malloc(ZNL_PROOF_BYTES_MAX);
    FUZZ_HOLDS(scratch != NULL);
    znl_claim claim;
    int err = znl_proof_decode(
            keys, znl_frame_of(text, size), NOW_MS, ZNL_SKEW_MS_DEFAULT, scratch, &claim);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_MISSING_PROOF || err == ZNL_E_MALFORMED_PARTS ||
            err == ZNL_E_BAD_SIGNATURE || err == ZNL_E_PARSE || err == ZNL_E_BAD_HEADER ||
            err == ZNL_E_MISSING_FIELD || err == ZNL_E_STALE || err == ZNL_E_TOO_BIG);
    if (err == 0) {
        FUZZ_HOLDS(claim.kind.size > 0 && claim.node_id.size > 0 && claim.nonce.size > 0);
        FUZZ_HOLDS(claim.timestamp_ms >= NOW_MS - ZNL_SKEW_MS_DEFAULT &&
                claim.timestamp_ms <= NOW_MS + ZNL_SKEW_MS_DEFAULT);
        FUZZ_HOLDS(FUZZ_INSIDE(claim.kind, scratch, ZNL_PROOF_BYTES_MAX));
        FUZZ_HOLDS(FUZZ_INSIDE(claim.node_id, scratch, ZNL_PROOF_BYTES_MAX));
        FUZZ_HOLDS(FUZZ_INSIDE(claim.subject, scratch, ZNL_PROOF_BYTES_MAX));
        FUZZ_HOLDS(FUZZ_INSIDE(claim.nonce, scratch, ZNL_PROOF_BYTES_MAX));
        FUZZ_HOLDS(FUZZ_INSIDE(claim.digest, scratch, ZNL_PROOF_BYTES_MAX));

        znl_expectation expected = {.kind = claim.kind,
                .subject = claim.subject,
                .node_id = claim.node_id,
                .own_id = znl_frame_text("\x01 somebody else")};
        int met = znl_proof_expect(&claim, &expected);
        FUZZ_HOLDS(met == 0 || met == ZNL_E_DIGEST_MISMATCH || met == ZNL_E_NODE_MISMATCH ||
                met == ZNL_E_REFLECTED);
        expected.own_id = claim.node_id;
        FUZZ_HOLDS(znl_proof_expect(&claim, &expected) != 0);
    }
    free(scratch);
}

/* Signs base64url(header) "." base64url(payload), or the two as they are. */
static void check_signed(const uint8_t *header, size_t header_size, const uint8_t *payload,
        size_t payload_size, int encode)
{
    size_t room = znl_base64url_size(header_size) + znl_base64url_size(payload_size) + 66;
    char *text = malloc(room);
    FUZZ_HOLDS(text != NULL);
    size_t at = 0;
    if (encode) {
        at = znl_base64url_encode(header, header_size, text);
        text[at++] = '.';
        at += znl_base64url_encode(payload, payload_size, text + at);
    } else {
        memcpy(text, header, header_size);
        at = header_size;
        text[at++] = '.';
        if (payload_size != 0)
            memcpy(text + at, payload, payload_size);
        at += payload_size;
    }
    uint8_t mac[ZNL_SHA256_BYTES];
    znl_hmac(&keys->sign, text, at, mac);
    text[at++] = '.';
    znl_hex_encode(mac, sizeof mac, text + at);
    at += 2 * sizeof mac;
    uint8_t *exact = malloc(at);
    FUZZ_HOLDS(exact != NULL);
    memcpy(exact, text, at);
    check(exact, at);
    free(exact);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char header[] = "{\"alg\":\"HS256\",\"typ\":\"ZNL-AUTH-PROOF\",\"v\":1}";
    if (size == 0)
        return 0;
    uint8_t mode = data[0];
    data++;
    size--;
    size_t half = size / 2;
    switch (mode % 4) {
    case 0:
        check(data, size);
        break;
    case 1:
        check_signed((const uint8_t *)header, sizeof header - 1, data, size, 1);
        break;
    case 2:
        check_signed(data, half, data + half, size - half, 1);
        break;
    default:
        check_signed(data, half, data + half, size - half, 0);
        break;
    }
    return 0;
}
