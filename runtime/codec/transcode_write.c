/* transcode_write.c - see transcode.h: writing. SPDX-License-Identifier: MIT
 *
 * An index counts all strings first, then all integers …, so that none is known before the last value. What is
 * kept of a node is its kind alone: the entries of a list are used in their order. */
#include "codec/transcode.h"

#include "base/err.h"
#include "codec/base36.h"
#include "codec/json.h"
#include "codec/text.h"

#include <math.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define KEEP_BYTES (1024u * 1024) /* of each buffer, from one text to the next */
#define BYTES_MAX INT32_MAX
#define EXACT_MAX 9007199254740992.0 /* 2^53 */
#define DATE_MAX 8.64e15             /* milliseconds either way, as in JavaScript */
#define BLOCK 16

enum { STRINGS, INTEGERS, FLOATS, DATES };

/* Nodes. Those below LISTS refer to the next entry of that list. */
enum {
    NODE_BYTES = ZNL_TRANSCODE_LISTS, /* followed by their number, a uint32_t */
    NODE_ARRAY,
    NODE_OBJECT,
    NODE_ERROR,
    NODE_END,
    NODE_TRUE,
    NODE_FALSE,
    NODE_NULL,
    NODE_EMPTY,
    NODE_UNDEFINED,
};

void znl_transcode_start(znl_transcode_writer *writer)
{
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        znl_buffer_trim(&writer->lists[i], KEEP_BYTES);
        writer->lists[i].size = 0;
        writer->counts[i] = 0;
    }
    znl_buffer_trim(&writer->nodes, KEEP_BYTES);
    writer->nodes.size = 0;
    writer->references = 0;
}

void znl_transcode_writer_fini(znl_transcode_writer *writer)
{
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++)
        znl_buffer_fini(&writer->lists[i]);
    znl_buffer_fini(&writer->nodes);
    *writer = (znl_transcode_writer){0};
}

/* Room for `extra` bytes more; the call is left out when there is. */
static inline int make_room(znl_buffer *out, size_t extra)
{
    return extra <= out->capacity - out->size ? 0 : znl_buffer_extend(out, extra);
}

/* --- nodes and entries ------------------------------------------------------------------------ */

static inline int put_node(znl_transcode_writer *writer, uint8_t node)
{
    int err = make_room(&writer->nodes, 1);
    if (err == 0)
        writer->nodes.data[writer->nodes.size++] = node;
    return err;
}

/* Room for a node and for an entry of `size` bytes in a list; *out: where it goes. */
static inline int begin_entry(
        znl_transcode_writer *writer, unsigned kind, size_t size, uint8_t **out)
{
    znl_buffer *list = &writer->lists[kind];
    if (size > BYTES_MAX || list->size > BYTES_MAX)
        return ZNL_E_TOO_BIG;
    int err = make_room(&writer->nodes, 1 + sizeof(uint32_t));
    if (err == 0)
        err = make_room(list, size + 1);
    if (err != 0)
        return err;
    *out = list->data + list->size;
    if (writer->counts[kind] > 0)
        *(*out)++ = '|';
    return 0;
}

/* The entry ends before `end`. */
static inline void end_entry(znl_transcode_writer *writer, unsigned kind, const uint8_t *end)
{
    znl_buffer *list = &writer->lists[kind];
    list->size = (size_t)(end - list->data);
    writer->counts[kind]++;
    writer->references++;
    writer->nodes.data[writer->nodes.size++] = (uint8_t)kind;
}

int znl_transcode_put(znl_transcode_writer *writer, znl_transcode_kind kind)
{
    switch (kind) {
    case ZNL_TRANSCODE_NULL:
        return put_node(writer, NODE_NULL);
    case ZNL_TRANSCODE_TRUE:
        return put_node(writer, NODE_TRUE);
    case ZNL_TRANSCODE_FALSE:
        return put_node(writer, NODE_FALSE);
    case ZNL_TRANSCODE_ARRAY:
        return put_node(writer, NODE_ARRAY);
    case ZNL_TRANSCODE_OBJECT:
        return put_node(writer, NODE_OBJECT);
    case ZNL_TRANSCODE_ERROR:
        return put_node(writer, NODE_ERROR);
    case ZNL_TRANSCODE_END:
        return put_node(writer, NODE_END);
    default:
        return put_node(writer, NODE_UNDEFINED);
    }
}

/* --- strings ---------------------------------------------------------------------------------- */

/* The bytes that cannot be copied as they are; a space is one byte for another. */
static inline int is_special(uint8_t c)
{
    return c >= 0x80 || c == '+' || c == '|' || c == '^' || c == '%';
}

static uint8_t *put_escape(uint8_t *to, uint8_t c)
{
    memcpy(to, c == '+' ? "%2B" : c == '|' ? "%7C" : c == '^' ? "%5E" : "%25", 3);
    return to + 3;
}

/* Copies up to the next special byte; whole blocks are written, past the end too. Returns how many. */
static size_t copy_plain(uint8_t *to, const uint8_t *at, const uint8_t *end)
{
    const uint8_t *start = at;
#ifdef __SSE2__
    const __m128i space = _mm_set1_epi8(' '), change = _mm_set1_epi8('+' ^ ' ');
    const __m128i plus = _mm_set1_epi8('+'), bar = _mm_set1_epi8('|');
    const __m128i caret = _mm_set1_epi8('^'), percent = _mm_set1_epi8('%');
    for (; end - at >= BLOCK; at += BLOCK, to += BLOCK) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i found = _mm_or_si128(_mm_cmpeq_epi8(bytes, plus), _mm_cmpeq_epi8(bytes, bar));
        found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, caret));
        found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, percent));
        found = _mm_or_si128(found, bytes); /* the top bit: no ASCII */
        __m128i spaces = _mm_and_si128(_mm_cmpeq_epi8(bytes, space), change);
        _mm_storeu_si128((__m128i *)(void *)to, _mm_xor_si128(bytes, spaces));
        unsigned bits = (unsigned)_mm_movemask_epi8(found);
        if (bits != 0)
            return (size_t)(at - start) + (size_t)__builtin_ctz(bits);
    }
#endif
    for (; at < end && !is_special(*at); at++)
        *to++ = *at == ' ' ? '+' : *at;
    return (size_t)(at - start);
}

/* Bytes of the row of characters beyond ASCII at `at`; 0: they are no UTF-8. */
static size_t row_size(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *start = at;
    while (at < end && *at >= 0x80) {
        size_t length = znl_utf8_length(at, (size_t)(end - at));
        if (length == 0)
            return 0;
        at += length;
    }
    return (size_t)(at - start);
}

int znl_transcode_put_string(znl_transcode_writer *writer, znl_frame text)
{
    znl_buffer *list = &writer->lists[STRINGS];
    const uint8_t *at = text.data, *end = at + text.size;
    size_t before = list->size;
    uint8_t *to;
    if (text.size == 0)
        return put_node(writer, NODE_EMPTY);
    /* Room for all that is left plain, an escape, and for one block more than the last byte. */
    int err = begin_entry(writer, STRINGS, text.size + 3 + BLOCK, &to);
    if (err != 0)
        return err;
    for (;;) {
        size_t plain = copy_plain(to, at, end);
        at += plain;
        to += plain;
        if (at == end)
            break;
        if (*at >= 0x80) {
            size_t row = row_size(at, end);
            if (row == 0)
                return ZNL_E_PROTO;
            memcpy(to, at, row);
            at += row;
            to += row;
            continue;
        }
        to = put_escape(to, *at++);
        /* Growing keeps what lies before list->size. */
        list->size = (size_t)(to - list->data);
        err = make_room(list, (size_t)(end - at) + 3 + BLOCK);
        to = list->data + list->size;
        list->size = before;
        if (err != 0)
            return err;
    }
    end_entry(writer, STRINGS, to);
    return 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static int put_whole(znl_transcode_writer *writer, unsigned kind, int64_t value)
{
    uint8_t *to;
    int err = begin_entry(writer, kind, 1 + ZNL_BASE36_DIGITS_MAX, &to);
    if (err != 0)
        return err;
    if (value < 0)
        *to++ = '-';
    to += znl_base36_put(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, to);
    end_entry(writer, kind, to);
    return 0;
}

/* After something was appended to the list of floats, whose size was `before`: it is one more entry. */
static int finish_float(znl_transcode_writer *writer, size_t before, int err)
{
    znl_buffer *list = &writer->lists[FLOATS];
    if (err != 0) {
        list->size = before;
        return err;
    }
    end_entry(writer, FLOATS, list->data + list->size);
    return 0;
}

/* Makes room for a float, and puts the separator. */
static int begin_float(znl_transcode_writer *writer)
{
    uint8_t *to;
    int err = begin_entry(writer, FLOATS, 0, &to);
    if (err == 0)
        writer->lists[FLOATS].size = (size_t)(to - writer->lists[FLOATS].data);
    return err;
}

int znl_transcode_put_number(znl_transcode_writer *writer, double number)
{
    znl_buffer *list = &writer->lists[FLOATS];
    size_t before = list->size;
    if (number >= -EXACT_MAX && number <= EXACT_MAX && number == (double)(int64_t)number)
        return put_whole(writer, INTEGERS, (int64_t)number); /* -0 is 0, as in JavaScript */
    int err = begin_float(writer);
    if (err != 0)
        return err;
    if (isnan(number))
        err = znl_buffer_append(list, "NaN", 3);
    else if (isinf(number))
        err = number > 0 ? znl_buffer_append(list, "Infinity", 8)
                         : znl_buffer_append(list, "-Infinity", 9);
    else
        err = znl_json_put_double(list, number);
    return finish_float(writer, before, err);
}

int znl_transcode_put_integer(znl_transcode_writer *writer, int64_t integer)
{
    size_t before = writer->lists[FLOATS].size;
    if (integer >= -(int64_t)EXACT_MAX && integer <= (int64_t)EXACT_MAX)
        return put_whole(writer, INTEGERS, integer);
    int err = begin_float(writer);
    if (err != 0)
        return err;
    return finish_float(writer, before, znl_json_put_integer(&writer->lists[FLOATS], integer));
}

int znl_transcode_put_unsigned(znl_transcode_writer *writer, uint64_t integer)
{
    size_t before = writer->lists[FLOATS].size;
    if (integer <= INT64_MAX)
        return znl_transcode_put_integer(writer, (int64_t)integer);
    int err = begin_float(writer);
    if (err != 0)
        return err;
    return finish_float(writer, before, znl_json_put_unsigned(&writer->lists[FLOATS], integer));
}

int znl_transcode_put_date(znl_transcode_writer *writer, double unix_ms)
{
    if (!(fabs(unix_ms) <= DATE_MAX))
        return ZNL_E_INVALID;
    return put_whole(writer, DATES, (int64_t)unix_ms);
}

int znl_transcode_put_bytes(znl_transcode_writer *writer, znl_frame bytes)
{
    znl_buffer *nodes = &writer->nodes;
    uint8_t *to;
    if (bytes.size > BYTES_MAX / 3)
        return ZNL_E_TOO_BIG;
    uint32_t count = (uint32_t)bytes.size;
    int err = begin_entry(writer, INTEGERS, 3 * bytes.size + ZNL_BASE36_SLACK, &to);
    if (err != 0)
        return err;
    nodes->data[nodes->size] = NODE_BYTES;
    memcpy(nodes->data + nodes->size + 1, &count, sizeof count);
    nodes->size += 1 + sizeof count;
    if (count > 0) {
        to += znl_base36_put_octets(bytes.data, bytes.size, to);
        writer->lists[INTEGERS].size = (size_t)(to - writer->lists[INTEGERS].data);
        writer->counts[INTEGERS] += count;
        writer->references += count;
    }
    return 0;
}

/* --- the text --------------------------------------------------------------------------------- */

static inline uint8_t *put_index(uint8_t *to, uint64_t index)
{
    if (index >= 36)
        return to + znl_base36_put(index, to);
    *to = (uint8_t)(index < 10 ? '0' + index : 'A' + index - 10);
    return to + 1;
}

/* Bytes that all nodes take at most. */
static uint64_t nodes_bound(const znl_transcode_writer *writer, uint64_t total)
{
    uint8_t digits[ZNL_BASE36_DIGITS_MAX];
    uint64_t width = znl_base36_put(total, digits) + 1;
    return writer->references * width + 3 * (uint64_t)writer->nodes.size + ZNL_BASE36_SLACK;
}

static uint8_t *put_nodes(const znl_transcode_writer *writer, uint8_t *to)
{
    static const char marks[] = {[NODE_ARRAY] = '@', [NODE_OBJECT] = '$', [NODE_ERROR] = '#'};
    static const char references[] = {[NODE_TRUE] = '1',
            [NODE_FALSE] = '2',
            [NODE_NULL] = '3',
            [NODE_EMPTY] = '4',
            [NODE_UNDEFINED] = '5'};
    uint64_t next[ZNL_TRANSCODE_LISTS] = {0};
    const uint8_t *at = writer->nodes.data, *end = at + writer->nodes.size;
    int is_first = 1; /* no separator at the root, and behind an opening mark */
    uint32_t count;
    for (unsigned i = 1; i < ZNL_TRANSCODE_LISTS; i++)
        next[i] = next[i - 1] + writer->counts[i - 1];
    while (at < end) {
        uint8_t node = *at++;
        if (node == NODE_END) {
            *to++ = ']';
            is_first = 0;
            continue;
        }
        if (!is_first)
            *to++ = '|';
        is_first = 0;
        switch (node) {
        case STRINGS:
        case INTEGERS:
        case FLOATS:
        case DATES:
            to = put_index(to, next[node]++);
            break;
        case NODE_BYTES:
            memcpy(&count, at, sizeof count);
            at += sizeof count;
            *to++ = '*';
            to += znl_base36_put_run(next[INTEGERS], count, to);
            next[INTEGERS] += count;
            *to++ = ']';
            break;
        case NODE_ARRAY:
        case NODE_OBJECT:
        case NODE_ERROR:
            *to++ = (uint8_t)marks[node];
            is_first = 1;
            break;
        default:
            *to++ = '-';
            *to++ = (uint8_t)references[node];
        }
    }
    return to;
}

int znl_transcode_finish(znl_transcode_writer *writer, znl_buffer *out)
{
    uint64_t total = 0, size = 0;
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        total += writer->counts[i];
        size += writer->lists[i].size + 1;
    }
    if (size > BYTES_MAX || writer->nodes.size > BYTES_MAX)
        return ZNL_E_TOO_BIG;
    size += nodes_bound(writer, total);
    int err = make_room(out, (size_t)size);
    if (err != 0)
        return err;
    uint8_t *to = out->data + out->size;
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        const znl_buffer *list = &writer->lists[i];
        if (list->size > 0)
            memcpy(to, list->data, list->size);
        to += list->size;
        *to++ = '^';
    }
    to = put_nodes(writer, to);
    if ((uint64_t)(to - (out->data + out->size)) > BYTES_MAX)
        return ZNL_E_TOO_BIG;
    out->size = (size_t)(to - out->data);
    return 0;
}
