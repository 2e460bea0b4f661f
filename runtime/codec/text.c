/* text.c - see text.h. SPDX-License-Identifier: MIT */
#include "codec/text.h"

#include <string.h>

#include "base/err.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif
#ifdef __x86_64__
#include <tmmintrin.h>
#define SSSE3 __attribute__((target("ssse3")))
#endif

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
    size_t i = 0;
#ifdef __SSE2__
    for (; size - i >= 16; i += 16) {
        const __m128i four_bits = _mm_set1_epi8(15);
        __m128i in = _mm_loadu_si128((const __m128i *)(const void *)(bytes + i));
        __m128i high = _mm_and_si128(_mm_srli_epi16(in, 4), four_bits);
        __m128i low = _mm_and_si128(in, four_bits);
        __m128i digits[2] = {_mm_unpacklo_epi8(high, low), _mm_unpackhi_epi8(high, low)};
        for (size_t half = 0; half < 2; half++) {
            __m128i letters = _mm_cmpgt_epi8(digits[half], _mm_set1_epi8(9));
            __m128i text = _mm_add_epi8(digits[half], _mm_set1_epi8('0'));
            text = _mm_add_epi8(text, _mm_and_si128(letters, _mm_set1_epi8('a' - '0' - 10)));
            _mm_storeu_si128((__m128i *)(void *)(out + 2 * i + 16 * half), text);
        }
    }
#endif
    for (; i < size; i++) {
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

/* --- 16 digits at a time ------------------------------------------------------------------------ *
 * W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding Using AVX2 Instructions", ACM
 * Transactions on the Web 12 (3), 2018, with the digits of base64url. */

#ifdef SSSE3

/* Encodes 12 bytes as long as 16 can be read. Returns how many bytes are done. */
SSSE3 static size_t encode_blocks(const uint8_t *bytes, size_t size, char *out)
{
    /* Each group of three bytes b0 b1 b2 as b1 b0 b2 b1, of which 6 bits each are shifted apart. */
    const __m128i spread = _mm_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10);
    /* What is to be added to a value, by a number for its range: 13 for A-Z, 0 for a-z, 1 to 10 for the
     * digits, 11 and 12 for the two others. */
    const __m128i offsets = _mm_setr_epi8('a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
            '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '-' - 62, '_' - 63, 'A',
            0, 0);
    size_t done = 0;
    for (; size - done >= 16; done += 12, out += 16) {
        __m128i in = _mm_loadu_si128((const __m128i *)(const void *)(bytes + done));
        in = _mm_shuffle_epi8(in, spread);
        __m128i odd = _mm_and_si128(in, _mm_set1_epi32(0x0fc0fc00));
        __m128i even = _mm_and_si128(in, _mm_set1_epi32(0x003f03f0));
        __m128i values = _mm_or_si128(_mm_mulhi_epu16(odd, _mm_set1_epi32(0x04000040)),
                _mm_mullo_epi16(even, _mm_set1_epi32(0x01000010)));
        __m128i ranges = _mm_subs_epu8(values, _mm_set1_epi8(51));
        __m128i upper = _mm_cmpgt_epi8(_mm_set1_epi8(26), values);
        ranges = _mm_or_si128(ranges, _mm_and_si128(upper, _mm_set1_epi8(13)));
        __m128i text = _mm_add_epi8(values, _mm_shuffle_epi8(offsets, ranges));
        _mm_storeu_si128((__m128i *)(void *)out, text);
    }
    return done;
}

/* All bits of each byte of `in` that is in low .. high. */
SSSE3 static inline __m128i is_between(__m128i in, char low, char high)
{
    return _mm_and_si128(_mm_cmpgt_epi8(in, _mm_set1_epi8((char)(low - 1))),
            _mm_cmplt_epi8(in, _mm_set1_epi8((char)(high + 1))));
}

/* Decodes 16 digits at a time up to the first that is none. Returns how many digits are done. */
SSSE3 static size_t decode_blocks(const uint8_t *text, size_t size, uint8_t *out)
{
    const __m128i gather = _mm_setr_epi8(
            2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    size_t done = 0;
    for (; size - done >= 16; done += 16, out += 12) {
        __m128i in = _mm_loadu_si128((const __m128i *)(const void *)(text + done));
        __m128i upper = is_between(in, 'A', 'Z');
        __m128i lower = is_between(in, 'a', 'z');
        __m128i digit = is_between(in, '0', '9');
        __m128i minus = _mm_cmpeq_epi8(in, _mm_set1_epi8('-'));
        __m128i under = _mm_cmpeq_epi8(in, _mm_set1_epi8('_'));
        __m128i letters = _mm_or_si128(upper, lower);
        __m128i others = _mm_or_si128(minus, under);
        __m128i known = _mm_or_si128(_mm_or_si128(letters, others), digit);
        if (_mm_movemask_epi8(known) != 0xffff)
            break;
        __m128i offsets = _mm_and_si128(upper, _mm_set1_epi8(0 - 'A'));
        offsets = _mm_or_si128(offsets, _mm_and_si128(lower, _mm_set1_epi8(26 - 'a')));
        offsets = _mm_or_si128(offsets, _mm_and_si128(digit, _mm_set1_epi8(52 - '0')));
        offsets = _mm_or_si128(offsets, _mm_and_si128(minus, _mm_set1_epi8(62 - '-')));
        offsets = _mm_or_si128(offsets, _mm_and_si128(under, _mm_set1_epi8(63 - '_')));
        __m128i values = _mm_add_epi8(in, offsets);
        __m128i pairs = _mm_maddubs_epi16(values, _mm_set1_epi32(0x01400140));
        __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x00011000));
        __m128i bytes = _mm_shuffle_epi8(fours, gather);
        _mm_storel_epi64((__m128i *)(void *)out, bytes);
        int last = _mm_cvtsi128_si32(_mm_srli_si128(bytes, 8));
        memcpy(out + 8, &last, sizeof last);
    }
    return done;
}

static int has_blocks(void)
{
    return __builtin_cpu_supports("ssse3");
}

#else

static size_t encode_blocks(const uint8_t *bytes, size_t size, char *out)
{
    (void)bytes, (void)size, (void)out;
    return 0;
}

static size_t decode_blocks(const uint8_t *text, size_t size, uint8_t *out)
{
    (void)text, (void)size, (void)out;
    return 0;
}

static int has_blocks(void)
{
    return 0;
}

#endif

/* --- what is left ------------------------------------------------------------------------------- */

size_t znl_base64url_encode(const uint8_t *bytes, size_t size, char *out)
{
    size_t i = has_blocks() ? encode_blocks(bytes, size, out) : 0;
    char *at = out + i / 3 * 4;
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
    size_t begun = has_blocks() ? decode_blocks(in, size, out) : 0;
    at += begun / 4 * 3;
    for (size_t i = begun; i < size - rest; i += 4) {
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
#ifdef __SSE2__
    while (size - i >= 16 &&
            _mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(const void *)(bytes + i))) == 0)
        i += 16;
#endif
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
