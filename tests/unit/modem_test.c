/* Frames of the micro protocol: what reads, what does not, and what is written. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/modem.h"

#define DEPTH 8u
#define NONE ((znl_frame){0})
#define TEXT(text) znl_frame_of(text, sizeof text - 1)

static znl_modem frame;

static int reads(const char *text)
{
    return znl_modem_read(&frame, znl_frame_text(text), DEPTH);
}

static void assert_text(znl_frame actual, const char *expected)
{
    if (expected == NULL) {
        assert_null(actual.data);
        return;
    }
    assert_int_equal(actual.size, strlen(expected));
    assert_memory_equal(actual.data, expected, actual.size);
}

/* --- reading --------------------------------------------------------------------------------------- */

static void members_in_any_order(void **state)
{
    (void)state;
    const char *texts[] = {
            "{\"id\":7,\"twoway\":true,\"data\":{\"url\":\"/a\",\"data\":{\"b\":[1]}},\"mode\":0,\"stream\":false}",
            "{\"data\":{\"data\":{\"b\":[1]},\"url\":\"/a\"},\"mode\":0,\"twoway\":true,\"id\":7}",
            " { \"more\" : [{}], \"mode\" : 0.0, \"data\" : { \"x\" : null, \"url\" : \"/a\" ,"
            "\"data\": {\"b\":[1]} } , \"id\" : 7 , \"twoway\" : 1 } ",
            "{\"id\":1,\"id\":7,\"data\":{\"url\":\"/z\",\"status\":3},\"data\":{\"url\":\"/a\",\"data\":{\"b\":[1]}},"
            "\"mode\":1,\"mode\":0,\"twoway\":false,\"twoway\":true}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(reads(texts[i]), 0);
        assert_int_equal(frame.mode, ZNL_MODEM_REQUEST);
        assert_true(frame.has_id && frame.has_object && frame.is_twoway);
        assert_false(frame.is_stream);
        assert_int_equal(frame.id, 7);
        assert_text(frame.url, "\"/a\"");
        assert_text(frame.body, "{\"b\":[1]}");
        assert_text(frame.status, NULL);
    }
}

static void what_is_no_frame(void **state)
{
    (void)state;
    const char *texts[] = {"", "not json", "[1,2]", "null", "7", "\"x\"", "{}", "{\"id\":1}",
            "{\"mode\":9}", "{\"mode\":-1}", "{\"mode\":\"0\"}", "{\"mode\":0.5}",
            "{\"mode\":null}", "{\"mode\":0}x", "{\"mode\":0", "{\"mode\":0,}",
            "{\"mode\":0,\"data\":{\"url\":}}", "{\"mode\":0,\"data\":{\"url\":\"/a\",}}",
            "{\"mode\":0,\"data\":\"\xff\"}", "{\"mode\":0,\"id\":01}",
            "{\"mode\":0,\"mode\":8}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (reads(texts[i]) != ZNL_E_PROTO)
            fail_msg("reads: %s", texts[i]);
}

static void ids_are_whole_numbers(void **state)
{
    (void)state;
    assert_int_equal(reads("{\"mode\":0,\"id\":9007199254740992}"), 0);
    assert_true(frame.has_id);
    assert_true(frame.id == ZNL_MODEM_ID_MAX);
    assert_int_equal(reads("{\"mode\":0,\"id\":-5}"), 0);
    assert_true(frame.has_id);
    assert_int_equal(frame.id, -5);
    assert_int_equal(reads("{\"mode\":0,\"id\":1e3}"), 0);
    assert_true(frame.has_id);
    assert_int_equal(frame.id, 1000);
    const char *none[] = {"1.5", "\"7\"", "null", "9007199254740993", "18446744073709551615",
            "1e300", "[1]", "true"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"mode\":0,\"id\":%s}", none[i]);
        assert_int_equal(reads(text), 0);
        assert_false(frame.has_id);
    }
}

static void data_of_any_kind(void **state)
{
    (void)state;
    assert_int_equal(reads("{\"mode\":2,\"data\":4242,\"id\":5}"), 0);
    assert_int_equal(frame.mode, ZNL_MODEM_ABORT);
    assert_true(frame.has_target && !frame.has_object);
    assert_int_equal(frame.target, 4242);
    const char *others[] = {"null", "true", "\"x\"", "[1]", "1.5", "{}"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"mode\":2,\"data\":%s}", others[i]);
        assert_int_equal(reads(text), 0);
        assert_false(frame.has_target);
        assert_int_equal(frame.has_object, others[i][0] == '{');
    }
    /* Of two the last counts, and nothing of the first. */
    assert_int_equal(reads("{\"mode\":2,\"data\":{\"url\":\"/a\"},\"data\":3}"), 0);
    assert_text(frame.url, NULL);
    assert_int_equal(frame.target, 3);
}

static void chunks_and_extensions(void **state)
{
    (void)state;
    assert_int_equal(
            reads("{\"id\":1,\"mode\":1,\"stream\":true,\"streamVersion\":1,\"data\":{\"status\":200,"
                  "\"seq\":3,\"payload\":null,\"final\":false},\"twoway\":false}"),
            0);
    assert_true(frame.is_stream && frame.has_version);
    assert_text(frame.seq, "3");
    assert_text(frame.payload, "null");
    assert_text(frame.final, "false");
    assert_int_equal(reads("{\"id\":1,\"mode\":3,\"data\":{\"id\":9,\"credit\":12}}"), 0);
    assert_true(frame.has_target);
    assert_int_equal(frame.target, 9);
    assert_text(frame.grant_credit, "12");
    assert_int_equal(reads("{\"id\":1,\"mode\":3,\"data\":{\"credit\":12}}"), 0);
    assert_false(frame.has_target);
    assert_int_equal(
            reads("{\"id\":1,\"mode\":0,\"data\":{},\"deadline\":99999999999,\"credit\":-4}"),
            0);
    assert_int_equal(frame.deadline_ms, UINT32_MAX);
    assert_int_equal(frame.credit, 0);
    assert_int_equal(
            reads("{\"mode\":0,\"deadline\":1500,\"credit\":8,\"streamVersion\":2}"), 0);
    assert_int_equal(frame.deadline_ms, 1500);
    assert_int_equal(frame.credit, 8);
    assert_false(frame.has_version);
}

static void truth_is_that_of_javascript(void **state)
{
    (void)state;
    const char *yes[] = {"true", "1", "-1", "0.5", "\"0\"", "[]", "{}"};
    const char *no[] = {"false", "null", "0", "-0", "0.0", "\"\"", ""};
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        assert_true(znl_modem_is_true(znl_frame_text(yes[i])));
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_false(znl_modem_is_true(znl_frame_text(no[i])));
    assert_false(znl_modem_is_true(NONE));
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    assert_int_equal(
            reads("{\"mode\":0,\"data\":{\"url\":\"/\",\"data\":[[[[[[[[]]]]]]]]}}"), 0);
    const char *deep =
            "{\"id\":4,\"twoway\":true,\"data\":{\"url\":\"/\",\"data\":[[[[[[[[[]]]]]]]]]},\"mode\":0}";
    assert_int_equal(reads(deep), ZNL_E_LIMIT);
    assert_true(frame.has_id && frame.is_twoway);
    assert_int_equal(frame.id, 4);
    assert_int_equal(frame.mode, -1);
}

static void texts_without_escapes(void **state)
{
    (void)state;
    znl_buffer scratch = {0};
    znl_frame text;
    assert_int_equal(znl_modem_text(TEXT("\"/plain\""), &scratch, &text), 0);
    assert_text(text, "/plain");
    assert_null(scratch.data);
    assert_int_equal(znl_modem_text(TEXT("\"\\u002fa\\n\""), &scratch, &text), 0);
    assert_text(text, "/a\n");
    assert_int_equal(znl_modem_text(TEXT("7"), &scratch, &text), ZNL_E_PROTO);
    assert_int_equal(znl_modem_text(NONE, &scratch, &text), ZNL_E_PROTO);
    znl_buffer_fini(&scratch);
}

/* --- writing --------------------------------------------------------------------------------------- */

static znl_buffer out;

static void assert_out(int err, const char *expected)
{
    assert_int_equal(err, 0);
    if (out.size != strlen(expected) || memcmp(out.data, expected, out.size) != 0)
        fail_msg("%.*s\nwanted %s", (int)out.size, (const char *)out.data, expected);
    out.size = 0;
}

static void requests_as_written(void **state)
{
    (void)state;
    znl_modem_request request = {
            .id = 0, .url = TEXT("/echo"), .data = TEXT("{\"a\":1}"), .is_twoway = 1};
    assert_out(znl_modem_put_request(&out, &request),
            "{\"id\":0,\"twoway\":true,\"data\":{\"url\":\"/echo\",\"data\":{\"a\":1}},\"mode\":0}");
    request = (znl_modem_request){.id = ZNL_MODEM_ID_MAX - 1,
            .url = TEXT("/\"\xc3\xa4\n"),
            .is_stream = 1,
            .deadline_ms = UINT32_MAX,
            .credit = 256};
    assert_out(znl_modem_put_request(&out, &request),
            "{\"id\":9007199254740991,\"twoway\":false,\"data\":{\"url\":\"/\\\"\xc3\xa4\\n\"},\"mode\":0,"
            "\"stream\":true,\"deadline\":4294967295,\"credit\":256}");
    request.url = TEXT("/\xff");
    assert_int_equal(znl_modem_put_request(&out, &request), ZNL_E_INVALID);
    assert_int_equal(out.size, 0);
}

static void answers_as_written(void **state)
{
    (void)state;
    assert_out(znl_modem_put_answer(&out, 3, NONE),
            "{\"id\":3,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200}}");
    assert_out(znl_modem_put_answer(&out, -3, TEXT("null")),
            "{\"id\":-3,\"mode\":1,\"twoway\":false,\"data\":{\"status\":200,\"data\":null}}");
    znl_modem_refusal refusal = {.is_number = 1, .number = 418, .text = TEXT("teapot")};
    assert_out(znl_modem_put_refusal(&out, 1, &refusal),
            "{\"id\":1,\"mode\":1,\"twoway\":false,\"data\":{\"status\":418,\"data\":null,\"message\":"
            "\"teapot\"}}");
    refusal = (znl_modem_refusal){.is_number = 1, .number = INFINITY};
    assert_out(znl_modem_put_refusal(&out, 1, &refusal),
            "{\"id\":1,\"mode\":1,\"twoway\":false,\"data\":{\"status\":500,\"data\":null}}");
    refusal = (znl_modem_refusal){.status = TEXT("E_\xff"), .text = TEXT("a\xff\n\xc3\xa4")};
    assert_out(znl_modem_put_refusal(&out, 1, &refusal),
            "{\"id\":1,\"mode\":1,\"twoway\":false,\"data\":{\"status\":\"E_?\",\"data\":null,\"message\":"
            "\"a?\\n??\"}}");
}

static void streams_as_written(void **state)
{
    (void)state;
    assert_out(znl_modem_put_chunk(&out, 0, 1, TEXT("{\"seq\":2}"), 0),
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":1,\"payload\":{\"seq\":2},"
            "\"final\":false},\"twoway\":false}");
    assert_out(znl_modem_put_final(&out, 0, 2, 1),
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":2,\"final\":true},\"twoway\":"
            "false,\"streamVersion\":1}");
    const znl_modem_refusal refusal = {.status = TEXT("E_X"), .text = TEXT("gone")};
    assert_out(znl_modem_put_stream_refusal(&out, 0, 0, &refusal, 0),
            "{\"id\":0,\"mode\":1,\"stream\":true,\"data\":{\"status\":\"E_X\",\"seq\":0,\"payload\":\"gone\","
            "\"final\":true},\"twoway\":false}");
    assert_out(znl_modem_put_abort(&out, 1, 0),
            "{\"id\":1,\"twoway\":false,\"data\":0,\"mode\":2}");
    assert_out(znl_modem_put_grant(&out, 1, 5, 9),
            "{\"id\":1,\"twoway\":false,\"mode\":3,\"data\":{\"id\":5,\"credit\":9}}");
    znl_buffer_fini(&out);
}

/* Every allocation fails once: nothing stays half written. */
static void without_memory(void **state)
{
    (void)state;
    static char text[3000];
    memset(text, '\n', sizeof text); /* doubles in size */
    const znl_modem_refusal refusal = {
            .status = znl_frame_of(text, sizeof text), .text = znl_frame_of(text, sizeof text)};
    const znl_modem_request request = {
            .url = znl_frame_of(text, sizeof text), .data = znl_frame_of(text, sizeof text)};
    for (int what = 0; what < 3; what++) {
        int err = ZNL_E_NOMEM, rounds = 0;
        for (; err == ZNL_E_NOMEM; rounds++) {
            znl_buffer small = {0};
            znl_alloc_fail_after(rounds);
            err = what == 0     ? znl_modem_put_request(&small, &request)
                    : what == 1 ? znl_modem_put_refusal(&small, 1, &refusal)
                                : znl_modem_put_stream_refusal(&small, 1, 2, &refusal, 1);
            znl_alloc_fail_after(-1);
            assert_true(err == 0 || (err == ZNL_E_NOMEM && small.size == 0));
            znl_buffer_fini(&small);
        }
        assert_int_equal(err, 0);
        assert_true(rounds > 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(members_in_any_order),
            cmocka_unit_test(what_is_no_frame),
            cmocka_unit_test(ids_are_whole_numbers),
            cmocka_unit_test(data_of_any_kind),
            cmocka_unit_test(chunks_and_extensions),
            cmocka_unit_test(truth_is_that_of_javascript),
            cmocka_unit_test(nesting_is_bounded),
            cmocka_unit_test(texts_without_escapes),
            cmocka_unit_test(requests_as_written),
            cmocka_unit_test(answers_as_written),
            cmocka_unit_test(streams_as_written),
            cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
