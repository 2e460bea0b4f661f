/* json_scan.h - finds the bytes of a string that need a second look; for json.c and json_write.c.
 *
 * Layer: codec. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_JSON_SCAN_H
#define ZNL_CODEC_JSON_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* True for what is neither itself inside a JSON string nor ASCII: quote, backslash, controls, UTF-8. */
static inline int znl_json_is_special(uint8_t c)
{
    return c < 0x20 || c >= 0x80 || c == '"' || c == '\\';
}

/* Whether none of the 8 bytes at `at` is special. */
static inline int znl_json_is_plain8(const uint8_t *at)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
    uint64_t word;
    memcpy(&word, at, sizeof word);
    uint64_t quotes = word ^ ones * '"', slashes = word ^ ones * '\\';
    /* A byte below what is taken from it borrows, which sets its top bit or a neighbour's: exact as
     * "is there any", not as to which. */
    return ((word | (word - ones * 0x20) | (quotes - ones) | (slashes - ones)) & tops) == 0;
}

#ifdef __SSE2__

#define ZNL_JSON_BLOCK 16

/* A bit for each special byte among the 16 at `at`. */
static inline unsigned znl_json_block(const uint8_t *at)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)at);
    /* Signed: bytes from 0x80 on are negative, so below 0x20 too. */
    __m128i found = _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20));
    found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')));
    found = _mm_or_si128(found, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
    return (unsigned)_mm_movemask_epi8(found);
}

#else

#define ZNL_JSON_BLOCK 8

/* A bit for each special byte among the 8 at `at`. */
static inline unsigned znl_json_block(const uint8_t *at)
{
    if (znl_json_is_plain8(at))
        return 0;
    unsigned bits = 0;
    for (unsigned i = 0; i < 8; i++)
        bits |= (unsigned)znl_json_is_special(at[i]) << i;
    return bits;
}

#endif

/* The first special byte from `at` on, or `end`. */
static inline const uint8_t *znl_json_find_special(const uint8_t *at, const uint8_t *end)
{
    for (; end - at >= ZNL_JSON_BLOCK; at += ZNL_JSON_BLOCK) {
        unsigned bits = znl_json_block(at);
        if (bits != 0)
            return at + __builtin_ctz(bits);
    }
    while (at < end && !znl_json_is_special(*at))
        at++;
    return at;
}

#endif
