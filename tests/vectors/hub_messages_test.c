/* Every message recorded between instances: it reads as it says, and what is written for the same thing says the same.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "codec/hub.h"
#include "support/vector.h"

#define MESSAGES 59 /* in all files together */

static const char *const files[] = {"start", "roster-delta", "heartbeat", "roster-foreign",
        "duplicate-session", "broadcast", "direct", "fanout-foreign", "stop", "driver-none",
        "prefix"};

static znl_buffer scratch, out, list;

static void assert_text(const cJSON *object, const char *key, znl_frame actual)
{
    const char *expected = znl_vector_text(object, key);
    if (expected == NULL) {
        assert_null(actual.data);
        return;
    }
    assert_non_null(actual.data);
    assert_int_equal(actual.size, strlen(expected));
    assert_memory_equal(actual.data, expected, actual.size);
}

/* JSON as it stands is what the key holds. */
static void assert_json(const cJSON *object, const char *key, znl_frame actual)
{
    const cJSON *expected = cJSON_GetObjectItemCaseSensitive(object, key);
    assert_int_equal(expected != NULL, actual.data != NULL);
    if (expected == NULL)
        return;
    cJSON *parsed = cJSON_ParseWithLength((const char *)actual.data, actual.size);
    assert_non_null(parsed);
    assert_true(cJSON_Compare(parsed, expected, 1));
    cJSON_Delete(parsed);
}

static void assert_written(const cJSON *json)
{
    cJSON *parsed = cJSON_ParseWithLength((const char *)out.data, out.size);
    assert_non_null(parsed);
    assert_true(cJSON_Compare(parsed, json, 1));
    cJSON_Delete(parsed);
    out.size = 0;
}

static void check_fan(znl_frame text, const cJSON *json, int is_direct)
{
    znl_hub_fan fan;
    const cJSON *message = znl_vector_object(json, "message");
    assert_int_equal(znl_hub_read_fan(text, &scratch, &fan), 0);
    assert_text(json, "o", fan.origin);
    assert_text(json, "ns", fan.ns);
    assert_text(json, "channel", fan.channel);
    assert_text(json, "userId", fan.user_id);
    assert_json(json, "exceptSessionIds", fan.except);
    assert_json(json, "message", fan.message.text);
    if (message != NULL) {
        assert_json(message, "type", fan.message.type);
        assert_json(message, "payload", fan.message.payload);
        assert_true(fan.message.is_exact);
        assert_int_equal(znl_hub_put_message(&out, &fan.message), 0);
        assert_written(message);
    }
    assert_int_equal(
            is_direct ? znl_hub_put_direct(&out, &fan) : znl_hub_put_broadcast(&out, &fan), 0);
    if (cJSON_GetObjectItemCaseSensitive(json, "v") == NULL) /* unknown fields are not kept */
        assert_written(json);
    out.size = 0;
}

static void check_member(const cJSON *json, const znl_hub_member *member)
{
    assert_text(json, "ns", member->ns);
    assert_text(json, "sessionId", member->session_id);
    assert_text(json, "userId", member->user_id);
    assert_json(json, "metadata", member->metadata);
}

static void check_list(const cJSON *json, znl_hub_roster *message)
{
    const cJSON *item;
    znl_hub_list reader;
    znl_hub_member member;
    uint64_t since;
    list.size = 0;
    znl_buffer_append(&list, "[", 1);
    znl_hub_begin_list(&reader, message);
    ZNL_VECTOR_EACH(item, json, "members")
    {
        assert_int_equal(znl_hub_next_member(&reader, &member, &since, &scratch), 1);
        assert_true(since == ZNL_HUB_NO_NUMBER);
        check_member(item, &member);
        if (list.size > 1)
            znl_buffer_append(&list, ",", 1);
        assert_int_equal(znl_hub_put_member(&list, &member), 0);
    }
    assert_int_equal(znl_hub_next_member(&reader, &member, &since, &scratch), 0);
    assert_int_equal(reader.skipped, 0);
    znl_buffer_append(&list, "]", 1);
    message->members = znl_frame_of(list.data, list.size);
}

static znl_hub_op op_of(const cJSON *json)
{
    static const char *const names[] = {[ZNL_HUB_ADD] = "add",
            [ZNL_HUB_REMOVE] = "remove",
            [ZNL_HUB_HEARTBEAT] = "heartbeat",
            [ZNL_HUB_SYNC] = "sync_request"};
    const char *op = znl_vector_text(json, "op");
    if (op == NULL)
        return ZNL_HUB_NO_OP;
    for (unsigned i = ZNL_HUB_ADD; i <= ZNL_HUB_SYNC; i++)
        if (strcmp(op, names[i]) == 0)
            return (znl_hub_op)i;
    return ZNL_HUB_UNKNOWN;
}

static void check_roster(znl_frame text, const cJSON *json)
{
    znl_hub_roster message;
    const cJSON *member = znl_vector_object(json, "member");
    int is_foreign = member != NULL &&
            cJSON_GetObjectItemCaseSensitive(member, "extra") != NULL;
    assert_int_equal(znl_hub_read_roster(text, &scratch, &message), 0);
    assert_int_equal(message.op, op_of(json));
    assert_text(json, "o", message.origin);
    assert_text(json, "sessionId", message.session_id);
    assert_false(message.is_ours);
    if (member != NULL && znl_vector_has(member, "ns"))
        check_member(member, &message.member);
    else
        assert_null(message.member.session_id.data);
    if (message.op <= ZNL_HUB_UNKNOWN || (member != NULL && !znl_vector_has(member, "ns")))
        return;
    znl_buffer kept = scratch; /* what the message points into */
    scratch = (znl_buffer){0};
    if (message.op == ZNL_HUB_HEARTBEAT)
        check_list(json, &message);
    assert_int_equal(znl_hub_put_roster(&out, &message), 0);
    if (!is_foreign)
        assert_written(json);
    out.size = 0;
    znl_buffer_fini(&scratch);
    scratch = kept;
}

static int has_suffix(const char *text, const char *suffix)
{
    size_t size = strlen(text), length = strlen(suffix);
    return size >= length && strcmp(text + size - length, suffix) == 0;
}

/* In a block of its exact size. */
static void check(const char *subject, const char *text)
{
    znl_frame frame = znl_frame_text(text);
    frame.data = znl_vector_copy(frame);
    cJSON *json = cJSON_Parse(text);
    int is_direct = has_suffix(subject, ".direct"), is_roster = has_suffix(subject, ".roster");
    assert_true(is_direct || is_roster || has_suffix(subject, ".bcast"));
    if (json == NULL) {
        znl_hub_fan fan;
        znl_hub_roster message;
        assert_int_equal(is_roster ? znl_hub_read_roster(frame, &scratch, &message)
                                   : znl_hub_read_fan(frame, &scratch, &fan),
                ZNL_E_PROTO);
    } else if (is_roster) {
        check_roster(frame, json);
    } else {
        check_fan(frame, json, is_direct);
    }
    cJSON_Delete(json);
}

static unsigned check_messages(const cJSON *object)
{
    const cJSON *item, *injected = znl_vector_object(object, "injected");
    unsigned count = 0;
    if (znl_vector_has(object, "messages")) {
        ZNL_VECTOR_EACH(item, object, "messages")
        {
            check(znl_vector_text(item, "subject"), znl_vector_text(item, "text"));
            count++;
        }
    }
    if (injected != NULL) {
        check(znl_vector_text(injected, "subject"), znl_vector_text(injected, "text"));
        count++;
    }
    return count;
}

static void every_recorded_message(void **state)
{
    (void)state;
    unsigned count = 0;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[64];
        snprintf(path, sizeof path, "ws-cluster/%s.json", files[i]);
        const cJSON *file = znl_vector_file(path), *item;
        count += check_messages(file);
        if (znl_vector_has(file, "cases")) {
            ZNL_VECTOR_EACH(item, file, "cases")
            {
                count += check_messages(item);
            }
        }
    }
    assert_int_equal(count, MESSAGES);
    znl_buffer_fini(&scratch);
    znl_buffer_fini(&out);
    znl_buffer_fini(&list);
    znl_vector_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_recorded_message)};
    return cmocka_run_group_tests_name("hub messages", tests, NULL, NULL);
}
