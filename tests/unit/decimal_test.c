/* Doubles from digits and back, and whole numbers, against the C library. SPDX-License-Identifier: MIT */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/decimal.h"

#define ROUNDS 60000

/* xorshift64*, the same numbers in every run. */
static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t random_bits(void)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1du;
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* What the C library makes of `count` digits. */
static double read_digits(const char *digits, unsigned count, int point)
{
    char text[40];
    snprintf(text, sizeof text, "%.*se%d", (int)count, digits, point - (int)count);
    return strtod(text, NULL);
}

/* The digits of %.*e, and where the point stands. */
static int print(double value, unsigned count, char *digits)
{
    char text[40];
    snprintf(text, sizeof text, "%.*e", (int)count - 1, value);
    digits[0] = text[0];
    memcpy(digits + 1, text + 2, count - 1);
    return atoi(strchr(text, 'e') + 1) + 1;
}

/* They read back, none is missing at either end, fewer do not do, and they are the nearest. */
static void check_shortest(double value)
{
    char digits[ZNL_DECIMAL_DIGITS_MAX], expected[ZNL_DECIMAL_DIGITS_MAX];
    int point;
    unsigned count = znl_decimal_shortest(value, digits, &point);
    if (count < 1 || count > ZNL_DECIMAL_DIGITS_MAX || digits[0] == '0' ||
            digits[count - 1] == '0')
        fail_msg("%.17g: %u digits", value, count);
    if (read_digits(digits, count, point) != value)
        fail_msg("%.17g reads back as %.17g", value, read_digits(digits, count, point));
    if (count > 1) {
        int fewer = print(value, count - 1, expected);
        if (read_digits(expected, count - 1, fewer) == value)
            fail_msg("%.17g: %u digits, one too many", value, count);
    }
    int nearest = print(value, count, expected);
    if (read_digits(expected, count, nearest) == value &&
            (nearest != point || memcmp(digits, expected, count) != 0))
        fail_msg(
                "%.17g: %.*s, %.*s is nearer", value, (int)count, digits, (int)count, expected);
}

static void writes_the_fewest_digits(void **state)
{
    (void)state;
    static const double cases[] = {5e-324, 1e-323, DBL_MIN, DBL_MAX, DBL_EPSILON, 1, 2, 3, 10,
            1e11, 1e15, 1e16, 1e17, 1e21, 1e22, 1e23, 9007199254740991.0, 9007199254740992.0,
            9007199254740994.0, 0.1, 0.3, 1.0 / 3, 2.0 / 3, 1e-5, 1e-11, 1e-12,
            123456789012345.6, 4503599627370496.5, 99999999999.9999, 1e11 - 1e-4, 5e-5};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_shortest(cases[i]);
    /* Powers of two, whose lower neighbour is nearer, and theirs. */
    for (int power = -1074; power < 1024; power++) {
        double value = ldexp(1, power);
        check_shortest(value);
        check_shortest(nextafter(value, 1e308));
        if (power > -1074)
            check_shortest(nextafter(value, 0));
    }
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t bits = random_bits();
        double any = of_bits(bits & INT64_MAX);
        if (isfinite(any) && any > 0)
            check_shortest(any);
        /* Of ordinary size: 2^-40 to 2^57. */
        uint64_t exponent = 1023 - 40 + bits % 97;
        check_shortest(of_bits(exponent << 52 | random_bits() >> 12));
        /* With few digits. */
        check_shortest((double)(bits % 1000000 + 1) / pow(10, (double)(bits >> 32 & 15)));
        check_shortest((double)(bits % 100000000 + 1) / 1e4);
    }
}

static void reads_the_nearest(void **state)
{
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t mantissa = random_bits() >> (random_bits() & 63);
        int exponent = i % 3 == 0 ? (int)(random_bits() % 700) - 350
                                  : (int)(random_bits() % 60) - 30;
        char text[40];
        snprintf(text, sizeof text, "%llue%d", (unsigned long long)mantissa, exponent);
        double expected = strtod(text, NULL);
        if (bits_of(znl_decimal_value(mantissa, exponent)) != bits_of(expected))
            fail_msg("%s: %.17g", text, znl_decimal_value(mantissa, exponent));
        if (bits_of(znl_decimal_parse((const uint8_t *)text, strlen(text))) !=
                bits_of(expected))
            fail_msg("%s as a text: %.17g", text, expected);
    }
}

/* Halfway between two doubles, and a little beside it: as many digits as that takes. */
static void decides_near_the_middle(void **state)
{
    (void)state;
    for (int i = 0; i < 3000; i++) {
        char text[1500];
        uint64_t exponent = i % 2 == 0 ? 1023 - 60 + random_bits() % 120
                                       : 1 + random_bits() % 2000;
        double low = of_bits(exponent << 52 | random_bits() >> 12),
               high = nextafter(low, HUGE_VAL);
        /* Exact: long double has eleven bits more. */
        long double middle = ((long double)low + (long double)high) / 2;
        int size = snprintf(text, sizeof text, "%.1100Lf", middle);
        assert_true(size > 0 && (size_t)size < sizeof text - 1);
        assert_true(bits_of(znl_decimal_parse((const uint8_t *)text, (size_t)size)) ==
                bits_of(strtod(text, NULL)));
        text[size++] = '1';
        text[size] = '\0';
        assert_true(bits_of(znl_decimal_parse((const uint8_t *)text, (size_t)size)) ==
                bits_of(strtod(text, NULL)));
        /* The same in the 19 digits that one step takes. */
        uint64_t mantissa = (uint64_t)1e18 + random_bits() % (uint64_t)9e18;
        for (int e = -27; e <= 27; e++) {
            snprintf(text, sizeof text, "%llue%d", (unsigned long long)mantissa, e);
            assert_true(bits_of(znl_decimal_value(mantissa, e)) == bits_of(strtod(text, NULL)));
        }
    }
}

static void check_whole(uint64_t value)
{
    char digits[ZNL_DECIMAL_WHOLE_MAX + 1], expected[ZNL_DECIMAL_WHOLE_MAX + 1];
    memset(digits, '#', sizeof digits);
    size_t size = (size_t)snprintf(
            expected, sizeof expected, "%llu", (unsigned long long)value);
    assert_int_equal(znl_decimal_whole(value, digits), size);
    assert_memory_equal(digits, expected, size);
    assert_int_equal(digits[size], '#');
}

static void writes_whole_numbers(void **state)
{
    (void)state;
    check_whole(0);
    check_whole(UINT64_MAX);
    for (uint64_t power = 1, i = 0; i < ZNL_DECIMAL_WHOLE_MAX; i++, power *= 10)
        for (uint64_t value = power - 1; value <= power + 1; value++)
            check_whole(value);
    for (int i = 0; i < ROUNDS; i++)
        check_whole(random_bits() >> i % 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(writes_the_fewest_digits),
            cmocka_unit_test(reads_the_nearest),
            cmocka_unit_test(writes_whole_numbers),
            cmocka_unit_test(decides_near_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
