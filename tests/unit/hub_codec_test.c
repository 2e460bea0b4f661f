/* Messages of hubs on NATS that nobody sends by accident: hostile shapes, escapes, marks, memory.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "codec/hub.h"

static znl_buffer scratch, out;
static uint8_t *held;

static int end(void **state)
{
    (void)state;
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&out);
    free(held);
    held = NULL;
    return 0;
}

/* In a block of its exact size, so that a sanitizer sees a read past its end. */
static znl_frame text_of(const char *text)
{
    size_t size = strlen(text);
    free(held);
    held = malloc(size + !size);
    assert_non_null(held);
    memcpy(held, text, size);
    return znl_frame_of(held, size);
}

static int read_fan(const char *text, znl_hub_fan *fan)
{
    return znl_hub_read_fan(text_of(text), &scratch, fan);
}

static int read_roster(const char *text, znl_hub_roster *message)
{
    return znl_hub_read_roster(text_of(text), &scratch, message);
}

static void assert_frame(znl_frame actual, const char *expected)
{
    if (expected == NULL) {
        assert_null(actual.data);
        return;
    }
    assert_non_null(actual.data);
    assert_int_equal(actual.size, strlen(expected));
    assert_memory_equal(actual.data, expected, actual.size);
}

static void escapes_are_undone_everywhere(void **state)
{
    (void)state;
    znl_hub_fan fan;
    assert_int_equal(
            read_fan(
                    "{\"\\u006f\":\"a\\n\",\"n\\u0073\":\"\\/ws\",\"channel\":\"\\ud83d\\ude00\","
                    "\"userId\":\"\\u0000\",\"message\":{\"t\\u0079pe\":\"\\t\"}}",
                    &fan),
            0);
    assert_frame(fan.origin, "a\n");
    assert_frame(fan.ns, "/ws");
    assert_frame(fan.channel, "\xf0\x9f\x98\x80");
    assert_int_equal(fan.user_id.size, 1);
    assert_int_equal(fan.user_id.data[0], 0);
    assert_frame(fan.message.type, "\"\\t\"");
}

static void fields_of_another_type_count_as_absent(void **state)
{
    (void)state;
    znl_hub_fan fan;
    assert_int_equal(
            read_fan("{\"o\":1,\"ns\":[],\"userId\":{},\"message\":\"m\",\"exceptSessionIds\":"
                     "\"x\",\"channel\":null}",
                    &fan),
            0);
    assert_null(fan.origin.data);
    assert_null(fan.ns.data);
    assert_null(fan.user_id.data);
    assert_null(fan.except.data);
    assert_null(fan.channel.data);
    assert_null(fan.message.text.data);
    /* A message whose type is no text is none. */
    assert_int_equal(
            read_fan("{\"ns\":\"a\",\"message\":{\"type\":1,\"payload\":2}}", &fan), 0);
    assert_null(fan.message.text.data);
}

static void a_channel_of_another_type_is_refused(void **state)
{
    (void)state;
    static const char *const channels[] = {"1", "true", "[]", "{}", "[\"a\"]"};
    znl_hub_fan fan;
    for (size_t i = 0; i < sizeof channels / sizeof channels[0]; i++) {
        char text[128];
        snprintf(text, sizeof text,
                "{\"ns\":\"a\",\"channel\":%s,\"message\":{\"type\":\"t\"}}", channels[i]);
        assert_int_equal(read_fan(text, &fan), ZNL_E_PROTO);
    }
}

static void of_repeated_fields_the_last_counts(void **state)
{
    (void)state;
    znl_hub_fan fan;
    znl_hub_roster message;
    assert_int_equal(
            read_fan(
                    "{\"o\":\"a\",\"o\":\"b\",\"ns\":\"x\",\"ns\":1,\"message\":{\"type\":\"t\"},"
                    "\"message\":{\"type\":\"a\",\"type\":\"b\",\"payload\":1}}",
                    &fan),
            0);
    assert_frame(fan.origin, "b");
    assert_null(fan.ns.data);
    assert_frame(fan.message.type, "\"b\"");
    assert_false(
            fan.message.is_exact); /* the text has two types: clients might take the first */
    assert_int_equal(
            read_roster(
                    "{\"op\":\"add\",\"op\":\"remove\",\"v\":2,\"v\":\"2\",\"n\":1,\"n\":-1}",
                    &message),
            0);
    assert_int_equal(message.op, ZNL_HUB_REMOVE);
    assert_false(message.is_ours);
    assert_true(message.n == ZNL_HUB_NO_NUMBER);
}

static void a_message_goes_to_clients_with_type_and_payload_only(void **state)
{
    (void)state;
    znl_hub_message message;
    assert_int_equal(
            znl_hub_read_message(
                    text_of("{\"secret\":1,\"payload\":{\"a\":[1, 2]},\"type\":\"t\"}"),
                    &message),
            0);
    assert_false(message.is_exact);
    assert_int_equal(znl_hub_put_message(&out, &message), 0);
    assert_frame(
            znl_frame_of(out.data, out.size), "{\"type\":\"t\",\"payload\":{\"a\":[1, 2]}}");
    assert_int_equal(znl_hub_read_message(text_of("{\"type\":\"t\"}"), &message), 0);
    assert_true(message.is_exact);
    assert_int_equal(znl_hub_read_message(text_of("[]"), &message), ZNL_E_PROTO);
    assert_int_equal(
            znl_hub_read_message(text_of("{\"type\":\"t\"} x"), &message), ZNL_E_PROTO);
    assert_int_equal(znl_hub_read_message(text_of("{}"), &message), 0);
    assert_null(message.text.data);
}

static void texts_of_a_list_are_walked(void **state)
{
    (void)state;
    znl_hub_fan fan;
    znl_json_reader reader;
    znl_frame text;
    znl_buffer undone = {0};
    assert_int_equal(
            read_fan(
                    "{\"exceptSessionIds\":[\"a\",1,null,\"\\u0062\",{\"c\":[]},\"d\"]}", &fan),
            0);
    znl_hub_begin_texts(&reader, fan.except);
    assert_int_equal(znl_hub_next_text(&reader, &text, &undone), 1);
    assert_frame(text, "a");
    assert_int_equal(znl_hub_next_text(&reader, &text, &undone), 1);
    assert_frame(text, "b");
    assert_int_equal(znl_hub_next_text(&reader, &text, &undone), 1);
    assert_frame(text, "d");
    assert_int_equal(znl_hub_next_text(&reader, &text, &undone), 0);
    znl_buffer_fini(&undone);
    assert_int_equal(read_fan("{\"exceptSessionIds\":[ \n ]}", &fan), 0);
    assert_null(fan.except.data);
}

static void what_is_no_message_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", " ", "{", "{\"o\"}", "{\"o\":}", "{\"o\":\"a\"",
            "{} {}", "{\"o\":\"\xff\"}", "{\"o\":\"\\x\"}", "nul",
            "{\"message\":{\"type\":\"t\"}", "{\"members\":[}", "{\"members\":[{]}", "{'o':1}",
            "{\"n\":01}"};
    znl_hub_fan fan;
    znl_hub_roster message;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(read_fan(texts[i], &fan), ZNL_E_PROTO);
        assert_int_equal(read_roster(texts[i], &message), ZNL_E_PROTO);
    }
    /* JSON, and no object: a broadcast is none, on the roster it is passed over. */
    assert_int_equal(read_fan("[]", &fan), ZNL_E_PROTO);
    assert_int_equal(read_roster("[]", &message), 0);
    assert_int_equal(message.op, ZNL_HUB_NO_OP);
    assert_int_equal(read_roster("1", &message), 0);
    assert_int_equal(message.op, ZNL_HUB_NO_OP);
}

static void depth_is_bounded(void **state)
{
    (void)state;
    enum { DEEP = 5000 };
    znl_hub_fan fan;
    znl_hub_roster message;
    char *text = malloc(2 * DEEP + 64);
    assert_non_null(text);
    strcpy(text, "{\"message\":");
    size_t size = strlen(text);
    memset(text + size, '[', DEEP);
    memset(text + size + DEEP, ']', DEEP);
    strcpy(text + size + 2 * (size_t)DEEP, "}");
    assert_int_equal(read_fan(text, &fan), ZNL_E_LIMIT);
    assert_int_equal(read_roster(text, &message), ZNL_E_LIMIT);
    free(text);
}

static void marks_are_numbers_every_peer_can_hold(void **state)
{
    (void)state;
    static const char *const bad[] = {
            "-1", "1.5", "1e300", "9007199254740992", "\"1\"", "null", "[1]"};
    znl_hub_roster message;
    assert_int_equal(
            read_roster("{\"op\":\"heartbeat\",\"v\":2,\"n\":9007199254740991,\"gen\":0,"
                        "\"part\":1,\"parts\":3,\"since\":[1,2]}",
                    &message),
            0);
    assert_true(message.is_ours);
    assert_true(message.n == ZNL_HUB_NUMBER_MAX);
    assert_int_equal(message.gen, 0);
    assert_int_equal(message.parts, 3);
    assert_frame(message.sinces, "[1,2]");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"op\":\"add\",\"v\":%s,\"n\":%s,\"since\":%s}", bad[i],
                bad[i], bad[i]);
        assert_int_equal(read_roster(text, &message), 0);
        assert_false(message.is_ours);
        assert_true(message.n == ZNL_HUB_NO_NUMBER);
        assert_true(message.since == ZNL_HUB_NO_NUMBER);
    }
    assert_int_equal(read_roster("{\"v\":1}", &message), 0);
    assert_false(message.is_ours);
    assert_int_equal(read_roster("{\"v\":3}", &message), 0);
    assert_true(message.is_ours);
}

static void members_are_walked_with_their_times(void **state)
{
    (void)state;
    znl_hub_roster message;
    znl_hub_list list;
    znl_hub_member member;
    uint64_t since;
    znl_buffer undone = {0};
    assert_int_equal(
            read_roster(
                    "{\"op\":\"heartbeat\",\"members\":[{\"ns\":\"a\",\"sessionId\":\"s\\u0031\","
                    "\"userId\":7,\"metadata\":null},3,{\"ns\":\"a\"},{\"sessionId\":\"x\",\"ns\":"
                    "null},{\"ns\":\"b\",\"sessionId\":\"s2\",\"userId\":\"u\",\"metadata\":[1]}],"
                    "\"since\":[10,20,30,40,\"x\",60]}",
                    &message),
            0);
    znl_hub_begin_list(&list, &message);
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), 1);
    assert_frame(member.session_id, "s1");
    assert_null(member.user_id.data);
    assert_null(member.metadata.data);
    assert_int_equal(since, 10);
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), 1);
    assert_frame(member.session_id, "s2");
    assert_frame(member.user_id, "u");
    assert_frame(member.metadata, "[1]");
    assert_true(since == ZNL_HUB_NO_NUMBER); /* "x" */
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), 0);
    assert_int_equal(list.skipped, 3);
    /* Fewer times than members. */
    assert_int_equal(
            read_roster("{\"op\":\"heartbeat\",\"members\":[{\"ns\":\"\",\"sessionId\":\"\"}],"
                        "\"since\":[]}",
                    &message),
            0);
    znl_hub_begin_list(&list, &message);
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), 1);
    assert_frame(member.ns, "");
    assert_true(since == ZNL_HUB_NO_NUMBER);
    /* None at all. */
    assert_int_equal(read_roster("{\"op\":\"heartbeat\",\"members\":{}}", &message), 0);
    assert_null(message.members.data);
    znl_hub_begin_list(&list, &message);
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), 0);
    znl_buffer_fini(&undone);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    znl_hub_roster message = znl_hub_roster_of(ZNL_HUB_ADD), back;
    message.origin = znl_frame_text("i\"d");
    message.member = (znl_hub_member){znl_frame_text("/ws"), znl_frame_text("s\n"),
            znl_frame_text("u"), znl_frame_text("{\"a\":1}")};
    message.is_ours = 1;
    message.n = 5;
    message.since = 77;
    assert_int_equal(znl_hub_put_roster(&out, &message), 0);
    assert_frame(znl_frame_of(out.data, out.size),
            "{\"o\":\"i\\\"d\",\"op\":\"add\",\"member\":{\"ns\":\"/ws\",\"sessionId\":\"s\\n\",\"userId\":"
            "\"u\",\"metadata\":{\"a\":1}},\"v\":2,\"n\":5,\"since\":77}");
    assert_int_equal(znl_hub_read_roster(znl_frame_of(out.data, out.size), &scratch, &back), 0);
    assert_int_equal(back.op, ZNL_HUB_ADD);
    assert_frame(back.origin, "i\"d");
    assert_frame(back.member.session_id, "s\n");
    assert_frame(back.member.metadata, "{\"a\":1}");
    assert_int_equal(back.since, 77);
    out.size = 0;
    message = znl_hub_roster_of(ZNL_HUB_DIGEST);
    message.origin = znl_frame_text("a");
    message.is_ours = 1;
    message.count = 3;
    message.hash = znl_frame_text("00ff");
    assert_int_equal(znl_hub_put_roster(&out, &message), 0);
    assert_frame(znl_frame_of(out.data, out.size),
            "{\"o\":\"a\",\"op\":\"digest\",\"v\":2,\"count\":3,\"hash\":\"00ff\"}");
}

static void what_cannot_be_written_leaves_no_trace(void **state)
{
    (void)state;
    znl_hub_fan fan = {.origin = znl_frame_text("a"),
            .ns = znl_frame_text("\xff"),
            .message = {.text = znl_frame_text("{\"type\":\"t\"}")}};
    znl_hub_roster message = znl_hub_roster_of(ZNL_HUB_REMOVE);
    message.session_id = znl_frame_text("\xc3");
    assert_int_equal(znl_buffer_append(&out, "before", 6), 0);
    assert_int_equal(znl_hub_put_broadcast(&out, &fan), ZNL_E_PROTO);
    assert_int_equal(out.size, 6);
    assert_int_equal(znl_hub_put_roster(&out, &message), ZNL_E_PROTO);
    assert_int_equal(out.size, 6);
    message = znl_hub_roster_of(ZNL_HUB_UNKNOWN);
    assert_int_equal(znl_hub_put_roster(&out, &message), ZNL_E_INVALID);
    assert_int_equal(out.size, 6);
}

static void memory_may_be_short(void **state)
{
    (void)state;
    static const char text[] =
            "{\"o\":\"\\u0061\",\"op\":\"heartbeat\",\"members\":[{\"ns\":\"\\u0062\","
            "\"sessionId\":\"\\u0063\"}]}";
    znl_hub_roster message;
    znl_hub_list list;
    znl_hub_member member;
    uint64_t since;
    znl_buffer undone = {0};
    znl_frame frame = text_of(text);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_hub_read_roster(frame, &scratch, &message), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_int_equal(znl_hub_read_roster(frame, &scratch, &message), 0);
    znl_hub_begin_list(&list, &message);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_hub_next_member(&list, &member, &since, &undone), ZNL_E_NOMEM);
    assert_int_equal(znl_hub_put_roster(&out, &message), ZNL_E_NOMEM);
    assert_int_equal(out.size, 0);
    znl_alloc_fail_after(-1);
    znl_buffer_fini(&undone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_teardown(escapes_are_undone_everywhere, end),
            cmocka_unit_test_teardown(fields_of_another_type_count_as_absent, end),
            cmocka_unit_test_teardown(a_channel_of_another_type_is_refused, end),
            cmocka_unit_test_teardown(of_repeated_fields_the_last_counts, end),
            cmocka_unit_test_teardown(
                    a_message_goes_to_clients_with_type_and_payload_only, end),
            cmocka_unit_test_teardown(texts_of_a_list_are_walked, end),
            cmocka_unit_test_teardown(what_is_no_message_is_refused, end),
            cmocka_unit_test_teardown(depth_is_bounded, end),
            cmocka_unit_test_teardown(marks_are_numbers_every_peer_can_hold, end),
            cmocka_unit_test_teardown(members_are_walked_with_their_times, end),
            cmocka_unit_test_teardown(what_is_written_reads_back, end),
            cmocka_unit_test_teardown(what_cannot_be_written_leaves_no_trace, end),
            cmocka_unit_test_teardown(memory_may_be_short, end),
    };
    return cmocka_run_group_tests_name("hub codec", tests, NULL, NULL);
}
