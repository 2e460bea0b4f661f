/* loop_test.c - what came while the loop stood still is looked at before timers fire.
 * SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "transport/loop.h"

static struct {
    znl_loop *loop;
    int sockets[2];
    uv_poll_t poll;
    uv_check_t stall;
    znl_timer timers[2];
    char story[16]; /* a letter for each thing that happened */
} scene;

static void note(char what)
{
    size_t length = strlen(scene.story);
    assert_true(length + 1 < sizeof scene.story);
    scene.story[length] = what;
}

static void on_readable(uv_poll_t *handle, int status, int events)
{
    char byte;
    (void)status;
    (void)events;
    assert_int_equal(read(scene.sockets[0], &byte, 1), 1);
    note('r');
    uv_poll_stop(handle);
}

static void on_timer(znl_timer *timer)
{
    note(timer == &scene.timers[0] ? '1' : '2');
    if (timer == &scene.timers[1])
        znl_loop_stop(scene.loop);
}

/* Runs after libuv has looked for events: the peer writes, and both timers are due, before it looks again. */
static void stand_still(uv_check_t *check)
{
    uv_check_stop(check);
    usleep(1000 * (10 + 4 * ZNL_STALL_MS));
    assert_int_equal(write(scene.sockets[1], "x", 1), 1);
}

static void start(void)
{
    memset(&scene, 0, sizeof scene);
    assert_int_equal(znl_loop_new(&scene.loop), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, scene.sockets), 0);
    assert_int_equal(uv_poll_init(znl_loop_uv(scene.loop), &scene.poll, scene.sockets[0]), 0);
    uv_check_init(znl_loop_uv(scene.loop), &scene.stall);
    assert_int_equal(uv_poll_start(&scene.poll, UV_READABLE, on_readable), 0);
}

static void end(void)
{
    uv_close((uv_handle_t *)&scene.poll, NULL);
    uv_close((uv_handle_t *)&scene.stall, NULL);
    assert_int_equal(znl_loop_close(scene.loop), 0);
    close(scene.sockets[0]);
    close(scene.sockets[1]);
}

static void start_timers(uint64_t now_ms)
{
    znl_wheel *wheel = znl_loop_wheel(scene.loop);
    znl_wheel_start(wheel, &scene.timers[1], now_ms + 10, on_timer);
    znl_wheel_start(wheel, &scene.timers[0], now_ms + 5, on_timer);
}

static void what_came_during_a_stall_is_read_before_timers_fire(void **state)
{
    (void)state;
    start();
    start_timers(znl_loop_now_ms(scene.loop));
    uv_check_start(&scene.stall, stand_still);
    znl_loop_run(scene.loop);
    assert_string_equal(scene.story, "r12");
    end();
}

static void timers_fire_after_a_stall_in_which_nothing_came(void **state)
{
    (void)state;
    start();
    for (int round = 0; round < 3; round++) {
        memset(scene.story, 0, sizeof scene.story);
        start_timers(znl_loop_now_ms(scene.loop));
        usleep(1000 * (10 + 4 * ZNL_STALL_MS));
        znl_loop_run(scene.loop);
        assert_string_equal(scene.story, "12");
    }
    end();
}

/* Nobody is late for a clock that stands. */
static void a_frozen_clock_waits_for_nobody(void **state)
{
    (void)state;
    start();
    znl_clock_freeze(1000);
    start_timers(znl_loop_now_ms(scene.loop));
    znl_clock_advance(1000);
    znl_loop_clock_changed(scene.loop);
    znl_loop_run(scene.loop);
    assert_string_equal(scene.story, "12");
    znl_clock_thaw();
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_came_during_a_stall_is_read_before_timers_fire),
            cmocka_unit_test(timers_fire_after_a_stall_in_which_nothing_came),
            cmocka_unit_test(a_frozen_clock_waits_for_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
