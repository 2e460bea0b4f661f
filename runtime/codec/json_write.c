/* json_write.c - see json.h: writing. SPDX-License-Identifier: MIT */
#include "codec/json.h"

#include "base/err.h"
#include "codec/decimal.h"
#include "codec/json_scan.h"
#include "codec/text.h"

#include <math.h>

#define NUMBER_BYTES_MAX 32          /* sign, 21 digits, point, or an exponent */
#define ESCAPE_BYTES_MAX 6           /* \u001f */
#define WHOLE_MAX 9007199254740992.0 /* 2^53: doubles hold every whole number up to here */
/* From where on JavaScript writes exponents: 1e21, 1e-7. */
#define POINT_MAX 21
#define POINT_MIN (-6)

/* The second byte of two-byte escapes. */
static const char short_escapes[256] = {['"'] = '"',
        ['\\'] = '\\',
        ['\b'] = 'b',
        ['\f'] = 'f',
        ['\n'] = 'n',
        ['\r'] = 'r',
        ['\t'] = 't'};

static uint8_t *put_escape(uint8_t *at, uint8_t c)
{
    *at++ = '\\';
    if (short_escapes[c] != 0) {
        *at++ = (uint8_t)short_escapes[c];
        return at;
    }
    memcpy(at, "u00", 3);
    at[3] = (uint8_t)('0' + (c >> 4));
    at[4] = (uint8_t) "0123456789abcdef"[c & 15];
    return at + 5;
}

/* Room for `extra` bytes more; the call is left out when there is. */
static inline int make_room(znl_buffer *out, size_t extra)
{
    return extra <= out->capacity - out->size ? 0 : znl_buffer_extend(out, extra);
}

int znl_json_put_string(znl_buffer *out, znl_frame text)
{
    const uint8_t *at = text.size > 0 ? text.data : (const uint8_t *)"";
    const uint8_t *end = at + text.size;
    size_t before = out->size;
    /* Room for all that is left plain, and for one block more than the last byte. */
    int err = text.size > SIZE_MAX / 2 ? ZNL_E_NOMEM
                                       : make_room(out, text.size + 2 + ZNL_JSON_BLOCK);
    if (err != 0)
        return err;
    uint8_t *to = out->data + before;
    *to++ = '"';
    for (;;) {
        /* Copied by the block, looked at while there: what follows a special byte is overwritten. */
        while (end - at >= ZNL_JSON_BLOCK) {
            unsigned bits = znl_json_block(at);
            memcpy(to, at, ZNL_JSON_BLOCK);
            size_t run = bits != 0 ? (size_t)__builtin_ctz(bits) : ZNL_JSON_BLOCK;
            at += run;
            to += run;
            if (bits != 0)
                break;
        }
        for (; end - at >= 8 && znl_json_is_plain8(at); at += 8, to += 8)
            memcpy(to, at, 8);
        while (at < end && !znl_json_is_special(*at))
            *to++ = *at++;
        if (at == end)
            break;
        if (*at >= 0x80) {
            const uint8_t *start = at; /* such characters come in rows */
            while (at < end && *at >= 0x80) {
                size_t length = znl_utf8_length(at, (size_t)(end - at));
                if (length == 0) {
                    out->size = before;
                    return ZNL_E_PROTO;
                }
                at += length;
            }
            memcpy(to, start, (size_t)(at - start));
            to += at - start;
            continue;
        }
        uint8_t c = *at++;
        out->size = (size_t)(to - out->data);
        err = make_room(out, ESCAPE_BYTES_MAX + (size_t)(end - at) + 1 + ZNL_JSON_BLOCK);
        if (err != 0) {
            out->size = before;
            return err;
        }
        to = put_escape(out->data + out->size, c);
    }
    *to++ = '"';
    out->size = (size_t)(to - out->data);
    return 0;
}

/* Half of a surrogate pair. */
static uint8_t *put_half(uint8_t *at, uint32_t code)
{
    *at++ = '\\';
    *at++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4)
        *at++ = (uint8_t) "0123456789abcdef"[code >> shift & 15];
    return at;
}

int znl_json_put_quoted(znl_buffer *out, znl_frame quoted)
{
    /* It never grows: what needs an escape has one, and those of JSON.stringify are the shortest. */
    int err = quoted.size > SIZE_MAX - 2 ? ZNL_E_NOMEM : make_room(out, quoted.size + 2);
    if (err != 0)
        return err;
    const uint8_t *at = quoted.data, *end = at + quoted.size;
    uint8_t *to = out->data + out->size;
    *to++ = '"';
    while (at < end) {
        const uint8_t *escape = memchr(at, '\\', (size_t)(end - at));
        size_t run = (size_t)((escape != NULL ? escape : end) - at);
        memcpy(to, at, run);
        to += run;
        at += run;
        if (escape == NULL)
            break;
        uint32_t code = znl_json_character(&at, end);
        if (code < 0x20 || code == '"' || code == '\\')
            to = put_escape(to, (uint8_t)code);
        else if (code >= 0xd800 && code <= 0xdfff)
            to = put_half(to, code);
        else
            to += znl_json_put_utf8(to, code);
    }
    *to++ = '"';
    out->size = (size_t)(to - out->data);
    return 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static int put_whole(znl_buffer *out, uint64_t value, int is_negative)
{
    int err = make_room(out, NUMBER_BYTES_MAX);
    if (err != 0)
        return err;
    if (is_negative)
        out->data[out->size++] = '-';
    out->size += znl_decimal_whole(value, (char *)out->data + out->size);
    return 0;
}

int znl_json_put_integer(znl_buffer *out, int64_t value)
{
    return put_whole(out, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
}

int znl_json_put_unsigned(znl_buffer *out, uint64_t value)
{
    return put_whole(out, value, 0);
}

static char *put_bytes(char *at, const char *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

static char *put_zeros(char *at, int count)
{
    memset(at, '0', (size_t)count);
    return at + count;
}

/* d.ddde+x */
static char *put_exponent(char *at, const char *digits, unsigned count, int exponent)
{
    *at++ = digits[0];
    if (count > 1) {
        *at++ = '.';
        at = put_bytes(at, digits + 1, count - 1);
    }
    *at++ = 'e';
    *at++ = exponent < 0 ? '-' : '+';
    unsigned rest = (unsigned)(exponent < 0 ? -exponent : exponent);
    if (rest >= 100)
        *at++ = (char)('0' + rest / 100);
    if (rest >= 10)
        *at++ = (char)('0' + rest / 10 % 10);
    *at++ = (char)('0' + rest % 10);
    return at;
}

/* point_max: how many digits may stand before the point. */
static int put_shortest(znl_buffer *out, double value, int point_max)
{
    if (!isfinite(value))
        return ZNL_E_INVALID;
    char digits[ZNL_DECIMAL_DIGITS_MAX], text[NUMBER_BYTES_MAX];
    char *at = text;
    int point;
    unsigned count = znl_decimal_shortest(fabs(value), digits, &point);
    int whole = (int)count;
    if (value < 0)
        *at++ = '-';
    if (point > point_max || point <= POINT_MIN) {
        at = put_exponent(at, digits, count, point - 1);
    } else if (point <= 0) {
        at = put_bytes(at, "0.", 2);
        at = put_zeros(at, -point);
        at = put_bytes(at, digits, count);
    } else if (point >= whole) {
        at = put_bytes(at, digits, count);
        at = put_zeros(at, point - whole);
    } else {
        at = put_bytes(at, digits, (size_t)point);
        *at++ = '.';
        at = put_bytes(at, digits + point, count - (unsigned)point);
    }
    return znl_buffer_append(out, text, (size_t)(at - text));
}

static inline int is_exact_whole(double value)
{
    return value <= WHOLE_MAX && value >= -WHOLE_MAX && value == (double)(int64_t)value;
}

int znl_json_put_number(znl_buffer *out, double value)
{
    if (is_exact_whole(value))
        return znl_json_put_integer(out, (int64_t)value); /* -0 is 0, as in JavaScript */
    return put_shortest(out, value, POINT_MAX);
}

int znl_json_put_double(znl_buffer *out, double value)
{
    if (is_exact_whole(value))
        return znl_json_put_integer(out, (int64_t)value);
    return put_shortest(out, value, fabs(value) > WHOLE_MAX ? 0 : POINT_MAX);
}
