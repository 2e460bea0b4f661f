/* base36.c - see base36.h. SPDX-License-Identifier: MIT */
#include "codec/base36.h"

#include <math.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define BASE 36u
#define EXACT_MAX 9007199254740992.0 /* 2^53 */
#define DIGITS_EXACT 12u             /* that always fit 63 bits */

static const char digits[BASE + 1] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/* clang-format off */
#define FF 255
const uint8_t znl_base36_values[256] = {
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
     0,  1,  2,  3,  4,  5,  6,  7,  8,  9, FF, FF, FF, FF, FF, FF,
    FF, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
    25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, FF, FF, FF, FF, FF,
    FF, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
    25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
    FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF,
};
#undef FF
/* clang-format on */

/* --- one number ------------------------------------------------------------------------------- */

static unsigned count_digits(uint64_t value)
{
    unsigned count = 1;
    for (; value >= BASE; value /= BASE)
        count++;
    return count;
}

size_t znl_base36_put(uint64_t value, uint8_t *out)
{
    unsigned count = count_digits(value);
    for (unsigned i = count; i > 0; value /= BASE)
        out[--i] = (uint8_t)digits[value % BASE];
    return count;
}

static int is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

double znl_base36_parse(const uint8_t *text, size_t size, int *is_exact)
{
    const uint8_t *at = text, *end = text + size;
    while (at < end && is_space(*at))
        at++;
    int is_negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+'))
        at++;
    const uint8_t *start = at;
    uint64_t whole = 0;
    for (; at < end && (size_t)(at - start) < DIGITS_EXACT && znl_base36_values[*at] < BASE;
            at++)
        whole = whole * BASE + znl_base36_values[*at];
    *is_exact = 0;
    if (at == start)
        return NAN;
    double value = (double)whole;
    for (; at < end && znl_base36_values[*at] < BASE; at++)
        value = value * BASE + znl_base36_values[*at];
    *is_exact = value <= EXACT_MAX && whole <= (uint64_t)EXACT_MAX;
    return is_negative ? -value : value;
}

/* --- runs of ascending numbers ---------------------------------------------------------------- */

/* The 36 numbers that differ in their last digit only, each followed by a separator. */
struct block {
    uint8_t text[BASE * (ZNL_BASE36_DIGITS_MAX + 1) + ZNL_BASE36_SLACK];
    uint64_t lead;  /* their other digits, as a number */
    unsigned width; /* of one, with its separator */
};

static void fill_block(struct block *block, uint64_t lead)
{
    uint8_t prefix[ZNL_BASE36_DIGITS_MAX];
    unsigned size = lead == 0 ? 0 : (unsigned)znl_base36_put(lead, prefix);
    uint8_t *at = block->text;
    for (unsigned i = 0; i < BASE; i++) {
        for (unsigned j = 0; j < size; j++)
            *at++ = prefix[j];
        *at++ = (uint8_t)digits[i];
        *at++ = '|';
    }
    block->lead = lead;
    block->width = size + 2;
}

static void next_block(struct block *block)
{
    uint64_t lead = block->lead + 1;
    if (lead % BASE == 0 || lead == 1) {
        fill_block(block, lead); /* more than one digit changes */
        return;
    }
    uint8_t digit = (uint8_t)digits[lead % BASE];
    uint8_t *at = block->text + block->width - 3;
    for (unsigned i = 0; i < BASE; i++, at += block->width)
        *at = digit;
    block->lead = lead;
}

size_t znl_base36_run_size(uint64_t first, size_t count)
{
    return count * (count_digits(first + count) + 1);
}

/* Copies in steps of the slack: the last may write past the end. */
static inline void copy_block(uint8_t *out, const uint8_t *from, size_t size)
{
    for (size_t i = 0; i < size; i += ZNL_BASE36_SLACK)
        memcpy(out + i, from + i, ZNL_BASE36_SLACK);
}

size_t znl_base36_put_run(uint64_t first, size_t count, uint8_t *out)
{
    struct block block;
    uint8_t *at = out;
    unsigned from = (unsigned)(first % BASE);
    if (count == 0)
        return 0;
    fill_block(&block, first / BASE);
    for (;;) {
        size_t some = count < BASE - from ? count : BASE - from;
        size_t size = some * block.width;
        copy_block(at, block.text + from * block.width, size);
        at += size;
        count -= some;
        if (count == 0)
            break;
        from = 0;
        next_block(&block);
    }
    return (size_t)(at - out) - 1; /* without the separator */
}

size_t znl_base36_match_run(uint64_t first, const uint8_t *text, size_t size)
{
    struct block block;
    const uint8_t *at = text, *end = text + size;
    unsigned from = (unsigned)(first % BASE);
    size_t count = 0;
    if (size == 0)
        return 0;
    fill_block(&block, first / BASE);
    for (;;) {
        size_t all = (BASE - from) * block.width;
        size_t left = (size_t)(end - at);
        if (left < all) {
            /* The last one has no separator. */
            if ((left + 1) % block.width != 0 ||
                    memcmp(at, block.text + from * block.width, left) != 0)
                return 0;
            return count + (left + 1) / block.width;
        }
        if (memcmp(at, block.text + from * block.width, all) != 0)
            return 0;
        at += all;
        count += BASE - from;
        from = 0;
        next_block(&block);
    }
}

/* --- separators ------------------------------------------------------------------------------- */

#ifdef __SSE2__

/* A bit for each separator among the 64 bytes at `at`. */
static inline uint64_t find_separators(const uint8_t *at)
{
    const __m128i bar = _mm_set1_epi8('|');
    uint64_t bits = 0;
    for (unsigned i = 0; i < 4; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(at + 16 * i));
        unsigned some = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, bar));
        bits |= (uint64_t)some << (16 * i);
    }
    return bits;
}

size_t znl_base36_count_separators(const uint8_t *at, const uint8_t *end)
{
    const __m128i bar = _mm_set1_epi8('|'), zero = _mm_setzero_si128();
    size_t count = 0;
    while (end - at >= 16) {
        /* Each lane counts to 255 at most before it is added up. */
        size_t blocks = (size_t)(end - at) / 16 < 255 ? (size_t)(end - at) / 16 : 255;
        __m128i lanes = zero;
        for (size_t i = 0; i < blocks; i++, at += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
            lanes = _mm_sub_epi8(lanes, _mm_cmpeq_epi8(bytes, bar));
        }
        __m128i sums = _mm_sad_epu8(lanes, zero);
        count += (size_t)_mm_cvtsi128_si32(sums) + (size_t)_mm_extract_epi16(sums, 4);
    }
    for (; at < end; at++)
        count += *at == '|';
    return count;
}

#else

static inline uint64_t find_separators(const uint8_t *at)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 64; i++)
        bits |= (uint64_t)(at[i] == '|') << i;
    return bits;
}

size_t znl_base36_count_separators(const uint8_t *at, const uint8_t *end)
{
    size_t count = 0;
    for (; at < end; at++)
        count += *at == '|';
    return count;
}

#endif

/* --- bytes ------------------------------------------------------------------------------------ */

/* The text of one byte and a separator. */
static inline size_t put_octet(uint8_t octet, uint8_t *out)
{
    unsigned high = octet / BASE, low = octet % BASE;
    uint32_t is_long = high != 0;
    out[0] = (uint8_t)digits[is_long ? high : low];
    out[1] = (uint8_t)(is_long ? digits[low] : '|');
    out[2] = '|';
    return 2 + is_long;
}

size_t znl_base36_put_octets(const uint8_t *bytes, size_t size, uint8_t *out)
{
    uint8_t *at = out;
    if (size == 0)
        return 0;
    for (size_t i = 0; i < size; i++)
        at += put_octet(bytes[i], at);
    return (size_t)(at - out) - 1;
}

/* Not a digit; the bit is far above the sums of two digits. */
#define BAD 0x8000u

/* What a digit adds to the number as the last of it, and as the one before. */
static inline unsigned last_digit(uint8_t c)
{
    unsigned value = znl_base36_values[c];
    return value < BASE ? value : BAD;
}

static inline unsigned lead_digit(uint8_t c)
{
    unsigned value = znl_base36_values[c];
    return value < BASE ? value * BASE : BAD;
}

/* The number between two separators; BAD when it has not one digit or two. */
static inline unsigned octet_between(const uint8_t *before, const uint8_t *after)
{
    size_t size = (size_t)(after - before) - 1;
    unsigned lead = lead_digit(after[size > 1 ? -2 : -1]);
    return (last_digit(after[-1]) + (size > 1 ? lead : 0)) | (size - 1 > 1 ? BAD : 0);
}

const uint8_t *znl_base36_read_octets(
        const uint8_t *at, const uint8_t *end, size_t count, uint8_t *out)
{
    const uint8_t *before = at - 1; /* the separator before the next number */
    unsigned bad = 0;
    size_t i = 0;
    while (i < count && end - at >= 64) {
        uint64_t bits = find_separators(at);
        for (; bits != 0 && i < count; bits &= bits - 1) {
            const uint8_t *after = at + __builtin_ctzll(bits);
            unsigned value = octet_between(before, after);
            bad |= value;
            out[i++] = (uint8_t)value;
            before = after;
        }
        at += 64;
    }
    if ((bad & BAD) != 0)
        return NULL;
    while (i < count) {
        if (before >= end)
            return NULL;
        const uint8_t *after = before + 1;
        while (after < end && *after != '|')
            after++;
        unsigned value = octet_between(before, after);
        if ((value & BAD) != 0)
            return NULL;
        out[i++] = (uint8_t)value;
        before = after;
    }
    return before + 1;
}
