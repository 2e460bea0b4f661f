/* The codec against what the original implementation sends and accepts (tests/vectors/znl).
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/limits.h"
#include "codec/claim.h"
#include "codec/control.h"
#include "codec/frames.h"
#include "codec/text.h"
#include "support/vector.h"

static void expect_equal(const char *name, const char *what, znl_frame got, znl_frame want)
{
    if (!znl_frame_equal(got, want))
        fail_msg("%s: %s differs (%zu bytes, wanted %zu)", name, what, got.size, want.size);
}

static void expect_frames(const char *name, const znl_frame *got, size_t got_count,
        const znl_frame *want, size_t want_count)
{
    if (got_count != want_count)
        fail_msg("%s: %zu frames, wanted %zu", name, got_count, want_count);
    for (size_t i = 0; i < got_count; i++)
        expect_equal(name, "a frame", got[i], want[i]);
}

/* --- parse.json --------------------------------------------------------------------------- */

/* The raw bytes are kept here; the original turned bad UTF-8 into U+FFFD. */
static void expect_lossy(const char *name, const char *what, znl_frame got, znl_frame want)
{
    if (znl_utf8_valid(got.data, got.size))
        expect_equal(name, what, got, want);
    else if (strstr(name, "(lossy)") == NULL)
        fail_msg("%s: %s is not UTF-8", name, what);
}

static void parse_cases(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    size_t extended = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("znl/parse.json"), "cases")
    {
        const char *name = znl_vector_text(item, "name");
        size_t count;
        size_t payload_count;
        const znl_frame *frames = znl_vector_frames(item, "frames_hex", &count);
        const znl_frame *payload = znl_vector_frames(item, "payload_hex", &payload_count);
        znl_control control;
        znl_control_parse(frames, count, &control);
        cases++;

        assert_string_equal(znl_kind_name(control.kind), znl_vector_text(item, "kind"));
        const char *subject = znl_vector_has(item, "topic_hex") ? "topic_hex"
                                                                : "request_id_hex";
        expect_lossy(name, "subject", control.subject, znl_vector_hex(item, subject));
        expect_lossy(name, "service", control.service, znl_vector_hex(item, "service_hex"));
        expect_frames(name, control.payload, control.payload_count, payload, payload_count);

        if (strcmp(name, "unregister with proof (ignored)") == 0) {
            /* WIRE.md, "Control messages": reported here, for masters that want it proven. */
            assert_true(control.has_proof);
            expect_equal(name, "proof", control.proof, frames[3]);
            extended++;
            continue;
        }
        const char *proof = znl_vector_has(item, "auth_key_hex") ? "auth_key_hex"
                                                                 : "auth_proof_hex";
        if (!control.has_proof != !znl_vector_has(item, proof))
            fail_msg("%s: proof found: %d", name, control.has_proof);
        expect_lossy(name, "proof", control.proof, znl_vector_hex(item, proof));
    }
    assert_int_equal(cases, 120);
    assert_int_equal(extended, 1);
}

/* --- control-frames.json ------------------------------------------------------------------ */

static znl_kind kind_named(const char *name)
{
    for (int kind = 0; kind < ZNL_KIND_COUNT; kind++)
        if (strcmp(znl_kind_name((znl_kind)kind), name) == 0)
            return (znl_kind)kind;
    fail_msg("unknown kind %s", name);
    return ZNL_KIND_MESSAGE;
}

/* What is known before parsing builds the same frames; what is parsed builds them again. */
static void expect_rebuilt(const char *name, const znl_control *control, znl_frame subject,
        znl_frame service, const znl_frame *proof, const znl_frame *wire, size_t count)
{
    znl_frame frames[ZNL_CONTROL_LEAD_MAX + 8];
    size_t lead = znl_control_lead(control->kind, subject, service, proof, frames);
    assert_true(lead <= ZNL_CONTROL_LEAD_MAX && control->payload_count <= 8);
    for (size_t i = 0; i < control->payload_count; i++)
        frames[lead + i] = control->payload[i];
    expect_frames(name, frames, lead + control->payload_count, wire, count);
}

static void control_cases(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("znl/control-frames.json"), "cases")
    {
        const char *name = znl_vector_text(item, "name");
        size_t count;
        size_t router_count;
        const znl_frame *wire = znl_vector_frames(item, "dealer_side_hex", &count);
        const znl_frame *router = znl_vector_frames(item, "router_side_hex", &router_count);
        int encrypted = znl_vector_flag(item, "encrypted");
        znl_kind kind = kind_named(znl_vector_text(item, "parsed_kind"));
        znl_frame subject = znl_vector_frame(
                item, znl_vector_has(item, "topic") ? "topic" : "request_id");
        znl_frame service = znl_vector_frame(item, "service");
        znl_frame proof = znl_vector_frame(item, "proof");
        int proven = znl_vector_has(item, "proof");
        cases++;

        znl_control control;
        znl_control_parse(wire, count, &control);
        assert_int_equal(control.kind, kind);
        assert_int_equal(control.has_proof, proven);
        expect_equal(name, "subject", control.subject, subject);
        expect_equal(name, "service", control.service, service);
        expect_equal(name, "proof", control.proof, proof);
        expect_rebuilt(name, &control, subject, service, proven ? &proof : NULL, wire, count);
        expect_frames(name, router + 1, router_count - 1, wire, count);

        if (!encrypted) {
            size_t payload_count;
            const znl_frame *payload = znl_vector_frames(item, "payload_hex", &payload_count);
            expect_frames(name, control.payload, control.payload_count, payload, payload_count);
            assert_false(znl_control_ambiguous(payload, payload_count));
        } else if (proven) {
            uint8_t scratch[ZNL_SUBJECT_BYTES_MAX];
            znl_frame named;
            assert_int_equal(znl_control_proof_subject(
                                     kind, subject, service, scratch, sizeof scratch, &named),
                    0);
            expect_equal(
                    name, "sign_request_id", named, znl_vector_frame(item, "sign_request_id"));
            assert_string_equal(znl_kind_proof_name(kind), znl_vector_text(item, "sign_kind"));
        }
    }
    assert_int_equal(cases, 108);
}

/* --- frames.json and digest.json ---------------------------------------------------------- */

static void expect_packing(
        const char *name, const znl_frame *frames, size_t count, znl_frame packed)
{
    size_t size;
    assert_int_equal(znl_frames_packed_size(frames, count, &size), 0);
    uint8_t *out = znl_vector_copy((znl_frame){packed.data, size <= packed.size ? size : 0});
    if (size != packed.size)
        fail_msg("%s: packs to %zu bytes, wanted %zu", name, size, packed.size);
    memset(out, 0xa5, size);
    znl_frames_pack(frames, count, out);
    expect_equal(name, "packed", znl_frame_of(out, size), packed);
}

static void frames_good(void **state)
{
    (void)state;
    static const char *const sources[][2] = {
            {"znl/frames.json", "good"}, {"znl/digest.json", "cases"}};
    for (size_t s = 0; s < 2; s++) {
        const cJSON *item;
        size_t cases = 0;
        ZNL_VECTOR_EACH(item, znl_vector_file(sources[s][0]), sources[s][1])
        {
            const char *name = znl_vector_text(item, "name");
            size_t count;
            const znl_frame *frames = znl_vector_frames(item, "frames_hex", &count);
            znl_frame packed = znl_vector_hex(item, "packed_hex");
            expect_packing(name, frames, count, packed);
            cases++;

            znl_frame *split = calloc(count + 1, sizeof *split);
            size_t split_count;
            assert_non_null(split);
            assert_int_equal(znl_frames_peek(packed.data, packed.size, &split_count), 0);
            assert_int_equal(split_count, count);
            assert_int_equal(
                    znl_frames_split(packed.data, packed.size, split, count, &split_count), 0);
            expect_frames(name, split, split_count, frames, count);
            if (count > 0)
                assert_int_equal(znl_frames_split(packed.data, packed.size, split, count - 1,
                                         &split_count),
                        ZNL_E_TOO_BIG);
            free(split);
        }
        assert_true(cases > 0);
    }
}

static void frames_malformed(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("znl/frames.json"), "malformed")
    {
        znl_frame packed = znl_vector_hex(item, "packed_hex");
        znl_frame split[8];
        size_t count = 77;
        int err = znl_frames_split(packed.data, packed.size, split, 8, &count);
        if (err != ZNL_E_PROTO)
            fail_msg("%s: %d", znl_vector_text(item, "name"), err);
        assert_int_equal(count, 77);
        cases++;
    }
    assert_true(cases > 0);
}

/* --- proofs.json and proof-checks.json: the JSON in them ---------------------------------- */

static void claim_written(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("znl/proofs.json"), "cases")
    {
        const char *name = znl_vector_text(item, "name");
        znl_claim claim = {
                .kind = znl_vector_frame(item, "kind"),
                .node_id = znl_vector_hex(item, "node_id_hex"),
                .subject = znl_vector_hex(item, "request_id_hex"),
                .timestamp_ms = znl_vector_number(item, "timestamp"),
                .nonce = znl_vector_frame(item, "nonce"),
                .digest = znl_vector_frame(item, "payload_digest"),
        };
        znl_frame json = znl_vector_hex(item, "payload_json_hex");
        uint8_t *out = znl_vector_copy(json);
        memset(out, 0, json.size);
        assert_int_equal(znl_claim_write(&claim, out, json.size), json.size);
        expect_equal(name, "claim", znl_frame_of(out, json.size), json);

        znl_claim back;
        assert_int_equal(znl_claim_read(out, json.size, &back), 0);
        expect_equal(name, "kind", back.kind, claim.kind);
        expect_equal(name, "nodeId", back.node_id, claim.node_id);
        expect_equal(name, "requestId", back.subject, claim.subject);
        expect_equal(name, "nonce", back.nonce, claim.nonce);
        expect_equal(name, "payloadDigest", back.digest, claim.digest);
        assert_int_equal(back.timestamp_ms, claim.timestamp_ms);

        /* Both segments of the signing input, as base64url. */
        znl_frame header = znl_vector_hex(item, "header_json_hex");
        const char *input = znl_vector_text(item, "signing_input");
        char *text = (char *)znl_vector_copy(znl_frame_text(input));
        memset(text, 0, strlen(input));
        size_t at = znl_base64url_encode(header.data, header.size, text);
        assert_int_equal(at, znl_base64url_size(header.size));
        text[at++] = '.';
        at += znl_base64url_encode(json.data, json.size, text + at);
        expect_equal(name, "signing input", znl_frame_of(text, at), znl_frame_text(input));
        cases++;
    }
    assert_true(cases > 0);
}

/* Steps 5 to 8 of spec section 7, which need no key. */
static const char *decide(
        znl_frame header, znl_frame payload, int64_t now, int64_t skew, znl_claim *claim)
{
    uint8_t *head = znl_vector_copy(header);
    uint8_t *body = znl_vector_copy(payload);
    size_t head_size;
    size_t body_size;
    if (znl_base64url_decode((const char *)header.data, header.size, head, &head_size) != 0 ||
            znl_base64url_decode((const char *)payload.data, payload.size, body, &body_size) !=
                    0)
        return "parse_error";
    int head_err = znl_claim_read_header(head, head_size);
    if (head_err == ZNL_E_PARSE || znl_claim_read(body, body_size, claim) != 0)
        return "parse_error";
    if (head_err != 0)
        return "bad_header";
    if (claim->kind.size == 0 || claim->node_id.size == 0 || claim->nonce.size == 0)
        return "missing_field";
    int64_t past = now - claim->timestamp_ms;
    if (claim->timestamp_ms <= 0 || (past < 0 ? -past : past) > skew)
        return "stale_timestamp";
    return "ok";
}

static void claim_checked(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("znl/proof-checks.json"), "decode")
    {
        const char *name = znl_vector_text(item, "name");
        const char *want = znl_vector_text(item, "strict_result");
        if (strcmp(want, "malformed_parts") == 0 || strcmp(want, "bad_signature") == 0)
            continue;
        znl_frame proof = znl_vector_hex(item, "proof_hex");
        const uint8_t *end = proof.data + proof.size;
        const uint8_t *first = memchr(proof.data, '.', proof.size);
        assert_non_null(first);
        const uint8_t *second = memchr(first + 1, '.', (size_t)(end - first) - 1);
        assert_non_null(second);
        int64_t skew = znl_vector_number(item, "max_skew_ms");
        if (skew == 0)
            skew = ZNL_SKEW_MS_DEFAULT;
        znl_claim claim;
        const char *got = decide(znl_frame_of(proof.data, (size_t)(first - proof.data)),
                znl_frame_of(first + 1, (size_t)(second - first) - 1),
                znl_vector_number(item, "now"), skew, &claim);
        if (strcmp(got, want) != 0)
            fail_msg("%s: %s, wanted %s", name, got, want);
        const cJSON *fields = znl_vector_object(item, "envelope");
        if (strcmp(got, "ok") == 0 && fields != NULL) {
            expect_equal(name, "kind", claim.kind, znl_vector_hex(fields, "kind_hex"));
            expect_equal(name, "nodeId", claim.node_id, znl_vector_hex(fields, "node_id_hex"));
            expect_equal(
                    name, "requestId", claim.subject, znl_vector_hex(fields, "request_id_hex"));
            expect_equal(name, "nonce", claim.nonce, znl_vector_hex(fields, "nonce_hex"));
            expect_equal(name, "payloadDigest", claim.digest,
                    znl_vector_hex(fields, "payload_digest_hex"));
            assert_int_equal(claim.timestamp_ms, znl_vector_number(fields, "timestamp"));
        }
        cases++;
    }
    assert_true(cases > 40);
}

static int end(void **state)
{
    (void)state;
    znl_vector_end();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(parse_cases),
            cmocka_unit_test(control_cases),
            cmocka_unit_test(frames_good),
            cmocka_unit_test(frames_malformed),
            cmocka_unit_test(claim_written),
            cmocka_unit_test(claim_checked),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
