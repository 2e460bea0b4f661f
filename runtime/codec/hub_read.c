/* hub_read.c - see hub.h: reading. SPDX-License-Identifier: MIT */
#include "codec/hub.h"

#include "base/err.h"
#include "base/limits.h"

#define IS(name, plain, expected) is_name(name, plain, expected, sizeof(expected) - 1)

/* A string as it stands; of repeated names the last counts, whatever it is. */
typedef struct quoted {
    znl_frame text; /* {NULL, 0}: absent, or no string */
    int is_plain;
} quoted;

/* Whether a name of JSON, which may have escapes, is `expected`, which is ASCII. */
static inline int is_name(znl_frame name, int is_plain, const char *expected, size_t size)
{
    if (is_plain)
        return name.size == size && memcmp(name.data, expected, size) == 0;
    const uint8_t *at = name.data, *end = name.data + name.size;
    for (; at < end && size > 0; expected++, size--)
        if (znl_json_character(&at, end) != (uint8_t)*expected)
            return 0;
    return at == end && size == 0;
}

static int read_text(znl_json_reader *reader, quoted *out)
{
    znl_frame raw;
    *out = (quoted){0};
    return znl_json_peek(reader) == ZNL_JSON_STRING
            ? znl_json_quoted(reader, &out->text, &out->is_plain)
            : znl_json_skip(reader, &raw);
}

/* A value of that kind as it stands. */
static int read_kind(znl_json_reader *reader, int kind, znl_frame *raw)
{
    int is_kind = znl_json_peek(reader) == kind;
    int err = znl_json_skip(reader, raw);
    if (err != 0 || !is_kind)
        *raw = (znl_frame){0};
    return err;
}

static int read_number(znl_json_reader *reader, uint64_t *number)
{
    znl_frame raw;
    double value;
    int is_integer, err;
    int64_t integer;
    *number = ZNL_HUB_NO_NUMBER;
    if (znl_json_peek(reader) != ZNL_JSON_NUMBER)
        return znl_json_skip(reader, &raw);
    err = znl_json_number(reader, &value, &is_integer, &integer);
    if (err == 0 && is_integer == 1 && integer >= 0 && integer <= (int64_t)ZNL_HUB_NUMBER_MAX)
        *number = (uint64_t)integer;
    return err;
}

/* --- escapes: what they stand for goes to the scratch buffer, all of a message at once ------------- */

static size_t room(const quoted *text)
{
    return text->text.data != NULL && !text->is_plain ? text->text.size : 0;
}

/* Undoes the escapes of each text into `scratch`; texts[i] becomes *frames[i]. */
static int undo(
        const quoted *texts, znl_frame *const *frames, size_t count, znl_buffer *scratch)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += room(&texts[i]);
    int err = size > 0 ? znl_buffer_reserve(scratch, size) : 0;
    if (err != 0)
        return err;
    znl_buffer rest = {scratch->data, 0, scratch->capacity};
    for (size_t i = 0; i < count; i++) {
        *frames[i] = texts[i].text;
        if (room(&texts[i]) == 0)
            continue;
        err = znl_json_unescape(texts[i].text, frames[i], &rest);
        if (err != 0)
            return err;
        size = frames[i]->size;
        rest = (znl_buffer){rest.data + size, 0, rest.capacity - size};
    }
    return 0;
}

/* --- broadcast and direct -------------------------------------------------------------------------- */

/* The object of a message, of which the reader is at the brace. */
static int read_message(znl_json_reader *reader, znl_hub_message *message)
{
    znl_frame name, raw;
    const uint8_t *start = reader->at;
    int is_plain, more, types = 0, payloads = 0, others = 0;
    int err = znl_json_enter(reader);
    *message = (znl_hub_message){0};
    while (err == 0 && (more = err = znl_json_next(reader, &name, &is_plain)) > 0) {
        if (IS(name, is_plain, "type")) {
            types++;
            err = read_kind(reader, ZNL_JSON_STRING, &message->type);
        } else if (IS(name, is_plain, "payload")) {
            payloads++;
            err = znl_json_skip(reader, &message->payload);
        } else {
            others++;
            err = znl_json_skip(reader, &raw);
        }
    }
    if (err != 0)
        return err;
    if (message->type.data == NULL)
        *message = (znl_hub_message){0};
    else
        message->text = znl_frame_of(start, (size_t)(reader->at - start));
    message->is_exact = types == 1 && payloads <= 1 && others == 0;
    return 0;
}

int znl_hub_read_message(znl_frame text, znl_hub_message *message)
{
    znl_json_reader reader;
    *message = (znl_hub_message){0};
    znl_json_begin(&reader, text, ZNL_HUB_DEPTH);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_PROTO;
    int err = read_message(&reader, message);
    return err != 0 ? err : znl_json_end(&reader);
}

enum { FAN_ORIGIN, FAN_NS, FAN_CHANNEL, FAN_USER, FAN_TEXTS };

/* Absent, null or text: anything else must not reach those whom the channel would have kept out. */
static int read_channel(znl_json_reader *reader, quoted *channel)
{
    int kind = znl_json_peek(reader);
    if (kind >= 0 && kind != ZNL_JSON_STRING && kind != ZNL_JSON_NULL)
        return ZNL_E_PROTO;
    return read_text(reader, channel);
}

static int read_except(znl_json_reader *reader, znl_frame *except)
{
    int err = read_kind(reader, ZNL_JSON_ARRAY, except);
    if (err != 0 || except->data == NULL)
        return err;
    const uint8_t *first = except->data + 1;
    while (*first == ' ' || *first == '\t' || *first == '\r' || *first == '\n')
        first++;
    if (*first == ']')
        *except = (znl_frame){0};
    return 0;
}

static int read_fan_field(
        znl_json_reader *reader, znl_hub_fan *fan, quoted *texts, znl_frame name, int is_plain)
{
    znl_frame raw;
    if (IS(name, is_plain, "o"))
        return read_text(reader, &texts[FAN_ORIGIN]);
    if (IS(name, is_plain, "ns"))
        return read_text(reader, &texts[FAN_NS]);
    if (IS(name, is_plain, "message")) {
        fan->message = (znl_hub_message){0};
        return znl_json_peek(reader) == ZNL_JSON_OBJECT ? read_message(reader, &fan->message)
                                                        : znl_json_skip(reader, &raw);
    }
    if (IS(name, is_plain, "channel"))
        return read_channel(reader, &texts[FAN_CHANNEL]);
    if (IS(name, is_plain, "userId"))
        return read_text(reader, &texts[FAN_USER]);
    if (IS(name, is_plain, "exceptSessionIds"))
        return read_except(reader, &fan->except);
    return znl_json_skip(reader, &raw);
}

int znl_hub_read_fan(znl_frame text, znl_buffer *scratch, znl_hub_fan *fan)
{
    znl_json_reader reader;
    quoted texts[FAN_TEXTS] = {0};
    znl_frame *const frames[FAN_TEXTS] = {&fan->origin, &fan->ns, &fan->channel, &fan->user_id};
    znl_frame name;
    int is_plain;
    *fan = (znl_hub_fan){0};
    znl_json_begin(&reader, text, ZNL_HUB_DEPTH);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_PROTO;
    int err = znl_json_enter(&reader);
    while (err == 0 && (err = znl_json_next(&reader, &name, &is_plain)) > 0)
        err = read_fan_field(&reader, fan, texts, name, is_plain);
    if (err == 0)
        err = znl_json_end(&reader);
    return err != 0 ? err : undo(texts, frames, FAN_TEXTS, scratch);
}

void znl_hub_begin_texts(znl_json_reader *reader, znl_frame array)
{
    znl_json_begin(reader, array.data != NULL ? array : znl_frame_text("[]"), ZNL_HUB_DEPTH);
    znl_json_enter(reader);
}

int znl_hub_next_text(znl_json_reader *reader, znl_frame *text, znl_buffer *scratch)
{
    znl_frame name, raw;
    int is_plain, more;
    while ((more = znl_json_next(reader, &name, &is_plain)) > 0) {
        if (znl_json_peek(reader) == ZNL_JSON_STRING) {
            int err = znl_json_string(reader, text, scratch);
            return err != 0 ? err : 1;
        }
        more = znl_json_skip(reader, &raw);
        if (more != 0)
            break;
    }
    return more;
}

/* --- roster ---------------------------------------------------------------------------------------- */

static znl_hub_op op_of(znl_frame op)
{
    if (op.data == NULL)
        return ZNL_HUB_NO_OP;
    if (IS(op, 1, "add"))
        return ZNL_HUB_ADD;
    if (IS(op, 1, "remove"))
        return ZNL_HUB_REMOVE;
    if (IS(op, 1, "heartbeat"))
        return ZNL_HUB_HEARTBEAT;
    if (IS(op, 1, "sync_request"))
        return ZNL_HUB_SYNC;
    if (IS(op, 1, "digest"))
        return ZNL_HUB_DIGEST;
    return IS(op, 1, "ask") ? ZNL_HUB_ASK : ZNL_HUB_UNKNOWN;
}

enum { MEMBER_NS, MEMBER_SESSION, MEMBER_USER, MEMBER_TEXTS };

/* A member, whatever it is: its texts still have their escapes. */
static int read_member(znl_json_reader *reader, quoted *texts, znl_frame *metadata)
{
    znl_frame name, raw;
    int is_plain, err;
    memset(texts, 0, MEMBER_TEXTS * sizeof *texts);
    *metadata = (znl_frame){0};
    if (znl_json_peek(reader) != ZNL_JSON_OBJECT)
        return znl_json_skip(reader, &raw);
    err = znl_json_enter(reader);
    while (err == 0 && (err = znl_json_next(reader, &name, &is_plain)) > 0) {
        if (IS(name, is_plain, "ns")) {
            err = read_text(reader, &texts[MEMBER_NS]);
        } else if (IS(name, is_plain, "sessionId")) {
            err = read_text(reader, &texts[MEMBER_SESSION]);
        } else if (IS(name, is_plain, "userId")) {
            err = read_text(reader, &texts[MEMBER_USER]);
        } else if (IS(name, is_plain, "metadata")) {
            int is_null = znl_json_peek(reader) == ZNL_JSON_NULL;
            err = znl_json_skip(reader, metadata);
            if (is_null)
                *metadata = (znl_frame){0};
        } else {
            err = znl_json_skip(reader, &raw);
        }
    }
    return err;
}

enum {
    ROSTER_ORIGIN,
    ROSTER_OP,
    ROSTER_SESSION,
    ROSTER_TO,
    ROSTER_HASH,
    ROSTER_MEMBER,
    ROSTER_TEXTS = ROSTER_MEMBER + MEMBER_TEXTS
};

/* A number of an add, an array of a heartbeat. */
static int read_since(znl_json_reader *reader, znl_hub_roster *message)
{
    message->since = ZNL_HUB_NO_NUMBER;
    message->sinces = (znl_frame){0};
    return znl_json_peek(reader) == ZNL_JSON_ARRAY ? znl_json_skip(reader, &message->sinces)
                                                   : read_number(reader, &message->since);
}

static int read_version(znl_json_reader *reader, int *is_ours)
{
    uint64_t version;
    int err = read_number(reader, &version);
    *is_ours = version != ZNL_HUB_NO_NUMBER && version >= ZNL_HUB_VERSION;
    return err;
}

static int read_mark(
        znl_json_reader *reader, znl_hub_roster *message, znl_frame name, int is_plain)
{
    znl_frame raw;
    if (IS(name, is_plain, "v"))
        return read_version(reader, &message->is_ours);
    if (IS(name, is_plain, "n"))
        return read_number(reader, &message->n);
    if (IS(name, is_plain, "gen"))
        return read_number(reader, &message->gen);
    if (IS(name, is_plain, "part"))
        return read_number(reader, &message->part);
    if (IS(name, is_plain, "parts"))
        return read_number(reader, &message->parts);
    if (IS(name, is_plain, "since"))
        return read_since(reader, message);
    if (IS(name, is_plain, "count"))
        return read_number(reader, &message->count);
    return znl_json_skip(reader, &raw);
}

static int read_roster_field(znl_json_reader *reader, znl_hub_roster *message, quoted *texts,
        znl_frame name, int is_plain)
{
    if (IS(name, is_plain, "o"))
        return read_text(reader, &texts[ROSTER_ORIGIN]);
    if (IS(name, is_plain, "op"))
        return read_text(reader, &texts[ROSTER_OP]);
    if (IS(name, is_plain, "member"))
        return read_member(reader, &texts[ROSTER_MEMBER], &message->member.metadata);
    if (IS(name, is_plain, "sessionId"))
        return read_text(reader, &texts[ROSTER_SESSION]);
    if (IS(name, is_plain, "members"))
        return read_kind(reader, ZNL_JSON_ARRAY, &message->members);
    if (IS(name, is_plain, "to"))
        return read_text(reader, &texts[ROSTER_TO]);
    if (IS(name, is_plain, "hash"))
        return read_text(reader, &texts[ROSTER_HASH]);
    return read_mark(reader, message, name, is_plain);
}

int znl_hub_read_roster(znl_frame text, znl_buffer *scratch, znl_hub_roster *message)
{
    znl_json_reader reader;
    quoted texts[ROSTER_TEXTS] = {0};
    znl_frame op = {0}, name, raw;
    znl_frame *const frames[ROSTER_TEXTS] = {&message->origin, &op, &message->session_id,
            &message->to, &message->hash, &message->member.ns, &message->member.session_id,
            &message->member.user_id};
    int is_plain, err;
    *message = znl_hub_roster_of(ZNL_HUB_NO_OP);
    znl_json_begin(&reader, text, ZNL_HUB_DEPTH);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT) {
        err = znl_json_skip(&reader, &raw);
        return err != 0 ? err : znl_json_end(&reader);
    }
    err = znl_json_enter(&reader);
    while (err == 0 && (err = znl_json_next(&reader, &name, &is_plain)) > 0)
        err = read_roster_field(&reader, message, texts, name, is_plain);
    if (err == 0)
        err = znl_json_end(&reader);
    if (err == 0)
        err = undo(texts, frames, ROSTER_TEXTS, scratch);
    if (err != 0)
        return err;
    message->op = op_of(op);
    if (message->member.ns.data == NULL || message->member.session_id.data == NULL)
        message->member = (znl_hub_member){0};
    return 0;
}

void znl_hub_begin_list(znl_hub_list *list, const znl_hub_roster *message)
{
    list->skipped = 0;
    list->has_sinces = message->sinces.data != NULL;
    znl_hub_begin_texts(&list->members, message->members);
    znl_hub_begin_texts(&list->sinces, message->sinces);
}

static int next_since(znl_hub_list *list, uint64_t *since)
{
    znl_frame name;
    int is_plain;
    *since = ZNL_HUB_NO_NUMBER;
    if (list->has_sinces && znl_json_next(&list->sinces, &name, &is_plain) > 0)
        return read_number(&list->sinces, since);
    list->has_sinces = 0; /* no more than there are */
    return 0;
}

int znl_hub_next_member(
        znl_hub_list *list, znl_hub_member *member, uint64_t *since, znl_buffer *scratch)
{
    quoted texts[MEMBER_TEXTS];
    znl_frame *const frames[MEMBER_TEXTS] = {
            &member->ns, &member->session_id, &member->user_id};
    znl_frame name;
    int is_plain, more;
    while ((more = znl_json_next(&list->members, &name, &is_plain)) > 0) {
        int err = read_member(&list->members, texts, &member->metadata);
        if (err == 0)
            err = next_since(list, since);
        if (err != 0)
            return err;
        if (texts[MEMBER_NS].text.data != NULL && texts[MEMBER_SESSION].text.data != NULL) {
            err = undo(texts, frames, MEMBER_TEXTS, scratch);
            return err != 0 ? err : 1;
        }
        list->skipped++;
    }
    return more;
}
