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

/* The 36 numbers that differ in their last digit only, each with a separator: 8 bytes hold one. */
struct row {
    uint64_t word;  /* of the first, in the order of memory, without its last digit */
    uint64_t mask;  /* the bytes that count */
    uint64_t lead;  /* the other digits, as a number */
    unsigned shift; /* of the last digit */
    unsigned width; /* of one */
};

#define WORD_DIGITS_MAX 7u

/* 0: the numbers do not fit. */
static int fill_row(struct row *row, uint64_t lead)
{
    uint8_t text[8] = {0}, mask[8] = {0}, prefix[ZNL_BASE36_DIGITS_MAX];
    unsigned size = lead == 0 ? 0 : (unsigned)znl_base36_put(lead, prefix);
    if (size >= WORD_DIGITS_MAX)
        return 0;
    memcpy(text, prefix, size);
    text[size + 1] = '|';
    memset(mask, 0xff, size + 2);
    memcpy(&row->word, text, sizeof text);
    memcpy(&row->mask, mask, sizeof mask);
    row->lead = lead;
    row->shift = 8 * (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? size : 7 - size);
    row->width = size + 2;
    return 1;
}

/* The row behind it. 0: the numbers do not fit. */
static inline int next_row(struct row *row)
{
    uint64_t lead = row->lead + 1;
    if (lead == 1 || lead % BASE == 0)
        return fill_row(row, lead); /* more than one digit changes */
    unsigned shift = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? row->shift - 8
                                                               : row->shift + 8;
    row->word &= ~(UINT64_C(0xff) << shift);
    row->word |= (uint64_t)(uint8_t)digits[lead % BASE] << shift;
    row->lead = lead;
    return 1;
}

static inline uint64_t word_of(const struct row *row, unsigned digit)
{
    return row->word | (uint64_t)(uint8_t)digits[digit] << row->shift;
}

size_t znl_base36_run_size(uint64_t first, size_t count)
{
    return count * (count_digits(first + count) + 1);
}

size_t znl_base36_put_run(uint64_t first, size_t count, uint8_t *out)
{
    struct row row;
    uint8_t *at = out;
    uint64_t value = first, last = first + count;
    if (count == 0)
        return 0;
    for (int fits = fill_row(&row, first / BASE); fits && value < last; fits = next_row(&row)) {
        unsigned from = (unsigned)(value % BASE);
        unsigned to = last - value < BASE - from ? from + (unsigned)(last - value) : BASE;
        value += to - from;
        for (; from < to; from++, at += row.width) {
            uint64_t word = word_of(&row, from);
            memcpy(at, &word, sizeof word);
        }
    }
    for (; value < last; value++) { /* those that do not fit */
        at += znl_base36_put(value, at);
        *at++ = '|';
    }
    return (size_t)(at - out) - 1; /* without the separator */
}

/* Whether the `size` < 8 bytes at `at` are the number without its separator. */
static int is_last(const struct row *row, unsigned digit, const uint8_t *at, size_t size)
{
    uint64_t word = word_of(row, digit);
    return size + 1 == row->width && memcmp(at, &word, size) == 0;
}

/* Moves past those that are the numbers from `*from` on, eight bytes at a time: *wrong is not 0 when one is not. */
static inline const uint8_t *match_words(
        const struct row *row, unsigned *from, unsigned to, const uint8_t *at, uint64_t *wrong)
{
    for (; *from < to; *from += 1, at += row->width) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        *wrong |= (word ^ word_of(row, *from)) & row->mask;
    }
    return at;
}

size_t znl_base36_match_run(uint64_t first, const uint8_t *text, size_t size)
{
    struct row row;
    const uint8_t *at = text, *end = text + size;
    unsigned from = (unsigned)(first % BASE);
    size_t count = 0;
    for (int fits = fill_row(&row, first / BASE); fits; fits = next_row(&row), from = 0) {
        uint64_t wrong = 0;
        size_t left = (size_t)(end - at), row_size = (BASE - from) * row.width;
        unsigned start = from;
        if (left >= row_size + 8) {
            at = match_words(&row, &from, BASE, at, &wrong);
        } else {
            while (from < BASE && end - at >= 8 && wrong == 0)
                at = match_words(&row, &from, from + 1, at, &wrong);
            for (; from < BASE && (size_t)(end - at) >= row.width; from++, at += row.width) {
                uint64_t word = word_of(&row, from);
                wrong |= (uint64_t)(memcmp(at, &word, row.width) != 0);
            }
        }
        if (wrong != 0)
            return 0;
        count += from - start;
        if (from < BASE)
            return is_last(&row, from, at, (size_t)(end - at)) ? count + 1 : 0;
    }
    return 0;
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

/* The text of a byte, with separators, and its size with one. */
#define DIGIT(n) ((n) < 10 ? '0' + (n) : 'A' + (n)-10)
#define TEXT(n)                                                                                \
    {                                                                                          \
        DIGIT((n) < 36 ? (n) : (n) / 36), (n) < 36 ? '|' : DIGIT((n) % 36), '|',               \
                (n) < 36 ? 2 : 3                                                               \
    }
#define TEXTS4(n) TEXT(n), TEXT(n + 1), TEXT(n + 2), TEXT(n + 3)
#define TEXTS16(n) TEXTS4(n), TEXTS4(n + 4), TEXTS4(n + 8), TEXTS4(n + 12)
#define TEXTS64(n) TEXTS16(n), TEXTS16(n + 16), TEXTS16(n + 32), TEXTS16(n + 48)

static const uint8_t octet_texts[256][4] = {
        TEXTS64(0), TEXTS64(64), TEXTS64(128), TEXTS64(192)};

size_t znl_base36_put_octets(const uint8_t *bytes, size_t size, uint8_t *out)
{
    uint8_t *at = out;
    if (size == 0)
        return 0;
    for (size_t i = 0; i < size; i++) {
        const uint8_t *text = octet_texts[bytes[i]];
        memcpy(at, text, 4);
        at += text[3];
    }
    return (size_t)(at - out) - 1;
}

/* What a digit adds to a number of one digit or two: as the last one, and as the one before, where a separator
 * adds nothing. BAD, which is far above any sum, for every other byte. */
#define BAD 0x8000u
#define B8 BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD
#define B32 B8, B8, B8, B8
#define B128 B32, B32, B32, B32
#define LETTERS(n, d)                                                                          \
    (n) * (d), ((n) + 1) * (d), ((n) + 2) * (d), ((n) + 3) * (d), ((n) + 4) * (d),             \
            ((n) + 5) * (d), ((n) + 6) * (d), ((n) + 7) * (d), ((n) + 8) * (d),                \
            ((n) + 9) * (d), ((n) + 10) * (d), ((n) + 11) * (d), ((n) + 12) * (d)
#define ADDENDS(d, caret, bar)                                                                 \
    B32, B8, B8, 0, (d), 2 * (d), 3 * (d), 4 * (d), 5 * (d), 6 * (d), 7 * (d), 8 * (d),        \
            9 * (d), BAD, BAD, BAD, BAD, BAD, BAD, BAD, LETTERS(10, d), LETTERS(23, d), BAD,   \
            BAD, BAD, caret, BAD, BAD, LETTERS(10, d), LETTERS(23, d), BAD, bar, BAD, BAD,     \
            BAD, B128

static const uint16_t last_digit[256] = {ADDENDS(1, BAD, BAD)};
static const uint16_t lead_digit[256] = {ADDENDS(36, 0, 0)};

static inline unsigned octet_before(const uint8_t *separator)
{
    return (unsigned)last_digit[separator[-1]] + lead_digit[separator[-2]];
}

const uint8_t *znl_base36_read_octets(
        const uint8_t *at, const uint8_t *end, size_t count, uint8_t *out)
{
    const uint8_t *before = at - 1; /* the separator before the next number */
    uint64_t recent = 3;            /* bits of the separators in the two bytes before `at` */
    unsigned bad = 0;
    size_t i = 0;
    if (count > 0 && (at >= end || *at == '|'))
        return NULL; /* so that two bytes before each separator are there */
    while (i < count && end - at >= 64) {
        uint64_t bits = find_separators(at);
        /* Where there is no separator, neither here nor in the two bytes before: three digits in a row. */
        uint64_t wide = ~(bits | bits << 1 | bits << 2 | recent);
        recent = bits >> 63 | bits >> 62;
        for (; bits != 0 && i < count; bits &= bits - 1) {
            before = at + __builtin_ctzll(bits);
            unsigned value = octet_before(before);
            bad |= value;
            out[i++] = (uint8_t)value;
        }
        if (i == count)
            wide &= (UINT64_C(2) << (before - at)) - 1; /* what follows may be of any form */
        if (wide != 0)
            return NULL;
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
        unsigned value = octet_before(after);
        if (after - before > 3 || (value & BAD) != 0)
            return NULL;
        out[i++] = (uint8_t)value;
        before = after;
    }
    return before + 1;
}
