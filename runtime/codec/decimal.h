/* decimal.h - doubles from decimal digits and back, exactly: the nearest double, the fewest digits. Does
 * not depend on the locale.
 *
 * Layer: codec. Pure functions. SPDX-License-Identifier: MIT */
#ifndef ZNL_CODEC_DECIMAL_H
#define ZNL_CODEC_DECIMAL_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_DECIMAL_DIGITS_MAX 17u /* what a double may need */
#define ZNL_DECIMAL_WHOLE_MAX 20u  /* of a 64-bit number */

/* The double nearest to mantissa * 10^exponent, ties to even; infinity when it is too large. */
double znl_decimal_value(uint64_t mantissa, int exponent);

/* The same for a text of any length: digits, then perhaps a point and digits, then perhaps an exponent. */
double znl_decimal_parse(const uint8_t *text, size_t size);

/* The fewest digits that read back as `value` (finite, above 0), of these the nearest to it: returns how
 * many, without zeros at either end; the value is 0.digits * 10^*point. */
unsigned znl_decimal_shortest(double value, char digits[ZNL_DECIMAL_DIGITS_MAX], int *point);

/* Writes a whole number, at most ZNL_DECIMAL_WHOLE_MAX digits; returns how many. */
size_t znl_decimal_whole(uint64_t value, char *digits);

#endif
