/* cluster_write.c - see cluster.h: writing. SPDX-License-Identifier: MIT */
#include "codec/cluster.h"

#include "base/err.h"
#include "codec/decimal.h"
#include "codec/json.h"

#define FIXED_BYTES 128u /* names and type of the longest text, and what stands between */

#define CONSTANT(text)                                                                         \
    {                                                                                          \
        (const uint8_t *)(text), sizeof(text) - 1                                              \
    }

/* How the text of each kind begins; whole with a brace behind it. */
static const znl_frame heads[] = {
        [ZNL_CLUSTER_REGISTER] = CONSTANT("{\"type\":\"register_channel\""),
        [ZNL_CLUSTER_REGISTERED] = CONSTANT("{\"type\":\"register_channel_res\""),
        [ZNL_CLUSTER_HEARTBEAT] = CONSTANT("{\"type\":\"heartbeat\""),
        [ZNL_CLUSTER_HEARTBEAT_ANSWER] = CONSTANT("{\"type\":\"heartbeat_res\""),
        [ZNL_CLUSTER_SUBSCRIBE] = CONSTANT("{\"type\":\"subscribe\""),
        [ZNL_CLUSTER_UNSUBSCRIBE] = CONSTANT("{\"type\":\"unSubscribe\""),
        [ZNL_CLUSTER_VALUE] = CONSTANT("{\"type\":\"subscribe_result\""),
        [ZNL_CLUSTER_VALUE_TAKEN] = CONSTANT("{\"type\":\"subscribe_result_res\""),
        [ZNL_CLUSTER_INVOKE] = CONSTANT("{\"type\":\"invoke\""),
        [ZNL_CLUSTER_RESULT] = CONSTANT("{\"type\":\"invoke_result\""),
        [ZNL_CLUSTER_CANCEL] = CONSTANT("{\"type\":\"cancel\""),
};

znl_frame znl_cluster_text(znl_cluster_kind kind, int is_success)
{
    static const znl_frame texts[] = {
            [ZNL_CLUSTER_REGISTERED] = CONSTANT("{\"type\":\"register_channel_res\"}"),
            [ZNL_CLUSTER_HEARTBEAT] = CONSTANT("{\"type\":\"heartbeat\"}"),
            [ZNL_CLUSTER_HEARTBEAT_ANSWER] = CONSTANT("{\"type\":\"heartbeat_res\"}"),
            [ZNL_CLUSTER_VALUE_TAKEN] = CONSTANT("{\"type\":\"subscribe_result_res\"}"),
            [ZNL_CLUSTER_RESULT] = CONSTANT("{\"type\":\"invoke_result\",\"success\":false}"),
            [ZNL_CLUSTER_CANCEL] = CONSTANT("{\"type\":\"cancel\"}"),
    };
    static const znl_frame success = CONSTANT("{\"type\":\"invoke_result\",\"success\":true}");
    if (kind == ZNL_CLUSTER_RESULT && is_success)
        return success;
    return (size_t)kind < sizeof texts / sizeof texts[0] ? texts[kind] : (znl_frame){0};
}

#define PUT(out, text) znl_buffer_append(out, text, sizeof text - 1)

/* `name` with comma, quotes and colon, then a string; nothing when there is no string. */
static int put_string(znl_buffer *out, const char *name, znl_frame text)
{
    if (text.data == NULL)
        return 0;
    int err = znl_buffer_append(out, name, strlen(name));
    return err != 0 ? err : znl_json_put_string(out, text);
}

/* The same with JSON. */
static int put_json(znl_buffer *out, const char *name, znl_frame json)
{
    if (json.data == NULL)
        return 0;
    int err = znl_buffer_append(out, name, strlen(name));
    return err != 0 ? err : znl_buffer_append(out, json.data, json.size);
}

static int put_invoke(const znl_cluster_message *message, znl_buffer *out)
{
    char digits[ZNL_DECIMAL_WHOLE_MAX];
    int err = put_string(out, ",\"method\":", message->method);
    if (err == 0)
        err = PUT(out, ",\"argLength\":");
    if (err == 0)
        err = znl_buffer_append(out, digits, znl_decimal_whole(message->arg_count, digits));
    if (err == 0)
        err = message->is_oneway ? PUT(out, ",\"oneway\":true") : PUT(out, ",\"oneway\":false");
    return err;
}

static int put_fields(const znl_cluster_message *message, znl_buffer *out)
{
    int err;
    switch (message->kind) {
    case ZNL_CLUSTER_REGISTER:
        return put_string(out, ",\"channelName\":", message->channel);
    case ZNL_CLUSTER_SUBSCRIBE:
    case ZNL_CLUSTER_UNSUBSCRIBE:
        err = put_string(out, ",\"key\":", message->key);
        return err != 0 ? err : put_json(out, ",\"reg\":", message->reg);
    case ZNL_CLUSTER_VALUE:
        return put_string(out, ",\"key\":", message->key);
    case ZNL_CLUSTER_INVOKE:
        return put_invoke(message, out);
    case ZNL_CLUSTER_RESULT:
        return message->is_success ? PUT(out, ",\"success\":true")
                                   : PUT(out, ",\"success\":false");
    default:
        return 0;
    }
}

int znl_cluster_write(const znl_cluster_message *message, znl_buffer *out)
{
    size_t start = out->size;
    size_t index = (size_t)message->kind;
    znl_frame head = index < sizeof heads / sizeof heads[0] ? heads[index] : (znl_frame){0};
    if (head.data == NULL)
        return ZNL_E_INVALID;
    int err = znl_buffer_extend(out, FIXED_BYTES);
    if (err == 0)
        err = znl_buffer_append(out, head.data, head.size);
    if (err == 0)
        err = put_fields(message, out);
    if (err == 0)
        err = put_json(out, ",\"znl\":", message->extension);
    if (err == 0)
        err = PUT(out, "}");
    if (err != 0)
        out->size = start;
    return err;
}
