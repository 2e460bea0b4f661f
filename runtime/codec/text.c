/* text.c - see text.h. SPDX-License-Identifier: MIT */
#include "codec/text.h"

#include <string.h>

#include "base/err.h"

#define BAD 0xff

static const char hex_digits[16] = "0123456789abcdef";

/* Values of the lowercase hex digits, BAD for the rest. */
static inline uint8_t hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return (uint8_t)(c - '0');
    if (c >= 'a' && c <= 'f')
        return (uint8_t)(c - 'a' + 10);
    return BAD;
}

void znl_hex_encode(const uint8_t *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = hex_digits[bytes[i] >> 4];
        out[2 * i + 1] = hex_digits[bytes[i] & 15];
    }
}

int znl_hex_decode(const char *text, size_t size, uint8_t *out)
{
    if (size % 2 != 0)
        return ZNL_E_PROTO;
    for (size_t i = 0; i < size; i += 2) {
        uint8_t high = hex_value((uint8_t)text[i]);
        uint8_t low = hex_value((uint8_t)text[i + 1]);
        if (high == BAD || low == BAD)
            return ZNL_E_PROTO;
        out[i / 2] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static const char base64_digits[64] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Value plus one of each digit; 0 for every byte that is none. */
/* clang-format off */
static const uint8_t base64_values[256] = {
    ['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8,
    ['I'] = 9, ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15,
    ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22,
    ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29,
    ['d'] = 30, ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36,
    ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42, ['q'] = 43,
    ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49, ['x'] = 50,
    ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56, ['4'] = 57,
    ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['-'] = 63, ['_'] = 64,
};
/* clang-format on */

size_t znl_base64url_size(size_t size)
{
    size_t rest = size % 3;
    return size / 3 * 4 + (rest == 0 ? 0 : rest + 1);
}

size_t znl_base64url_encode(const uint8_t *bytes, size_t size, char *out)
{
    char *at = out;
    size_t i = 0;
    for (; size - i >= 3; i += 3) {
        uint32_t v = (uint32_t)bytes[i] << 16 | (uint32_t)bytes[i + 1] << 8 | bytes[i + 2];
        *at++ = base64_digits[v >> 18];
        *at++ = base64_digits[v >> 12 & 63];
        *at++ = base64_digits[v >> 6 & 63];
        *at++ = base64_digits[v & 63];
    }
    if (size - i == 1) {
        *at++ = base64_digits[bytes[i] >> 2];
        *at++ = base64_digits[(bytes[i] & 3) << 4];
    } else if (size - i == 2) {
        *at++ = base64_digits[bytes[i] >> 2];
        *at++ = base64_digits[(bytes[i] & 3) << 4 | bytes[i + 1] >> 4];
        *at++ = base64_digits[(bytes[i + 1] & 15) << 2];
    }
    return (size_t)(at - out);
}

int znl_base64url_decode(const char *text, size_t size, uint8_t *out, size_t *out_size)
{
    const uint8_t *in = (const uint8_t *)text;
    uint8_t *at = out;
    size_t rest = size % 4;
    if (rest == 1)
        return ZNL_E_PROTO;
    for (size_t i = 0; i < size - rest; i += 4) {
        uint32_t a = base64_values[in[i]];
        uint32_t b = base64_values[in[i + 1]];
        uint32_t c = base64_values[in[i + 2]];
        uint32_t d = base64_values[in[i + 3]];
        if (a == 0 || b == 0 || c == 0 || d == 0)
            return ZNL_E_PROTO;
        uint32_t v = (a - 1) << 18 | (b - 1) << 12 | (c - 1) << 6 | (d - 1);
        *at++ = (uint8_t)(v >> 16);
        *at++ = (uint8_t)(v >> 8);
        *at++ = (uint8_t)v;
    }
    if (rest != 0) {
        /* The bits that do not fill a byte must be zero, or two texts would mean the same. */
        const uint8_t *tail = in + (size - rest);
        uint32_t a = base64_values[tail[0]];
        uint32_t b = base64_values[tail[1]];
        uint32_t c = rest == 3 ? base64_values[tail[2]] : 1;
        if (a == 0 || b == 0 || c == 0)
            return ZNL_E_PROTO;
        uint32_t v = (a - 1) << 12 | (b - 1) << 6 | (c - 1);
        if ((v & (rest == 3 ? 0x3u : 0x3ffu)) != 0)
            return ZNL_E_PROTO;
        *at++ = (uint8_t)(v >> 10);
        if (rest == 3)
            *at++ = (uint8_t)(v >> 2);
    }
    *out_size = (size_t)(at - out);
    return 0;
}

int znl_utf8_valid(const uint8_t *bytes, size_t size)
{
    size_t i = 0;
    while (i < size) {
        uint64_t word;
        if (size - i >= sizeof word) {
            memcpy(&word, bytes + i, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof word;
                continue;
            }
        }
        size_t length = znl_utf8_length(bytes + i, size - i);
        if (length == 0)
            return 0;
        i += length;
    }
    return 1;
}
