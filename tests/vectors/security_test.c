/* security_test.c - keys, proofs, digests, envelopes, whole control messages and the replay
 * window against the golden vectors, with every hash and AEAD backend.
 * SPDX-License-Identifier: MIT */
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/control.h"
#include "codec/frames.h"
#include "codec/text.h"
#include "security/envelope.h"
#include "security/proof.h"
#include "security/replay.h"
#include "support/vector.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define FRAMES_MAX 64u

static const char *name_of(const cJSON *record)
{
    return znl_vector_text(record, "name");
}

static void expect_bytes(const cJSON *record, const char *what, znl_frame got, znl_frame want)
{
    if (!znl_frame_equal(got, want))
        fail_msg("%s: %s differs", name_of(record), what);
}

static void expect_frames(const cJSON *record, const char *what, const znl_frame *got,
        size_t got_count, const znl_frame *want, size_t want_count)
{
    if (got_count != want_count)
        fail_msg("%s: %zu %s, not %zu", name_of(record), got_count, what, want_count);
    for (size_t i = 0; i < got_count; i++)
        expect_bytes(record, what, got[i], want[i]);
}

static void expect_result(const cJSON *record, int got, int want)
{
    if (got != want)
        fail_msg("%s: %s, not %s", name_of(record), got ? znl_err_code(got) : "ok",
                want ? znl_err_code(want) : "ok");
}

/* --- backends ----------------------------------------------------------------------------- */

typedef void (*check_fn)(const cJSON *file, const cJSON *record);

static void each_backend(const char *file, const char *records, check_fn check)
{
    static const znl_hash_backend *const hashes[] = {
#ifndef ZNL_HASH_SODIUM
            &znl_hash_crypto,
#endif
            &znl_hash_sodium};
    static const znl_aead_backend aeads[] = {ZNL_AEAD_CRYPTO, ZNL_AEAD_SODIUM, ZNL_AEAD_AUTO};
    const znl_hash_backend *hash = znl_hash_backend_get();
    const cJSON *json = znl_vector_file(file);
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
        for (size_t k = 0; k < sizeof aeads / sizeof *aeads; k++) {
            if (znl_aead_backend_set(aeads[k]) != 0)
                continue; /* no AES instructions */
            znl_hash_backend_set(hashes[i]);
            const cJSON *record;
            ZNL_VECTOR_EACH(record, json, records)
            check(json, record);
        }
    }
    znl_hash_backend_set(hash);
    znl_aead_backend_set(ZNL_AEAD_AUTO);
    znl_vector_end();
    assert_int_equal(znl_keys_blocks(), 0);
}

/* Keys of which only one half is known; the other is empty. */
static void keys_from(znl_keys *keys, znl_frame sign, znl_frame seal)
{
    memset(keys, 0, sizeof *keys);
    if (sign.size > 0) {
        znl_hmac_key_init(&keys->sign, sign.data, sign.size);
        znl_hmac_begin(
                &keys->sign, ZNL_PROOF_BEGINNING, sizeof ZNL_PROOF_BEGINNING - 1, &keys->begun);
    }
    if (seal.size == ZNL_AEAD_KEY_BYTES)
        znl_aead_key_init(&keys->seal, seal.data);
}

/* --- kdf.json ----------------------------------------------------------------------------- */

static void check_kdf(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys *keys;
    znl_frame secret = znl_vector_hex(record, "auth_key_hex");
    const char *const salts[] = {"salt_given_hex", "salt_effective_hex"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(znl_keys_derive(&keys, secret, znl_vector_hex(record, salts[i])), 0);
        uint8_t sign[32];
        uint8_t seal[32];
        znl_keys_export(keys, sign, seal);
        expect_bytes(record, "sign key", znl_frame_of(sign, 32),
                znl_vector_hex(record, "sign_key_hex"));
        expect_bytes(record, "seal key", znl_frame_of(seal, 32),
                znl_vector_hex(record, "encrypt_key_hex"));
        znl_keys_release(keys);
    }
}

static void check_kdf_error(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys *keys = NULL;
    znl_frame secret = znl_vector_hex(record, "auth_key_hex");
    znl_frame salt = znl_vector_hex(record, "salt_given_hex");
    expect_result(record, znl_keys_derive(&keys, secret, salt), ZNL_E_INVALID);
    assert_null(keys);
}

static void kdf(void **state)
{
    (void)state;
    each_backend("znl/kdf.json", "derive", check_kdf);
    each_backend("znl/kdf.json", "errors", check_kdf_error);
}

/* --- canonical.json: only the HMAC -------------------------------------------------------- */

static void check_canonical(const cJSON *file, const cJSON *record)
{
    znl_frame secret = znl_vector_hex(file, "sign_key_hex");
    znl_frame input = znl_vector_hex(record, "output_hex");
    znl_hmac_key key;
    uint8_t mac[ZNL_SHA256_BYTES];
    znl_hmac_key_init(&key, secret.data, secret.size);
    znl_hmac(&key, input.data, input.size, mac);
    expect_bytes(record, "hmac", znl_frame_of(mac, sizeof mac),
            znl_vector_hex(record, "output_hmac_hex"));
}

static void canonical(void **state)
{
    (void)state;
    each_backend("znl/canonical.json", "cases", check_canonical);
}

/* --- proofs.json -------------------------------------------------------------------------- */

static void check_proof(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys keys;
    keys_from(&keys, znl_vector_hex(record, "sign_key_hex"), (znl_frame){0});
    znl_claim claim = {
            .kind = znl_vector_frame(record, "kind"),
            .node_id = znl_vector_hex(record, "node_id_hex"),
            .subject = znl_vector_hex(record, "request_id_hex"),
            .timestamp_ms = znl_vector_number(record, "timestamp"),
            .nonce = znl_vector_frame(record, "nonce"),
            .digest = znl_vector_frame(record, "payload_digest"),
    };
    uint8_t proof[ZNL_PROOF_BYTES_MAX];
    size_t size = znl_proof_sign(&keys, &claim, proof, sizeof proof);
    expect_bytes(record, "proof", znl_frame_of(proof, size), znl_vector_frame(record, "proof"));

    /* It fits exactly, and not a byte less. */
    assert_int_equal(znl_proof_sign(&keys, &claim, proof, size), size);
    assert_int_equal(znl_proof_sign(&keys, &claim, proof, size - 1), 0);

    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    znl_claim back;
    assert_int_equal(znl_proof_decode(&keys, znl_vector_frame(record, "proof"),
                             claim.timestamp_ms, 1, scratch, &back),
            0);
    expect_bytes(record, "kind", back.kind, claim.kind);
    expect_bytes(record, "node id", back.node_id, claim.node_id);
    expect_bytes(record, "subject", back.subject, claim.subject);
    expect_bytes(record, "nonce", back.nonce, claim.nonce);
    expect_bytes(record, "digest", back.digest, claim.digest);
    assert_int_equal(back.timestamp_ms, claim.timestamp_ms);
}

static void proofs(void **state)
{
    (void)state;
    each_backend("znl/proofs.json", "cases", check_proof);
}

/* --- proof-checks.json, decode ------------------------------------------------------------ */

static void check_decode(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys keys;
    keys_from(&keys, znl_vector_hex(record, "sign_key_hex"), (znl_frame){0});
    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    znl_claim claim;
    int err = znl_proof_decode(&keys, znl_vector_hex(record, "proof_hex"),
            znl_vector_number(record, "now"),
            (uint32_t)znl_vector_number(record, "max_skew_ms"), scratch, &claim);
    const char *got = err == 0 ? "ok" : znl_err_code(err);
    if (znl_vector_hex(record, "proof_hex").size == 0) { /* see the note of that record */
        assert_int_equal(err, ZNL_E_MISSING_PROOF);
        return;
    }
    if (strcmp(got, znl_vector_text(record, "result")) != 0 &&
            strcmp(got, znl_vector_text(record, "strict_result")) != 0)
        fail_msg("%s: %s, not %s", name_of(record), got,
                znl_vector_text(record, "strict_result"));
    const cJSON *envelope = znl_vector_object(record, "envelope");
    if (err != 0 || envelope == NULL)
        return;
    expect_bytes(record, "kind", claim.kind, znl_vector_hex(envelope, "kind_hex"));
    expect_bytes(record, "node id", claim.node_id, znl_vector_hex(envelope, "node_id_hex"));
    expect_bytes(record, "subject", claim.subject, znl_vector_hex(envelope, "request_id_hex"));
    expect_bytes(record, "nonce", claim.nonce, znl_vector_hex(envelope, "nonce_hex"));
    expect_bytes(
            record, "digest", claim.digest, znl_vector_hex(envelope, "payload_digest_hex"));
    assert_int_equal(claim.timestamp_ms, znl_vector_number(envelope, "timestamp"));
}

static void proof_checks(void **state)
{
    (void)state;
    each_backend("znl/proof-checks.json", "decode", check_decode);
}

/* --- digest.json -------------------------------------------------------------------------- */

static void check_digest(const cJSON *file, const cJSON *record)
{
    (void)file;
    size_t count;
    const znl_frame *frames = znl_vector_frames(record, "frames_hex", &count);
    char digest[ZNL_DIGEST_TEXT_BYTES];
    znl_proof_digest(frames, count, digest);
    expect_bytes(record, "digest", znl_frame_of(digest, sizeof digest),
            znl_vector_frame(record, "sha256"));
}

static void digest(void **state)
{
    (void)state;
    each_backend("znl/digest.json", "cases", check_digest);
}

/* --- envelope.json ------------------------------------------------------------------------ */

static znl_envelope_context context_of(const cJSON *record)
{
    return (znl_envelope_context){znl_vector_frame(record, "kind"),
            znl_vector_hex(record, "sender_id_hex"), znl_vector_hex(record, "request_id_hex")};
}

static void check_sealed(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys keys;
    keys_from(&keys, (znl_frame){0}, znl_vector_hex(record, "encrypt_key_hex"));
    znl_envelope_context context = context_of(record);
    znl_frame sealed[ZNL_ENVELOPE_FRAMES];
    size_t count;
    const znl_frame *frames = znl_vector_frames(record, "frames_hex", &count);
    size_t want_count;
    const znl_frame *want = znl_vector_frames(record, "envelope_hex", &want_count);
    znl_buffer scratch = {0};
    znl_frame iv = znl_vector_hex(record, "iv_hex");
    assert_int_equal(
            znl_envelope_seal(&keys, &context, iv.data, frames, count, &scratch, sealed), 0);
    expect_frames(record, "sealed frames", sealed, ZNL_ENVELOPE_FRAMES, want, want_count);

    znl_buffer plain = {0};
    znl_frame packed;
    assert_int_equal(znl_envelope_open(&keys, &context, sealed, ZNL_ENVELOPE_FRAMES, count,
                             &plain, &packed),
            0);
    expect_bytes(record, "plaintext", packed, znl_vector_hex(record, "packed_hex"));
    if (count > 0)
        assert_int_equal(znl_envelope_open(&keys, &context, sealed, ZNL_ENVELOPE_FRAMES,
                                 count - 1, &plain, &packed),
                ZNL_E_TOO_BIG);
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&plain);
    znl_aead_key_fini(&keys.seal);
}

static int open_error(const char *name)
{
    static const struct {
        const char *name;
        int err;
    } classes[] = {{"ok", 0}, {"bad_envelope_frame_count", ZNL_E_ENVELOPE},
            {"bad_envelope_version", ZNL_E_ENVELOPE}, {"bad_iv_length", ZNL_E_ENVELOPE},
            {"bad_tag_length", ZNL_E_ENVELOPE}, {"auth_tag_mismatch", ZNL_E_OPEN},
            {"bad_frame_pack", ZNL_E_UNPACK}};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(classes[i].name, name) == 0)
            return classes[i].err;
    fail_msg("unknown class %s", name);
    return 0;
}

static void check_open(const cJSON *file, const cJSON *record)
{
    (void)file;
    znl_keys keys;
    keys_from(&keys, (znl_frame){0}, znl_vector_hex(record, "encrypt_key_hex"));
    znl_envelope_context context = context_of(record);
    size_t sealed_count;
    const znl_frame *sealed = znl_vector_frames(record, "envelope_hex", &sealed_count);
    znl_buffer scratch = {0};
    znl_frame packed;
    int err = znl_envelope_open(
            &keys, &context, sealed, sealed_count, FRAMES_MAX, &scratch, &packed);
    expect_result(record, err, open_error(znl_vector_text(record, "result")));
    if (err == 0) {
        znl_frame frames[FRAMES_MAX] = {{0}};
        size_t count;
        size_t want_count;
        const znl_frame *want = znl_vector_frames(record, "frames_hex", &want_count);
        assert_int_equal(
                znl_frames_split(packed.data, packed.size, frames, FRAMES_MAX, &count), 0);
        if (count == 0) /* the reference hands on one empty frame instead */
            count = 1;
        expect_frames(record, "frames", frames, count, want, want_count);
    }
    znl_buffer_fini(&scratch);
    znl_aead_key_fini(&keys.seal);
}

static void envelope(void **state)
{
    (void)state;
    each_backend("znl/envelope.json", "sealed", check_sealed);
    each_backend("znl/envelope.json", "open", check_open);
}

/* --- control-frames.json, encrypted: built, compared byte for byte, and checked ----------- */

static znl_kind kind_of(const cJSON *record)
{
    for (int kind = 0; kind < ZNL_KIND_COUNT; kind++)
        if (strcmp(znl_kind_name((znl_kind)kind), znl_vector_text(record, "parsed_kind")) == 0)
            return (znl_kind)kind;
    fail_msg("unknown kind %s", znl_vector_text(record, "parsed_kind"));
    return ZNL_KIND_MESSAGE;
}

static void check_control(const cJSON *file, const cJSON *record)
{
    (void)file;
    if (!znl_vector_flag(record, "encrypted"))
        return;
    znl_keys *keys;
    znl_frame secret = znl_vector_frame(record, "auth_key");
    assert_int_equal(znl_keys_derive(&keys, secret, (znl_frame){0}), 0);
    znl_kind kind = kind_of(record);
    znl_frame subject = znl_vector_frame(record, "request_id");
    if (kind == ZNL_KIND_PUBLISH || kind == ZNL_KIND_PUSH)
        subject = znl_vector_frame(record, "topic");
    znl_frame service = znl_vector_frame(record, "service");
    uint8_t subject_room[ZNL_SUBJECT_BYTES_MAX];
    znl_frame named = {0};
    znl_claim claim = {0};
    uint8_t proof[ZNL_PROOF_BYTES_MAX];
    znl_frame proof_frame = {0};
    znl_frame sealed[ZNL_ENVELOPE_FRAMES];
    size_t sealed_count = 0;
    size_t payload_count;
    const znl_frame *payload = znl_vector_frames(record, "payload_hex", &payload_count);
    znl_buffer scratch = {0};
    znl_envelope_context context = {0};
    int has_proof = znl_vector_has(record, "proof");

    if (has_proof) {
        assert_int_equal(znl_control_proof_subject(kind, subject, service, subject_room,
                                 sizeof subject_room, &named),
                0);
        expect_bytes(record, "subject", named, znl_vector_frame(record, "sign_request_id"));
        claim.kind = znl_frame_text(znl_kind_proof_name(kind));
        expect_bytes(record, "kind", claim.kind, znl_vector_frame(record, "sign_kind"));
        context.kind = claim.kind;
        context.sender_id = znl_vector_frame(record, "sender_id");
        context.subject = named;
        znl_frame iv = znl_vector_hex(record, "iv_hex");
        if (iv.size > 0) {
            assert_int_equal(znl_envelope_seal(keys, &context, iv.data, payload, payload_count,
                                     &scratch, sealed),
                    0);
            sealed_count = ZNL_ENVELOPE_FRAMES;
        }
        char sum[ZNL_DIGEST_TEXT_BYTES];
        znl_proof_digest(sealed, sealed_count, sum);
        claim.node_id = context.sender_id;
        claim.subject = named;
        claim.timestamp_ms = znl_vector_number(record, "timestamp");
        claim.nonce = znl_vector_frame(record, "nonce");
        if (znl_vector_flag(record, "digest"))
            claim.digest = znl_frame_of(sum, sizeof sum);
        expect_bytes(
                record, "digest", claim.digest, znl_vector_frame(record, "payload_digest"));
        proof_frame = znl_frame_of(proof, znl_proof_sign(keys, &claim, proof, sizeof proof));
        expect_bytes(record, "proof", proof_frame, znl_vector_frame(record, "proof"));
    }

    znl_frame built[ZNL_CONTROL_LEAD_MAX + ZNL_ENVELOPE_FRAMES];
    size_t count = znl_control_lead(
            kind, subject, service, has_proof ? &proof_frame : NULL, built);
    for (size_t i = 0; i < sealed_count; i++)
        built[count++] = sealed[i];
    size_t wire_count;
    const znl_frame *wire = znl_vector_frames(record, "dealer_side_hex", &wire_count);
    expect_frames(record, "frames", built, count, wire, wire_count);

    if (has_proof) {
        znl_control control;
        znl_control_parse(wire, wire_count, &control);
        assert_int_equal(control.kind, kind);
        assert_true(control.has_proof);
        uint8_t claim_room[ZNL_PROOF_BYTES_MAX];
        znl_claim back;
        assert_int_equal(znl_proof_decode(keys, control.proof, claim.timestamp_ms + 30000,
                                 30000, claim_room, &back),
                0);
        znl_expectation expected = {.kind = claim.kind,
                .subject = named,
                .node_id = claim.node_id,
                .own_id = znl_frame_text("somebody else"),
                .payload = control.payload,
                .payload_count = control.payload_count,
                .require_digest = claim.digest.size > 0};
        expect_result(record, znl_proof_expect(&back, &expected), 0);
        if (sealed_count > 0) {
            znl_buffer plain = {0};
            znl_frame packed;
            znl_frame opened[FRAMES_MAX];
            size_t opened_count;
            assert_int_equal(znl_envelope_open(keys, &context, control.payload,
                                     control.payload_count, FRAMES_MAX, &plain, &packed),
                    0);
            assert_int_equal(znl_frames_split(packed.data, packed.size, opened, FRAMES_MAX,
                                     &opened_count),
                    0);
            expect_frames(record, "payload", opened, opened_count, payload, payload_count);
            znl_buffer_fini(&plain);
        }
    }
    znl_buffer_fini(&scratch);
    znl_keys_release(keys);
}

static void control_frames(void **state)
{
    (void)state;
    each_backend("znl/control-frames.json", "cases", check_control);
}

/* --- replay.json -------------------------------------------------------------------------- */

static void check_replay(const cJSON *file, const cJSON *record)
{
    (void)file;
    const uint64_t start_ms = 777777;
    uint64_t window_ms = znl_vector_has(record, "window_ms_given")
            ? (uint64_t)znl_vector_number(record, "window_ms_given")
            : ZNL_REPLAY_WINDOW_MS_DEFAULT;
    /* The key stands for the whole, whichever part of it differs. */
    for (size_t part = 0; part < 4; part++) {
        znl_replay *replay;
        assert_int_equal(znl_replay_new(&replay, window_ms, 1000, start_ms), 0);
        const cJSON *step;
        ZNL_VECTOR_EACH(step, record, "steps")
        {
            znl_frame parts[4] = {{0}};
            parts[part] = znl_vector_frame(step, "key");
            int want = znl_vector_flag(step, "duplicate") ? ZNL_E_REPLAY : 0;
            expect_result(record,
                    znl_replay_check(replay, parts[0], parts[1], parts[2], parts[3],
                            start_ms + (uint64_t)znl_vector_number(step, "at_ms")),
                    want);
        }
        znl_replay_free(replay);
    }
}

static void replay(void **state)
{
    (void)state;
    each_backend("znl/replay.json", "sequences", check_replay);
}

int main(void)
{
    if (znl_random_start() != 0)
        return 1;
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(kdf),
            cmocka_unit_test(canonical),
            cmocka_unit_test(proofs),
            cmocka_unit_test(proof_checks),
            cmocka_unit_test(digest),
            cmocka_unit_test(envelope),
            cmocka_unit_test(control_frames),
            cmocka_unit_test(replay),
    };
    int failed = cmocka_run_group_tests_name("security vectors", tests, NULL, NULL);
    znl_aead_thread_end();
    return failed;
}
