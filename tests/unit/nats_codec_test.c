/* What NATS servers send and clients send, and logins by key. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"
#include "codec/nats.h"
#include "codec/text.h"
#include "security/nkey.h"

#include <sodium.h>

static uint8_t bytes[4096];
static znl_nats_op op;
static size_t used;

static int read_text(const char *text)
{
    size_t size = strlen(text);
    memcpy(bytes, text, size);
    return znl_nats_read(bytes, size, &op, &used);
}

static void reads_messages(void **state)
{
    (void)state;
    assert_int_equal(read_text("MSG a.b 17 5\r\nhello\r\nPING\r\n"), 1);
    assert_int_equal(op.kind, ZNL_NATS_MSG);
    assert_string_equal(op.subject, "a.b");
    assert_null(op.reply);
    assert_int_equal(op.sid, 17);
    assert_int_equal(op.size, 5);
    assert_memory_equal(op.data, "hello", 5);
    assert_int_equal(op.lines_size, 0);
    assert_int_equal(used, 21);
    assert_int_equal(read_text("msg\ta  3\t_INBOX.x 0\r\n\r\n"), 1);
    assert_string_equal(op.reply, "_INBOX.x");
    assert_int_equal(op.size, 0);
}

static void reads_headers(void **state)
{
    znl_frame name, value;
    size_t at = 0;
    (void)state;
    assert_int_equal(
            read_text("HMSG a 1 r 31 33\r\nNATS/1.0\r\nA: one \r\nb:\t2\r\nA:\r\n\r\nhi\r\n"),
            1);
    assert_string_equal(op.reply, "r");
    assert_int_equal(op.status, 0);
    assert_string_equal(op.status_text, "");
    assert_int_equal(op.size, 2);
    assert_memory_equal(op.data, "hi", 2);
    const char *const expected[] = {"A=one", "b=2", "A="};
    for (size_t i = 0; i < 3; i++) {
        char text[32];
        assert_int_equal(znl_nats_next_header(op.lines, op.lines_size, &at, &name, &value), 1);
        snprintf(text, sizeof text, "%.*s=%.*s", (int)name.size, (const char *)name.data,
                (int)value.size, (const char *)value.data);
        assert_string_equal(text, expected[i]);
    }
    assert_int_equal(znl_nats_next_header(op.lines, op.lines_size, &at, &name, &value), 0);
}

static void reads_status(void **state)
{
    (void)state;
    assert_int_equal(read_text("HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"), 1);
    assert_int_equal(op.status, 503);
    assert_string_equal(op.status_text, "");
    assert_int_equal(op.lines_size, 0);
    assert_int_equal(
            read_text(
                    "HMSG a 1 46 46\r\nNATS/1.0 408 Request Timeout\r\nN: 1\r\nBy: 22\r\n\r\n\r\n"),
            1);
    assert_int_equal(op.status, 408);
    assert_string_equal(op.status_text, "Request Timeout");
    assert_int_equal(op.lines_size, 14);
}

/* Whoever published it must not end the connection of others with it. */
static void passes_over_headers_that_are_none(void **state)
{
    static const char *const bad[] = {"HTTP/1.1\r\n\r\n", "NATS/1.0 40\r\n\r\n",
            "NATS/1.0x\r\n\r\n", "NATS/1.0\r\nA: 1\r\n", "\r\n\r\n", "", "NATS/1.0\n\n\r\n"};
    char text[128];
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "HMSG a 1 %zu %zu\r\n%sx\r\n", strlen(bad[i]),
                strlen(bad[i]) + 1, bad[i]);
        assert_int_equal(read_text(text), 1);
        assert_int_equal(op.lines_size, 0);
        assert_int_equal(op.status, 0);
        assert_memory_equal(op.data, "x", 1);
    }
}

static void reads_the_rest(void **state)
{
    (void)state;
    assert_int_equal(read_text("+OK\r\n"), 1);
    assert_int_equal(op.kind, ZNL_NATS_OK);
    assert_int_equal(read_text("PONG\r\n"), 1);
    assert_int_equal(op.kind, ZNL_NATS_PONG);
    assert_int_equal(read_text("-ERR 'Slow Consumer'\r\n"), 1);
    assert_int_equal(op.kind, ZNL_NATS_ERR);
    assert_true(znl_frame_equal(op.text, znl_frame_text("Slow Consumer")));
    assert_int_equal(read_text("INFO {\"a\":1} \r\n"), 1);
    assert_int_equal(op.kind, ZNL_NATS_INFO);
    assert_true(znl_frame_equal(op.text, znl_frame_text("{\"a\":1}")));
}

static void waits_for_the_rest(void **state)
{
    static const char whole[] = "HMSG a.b 1 r 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n";
    size_t all = 0;
    (void)state;
    for (size_t size = 0; size < sizeof whole - 1; size++) {
        memcpy(bytes, whole, size);
        if (size > 0 && znl_nats_read(bytes, size, &op, &used) != 0)
            fail_msg("%zu bytes are not all", size);
        assert_memory_equal(bytes, whole, size);
        if (used != 0)
            all = used;
    }
    assert_int_equal(all, sizeof whole - 1);
}

static void passes_over_zero_bytes_in_subjects(void **state)
{
    static const char *const odd[] = {"MSG a?b 1 2\r\nhi\r\n", "MSG a 1 r? 2\r\nhi\r\n",
            "HMSG ? 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"};
    (void)state;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        size_t size = strlen(odd[i]);
        memcpy(bytes, odd[i], size);
        *(uint8_t *)memchr(bytes, '?', size) = 0;
        assert_int_equal(znl_nats_read(bytes, size - 1, &op, &used), 0);
        assert_int_equal(used, size);
        assert_int_equal(znl_nats_read(bytes, size, &op, &used), 1);
        assert_int_equal(op.kind, ZNL_NATS_NOISE);
        assert_int_equal(used, size);
    }
}

static void trims_headers(void **state)
{
    static const char lines[] = " A \t: 1 \r\n : none\r\n:\r\nB:\r\n";
    znl_frame name, value;
    size_t at = 0;
    (void)state;
    assert_int_equal(znl_nats_next_header(lines, sizeof lines - 1, &at, &name, &value), 1);
    assert_true(znl_frame_equal(name, znl_frame_text("A")));
    assert_true(znl_frame_equal(value, znl_frame_text("1")));
    assert_int_equal(znl_nats_next_header(lines, sizeof lines - 1, &at, &name, &value), 1);
    assert_true(znl_frame_equal(name, znl_frame_text("B")));
    assert_int_equal(value.size, 0);
    assert_int_equal(znl_nats_next_header(lines, sizeof lines - 1, &at, &name, &value), 0);
}

static void refuses_what_is_no_server(void **state)
{
    static const char *const bad[] = {"HTTP/1.1 400 Bad Request\r\n", "\r\n", "MSG\r\n",
            "MSG a 1\r\n", "MSG a 1 r s 5\r\n", "MSG a x 5\r\nhello\r\n", "MSG a 1 -5\r\n",
            "MSG a 1 5x\r\n", "MSG a 1 9999999999999999999999\r\n", "MSG a 1 2\r\nhello\r\n",
            "HMSG a 1 5 4\r\nhell\r\n", "HMSG a 1 5\r\nhello\r\n", "MSGS a 1 0\r\n\r\n",
            "MSG a 99999999999999999999 0\r\n\r\n"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (read_text(bad[i]) != ZNL_E_PROTO)
            fail_msg("%s", bad[i]);
    }
    assert_int_equal(read_text("MSG a 1 67108865\r\n"), ZNL_E_TOO_BIG);
    uint8_t *line = calloc(1, ZNL_NATS_INFO_BYTES_MAX + 2);
    memset(line, 'x', ZNL_NATS_INFO_BYTES_MAX + 1);
    assert_int_equal(
            znl_nats_read(line, ZNL_NATS_INFO_BYTES_MAX + 1, &op, &used), ZNL_E_TOO_BIG);
    line[ZNL_NATS_INFO_BYTES_MAX] = '\n';
    assert_int_equal(
            znl_nats_read(line, ZNL_NATS_INFO_BYTES_MAX + 1, &op, &used), ZNL_E_TOO_BIG);
    free(line);
}

static void reads_info(void **state)
{
    static const char json[] =
            "{\"server_id\":\"N\",\"max_payload\":1048576,\"headers\":true,\"nonce\":\"abc\","
            "\"tls_required\":true,\"tls_available\":false,\"connect_urls\":[\"a:1\",\"b\\u0041:2\","
            "\"[::1]:3\",5],\"x\":{\"y\":[]}}";
    znl_nats_info info;
    znl_frame url;
    size_t at = 0;
    (void)state;
    assert_int_equal(znl_nats_read_info(znl_frame_text(json), &info), 0);
    assert_int_equal(info.max_payload, 1048576);
    assert_true(info.has_headers && info.needs_tls && !info.offers_tls && !info.is_leaving);
    assert_true(znl_frame_equal(info.nonce, znl_frame_text("abc")));
    assert_int_equal(znl_nats_next_url(&info, &at, &url), 1);
    assert_true(znl_frame_equal(url, znl_frame_text("a:1")));
    assert_int_equal(znl_nats_next_url(&info, &at, &url), 1);
    assert_true(znl_frame_equal(url, znl_frame_text("[::1]:3")));
    assert_int_equal(znl_nats_next_url(&info, &at, &url), 0);
    static const char *const bad[] = {"", "[]", "{", "{\"max_payload\":\"x\"}",
            "{\"max_payload\":-1}", "{} x", "{\"nonce\":\"\xff\"}", "null"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(znl_nats_read_info(znl_frame_text(bad[i]), &info), ZNL_E_PROTO);
}

static void knows_subjects(void **state)
{
    char longest[ZNL_NATS_SUBJECT_BYTES_MAX + 2];
    (void)state;
    assert_true(znl_nats_is_subject("a") && znl_nats_is_subject("a.b*c.\xc3\xa4"));
    assert_true(znl_nats_is_pattern("*.a.>") && znl_nats_is_pattern(">"));
    assert_false(znl_nats_is_subject("*") || znl_nats_is_subject("a.>") ||
            znl_nats_is_subject("") || znl_nats_is_subject("a..b") ||
            znl_nats_is_subject("a\n"));
    assert_false(znl_nats_is_pattern(">.a") || znl_nats_is_pattern("a.") ||
            znl_nats_is_pattern("a b"));
    memset(longest, 'a', sizeof longest);
    longest[ZNL_NATS_SUBJECT_BYTES_MAX] = 0;
    assert_true(znl_nats_is_subject(longest));
    longest[ZNL_NATS_SUBJECT_BYTES_MAX] = 'a';
    longest[ZNL_NATS_SUBJECT_BYTES_MAX + 1] = 0;
    assert_false(znl_nats_is_subject(longest));
}

static void writes_headers_and_connect(void **state)
{
    znl_buffer out = {0};
    (void)state;
    assert_int_equal(znl_nats_put_header(&out, znl_frame_text("A"), znl_frame_text("")), 0);
    assert_int_equal(znl_nats_put_header(&out, znl_frame_text("B"), znl_frame_text("x y")), 0);
    assert_int_equal(
            znl_nats_put_header(&out, znl_frame_text("a:"), znl_frame_text("")), ZNL_E_INVALID);
    assert_int_equal(
            znl_nats_put_header(&out, znl_frame_text(""), znl_frame_text("")), ZNL_E_INVALID);
    assert_int_equal(
            znl_nats_put_header(&out, znl_frame_text("a"), znl_frame_text("1\r\nb: 2")),
            ZNL_E_INVALID);
    assert_true(znl_frame_equal(
            znl_frame_of(out.data, out.size), znl_frame_text("A: \r\nB: x y\r\n")));
    out.size = 0;
    const znl_nats_login login = {.name = "n\"", .user = "u", .password = "p", .version = "1"};
    assert_int_equal(znl_nats_put_connect(&out, &login), 0);
    assert_int_equal(znl_buffer_append(&out, "", 1), 0);
    assert_string_equal((const char *)out.data,
            "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1,\"headers\":true,"
            "\"no_responders\":true,\"lang\":\"c\",\"echo\":false,\"tls_required\":false,"
            "\"version\":\"1\",\"name\":\"n\\\"\",\"user\":\"u\",\"pass\":\"p\"}\r\n");
    znl_buffer_fini(&out);
}

/* Seed and public key of the documentation of nkeys. */
static void signs_with_a_seed(void **state)
{
    static const char seed[] = "SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM";
    static const char file[] =
            "-----BEGIN NATS USER JWT-----\neyJ0.a.b\n------END NATS USER JWT------\n"
            "-----BEGIN USER NKEY SEED-----\n"
            "SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM\n"
            "------END USER NKEY SEED------\n";
    char public_key[ZNL_NKEY_PUBLIC_BYTES], signature[ZNL_NKEY_SIGNATURE_BYTES];
    char other[sizeof seed];
    uint8_t raw[80];
    size_t size;
    znl_frame found;
    (void)state;
    assert_int_equal(
            znl_nkey_sign(znl_frame_text(seed), znl_frame_text("nonce"), public_key, signature),
            0);
    assert_int_equal(strlen(public_key), ZNL_NKEY_PUBLIC_BYTES - 1);
    assert_int_equal(public_key[0], 'U');
    assert_int_equal(strlen(signature), ZNL_NKEY_SIGNATURE_BYTES - 1);
    assert_int_equal(znl_base64url_decode(signature, strlen(signature), raw, &size), 0);
    assert_int_equal(size, crypto_sign_BYTES);
    for (size_t i = 0; i < sizeof seed - 1; i++) {
        memcpy(other, seed, sizeof seed);
        other[i] = other[i] == 'A' ? 'B' : 'A';
        assert_int_equal(znl_nkey_sign(znl_frame_text(other), znl_frame_text("nonce"),
                                 public_key, signature),
                ZNL_E_INVALID);
    }
    assert_int_equal(znl_nkey_find_seed(znl_frame_text(file), &found), 0);
    assert_true(znl_frame_equal(found, znl_frame_text(seed)));
    assert_int_equal(znl_nkey_find_token(znl_frame_text(file), &found), 0);
    assert_true(znl_frame_equal(found, znl_frame_text("eyJ0.a.b")));
    assert_int_equal(znl_nkey_find_token(znl_frame_text(seed), &found), ZNL_E_INVALID);
    assert_int_equal(znl_nkey_find_seed(znl_frame_text("x\n"), &found), ZNL_E_INVALID);
}

static int start(void **state)
{
    (void)state;
    return znl_random_start();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(reads_messages),
            cmocka_unit_test(reads_headers),
            cmocka_unit_test(reads_status),
            cmocka_unit_test(passes_over_headers_that_are_none),
            cmocka_unit_test(reads_the_rest),
            cmocka_unit_test(waits_for_the_rest),
            cmocka_unit_test(passes_over_zero_bytes_in_subjects),
            cmocka_unit_test(trims_headers),
            cmocka_unit_test(refuses_what_is_no_server),
            cmocka_unit_test(reads_info),
            cmocka_unit_test(knows_subjects),
            cmocka_unit_test(writes_headers_and_connect),
            cmocka_unit_test(signs_with_a_seed),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
