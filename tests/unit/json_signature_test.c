/* Signatures: the table of the micro protocol, and what it leaves open. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/json_signature.h"
#include "support/vector.h"

static void assert_signature(znl_frame text, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_json_signature(text, 16, &out), 0);
    if (!znl_frame_equal(znl_frame_of(out.data, out.size), znl_frame_text(expected)))
        fail_msg("%.*s instead of %s", (int)out.size, (const char *)out.data, expected);
    znl_buffer_fini(&out);
}

static void follows_the_table(void **state)
{
    (void)state;
    const cJSON *item;
    size_t cases = 0;
    ZNL_VECTOR_EACH(item, znl_vector_file("micro/signatures.json"), "cases")
    {
        const char *expected = znl_vector_text(item, "signature");
        const cJSON *payload = cJSON_GetObjectItemCaseSensitive(item, "payload");
        cases++;
        if (cJSON_IsString(payload) && strcmp(payload->valuestring, "__undefined__") == 0) {
            assert_signature((znl_frame){0}, expected);
            continue;
        }
        char *text = cJSON_Print(payload); /* with spaces and lines */
        assert_non_null(text);
        assert_signature(znl_frame_text(text), expected);
        cJSON_free(text);
    }
    assert_int_equal(cases, 16);
    znl_vector_end();
}

static void orders_members(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
            {"{\"b\":1,\"a\":{\"d\":2,\"c\":[{\"z\":1,\"y\":2}]}}",
                    "object:{\"a\":object:{\"c\":array:[object:{\"y\":number:2,\"z\":number:1}],"
                    "\"d\":number:2},\"b\":number:1}"},
            /* The last of equal names counts, however they are written. */
            {"{\"a\":1,\"\\u0061\":{\"x\":1},\"a\":3}", "object:{\"a\":number:3}"},
            {"{\"b\":1,\"a\":1,\"b\":2}", "object:{\"a\":number:1,\"b\":number:2}"},
            {"{\"a\":1,\"\":2,\"aa\":3}",
                    "object:{\"\":number:2,\"a\":number:1,\"aa\":number:3}"},
            /* By units of UTF-16: a pair before what comes after the surrogates. */
            {"{\"\xef\xbf\xbd\":1,\"\xf0\x9f\x98\x80\":2,\"\\ud83d\":3,\"z\":4}",
                    "object:{\"z\":number:4,\"\\ud83d\":number:3,\"\xf0\x9f\x98\x80\":number:2,\"\xef\xbf\xbd\":"
                    "number:1}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_signature(znl_frame_text(cases[i][0]), cases[i][1]);
}

static void writes_as_javascript(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"-0", "number:0"}, {"1.0", "number:1"},
            {"1e2", "number:100"}, {"0.1e-6", "number:1e-7"}, {"1e400", "number:Infinity"},
            {"-1e400", "number:-Infinity"}, {"9007199254740993", "number:9007199254740993"},
            {"18446744073709551615", "number:18446744073709551615"},
            {"1152921504606847000", "number:1152921504606847000"},
            {"1.152921504606847e18", "number:1152921504606847000"},
            {" \"\\u0041\\/\\u00e9\\u007f\\b\\f\\n\\r\\t\\u001F\\\\\\\"\" ",
                    "string:\"A/\xc3\xa9\x7f\\b\\f\\n\\r\\t\\u001f\\\\\\\"\""},
            {"\"\\ud83d\\ude00\\uDE00\\uD83D\"", "string:\"\xf0\x9f\x98\x80\\ude00\\ud83d\""},
            {"[[],{}]", "array:[array:[],object:{}]"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_signature(znl_frame_text(cases[i][0]), cases[i][1]);
}

static void refuses_and_leaves_no_trace(void **state)
{
    (void)state;
    static const char *const refused[] = {
            "", "{", "{\"a\":1,\"b\"", "[1,]", "1 2", "{\"b\":1,\"a\":nul}", "\"\xff\""};
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "abc", 3), 0);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_int_equal(znl_json_signature(znl_frame_text(refused[i]), 16, &out), ZNL_E_PROTO);
        assert_int_equal(out.size, 3);
    }
    assert_int_equal(znl_json_signature(znl_frame_text("[[[]]]"), 2, &out), ZNL_E_LIMIT);
    assert_int_equal(out.size, 3);
    znl_buffer_fini(&out);
    static const char text[] = "{\"b\":[1,2],\"a\":\"0123456789\"}";
    int err = ZNL_E_NOMEM;
    for (long n = 0; err != 0; n++) {
        znl_alloc_fail_after(n);
        err = znl_json_signature(znl_frame_text(text), 16, &out);
        znl_alloc_fail_after(-1);
        assert_true(n < 10 && (err == 0 || err == ZNL_E_NOMEM));
        assert_true(err == 0 ? out.size > 0 : out.size == 0);
    }
    znl_buffer_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(follows_the_table),
            cmocka_unit_test(orders_members),
            cmocka_unit_test(writes_as_javascript),
            cmocka_unit_test(refuses_and_leaves_no_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
