/* base36.h - numbers to the base 36 (0-9, A-Z), as the default transcode of cluster-client lists them
 * (codec/WIRE.md, "Transcode"): "A|2B|-7". Made for long lists: the bytes of a buffer, and the ascending
 * indexes that name them.
 *
 * Layer: codec. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_BASE36_H
#define ZNL_CODEC_BASE36_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_BASE36_DIGITS_MAX 13u /* of 64 bits */
#define ZNL_BASE36_SLACK 16u      /* bytes past the end that the functions below may write */

/* The value of a digit, of either case; larger than 35 for every byte that is none. */
extern const uint8_t znl_base36_values[256];

/* Writes a number; returns how many digits. */
size_t znl_base36_put(uint64_t value, uint8_t *out);

/* What JavaScript's parseInt(text, 36) makes of a text: white space, a sign, then as many digits as there are;
 * what follows is ignored. NaN without a digit. *is_exact when it is at most 2^53 in magnitude; beyond it is a
 * close double, no more: who wrote the digits has lost some as well. */
double znl_base36_parse(const uint8_t *text, size_t size, int *is_exact);

/* Bytes that znl_base36_put_run() writes at most, its slack not counted. */
size_t znl_base36_run_size(uint64_t first, size_t count);

/* Writes first, first + 1, … as "A|B|C", without a separator at its ends; returns its size. `out` has room
 * for as much and the slack. */
size_t znl_base36_put_run(uint64_t first, size_t count, uint8_t *out);

/* How many numbers a text lists, if it is what znl_base36_put_run() writes for `first` and some count; 0. */
size_t znl_base36_match_run(uint64_t first, const uint8_t *text, size_t size);

/* Writes the bytes as a list of numbers, as above; `out` has room for 3 * size bytes and the slack. */
size_t znl_base36_put_octets(const uint8_t *bytes, size_t size, uint8_t *out);

/* Reads the next `count` numbers of a list as bytes, if each has one digit or two: the low 8 bits of each.
 * Readable are the byte before `at`, which is no digit, and the one at `end`. Returns where the entry after the
 * last begins (end + 1 when there is none); NULL when some number is of another form, or there are fewer. */
const uint8_t *znl_base36_read_octets(
        const uint8_t *at, const uint8_t *end, size_t count, uint8_t *out);

/* How many separators are in a text. */
size_t znl_base36_count_separators(const uint8_t *at, const uint8_t *end);

#endif
