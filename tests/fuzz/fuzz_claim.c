/* Claims, proof headers, base64url: what reads writes back to the same meaning.
 * SPDX-License-Identifier: MIT */
#include "fuzz/fuzz.h"

#include "base/err.h"
#include "codec/claim.h"
#include "codec/text.h"

static uint8_t *copy_of(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + !size);
    FUZZ_HOLDS(copy != NULL);
    if (size != 0)
        memcpy(copy, data, size);
    return copy;
}

static void check_field(znl_frame field, const uint8_t *json, size_t size)
{
    FUZZ_HOLDS(FUZZ_INSIDE(field, json, size));
    FUZZ_HOLDS(znl_utf8_valid(field.data, field.size));
}

static void check_claim(const uint8_t *data, size_t size)
{
    uint8_t *json = copy_of(data, size);
    znl_claim claim;
    int err = znl_claim_read(json, size, &claim);
    FUZZ_HOLDS(err == 0 || err == ZNL_E_PARSE);
    if (err == 0) {
        check_field(claim.kind, json, size);
        check_field(claim.node_id, json, size);
        check_field(claim.subject, json, size);
        check_field(claim.nonce, json, size);
        check_field(claim.digest, json, size);

        size_t room = 128 + 6 * size;
        uint8_t *out = malloc(room);
        FUZZ_HOLDS(out != NULL);
        size_t written = znl_claim_write(&claim, out, room);
        FUZZ_HOLDS(written > 0 && written <= room);
        FUZZ_HOLDS(znl_claim_write(&claim, out, written - 1) == 0);
        FUZZ_HOLDS(znl_claim_write(&claim, out, written) == written);
        znl_claim back;
        FUZZ_HOLDS(znl_claim_read(out, written, &back) == 0);
        FUZZ_HOLDS(znl_frame_equal(back.kind, claim.kind));
        FUZZ_HOLDS(znl_frame_equal(back.node_id, claim.node_id));
        FUZZ_HOLDS(znl_frame_equal(back.subject, claim.subject));
        FUZZ_HOLDS(znl_frame_equal(back.nonce, claim.nonce));
        FUZZ_HOLDS(znl_frame_equal(back.digest, claim.digest));
        /* 18 digits are kept of a longer number; 19 of what was read can be written. */
        if (claim.timestamp_ms < INT64_C(1000000000000000000) &&
                claim.timestamp_ms > -INT64_C(1000000000000000000))
            FUZZ_HOLDS(back.timestamp_ms == claim.timestamp_ms);
        free(out);
    }
    free(json);

    uint8_t *header = copy_of(data, size);
    int header_err = znl_claim_read_header(header, size);
    FUZZ_HOLDS(header_err == 0 || header_err == ZNL_E_PARSE || header_err == ZNL_E_BAD_HEADER);
    if (err == 0)
        FUZZ_HOLDS(header_err != ZNL_E_PARSE);
    free(header);
}

static void check_text(const uint8_t *data, size_t size)
{
    char *text = malloc(znl_base64url_size(size) + 1);
    uint8_t *bytes = malloc(size * 3 / 4 + 1);
    FUZZ_HOLDS(text != NULL && bytes != NULL);
    size_t decoded;
    /* Only one text stands for given bytes. */
    if (znl_base64url_decode((const char *)data, size, bytes, &decoded) == 0) {
        FUZZ_HOLDS(decoded <= size * 3 / 4);
        FUZZ_HOLDS(znl_base64url_encode(bytes, decoded, text) == size);
        FUZZ_HOLDS(memcmp(text, data, size) == 0);
    }
    if (size % 2 == 0 && znl_hex_decode((const char *)data, size, bytes) == 0) {
        znl_hex_encode(bytes, size / 2, text);
        FUZZ_HOLDS(memcmp(text, data, size) == 0);
    }
    free(text);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_claim(data, size);
    check_text(data, size);
    return 0;
}
