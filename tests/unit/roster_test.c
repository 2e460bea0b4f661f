/* The roster of several instances: joins and leaves, heartbeats, who is believed, what is noticed when it is lost.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/limits.h"
#include "support/roster_stage.h"

#define T 4000u
#define ROOM "/ws/chat"

static roster_stage hall;

static int begin(void **state)
{
    (void)state;
    hall_begin(&hall);
    return 0;
}

static int end(void **state)
{
    (void)state;
    hall_end(&hall);
    return 0;
}

static void start(unsigned i)
{
    znl_roster_start(hall_open(&hall, i, T));
    hall_settle(&hall);
}

static void join(unsigned i, const char *session)
{
    assert_int_equal(hall_join(&hall, i, ROOM, session, "u", NULL), 0);
    hall_settle(&hall);
}

static void leave(unsigned i, const char *session)
{
    assert_int_equal(hall_leave(&hall, i, session), 1);
    hall_settle(&hall);
}

static void assert_view(unsigned i, const char *expected)
{
    assert_string_equal(hall_view(&hall, i, ROOM), expected);
}

static void joins_and_leaves_are_seen_elsewhere(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    join(1, "s2");
    assert_view(0, "s1:u:instA s2:u:instB");
    assert_view(1, "s1:u:instA s2:u:instB");
    assert_string_equal(hall.events[1].last, "added /ws/chat s2 u instB");
    leave(0, "s1");
    assert_view(0, "s2:u:instB");
    assert_view(1, "s2:u:instB");
    assert_string_equal(hall.events[1].last, "removed /ws/chat s1 u instA");
    assert_int_equal(hall.events[1].cause, ZNL_ROSTER_LEFT);
    assert_int_equal(hall_leave(&hall, 0, "s2"), 0);
}

static void a_new_instance_gets_all_soon(void **state)
{
    (void)state;
    start(0);
    join(0, "s1");
    join(0, "s2");
    start(1);
    hall_pass(&hall, ZNL_ROSTER_SYNC_DELAY_MS, 0);
    assert_view(1, "s1:u:instA s2:u:instA");
}

static void what_joins_before_the_start_is_told_then(void **state)
{
    (void)state;
    start(1);
    hall_open(&hall, 0, T);
    hall_forget(&hall);
    join(0, "early");
    assert_int_equal(hall.published, 0);
    znl_roster_start(hall.rosters[0]);
    assert_int_equal(hall.published, 2);
    hall_settle(&hall);
    assert_view(1, "early:u:instA");
}

static void a_killed_instance_is_gone_after_its_time(void **state)
{
    (void)state;
    start(0);
    start(1);
    join(0, "s1");
    hall_pass(&hall, 10 * T, 0);
    assert_view(1, "s1:u:instA");
    hall_close(&hall, 0);
    hall_pass(&hall, T / 2 - T / 10, 0);
    assert_view(1, "s1:u:instA");
    hall_pass(&hall, T / 2 + T / 10, 0);
    assert_view(1, "");
    assert_int_equal(hall.events[1].cause, ZNL_ROSTER_EXPIRED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup_teardown(joins_and_leaves_are_seen_elsewhere, begin, end),
            cmocka_unit_test_setup_teardown(a_new_instance_gets_all_soon, begin, end),
            cmocka_unit_test_setup_teardown(
                    what_joins_before_the_start_is_told_then, begin, end),
            cmocka_unit_test_setup_teardown(
                    a_killed_instance_is_gone_after_its_time, begin, end),
    };
    return cmocka_run_group_tests_name("roster", tests, NULL, NULL);
}
