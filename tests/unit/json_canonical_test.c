/* JSON as JSON.stringify would write what JSON.parse makes of it. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/json_canonical.h"

#define DEPTH 16u

static void assert_canonical(const char *text, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "abc", 3), 0);
    /* Its own form is its form. */
    for (int i = 0; i < 2; i++) {
        out.size = 3;
        assert_int_equal(znl_json_canonical(znl_frame_text(text), DEPTH, &out), 0);
        assert_memory_equal(out.data, "abc", 3);
        if (!znl_frame_equal(
                    znl_frame_of(out.data + 3, out.size - 3), znl_frame_text(expected)))
            fail_msg("%.*s instead of %s", (int)out.size - 3, (const char *)out.data + 3,
                    expected);
        text = expected;
    }
    znl_buffer_fini(&out);
}

static void numbers_as_javascript(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"-0", "0"}, {"-0.0", "0"}, {"1.0", "1"},
            {"1e2", "100"}, {"0.1e-6", "1e-7"}, {"0.000001", "0.000001"},
            {"100000000000000000000", "100000000000000000000"},
            {"1000000000000000000000", "1e+21"},
            {"123456789012345678901", "123456789012345680000"},
            {"9007199254740993", "9007199254740992"},
            {"18446744073709551615", "18446744073709552000"},
            {"-9223372036854775808", "-9223372036854776000"}, {"1e400", "null"},
            {"-1e400", "null"}, {"1e-400", "0"}, {"5e-324", "5e-324"},
            {"1.7976931348623157e308", "1.7976931348623157e+308"},
            {" [ 1.50 , 2 ] ", "[1.5,2]"}, {"[]", "[]"}, {" { } ", "{}"}, {"null", "null"},
            {"[true,false,null]", "[true,false,null]"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_canonical(cases[i][0], cases[i][1]);
}

static void strings_as_javascript(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
            {"\"\\u0041\\/\\u00e9\\u007f\\b\\f\\n\\r\\t\\u001F\\\\\\\"\"",
                    "\"A/\xc3\xa9\x7f\\b\\f\\n\\r\\t\\u001f\\\\\\\"\""},
            {"\"\\u0008\\u0022\\u005c\\u0000\\u2028\"", "\"\\b\\\"\\\\\\u0000\xe2\x80\xa8\""},
            /* Half of a pair stays an escape, in lower case. */
            {"\"\\ud83d\\ude00\\uDE00\\uD83D\"", "\"\xf0\x9f\x98\x80\\ude00\\ud83d\""},
            {"\"\"", "\"\""}, {"{\"\":\"\"}", "{\"\":\"\"}"},
            {"\"a longer text without any escape at all, \xe4\xb8\xad\"",
                    "\"a longer text without any escape at all, \xe4\xb8\xad\""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_canonical(cases[i][0], cases[i][1]);
}

static void members_as_javascript(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
            {"{\"b\":1, \"a\":2}", "{\"b\":1,\"a\":2}"},
            {"{\"b\":1,\"10\":2,\"a\":3,\"9\":4,\"0\":5}",
                    "{\"0\":5,\"9\":4,\"10\":2,\"b\":1,\"a\":3}"},
            /* Not indexes: leading zeros, signs, beyond 2^32 - 2. */
            {"{\"01\":1,\"-1\":2,\"4294967295\":3,\"1.0\":4,\"4294967294\":5,\"1\":6}",
                    "{\"1\":6,\"4294967294\":5,\"01\":1,\"-1\":2,\"4294967295\":3,\"1.0\":4}"},
            {"{\"99999999999999999999\":1,\"18446744073709551617\":2,\"7\":3}",
                    "{\"7\":3,\"99999999999999999999\":1,\"18446744073709551617\":2}"},
            /* Of equal names, however they are written, the last value in the first place. */
            {"{\"a\":1,\"b\":2,\"\\u0061\":{\"x\":1},\"c\":4,\"a\":3}",
                    "{\"a\":3,\"b\":2,\"c\":4}"},
            {"{\"a\":{\"z\":1,\"z\":2},\"a\":{\"y\":1,\"y\":{\"2\":1,\"1\":1}}}",
                    "{\"a\":{\"y\":{\"1\":1,\"2\":1}}}"},
            {"{\"5\":1,\"\\u0035\":2}", "{\"5\":2}"},
            /* Each level, inside and beside each other. */
            {"[{\"b\":{\"2\":[{\"1\":0,\"0\":1}],\"1\":2},\"0\":{\"y\":1,\"y\":2}},{\"1\":1,\"0\":0},3]",
                    "[{\"0\":{\"y\":2},\"b\":{\"1\":2,\"2\":[{\"0\":1,\"1\":0}]}},{\"0\":0,\"1\":1},3]"},
            {"{\"__proto__\":1,\"toString\":2,\"__proto__\":3}",
                    "{\"__proto__\":3,\"toString\":2}"},
            /* Halves of pairs differ from what stands for them. */
            {"{\"\\ud83d\":1,\"\\ude00\":2,\"\\ud83d\\ude00\":3,\"\xf0\x9f\x98\x80\":4}",
                    "{\"\\ud83d\":1,\"\\ude00\":2,\"\xf0\x9f\x98\x80\":4}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_canonical(cases[i][0], cases[i][1]);
}

/* Many members, from the last to the first, some of them twice. */
static void many_members(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    znl_buffer text = {0}, expected = {0}, out = {0};
    char piece[64];
    for (int i = COUNT; i-- > 0;) {
        int size = snprintf(piece, sizeof piece, "%s\"%d\":%d,\"n%d\":0",
                i == COUNT - 1 ? "{" : ",", i, i, i % 100);
        assert_int_equal(znl_buffer_append(&text, piece, (size_t)size), 0);
    }
    assert_int_equal(znl_buffer_append(&text, "}", 1), 0);
    for (int i = 0; i < COUNT; i++) {
        int size = snprintf(piece, sizeof piece, "%s\"%d\":%d", i == 0 ? "{" : ",", i, i);
        assert_int_equal(znl_buffer_append(&expected, piece, (size_t)size), 0);
    }
    for (int i = 100; i-- > 0;) {
        int size = snprintf(piece, sizeof piece, ",\"n%d\":0", i);
        assert_int_equal(znl_buffer_append(&expected, piece, (size_t)size), 0);
    }
    assert_int_equal(znl_buffer_append(&expected, "}", 1), 0);
    assert_int_equal(znl_json_canonical(znl_frame_of(text.data, text.size), DEPTH, &out), 0);
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, out.size);
    znl_buffer_fini(&text);
    znl_buffer_fini(&expected);
    znl_buffer_fini(&out);
}

/* What is out of order inside what is out of order, and so on, is not copied once for each. */
static void deep_objects(void **state)
{
    (void)state;
    enum { LEVELS = 1000 };
    znl_buffer text = {0}, expected = {0}, out = {0};
    for (int i = 0; i < LEVELS; i++) {
        assert_int_equal(znl_buffer_append(&text, "{\"1\":", 5), 0);
        assert_int_equal(znl_buffer_append(&expected, "{\"0\":0,\"1\":", 11), 0);
    }
    assert_int_equal(znl_buffer_append(&text, "7", 1), 0);
    assert_int_equal(znl_buffer_append(&expected, "7", 1), 0);
    for (int i = 0; i < LEVELS; i++) {
        assert_int_equal(znl_buffer_append(&text, ",\"0\":0}", 7), 0);
        assert_int_equal(znl_buffer_append(&expected, "}", 1), 0);
    }
    znl_frame whole = znl_frame_of(text.data, text.size);
    assert_int_equal(znl_json_canonical(whole, LEVELS, &out), 0);
    assert_int_equal(out.size, expected.size);
    assert_memory_equal(out.data, expected.data, out.size);
    assert_int_equal(znl_json_canonical(whole, LEVELS - 1, &out), ZNL_E_LIMIT);
    assert_int_equal(out.size, expected.size);
    znl_buffer_fini(&text);
    znl_buffer_fini(&expected);
    znl_buffer_fini(&out);
}

static void refuses_and_leaves_no_trace(void **state)
{
    (void)state;
    static const char *const refused[] = {"", " ", "{", "{\"a\":1,\"b\"", "[1,]", "1 2",
            "{\"b\":1,\"a\":nul}", "\"\xff\"", "\"\\x\"", "undefined", "{a:1}", "01",
            "\"\x01\"", "{\"1\":1,\"0\":0}}"};
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "abc", 3), 0);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(
                znl_json_canonical(znl_frame_text(refused[i]), DEPTH, &out), ZNL_E_PROTO);
        assert_int_equal(out.size, 3);
    }
    assert_int_equal(znl_json_canonical(znl_frame_text("[[[]]]"), 2, &out), ZNL_E_LIMIT);
    assert_int_equal(znl_json_canonical(znl_frame_text("{\"a\":{}}"), 1, &out), ZNL_E_LIMIT);
    assert_int_equal(out.size, 3);
    znl_buffer_fini(&out);
}

static void memory_runs_out(void **state)
{
    (void)state;
    static const char text[] = "{\"b\":[1,2],\"1\":\"0123456789\",\"0\":{\"b\":1,\"b\":2}}";
    znl_buffer out = {0};
    int err = ZNL_E_NOMEM;
    long n = 0;
    for (; err != 0; n++) {
        znl_alloc_fail_after(n);
        err = znl_json_canonical(znl_frame_text(text), DEPTH, &out);
        znl_alloc_fail_after(-1);
        assert_true(n < 10 && (err == 0 || err == ZNL_E_NOMEM));
        assert_true(err == 0 ? out.size > 0 : out.size == 0);
    }
    assert_true(n > 4); /* one allocation of each buffer */
    znl_buffer_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(numbers_as_javascript),
            cmocka_unit_test(strings_as_javascript),
            cmocka_unit_test(members_as_javascript),
            cmocka_unit_test(many_members),
            cmocka_unit_test(deep_objects),
            cmocka_unit_test(refuses_and_leaves_no_trace),
            cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
