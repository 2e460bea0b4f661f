/* security_test.c - hashes, AEAD, keys, keyring, proofs, envelopes and the replay window,
 * beyond what the vectors show. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/frames.h"
#include "security/envelope.h"
#include "security/keyring.h"
#include "security/proof.h"
#include "security/replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define NOW_MS 1700000000000

static znl_keys *derive(const char *secret)
{
    znl_keys *keys;
    assert_int_equal(znl_keys_derive(&keys, znl_frame_text(secret), (znl_frame){0}), 0);
    return keys;
}

static int is_zero(const void *memory, size_t size)
{
    const uint8_t *bytes = memory;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return 0;
    return 1;
}

/* --- hash --------------------------------------------------------------------------------- */

static void hash_backends_agree(void **state)
{
    (void)state;
#ifndef ZNL_HASH_SODIUM
    const znl_hash_backend *before = znl_hash_backend_get();
    const znl_hash_backend *const backends[2] = {&znl_hash_crypto, &znl_hash_sodium};
    uint8_t bytes[700];
    znl_random_bytes(bytes, sizeof bytes);
    for (size_t size = 0; size < sizeof bytes; size++) {
        uint8_t sums[2][ZNL_SHA256_BYTES];
        uint8_t macs[2][ZNL_SHA256_BYTES];
        for (size_t i = 0; i < 2; i++) {
            znl_sha256 hash;
            size_t half = size / 3;
            znl_hash_backend_set(backends[i]);
            backends[i]->init(&hash);
            backends[i]->update(&hash, bytes, half);
            backends[i]->update(&hash, bytes + half, size - half);
            backends[i]->final(&hash, sums[i]);
            znl_hmac_key key;
            znl_hmac_key_init(&key, bytes, size); /* shorter and longer than a block */
            znl_hmac(&key, bytes, size, macs[i]);
        }
        assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
        assert_memory_equal(macs[0], macs[1], sizeof macs[0]);
    }
    znl_hash_backend_set(before);
#endif
}

/* --- aead --------------------------------------------------------------------------------- */

static void aead_backends_agree(void **state)
{
    (void)state;
    znl_keys *keys = derive("one");
    uint8_t plain[1600];
    uint8_t sealed[2][sizeof plain];
    uint8_t opened[sizeof plain];
    uint8_t tags[2][ZNL_AEAD_TAG_BYTES];
    uint8_t iv[ZNL_AEAD_IV_BYTES];
    znl_random_bytes(plain, sizeof plain);
    znl_random_bytes(iv, sizeof iv);
    znl_aead_backend other = ZNL_AEAD_SODIUM;
    if (znl_aead_backend_set(other) != 0)
        other = ZNL_AEAD_CRYPTO;
    const znl_aead_backend backends[2] = {ZNL_AEAD_CRYPTO, other};
    for (size_t size = 0; size < sizeof plain; size += 1 + size / 16) {
        for (size_t i = 0; i < 2; i++) {
            znl_aead_backend_set(backends[i]);
            memcpy(sealed[i], plain, size);
            assert_int_equal(znl_aead_seal(&keys->seal, iv, plain, size / 2, sealed[i], size,
                                     sealed[i], tags[i]),
                    0);
        }
        assert_memory_equal(sealed[0], sealed[1], size);
        assert_memory_equal(tags[0], tags[1], sizeof tags[0]);
        for (size_t i = 0; i < 2; i++) {
            znl_aead_backend_set(backends[i]);
            assert_int_equal(znl_aead_open(&keys->seal, iv, plain, size / 2, sealed[i], size,
                                     tags[i], opened),
                    0);
            assert_memory_equal(opened, plain, size);
            tags[i][size % sizeof tags[i]] ^= 1;
            assert_int_equal(znl_aead_open(&keys->seal, iv, plain, size / 2, sealed[i], size,
                                     tags[i], opened),
                    ZNL_E_OPEN);
            assert_true(is_zero(opened, size));
        }
    }
    znl_aead_backend_set(ZNL_AEAD_AUTO);
    znl_keys_release(keys);
}

/* The libcrypto context is kept keyed: two keys in turn must not be taken for each other, nor a
 * new key in the memory of an old one. */
static void aead_tells_keys_apart(void **state)
{
    (void)state;
    znl_aead_backend_set(ZNL_AEAD_CRYPTO);
    znl_keys *hold = derive("hold"); /* keeps the block */
    uint8_t iv[ZNL_AEAD_IV_BYTES] = {0};
    uint8_t tags[3][ZNL_AEAD_TAG_BYTES];
    uint8_t tag[ZNL_AEAD_TAG_BYTES];
    uint8_t cipher_text[3][8];
    uint8_t plain[8] = "message";
    const znl_keys *last = NULL;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) {
            char secret[2] = {(char)('a' + i), 0};
            znl_keys *keys = derive(secret);
            assert_true(last == NULL || last == keys); /* the memory is used again */
            last = keys;
            uint8_t *to = round == 0 ? tags[i] : tag;
            assert_int_equal(znl_aead_seal(&keys->seal, iv, NULL, 0, plain, sizeof plain,
                                     cipher_text[i], to),
                    0);
            assert_int_equal(znl_aead_seal(&hold->seal, iv, NULL, 0, plain, sizeof plain,
                                     cipher_text[(i + 1) % 3], tag),
                    0);
            assert_memory_not_equal(tag, tags[i], sizeof tag);
            assert_int_equal(znl_aead_seal(&keys->seal, iv, NULL, 0, plain, sizeof plain,
                                     cipher_text[i], tag),
                    0);
            assert_memory_equal(tag, tags[i], sizeof tag);
            znl_keys_release(keys);
        }
    }
    assert_memory_not_equal(tags[0], tags[1], sizeof tag);
    assert_memory_not_equal(tags[1], tags[2], sizeof tag);
    znl_keys_release(hold);
    znl_aead_backend_set(ZNL_AEAD_AUTO);
}

/* --- keys --------------------------------------------------------------------------------- */

static void released_keys_are_wiped(void **state)
{
    (void)state;
    znl_keys *hold = derive("hold"); /* keeps the block */
    znl_keys *keys = derive("short-lived");
    assert_false(is_zero(keys, sizeof *keys));
    assert_ptr_equal(znl_keys_hold(keys), keys);
    znl_keys_release(keys);
    assert_int_equal(keys->holders, 1);
    znl_keys_release(keys);
    assert_true(is_zero(keys, sizeof *keys));
    znl_keys_release(hold);
    znl_keys_release(NULL);
    assert_int_equal(znl_keys_blocks(), 0);
}

static void keys_have_limits(void **state)
{
    (void)state;
    static uint8_t big[ZNL_SECRET_BYTES_MAX + 1];
    znl_keys *keys;
    znl_frame ok = znl_frame_of(big, ZNL_SECRET_BYTES_MAX);
    znl_frame over = znl_frame_of(big, sizeof big);
    assert_int_equal(znl_keys_derive(&keys, (znl_frame){0}, ok), ZNL_E_INVALID);
    assert_int_equal(znl_keys_derive(&keys, over, (znl_frame){0}), ZNL_E_TOO_BIG);
    assert_int_equal(znl_keys_derive(&keys, ok, over), ZNL_E_TOO_BIG);
    assert_int_equal(znl_keys_blocks(), 0);
    assert_int_equal(znl_keys_derive(&keys, ok, ok), 0);
    znl_keys_release(keys);
}

/* Takes and gives back in random order; no two holders may share memory. */
static void blocks_grow_and_go(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    static znl_keys *all[COUNT];
    memset(all, 0, sizeof all);
    for (int step = 0; step < 4 * COUNT; step++) {
        size_t i = znl_random_u64() % COUNT;
        if (all[i] == NULL) {
            char secret[32];
            snprintf(secret, sizeof secret, "%zu", i);
            all[i] = derive(secret);
            assert_int_equal((uintptr_t)all[i] % 16, 0);
        } else {
            assert_int_equal(all[i]->holders, 1);
            znl_keys_release(all[i]);
            all[i] = NULL;
        }
    }
    assert_in_range(znl_keys_blocks(), 1, 40);
    for (size_t i = 0; i < COUNT; i++) {
        if (all[i] == NULL)
            continue;
        char secret[32];
        uint8_t mine[2][32];
        uint8_t again[2][32];
        snprintf(secret, sizeof secret, "%zu", i);
        znl_keys *same = derive(secret);
        znl_keys_export(all[i], mine[0], mine[1]);
        znl_keys_export(same, again[0], again[1]);
        assert_memory_equal(mine, again, sizeof mine);
        znl_keys_release(same);
        znl_keys_release(all[i]);
    }
    assert_int_equal(znl_keys_blocks(), 0);
}

/* --- keyring ------------------------------------------------------------------------------ */

static znl_keys *find(const znl_keyring *ring, const char *id)
{
    znl_frame name = znl_frame_text(id);
    return znl_keyring_find(ring, name, znl_map_hash(name));
}

/* True when `keys` are those of `secret` under the salt of the ring. */
static int made_from(const znl_keys *keys, const char *secret)
{
    znl_keys *same;
    assert_int_equal(znl_keys_derive(&same, znl_frame_text(secret), znl_frame_text("salt")), 0);
    int equal = keys != NULL && memcmp(keys->sign_raw, same->sign_raw, 32) == 0;
    znl_keys_release(same);
    return equal;
}

static void keyring_order(void **state)
{
    (void)state;
    znl_keyring *ring;
    znl_frame a = znl_frame_text("a");
    assert_int_equal(znl_keyring_new(&ring, znl_frame_text("salt")), 0);
    assert_null(find(ring, "a"));
    assert_int_equal(znl_keyring_set(ring, a, znl_frame_text("own")), 0);
    assert_true(made_from(find(ring, "a"), "own"));
    assert_null(find(ring, "b"));
    assert_int_equal(znl_keyring_set_shared(ring, znl_frame_text("shared")), 0);
    assert_true(made_from(find(ring, "a"), "own"));
    assert_true(made_from(find(ring, "b"), "shared"));
    /* Replaced at once; what was held stays until it is given back. */
    znl_keys *old = znl_keys_hold(find(ring, "a"));
    assert_int_equal(znl_keyring_set(ring, a, znl_frame_text("new")), 0);
    assert_true(made_from(find(ring, "a"), "new"));
    assert_true(made_from(old, "own"));
    znl_keys_release(old);
    /* Removed: falls back to the shared key. */
    assert_int_equal(znl_keyring_remove(ring, a), 0);
    assert_true(made_from(find(ring, "a"), "shared"));
    assert_int_equal(znl_keyring_remove(ring, a), ZNL_E_NOT_FOUND);
    assert_int_equal(znl_keyring_set_shared(ring, (znl_frame){0}), 0);
    assert_null(find(ring, "a"));
    assert_int_equal(znl_keyring_set(ring, a, (znl_frame){0}), ZNL_E_INVALID);
    assert_int_equal(znl_keyring_set(ring, (znl_frame){0}, a), ZNL_E_INVALID);
    for (int i = 0; i < 100; i++) {
        char id[32];
        snprintf(id, sizeof id, "slave-%d", i);
        assert_int_equal(znl_keyring_set(ring, znl_frame_text(id), znl_frame_text(id)), 0);
    }
    assert_true(made_from(find(ring, "slave-42"), "slave-42"));
    znl_keyring_free(ring);
    znl_keyring_free(NULL);
    assert_int_equal(znl_keys_blocks(), 0);
}

static int keyring_scenario(void)
{
    znl_keyring *ring = NULL;
    int err = znl_keyring_new(&ring, znl_frame_text("salt"));
    if (err == 0)
        err = znl_keyring_set_shared(ring, znl_frame_text("shared"));
    for (int i = 0; err == 0 && i < 12; i++) {
        char id[32];
        snprintf(id, sizeof id, "slave-%d", i);
        err = znl_keyring_set(ring, znl_frame_text(id), znl_frame_text("own"));
        if (err != 0) /* unchanged: the shared key answers */
            assert_ptr_equal(find(ring, id), find(ring, "nobody"));
    }
    znl_keyring_free(ring);
    return err;
}

static int replay_scenario(void)
{
    znl_replay *replay = NULL;
    int err = znl_replay_new(&replay, 10000, 100, 0);
    for (uint64_t i = 0; err == 0 && i < 60; i++)
        err = znl_replay_check(replay, znl_frame_text("k"), znl_frame_text("n"),
                znl_frame_of(&i, sizeof i), znl_frame_text("x"), 0);
    znl_replay_free(replay);
    return err;
}

static int envelope_scenario(void)
{
    znl_buffer scratch = {0};
    znl_buffer plain = {0};
    znl_keys *keys = NULL;
    uint8_t iv[ZNL_AEAD_IV_BYTES] = {0};
    uint8_t big[1000] = {0};
    znl_frame frame = znl_frame_of(big, sizeof big);
    znl_frame sealed[ZNL_ENVELOPE_FRAMES];
    znl_frame packed;
    znl_envelope_context context = {frame, frame, frame};
    context.kind.size = context.sender_id.size = context.subject.size = 9;
    znl_aead_thread_end();
    int err = znl_keys_derive(&keys, frame, frame);
    if (err == 0)
        err = znl_envelope_seal(keys, &context, iv, &frame, 1, &scratch, sealed);
    if (err == 0)
        err = znl_envelope_open(keys, &context, sealed, 4, 1, &plain, &packed);
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&plain);
    znl_keys_release(keys);
    return err;
}

/* Every allocation fails in turn: an error, nothing leaked, nothing half done. */
static void survives_no_memory(void **state)
{
    (void)state;
    int (*const scenarios[])(void) = {keyring_scenario, replay_scenario, envelope_scenario};
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        int err = ZNL_E_NOMEM;
        for (long n = 0; err != 0; n++) {
            znl_alloc_fail_after(n);
            err = scenarios[i]();
            znl_alloc_fail_after(-1);
            assert_true(err == 0 || err == ZNL_E_NOMEM);
            assert_int_equal(znl_keys_blocks(), 0);
            assert_true(n < 1000);
        }
    }
}

/* --- proof -------------------------------------------------------------------------------- */

static const char nonce_text[] = "00112233445566778899aabbccddeeff";

static znl_claim sample(void)
{
    return (znl_claim){.kind = znl_frame_text("request"),
            .node_id = znl_frame_text("slave-1"),
            .subject = znl_frame_text("id-1"),
            .timestamp_ms = NOW_MS,
            .nonce = znl_frame_text(nonce_text)};
}

static void proof_names_at_their_limits_fit(void **state)
{
    (void)state;
    znl_keys *keys = derive("key");
    uint8_t worst[ZNL_SUBJECT_BYTES_MAX];
    uint8_t proof[ZNL_PROOF_BYTES_MAX];
    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    char sum[ZNL_DIGEST_TEXT_BYTES];
    memset(worst, 1, sizeof worst); /* escaped as \u0001 */
    znl_proof_digest(NULL, 0, sum);
    znl_claim claim = sample();
    znl_claim back;
    claim.node_id = znl_frame_of(worst, ZNL_ID_BYTES_MAX);
    claim.subject = znl_frame_of(worst, sizeof worst);
    claim.digest = znl_frame_of(sum, sizeof sum);
    size_t size = znl_proof_sign(keys, &claim, proof, sizeof proof);
    assert_in_range(size, 1, sizeof proof);
    assert_int_equal(
            znl_proof_decode(keys, znl_frame_of(proof, size), NOW_MS, 1, scratch, &back), 0);
    assert_true(znl_frame_equal(back.subject, claim.subject));
    znl_keys_release(keys);
}

static void proof_sizes_are_bounded(void **state)
{
    (void)state;
    znl_keys *keys = derive("key");
    static uint8_t big[ZNL_PROOF_BYTES_MAX + 1];
    static uint8_t proof[2 * sizeof big];
    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    znl_claim claim = sample();
    znl_claim back;
    memset(big, 'x', sizeof big);
    claim.subject = znl_frame_of(big, sizeof big);
    assert_int_equal(znl_proof_sign(keys, &claim, proof, sizeof proof), 0);
    assert_int_equal(znl_proof_sign(keys, &claim, proof, 0), 0);
    assert_int_equal(
            znl_proof_decode(keys, znl_frame_of(big, sizeof big), NOW_MS, 1, scratch, &back),
            ZNL_E_TOO_BIG);
    memset(big, '.', sizeof big);
    assert_int_equal(znl_proof_decode(keys, znl_frame_of(big, 2), NOW_MS, 1, scratch, &back),
            ZNL_E_BAD_SIGNATURE);
    assert_int_equal(znl_proof_decode(keys, (znl_frame){0}, NOW_MS, 1, scratch, &back),
            ZNL_E_MISSING_PROOF);
    znl_keys_release(keys);
}

/* Cut, changed or random bytes are refused and read nothing outside their block. */
static void proof_hostile_bytes(void **state)
{
    (void)state;
    znl_keys *keys = derive("key");
    uint8_t proof[1024];
    uint8_t scratch[ZNL_PROOF_BYTES_MAX];
    znl_claim claim = sample();
    znl_claim back;
    size_t size = znl_proof_sign(keys, &claim, proof, sizeof proof);
    for (size_t i = 0; i < size; i++) {
        uint8_t *exact = malloc(size);
        assert_non_null(exact);
        memcpy(exact, proof, size);
        exact[i] ^= (uint8_t)(1u << (i % 8));
        znl_frame changed = znl_frame_of(exact, size);
        assert_int_not_equal(znl_proof_decode(keys, changed, NOW_MS, 1, scratch, &back), 0);
        free(exact);
        exact = malloc(i + 1);
        assert_non_null(exact);
        memcpy(exact, proof, i);
        assert_int_not_equal(
                znl_proof_decode(keys, znl_frame_of(exact, i), NOW_MS, 1, scratch, &back), 0);
        free(exact);
    }
    znl_keys_release(keys);
}

static void proof_freshness(void **state)
{
    (void)state;
    znl_keys *keys = derive("key");
    static const struct {
        int64_t timestamp_ms, now_ms;
        uint32_t skew_ms;
        int err;
    } cases[] = {
            {NOW_MS, NOW_MS + 500, 500, 0},
            {NOW_MS, NOW_MS + 501, 500, ZNL_E_STALE},
            {NOW_MS + 500, NOW_MS, 500, 0},
            {NOW_MS + 501, NOW_MS, 500, ZNL_E_STALE},
            {NOW_MS, NOW_MS + ZNL_SKEW_MS_DEFAULT, 0, 0},
            {NOW_MS, NOW_MS + ZNL_SKEW_MS_DEFAULT + 1, 0, ZNL_E_STALE},
            {1, 1, 1, 0},
            {0, 0, 1, ZNL_E_STALE},
            {-5, 0, 10, ZNL_E_STALE},
            {1, INT64_MAX, UINT32_MAX, ZNL_E_STALE},
            {9007199254740991, INT64_MIN, UINT32_MAX, ZNL_E_STALE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t proof[1024];
        uint8_t scratch[ZNL_PROOF_BYTES_MAX];
        znl_claim claim = sample();
        znl_claim back;
        claim.timestamp_ms = cases[i].timestamp_ms;
        size_t size = znl_proof_sign(keys, &claim, proof, sizeof proof);
        assert_int_equal(znl_proof_decode(keys, znl_frame_of(proof, size), cases[i].now_ms,
                                 cases[i].skew_ms, scratch, &back),
                cases[i].err);
    }
    znl_keys_release(keys);
}

static void expectations_in_order(void **state)
{
    (void)state;
    const znl_frame payload[2] = {znl_frame_text("a"), znl_frame_text("bc")};
    char sum[ZNL_DIGEST_TEXT_BYTES];
    znl_proof_digest(payload, 2, sum);
    znl_claim claim = sample();
    claim.digest = znl_frame_of(sum, sizeof sum);
    znl_expectation all_right = {.kind = znl_frame_text("request"),
            .subject = znl_frame_text("id-1"),
            .node_id = znl_frame_text("slave-1"),
            .own_id = znl_frame_text("master-1"),
            .payload = payload,
            .payload_count = 2,
            .require_digest = 1};
    znl_expectation expected = all_right;
    assert_int_equal(znl_proof_expect(&claim, &expected), 0);
    expected.node_id.size = 0; /* nothing pinned */
    assert_int_equal(znl_proof_expect(&claim, &expected), 0);

    /* From the last step to the first: each hides those after it. */
    expected = all_right;
    expected.payload_count = 1;
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_DIGEST_MISMATCH);
    expected.require_digest = 0; /* one that is present is verified all the same */
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_DIGEST_MISMATCH);
    expected.node_id = znl_frame_text("slave-2");
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_NODE_MISMATCH);
    expected.subject = znl_frame_text("id-2");
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_ID_MISMATCH);
    expected.kind = znl_frame_text("response");
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_KIND_MISMATCH);

    expected = all_right;
    claim.digest.size = 0;
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_DIGEST_MISMATCH);
    expected.require_digest = 0;
    assert_int_equal(znl_proof_expect(&claim, &expected), 0);
    claim.digest = znl_frame_of(sum, sizeof sum - 1);
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_DIGEST_MISMATCH);
}

/* Spec, section 19, item 3: a slave gets its own request back. */
static void own_proofs_are_reflections(void **state)
{
    (void)state;
    znl_claim claim = sample();
    znl_expectation expected = {
            .kind = claim.kind, .subject = claim.subject, .own_id = znl_frame_text("slave-1")};
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_REFLECTED);
    expected.node_id = znl_frame_text("master-1");
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_REFLECTED);
    expected.node_id = claim.node_id; /* even when it was pinned */
    assert_int_equal(znl_proof_expect(&claim, &expected), ZNL_E_REFLECTED);
}

static void digest_of_any_shape(void **state)
{
    (void)state;
    /* Against one hash over the packed form: short pieces are gathered, long ones are not. */
    static uint8_t bytes[4096];
    znl_frame frames[40];
    znl_random_bytes(bytes, 1000);
    for (int round = 0; round < 200; round++) {
        size_t count = (size_t)(znl_random_u64() % 40);
        for (size_t i = 0; i < count; i++)
            frames[i] = znl_frame_of(
                    bytes, (size_t)(znl_random_u64() % (i % 7 == 0 ? 1500 : 60)));
        size_t size;
        assert_int_equal(znl_frames_packed_size(frames, count, &size), 0);
        uint8_t *packed = malloc(size);
        assert_non_null(packed);
        znl_frames_pack(frames, count, packed);
        const znl_hash_backend *backend = znl_hash_backend_get();
        znl_sha256 hash;
        uint8_t sum[ZNL_SHA256_BYTES];
        char want[ZNL_DIGEST_TEXT_BYTES + 1];
        char got[ZNL_DIGEST_TEXT_BYTES];
        backend->init(&hash);
        backend->update(&hash, packed, size);
        backend->final(&hash, sum);
        for (size_t i = 0; i < sizeof sum; i++)
            snprintf(want + 2 * i, 3, "%02x", sum[i]);
        znl_proof_digest(frames, count, got);
        assert_memory_equal(got, want, sizeof got);
        free(packed);
    }
}

/* --- envelope ----------------------------------------------------------------------------- */

static void envelope_names_have_limits(void **state)
{
    (void)state;
    znl_keys *keys = derive("key");
    static uint8_t text[ZNL_SUBJECT_BYTES_MAX + 1];
    uint8_t iv[ZNL_AEAD_IV_BYTES] = {0};
    memset(text, 'x', sizeof text);
    znl_frame payload = znl_frame_text("hello");
    znl_frame sealed[ZNL_ENVELOPE_FRAMES];
    znl_frame packed;
    znl_buffer scratch = {0};
    znl_buffer plain = {0};
    znl_envelope_context context = {znl_frame_of(text, 64),
            znl_frame_of(text, ZNL_ID_BYTES_MAX), znl_frame_of(text, ZNL_SUBJECT_BYTES_MAX)};
    assert_int_equal(znl_envelope_seal(keys, &context, iv, &payload, 1, &scratch, sealed), 0);
    assert_int_equal(znl_envelope_open(keys, &context, sealed, 4, 1, &plain, &packed), 0);
    for (int part = 0; part < 3; part++) {
        znl_envelope_context over = context;
        (part == 0 ? &over.kind : part == 1 ? &over.sender_id : &over.subject)->size++;
        assert_int_equal(
                znl_envelope_open(keys, &over, sealed, 4, 1, &plain, &packed), ZNL_E_TOO_BIG);
        assert_int_equal(znl_envelope_seal(keys, &over, iv, &payload, 1, &scratch, sealed),
                ZNL_E_TOO_BIG);
    }
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&plain);
    znl_keys_release(keys);
}

/* --- replay ------------------------------------------------------------------------------- */

static int replay_number(znl_replay *replay, uint64_t number, uint64_t now_ms)
{
    return znl_replay_check(replay, znl_frame_text("request"), znl_frame_text("slave-1"),
            znl_frame_text("id"), znl_frame_of(&number, sizeof number), now_ms);
}

static void replay_parts_are_told_apart(void **state)
{
    (void)state;
    static uint8_t big[2000];
    znl_frame none = {0};
    znl_frame a = znl_frame_text("a");
    znl_frame b = znl_frame_text("b");
    znl_frame ab = znl_frame_text("ab");
    znl_frame bar = znl_frame_text("a|b");
    znl_frame long1 = znl_frame_of(big, sizeof big);
    znl_frame long2 = znl_frame_of(big, sizeof big - 1);
    const znl_frame keys[][4] = {{a, b, none, none}, {ab, none, none, none},
            {none, ab, none, none}, {a, none, b, none}, {bar, none, none, none},
            {none, none, none, a}, {long1, a, none, none}, {long2, a, none, none},
            {long1, long2, a, none}, {long2, long1, a, none}, {long1, none, a, none}};
    znl_replay *replay;
    assert_int_equal(znl_replay_new(&replay, 10000, 100, 5), 0);
    for (int want = 0;; want = ZNL_E_REPLAY) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            assert_int_equal(
                    znl_replay_check(replay, keys[i][0], keys[i][1], keys[i][2], keys[i][3], 5),
                    want);
        if (want != 0)
            break;
    }
    assert_int_equal(znl_replay_count(replay), sizeof keys / sizeof *keys);
    znl_replay_clear(replay, 6);
    assert_int_equal(znl_replay_count(replay), 0);
    assert_int_equal(znl_replay_check(replay, a, b, none, none, 6), 0);
    assert_int_equal(znl_replay_check(replay, a, b, none, none, 6), ZNL_E_REPLAY);
    znl_replay_free(replay);
    znl_replay_free(NULL);
}

/* Against a table that remembers every first sight, over many windows and idle times. */
static void replay_agrees_with_a_plain_table(void **state)
{
    (void)state;
    enum { KEYS = 3000, WINDOW_MS = 10000 };
    static uint64_t seen_ms[KEYS];
    static int seen[KEYS];
    memset(seen, 0, sizeof seen);
    znl_replay *replay;
    uint64_t now_ms = 1000;
    assert_int_equal(znl_replay_new(&replay, WINDOW_MS, 1000000, now_ms), 0);
    for (int step = 0; step < 400000; step++) {
        uint64_t dice = znl_random_u64();
        if (dice % 16 == 0)
            now_ms += dice / 16 % 20;
        if (dice % 40000 == 7)
            now_ms += dice / 40000 % (3 * WINDOW_MS); /* idle */
        uint64_t key = dice / 65536 % KEYS;
        int fresh = !seen[key] || now_ms - seen_ms[key] >= WINDOW_MS;
        assert_int_equal(replay_number(replay, key, now_ms), fresh ? 0 : ZNL_E_REPLAY);
        if (fresh) {
            seen[key] = 1;
            seen_ms[key] = now_ms;
        }
        if (step % 5000 == 0) {
            size_t live = 0;
            for (size_t i = 0; i < KEYS; i++)
                live += (size_t)(seen[i] && now_ms - seen_ms[i] < WINDOW_MS);
            assert_true(znl_replay_count(replay) >= live); /* a slice too many at most */
            assert_true(znl_replay_count(replay) <= live + KEYS / 8);
        }
    }
    znl_replay_free(replay);
}

static void replay_is_bounded(void **state)
{
    (void)state;
    enum { MAX = 5000, WINDOW_MS = 20000 };
    znl_replay *replay;
    assert_int_equal(znl_replay_new(&replay, WINDOW_MS, 0, 0), ZNL_E_INVALID);
    assert_int_equal(
            znl_replay_new(&replay, WINDOW_MS, ZNL_REPLAY_NONCES_MAX + 1, 0), ZNL_E_INVALID);
    assert_int_equal(
            znl_replay_new(&replay, ZNL_REPLAY_WINDOW_MS_MAX + 1, MAX, 0), ZNL_E_INVALID);
    assert_int_equal(znl_replay_new(&replay, WINDOW_MS, MAX, 0), 0);
    uint64_t next = 0;
    for (; next < MAX; next++)
        assert_int_equal(replay_number(replay, next, next), 0); /* one each millisecond */
    assert_int_equal(replay_number(replay, next, MAX), ZNL_E_REPLAY_FULL);
    assert_int_equal(replay_number(replay, 0, MAX), ZNL_E_REPLAY); /* still known */
    assert_int_equal(replay_number(replay, next, WINDOW_MS - 1), ZNL_E_REPLAY_FULL);
    /* Room comes back as entries leave the window, not when all have. */
    assert_int_equal(replay_number(replay, next, WINDOW_MS + 1000), 0);
    assert_int_equal(replay_number(replay, MAX - 1, WINDOW_MS + 1000), ZNL_E_REPLAY);
    assert_true(znl_replay_count(replay) < MAX);
    /* A clock that goes back changes nothing. */
    assert_int_equal(replay_number(replay, next, 0), ZNL_E_REPLAY);
    assert_int_equal(replay_number(replay, next + 1, 0), 0);
    assert_int_equal(replay_number(replay, next + 1, WINDOW_MS + 1001), ZNL_E_REPLAY);
    znl_replay_free(replay);
}

static void replay_two_million(void **state)
{
    (void)state;
    enum { COUNT = 2000000 };
    znl_replay *replay;
    assert_int_equal(
            znl_replay_new(&replay, ZNL_REPLAY_WINDOW_MS_DEFAULT, ZNL_REPLAY_NONCES_DEFAULT, 0),
            0);
    for (uint64_t i = 0; i < COUNT; i++)
        if (replay_number(replay, i, i / 20) != 0)
            fail_msg("number %d is not new", (int)i);
    assert_int_equal(znl_replay_count(replay), COUNT);
    for (uint64_t i = 0; i < COUNT; i++)
        if (replay_number(replay, i, COUNT / 20) != ZNL_E_REPLAY)
            fail_msg("number %d is forgotten", (int)i);
    /* One window later they go, in the order they came, and the tables are used again. */
    for (uint64_t i = 0; i < COUNT; i++)
        if (replay_number(replay, i, ZNL_REPLAY_WINDOW_MS_DEFAULT + i / 20) != 0)
            fail_msg("number %d is still there", (int)i);
    assert_in_range(znl_replay_count(replay), COUNT, COUNT + COUNT / 16);
    znl_replay_free(replay);
}

int main(void)
{
    if (znl_random_start() != 0)
        return 1;
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(hash_backends_agree),
            cmocka_unit_test(aead_backends_agree),
            cmocka_unit_test(aead_tells_keys_apart),
            cmocka_unit_test(released_keys_are_wiped),
            cmocka_unit_test(keys_have_limits),
            cmocka_unit_test(blocks_grow_and_go),
            cmocka_unit_test(keyring_order),
            cmocka_unit_test(survives_no_memory),
            cmocka_unit_test(proof_names_at_their_limits_fit),
            cmocka_unit_test(proof_sizes_are_bounded),
            cmocka_unit_test(proof_hostile_bytes),
            cmocka_unit_test(proof_freshness),
            cmocka_unit_test(expectations_in_order),
            cmocka_unit_test(own_proofs_are_reflections),
            cmocka_unit_test(digest_of_any_shape),
            cmocka_unit_test(envelope_names_have_limits),
            cmocka_unit_test(replay_parts_are_told_apart),
            cmocka_unit_test(replay_agrees_with_a_plain_table),
            cmocka_unit_test(replay_is_bounded),
            cmocka_unit_test(replay_two_million),
    };
    int failed = cmocka_run_group_tests_name("security", tests, NULL, NULL);
    znl_aead_thread_end();
    return failed;
}
