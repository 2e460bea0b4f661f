/* What the vectors do not reach: limits, capacities, every cut of an input.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/limits.h"
#include "codec/claim.h"
#include "codec/control.h"
#include "codec/frames.h"
#include "codec/text.h"

#define TEXT(text) znl_frame_of(text, sizeof text - 1)

static void expect_text(znl_frame got, const char *want)
{
    assert_int_equal(got.size, strlen(want));
    if (got.size != 0)
        assert_memory_equal(got.data, want, got.size);
}

/* A copy in a block of exactly this size, for the sanitizer. */
static void *copy_of(const void *bytes, size_t size)
{
    uint8_t *copy = malloc(size);
    assert_true(copy != NULL || size == 0);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

/* --- text --------------------------------------------------------------------------------- */

static void hex_is_lowercase_and_even(void **state)
{
    (void)state;
    uint8_t bytes[256];
    uint8_t back[256];
    char text[512];
    for (unsigned i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    znl_hex_encode(bytes, 256, text);
    assert_memory_equal(text, "000102030405060708090a0b", 24);
    assert_memory_equal(text + 506, "fdfeff", 6);
    assert_int_equal(znl_hex_decode(text, 512, back), 0);
    assert_memory_equal(back, bytes, 256);
    assert_int_equal(znl_hex_decode("", 0, back), 0);
    assert_int_equal(znl_hex_decode("abc", 3, back), ZNL_E_PROTO);
    assert_int_equal(znl_hex_decode("AB", 2, back), ZNL_E_PROTO);
    assert_int_equal(znl_hex_decode("0g", 2, back), ZNL_E_PROTO);
    assert_int_equal(znl_hex_decode("g0", 2, back), ZNL_E_PROTO);
    assert_int_equal(znl_hex_decode(" 0", 2, back), ZNL_E_PROTO);
    assert_int_equal(znl_hex_decode("\xff\xff", 2, back), ZNL_E_PROTO);
}

static void base64url_round_trips(void **state)
{
    (void)state;
    for (size_t size = 0; size < 200; size++) {
        uint8_t *bytes = malloc(size);
        size_t text_size = znl_base64url_size(size);
        char *text = malloc(text_size);
        uint8_t *back = malloc(text_size * 3 / 4);
        size_t back_size = 999;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(i * 37 + size);
        assert_int_equal(znl_base64url_encode(bytes, size, text), text_size);
        assert_int_equal(znl_base64url_decode(text, text_size, back, &back_size), 0);
        assert_int_equal(back_size, size);
        if (size != 0)
            assert_memory_equal(back, bytes, size);
        free(bytes);
        free(text);
        free(back);
    }
}

static void base64url_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *bytes; /* NULL: refused */
    } cases[] = {
            /* clang-format off */
            {"", ""}, {"Zg", "f"}, {"Zm8", "fo"}, {"Zm9v", "foo"}, {"Zm9vYg", "foob"},
            {"Zm9vYmE", "fooba"}, {"Zm9vYmFy", "foobar"}, {"-_-_", "\xfb\xff\xbf"},
            {"Zg==", NULL}, {"Zm8=", NULL}, {"Z", NULL}, {"Zm9vY", NULL}, {"Zh", NULL},
            {"Zm9", NULL}, {"+/+/", NULL}, {"Zm9v\n", NULL}, {"Zm 9", NULL}, {"Zm9v!g", NULL},
            {"Zg.", NULL}, {"\xff\xff\xff\xff", NULL},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t out[16];
        size_t size = 999;
        int err = znl_base64url_decode(cases[i].text, strlen(cases[i].text), out, &size);
        if (cases[i].bytes == NULL) {
            assert_int_equal(err, ZNL_E_PROTO);
            assert_int_equal(size, 999);
        } else {
            assert_int_equal(err, 0);
            expect_text(znl_frame_of(out, size), cases[i].bytes);
        }
    }
}

static void every_byte_is_a_digit_or_refused(void **state)
{
    (void)state;
    unsigned accepted = 0;
    for (unsigned c = 0; c < 256; c++) {
        char text[4] = {'A', 'A', 'A', (char)c};
        uint8_t out[3];
        size_t size;
        accepted += znl_base64url_decode(text, 4, out, &size) == 0;
    }
    assert_int_equal(accepted, 64);
}

/* The digits of RFC 4648, one by one: the yardstick for what goes 16 at a time. */
static void base64url_by_hand(const uint8_t *bytes, size_t size, char *out)
{
    static const char digits[] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (size_t bit = 0; bit < size * 8; bit += 6) {
        unsigned value = 0;
        for (size_t i = bit; i < bit + 6; i++)
            value = value << 1 |
                    (i < size * 8 ? (unsigned)bytes[i / 8] >> (7 - i % 8) & 1u : 0u);
        *out++ = digits[value];
    }
}

static void base64url_is_the_same_in_blocks(void **state)
{
    (void)state;
    uint32_t dice = 1;
    for (size_t size = 0; size < 150; size++) {
        uint8_t bytes[150], back[150];
        char expected[200], text[200];
        size_t text_size = znl_base64url_size(size), back_size;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)((dice = dice * 1664525u + 1013904223u) >> 24);
        base64url_by_hand(bytes, size, expected);
        assert_int_equal(znl_base64url_encode(bytes, size, text), text_size);
        assert_memory_equal(text, expected, text_size);
        assert_int_equal(znl_base64url_decode(text, text_size, back, &back_size), 0);
        assert_int_equal(back_size, size);
        assert_memory_equal(back, bytes, size);
    }
}

/* Wherever it stands. */
static void a_byte_that_is_no_digit_is_found(void **state)
{
    (void)state;
    char text[80];
    uint8_t out[60];
    for (size_t at = 0; at < sizeof text; at++) {
        unsigned accepted = 0;
        for (unsigned c = 0; c < 256; c++) {
            size_t size;
            memset(text, 'A', sizeof text);
            text[at] = (char)c;
            accepted += znl_base64url_decode(text, sizeof text, out, &size) == 0;
        }
        assert_int_equal(accepted, 64);
    }
}

static void utf8_follows_rfc_3629(void **state)
{
    (void)state;
    static const char *const good[] = {"", "a", "abcdefgh", "abcdefghi", "\x7f", "\xc2\x80",
            "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf",
            "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "abcdefg\xc3\xa9"};
    static const char *const bad[] = {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2",
            "\xc2"
            "a",
            "\xe0\x9f\xbf", "\xe0\xa0", "\xed\xa0\x80", "\xed\xbf\xbf", "\xef\xbf",
            "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
            "abcdefg\xc3", "abcdefgh\xff",
            "\xe2\x82"
            "a",
            "\xf0\x9f\x98"
            "a"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint8_t *copy = copy_of(good[i], strlen(good[i]));
        assert_true(znl_utf8_valid(copy, strlen(good[i])));
        free(copy);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t *copy = copy_of(bad[i], strlen(bad[i]));
        assert_false(znl_utf8_valid(copy, strlen(bad[i])));
        free(copy);
    }
}

/* --- frames ------------------------------------------------------------------------------- */

static void every_cut_of_packed_frames_is_refused(void **state)
{
    (void)state;
    const znl_frame frames[3] = {TEXT("hi"), {NULL, 0}, TEXT("there")};
    size_t size;
    assert_int_equal(znl_frames_packed_size(frames, 3, &size), 0);
    assert_int_equal(size, 4 + 3 * 4 + 7);
    uint8_t packed[64];
    znl_frames_pack(frames, 3, packed);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *copy = copy_of(packed, cut);
        znl_frame split[3];
        size_t count = 77;
        assert_int_equal(znl_frames_split(copy, cut, split, 3, &count), ZNL_E_PROTO);
        assert_int_equal(count, 77);
        free(copy);
    }
    packed[size] = 0;
    znl_frame split[3];
    size_t count;
    assert_int_equal(znl_frames_split(packed, size + 1, split, 3, &count), ZNL_E_PROTO);
    assert_int_equal(znl_frames_split(packed, size, split, 2, &count), ZNL_E_TOO_BIG);
    assert_int_equal(znl_frames_split(packed, size, split, 3, &count), 0);
    assert_int_equal(count, 3);
    expect_text(split[0], "hi");
    expect_text(split[1], "");
    expect_text(split[2], "there");
}

static void no_frames_pack_to_a_zero_count(void **state)
{
    (void)state;
    size_t size;
    size_t count = 77;
    uint8_t packed[4] = {9, 9, 9, 9};
    assert_int_equal(znl_frames_packed_size(NULL, 0, &size), 0);
    assert_int_equal(size, 4);
    znl_frames_pack(NULL, 0, packed);
    assert_memory_equal(packed, "\0\0\0\0", 4);
    assert_int_equal(znl_frames_split(packed, 4, NULL, 0, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(znl_frames_split(NULL, 0, NULL, 0, &count), ZNL_E_PROTO);
}

static void count_is_held_against_the_bytes_that_follow(void **state)
{
    (void)state;
    size_t count = 77;
    const uint8_t liar[12] = {0, 0, 0, 3};
    assert_int_equal(znl_frames_peek(liar, sizeof liar, &count), ZNL_E_PROTO);
    assert_int_equal(count, 77);
    const uint8_t fair[12] = {0, 0, 0, 2};
    assert_int_equal(znl_frames_peek(fair, sizeof fair, &count), 0);
    assert_int_equal(count, 2);
    const uint8_t huge[4] = {0xff, 0xff, 0xff, 0xff};
    assert_int_equal(znl_frames_peek(huge, sizeof huge, &count), ZNL_E_PROTO);
}

static void sizes_past_32_bits_are_refused(void **state)
{
    (void)state;
    size_t size = 77;
    /* Only the sizes are looked at. */
    const znl_frame one[1] = {{NULL, (size_t)UINT32_MAX + 1}};
    const znl_frame sum[2] = {{NULL, UINT32_MAX - 20}, {NULL, 9}};
    const znl_frame fits[2] = {{NULL, UINT32_MAX - 20}, {NULL, 8}};
    const znl_frame wraps[2] = {{NULL, SIZE_MAX}, {NULL, 8}};
    assert_int_equal(znl_frames_packed_size(one, 1, &size), ZNL_E_TOO_BIG);
    assert_int_equal(znl_frames_packed_size(sum, 2, &size), ZNL_E_TOO_BIG);
    assert_int_equal(znl_frames_packed_size(wraps, 2, &size), ZNL_E_TOO_BIG);
    assert_int_equal(znl_frames_packed_size(fits, SIZE_MAX, &size), ZNL_E_TOO_BIG);
    assert_int_equal(size, 77);
    assert_int_equal(znl_frames_packed_size(fits, 2, &size), 0);
    assert_int_equal(size, UINT32_MAX);
}

/* --- control ------------------------------------------------------------------------------ */

static void every_kind_comes_back(void **state)
{
    (void)state;
    const znl_frame proof = TEXT("h.p.s");
    const znl_frame payload[2] = {TEXT("one"), TEXT("")};
    for (int k = ZNL_KIND_REGISTER; k < ZNL_KIND_COUNT; k++) {
        for (int proven = 0; proven < 2; proven++) {
            znl_kind kind = (znl_kind)k;
            int bare = kind <= ZNL_KIND_HEARTBEAT_ACK;
            int service = kind >= ZNL_KIND_SERVICE_REQUEST;
            znl_frame frames[ZNL_CONTROL_LEAD_MAX + 2];
            size_t lead = znl_control_lead(
                    kind, TEXT("id"), TEXT("fs"), proven ? &proof : NULL, frames);
            assert_int_equal(
                    lead, 2u + (bare ? 0u : 1u) + (service ? 1u : 0u) + (proven ? 2u : 0u));
            memcpy(frames + lead, payload, sizeof payload);
            znl_control control;
            znl_control_parse(frames, lead + 2, &control);
            assert_int_equal(control.kind, kind);
            assert_int_equal(control.has_proof, proven);
            expect_text(control.proof, proven ? "h.p.s" : "");
            expect_text(control.subject, bare ? "" : "id");
            expect_text(control.service, service ? "fs" : "");
            assert_int_equal(control.payload_count, bare ? 0 : 2);
            if (!bare)
                assert_ptr_equal(control.payload, frames + lead);
        }
    }
}

static void what_is_no_control_message_keeps_its_frames(void **state)
{
    (void)state;
    const znl_frame frames[4] = {TEXT("__znl_v1__"), TEXT("svc_req"), TEXT("id"), TEXT("")};
    znl_control control;
    for (size_t count = 0; count <= 4; count++) {
        znl_control_parse(frames, count, &control);
        assert_int_equal(control.kind, ZNL_KIND_MESSAGE);
        assert_ptr_equal(control.payload, frames);
        assert_int_equal(control.payload_count, count);
        expect_text(control.subject, "");
        assert_false(control.has_proof);
    }
    znl_control_parse(NULL, 0, &control);
    assert_int_equal(control.kind, ZNL_KIND_MESSAGE);
    const znl_frame empty[3] = {TEXT("__znl_v1__"), {NULL, 0}, TEXT("id")};
    znl_control_parse(empty, 3, &control);
    assert_int_equal(control.kind, ZNL_KIND_MESSAGE);
    znl_frame out[ZNL_CONTROL_LEAD_MAX];
    assert_int_equal(znl_control_lead(ZNL_KIND_MESSAGE, TEXT("a"), TEXT("b"), NULL, out), 0);
}

static void marker_first_of_two_is_ambiguous(void **state)
{
    (void)state;
    const znl_frame payload[2] = {TEXT("__znl_v1_auth__"), TEXT("x")};
    const znl_frame later[2] = {TEXT("x"), TEXT("__znl_v1_auth__")};
    assert_true(znl_control_ambiguous(payload, 2));
    assert_false(znl_control_ambiguous(payload, 1));
    assert_false(znl_control_ambiguous(payload, 0));
    assert_false(znl_control_ambiguous(later, 2));
}

static void kinds_have_names(void **state)
{
    (void)state;
    assert_string_equal(znl_kind_action(ZNL_KIND_REQUEST), "req");
    assert_string_equal(znl_kind_name(ZNL_KIND_SERVICE_RESPONSE), "service_response");
    assert_string_equal(znl_kind_proof_name(ZNL_KIND_SERVICE_RESPONSE), "response");
    assert_string_equal(znl_kind_proof_name(ZNL_KIND_SERVICE_REQUEST), "request");
    assert_string_equal(znl_kind_proof_name(ZNL_KIND_UNREGISTER), "unregister");
    assert_string_equal(znl_kind_name(ZNL_KIND_MESSAGE), "message");
    assert_string_equal(znl_kind_name((znl_kind)99), "message");
}

static void proof_subject_has_limits(void **state)
{
    (void)state;
    uint8_t scratch[ZNL_SUBJECT_BYTES_MAX];
    uint8_t long_name[ZNL_SUBJECT_BYTES_MAX + 1];
    znl_frame out;
    memset(long_name, 'x', sizeof long_name);
    znl_frame service = TEXT("fs");

    assert_int_equal(znl_control_proof_subject(ZNL_KIND_REGISTER, TEXT("a"), service, scratch,
                             sizeof scratch, &out),
            0);
    expect_text(out, "");
    assert_int_equal(
            znl_control_proof_subject(ZNL_KIND_PUBLISH, TEXT("a|b"), service, NULL, 0, &out),
            0);
    expect_text(out, "a|b");
    assert_int_equal(znl_control_proof_subject(ZNL_KIND_SERVICE_REQUEST, TEXT("id"), service,
                             scratch, sizeof scratch, &out),
            0);
    expect_text(out, "svc:fs:id");

    uint8_t *tight = malloc(9);
    assert_int_equal(znl_control_proof_subject(
                             ZNL_KIND_SERVICE_REQUEST, TEXT("id"), service, tight, 9, &out),
            0);
    for (size_t room = 0; room < 9; room++)
        assert_int_equal(znl_control_proof_subject(ZNL_KIND_SERVICE_REQUEST, TEXT("id"),
                                 service, tight, room, &out),
                ZNL_E_TOO_BIG);
    free(tight);

    znl_frame name = znl_frame_of(long_name, ZNL_SUBJECT_BYTES_MAX - 7);
    assert_int_equal(znl_control_proof_subject(ZNL_KIND_SERVICE_RESPONSE, name, service,
                             scratch, sizeof scratch, &out),
            0);
    assert_int_equal(out.size, ZNL_SUBJECT_BYTES_MAX);
    name.size++;
    assert_int_equal(znl_control_proof_subject(ZNL_KIND_SERVICE_RESPONSE, name, service,
                             scratch, sizeof scratch, &out),
            ZNL_E_TOO_BIG);
    name.size = sizeof long_name;
    assert_int_equal(znl_control_proof_subject(
                             ZNL_KIND_REQUEST, name, service, scratch, sizeof scratch, &out),
            ZNL_E_TOO_BIG);
}

/* --- claim -------------------------------------------------------------------------------- */

static int read_claim(const char *json, size_t size, znl_claim *claim, uint8_t **memory)
{
    *memory = copy_of(json, size);
    return znl_claim_read(*memory, size, claim);
}

static void claim_needs_its_room(void **state)
{
    (void)state;
    znl_claim claim = {.kind = TEXT("request"),
            .node_id = TEXT("a\"\\\b\f\n\r\t\x01\x1f\x7fz"),
            .subject = TEXT(""),
            .timestamp_ms = 1700000000000,
            .nonce = TEXT("n"),
            .digest = TEXT("d")};
    uint8_t out[256];
    size_t size = znl_claim_write(&claim, out, sizeof out);
    expect_text(znl_frame_of(out, size),
            "{\"kind\":\"request\",\"nodeId\":\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\x7fz\","
            "\"requestId\":\"\",\"timestamp\":1700000000000,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\"}");
    for (size_t room = 0; room < size; room++) {
        uint8_t *tight = malloc(room);
        assert_int_equal(znl_claim_write(&claim, tight, room), 0);
        free(tight);
    }
    uint8_t *exact = malloc(size);
    assert_int_equal(znl_claim_write(&claim, exact, size), size);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part = copy_of(out, cut);
        znl_claim back;
        assert_int_equal(znl_claim_read(part, cut, &back), ZNL_E_PARSE);
        free(part);
    }
    znl_claim back;
    assert_int_equal(znl_claim_read(exact, size, &back), 0);
    assert_true(znl_frame_equal(back.node_id, claim.node_id));
    free(exact);
}

static void timestamps(void **state)
{
    (void)state;
    static const struct {
        const char *number;
        int64_t value;
        int err;
    } cases[] = {
            {"0", 0, 0},
            {"-0", 0, 0},
            {"1", 1, 0},
            {"-5", -5, 0},
            {"1700000000000.5", 1700000000000, 0},
            {"1.7e12", 1700000000000, 0},
            {"1.7E+12", 1700000000000, 0},
            {"17e-1", 1, 0},
            {"1700000000000000e-3", 1700000000000, 0},
            {"0.00017e16", 1700000000000, 0},
            {"1e999", 0, 0},
            {"1e99999999999999999999", 0, 0},
            {"1e-99999999999999999999", 0, 0},
            {"0e99999999999999999999", 0, 0},
            {"99999999999999999999999999", 0, 0},
            {"1234567890123456789", 1234567890123456780, 0},
            {"0.9", 0, 0},
            {"1700000000000.0000000000000000000000000000", 1700000000000, 0},
            {"\"1\"", 0, 0},
            {"null", 0, 0},
            {"true", 0, 0},
            {"{}", 0, 0},
            {"[1]", 0, 0},
            {"01", 0, ZNL_E_PARSE},
            {"1.", 0, ZNL_E_PARSE},
            {".5", 0, ZNL_E_PARSE},
            {"1e", 0, ZNL_E_PARSE},
            {"1e+", 0, ZNL_E_PARSE},
            {"+1", 0, ZNL_E_PARSE},
            {"-", 0, ZNL_E_PARSE},
            {"--1", 0, ZNL_E_PARSE},
            {"0x10", 0, ZNL_E_PARSE},
            {"NaN", 0, ZNL_E_PARSE},
            {"Infinity", 0, ZNL_E_PARSE},
            {"nul", 0, ZNL_E_PARSE},
            {"", 0, ZNL_E_PARSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[128] = "{\"timestamp\":";
        strcat(json, cases[i].number);
        strcat(json, "}");
        znl_claim claim;
        uint8_t *memory;
        int err = read_claim(json, strlen(json), &claim, &memory);
        if (err != cases[i].err || (err == 0 && claim.timestamp_ms != cases[i].value))
            fail_msg("%s: %d, %lld", cases[i].number, err, (long long)claim.timestamp_ms);
        free(memory);
    }
}

static void node_ids(void **state)
{
    (void)state;
    static const struct {
        const char *string;
        const char *value; /* NULL: refused */
    } cases[] = {
            {"\"\"", ""},
            {"\"abc\"", "abc"},
            {"\"\\/\"", "/"},
            {"\"\\u00e9\"", "\xc3\xa9"},
            {"\"\\u20AC\"", "\xe2\x82\xac"},
            {"\"\\ud83d\\ude80\"", "\xf0\x9f\x9a\x80"},
            {"\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf"},
            {"\"x\\n\\\"y\"", "x\n\"y"},
            {"\"\xe2\x80\xa8\"", "\xe2\x80\xa8"},
            {"7", ""},
            {"null", ""},
            {"true", ""},
            {"[\"a\",{\"b\":[]}]", ""},
            {"\"\\ud83d\"", NULL},
            {"\"\\ude80\"", NULL},
            {"\"\\ud83d\\u0041\"", NULL},
            {"\"\\ud83dx\"", NULL},
            {"\"\\u12\"", NULL},
            {"\"\\u12g4\"", NULL},
            {"\"\\x41\"", NULL},
            {"\"\\\"", NULL},
            {"\"a\nb\"", NULL},
            {"\"\xff\"", NULL},
            {"\"\xed\xa0\x80\"", NULL},
            {"'a'", NULL},
            {"[1,]", NULL},
            {"[1 2]", NULL},
            {"{\"a\" 1}", NULL},
            {"{1:2}", NULL},
            {"{\"a\":1,}", NULL},
            {"[1}", NULL},
            {"undefined", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[128] = " {\"nodeId\" : ";
        strcat(json, cases[i].string);
        strcat(json, "\r\n}\t");
        znl_claim claim;
        uint8_t *memory;
        int err = read_claim(json, strlen(json), &claim, &memory);
        if (err != (cases[i].value == NULL ? ZNL_E_PARSE : 0))
            fail_msg("%s: %d", cases[i].string, err);
        if (err == 0)
            expect_text(claim.node_id, cases[i].value);
        free(memory);
    }
}

static void nul_in_a_name_is_a_byte(void **state)
{
    (void)state;
    static const char json[] = "{\"\\u006bind\":\"a\\u0000b\"}";
    znl_claim claim;
    uint8_t *memory;
    assert_int_equal(read_claim(json, sizeof json - 1, &claim, &memory), 0);
    assert_int_equal(claim.kind.size, 3);
    assert_memory_equal(claim.kind.data, "a\0b", 3);
    free(memory);
}

static void optional_fields_are_text_or_null(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int err;
    } cases[] = {
            {"{\"requestId\":null,\"payloadDigest\":null}", 0},
            {"{\"requestId\":5}", ZNL_E_PARSE},
            {"{\"requestId\":{}}", ZNL_E_PARSE},
            {"{\"payloadDigest\":false}", ZNL_E_PARSE},
            {"{\"payloadDigest\":[]}", ZNL_E_PARSE},
            {"{}", 0},
            {"null", 0},
            {" [1] ", 0},
            {"\"x\"", 0},
            {"12", 0},
            {"", ZNL_E_PARSE},
            {" ", ZNL_E_PARSE},
            {"{}x", ZNL_E_PARSE},
            {"{}{}", ZNL_E_PARSE},
            {"{,}", ZNL_E_PARSE},
            {"\xef\xbb\xbf{}", ZNL_E_PARSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        znl_claim claim;
        uint8_t *memory;
        int err = read_claim(cases[i].json, strlen(cases[i].json), &claim, &memory);
        if (err != cases[i].err)
            fail_msg("%s: %d", cases[i].json, err);
        if (err == 0)
            assert_true(claim.subject.size == 0 && claim.digest.size == 0 &&
                    claim.kind.size == 0 && claim.timestamp_ms == 0);
        free(memory);
    }
}

static void last_of_equal_keys_wins(void **state)
{
    (void)state;
    static const char json[] = "{\"kind\":\"push\",\"nonce\":\"x\",\"kind\":\"request\","
                               "\"nonce\":1,"
                               "\"timestamp\":5,\"timestamp\":\"5\"}";
    znl_claim claim;
    uint8_t *memory;
    assert_int_equal(read_claim(json, sizeof json - 1, &claim, &memory), 0);
    expect_text(claim.kind, "request");
    expect_text(claim.nonce, "");
    assert_int_equal(claim.timestamp_ms, 0);
    free(memory);
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    for (size_t depth = 1; depth < 12000; depth = depth < 40 ? depth + 1 : depth * 4) {
        /* {"x":[[…]]}: the object is a level too. */
        size_t size = 5 + 2 * depth + 1;
        uint8_t *json = malloc(size);
        memcpy(json, "{\"x\":", 5);
        memset(json + 5, '[', depth);
        memset(json + 5 + depth, ']', depth);
        json[size - 1] = '}';
        znl_claim claim;
        assert_int_equal(znl_claim_read(json, size, &claim), depth < 32 ? 0 : ZNL_E_PARSE);
        free(json);
    }
    uint8_t open[12000];
    znl_claim claim;
    memset(open, '[', sizeof open);
    assert_int_equal(znl_claim_read(open, sizeof open, &claim), ZNL_E_PARSE);
}

static void headers(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        int err;
    } cases[] = {
            {"{\"alg\":\"HS256\",\"typ\":\"ZNL-AUTH-PROOF\",\"v\":1}", 0},
            {"{\"typ\":\"ZNL-AUTH-PROOF\",\"alg\":\"HS256\"}", 0},
            {"{\"alg\":\"none\",\"alg\":\"HS256\",\"typ\":\"ZNL-AUTH-PROOF\"}", 0},
            {"{\"alg\":\"HS256\",\"alg\":\"none\",\"typ\":\"ZNL-AUTH-PROOF\"}",
                    ZNL_E_BAD_HEADER},
            {"{\"alg\":\"HS256\",\"alg\":1,\"typ\":\"ZNL-AUTH-PROOF\"}", ZNL_E_BAD_HEADER},
            {"{\"alg\":\"hs256\",\"typ\":\"ZNL-AUTH-PROOF\"}", ZNL_E_BAD_HEADER},
            {"{\"alg\":\"HS256\",\"typ\":\"JWT\"}", ZNL_E_BAD_HEADER},
            {"{}", ZNL_E_BAD_HEADER},
            {"null", ZNL_E_BAD_HEADER},
            {"[]", ZNL_E_BAD_HEADER},
            {"", ZNL_E_PARSE},
            {"{\"alg\":}", ZNL_E_PARSE},
            {"hello", ZNL_E_PARSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t *memory = copy_of(cases[i].json, strlen(cases[i].json));
        int err = znl_claim_read_header(memory, strlen(cases[i].json));
        if (err != cases[i].err)
            fail_msg("%s: %d", cases[i].json, err);
        free(memory);
    }
}

/* Claims as peers write them take a way of their own: it must say what the other one says, which a
 * space makes them take. */
static void usual_claims_read_as_any_other(void **state)
{
    (void)state;
    static const char *const texts[] = {
            "\"kind\":\"request\",\"nodeId\":\"s-1\",\"requestId\":\"id\",\"timestamp\":17,"
            "\"nonce\":\"n\",\"payloadDigest\":\"d\"}",
            "\"kind\":\"\",\"nodeId\":\"\",\"requestId\":\"\",\"timestamp\":0,\"nonce\":\"\","
            "\"payloadDigest\":\"\"}",
            "\"kind\":\"k\",\"nodeId\":\"\xc3\xa9\",\"requestId\":\"a\\n\\u0041\",\"timestamp\":1,"
            "\"nonce\":\"n\",\"payloadDigest\":\"d\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":01,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":999999999999999999,"
            "\"nonce\":\"n\",\"payloadDigest\":\"d\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":1234567890123456789,"
            "\"nonce\":\"n\",\"payloadDigest\":\"d\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":-1.5e1,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":1,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\",\"kind\":\"later\"}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":1,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\"}}",
            "\"kind\":\"k\",\"nodeId\":\"n\",\"requestId\":\"r\",\"timestamp\":,\"nonce\":\"n\","
            "\"payloadDigest\":\"d\"}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (size_t size = 0; size <= strlen(texts[i]); size++) { /* cut anywhere */
            uint8_t usual[300] = "{", other[300] = "{ ";
            znl_claim a, b;
            memcpy(usual + 1, texts[i], size);
            memcpy(other + 2, texts[i], size);
            int err = znl_claim_read(usual, size + 1, &a);
            assert_int_equal(err, znl_claim_read(other, size + 2, &b));
            if (err != 0)
                continue;
            assert_true(znl_frame_equal(a.kind, b.kind));
            assert_true(znl_frame_equal(a.node_id, b.node_id));
            assert_true(znl_frame_equal(a.subject, b.subject));
            assert_true(znl_frame_equal(a.nonce, b.nonce));
            assert_true(znl_frame_equal(a.digest, b.digest));
            assert_true(a.timestamp_ms == b.timestamp_ms);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(hex_is_lowercase_and_even),
            cmocka_unit_test(base64url_round_trips),
            cmocka_unit_test(base64url_is_strict),
            cmocka_unit_test(every_byte_is_a_digit_or_refused),
            cmocka_unit_test(base64url_is_the_same_in_blocks),
            cmocka_unit_test(usual_claims_read_as_any_other),
            cmocka_unit_test(a_byte_that_is_no_digit_is_found),
            cmocka_unit_test(utf8_follows_rfc_3629),
            cmocka_unit_test(every_cut_of_packed_frames_is_refused),
            cmocka_unit_test(no_frames_pack_to_a_zero_count),
            cmocka_unit_test(count_is_held_against_the_bytes_that_follow),
            cmocka_unit_test(sizes_past_32_bits_are_refused),
            cmocka_unit_test(every_kind_comes_back),
            cmocka_unit_test(what_is_no_control_message_keeps_its_frames),
            cmocka_unit_test(marker_first_of_two_is_ambiguous),
            cmocka_unit_test(kinds_have_names),
            cmocka_unit_test(proof_subject_has_limits),
            cmocka_unit_test(claim_needs_its_room),
            cmocka_unit_test(timestamps),
            cmocka_unit_test(node_ids),
            cmocka_unit_test(nul_in_a_name_is_a_byte),
            cmocka_unit_test(optional_fields_are_text_or_null),
            cmocka_unit_test(last_of_equal_keys_wins),
            cmocka_unit_test(nesting_is_bounded),
            cmocka_unit_test(headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
