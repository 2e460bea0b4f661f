/* transcode_read.c - see transcode.h: reading. SPDX-License-Identifier: MIT
 *
 * Writers use every entry of the lists once and in order, so that each list is read along with the nodes; only
 * other texts need to know where entry n lies. */
#include "codec/transcode.h"

#include "base/err.h"
#include "codec/base36.h"
#include "codec/decimal.h"
#include "codec/text.h"

#include <math.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define KEEP_BYTES (1024u * 1024) /* of buffers, from one text to the next */
#define DATE_MAX 8.64e15          /* milliseconds either way, as in JavaScript */
#define DIGITS_MAX 19             /* that always fit 64 bits */
#define EXPONENT_MAX 100000       /* larger ones are no different */
/* Entries read in all, in sizes of the text: writers that share entries are served, floods are not. */
#define SPARE_FACTOR 16u
#define SPARE_BYTES 4096u

enum { STRINGS, INTEGERS, FLOATS, DATES };

/* References below 0. */
enum { REF_TRUE = -1, REF_FALSE = -2, REF_NULL = -3, REF_EMPTY = -4, REF_UNDEFINED = -5 };

/* --- lists ------------------------------------------------------------------------------------ */

static void trim_buffers(znl_transcode_reader *reader)
{
    znl_buffer_trim(&reader->offsets, KEEP_BYTES);
    znl_buffer_trim(&reader->scratch, KEEP_BYTES);
}

int znl_transcode_begin(znl_transcode_reader *reader, znl_frame text, unsigned max_depth)
{
    trim_buffers(reader);
    reader->at = reader->end = NULL;
    reader->depth = 0;
    reader->max_depth = max_depth;
    reader->has_offsets = 0;
    reader->is_ended = 1;
    if (text.size >= UINT32_MAX)
        return ZNL_E_TOO_BIG;
    if (text.size == 0)
        return ZNL_E_PROTO;
    const uint8_t *at = text.data, *end = at + text.size;
    uint32_t first = 0;
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        znl_transcode_list *list = &reader->lists[i];
        const uint8_t *caret = at < end ? memchr(at, '^', (size_t)(end - at)) : NULL;
        if (caret == NULL)
            return ZNL_E_PROTO;
        list->start = list->at = at;
        list->end = caret;
        list->first = first;
        list->count = at == caret ? 0 : (uint32_t)znl_base36_count_separators(at, caret) + 1;
        list->next = 0;
        first += list->count;
        at = caret + 1;
    }
    const znl_transcode_list *strings = &reader->lists[STRINGS];
    if (!znl_utf8_valid(strings->start, (size_t)(strings->end - strings->start)))
        return ZNL_E_PROTO;
    const uint8_t *caret = at < end ? memchr(at, '^', (size_t)(end - at)) : NULL;
    reader->text = text;
    reader->at = at;
    reader->end = caret != NULL ? caret : end;
    reader->spare = SPARE_FACTOR * (uint64_t)text.size + SPARE_BYTES;
    reader->is_ended = 0;
    return 0;
}

void znl_transcode_reader_fini(znl_transcode_reader *reader)
{
    znl_buffer_fini(&reader->offsets);
    znl_buffer_fini(&reader->scratch);
    *reader = (znl_transcode_reader){0};
}

/* Notes where every entry of every list begins. */
static int make_offsets(znl_transcode_reader *reader)
{
    const znl_transcode_list *last = &reader->lists[DATES];
    size_t count = (size_t)last->first + last->count;
    int err = znl_buffer_reserve(&reader->offsets, count * sizeof(uint32_t));
    if (err != 0)
        return err;
    uint32_t *offset = (uint32_t *)(void *)reader->offsets.data;
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        const znl_transcode_list *list = &reader->lists[i];
        if (list->count == 0)
            continue;
        *offset++ = (uint32_t)(list->start - reader->text.data);
        for (const uint8_t *at = list->start; at < list->end; at++)
            if (*at == '|')
                *offset++ = (uint32_t)(at + 1 - reader->text.data);
    }
    reader->has_offsets = 1;
    return 0;
}

/* Entry `index` of a list, which has one; *entry lies in the text. */
static int take_entry(znl_transcode_reader *reader, znl_transcode_list *list, uint32_t index,
        znl_frame *entry)
{
    if (index != list->next) {
        int err = reader->has_offsets ? 0 : make_offsets(reader);
        if (err != 0)
            return err;
        const uint32_t *offsets = (const uint32_t *)(const void *)reader->offsets.data;
        list->at = reader->text.data + offsets[list->first + index];
    }
    size_t left = (size_t)(list->end - list->at);
    const uint8_t *end = index + 1 == list->count ? list->end : memchr(list->at, '|', left);
    *entry = znl_frame_of(list->at, (size_t)(end - list->at));
    list->at = end + 1;
    list->next = index + 1;
    if (entry->size >= reader->spare)
        return ZNL_E_LIMIT;
    reader->spare -= entry->size + 1;
    return 0;
}

/* --- strings ---------------------------------------------------------------------------------- */

static inline int is_escape(uint8_t c)
{
    return c == '+' || c == '%';
}

static const uint8_t *find_escape(const uint8_t *at, const uint8_t *end)
{
#ifdef __SSE2__
    const __m128i plus = _mm_set1_epi8('+'), percent = _mm_set1_epi8('%');
    for (; end - at >= 16; at += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
        __m128i found = _mm_or_si128(
                _mm_cmpeq_epi8(bytes, plus), _mm_cmpeq_epi8(bytes, percent));
        unsigned bits = (unsigned)_mm_movemask_epi8(found);
        if (bits != 0)
            return at + __builtin_ctz(bits);
    }
#endif
    while (at < end && !is_escape(*at))
        at++;
    return at;
}

/* What the three bytes at `at` stand for, of which the first is "%"; 0: for themselves. */
static uint8_t escaped(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 3)
        return 0;
    switch (at[1] << 8 | at[2]) {
    case '2' << 8 | 'B':
        return '+';
    case '7' << 8 | 'C':
        return '|';
    case '5' << 8 | 'E':
        return '^';
    case '2' << 8 | '5':
        return '%';
    default:
        return 0;
    }
}

/* The string that an entry stands for: itself or in the scratch buffer. */
static int unescape(znl_transcode_reader *reader, znl_frame entry, znl_frame *text)
{
    const uint8_t *start = entry.data, *end = start + entry.size;
    const uint8_t *at = find_escape(start, end);
    *text = entry;
    if (at == end)
        return 0;
    int err = znl_buffer_reserve(&reader->scratch, entry.size + 16);
    if (err != 0)
        return err;
    uint8_t *to = reader->scratch.data;
    memcpy(to, start, (size_t)(at - start));
    to += at - start;
    while (at < end) {
#ifdef __SSE2__
        const __m128i plus = _mm_set1_epi8('+'), percent = _mm_set1_epi8('%');
        const __m128i change = _mm_set1_epi8('+' ^ ' ');
        while (end - at >= 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
            __m128i spaces = _mm_and_si128(_mm_cmpeq_epi8(bytes, plus), change);
            unsigned bits = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, percent));
            _mm_storeu_si128((__m128i *)(void *)to, _mm_xor_si128(bytes, spaces));
            size_t run = bits != 0 ? (size_t)__builtin_ctz(bits) : 16;
            at += run;
            to += run;
            if (bits != 0)
                break;
        }
#endif
        for (; at < end && *at != '%'; at++)
            *to++ = *at == '+' ? ' ' : *at;
        if (at == end)
            break;
        uint8_t c = escaped(at, end);
        *to++ = c != 0 ? c : '%';
        at += c != 0 ? 3 : 1;
    }
    *text = znl_frame_of(reader->scratch.data, (size_t)(to - reader->scratch.data));
    return 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static inline int is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') <= 9;
}

static void integer_of(znl_frame entry, znl_transcode_token *token)
{
    int is_exact;
    token->number = znl_base36_parse(entry.data, entry.size, &is_exact);
    token->is_integer = is_exact;
    token->integer = is_exact ? (int64_t)token->number : 0;
}

static void date_of(znl_frame entry, znl_transcode_token *token)
{
    int is_exact;
    token->number = znl_base36_parse(entry.data, entry.size, &is_exact);
    token->is_integer = 0;
    if (!(fabs(token->number) <= DATE_MAX))
        token->number = NAN;
}

/* What is read of a number in the decimal system. */
struct decimal {
    const uint8_t *at, *end;
    uint64_t mantissa; /* of its digits, when there are few */
    size_t digits;     /* in the mantissa: without zeros at its start */
    size_t places;     /* behind the point */
    int exponent;
    int is_negative, is_whole; /* whole: no places, no exponent */
};

/* Moves past digits; returns how many. */
static size_t pass_digits(struct decimal *d)
{
    const uint8_t *start = d->at;
    for (; d->at < d->end && is_digit(*d->at); d->at++) {
        d->mantissa = d->mantissa * 10 + (uint64_t)(*d->at - '0');
        d->digits += d->digits > 0 || *d->at != '0';
    }
    return (size_t)(d->at - start);
}

/* Moves past an exponent, if there is one. */
static void pass_exponent(struct decimal *d)
{
    const uint8_t *at = d->at;
    if (at == d->end || (*at != 'e' && *at != 'E'))
        return;
    at++;
    int is_negative = at < d->end && *at == '-', value = 0;
    if (at < d->end && (*at == '-' || *at == '+'))
        at++;
    if (at == d->end || !is_digit(*at))
        return;
    for (; at < d->end && is_digit(*at); at++)
        if (value < EXPONENT_MAX)
            value = value * 10 + (*at - '0');
    d->exponent = is_negative ? -value : value;
    d->is_whole = 0;
    d->at = at;
}

/* Moves past white space and a sign; returns whether "Infinity" follows. */
static int pass_sign(struct decimal *d)
{
    while (d->at < d->end && (*d->at == ' ' || (*d->at >= '\t' && *d->at <= '\r')))
        d->at++;
    d->is_negative = d->at < d->end && *d->at == '-';
    if (d->at < d->end && (*d->at == '-' || *d->at == '+'))
        d->at++;
    return d->end - d->at >= 8 && memcmp(d->at, "Infinity", 8) == 0;
}

/* What JavaScript's parseFloat() makes of an entry. */
static void float_of(znl_frame entry, znl_transcode_token *token)
{
    struct decimal d = {.at = entry.data, .end = entry.data + entry.size, .is_whole = 1};
    double value = INFINITY;
    token->is_integer = 0;
    if (pass_sign(&d)) {
        token->number = d.is_negative ? -value : value;
        return;
    }
    const uint8_t *start = d.at;
    size_t size = pass_digits(&d);
    int starts_with_one = size >= d.digits && d.digits > 0 && start[size - d.digits] == '1';
    if (d.at < d.end && *d.at == '.') {
        d.at++;
        d.places = pass_digits(&d);
        d.is_whole = d.places == 0;
    }
    if (size + d.places == 0) {
        token->number = NAN;
        return;
    }
    pass_exponent(&d);
    /* Twenty digits fit as well from 1e19 to 2^64 - 1: past that the sum wraps to less than 1e19. */
    int fits = d.digits <= DIGITS_MAX ||
            (d.is_whole && d.digits == DIGITS_MAX + 1 && starts_with_one &&
                    d.mantissa >= UINT64_C(10000000000000000000));
    if (fits && d.places <= EXPONENT_MAX)
        value = znl_decimal_value(d.mantissa, d.exponent - (int)d.places);
    else
        value = znl_decimal_parse(start, (size_t)(d.at - start));
    token->number = d.is_negative ? -value : value;
    if (!d.is_whole || !fits)
        return;
    token->integer = (int64_t)(d.is_negative ? 0 - d.mantissa : d.mantissa);
    if (d.mantissa <= (uint64_t)INT64_MAX + (unsigned)d.is_negative)
        token->is_integer = 1;
    else
        token->is_integer = d.is_negative ? 0 : 2;
}

/* --- references ------------------------------------------------------------------------------- */

/* How the bytes of the nodes are read: digits of a reference, or what ends one. */
static inline int ends_reference(uint8_t c)
{
    return c == '|' || c == ']' || c == '@' || c == '$' || c == '#' || c == '*';
}

/* Moves past a reference: an index, one of those below 0, or REF_UNDEFINED. */
static int64_t take_reference(znl_transcode_reader *reader)
{
    const uint8_t *at = reader->at, *end = reader->end, *start = at;
    uint32_t index = 0;
    while (at < end && at - start < 6 && znl_base36_values[*at] < 36)
        index = index * 36 + znl_base36_values[*at++];
    if (at > start && (at == end || ends_reference(*at))) {
        reader->at = at;
        return index;
    }
    while (at < end && !ends_reference(*at))
        at++;
    reader->at = at;
    int is_exact;
    double value = znl_base36_parse(start, (size_t)(at - start), &is_exact);
    return is_exact && value >= REF_UNDEFINED && value <= UINT32_MAX ? (int64_t)value
                                                                     : REF_UNDEFINED;
}

/* The list that an index is of; NULL: of none. */
static znl_transcode_list *list_of(znl_transcode_reader *reader, int64_t index)
{
    for (unsigned i = 0; i < ZNL_TRANSCODE_LISTS; i++) {
        znl_transcode_list *list = &reader->lists[i];
        if (index < (int64_t)list->first + list->count)
            return index >= list->first ? list : NULL;
    }
    return NULL;
}

static int take_string(
        znl_transcode_reader *reader, znl_frame entry, znl_transcode_token *token)
{
    token->kind = ZNL_TRANSCODE_STRING;
    return unescape(reader, entry, &token->bytes);
}

static int take_value(
        znl_transcode_reader *reader, int64_t reference, znl_transcode_token *token)
{
    znl_transcode_list *list = list_of(reader, reference);
    znl_frame entry;
    if (list != NULL) {
        int err = take_entry(reader, list, (uint32_t)(reference - list->first), &entry);
        if (err != 0)
            return err;
        switch (list - reader->lists) {
        case STRINGS:
            return take_string(reader, entry, token);
        case INTEGERS:
            token->kind = ZNL_TRANSCODE_NUMBER;
            integer_of(entry, token);
            return 0;
        case FLOATS:
            token->kind = ZNL_TRANSCODE_NUMBER;
            float_of(entry, token);
            return 0;
        default:
            token->kind = ZNL_TRANSCODE_DATE;
            date_of(entry, token);
            return 0;
        }
    }
    switch (reference) {
    case REF_TRUE:
        token->kind = ZNL_TRANSCODE_TRUE;
        break;
    case REF_FALSE:
        token->kind = ZNL_TRANSCODE_FALSE;
        break;
    case REF_NULL:
        token->kind = ZNL_TRANSCODE_NULL;
        break;
    case REF_EMPTY:
        token->kind = ZNL_TRANSCODE_STRING;
        token->bytes = znl_frame_of("", 0);
        break;
    default:
        token->kind = ZNL_TRANSCODE_UNDEFINED;
    }
    return 0;
}

/* --- byte buffers ----------------------------------------------------------------------------- */

/* The byte that JavaScript makes of a number. From 2^63 on all are multiples of 256. */
static uint8_t octet_of(double number)
{
    return fabs(number) < 9.2e18 ? (uint8_t)(int64_t)number : 0;
}

/* The usual form, `size` bytes from the reader on: integers in their order, of one digit or two. 0: another form. */
static int take_run(znl_transcode_reader *reader, size_t size, znl_buffer *out)
{
    znl_transcode_list *list = &reader->lists[INTEGERS];
    uint64_t first = (uint64_t)list->first + list->next;
    size_t count = znl_base36_match_run(first, reader->at, size);
    /* The list is as long as the run, and the text as long as both. */
    if (count == 0 || count > list->count - list->next || 3 * (uint64_t)count > reader->spare)
        return 0;
    const uint8_t *at = znl_base36_read_octets(list->at, list->end, count, out->data);
    if (at == NULL)
        return 0;
    out->size = count;
    list->at = at;
    list->next += (uint32_t)count;
    reader->spare -= 3 * (uint64_t)count;
    return 1;
}

/* Any other form, item by item. What is no number counts as 0, but true as 1. */
static int take_octets(znl_transcode_reader *reader, const uint8_t *end, znl_buffer *out)
{
    while (reader->at < end) {
        znl_transcode_token item = {0};
        if (*reader->at == '|') {
            reader->at++;
            continue;
        }
        if (ends_reference(*reader->at))
            return ZNL_E_PROTO;
        int64_t reference = take_reference(reader);
        znl_transcode_list *list = list_of(reader, reference);
        if (list == &reader->lists[STRINGS]) {
            out->data[out->size++] = 0;
            continue;
        }
        int err = take_value(reader, reference, &item);
        if (err != 0)
            return err;
        out->data[out->size++] = item.kind == ZNL_TRANSCODE_TRUE ? 1 : octet_of(item.number);
    }
    return 0;
}

/* A byte buffer; the reader is behind its "*". */
static int take_bytes(znl_transcode_reader *reader, znl_transcode_token *token)
{
    size_t left = (size_t)(reader->end - reader->at);
    const uint8_t *close = left > 0 ? memchr(reader->at, ']', left) : NULL;
    const uint8_t *end = close != NULL ? close : reader->end;
    size_t size = (size_t)(end - reader->at);
    /* Every item is followed by a byte at least, except the last. */
    int err = znl_buffer_reserve(&reader->scratch, size / 2 + 1);
    if (err != 0)
        return err;
    reader->scratch.size = 0;
    if (!take_run(reader, size, &reader->scratch)) {
        err = take_octets(reader, end, &reader->scratch);
        if (err != 0)
            return err;
    }
    reader->at = close != NULL ? close + 1 : end;
    token->kind = ZNL_TRANSCODE_BYTES;
    token->bytes = znl_frame_of(reader->scratch.data, reader->scratch.size);
    return 0;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static int enter(
        znl_transcode_reader *reader, znl_transcode_kind kind, znl_transcode_token *token)
{
    if (reader->depth >= reader->max_depth)
        return ZNL_E_LIMIT;
    reader->depth++;
    reader->at++;
    token->kind = kind;
    return 0;
}

/* The end of what is open; without anything the root is missing, which makes it undefined. */
static int leave(znl_transcode_reader *reader, znl_transcode_token *token)
{
    if (reader->depth == 0) {
        token->kind = ZNL_TRANSCODE_UNDEFINED;
    } else {
        reader->depth--;
        token->kind = ZNL_TRANSCODE_END;
    }
    return 0;
}

static int take_node(znl_transcode_reader *reader, znl_transcode_token *token)
{
    while (reader->at < reader->end && *reader->at == '|')
        reader->at++;
    if (reader->at == reader->end)
        return leave(reader, token);
    switch (*reader->at) {
    case '@':
        return enter(reader, ZNL_TRANSCODE_ARRAY, token);
    case '$':
        return enter(reader, ZNL_TRANSCODE_OBJECT, token);
    case '#':
        return enter(reader, ZNL_TRANSCODE_ERROR, token);
    case '*':
        reader->at++;
        return take_bytes(reader, token);
    case ']':
        reader->at++;
        return leave(reader, token);
    default:
        return take_value(reader, take_reference(reader), token);
    }
}

int znl_transcode_next(znl_transcode_reader *reader, znl_transcode_token *token)
{
    if (reader->is_ended)
        return ZNL_E_PROTO;
    int err = take_node(reader, token);
    reader->is_ended = err != 0 || reader->depth == 0;
    return err;
}
