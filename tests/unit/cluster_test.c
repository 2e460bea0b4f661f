/* What packets of cluster-client say: reading in any shape, writing, arguments. SPDX-License-Identifier: MIT */
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
#include "codec/cluster.h"

#define DEPTH 8u
#define TEXT(text) znl_frame_of(text, sizeof text - 1)

static znl_cluster_message message;
static znl_buffer scratch;
static uint8_t *copy;

/* Reads a copy that ends where its block does, which lives until the next. */
static int reads(const char *text)
{
    size_t size = strlen(text);
    free(copy);
    copy = malloc(size > 0 ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    return znl_cluster_read(znl_frame_of(copy, size), DEPTH, &scratch, &message);
}

static void assert_text(znl_frame actual, const char *expected)
{
    if (expected == NULL) {
        assert_null(actual.data);
        return;
    }
    assert_non_null(actual.data);
    assert_int_equal(actual.size, strlen(expected));
    assert_memory_equal(actual.data, expected, actual.size);
}

/* --- reading --------------------------------------------------------------------------------------- */

static const char *const type_names[] = {
        [ZNL_CLUSTER_REGISTER] = "register_channel",
        [ZNL_CLUSTER_REGISTERED] = "register_channel_res",
        [ZNL_CLUSTER_HEARTBEAT] = "heartbeat",
        [ZNL_CLUSTER_HEARTBEAT_ANSWER] = "heartbeat_res",
        [ZNL_CLUSTER_SUBSCRIBE] = "subscribe",
        [ZNL_CLUSTER_UNSUBSCRIBE] = "unSubscribe",
        [ZNL_CLUSTER_VALUE] = "subscribe_result",
        [ZNL_CLUSTER_VALUE_TAKEN] = "subscribe_result_res",
        [ZNL_CLUSTER_INVOKE] = "invoke",
        [ZNL_CLUSTER_RESULT] = "invoke_result",
        [ZNL_CLUSTER_CANCEL] = "cancel",
};

static void every_kind(void **state)
{
    (void)state;
    for (int kind = ZNL_CLUSTER_REGISTER; kind <= ZNL_CLUSTER_CANCEL; kind++) {
        char text[128];
        static const char *const shapes[] = {"{\"type\":\"%s\"}", " { \"type\" : \"%s\" } ",
                "{\"x\":[{}],\"type\":\"%s\"}", "{\"type\":7,\"type\":\"%s\"}",
                "{\"t\\u0079pe\":\"%s\",\"\\u0074ypo\":\"x\"}"};
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            snprintf(text, sizeof text, shapes[i], type_names[kind]);
            assert_int_equal(reads(text), 0);
            assert_int_equal(message.kind, kind);
            assert_text(message.type, type_names[kind]);
            assert_null(message.key.data);
            assert_int_equal(message.arg_count, 0);
        }
        /* One character more, one less, other case. */
        snprintf(text, sizeof text, "{\"type\":\"%s_\"}", type_names[kind]);
        assert_int_equal(reads(text), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
        snprintf(text, sizeof text, "{\"type\":\"%s\"}", type_names[kind] + 1);
        assert_int_equal(reads(text), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
        snprintf(text, sizeof text, "{\"type\":\"%c%s\"}", type_names[kind][0] - 32,
                type_names[kind] + 1);
        assert_int_equal(reads(text), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
    }
}

static void fields_in_any_shape(void **state)
{
    (void)state;
    const char *texts[] = {
            "{\"type\":\"invoke\",\"method\":\"get\",\"argLength\":2,\"oneway\":true}",
            "{\"oneway\":true,\"argLength\":2,\"method\":\"get\",\"type\":\"invoke\"}",
            "{\"type\":\"invoke\",\"method\":\"get\",\"argLength\":2.0,\"oneway\":true,\"more\":[{}]}\n",
            "{\"type\":\"invoke\",\"method\":\"\\u0067et\",\"argLength\":0.2e1,\"oneway\":true}",
            "{\"type\":\"x\",\"method\":null,\"argLength\":\"5\",\"oneway\":false,"
            "\"type\":\"invoke\",\"method\":\"get\",\"argLength\":2,\"oneway\":true}",
            "{\"\\u0074\\u0079\\u0070\\u0065\":\"in\\u0076oke\",\"meth\\u006fd\":\"get\","
            "\"arg\\u004cength\":2,\"onewa\\u0079\":true}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(reads(texts[i]), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_INVOKE);
        assert_text(message.type, "invoke");
        assert_text(message.method, "get");
        assert_int_equal(message.arg_count, 2);
        assert_true(message.is_oneway && !message.is_success);
        assert_null(message.channel.data);
        assert_null(message.extension.data);
    }
    /* Several texts with escapes beside each other. */
    assert_int_equal(
            reads("{\"type\":\"\\u0078\",\"channelName\":\"\\u00e9\\\\\",\"key\":\"\\\"k\\\"\","
                  "\"method\":\"\\ud83d\\ude00\",\"reg\":{\"a\":\"\\u0041\"},\"znl\":{ \"v\":1 }}"),
            0);
    assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
    assert_text(message.type, "x");
    assert_text(message.channel, "\xc3\xa9\\");
    assert_text(message.key, "\"k\"");
    assert_text(message.method, "\xf0\x9f\x98\x80");
    assert_text(message.reg, "{\"a\":\"\\u0041\"}");
    assert_text(message.extension, "{ \"v\":1 }");
}

static void absent_and_of_another_kind(void **state)
{
    (void)state;
    assert_int_equal(reads("{}"), 0);
    assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
    assert_null(message.type.data);
    assert_null(message.reg.data);
    assert_int_equal(
            reads("{\"type\":1,\"channelName\":[\"a\"],\"key\":{},\"method\":null,\"oneway\":1,"
                  "\"success\":\"true\",\"znl\":[1],\"reg\":null}"),
            0);
    assert_int_equal(message.kind, ZNL_CLUSTER_UNKNOWN);
    assert_null(message.type.data);
    assert_null(message.channel.data);
    assert_null(message.key.data);
    assert_null(message.method.data);
    assert_null(message.extension.data);
    assert_text(message.reg, "null");
    assert_true(!message.is_oneway && !message.is_success);
    /* Of two the last counts, also when it is of another kind. */
    assert_int_equal(
            reads("{\"type\":\"invoke\",\"key\":\"a\",\"znl\":{},\"oneway\":true,\"type\":\"cancel\","
                  "\"key\":3,\"znl\":3,\"oneway\":null}"),
            0);
    assert_int_equal(message.kind, ZNL_CLUSTER_CANCEL);
    assert_null(message.key.data);
    assert_null(message.extension.data);
    assert_false(message.is_oneway);
    /* An empty text is one. */
    assert_int_equal(reads("{\"type\":\"register_channel\",\"channelName\":\"\"}"), 0);
    assert_text(message.channel, "");
    assert_int_equal(
            reads("{\"type\":\"invoke\",\"method\":\"\",\"argLength\":0,\"oneway\":false}"), 0);
    assert_text(message.method, "");
    assert_int_equal(reads("{\"type\":\"subscribe_result\",\"key\":\"\"}"), 0);
    assert_text(message.key, "");
}

static void counts_of_arguments(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint32_t count;
    } cases[] = {{"0", 0}, {"-0", 0}, {"7", 7}, {"999999999", 999999999},
            {"1000000000", 1000000000}, {"4294967294", UINT32_MAX - 1},
            {"4294967295", UINT32_MAX}, {"4294967296", UINT32_MAX},
            {"18446744073709551616", UINT32_MAX}, {"-1", UINT32_MAX}, {"1.5", UINT32_MAX},
            {"1e300", UINT32_MAX}, {"\"2\"", UINT32_MAX}, {"null", UINT32_MAX},
            {"true", UINT32_MAX}, {"[1]", UINT32_MAX}, {"3e0", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[128];
        snprintf(text, sizeof text,
                "{\"type\":\"invoke\",\"method\":\"m\",\"argLength\":%s,\"oneway\":false}",
                cases[i].text);
        assert_int_equal(reads(text), 0);
        assert_int_equal(message.kind, ZNL_CLUSTER_INVOKE);
        assert_true(message.arg_count == cases[i].count);
    }
    assert_int_equal(
            reads("{\"type\":\"invoke\",\"method\":\"m\",\"argLength\":01,\"oneway\":false}"),
            ZNL_E_PROTO);
    assert_int_equal(
            reads("{\"type\":\"invoke\",\"method\":\"m\",\"argLength\":,\"oneway\":false}"),
            ZNL_E_PROTO);
}

static void refuses_what_is_no_object(void **state)
{
    (void)state;
    static const char *const texts[] = {"", " ", "null", "[]", "\"invoke\"", "1", "{", "{}}",
            "{\"type\":\"heartbeat\"", "{\"type\":\"heartbeat\"}x",
            "{\"type\":\"heartbeat\"}_res\"}",
            "{\"type\":\"invoke_result\",\"success\":true}_result\",\"success\":false}",
            "{\"type\":\"invoke_result\",\"success\":tru}",
            "{\"type\":\"invoke_result\",\"success\":true",
            "{\"type\":\"subscribe_result\",\"key\":\"a}",
            "{\"type\":\"subscribe_result\",\"key\":\"\\x\"}",
            "{\"type\":\"subscribe_result\",\"key\":",
            "{\"type\":\"subscribe_result\",\"key\":\"a\"}}",
            "{\"type\":\"invoke\",\"method\":\"a", "{\"type\":\"invoke\",\"method\":\"\xff\"}",
            "{\"type\":\"invoke\",\"method\":\"a\",\"argLength\":1,\"oneway\":false},\"oneway\":true}",
            "{\"type\":\"\xc0\x80\"}", "{\"type\":\"a\x01\"}", "{type:1}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (reads(texts[i]) != ZNL_E_PROTO)
            fail_msg("reads: %s", texts[i]);
    assert_int_equal(reads("{\"reg\":[[[[[[[]]]]]]]}"), 0);
    assert_int_equal(reads("{\"reg\":[[[[[[[[]]]]]]]]}"), ZNL_E_LIMIT);
    assert_int_equal(znl_cluster_read(TEXT("{\"type\":\"heartbeat\"}"), 0, &scratch, &message),
            ZNL_E_LIMIT);
}

/* The usual texts, with a space in front to be read the general way: no difference. */
static void usual_texts_as_any_other(void **state)
{
    (void)state;
    static const char *const texts[] = {"{\"type\":\"heartbeat\"}",
            "{\"type\":\"heartbeat_res\"}", "{\"type\":\"subscribe_result_res\"}",
            "{\"type\":\"invoke_result\",\"success\":true}",
            "{\"type\":\"invoke_result\",\"success\":false}",
            "{\"type\":\"subscribe_result\",\"key\":\"$$inner$$__{\\\"dataId\\\":\\\"d\\\"}\"}",
            "{\"type\":\"subscribe_result\",\"key\":\"\xe4\xb8\xad\"}",
            "{\"type\":\"invoke\",\"method\":\"echoOne\",\"argLength\":1,\"oneway\":false}",
            "{\"type\":\"invoke\",\"method\":\"\xe4\xb8\xad\",\"argLength\":123456789,\"oneway\":true}",
            "{\"type\":\"invoke\",\"method\":\"a\\nb\",\"argLength\":1234567890,\"oneway\":true}"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char spaced[160], key[64] = "", method[64] = "";
        assert_int_equal(reads(texts[i]), 0);
        znl_cluster_message usual = message;
        memcpy(key, usual.key.size > 0 ? usual.key.data : (const uint8_t *)"", usual.key.size);
        memcpy(method, usual.method.size > 0 ? usual.method.data : (const uint8_t *)"",
                usual.method.size);
        snprintf(spaced, sizeof spaced, " %s", texts[i]);
        assert_int_equal(reads(spaced), 0);
        assert_int_not_equal(usual.kind, ZNL_CLUSTER_UNKNOWN);
        assert_int_equal(usual.kind, message.kind);
        assert_int_equal(usual.type.size, message.type.size);
        assert_int_equal(usual.arg_count, message.arg_count);
        assert_int_equal(usual.is_oneway, message.is_oneway);
        assert_int_equal(usual.is_success, message.is_success);
        assert_text(message.key, usual.key.data != NULL ? key : NULL);
        assert_text(message.method, usual.method.data != NULL ? method : NULL);
    }
}

/* --- writing --------------------------------------------------------------------------------------- */

static void assert_written(const znl_cluster_message *what, const char *expected)
{
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "abc", 3), 0);
    assert_int_equal(znl_cluster_write(what, &out), 0);
    assert_memory_equal(out.data, "abc", 3);
    assert_text(znl_frame_of(out.data + 3, out.size - 3), expected);
    znl_buffer_fini(&out);
}

static void writes_in_the_order_of_the_originals(void **state)
{
    (void)state;
    znl_cluster_message all = {.channel = TEXT("C \"1\""),
            .key = TEXT("k\n"),
            .reg = TEXT("{\"a\":1}"),
            .method = TEXT("m"),
            .extension = TEXT("{\"v\":1}"),
            .arg_count = 3};
    static const char *const texts[] = {
            [ZNL_CLUSTER_REGISTER] =
                    "{\"type\":\"register_channel\",\"channelName\":\"C \\\"1\\\"\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_REGISTERED] = "{\"type\":\"register_channel_res\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_HEARTBEAT] = "{\"type\":\"heartbeat\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_HEARTBEAT_ANSWER] = "{\"type\":\"heartbeat_res\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_SUBSCRIBE] =
                    "{\"type\":\"subscribe\",\"key\":\"k\\n\",\"reg\":{\"a\":1},\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_UNSUBSCRIBE] =
                    "{\"type\":\"unSubscribe\",\"key\":\"k\\n\",\"reg\":{\"a\":1},\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_VALUE] =
                    "{\"type\":\"subscribe_result\",\"key\":\"k\\n\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_VALUE_TAKEN] = "{\"type\":\"subscribe_result_res\",\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_INVOKE] =
                    "{\"type\":\"invoke\",\"method\":\"m\",\"argLength\":3,\"oneway\":false,\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_RESULT] =
                    "{\"type\":\"invoke_result\",\"success\":false,\"znl\":{\"v\":1}}",
            [ZNL_CLUSTER_CANCEL] = "{\"type\":\"cancel\",\"znl\":{\"v\":1}}",
    };
    for (int kind = ZNL_CLUSTER_REGISTER; kind <= ZNL_CLUSTER_CANCEL; kind++) {
        all.kind = (znl_cluster_kind)kind;
        assert_written(&all, texts[kind]);
    }
    znl_cluster_message none = {.kind = ZNL_CLUSTER_SUBSCRIBE};
    assert_written(&none, "{\"type\":\"subscribe\"}");
    none.kind = ZNL_CLUSTER_INVOKE;
    none.method = TEXT("");
    none.is_oneway = 1;
    none.arg_count = UINT32_MAX - 1;
    assert_written(&none,
            "{\"type\":\"invoke\",\"method\":\"\",\"argLength\":4294967294,\"oneway\":true}");
}

static void constants_are_what_is_written(void **state)
{
    (void)state;
    size_t count = 0;
    for (int kind = ZNL_CLUSTER_UNKNOWN; kind <= ZNL_CLUSTER_CANCEL + 1; kind++) {
        for (int is_success = 0; is_success < 2; is_success++) {
            znl_frame text = znl_cluster_text((znl_cluster_kind)kind, is_success);
            if (text.data == NULL)
                continue;
            char expected[64] = "";
            memcpy(expected, text.data, text.size);
            assert_written(&(znl_cluster_message){.kind = (znl_cluster_kind)kind,
                                   .is_success = is_success},
                    expected);
            count++;
        }
    }
    assert_int_equal(count, 12);
}

static void refuses_to_write(void **state)
{
    (void)state;
    znl_buffer out = {0};
    assert_int_equal(znl_buffer_append(&out, "abc", 3), 0);
    const znl_cluster_message refused[] = {{.kind = ZNL_CLUSTER_INVOKE, .method = TEXT("\xff")},
            {.kind = ZNL_CLUSTER_REGISTER, .channel = TEXT("a\xc0\x80")},
            {.kind = ZNL_CLUSTER_SUBSCRIBE, .key = TEXT("\xed\xa0\x80"), .reg = TEXT("1")}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_int_equal(znl_cluster_write(&refused[i], &out), ZNL_E_PROTO);
    assert_int_equal(znl_cluster_write(&(znl_cluster_message){0}, &out), ZNL_E_INVALID);
    assert_int_equal(
            znl_cluster_write(&(znl_cluster_message){.kind = (znl_cluster_kind)1000}, &out),
            ZNL_E_INVALID);
    assert_int_equal(out.size, 3);
    znl_buffer_fini(&out);
}

static void memory_runs_out(void **state)
{
    (void)state;
    const znl_frame text = TEXT("{\"type\":\"subscribe\",\"key\":\"\\n\",\"reg\":1}");
    uint8_t key[1000];
    memset(key, 'k', sizeof key);
    znl_buffer small = {0}, out = {0};
    znl_alloc_fail_after(0);
    assert_int_equal(znl_cluster_read(text, DEPTH, &small, &message), ZNL_E_NOMEM);
    assert_int_equal(znl_cluster_read(TEXT("{\"type\":\"subscribe_result\",\"key\":\"\\n\"}"),
                             DEPTH, &small, &message),
            ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_int_equal(znl_cluster_read(text, DEPTH, &small, &message), 0);
    message.key = znl_frame_of(key, sizeof key);
    for (long n = 0; n < 2; n++) {
        znl_alloc_fail_after(n);
        assert_int_equal(znl_cluster_write(&message, &out), ZNL_E_NOMEM);
        znl_alloc_fail_after(-1);
        assert_int_equal(out.size, 0);
    }
    assert_int_equal(znl_cluster_write(&message, &out), 0);
    znl_buffer_fini(&small);
    znl_buffer_fini(&out);
}

/* --- arguments ------------------------------------------------------------------------------------- */

static void arguments(void **state)
{
    (void)state;
    static const char bytes[] = "\0\0\0\2ab\0\0\0\0\0\0\0\3cde";
    znl_frame rest = TEXT(bytes), argument;
    assert_int_equal(znl_cluster_next_argument(&rest, &argument), 0);
    assert_text(argument, "ab");
    assert_int_equal(znl_cluster_next_argument(&rest, &argument), 0);
    assert_int_equal(argument.size, 0);
    assert_int_equal(znl_cluster_next_argument(&rest, &argument), 0);
    assert_text(argument, "cde");
    assert_int_equal(rest.size, 0);
    assert_int_equal(znl_cluster_next_argument(&rest, &argument), ZNL_E_PROTO);
    const znl_frame refused[] = {{NULL, 0}, TEXT("\0\0\0"), TEXT("\0\0\0\3ab"),
            TEXT("\x7f\xff\xff\xff"
                 "ab"),
            TEXT("\xff\xff\xff\xff"
                 "abcdef"),
            TEXT("\x80\0\0\0")};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        rest = refused[i];
        assert_int_equal(znl_cluster_next_argument(&rest, &argument), ZNL_E_PROTO);
        assert_ptr_equal(rest.data, refused[i].data);
    }
}

static int end(void **state)
{
    (void)state;
    znl_buffer_fini(&scratch);
    free(copy);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(every_kind),
            cmocka_unit_test(fields_in_any_shape),
            cmocka_unit_test(absent_and_of_another_kind),
            cmocka_unit_test(counts_of_arguments),
            cmocka_unit_test(refuses_what_is_no_object),
            cmocka_unit_test(usual_texts_as_any_other),
            cmocka_unit_test(writes_in_the_order_of_the_originals),
            cmocka_unit_test(constants_are_what_is_written),
            cmocka_unit_test(refuses_to_write),
            cmocka_unit_test(memory_runs_out),
            cmocka_unit_test(arguments),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
