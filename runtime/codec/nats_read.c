/* nats_read.c - what a NATS server sends; see nats.h. SPDX-License-Identifier: MIT */
#include "codec/nats.h"

#include "base/err.h"
#include "base/limits.h"
#include "codec/json.h"

#include <strings.h>

#define TOKENS 6u
#define INFO_DEPTH 16u
#define STATUS_LINE "NATS/1.0"

static int is_blank(uint8_t c)
{
    return c == ' ' || c == '\t';
}

/* --- the line of an operation ------------------------------------------------------------------------ */

/* Splits at blanks. How many there are, at most `most` + 1. */
static size_t split(const uint8_t *at, const uint8_t *end, znl_frame *tokens, size_t most)
{
    size_t count = 0;
    for (;;) {
        while (at < end && is_blank(*at))
            at++;
        if (at == end)
            return count;
        const uint8_t *from = at;
        while (at < end && !is_blank(*at))
            at++;
        if (count == most)
            return most + 1;
        tokens[count++] = znl_frame_of(from, (size_t)(at - from));
    }
}

static int number(znl_frame text, uint64_t *out)
{
    uint64_t value = 0;
    if (text.size == 0 || text.size > 18)
        return ZNL_E_PROTO;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return ZNL_E_PROTO;
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    *out = value;
    return 0;
}

/* Ends a token with a zero byte: what follows it is a blank or the end of the line. */
static const char *text_of(uint8_t *bytes, znl_frame token)
{
    uint8_t *at = bytes + (token.data - bytes);
    at[token.size] = 0;
    return (const char *)at;
}

/* --- headers ----------------------------------------------------------------------------------------- */

/* "NATS/1.0[ status[ text]]", lines, and an empty one. What is not made so has no headers: whoever published it
 * must not end the connection with it. */
static void read_headers(uint8_t *at, size_t size, znl_nats_op *op)
{
    static const size_t mark = sizeof STATUS_LINE - 1;
    if (size < mark + 4 || memcmp(at, STATUS_LINE, mark) != 0 ||
            memcmp(at + size - 4, "\r\n\r\n", 4) != 0 || memchr(at, 0, size) != NULL)
        return;
    uint8_t *end = (uint8_t *)memchr(at, '\r', size);
    uint8_t *first = end + 2;
    if (end[1] != '\n')
        return;
    uint8_t *status = at + mark;
    while (status < end && is_blank(*status))
        status++;
    unsigned value = 0;
    uint8_t *digit = status;
    while (digit < end && digit - status < 3 && *digit >= '0' && *digit <= '9')
        value = value * 10 + (unsigned)(*digit++ - '0');
    if (digit - status == 3 && (digit == end || is_blank(*digit))) {
        while (digit < end && is_blank(*digit))
            digit++;
        op->status = (uint16_t)value;
        op->status_text = (const char *)digit;
    } else if (status < end) {
        return;
    }
    *end = 0;
    op->lines = (const char *)first;
    op->lines_size = (size_t)(at + size - 2 - first); /* 0 when the empty line comes first */
}

int znl_nats_next_header(
        const char *lines, size_t size, size_t *at, znl_frame *name, znl_frame *value)
{
    while (*at < size) {
        const uint8_t *line = (const uint8_t *)lines + *at;
        const uint8_t *end = memchr(line, '\n', size - *at);
        if (end == NULL)
            end = (const uint8_t *)lines + size;
        *at = (size_t)(end - (const uint8_t *)lines) + 1;
        const uint8_t *colon = memchr(line, ':', (size_t)(end - line));
        if (colon == NULL)
            continue;
        const uint8_t *from = colon + 1;
        while (from < end && is_blank(*from))
            from++;
        while (end > from && (is_blank(end[-1]) || end[-1] == '\r'))
            end--;
        while (line < colon && is_blank(*line))
            line++;
        while (colon > line && is_blank(colon[-1]))
            colon--;
        if (colon == line)
            continue;
        *name = znl_frame_of(line, (size_t)(colon - line));
        *value = znl_frame_of(from, (size_t)(end - from));
        return 1;
    }
    return 0;
}

/* --- operations -------------------------------------------------------------------------------------- */

/* `line` is the line of MSG or HMSG, without its end; `head` counts its bytes with it. */
static int read_message(uint8_t *bytes, size_t size, znl_frame line, size_t head,
        int has_headers, znl_nats_op *op, size_t *used)
{
    znl_frame tokens[TOKENS];
    uint64_t sid, total, headers = 0;
    size_t count = split(line.data, line.data + line.size, tokens, TOKENS);
    size_t fewest = has_headers ? 5
                                : 4; /* with its name; one more with a subject to reply to */
    if (count != fewest && count != fewest + 1)
        return ZNL_E_PROTO;
    if (number(tokens[2], &sid) != 0 || number(tokens[count - 1], &total) != 0 ||
            (has_headers && number(tokens[count - 2], &headers) != 0) || headers > total)
        return ZNL_E_PROTO;
    if (total > ZNL_NATS_MESSAGE_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    *used = head + (size_t)total + 2;
    if (size < *used)
        return 0;
    if (memcmp(bytes + *used - 2, "\r\n", 2) != 0)
        return ZNL_E_PROTO;
    /* Servers let anybody publish with a zero byte in a subject: cut there it would pass for another one, and it must
     * not end the connection of those who get it. */
    if (memchr(line.data, 0, line.size) != NULL) {
        *op = (znl_nats_op){.kind = ZNL_NATS_NOISE, .text = znl_frame_of(bytes, 0)};
        return 1;
    }
    *op = (znl_nats_op){.kind = ZNL_NATS_MSG,
            .sid = sid,
            .data = bytes + head + headers,
            .size = (size_t)(total - headers),
            .lines = "",
            .status_text = ""};
    op->subject = text_of(bytes, tokens[1]);
    op->reply = count > fewest ? text_of(bytes, tokens[3]) : NULL;
    if (has_headers)
        read_headers(bytes + head, (size_t)headers, op);
    return 1;
}

static int is_word(znl_frame line, const char *word, size_t size)
{
    return line.size >= size && strncasecmp((const char *)line.data, word, size) == 0 &&
            (line.size == size || is_blank(line.data[size]));
}

static znl_frame rest_of(znl_frame line, size_t word)
{
    const uint8_t *at = line.data + word, *end = line.data + line.size;
    while (at < end && is_blank(*at))
        at++;
    while (end > at && is_blank(end[-1]))
        end--;
    return znl_frame_of(at, (size_t)(end - at));
}

int znl_nats_read(uint8_t *bytes, size_t size, znl_nats_op *op, size_t *used)
{
    *used = 0;
    uint8_t *end = size > 0 ? memchr(bytes, '\n', size) : NULL;
    if (end == NULL)
        return size > ZNL_NATS_INFO_BYTES_MAX ? ZNL_E_TOO_BIG : 0;
    size_t head = (size_t)(end - bytes) + 1;
    if (head > ZNL_NATS_INFO_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    znl_frame line = znl_frame_of(bytes, head - (head > 1 && end[-1] == '\r' ? 2 : 1));
    if (is_word(line, "MSG", 3))
        return read_message(bytes, size, line, head, 0, op, used);
    if (is_word(line, "HMSG", 4))
        return read_message(bytes, size, line, head, 1, op, used);
    *op = (znl_nats_op){.text = znl_frame_of(bytes, 0)};
    if (is_word(line, "PING", 4)) {
        op->kind = ZNL_NATS_PING;
    } else if (is_word(line, "PONG", 4)) {
        op->kind = ZNL_NATS_PONG;
    } else if (is_word(line, "INFO", 4)) {
        op->kind = ZNL_NATS_INFO;
        op->text = rest_of(line, 4);
    } else if (is_word(line, "+OK", 3)) {
        op->kind = ZNL_NATS_OK;
    } else if (is_word(line, "-ERR", 4)) {
        op->kind = ZNL_NATS_ERR;
        op->text = rest_of(line, 4);
        if (op->text.size >= 2 && op->text.data[0] == '\'' &&
                op->text.data[op->text.size - 1] == '\'')
            op->text = znl_frame_of(op->text.data + 1, op->text.size - 2);
    } else {
        return ZNL_E_PROTO;
    }
    *used = head;
    return 1;
}

/* --- INFO ------------------------------------------------------------------------------------------ */

static int read_flag(znl_json_reader *reader, int *flag)
{
    *flag = znl_json_peek(reader) == ZNL_JSON_TRUE;
    return znl_json_skip(reader, &(znl_frame){0});
}

static int read_payload(znl_json_reader *reader, uint64_t *bytes)
{
    double value;
    int is_integer;
    int64_t integer;
    if (znl_json_peek(reader) != ZNL_JSON_NUMBER ||
            znl_json_number(reader, &value, &is_integer, &integer) != 0 || is_integer != 1 ||
            integer <= 0)
        return ZNL_E_PROTO;
    *bytes = (uint64_t)integer;
    return 0;
}

static int read_quoted(znl_json_reader *reader, znl_frame *text)
{
    int is_plain;
    return znl_json_peek(reader) == ZNL_JSON_STRING ? znl_json_quoted(reader, text, &is_plain)
                                                    : znl_json_skip(reader, &(znl_frame){0});
}

int znl_nats_read_info(znl_frame json, znl_nats_info *info)
{
    znl_json_reader reader;
    znl_frame name, skipped;
    int is_plain, more, err;
    *info = (znl_nats_info){0};
    znl_json_begin(&reader, json, INFO_DEPTH);
    if (znl_json_peek(&reader) != ZNL_JSON_OBJECT || znl_json_enter(&reader) != 0)
        return ZNL_E_PROTO;
    while ((more = znl_json_next(&reader, &name, &is_plain)) > 0) {
#define IS(text) znl_frame_equal(name, znl_frame_of(text, sizeof text - 1))
        if (IS("max_payload"))
            err = read_payload(&reader, &info->max_payload);
        else if (IS("nonce"))
            err = read_quoted(&reader, &info->nonce);
        else if (IS("headers"))
            err = read_flag(&reader, &info->has_headers);
        else if (IS("tls_required"))
            err = read_flag(&reader, &info->needs_tls);
        else if (IS("tls_available"))
            err = read_flag(&reader, &info->offers_tls);
        else if (IS("ldm"))
            err = read_flag(&reader, &info->is_leaving);
        else if (IS("connect_urls") && znl_json_peek(&reader) == ZNL_JSON_ARRAY)
            err = znl_json_skip(&reader, &info->urls);
        else
            err = znl_json_skip(&reader, &skipped);
#undef IS
        if (err != 0)
            return ZNL_E_PROTO;
    }
    return more == 0 && znl_json_end(&reader) == 0 ? 0 : ZNL_E_PROTO;
}

int znl_nats_next_url(const znl_nats_info *info, size_t *at, znl_frame *url)
{
    /* The array was checked: a text with escapes is no address and is left out. */
    while (*at < info->urls.size) {
        const uint8_t *from = memchr(info->urls.data + *at, '"', info->urls.size - *at);
        const uint8_t *end = info->urls.data + info->urls.size;
        if (from == NULL)
            break;
        const uint8_t *to = ++from;
        int is_plain = 1;
        for (; to < end && *to != '"'; to++) {
            if (*to == '\\') {
                is_plain = 0;
                to++;
            }
        }
        if (to >= end)
            break;
        *at = (size_t)(to - info->urls.data) + 1;
        *url = znl_frame_of(from, (size_t)(to - from));
        if (is_plain && url->size > 0)
            return 1;
    }
    return 0;
}
