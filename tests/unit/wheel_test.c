/* The timer wheel, on a clock that the test turns. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/wheel.h"

#define TIMERS 2000u

static znl_wheel wheel;
static znl_timer timers[TIMERS];
static unsigned fired[TIMERS * 2]; /* in the order in which they fired */
static size_t fired_count;
static void (*then)(unsigned number); /* runs inside every timer */

static unsigned number_of(const znl_timer *timer)
{
    return (unsigned)(timer - timers);
}

static void on_fire(znl_timer *timer)
{
    assert_false(znl_timer_running(timer));
    assert_true(timer->deadline_ms <= wheel.now_ms);
    assert_true(fired_count < sizeof fired / sizeof fired[0]);
    fired[fired_count++] = number_of(timer);
    if (then != NULL)
        then(number_of(timer));
}

static int fresh(void **state)
{
    (void)state;
    znl_wheel_init(&wheel, 1000);
    memset(timers, 0, sizeof timers);
    fired_count = 0;
    then = NULL;
    return 0;
}

static void start(unsigned number, uint64_t deadline_ms)
{
    znl_wheel_start(&wheel, &timers[number], deadline_ms, on_fire);
}

static void expect_order(const unsigned *numbers, size_t count)
{
    assert_int_equal(fired_count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(fired[i], numbers[i]);
}

#define EXPECT_ORDER(...)                                                                      \
    expect_order((const unsigned[]){__VA_ARGS__},                                              \
            sizeof((unsigned[]){__VA_ARGS__}) / sizeof(unsigned))

static void fires_at_its_deadline_and_not_before(void **state)
{
    (void)state;
    start(0, 1010);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), 10);
    assert_int_equal(znl_wheel_advance(&wheel, 1009), 0);
    assert_true(znl_timer_running(&timers[0]));
    assert_int_equal(znl_wheel_next_ms(&wheel, 1009), 1);
    assert_int_equal(znl_wheel_advance(&wheel, 1010), 1);
    assert_int_equal(wheel.count, 0);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1010), UINT64_MAX);
    assert_int_equal(znl_wheel_advance(&wheel, 5000), 0);
}

static void past_deadline_fires_at_the_next_advance(void **state)
{
    (void)state;
    start(0, 3);
    start(1, 1000);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), 0);
    assert_int_equal(znl_wheel_advance(&wheel, 1000), 2);
    EXPECT_ORDER(0, 1);
}

static void a_clock_that_goes_back_fires_nothing(void **state)
{
    (void)state;
    start(0, 1000);
    assert_int_equal(znl_wheel_advance(&wheel, 999), 0);
    assert_int_equal(znl_wheel_advance(&wheel, 1000), 1);
}

static void earliest_fires_first(void **state)
{
    (void)state;
    start(0, 1300);
    start(1, 1100);
    start(2, 1200);
    start(3, 1100);
    start(4, 1000);
    assert_int_equal(znl_wheel_advance(&wheel, 2000), 5);
    EXPECT_ORDER(4, 1, 3, 2, 0);
}

static void order_holds_across_the_end_of_the_slots(void **state)
{
    (void)state;
    znl_wheel_init(&wheel, ZNL_WHEEL_SLOTS - 2);
    start(0, ZNL_WHEEL_SLOTS + 1);
    start(1, ZNL_WHEEL_SLOTS - 1);
    start(2, ZNL_WHEEL_SLOTS);
    assert_int_equal(znl_wheel_next_ms(&wheel, ZNL_WHEEL_SLOTS - 2), 1);
    assert_int_equal(znl_wheel_advance(&wheel, ZNL_WHEEL_SLOTS + 70), 3);
    EXPECT_ORDER(1, 2, 0);
}

static void order_holds_after_a_stall_of_several_turns(void **state)
{
    (void)state;
    start(0, 1000 + 3 * ZNL_WHEEL_SLOTS + 5);
    start(1, 1000 + 5);
    start(2, 1000 + 6000);
    start(3, 1000 + ZNL_WHEEL_SLOTS + 5);
    start(4, 1000 + 5);
    start(5, 1000 + 40 * ZNL_WHEEL_SLOTS); /* not yet */
    assert_int_equal(znl_wheel_advance(&wheel, 1000 + 4 * ZNL_WHEEL_SLOTS), 5);
    EXPECT_ORDER(1, 4, 2, 3, 0);
    assert_int_equal(wheel.count, 1);
}

static void long_deadlines_wait_their_turns(void **state)
{
    (void)state;
    const uint64_t deadline_ms = 1000 + 5 * (uint64_t)ZNL_WHEEL_SLOTS + 7;
    start(0, deadline_ms);
    unsigned wakes = 0;
    for (uint64_t now_ms = 1000; fired_count == 0; wakes++) {
        uint64_t wait_ms = znl_wheel_next_ms(&wheel, now_ms);
        assert_true(wait_ms > 0); /* a timer of a later turn is no reason to spin */
        assert_true(wait_ms <= ZNL_WHEEL_SLOTS);
        now_ms += wait_ms;
        assert_true(now_ms <= deadline_ms);
        znl_wheel_advance(&wheel, now_ms);
        assert_int_equal(fired_count, now_ms == deadline_ms);
    }
    assert_true(wakes <= 6);
}

static void exactly_one_turn_away_does_not_spin(void **state)
{
    (void)state;
    start(0, 1000 + ZNL_WHEEL_SLOTS);
    assert_int_equal(znl_wheel_advance(&wheel, 1000), 0);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), ZNL_WHEEL_SLOTS);
    start(1, 1000); /* but one that is due in the same slot counts at once */
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), 0);
    assert_int_equal(znl_wheel_advance(&wheel, 1000), 1);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), ZNL_WHEEL_SLOTS);
    assert_int_equal(znl_wheel_advance(&wheel, 1000 + ZNL_WHEEL_SLOTS), 1);
    EXPECT_ORDER(1, 0);
}

static void latest_instant_is_no_special_case(void **state)
{
    (void)state;
    start(0, UINT64_MAX);
    assert_int_equal(znl_wheel_advance(&wheel, UINT64_MAX - 1), 0);
    assert_int_equal(znl_wheel_next_ms(&wheel, UINT64_MAX - 1), 1);
    assert_int_equal(znl_wheel_advance(&wheel, UINT64_MAX), 1);
}

static void stopped_timers_never_fire_and_cost_one_early_wake(void **state)
{
    (void)state;
    start(0, 1050);
    start(1, 1500);
    znl_wheel_stop(&wheel, &timers[0]);
    znl_wheel_stop(&wheel, &timers[0]);
    assert_int_equal(wheel.count, 1);
    uint64_t now_ms = 1000;
    unsigned wakes = 0;
    while (fired_count == 0) {
        uint64_t wait_ms = znl_wheel_next_ms(&wheel, now_ms);
        assert_true(wait_ms > 0);
        now_ms += wait_ms;
        znl_wheel_advance(&wheel, now_ms);
        wakes++;
    }
    assert_int_equal(now_ms, 1500);
    assert_true(wakes <= 2);
    EXPECT_ORDER(1);
}

static void stopped_at_now_does_not_spin(void **state)
{
    (void)state;
    start(0, 1000);
    start(1, 1200);
    znl_wheel_stop(&wheel, &timers[0]);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1000), 200);
}

static void starting_again_moves_the_deadline(void **state)
{
    (void)state;
    start(0, 1100);
    start(0, 1300);
    start(1, 1300);
    start(1, 1100);
    assert_int_equal(wheel.count, 2);
    assert_int_equal(znl_wheel_advance(&wheel, 1299), 1);
    assert_int_equal(znl_wheel_advance(&wheel, 1300), 1);
    EXPECT_ORDER(1, 0);
}

static void stop_the_others(unsigned number)
{
    for (unsigned i = 0; i < 5; i++)
        if (i != number)
            znl_wheel_stop(&wheel, &timers[i]);
}

static void timers_can_stop_others_that_are_due(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++)
        start(i, 1010 + i % 2);
    then = stop_the_others;
    assert_int_equal(znl_wheel_advance(&wheel, 1100), 1);
    EXPECT_ORDER(0);
    assert_int_equal(wheel.count, 0);
}

static void move_the_next(unsigned number)
{
    if (number == 0)
        start(1, 1500);
}

static void timers_can_move_others_that_are_due(void **state)
{
    (void)state;
    start(0, 1010);
    start(1, 1010);
    start(2, 1010);
    then = move_the_next;
    assert_int_equal(znl_wheel_advance(&wheel, 1010), 2);
    EXPECT_ORDER(0, 2);
    assert_int_equal(znl_wheel_advance(&wheel, 1500), 1);
    EXPECT_ORDER(0, 2, 1);
}

static void start_itself(unsigned number)
{
    start(number, 0);
}

static void a_timer_that_restarts_itself_lets_the_loop_go_on(void **state)
{
    (void)state;
    start(0, 1010);
    then = start_itself;
    assert_int_equal(znl_wheel_advance(&wheel, 1010), 1);
    assert_int_equal(znl_wheel_next_ms(&wheel, 1010), 0);
    assert_int_equal(znl_wheel_advance(&wheel, 1010), 1);
    assert_int_equal(znl_wheel_advance(&wheel, 1020), 1);
}

static znl_timer *on_heap;

static void free_timer(znl_timer *timer)
{
    free(timer);
}

static void free_other(znl_timer *timer)
{
    (void)timer;
    znl_wheel_stop(&wheel, on_heap);
    free(on_heap);
}

static void timers_can_free_themselves_and_others(void **state)
{
    (void)state;
    znl_timer *own = calloc(1, sizeof *own);
    on_heap = calloc(1, sizeof *on_heap);
    assert_true(own != NULL && on_heap != NULL);
    znl_wheel_start(&wheel, own, 1001, free_timer);
    znl_wheel_start(&wheel, &timers[0], 1001, free_other);
    znl_wheel_start(&wheel, on_heap, 1001, free_timer);
    assert_int_equal(znl_wheel_advance(&wheel, 1001), 2);
    assert_int_equal(wheel.count, 0);
}

/* Random starts, stops and advances against a list of deadlines. */
static void behaves_like_a_sorted_list(void **state)
{
    (void)state;
    static uint64_t deadlines[TIMERS]; /* 0: stopped */
    uint64_t now_ms = 1000, seed = 42;
    memset(deadlines, 0, sizeof deadlines);
    for (unsigned step = 0; step < 200000; step++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        unsigned number = (unsigned)(seed >> 33) % TIMERS;
        unsigned action = (unsigned)(seed >> 20) % 8;
        if (action < 5) {
            uint64_t reach = action < 3 ? 500 : action == 3 ? 9000 : 60000;
            deadlines[number] = now_ms + (seed >> 40) % reach;
            start(number, deadlines[number]);
        } else if (action < 7) {
            deadlines[number] = 0;
            znl_wheel_stop(&wheel, &timers[number]);
        } else {
            uint64_t next_ms = UINT64_MAX;
            size_t running = 0;
            for (unsigned i = 0; i < TIMERS && step % 16 == 7; i++)
                if (deadlines[i] != 0) {
                    running++;
                    next_ms = deadlines[i] < next_ms ? deadlines[i] : next_ms;
                }
            if (step % 16 == 7) {
                assert_int_equal(wheel.count, running);
                if (running > 0)
                    assert_true(now_ms + znl_wheel_next_ms(&wheel, now_ms) <= next_ms);
            }
            now_ms += (seed >> 50) % 64 == 0 ? 20000 : (seed >> 45) % 40;
            fired_count = 0;
            size_t count = znl_wheel_advance(&wheel, now_ms);
            assert_int_equal(count, fired_count);
            uint64_t last_ms = 0;
            for (size_t i = 0; i < fired_count; i++) {
                uint64_t deadline_ms = deadlines[fired[i]];
                assert_true(deadline_ms != 0 && deadline_ms <= now_ms);
                assert_true(deadline_ms >= last_ms);
                last_ms = deadline_ms;
                deadlines[fired[i]] = 0;
            }
            for (unsigned i = 0; i < TIMERS; i++)
                assert_true(deadlines[i] == 0 || deadlines[i] > now_ms);
        }
    }
}

/* The object of a timer moves, also while it is due, and beside others of its slot that do. */
static znl_timer moved[4];

static void on_moved(znl_timer *timer)
{
    fired[fired_count++] = 100 + (unsigned)(timer - moved);
}

static void move_two(unsigned number)
{
    if (number != 0)
        return;
    for (unsigned i = 1; i < 3; i++) {
        znl_timer_move(&moved[i], &timers[i]);
        moved[i].fire = on_moved;
        memset(&timers[i], 0xff, sizeof timers[i]);
    }
}

static void timers_may_move_in_memory(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        start(i, 1500);
    znl_timer_move(&moved[3], &timers[3]);
    memset(&timers[3], 0xff, sizeof timers[3]);
    moved[3].fire = on_moved;
    then = move_two;
    znl_wheel_advance(&wheel, 1500);
    EXPECT_ORDER(0, 101, 102, 103);
    assert_int_equal(wheel.count, 0);
    znl_timer stopped = {0};
    znl_timer_move(&moved[0], &stopped);
    assert_false(znl_timer_running(&moved[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_setup(fires_at_its_deadline_and_not_before, fresh),
            cmocka_unit_test_setup(past_deadline_fires_at_the_next_advance, fresh),
            cmocka_unit_test_setup(a_clock_that_goes_back_fires_nothing, fresh),
            cmocka_unit_test_setup(earliest_fires_first, fresh),
            cmocka_unit_test_setup(order_holds_across_the_end_of_the_slots, fresh),
            cmocka_unit_test_setup(order_holds_after_a_stall_of_several_turns, fresh),
            cmocka_unit_test_setup(long_deadlines_wait_their_turns, fresh),
            cmocka_unit_test_setup(exactly_one_turn_away_does_not_spin, fresh),
            cmocka_unit_test_setup(latest_instant_is_no_special_case, fresh),
            cmocka_unit_test_setup(stopped_timers_never_fire_and_cost_one_early_wake, fresh),
            cmocka_unit_test_setup(stopped_at_now_does_not_spin, fresh),
            cmocka_unit_test_setup(starting_again_moves_the_deadline, fresh),
            cmocka_unit_test_setup(timers_can_stop_others_that_are_due, fresh),
            cmocka_unit_test_setup(timers_can_move_others_that_are_due, fresh),
            cmocka_unit_test_setup(a_timer_that_restarts_itself_lets_the_loop_go_on, fresh),
            cmocka_unit_test_setup(timers_can_free_themselves_and_others, fresh),
            cmocka_unit_test_setup(timers_may_move_in_memory, fresh),
            cmocka_unit_test_setup(behaves_like_a_sorted_list, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
