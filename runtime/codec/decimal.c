/* decimal.c - see decimal.h. SPDX-License-Identifier: MIT
 *
 * Numbers of ordinary size are converted exactly in 128 bits, everything else by the C library, which is
 * given and asked for digits and exponents only: the decimal point depends on the locale. */
#include "codec/decimal.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Powers of ten that a double holds exactly. */
#define EXACT_POWER_MAX 22
/* Powers of five that 63 bits hold. */
#define FIVES_MAX 27
/* Digits that decide where a number lies between two doubles: 768; the rest only matters as "not 0". */
#define DIGITS_THAT_MATTER 800u
#define EXPONENT_MAX 100000 /* far beyond every double, for the C library */

static const double exact_powers[EXACT_POWER_MAX + 1] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7,
        1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* What the C library makes of "digits e exponent". */
static double by_library(uint64_t mantissa, int exponent)
{
    char text[40];
    snprintf(text, sizeof text, "%llue%d", (unsigned long long)mantissa, exponent);
    return strtod(text, NULL);
}

/* --- exact, in 128 bits ----------------------------------------------------------------------- */

#ifdef __SIZEOF_INT128__

typedef unsigned __int128 wide;

static const uint64_t fives[FIVES_MAX + 1] = {1u, 5u, 25u, 125u, 625u, 3125u, 15625u, 78125u,
        390625u, 1953125u, 9765625u, 48828125u, 244140625u, 1220703125u, 6103515625u,
        30517578125u, 152587890625u, 762939453125u, 3814697265625u, 19073486328125u,
        95367431640625u, 476837158203125u, 2384185791015625u, 11920928955078125u,
        59604644775390625u, 298023223876953125u, 1490116119384765625u, 7450580596923828125u};

static double of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* (whole + something) * 2^exponent to the nearest double, where something is above 0 and below 1 when
 * `has_rest`, else 0. `whole` is not 0, has at least 54 bits when there is a rest, and the result is no
 * subnormal. */
static double round_to_double(wide whole, int exponent, int has_rest)
{
    uint64_t high = (uint64_t)(whole >> 64);
    int bits = high != 0 ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)whole);
    int shift = bits - DBL_MANT_DIG;
    uint64_t mantissa;
    if (shift <= 0) {
        mantissa = (uint64_t)whole << -shift;
    } else {
        wide rest = whole & (((wide)1 << shift) - 1);
        wide half = (wide)1 << (shift - 1);
        mantissa = (uint64_t)(whole >> shift);
        if (rest > half || (rest == half && (has_rest || (mantissa & 1) != 0)))
            mantissa++; /* 2^53 carries into the exponent below, as it should */
    }
    uint64_t biased = (uint64_t)(exponent + shift + (DBL_MANT_DIG - 1) + (DBL_MAX_EXP - 1));
    return of_bits(
            (biased << (DBL_MANT_DIG - 1)) + (mantissa - (UINT64_C(1) << (DBL_MANT_DIG - 1))));
}

/* mantissa * 10^exponent = mantissa * 5^exponent * 2^exponent, for |exponent| <= FIVES_MAX. */
static double value_exactly(uint64_t mantissa, int exponent)
{
    if (exponent >= 0)
        return round_to_double((wide)mantissa * fives[exponent], exponent, 0);
    /* Shifted to the top of 128 bits, so that the quotient has at least 64. */
    int shift = 64 + __builtin_clzll(mantissa);
    wide scaled = (wide)mantissa << shift;
    uint64_t divisor = fives[-exponent];
    wide quotient = scaled / divisor;
    return round_to_double(quotient, exponent - shift, quotient * divisor != scaled);
}

/* The shortest digits of a value between about 1e-11 and 2^53: scaled by a power of ten to 17 digits or
 * 18, and with it the two borders between which every number reads back as it. 0: out of range. */
static unsigned shortest_exactly(double value, uint64_t *digits, int *exponent)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    int biased = (int)(bits >> (DBL_MANT_DIG - 1));
    uint64_t fraction = bits & ((UINT64_C(1) << (DBL_MANT_DIG - 1)) - 1);
    if (biased == 0)
        return 0;
    /* value = mantissa * 2^power, in quarters so that the borders are whole numbers too. */
    uint64_t mantissa = fraction | UINT64_C(1) << (DBL_MANT_DIG - 1);
    int power = biased - (DBL_MAX_EXP - 1) - (DBL_MANT_DIG - 1) - 2;
    /* 78913 / 2^18 is log10(2): the decimal exponent, or one less. */
    int tens = ((biased - (DBL_MAX_EXP - 1)) * 78913) >> 18;
    int scale = 16 - tens;
    int shift = -(power + scale);
    if (scale < 0 || scale > FIVES_MAX || shift < 1 || shift > 126)
        return 0;
    wide middle = (wide)(4 * mantissa) * fives[scale];
    wide low = (wide)(4 * mantissa - (fraction == 0 ? 1 : 2)) * fives[scale];
    wide high = (wide)(4 * mantissa + 2) * fives[scale];
    wide mask = ((wide)1 << shift) - 1;
    /* A border itself reads as the even one of its two neighbours. */
    int takes_borders = (mantissa & 1) == 0;
    uint64_t least = (uint64_t)(low >> shift) + ((low & mask) != 0 || !takes_borders ? 1u : 0u);
    uint64_t most = (uint64_t)(high >> shift) -
            ((high & mask) == 0 && !takes_borders ? 1u : 0u);
    /* Drop digits while a number with that many zeros lies between the borders. */
    uint64_t under = least - 1, over = most, unit = 1;
    int dropped = 0;
    if (over / 100000000u > under / 100000000u) {
        over /= 100000000u, under /= 100000000u;
        unit = 100000000u, dropped = 8;
    }
    while (over / 10 > under / 10)
        over /= 10, under /= 10, unit *= 10, dropped++;
    /* The nearest of those to the value. */
    uint64_t whole = (uint64_t)(middle >> shift);
    uint64_t quotient = whole / unit, rest = whole % unit;
    wide tail = ((wide)rest << shift) + (middle & mask); /* below unit * 2^shift */
    wide half = (wide)unit << (shift - 1);
    if (tail > half || (tail == half && (quotient & 1) != 0))
        quotient++;
    if (quotient * unit < least)
        quotient++;
    else if (quotient * unit > most)
        quotient--;
    *digits = quotient;
    *exponent = dropped - scale;
    return 1;
}

#endif

/* --- reading ---------------------------------------------------------------------------------- */

double znl_decimal_value(uint64_t mantissa, int exponent)
{
    if (mantissa == 0)
        return 0;
    if (mantissa <= UINT64_C(1) << DBL_MANT_DIG) {
        /* One rounding of two exact operands is the nearest double. */
        if (exponent >= 0 && exponent <= EXACT_POWER_MAX)
            return (double)mantissa * exact_powers[exponent];
        if (exponent < 0 && exponent >= -EXACT_POWER_MAX)
            return (double)mantissa / exact_powers[-exponent];
    }
#ifdef __SIZEOF_INT128__
    if (exponent >= -FIVES_MAX && exponent <= FIVES_MAX)
        return value_exactly(mantissa, exponent);
#endif
    return by_library(mantissa, exponent);
}

static inline int is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

double znl_decimal_parse(const uint8_t *text, size_t size)
{
    char buffer[DIGITS_THAT_MATTER + 40];
    size_t count = 0, i = 0;
    int64_t exponent = 0;
    int after_point = 0, has_rest = 0;
    for (; i < size && (is_digit(text[i]) || text[i] == '.'); i++) {
        if (text[i] == '.') {
            after_point = 1;
        } else if (count < DIGITS_THAT_MATTER) {
            if (count > 0 || text[i] != '0')
                buffer[count++] = (char)text[i];
            exponent -= after_point;
        } else {
            has_rest |= text[i] != '0';
            exponent += !after_point;
        }
    }
    if (i < size) { /* an exponent */
        i++;
        int is_negative = i < size && text[i] == '-';
        int64_t told = 0;
        for (i += is_negative || (i < size && text[i] == '+'); i < size; i++)
            if (told <
                    INT64_C(1000000000000)) /* no text is that long, so it cannot make up for it */
                told = told * 10 + (text[i] - '0');
        exponent += is_negative ? -told : told;
    }
    if (count == 0)
        return 0;
    if (has_rest) {
        buffer[count++] = '1';
        exponent--;
    }
    if (exponent > EXPONENT_MAX)
        exponent = EXPONENT_MAX;
    if (exponent < -EXPONENT_MAX)
        exponent = -EXPONENT_MAX;
    snprintf(buffer + count, sizeof buffer - count, "e%d", (int)exponent);
    return strtod(buffer, NULL);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* The digits of `value` rounded to `count`, and where the point stands. */
static void print_digits(double value, unsigned count, char *digits, int *point)
{
    char text[40];
    snprintf(text, sizeof text, "%.*e", (int)count - 1, value);
    unsigned found = 0;
    const char *at = text;
    for (; *at != '\0' && *at != 'e'; at++)
        if (*at >= '0' && *at <= '9' && found < count)
            digits[found++] = *at;
    *point = (*at == 'e' ? atoi(at + 1) : 0) + 1;
}

/* What the first `count` digits read as. */
static double digits_value(const char *digits, unsigned count, int point)
{
    uint64_t mantissa = 0;
    for (unsigned i = 0; i < count; i++)
        mantissa = mantissa * 10 + (uint64_t)(digits[i] - '0');
    return by_library(mantissa, point - (int)count);
}

static unsigned shortest_by_library(double value, char *digits, int *point)
{
    /* More digits never read back worse: halve the range. */
    unsigned least = 1, most = ZNL_DECIMAL_DIGITS_MAX;
    while (least < most) {
        unsigned count = (least + most) / 2;
        print_digits(value, count, digits, point);
        if (digits_value(digits, count, *point) == value)
            most = count;
        else
            least = count + 1;
    }
    print_digits(value, most, digits, point);
    while (most > 1 && digits[most - 1] == '0')
        most--;
    return most;
}

/* The digits of a number, which is not 0, without zeros at the end; *dropped: how many there were. */
static unsigned print_whole(uint64_t number, char *digits, int *dropped)
{
    char reversed[24];
    unsigned count = 0;
    *dropped = 0;
    for (; number % 10 == 0; number /= 10)
        *dropped += 1;
    for (; number > 0; number /= 10)
        reversed[count++] = (char)('0' + number % 10);
    for (unsigned i = 0; i < count; i++)
        digits[i] = reversed[count - 1 - i];
    return count;
}

/* Most numbers have few decimals: m / 10^4 with at most 15 digits. When dividing gives the value back,
 * m are its digits, for no other number of 15 digits or less reads as the same double. 0: not so. */
static uint64_t as_few_decimals(double value)
{
    if (value >= 1e11)
        return 0;
    uint64_t whole = (uint64_t)(value * 1e4 + 0.5);
    return (double)whole / 1e4 == value ? whole : 0;
}

unsigned znl_decimal_shortest(double value, char digits[ZNL_DECIMAL_DIGITS_MAX], int *point)
{
    int exponent;
    uint64_t all = as_few_decimals(value);
    if (all != 0) {
        unsigned count = print_whole(all, digits, &exponent);
        *point = (int)count + exponent - 4;
        return count;
    }
#ifdef __SIZEOF_INT128__
    int dropped;
    if (shortest_exactly(value, &all, &exponent)) {
        unsigned count = print_whole(all, digits, &dropped);
        *point = (int)count + dropped + exponent;
        return count;
    }
#endif
    return shortest_by_library(value, digits, point);
}

/* --- whole numbers ---------------------------------------------------------------------------- */

static const char pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233"
        "34353637383940414243444546474849505152535455565758596061626364656667"
        "6869707172737475767778798081828384858687888990919293949596979899";

static size_t count_digits(uint64_t value)
{
    static const uint64_t powers[ZNL_DECIMAL_WHOLE_MAX] = {0, 10u, 100u, 1000u, 10000u, 100000u,
            1000000u, 10000000u, 100000000u, 1000000000u, 10000000000u, 100000000000u,
            1000000000000u, 10000000000000u, 100000000000000u, 1000000000000000u,
            10000000000000000u, 100000000000000000u, 1000000000000000000u,
            10000000000000000000u};
    /* 1233 / 4096 is a little more than the logarithm of 2: right, or one digit too few. */
    size_t count = (size_t)(64 - __builtin_clzll(value | 1)) * 1233 >> 12;
    return count + (value >= powers[count]);
}

size_t znl_decimal_whole(uint64_t value, char *digits)
{
    size_t count = count_digits(value);
    char *at = digits + count;
    for (; value >= 100; value /= 100)
        memcpy(at -= 2, pairs + 2 * (value % 100), 2);
    if (value >= 10)
        memcpy(at - 2, pairs + 2 * value, 2);
    else
        *--at = (char)('0' + value);
    return count;
}
