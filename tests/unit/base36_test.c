/* Numbers to the base 36: one, ascending runs, bytes. SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/base36.h"

static uint32_t state = 36;

static uint32_t below(uint32_t limit)
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)state * limit >> 32);
}

/* A list as it should be written, one number at a time. */
static size_t write_plainly(char *out, uint64_t first, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            out[size++] = '|';
        size += znl_base36_put(first + i, (uint8_t *)out + size);
    }
    return size;
}

static double parse(const char *text, int *is_exact)
{
    return znl_base36_parse((const uint8_t *)text, strlen(text), is_exact);
}

static void one_number(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        double value;
        int is_exact;
    } cases[] = {{"0", 0, 1}, {"Z", 35, 1}, {"z", 35, 1}, {"10", 36, 1}, {"-10", -36, 1},
            {"+1", 1, 1}, {" \t\n\r\v\f1", 1, 1}, {"1 ", 1, 1}, {"1.5", 1, 1}, {"0x", 33, 1},
            {"00", 0, 1}, {"2GOSA7PA2GV", 9007199254740991.0, 1},
            {"2GOSA7PA2GW", 9007199254740992.0, 1}, {"-2GOSA7PA2GW", -9007199254740992.0, 1},
            {"2GOSA7PA2GX", 9007199254740992.0, 0}, {"2GOSA7PA2GY", 9007199254740994.0, 0},
            {"NAN", 30191, 1}, {"1Y2P0IJ32E8E8", 9223372036854775808.0, 0},
            {"0000000000000000000000000000001", 1, 1}};
    static const char *const none[] = {"", "-", "--1", "|", "@", ".5",
            "\xc2\xa0"
            "1",
            "+"};
    int is_exact;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(parse(cases[i].text, &is_exact) == cases[i].value);
        assert_int_equal(is_exact, cases[i].is_exact);
    }
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        assert_true(isnan(parse(none[i], &is_exact)));
        assert_int_equal(is_exact, 0);
    }
    char many[400];
    memset(many, 'Z', sizeof many);
    assert_true(isinf(znl_base36_parse((const uint8_t *)many, sizeof many, &is_exact)));
    for (uint64_t value = 1; value < UINT64_MAX / 3; value = value * 3 + 1) {
        uint8_t text[ZNL_BASE36_DIGITS_MAX];
        size_t size = znl_base36_put(value, text);
        double read = znl_base36_parse(text, size, &is_exact);
        assert_true(fabs(read / (double)value - 1) < 1e-15);
        assert_int_equal(is_exact, value <= UINT64_C(1) << 53);
    }
    uint8_t text[ZNL_BASE36_DIGITS_MAX];
    assert_int_equal(znl_base36_put(UINT64_MAX, text), 13);
    assert_memory_equal(text, "3W5E11264SGSF", 13);
}

static void ascending_runs(void **unused)
{
    (void)unused;
    static const uint64_t starts[] = {0, 1, 9, 10, 34, 35, 36, 37, 1259, 1294, 1295, 1296,
            46655, 46656, 1679615, 78364164095, 78364164096, 2821109907455, 1u << 31};
    static const size_t counts[] = {0, 1, 2, 35, 36, 37, 71, 72, 73, 100, 1300, 2000};
    for (size_t s = 0; s < sizeof starts / sizeof starts[0]; s++) {
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            uint64_t first = starts[s];
            size_t count = counts[c], room = znl_base36_run_size(first, count);
            char *plain = malloc(room + 1);
            uint8_t *run = malloc(room + ZNL_BASE36_SLACK);
            size_t size = write_plainly(plain, first, count);
            assert_true(size <= room);
            assert_int_equal(znl_base36_put_run(first, count, run), size);
            assert_memory_equal(run, plain, size);
            /* In a block of its exact size, so that a sanitizer sees a read past the end. */
            uint8_t *exact = malloc(size > 0 ? size : 1);
            memcpy(exact, plain, size);
            int is_wide = first + count > UINT64_C(78364164096); /* past 7 digits */
            size_t matched = znl_base36_match_run(first, exact, size);
            if (matched != count && !(is_wide && matched == 0))
                fail_msg("%zu of %zu from %llu", matched, count, (unsigned long long)first);
            if (size > 0 && matched > 0) {
                size_t at = below((uint32_t)size);
                exact[at] ^= 1;
                assert_int_equal(znl_base36_match_run(first, exact, size), 0);
                exact[at] ^= 1;
                assert_int_equal(znl_base36_match_run(first + 1, exact, size), 0);
                assert_true(znl_base36_match_run(first, exact, size - 1) < count);
            }
            free(exact);
            free(run);
            free(plain);
        }
    }
    assert_int_equal(znl_base36_match_run(0, (const uint8_t *)"0|1|", 4), 0);
    assert_int_equal(
            znl_base36_match_run(10, (const uint8_t *)"a", 1), 0); /* not what is written */
}

/* A list between two carets, in a block of its exact size. */
static uint8_t *between_carets(const uint8_t *list, size_t size)
{
    uint8_t *text = malloc(size + 2);
    text[0] = '^';
    memcpy(text + 1, list, size);
    text[size + 1] = '^';
    return text;
}

static void bytes(void **unused)
{
    (void)unused;
    for (int round = 0; round < 3000; round++) {
        size_t size = below(round < 2000 ? 80 : 700) + 1;
        uint8_t *octets = malloc(size), *back = malloc(size + 1);
        uint8_t *list = malloc(3 * size + ZNL_BASE36_SLACK);
        char plain[4096];
        size_t plain_size = 0;
        unsigned spread = below(3) == 0 ? 36 : 256; /* also short numbers in rows */
        for (size_t i = 0; i < size; i++) {
            octets[i] = (uint8_t)below(spread);
            plain_size += write_plainly(plain + plain_size, octets[i], 1);
            plain[plain_size++] = '|';
        }
        size_t list_size = znl_base36_put_octets(octets, size, list);
        assert_int_equal(list_size, plain_size - 1);
        assert_memory_equal(list, plain, list_size);
        uint8_t *text = between_carets(list, list_size), *end = text + 1 + list_size;
        size_t count = below((uint32_t)size) + 1; /* all, or the first of them */
        if (below(2) == 0)
            count = size;
        const uint8_t *past = znl_base36_read_octets(text + 1, end, count, back);
        assert_non_null(past);
        assert_memory_equal(back, octets, count);
        assert_true(past[-1] == (count < size ? '|' : '^'));
        assert_int_equal(znl_base36_count_separators(text + 1, end), size - 1);
        assert_null(znl_base36_read_octets(text + 1, end, size + 1, back));
        free(text);
        free(list);
        free(back);
        free(octets);
    }
}

/* What the general reader makes of the first `count` entries; 0 when one has another form. */
static int read_plainly(const char *list, size_t count, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        size_t size = strcspn(list, "|^");
        unsigned value = 0;
        if (size < 1 || size > 2)
            return 0;
        for (size_t j = 0; j < size; j++) {
            uint8_t digit = znl_base36_values[(uint8_t)list[j]];
            if (digit > 35)
                return 0;
            value = value * 36 + digit;
        }
        out[i] = (uint8_t)value;
        if (list[size] == '^' && i + 1 < count)
            return 0;
        list += size + 1;
    }
    return 1;
}

static void lists_of_other_forms(void **unused)
{
    (void)unused;
    static const char pieces[] = "0123456789AZz|||||||-";
    int taken = 0, refused = 0;
    for (int round = 0; round < 20000; round++) {
        char list[300];
        size_t size = 0, separators = 0;
        size_t wanted = below(200) + 1;
        while (size < wanted) {
            /* Mostly fine entries. */
            if (below(40) != 0) {
                size += znl_base36_put(below(1296), (uint8_t *)list + size);
            } else {
                list[size++] = pieces[below(sizeof pieces - 1)];
            }
            list[size++] = '|';
        }
        size--;
        uint8_t *text = between_carets((const uint8_t *)list, size);
        for (size_t i = 0; i < size; i++)
            separators += list[i] == '|';
        size_t count = below((uint32_t)separators + 1) + 1;
        uint8_t *expected = calloc(count, 1), *actual = calloc(count, 1);
        list[size] = '^';
        list[size + 1] = '\0';
        int is_plain = read_plainly(list, count, expected);
        const uint8_t *past = znl_base36_read_octets(text + 1, text + 1 + size, count, actual);
        assert_int_equal(past != NULL, is_plain);
        if (is_plain)
            assert_memory_equal(actual, expected, count);
        taken += is_plain;
        refused += !is_plain;
        free(actual);
        free(expected);
        free(text);
    }
    if (taken < 3000 || refused < 3000)
        fail_msg("%d taken, %d refused", taken, refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(one_number),
            cmocka_unit_test(ascending_runs),
            cmocka_unit_test(bytes),
            cmocka_unit_test(lists_of_other_forms),
    };
    return cmocka_run_group_tests_name("base36", tests, NULL, NULL);
}
