/* json.c - see json.h: reading. SPDX-License-Identifier: MIT */
#include "codec/json.h"

#include "base/err.h"
#include "codec/decimal.h"
#include "codec/json_scan.h"
#include "codec/text.h"

#define DIGITS_MAX 19 /* that always fit 64 bits */
#define NEAR 16 /* the next escape is often a few bytes away, where a search does not pay */
#define EXPONENT_MAX 100000          /* larger ones are no different */
#define REPLACEMENT 0xfffdu          /* for what UTF-8 has no form for */
#define WHOLE_MAX 9007199254740992.0 /* 2^53: doubles hold every whole number up to here */

void znl_json_begin(znl_json_reader *reader, znl_frame text, unsigned max_depth)
{
    static const uint8_t nothing[1];
    reader->at = text.size > 0 ? text.data : nothing;
    reader->end = reader->at + text.size;
    reader->depth = 0;
    reader->max_depth = max_depth < ZNL_JSON_DEPTH_MAX ? max_depth : ZNL_JSON_DEPTH_MAX;
    reader->is_first = 0;
}

/* The next byte that is no white space; 0, which stands nowhere in JSON, at the end. */
static inline uint8_t next_byte(znl_json_reader *reader)
{
    const uint8_t *at = reader->at;
    while (at < reader->end && *at <= ' ') {
        if (*at != ' ' && *at != '\n' && *at != '\r' && *at != '\t')
            break;
        at++;
    }
    reader->at = at;
    return at < reader->end ? *at : 0;
}

static inline int is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') <= 9;
}

static inline int peek(znl_json_reader *reader)
{
    uint8_t c = next_byte(reader);
    switch (c) {
    case '"':
        return ZNL_JSON_STRING;
    case '{':
        return ZNL_JSON_OBJECT;
    case '[':
        return ZNL_JSON_ARRAY;
    case 'n':
        return ZNL_JSON_NULL;
    case 'f':
        return ZNL_JSON_FALSE;
    case 't':
        return ZNL_JSON_TRUE;
    default:
        return is_digit(c) || c == '-' ? ZNL_JSON_NUMBER : ZNL_E_PROTO;
    }
}

int znl_json_peek(znl_json_reader *reader)
{
    return peek(reader);
}

/* --- strings ---------------------------------------------------------------------------------- */

/* The value plus one of each hex digit; 0 for every byte that is none. */
/* clang-format off */
static const uint8_t hex_values[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6, ['6'] = 7, ['7'] = 8,
    ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

/* What the letter after a backslash stands for; 0 for every byte that has no meaning there, and for u. */
static const uint8_t letters[256] = {
    ['"'] = '"', ['\\'] = '\\', ['/'] = '/', ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r',
    ['t'] = '\t',
};
/* clang-format on */

/* The value of four hex digits; -1 when they are not. */
static inline int hex4(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 4)
        return -1;
    int a = hex_values[at[0]], b = hex_values[at[1]];
    int c = hex_values[at[2]], d = hex_values[at[3]];
    if (a == 0 || b == 0 || c == 0 || d == 0)
        return -1;
    return (a - 1) << 12 | (b - 1) << 8 | (c - 1) << 4 | (d - 1);
}

/* The escape at `at`, which is a backslash: its length, or 0. */
static size_t escape_length(const uint8_t *at, const uint8_t *end)
{
    if (end - at < 2)
        return 0;
    if (letters[at[1]] != 0)
        return 2;
    return at[1] == 'u' && hex4(at + 2, end) >= 0 ? 6 : 0;
}

/* Moves past a string, of which the reader is at the opening quote. */
static inline int pass_string(znl_json_reader *reader, znl_frame *text, int *is_plain)
{
    const uint8_t *start = reader->at + 1, *at = start;
    int plain = 1;
    for (;;) {
        at = znl_json_find_special(at, reader->end);
        if (at == reader->end || *at < 0x20)
            break;
        if (*at == '"') {
            *text = znl_frame_of(start, (size_t)(at - start));
            *is_plain = plain;
            reader->at = at + 1;
            return 0;
        }
        if (*at == '\\') {
            size_t length = escape_length(at, reader->end);
            if (length == 0)
                break;
            plain = 0;
            at += length;
            continue;
        }
        /* Such characters come in rows. */
        while (at < reader->end && *at >= 0x80) {
            size_t length = znl_utf8_length(at, (size_t)(reader->end - at));
            if (length == 0)
                goto malformed;
            at += length;
        }
    }
malformed:
    reader->at = at;
    return ZNL_E_PROTO;
}

/* The character of the escape at *at, which has been checked; moves past it. */
static inline uint32_t escaped(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *escape = *at;
    *at += 2;
    if (escape[1] != 'u')
        return letters[escape[1]];
    uint32_t code = (uint32_t)hex4(escape + 2, end);
    *at += 4;
    if ((code & 0xfc00) == 0xd800 && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = (uint32_t)hex4(*at + 2, end);
        if ((low & 0xfc00) == 0xdc00) {
            *at += 6;
            return 0x10000 + ((code & 0x3ff) << 10 | (low & 0x3ff));
        }
    }
    return code;
}

uint32_t znl_json_character(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *bytes = *at;
    if (bytes[0] == '\\')
        return escaped(at, end);
    size_t length = znl_utf8_length(bytes, (size_t)(end - bytes));
    *at += length;
    switch (length) {
    case 2:
        return (uint32_t)(bytes[0] & 0x1f) << 6 | (bytes[1] & 0x3f);
    case 3:
        return (uint32_t)(bytes[0] & 0x0f) << 12 | (uint32_t)(bytes[1] & 0x3f) << 6 |
                (bytes[2] & 0x3f);
    case 4:
        return (uint32_t)(bytes[0] & 0x07) << 18 | (uint32_t)(bytes[1] & 0x3f) << 12 |
                (uint32_t)(bytes[2] & 0x3f) << 6 | (bytes[3] & 0x3f);
    default:
        return bytes[0];
    }
}

static inline uint8_t *put_utf8(uint8_t *out, uint32_t code)
{
    if (code >= 0xd800 && code <= 0xdfff)
        code = REPLACEMENT;
    if (code < 0x80) {
        *out++ = (uint8_t)code;
    } else if (code < 0x800) {
        *out++ = (uint8_t)(0xc0 | code >> 6);
        *out++ = (uint8_t)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *out++ = (uint8_t)(0xe0 | code >> 12);
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        *out++ = (uint8_t)(0x80 | (code & 0x3f));
    } else {
        *out++ = (uint8_t)(0xf0 | code >> 18);
        *out++ = (uint8_t)(0x80 | (code >> 12 & 0x3f));
        *out++ = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        *out++ = (uint8_t)(0x80 | (code & 0x3f));
    }
    return out;
}

size_t znl_json_put_utf8(uint8_t *out, uint32_t code)
{
    return (size_t)(put_utf8(out, code) - out);
}

int znl_json_unescape(znl_frame quoted, znl_frame *text, znl_buffer *scratch)
{
    /* Undone it is never longer: two bytes and more become one, six become three, twelve four. */
    int err = znl_buffer_reserve(scratch, quoted.size);
    if (err != 0)
        return err;
    const uint8_t *at = quoted.data, *end = quoted.data + quoted.size;
    uint8_t *out = scratch->data;
    while (at < end) {
        const uint8_t *near = end - at > NEAR ? at + NEAR : end;
        while (at < near && *at != '\\')
            *out++ = *at++;
        if (at == near && at < end) {
            const uint8_t *slash = memchr(at, '\\', (size_t)(end - at));
            size_t run = (size_t)((slash != NULL ? slash : end) - at);
            memcpy(out, at, run);
            out += run;
            at += run;
        }
        if (at < end)
            out = put_utf8(out, escaped(&at, end));
    }
    scratch->size = (size_t)(out - scratch->data);
    *text = znl_frame_of(scratch->data, scratch->size);
    return 0;
}

int znl_json_quoted(znl_json_reader *reader, znl_frame *text, int *is_plain)
{
    return next_byte(reader) == '"' ? pass_string(reader, text, is_plain) : ZNL_E_PROTO;
}

int znl_json_string(znl_json_reader *reader, znl_frame *text, znl_buffer *scratch)
{
    znl_frame quoted;
    int is_plain;
    if (next_byte(reader) != '"')
        return ZNL_E_PROTO;
    int err = pass_string(reader, &quoted, &is_plain);
    if (err != 0)
        return err;
    if (!is_plain)
        return znl_json_unescape(quoted, text, scratch);
    *text = quoted;
    return 0;
}

/* --- numbers and literals --------------------------------------------------------------------- */

/* What a number is made of. */
struct number {
    const uint8_t *start;
    uint64_t mantissa;         /* all digits; wrong when there are more than DIGITS_MAX */
    size_t digits;             /* from the first that is not 0 */
    int64_t exponent;          /* of ten */
    int is_negative, is_whole; /* is_whole: neither point nor exponent */
};

/* Moves past a number, of which the reader is at the first byte. */
static inline int pass_number(znl_json_reader *reader, struct number *number)
{
    const uint8_t *at = reader->at, *end = reader->end;
    uint64_t mantissa = 0;
    size_t leading = 0;
    *number = (struct number){.start = at, .is_negative = *at == '-', .is_whole = 1};
    at += number->is_negative;
    number->start = at;
    if (at == end || !is_digit(*at))
        goto malformed;
    if (*at == '0') {
        at++;
        leading = 1;
        if (at < end && is_digit(*at))
            goto malformed;
    } else {
        while (at < end && is_digit(*at))
            mantissa = mantissa * 10 + (uint64_t)(*at++ - '0');
    }
    number->digits = (size_t)(at - number->start) - leading;
    if (at < end && *at == '.') {
        const uint8_t *first = ++at;
        while (at < end && is_digit(*at)) {
            mantissa = mantissa * 10 + (uint64_t)(*at++ - '0');
            number->digits += mantissa != 0 || number->digits > 0;
        }
        if (at == first)
            goto malformed;
        number->exponent = -(int64_t)(at - first);
        number->is_whole = 0;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        int64_t told = 0;
        at++;
        int is_negative = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        const uint8_t *first = at;
        for (; at < end && is_digit(*at); at++)
            if (told < EXPONENT_MAX)
                told = told * 10 + (*at - '0');
        if (at == first)
            goto malformed;
        number->exponent += is_negative ? -told : told;
        number->is_whole = 0;
    }
    number->mantissa = mantissa;
    reader->at = at;
    return 0;
malformed:
    reader->at = at;
    return ZNL_E_PROTO;
}

int znl_json_number(znl_json_reader *reader, double *value, int *is_integer, int64_t *integer)
{
    struct number number;
    uint8_t c = next_byte(reader);
    if (!is_digit(c) && c != '-')
        return ZNL_E_PROTO;
    int err = pass_number(reader, &number);
    if (err != 0)
        return err;
    uint64_t mantissa = number.mantissa;
    /* Twenty digits fit as well from 1e19 to 2^64 - 1: past that the sum wraps to less than 1e19. */
    int fits = number.digits <= DIGITS_MAX ||
            (number.is_whole && number.digits == DIGITS_MAX + 1 && number.start[0] == '1' &&
                    mantissa >= UINT64_C(10000000000000000000));
    if (number.is_whole && fits) {
        double positive = (double)mantissa; /* the nearest: one rounding */
        *value = number.is_negative ? -positive : positive;
        *integer = (int64_t)(number.is_negative ? 0 - mantissa : mantissa);
        if (mantissa <= (uint64_t)INT64_MAX + (unsigned)number.is_negative)
            *is_integer = 1;
        else
            *is_integer = number.is_negative ? 0 : 2;
        return 0;
    }
    double positive = fits && number.exponent > -2 * EXPONENT_MAX
            ? znl_decimal_value(mantissa, (int)number.exponent)
            : znl_decimal_parse(number.start, (size_t)(reader->at - number.start));
    *value = number.is_negative ? -positive : positive;
    *is_integer = 0;
    if (!number.is_whole && positive <= WHOLE_MAX && (double)(int64_t)positive == positive) {
        *is_integer = 1;
        *integer = (int64_t)*value;
    }
    return 0;
}

/* Moves past a literal, of which the reader is at the first byte. */
static inline int pass_literal(znl_json_reader *reader)
{
    size_t left = (size_t)(reader->end - reader->at);
    const uint8_t *at = reader->at;
    size_t length = at[0] == 'f' ? 5 : 4;
    if (left < length ||
            memcmp(at,
                    at[0] == 'f'           ? "false"
                            : at[0] == 't' ? "true"
                                           : "null",
                    length) != 0)
        return ZNL_E_PROTO;
    reader->at += length;
    return 0;
}

int znl_json_literal(znl_json_reader *reader)
{
    return next_byte(reader) == 0 ? ZNL_E_PROTO : pass_literal(reader);
}

/* --- objects and arrays ----------------------------------------------------------------------- */

/* Enters what the reader is at: a bracket. */
static inline int enter(znl_json_reader *reader)
{
    uint64_t bit = UINT64_C(1) << (reader->depth % 64);
    if (reader->depth >= reader->max_depth)
        return ZNL_E_LIMIT;
    if (*reader->at == '{')
        reader->is_object[reader->depth / 64] |= bit;
    else
        reader->is_object[reader->depth / 64] &= ~bit;
    reader->depth++;
    reader->at++;
    reader->is_first = 1;
    return 0;
}

int znl_json_enter(znl_json_reader *reader)
{
    uint8_t c = next_byte(reader);
    return c == '{' || c == '[' ? enter(reader) : ZNL_E_PROTO;
}

static inline int next_item(znl_json_reader *reader, znl_frame *name, int *is_plain)
{
    unsigned level = reader->depth - 1;
    int is_object = (int)(reader->is_object[level / 64] >> (level % 64) & 1);
    int is_first = reader->is_first;
    uint8_t c = next_byte(reader);
    reader->is_first = 0;
    if (c == (is_object ? '}' : ']')) {
        reader->at++;
        reader->depth = level;
        return 0;
    }
    if (!is_first) {
        if (c != ',')
            return ZNL_E_PROTO;
        reader->at++;
        if (is_object)
            c = next_byte(reader);
    }
    if (!is_object)
        return 1;
    if (c != '"')
        return ZNL_E_PROTO;
    int err = pass_string(reader, name, is_plain);
    if (err != 0)
        return err;
    if (next_byte(reader) != ':')
        return ZNL_E_PROTO;
    reader->at++;
    return 1;
}

int znl_json_next(znl_json_reader *reader, znl_frame *name, int *is_plain)
{
    return reader->depth > 0 ? next_item(reader, name, is_plain) : ZNL_E_PROTO;
}

int znl_json_skip(znl_json_reader *reader, znl_frame *raw)
{
    znl_frame text;
    int is_plain, err;
    struct number number;
    unsigned outside = reader->depth;
    int kind = peek(reader);
    const uint8_t *start = reader->at;
    for (;;) {
        switch (kind) {
        case ZNL_JSON_STRING:
            err = pass_string(reader, &text, &is_plain);
            break;
        case ZNL_JSON_NUMBER:
            err = pass_number(reader, &number);
            break;
        case ZNL_JSON_NULL:
        case ZNL_JSON_FALSE:
        case ZNL_JSON_TRUE:
            err = pass_literal(reader);
            break;
        case ZNL_JSON_ARRAY:
        case ZNL_JSON_OBJECT:
            err = enter(reader);
            break;
        default:
            err = ZNL_E_PROTO;
        }
        if (err != 0)
            return err;
        /* Out of all that ends here, to the next value. */
        int has_more = 0;
        while (reader->depth > outside && !has_more) {
            has_more = next_item(reader, &text, &is_plain);
            if (has_more < 0)
                return has_more;
        }
        if (!has_more)
            break;
        kind = peek(reader);
    }
    *raw = znl_frame_of(start, (size_t)(reader->at - start));
    return 0;
}

int znl_json_end(znl_json_reader *reader)
{
    next_byte(reader);
    return reader->at == reader->end && reader->depth == 0 ? 0 : ZNL_E_PROTO;
}
