/* A queue in which those who ask take turns. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "state/turns.h"

struct thing {
    znl_turn_entry entry;
    char name;
};

static struct thing things[16];
static znl_turn_line lines[3];
static znl_turns turns;

/* "a0 a1 b2 …": a thing `a` of line 0, and so on, each of one byte. */
static void put(const char *text)
{
    memset(lines, 0, sizeof lines);
    turns = (znl_turns){.max_count = 16, .max_bytes = 16};
    for (size_t i = 0; text[3 * i] != '\0'; i++) {
        things[i].name = text[3 * i];
        znl_turns_add(&turns, &lines[text[3 * i + 1] - '0'], &things[i].entry, 1);
        if (text[3 * i + 2] == '\0')
            break;
    }
}

static void comes_out_as(const char *expected)
{
    for (size_t left = strlen(expected); left > 0; left--, expected++) {
        assert_int_equal(turns.count, left);
        assert_int_equal(turns.bytes, left);
        znl_turn_entry *entry = znl_turns_next(&turns);
        assert_non_null(entry);
        assert_int_equal(((struct thing *)(void *)entry)->name, *expected);
    }
    assert_null(znl_turns_next(&turns));
    assert_null(turns.first);
    assert_null(turns.last);
    assert_int_equal(turns.count, 0);
    assert_int_equal(turns.bytes, 0);
}

static void one_line_is_first_come_first_served(void **state)
{
    (void)state;
    put("a0 b0 c0");
    comes_out_as("abc");
}

static void lines_take_turns(void **state)
{
    (void)state;
    put("a0 b0 c0 d1 e2 f1");
    comes_out_as("adebfc");
}

static void any_entry_can_be_taken_out(void **state)
{
    const char *const left[] = {"bcd", "acd", "abd", "acb"};
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        put("a0 b0 c1 d0");
        znl_turns_remove(&turns, &things[i].entry);
        comes_out_as(left[i]);
    }
    put("a0 b1 c2"); /* whole lines: the first, the last, the one between */
    znl_turns_remove(&turns, &things[1].entry);
    comes_out_as("ac");
    put("a0 b1");
    znl_turns_remove(&turns, &things[1].entry);
    comes_out_as("a");
    put("a0 b1");
    znl_turns_remove(&turns, &things[0].entry);
    comes_out_as("b");
}

static void is_bounded_by_count_and_bytes(void **state)
{
    (void)state;
    memset(lines, 0, sizeof lines);
    turns = (znl_turns){.max_count = 2, .max_bytes = 10};
    assert_true(znl_turns_has_room(&turns, SIZE_MAX)); /* the first may have any size */
    znl_turns_add(&turns, &lines[0], &things[0].entry, 8);
    assert_true(znl_turns_has_room(&turns, 2));
    assert_false(znl_turns_has_room(&turns, 3));
    assert_false(znl_turns_has_room(&turns, SIZE_MAX));
    znl_turns_add(&turns, &lines[0], &things[1].entry, 1);
    assert_false(znl_turns_has_room(&turns, 0));
    assert_ptr_equal(znl_turns_next(&turns), &things[0].entry);
    assert_true(znl_turns_has_room(&turns, 9));
    assert_ptr_equal(znl_turns_next(&turns), &things[1].entry);
    znl_turns_add(&turns, &lines[0], &things[0].entry, 100);
    assert_false(znl_turns_has_room(&turns, 0));
    turns = (znl_turns){.max_bytes = 10};
    assert_false(znl_turns_has_room(&turns, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(one_line_is_first_come_first_served),
            cmocka_unit_test(lines_take_turns),
            cmocka_unit_test(any_entry_can_be_taken_out),
            cmocka_unit_test(is_bounded_by_count_and_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
