/* Calls inside payloads, and the capability that allows them: what is written reads back, and nothing
 * else reads. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "codec/call.h"
#include "codec/control.h"

#define TEXT(text) znl_frame_of(text, sizeof text - 1)

static void expect_frame(znl_frame got, const char *want)
{
    assert_int_equal(got.size, strlen(want));
    if (got.size > 0)
        assert_memory_equal(got.data, want, got.size);
}

/* --- payloads ---------------------------------------------------------------------------------- */

static void requests_read_back(void **state)
{
    (void)state;
    static char longest[ZNL_ROUTE_BYTES_MAX];
    memset(longest, 'x', sizeof longest);
    longest[0] = '/';
    const znl_frame routes[] = {{NULL, 0}, TEXT("/"), TEXT("/users/7?all=1"),
            znl_frame_of(longest, sizeof longest)};
    const uint32_t times[] = {0, 1, 5000, UINT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        for (int is_json = 0; is_json < 2; is_json++) {
            uint8_t scratch[ZNL_CALL_HEADER_BYTES_MAX];
            znl_call call = {.is_json = is_json, .timeout_ms = times[i], .route = routes[i]};
            znl_frame frames[ZNL_CALL_LEAD + 1];
            znl_call got;
            znl_call_lead(&call, scratch, frames);
            frames[ZNL_CALL_LEAD] = TEXT("body");
            assert_true(znl_call_is_marked(frames, 3));
            assert_int_equal(znl_call_read(frames, 3, 0, &got), 0);
            assert_int_equal(got.is_json, is_json);
            assert_int_equal(got.timeout_ms, times[i]);
            assert_false(got.is_answer || got.is_error);
            assert_true(znl_frame_equal(got.route, routes[i]));
        }
    }
}

static void answers_read_back(void **state)
{
    (void)state;
    for (int flags = 0; flags < 4; flags++) {
        uint8_t scratch[ZNL_CALL_HEADER_BYTES_MAX];
        znl_call call = {.is_answer = 1, .is_json = flags & 1, .is_error = flags >> 1};
        znl_frame frames[ZNL_CALL_LEAD + 2];
        znl_call got;
        znl_call_lead(&call, scratch, frames);
        assert_int_equal(frames[1].size, 2);
        frames[2] = TEXT("NOT_FOUND");
        frames[3] = TEXT("no such thing");
        size_t count = call.is_error ? 4 : 3;
        assert_int_equal(znl_call_read(frames, count, 1, &got), 0);
        assert_true(got.is_answer);
        assert_int_equal(got.is_json, call.is_json);
        assert_int_equal(got.is_error, call.is_error);
    }
}

static int reads(const void *header, size_t size, size_t body, int is_answer)
{
    znl_frame frames[8] = {TEXT("__znl_v1_call__"), znl_frame_of(header, size), TEXT("CODE"),
            TEXT("text"), TEXT("more")};
    znl_call call;
    return znl_call_read(frames, ZNL_CALL_LEAD + body, is_answer, &call);
}

static void headers_are_strict(void **state)
{
    (void)state;
    assert_int_equal(reads("\1\0\0\0\0\1/x", 8, 1, 0), 0);
    assert_int_equal(reads("\1\0\0\0\0\1/x", 8, 0, 0), 0); /* a raw body may be empty */
    assert_int_equal(reads("\1\1\0\0\0\1/x", 8, 1, 0), 0);
    for (size_t size = 0; size < 6; size++)
        assert_int_equal(reads("\1\0\0\0\0\1/x", size, 1, 0), ZNL_E_PROTO);
    assert_int_equal(reads("\0\0\0\0\0\1/x", 8, 1, 0), ZNL_E_PROTO); /* version */
    assert_int_equal(reads("\2\0\0\0\0\1/x", 8, 1, 0), ZNL_E_PROTO);
    assert_int_equal(reads("\1\2\0\0\0\1/x", 8, 1, 0), ZNL_E_PROTO); /* flags */
    assert_int_equal(reads("\1\200\0\0\0\1/x", 8, 1, 0), ZNL_E_PROTO);
    assert_int_equal(reads("\1\0\0\0\0\1x/", 8, 1, 0), ZNL_E_PROTO); /* route */
    assert_int_equal(reads("\1\1\0\0\0\1/x", 8, 0, 0), ZNL_E_PROTO); /* JSON is one frame */
    assert_int_equal(reads("\1\1\0\0\0\1/x", 8, 2, 0), ZNL_E_PROTO);
    assert_int_equal(reads("\1\0", 2, 3, 1), 0);
    assert_int_equal(reads("\1\2", 2, 2, 1), 0);
    assert_int_equal(reads("\1", 1, 1, 1), ZNL_E_PROTO);
    assert_int_equal(reads("\1\0\0", 3, 1, 1), ZNL_E_PROTO); /* nothing follows the flags */
    assert_int_equal(reads("\1\4", 2, 1, 1), ZNL_E_PROTO);
    assert_int_equal(reads("\1\2", 2, 1, 1), ZNL_E_PROTO); /* an error is code and message */
    assert_int_equal(reads("\1\2", 2, 3, 1), ZNL_E_PROTO);
    static uint8_t long_route[6 + ZNL_ROUTE_BYTES_MAX + 1] = {1, 0, 0, 0, 0, 1, '/'};
    assert_int_equal(reads(long_route, sizeof long_route - 1, 1, 0), 0);
    assert_int_equal(reads(long_route, sizeof long_route, 1, 0), ZNL_E_PROTO);
}

static void marker_alone_is_no_call(void **state)
{
    (void)state;
    znl_frame frames[] = {TEXT("__znl_v1_call__")};
    znl_call call;
    assert_true(znl_call_is_marked(frames, 1));
    assert_int_equal(znl_call_read(frames, 1, 0, &call), ZNL_E_PROTO);
    assert_int_equal(znl_call_read(frames, 1, 1, &call), ZNL_E_PROTO);
    assert_false(znl_call_is_marked(frames, 0));
    frames[0] = TEXT("__znl_v1_call_");
    assert_false(znl_call_is_marked(frames, 1));
    frames[0] = TEXT("__znl_v1_call__ ");
    assert_false(znl_call_is_marked(frames, 1));
}

static void codes_are_words(void **state)
{
    (void)state;
    static const char longest[] =
            "0123456789012345678901234567890123456789012345678901234567890123";
    assert_true(znl_call_is_code(TEXT("HANDLER_ERROR")));
    assert_true(znl_call_is_code(TEXT("no_key_for_peer7")));
    assert_true(znl_call_is_code(TEXT(longest)));
    assert_false(znl_call_is_code(TEXT("")));
    assert_false(znl_call_is_code(TEXT("A B")));
    assert_false(znl_call_is_code(TEXT("A\n")));
    assert_false(znl_call_is_code(TEXT("\xc3\xa9")));
    char too_long[sizeof longest + 1];
    memset(too_long, 'A', sizeof too_long);
    assert_false(znl_call_is_code(znl_frame_of(too_long, 65)));
}

/* --- extensions -------------------------------------------------------------------------------- */

static void capabilities_are_words(void **state)
{
    (void)state;
    assert_true(znl_call_is_capability(znl_call_capability()));
    assert_true(znl_call_is_capability(TEXT("stream=2 call=1 trace=1")));
    assert_true(znl_call_is_capability(TEXT("  call=1 ")));
    assert_false(znl_call_is_capability(TEXT("")));
    assert_false(znl_call_is_capability(TEXT("call=2")));
    assert_false(znl_call_is_capability(TEXT("call=10")));
    assert_false(znl_call_is_capability(TEXT("recall=1")));
    assert_false(znl_call_is_capability(TEXT("call=1,stream=1")));
}

static void extensions_stand_behind_what_is_known(void **state)
{
    (void)state;
    const znl_kind kinds[] = {
            ZNL_KIND_REGISTER, ZNL_KIND_HEARTBEAT, ZNL_KIND_HEARTBEAT_ACK, ZNL_KIND_UNREGISTER};
    const znl_frame none = {NULL, 0};
    znl_frame proof = TEXT("a.b.c");
    znl_frame second = TEXT("d.e.f");
    for (int i = 0; i < 4; i++) {
        for (int is_proven = 0; is_proven < 2; is_proven++) {
            znl_frame frames[ZNL_CONTROL_LEAD_MAX + ZNL_CONTROL_EXTENSION_MAX];
            znl_control control;
            size_t count = znl_control_lead(
                    kinds[i], none, none, is_proven ? &proof : NULL, frames);
            size_t plain = count;
            count += znl_control_extension(
                    TEXT("call=1"), is_proven ? &second : NULL, frames + count);
            assert_int_equal(count - plain, is_proven ? 3 : 2);
            znl_control_parse(frames, count, &control);
            assert_int_equal(control.kind, kinds[i]);
            assert_int_equal(control.has_proof, is_proven);
            assert_int_equal(control.payload_count, 0);
            assert_int_equal(control.has_extension, kinds[i] != ZNL_KIND_UNREGISTER);
            if (control.has_extension) {
                expect_frame(control.capabilities, "call=1");
                expect_frame(control.extension_proof, is_proven ? "d.e.f" : "");
            }
            /* A marker without a frame after it says nothing; nor does one further back. */
            znl_control_parse(frames, plain + 1, &control);
            assert_false(control.has_extension);
            frames[plain] = TEXT("__znl_v1_ext");
            znl_control_parse(frames, count, &control);
            assert_false(control.has_extension);
        }
    }
}

static void payloads_have_no_extension(void **state)
{
    (void)state;
    znl_frame frames[] = {TEXT("__znl_v1__"), TEXT("push"), TEXT("topic"),
            TEXT("__znl_v1_ext__"), TEXT("call=1")};
    znl_control control;
    znl_control_parse(frames, 5, &control);
    assert_int_equal(control.kind, ZNL_KIND_PUSH);
    assert_false(control.has_extension);
    assert_int_equal(control.payload_count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(requests_read_back),
            cmocka_unit_test(answers_read_back),
            cmocka_unit_test(headers_are_strict),
            cmocka_unit_test(marker_alone_is_no_call),
            cmocka_unit_test(codes_are_words),
            cmocka_unit_test(capabilities_are_words),
            cmocka_unit_test(extensions_stand_behind_what_is_known),
            cmocka_unit_test(payloads_have_no_extension),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
