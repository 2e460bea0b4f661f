/* cluster_read.c - see cluster.h: reading. SPDX-License-Identifier: MIT */
#include "codec/cluster.h"

#include "base/err.h"
#include "codec/json.h"
#include "codec/json_scan.h"

#define IS(frame, text)                                                                        \
    ((frame).size == sizeof(text) - 1 && memcmp((frame).data, text, sizeof(text) - 1) == 0)

static znl_cluster_kind kind_of(znl_frame type)
{
    if (IS(type, "invoke"))
        return ZNL_CLUSTER_INVOKE;
    if (IS(type, "invoke_result"))
        return ZNL_CLUSTER_RESULT;
    if (IS(type, "subscribe_result"))
        return ZNL_CLUSTER_VALUE;
    if (IS(type, "subscribe_result_res"))
        return ZNL_CLUSTER_VALUE_TAKEN;
    if (IS(type, "subscribe"))
        return ZNL_CLUSTER_SUBSCRIBE;
    if (IS(type, "unSubscribe"))
        return ZNL_CLUSTER_UNSUBSCRIBE;
    if (IS(type, "heartbeat"))
        return ZNL_CLUSTER_HEARTBEAT;
    if (IS(type, "heartbeat_res"))
        return ZNL_CLUSTER_HEARTBEAT_ANSWER;
    if (IS(type, "register_channel"))
        return ZNL_CLUSTER_REGISTER;
    if (IS(type, "register_channel_res"))
        return ZNL_CLUSTER_REGISTERED;
    if (IS(type, "cancel"))
        return ZNL_CLUSTER_CANCEL;
    return ZNL_CLUSTER_UNKNOWN;
}

/* --- the usual texts ------------------------------------------------------------------------------- */

typedef struct cursor {
    const uint8_t *at, *end;
} cursor;

static inline int eat(cursor *in, const char *text, size_t size)
{
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, text, size) != 0)
        return 0;
    in->at += size;
    return 1;
}

#define EAT(in, text) eat(in, text, sizeof(text) - 1)

/* Whether this is all that is left. */
static inline int is_rest(const cursor *in, const char *text, size_t size)
{
    return (size_t)(in->end - in->at) == size && memcmp(in->at, text, size) == 0;
}

#define REST(in, text) is_rest(in, text, sizeof(text) - 1)

static void set(
        znl_cluster_message *message, znl_cluster_kind kind, const uint8_t *type, size_t size)
{
    message->kind = kind;
    message->type = znl_frame_of(type, size);
}

#define SET(message, kind, type, text) set(message, kind, type, sizeof(text) - 1)

/* After `{"type":"invoke",`: a method of ASCII without escapes, up to 9 digits. */
static int read_usual_invoke(znl_cluster_message *message, cursor *in)
{
    if (!EAT(in, "\"method\":\""))
        return 0;
    const uint8_t *start = in->at;
    in->at = znl_json_find_special(start, in->end);
    message->method = znl_frame_of(start, (size_t)(in->at - start));
    if (!EAT(in, "\",\"argLength\":"))
        return 0;
    uint32_t count = 0;
    start = in->at;
    while (in->at < in->end && (uint8_t)(*in->at - '0') <= 9 && in->at - start < 10)
        count = count * 10 + (uint32_t)(*in->at++ - '0');
    if (in->at == start || in->at - start > 9 || (*start == '0' && in->at - start > 1))
        return 0;
    message->arg_count = count;
    if (REST(in, ",\"oneway\":false}"))
        return 1;
    message->is_oneway = 1;
    return REST(in, ",\"oneway\":true}");
}

/* After `{"type":"subscribe_result","key":`: 1, 0, ZNL_E_NOMEM. */
static int read_usual_value(znl_cluster_message *message, cursor *in, znl_buffer *scratch)
{
    znl_json_reader reader;
    if (in->at == in->end || *in->at != '"')
        return 0;
    znl_json_begin(&reader, znl_frame_of(in->at, (size_t)(in->end - in->at)), 1);
    int err = znl_json_string(&reader, &message->key, scratch);
    in->at = reader.at;
    return err == 0 ? REST(in, "}") : err == ZNL_E_NOMEM ? err : 0;
}

/* 1 when the text is one of these; 0: read it the general way, from the beginning; ZNL_E_NOMEM. */
static int read_usual(znl_cluster_message *message, cursor in, znl_buffer *scratch)
{
    if (!EAT(&in, "{\"type\":\""))
        return 0;
    const uint8_t *type = in.at;
    if (EAT(&in, "invoke")) {
        if (EAT(&in, "\",")) {
            SET(message, ZNL_CLUSTER_INVOKE, type, "invoke");
            return read_usual_invoke(message, &in);
        }
        SET(message, ZNL_CLUSTER_RESULT, type, "invoke_result");
        if (REST(&in, "_result\",\"success\":true}")) {
            message->is_success = 1;
            return 1;
        }
        return REST(&in, "_result\",\"success\":false}");
    }
    if (EAT(&in, "subscribe_result")) {
        if (EAT(&in, "\",\"key\":")) {
            SET(message, ZNL_CLUSTER_VALUE, type, "subscribe_result");
            return read_usual_value(message, &in, scratch);
        }
        SET(message, ZNL_CLUSTER_VALUE_TAKEN, type, "subscribe_result_res");
        return REST(&in, "_res\"}");
    }
    if (EAT(&in, "heartbeat")) {
        SET(message, ZNL_CLUSTER_HEARTBEAT, type, "heartbeat");
        if (REST(&in, "\"}"))
            return 1;
        SET(message, ZNL_CLUSTER_HEARTBEAT_ANSWER, type, "heartbeat_res");
        return REST(&in, "_res\"}");
    }
    return 0;
}

/* --- any shape ------------------------------------------------------------------------------------- */

/* A string as it stands; of repeated names the last counts, whatever it is. */
typedef struct quoted {
    znl_frame text; /* {NULL, 0}: absent, or no string */
    int is_plain;
} quoted;

struct texts {
    quoted type, channel, key, method;
};

/* Whether a name of JSON, which may have escapes, is `name`, which is ASCII. */
static int is_name(znl_frame name, int is_plain, const char *expected)
{
    size_t size = strlen(expected);
    if (is_plain)
        return name.size == size && memcmp(name.data, expected, size) == 0;
    const uint8_t *at = name.data, *end = name.data + name.size;
    for (; at < end && *expected != 0; expected++)
        if (znl_json_character(&at, end) != (uint8_t)*expected)
            return 0;
    return at == end && *expected == 0;
}

static int read_text(znl_json_reader *reader, quoted *out)
{
    znl_frame raw;
    *out = (quoted){0};
    return znl_json_peek(reader) == ZNL_JSON_STRING
            ? znl_json_quoted(reader, &out->text, &out->is_plain)
            : znl_json_skip(reader, &raw);
}

static int read_flag(znl_json_reader *reader, int *flag)
{
    znl_frame raw;
    *flag = znl_json_peek(reader) == ZNL_JSON_TRUE;
    return znl_json_skip(reader, &raw);
}

static int read_count(znl_json_reader *reader, uint32_t *count)
{
    znl_frame raw;
    double value;
    int is_integer, err;
    int64_t integer;
    *count = UINT32_MAX;
    if (znl_json_peek(reader) != ZNL_JSON_NUMBER)
        return znl_json_skip(reader, &raw);
    err = znl_json_number(reader, &value, &is_integer, &integer);
    if (err == 0 && is_integer == 1 && integer >= 0 && integer < UINT32_MAX)
        *count = (uint32_t)integer;
    return err;
}

static int read_extension(znl_json_reader *reader, znl_frame *extension)
{
    int is_object = znl_json_peek(reader) == ZNL_JSON_OBJECT;
    int err = znl_json_skip(reader, extension);
    if (err == 0 && !is_object)
        *extension = (znl_frame){0};
    return err;
}

static int read_field(znl_cluster_message *message, struct texts *texts,
        znl_json_reader *reader, znl_frame name, int is_plain)
{
    znl_frame raw;
    if (is_name(name, is_plain, "type"))
        return read_text(reader, &texts->type);
    if (is_name(name, is_plain, "channelName"))
        return read_text(reader, &texts->channel);
    if (is_name(name, is_plain, "key"))
        return read_text(reader, &texts->key);
    if (is_name(name, is_plain, "reg"))
        return znl_json_skip(reader, &message->reg);
    if (is_name(name, is_plain, "method"))
        return read_text(reader, &texts->method);
    if (is_name(name, is_plain, "argLength"))
        return read_count(reader, &message->arg_count);
    if (is_name(name, is_plain, "oneway"))
        return read_flag(reader, &message->is_oneway);
    if (is_name(name, is_plain, "success"))
        return read_flag(reader, &message->is_success);
    if (is_name(name, is_plain, "znl"))
        return read_extension(reader, &message->extension);
    return znl_json_skip(reader, &raw);
}

/* What a text with escapes may take of the scratch buffer. */
static size_t room(const quoted *text)
{
    return text->text.data != NULL && !text->is_plain ? text->text.size : 0;
}

/* Undoes escapes into *rest, which has the room and moves past them. */
static znl_frame undo(const quoted *text, znl_buffer *rest)
{
    znl_frame out = text->text;
    if (room(text) > 0 && znl_json_unescape(text->text, &out, rest) == 0)
        *rest = (znl_buffer){rest->data + out.size, 0, rest->capacity - out.size};
    return out;
}

static int undo_all(
        znl_cluster_message *message, const struct texts *texts, znl_buffer *scratch)
{
    size_t size = room(&texts->type) + room(&texts->channel) + room(&texts->key) +
            room(&texts->method);
    int err = znl_buffer_reserve(scratch, size);
    if (err != 0)
        return err;
    znl_buffer rest = {scratch->data, 0, scratch->capacity};
    message->type = undo(&texts->type, &rest);
    message->channel = undo(&texts->channel, &rest);
    message->key = undo(&texts->key, &rest);
    message->method = undo(&texts->method, &rest);
    return 0;
}

int znl_cluster_read(
        znl_frame text, unsigned max_depth, znl_buffer *scratch, znl_cluster_message *message)
{
    znl_json_reader reader;
    struct texts texts = {0};
    znl_frame name = {0};
    int is_plain = 1, err;
    *message = (znl_cluster_message){0};
    if (max_depth > 0 && text.size > 0) {
        err = read_usual(message, (cursor){text.data, text.data + text.size}, scratch);
        if (err != 0)
            return err < 0 ? err : 0;
        *message = (znl_cluster_message){0};
    }
    znl_json_begin(&reader, text, max_depth);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_PROTO;
    err = znl_json_enter(&reader);
    while (err == 0 && (err = znl_json_next(&reader, &name, &is_plain)) > 0)
        err = read_field(message, &texts, &reader, name, is_plain);
    if (err == 0)
        err = znl_json_end(&reader);
    if (err == 0)
        err = undo_all(message, &texts, scratch);
    if (err == 0)
        message->kind = message->type.data != NULL ? kind_of(message->type)
                                                   : ZNL_CLUSTER_UNKNOWN;
    return err;
}

/* --- arguments ------------------------------------------------------------------------------------- */

int znl_cluster_next_argument(znl_frame *rest, znl_frame *argument)
{
    if (rest->size < 4)
        return ZNL_E_PROTO;
    uint32_t size = znl_get_be32(rest->data);
    if (size > INT32_MAX || size > rest->size - 4)
        return ZNL_E_PROTO;
    *argument = znl_frame_of(rest->data + 4, size);
    *rest = znl_frame_of(rest->data + 4 + size, rest->size - 4 - size);
    return 0;
}
