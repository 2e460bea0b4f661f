/* clock_test.c - clocks that stand still, and the loop that moves them. SPDX-License-Identifier: MIT */
#include "base/clock.h"
#include "base/err.h"
#include "transport/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#define START_UNIX_MS 1700000000000

static uint64_t system_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int thaw(void **state)
{
    (void)state;
    znl_clock_thaw();
    return 0;
}

static void frozen_clocks_stand_until_moved(void **state)
{
    (void)state;
    uint64_t before_ms = znl_clock_mono_ms();
    znl_clock_freeze(START_UNIX_MS);
    uint64_t start_ms = znl_clock_mono_ms();
    assert_true(start_ms >= before_ms);
    for (uint64_t until = system_ms() + 5; system_ms() < until;)
        assert_int_equal(znl_clock_mono_ms(), start_ms);
    assert_int_equal(znl_clock_unix_ms(), START_UNIX_MS);
    znl_clock_advance(86400000);
    assert_int_equal(znl_clock_mono_ms(), start_ms + 86400000);
    assert_int_equal(znl_clock_mono_ns() / 1000000, start_ms + 86400000);
    assert_int_equal(znl_clock_unix_ms(), START_UNIX_MS + 86400000);
}

static void thawed_clock_goes_on_and_never_back(void **state)
{
    (void)state;
    znl_clock_freeze(-1);
    assert_in_range(znl_clock_unix_ms(), time(NULL) * 1000 - 2000, time(NULL) * 1000 + 2000);
    znl_clock_advance(5000);
    uint64_t stood_ns = znl_clock_mono_ns();
    znl_clock_thaw();
    assert_in_range(znl_clock_mono_ns(), stood_ns, stood_ns + 1000000000u);
    assert_in_range(znl_clock_unix_ms(), time(NULL) * 1000 - 2000, time(NULL) * 1000 + 2000);
    uint64_t later_ns = znl_clock_mono_ns();
    znl_clock_thaw();      /* nothing to do */
    znl_clock_advance(10); /* and nothing to move */
    assert_in_range(znl_clock_mono_ns(), later_ns, later_ns + 1000000000u);
    znl_clock_freeze(-1);
    assert_true(znl_clock_mono_ns() >= later_ns);
}

struct note {
    znl_timer timer;
    znl_loop *loop;
    uint64_t fired_ms;
    int left;
    uint64_t period_ms;
    struct note *starts;
};

static void on_note(znl_timer *timer)
{
    struct note *note = (struct note *)timer;
    note->fired_ms = znl_loop_now_ms(note->loop);
    if (note->starts != NULL)
        znl_wheel_start(znl_loop_wheel(note->loop), &note->starts->timer,
                note->fired_ms + note->starts->period_ms, on_note);
    if (note->left-- > 0)
        znl_wheel_start(
                znl_loop_wheel(note->loop), timer, note->fired_ms + note->period_ms, on_note);
}

static void start(struct note *note, znl_loop *loop, uint64_t delay_ms)
{
    note->loop = loop;
    znl_wheel_start(
            znl_loop_wheel(loop), &note->timer, znl_loop_now_ms(loop) + delay_ms, on_note);
}

static void stop_loop(void *user)
{
    znl_loop_stop(user);
}

static znl_loop *new_loop(void)
{
    znl_loop *loop = NULL;
    assert_int_equal(znl_loop_new(&loop), 0);
    return loop;
}

static void timers_fire_at_their_instant_when_the_loop_moves_time(void **state)
{
    (void)state;
    znl_clock_freeze(START_UNIX_MS);
    znl_loop *loop = new_loop();
    uint64_t start_ms = znl_loop_now_ms(loop);
    struct note second = {.period_ms = 250};
    struct note first = {.starts = &second};
    struct note far = {0};
    struct note late = {0};
    second.loop = loop;
    start(&first, loop, 100);
    start(&far, loop, 20000); /* more than a turn of the wheel away */
    start(&late, loop, 30001);
    assert_int_equal(znl_loop_advance(loop, 30000, stop_loop, loop), 0);
    assert_int_equal(znl_loop_advance(loop, 1, stop_loop, loop), ZNL_E_BUSY);
    uint64_t began_ms = system_ms();
    znl_loop_run(loop);
    assert_in_range(system_ms() - began_ms, 0, 20000);
    assert_int_equal(first.fired_ms - start_ms, 100);
    assert_int_equal(second.fired_ms - start_ms, 350); /* started by the first, on the way */
    assert_int_equal(far.fired_ms - start_ms, 20000);
    assert_int_equal(late.fired_ms, 0);
    assert_int_equal(znl_loop_now_ms(loop) - start_ms, 30000);
    assert_int_equal(znl_loop_unix_ms(loop), START_UNIX_MS + 30000);
    znl_wheel_stop(znl_loop_wheel(loop), &late.timer);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void nothing_fires_and_nothing_spins_while_nobody_moves_time(void **state)
{
    (void)state;
    znl_clock_freeze(-1);
    znl_loop *loop = new_loop();
    struct note note = {0};
    start(&note, loop, 0); /* due now: fires, as no time has to pass */
    znl_loop_run(loop);
    assert_int_equal(note.fired_ms, znl_clock_mono_ms());
    note.fired_ms = 0;
    start(&note, loop, 1);
    znl_loop_run(loop); /* ends: nothing can wake anything */
    assert_int_equal(note.fired_ms, 0);
    znl_clock_thaw();
    znl_loop_clock_changed(loop);
    znl_loop_run(loop);
    assert_true(note.fired_ms > 0);
    assert_int_equal(znl_loop_advance(loop, 1, stop_loop, loop), ZNL_E_INVALID);
    assert_int_equal(znl_loop_close(loop), 0);
}

static void time_moves_by_itself_when_told_so(void **state)
{
    (void)state;
    znl_clock_freeze(-1);
    znl_loop *loop = new_loop();
    uint64_t start_ms = znl_loop_now_ms(loop);
    struct note note = {.left = 9, .period_ms = 3600000};
    start(&note, loop, 3600000);
    znl_loop_auto_advance(loop, 1);
    znl_loop_run(loop); /* ends with the last timer */
    assert_int_equal(note.fired_ms - start_ms, 10 * 3600000);
    assert_int_equal(znl_loop_close(loop), 0);
}

struct job {
    uv_work_t work;
    znl_loop *loop;
    uint64_t done_ms;
};

static void on_work(uv_work_t *work)
{
    (void)work;
    const struct timespec pause = {0, 30 * 1000000};
    nanosleep(&pause, NULL);
}

static void after_work(uv_work_t *work, int status)
{
    struct job *job = (struct job *)work;
    assert_int_equal(status, 0);
    job->done_ms = znl_loop_now_ms(job->loop);
}

static void time_waits_for_requests_of_libuv(void **state)
{
    (void)state;
    znl_clock_freeze(-1);
    znl_loop *loop = new_loop();
    uint64_t start_ms = znl_loop_now_ms(loop);
    struct job job = {.loop = loop};
    struct note note = {0};
    start(&note, loop, 10);
    assert_int_equal(uv_queue_work(znl_loop_uv(loop), &job.work, on_work, after_work), 0);
    assert_int_equal(znl_loop_advance(loop, 1000, stop_loop, loop), 0);
    znl_loop_run(loop);
    assert_int_equal(job.done_ms, start_ms);
    assert_int_equal(note.fired_ms, start_ms + 10);
    assert_int_equal(znl_loop_close(loop), 0);
}

struct outside {
    uv_async_t async; /* first */
    znl_loop *loop;
    uint64_t done_ms;
};

static void on_outside(uv_async_t *async)
{
    struct outside *outside = (struct outside *)async;
    znl_loop_outside(outside->loop, -1);
    outside->done_ms = znl_loop_now_ms(outside->loop);
    uv_close((uv_handle_t *)async, NULL);
}

static void *send_later(void *user)
{
    on_work(NULL);
    uv_async_send(user);
    return NULL;
}

static void time_waits_for_work_outside(void **state)
{
    (void)state;
    znl_clock_freeze(-1);
    znl_loop *loop = new_loop();
    static struct outside outside;
    outside = (struct outside){.loop = loop};
    uint64_t start_ms = znl_loop_now_ms(loop);
    pthread_t thread;
    assert_int_equal(uv_async_init(znl_loop_uv(loop), &outside.async, on_outside), 0);
    znl_loop_outside(loop, 1);
    assert_int_equal(pthread_create(&thread, NULL, send_later, &outside.async), 0);
    assert_int_equal(znl_loop_advance(loop, 1000, stop_loop, loop), 0);
    znl_loop_run(loop);
    pthread_join(thread, NULL);
    assert_int_equal(outside.done_ms, start_ms);
    assert_int_equal(znl_loop_now_ms(loop), start_ms + 1000);
    assert_int_equal(znl_loop_close(loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test_teardown(frozen_clocks_stand_until_moved, thaw),
            cmocka_unit_test_teardown(thawed_clock_goes_on_and_never_back, thaw),
            cmocka_unit_test_teardown(
                    timers_fire_at_their_instant_when_the_loop_moves_time, thaw),
            cmocka_unit_test_teardown(
                    nothing_fires_and_nothing_spins_while_nobody_moves_time, thaw),
            cmocka_unit_test_teardown(time_moves_by_itself_when_told_so, thaw),
            cmocka_unit_test_teardown(time_waits_for_requests_of_libuv, thaw),
            cmocka_unit_test_teardown(time_waits_for_work_outside, thaw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
