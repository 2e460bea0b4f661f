/* modem.c - see modem.h. SPDX-License-Identifier: MIT */
#include "codec/modem.h"

#include "base/err.h"
#include "codec/decimal.h"
#include "codec/json.h"
#include "codec/json_scan.h"

#include <math.h>

#define ENVELOPE_DEPTH 2u /* the frame, and its `data` */

#define IS(name, text) (memcmp((name).data, text, sizeof text - 1) == 0)

/* --- JSON texts ------------------------------------------------------------------------------------ */

int znl_modem_integer(znl_frame value, int64_t *integer)
{
    znl_json_reader reader;
    double number;
    int is_integer;
    if (value.size > 0 && value.size <= 15) { /* digits alone, as nearly always */
        int64_t sum = 0;
        size_t i = 0;
        for (; i < value.size && value.data[i] >= '0' && value.data[i] <= '9'; i++)
            sum = sum * 10 + (value.data[i] - '0');
        if (i == value.size) {
            *integer = sum;
            return 1;
        }
    }
    znl_json_begin(&reader, value, 1);
    if (znl_json_peek(&reader) != ZNL_JSON_NUMBER ||
            znl_json_number(&reader, &number, &is_integer, integer) != 0 || is_integer != 1)
        return 0;
    return *integer >= -ZNL_MODEM_ID_MAX && *integer <= ZNL_MODEM_ID_MAX;
}

int znl_modem_is_true(znl_frame value)
{
    znl_json_reader reader;
    double number;
    int is_integer;
    int64_t integer;
    znl_json_begin(&reader, value, 1);
    switch (value.size > 0 ? znl_json_peek(&reader) : ZNL_JSON_NULL) {
    case ZNL_JSON_TRUE:
    case ZNL_JSON_ARRAY:
    case ZNL_JSON_OBJECT:
        return 1;
    case ZNL_JSON_STRING:
        return value.size > 2;
    case ZNL_JSON_NUMBER:
        return znl_json_number(&reader, &number, &is_integer, &integer) == 0 &&
                (number < 0 || number > 0);
    default:
        return 0;
    }
}

int znl_modem_text(znl_frame value, znl_buffer *scratch, znl_frame *text)
{
    if (value.size < 2 || value.data[0] != '"')
        return ZNL_E_PROTO;
    znl_frame quoted = znl_frame_of(value.data + 1, value.size - 2);
    if (memchr(quoted.data, '\\', quoted.size) != NULL)
        return znl_json_unescape(quoted, text, scratch);
    *text = quoted;
    return 0;
}

/* --- reading --------------------------------------------------------------------------------------- */

static uint32_t positive(znl_frame value)
{
    int64_t integer;
    if (!znl_modem_integer(value, &integer) || integer <= 0)
        return 0;
    return integer < UINT32_MAX ? (uint32_t)integer : UINT32_MAX;
}

/* Where the value of a member of `data` is kept; NULL: nobody asks for it. */
static znl_frame *inner_place(znl_modem *out, znl_frame name)
{
    switch (name.size) {
    case 2:
        return IS(name, "id") ? &out->grant_id : NULL;
    case 3:
        return IS(name, "url") ? &out->url : IS(name, "seq") ? &out->seq : NULL;
    case 4:
        return IS(name, "data") ? &out->body : NULL;
    case 5:
        return IS(name, "final") ? &out->final : NULL;
    case 6:
        return IS(name, "status")    ? &out->status
                : IS(name, "credit") ? &out->grant_credit
                                     : NULL;
    case 7:
        return IS(name, "payload") ? &out->payload : IS(name, "message") ? &out->message : NULL;
    default:
        return NULL;
    }
}

static int read_data(znl_modem *out, znl_json_reader *reader)
{
    znl_frame name, value;
    int is_plain;
    /* Of two `data` the last counts, and nothing of the first. */
    out->has_object = out->has_target = 0;
    out->url = out->body = out->status = out->message = out->seq = out->payload = out->final =
            out->grant_id = out->grant_credit = (znl_frame){0};
    int kind = znl_json_peek(reader);
    if (kind != ZNL_JSON_OBJECT) {
        int err = kind < 0 ? kind : znl_json_skip(reader, &value);
        if (err == 0 && kind == ZNL_JSON_NUMBER)
            out->has_target = znl_modem_integer(value, &out->target);
        return err;
    }
    out->has_object = 1;
    int err = znl_json_enter(reader);
    while (err == 0 && (err = znl_json_next(reader, &name, &is_plain)) > 0) {
        znl_frame *place = is_plain ? inner_place(out, name) : NULL;
        err = znl_json_skip(reader, place != NULL ? place : &value);
    }
    return err;
}

static int read_member(znl_modem *out, znl_json_reader *reader, znl_frame name)
{
    znl_frame value;
    int64_t integer;
    int err;
    if (name.size == 4 && IS(name, "data"))
        return read_data(out, reader);
    err = znl_json_skip(reader, &value);
    if (err != 0)
        return err;
    switch (name.size) {
    case 2:
        if (IS(name, "id"))
            out->has_id = znl_modem_integer(value, &out->id);
        break;
    case 4:
        if (IS(name, "mode"))
            out->mode = znl_modem_integer(value, &integer) && integer >= ZNL_MODEM_REQUEST &&
                            integer <= ZNL_MODEM_GRANT
                    ? (int)integer
                    : -1;
        break;
    case 6:
        if (IS(name, "twoway"))
            out->is_twoway = znl_modem_is_true(value);
        else if (IS(name, "stream"))
            out->is_stream = znl_modem_is_true(value);
        else if (IS(name, "credit"))
            out->credit = positive(value);
        break;
    case 8:
        if (IS(name, "deadline"))
            out->deadline_ms = positive(value);
        break;
    case 13:
        if (IS(name, "streamVersion"))
            out->has_version = znl_modem_integer(value, &integer) && integer == 1;
        break;
    default:
        break;
    }
    return 0;
}

/* --- the usual shapes ------------------------------------------------------------------------------
 *
 * Frames as the originals and we write them: same members, same order, no white space. Their envelope is
 * compared instead of read, a third less work for 200 bytes of data; all else goes the general way. */

typedef struct cursor {
    const uint8_t *at, *end;
} cursor;

static int eat_bytes(cursor *in, const char *text, size_t size)
{
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, text, size) != 0)
        return 0;
    in->at += size;
    return 1;
}

#define EAT(in, text) eat_bytes(in, text, sizeof text - 1)

/* A whole number without sign, of at most 15 digits. */
static int eat_number(cursor *in, znl_frame *raw, int64_t *value)
{
    const uint8_t *start = in->at, *at = start;
    const uint8_t *stop = in->end - start > 16 ? start + 16 : in->end;
    int64_t sum = 0;
    for (; at < stop && (uint8_t)(*at - '0') <= 9; at++)
        sum = sum * 10 + (*at - '0');
    size_t size = (size_t)(at - start);
    if (size == 0 || size > 15 || (size > 1 && *start == '0'))
        return 0;
    *raw = znl_frame_of(start, size);
    *value = sum;
    in->at = at;
    return 1;
}

/* A string of ASCII without escapes, with its quotes. */
static int eat_plain_string(cursor *in, znl_frame *raw)
{
    const uint8_t *start = in->at;
    if (!EAT(in, "\""))
        return 0;
    in->at = znl_json_find_special(in->at, in->end);
    if (!EAT(in, "\""))
        return 0;
    *raw = znl_frame_of(start, (size_t)(in->at - start));
    return 1;
}

static int eat_value(cursor *in, znl_frame *raw, unsigned max_depth)
{
    znl_json_reader reader;
    znl_json_begin(&reader, znl_frame_of(in->at, (size_t)(in->end - in->at)), max_depth);
    if (znl_json_skip(&reader, raw) != 0 || raw->data != in->at)
        return 0;
    in->at = raw->data + raw->size;
    return 1;
}

/* After `"id":…`: {"url":…,"data":…} and what follows it. */
static int read_usual_request(znl_modem *out, cursor *in, unsigned max_depth)
{
    znl_frame raw;
    int64_t number;
    if (EAT(in, "true"))
        out->is_twoway = 1;
    else if (!EAT(in, "false"))
        return 0;
    if (!EAT(in, ",\"data\":{\"url\":") || !eat_plain_string(in, &out->url))
        return 0;
    if (EAT(in, ",\"data\":") && !eat_value(in, &out->body, max_depth))
        return 0;
    if (!EAT(in, "},\"mode\":0"))
        return 0;
    if (EAT(in, ",\"stream\":true"))
        out->is_stream = 1;
    else
        EAT(in, ",\"stream\":false");
    if (EAT(in, ",\"deadline\":")) {
        if (!eat_number(in, &raw, &number))
            return 0;
        out->deadline_ms = positive(raw);
    }
    if (EAT(in, ",\"credit\":")) {
        if (!eat_number(in, &raw, &number))
            return 0;
        out->credit = positive(raw);
    }
    out->mode = ZNL_MODEM_REQUEST;
    return EAT(in, "}");
}

/* After `"mode":1`: an answer of status 200, or a chunk. */
static int read_usual_response(znl_modem *out, cursor *in, unsigned max_depth)
{
    int64_t number;
    out->mode = ZNL_MODEM_RESPONSE;
    if (EAT(in, ",\"twoway\":false,\"data\":{\"status\":")) {
        if (!eat_number(in, &out->status, &number))
            return 0;
        if (EAT(in, ",\"data\":") && !eat_value(in, &out->body, max_depth))
            return 0;
        return EAT(in, "}}");
    }
    if (!EAT(in, ",\"stream\":true,\"data\":{\"status\":") ||
            !eat_number(in, &out->status, &number) || !EAT(in, ",\"seq\":") ||
            !eat_number(in, &out->seq, &number) || !EAT(in, ",\"payload\":") ||
            !eat_value(in, &out->payload, max_depth) || !EAT(in, ",\"final\":"))
        return 0;
    out->is_stream = 1;
    out->final = znl_frame_of(in->at, sizeof "false" - 1);
    return EAT(in, "false},\"twoway\":false}");
}

/* 1 when the frame has one of these shapes; 0: read it the general way, from the beginning. */
static int read_usual(znl_modem *out, znl_frame text, unsigned max_depth)
{
    cursor in = {text.data, text.data + text.size};
    znl_frame raw;
    if (!EAT(&in, "{\"id\":") || !eat_number(&in, &raw, &out->id))
        return 0;
    out->has_id = out->has_object = 1;
    int is_read = EAT(&in, ",\"twoway\":") ? read_usual_request(out, &in, max_depth)
            : EAT(&in, ",\"mode\":1")      ? read_usual_response(out, &in, max_depth)
                                           : 0;
    return is_read && in.at == in.end;
}

/* --- any shape ------------------------------------------------------------------------------------- */

int znl_modem_read(znl_modem *out, znl_frame text, unsigned max_depth)
{
    znl_json_reader reader;
    znl_frame name;
    int is_plain;
    memset(out, 0, sizeof *out);
    if (max_depth > ZNL_JSON_DEPTH_MAX - ENVELOPE_DEPTH)
        max_depth = ZNL_JSON_DEPTH_MAX - ENVELOPE_DEPTH;
    if (text.size > 0 && read_usual(out, text, max_depth))
        return 0;
    memset(out, 0, sizeof *out);
    out->mode = -1;
    znl_json_begin(&reader, text, max_depth + ENVELOPE_DEPTH);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT)
        return ZNL_E_PROTO;
    int err = znl_json_enter(&reader);
    while (err == 0 && (err = znl_json_next(&reader, &name, &is_plain)) > 0)
        err = read_member(out, &reader, is_plain ? name : (znl_frame){0});
    if (err == 0)
        err = znl_json_end(&reader);
    if (err != 0)
        return err;
    if (out->mode == ZNL_MODEM_GRANT)
        out->has_target = out->has_object && znl_modem_integer(out->grant_id, &out->target);
    return out->mode >= 0 ? 0 : ZNL_E_PROTO;
}

/* --- writing --------------------------------------------------------------------------------------- */

/* What a frame takes beside its texts: names, two ids, a sequence number, flags. */
#define FIXED_BYTES 224u

#define PUT(at, text) (memcpy(at, text, sizeof text - 1), (at) + sizeof text - 1)

static uint8_t *put_frame(uint8_t *at, znl_frame frame)
{
    if (frame.size > 0)
        memcpy(at, frame.data, frame.size);
    return at + frame.size;
}

static uint8_t *put_unsigned(uint8_t *at, uint64_t value)
{
    return at + znl_decimal_whole(value, (char *)at);
}

static uint8_t *put_integer(uint8_t *at, int64_t value)
{
    if (value >= 0)
        return put_unsigned(at, (uint64_t)value);
    *at++ = '-';
    return put_unsigned(at, 0 - (uint64_t)value);
}

/* Makes room for the fixed part and `extra` bytes; where they go, or NULL. */
static uint8_t *begin(znl_buffer *out, size_t extra)
{
    if (extra > SIZE_MAX - FIXED_BYTES || znl_buffer_extend(out, FIXED_BYTES + extra) != 0)
        return NULL;
    return out->data + out->size;
}

static int end(znl_buffer *out, const uint8_t *at)
{
    out->size = (size_t)(at - out->data);
    return 0;
}

/* True when the text needs no escapes and is UTF-8 for sure. */
static int is_plain_text(znl_frame text)
{
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            return 0;
    }
    return 1;
}

/* Appends a string in quotes at *at, the end of what has been written; makes room for `extra` bytes behind. */
static int put_text(znl_buffer *out, uint8_t **at, znl_frame text, size_t extra)
{
    end(out, *at);
    int err = 0;
    if (is_plain_text(text)) {
        err = extra <= SIZE_MAX - FIXED_BYTES - 2 - text.size
                ? znl_buffer_extend(out, text.size + 2 + FIXED_BYTES + extra)
                : ZNL_E_NOMEM;
        if (err != 0)
            return err;
        *at = out->data + out->size;
        *(*at)++ = '"';
        *at = put_frame(*at, text);
        *(*at)++ = '"';
        return 0;
    }
    err = znl_json_put_string(out, text);
    *at = err == 0 ? begin(out, extra) : NULL;
    return err != 0 ? err : *at == NULL ? ZNL_E_NOMEM : 0;
}

/* The same for a text that must arrive in any case: what is not ASCII becomes "?" when it is not UTF-8. */
static int put_any_text(znl_buffer *out, uint8_t **at, znl_frame text, size_t extra)
{
    int err = put_text(out, at, text, extra);
    if (err != ZNL_E_PROTO)
        return err;
    znl_buffer ascii = {0};
    err = znl_buffer_append(&ascii, text.data, text.size);
    for (size_t i = 0; err == 0 && i < ascii.size; i++)
        if (ascii.data[i] >= 0x80)
            ascii.data[i] = '?';
    if (err == 0) {
        *at = out->data + out->size;
        err = put_text(out, at, znl_frame_of(ascii.data, ascii.size), extra);
    }
    znl_buffer_fini(&ascii);
    return err;
}

/* Takes back what a frame that failed has left. */
static int undo(znl_buffer *out, size_t start, int err)
{
    out->size = start;
    return err;
}

int znl_modem_put_request(znl_buffer *out, const znl_modem_request *request)
{
    size_t start = out->size;
    uint8_t *at = begin(out, request->url.size);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, request->id);
    at = request->is_twoway ? PUT(at, ",\"twoway\":true,\"data\":{\"url\":")
                            : PUT(at, ",\"twoway\":false,\"data\":{\"url\":");
    int err = put_text(out, &at, request->url, request->data.size);
    if (err != 0)
        return undo(out, start, err == ZNL_E_PROTO ? ZNL_E_INVALID : err);
    if (request->data.data != NULL) {
        at = PUT(at, ",\"data\":");
        at = put_frame(at, request->data);
    }
    at = PUT(at, "},\"mode\":0");
    if (request->is_stream)
        at = PUT(at, ",\"stream\":true");
    if (request->deadline_ms > 0) {
        at = PUT(at, ",\"deadline\":");
        at = put_unsigned(at, request->deadline_ms);
    }
    if (request->credit > 0) {
        at = PUT(at, ",\"credit\":");
        at = put_unsigned(at, request->credit);
    }
    *at++ = '}';
    return end(out, at);
}

int znl_modem_put_answer(znl_buffer *out, int64_t id, znl_frame data)
{
    uint8_t *at = begin(out, data.size);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"mode\":1,\"twoway\":false,\"data\":{\"status\":200");
    if (data.data != NULL) {
        at = PUT(at, ",\"data\":");
        at = put_frame(at, data);
    }
    at = PUT(at, "}}");
    return end(out, at);
}

static int put_status(znl_buffer *out, uint8_t **at, const znl_modem_refusal *refusal)
{
    if (!refusal->is_number)
        return put_any_text(out, at, refusal->status, 0);
    end(out, *at);
    int err = znl_json_put_number(out, isfinite(refusal->number) ? refusal->number : 500);
    *at = err == 0 ? begin(out, 0) : NULL;
    return err != 0 ? err : *at == NULL ? ZNL_E_NOMEM : 0;
}

int znl_modem_put_refusal(znl_buffer *out, int64_t id, const znl_modem_refusal *refusal)
{
    size_t start = out->size;
    uint8_t *at = begin(out, 0);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"mode\":1,\"twoway\":false,\"data\":{\"status\":");
    int err = put_status(out, &at, refusal);
    if (err == 0) {
        at = PUT(at, ",\"data\":null");
        if (refusal->text.data != NULL) {
            at = PUT(at, ",\"message\":");
            err = put_any_text(out, &at, refusal->text, 0);
        }
    }
    if (err != 0)
        return undo(out, start, err);
    at = PUT(at, "}}");
    return end(out, at);
}

/* The end of every frame of a stream. */
static uint8_t *put_chunk_end(uint8_t *at, int is_final, int has_version)
{
    at = is_final ? PUT(at, ",\"final\":true}") : PUT(at, ",\"final\":false}");
    return has_version ? PUT(at, ",\"twoway\":false,\"streamVersion\":1}")
                       : PUT(at, ",\"twoway\":false}");
}

static int put_chunk(znl_buffer *out, int64_t id, uint64_t seq, znl_frame payload, int is_final,
        int has_version)
{
    uint8_t *at = begin(out, payload.size);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"mode\":1,\"stream\":true,\"data\":{\"status\":200,\"seq\":");
    at = put_unsigned(at, seq);
    if (payload.data != NULL) {
        at = PUT(at, ",\"payload\":");
        at = put_frame(at, payload);
    }
    at = put_chunk_end(at, is_final, has_version);
    return end(out, at);
}

int znl_modem_put_chunk(
        znl_buffer *out, int64_t id, uint64_t seq, znl_frame payload, int has_version)
{
    return put_chunk(out, id, seq, payload, 0, has_version);
}

int znl_modem_put_final(znl_buffer *out, int64_t id, uint64_t seq, int has_version)
{
    return put_chunk(out, id, seq, (znl_frame){0}, 1, has_version);
}

int znl_modem_put_stream_refusal(znl_buffer *out, int64_t id, uint64_t seq,
        const znl_modem_refusal *refusal, int has_version)
{
    size_t start = out->size;
    uint8_t *at = begin(out, 0);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"mode\":1,\"stream\":true,\"data\":{\"status\":");
    int err = put_status(out, &at, refusal);
    if (err == 0) {
        at = PUT(at, ",\"seq\":");
        at = put_unsigned(at, seq);
        at = PUT(at, ",\"payload\":");
        err = put_any_text(out, &at, refusal->text, 0);
    }
    if (err != 0)
        return undo(out, start, err);
    at = put_chunk_end(at, 1, has_version);
    return end(out, at);
}

int znl_modem_put_abort(znl_buffer *out, int64_t id, int64_t target)
{
    uint8_t *at = begin(out, 0);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"twoway\":false,\"data\":");
    at = put_integer(at, target);
    at = PUT(at, ",\"mode\":2}");
    return end(out, at);
}

int znl_modem_put_grant(znl_buffer *out, int64_t id, int64_t target, uint32_t credit)
{
    uint8_t *at = begin(out, 0);
    if (at == NULL)
        return ZNL_E_NOMEM;
    at = PUT(at, "{\"id\":");
    at = put_integer(at, id);
    at = PUT(at, ",\"twoway\":false,\"mode\":3,\"data\":{\"id\":");
    at = put_integer(at, target);
    at = PUT(at, ",\"credit\":");
    at = put_unsigned(at, credit);
    at = PUT(at, "}}");
    return end(out, at);
}
