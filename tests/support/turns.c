/* turns.c - see turns.h. SPDX-License-Identifier: MIT */
#include "support/turns.h"

struct guard {
    znl_timer timer;
    znl_loop *loop;
};

static void guard_fire(znl_timer *timer)
{
    znl_loop_stop(((struct guard *)(void *)timer)->loop);
}

void run_for(znl_loop *loop, uint64_t ms)
{
    struct guard guard = {.loop = loop};
    znl_wheel_start(znl_loop_wheel(loop), &guard.timer, znl_loop_now_ms(loop) + ms, guard_fire);
    znl_loop_run(loop);
    znl_wheel_stop(znl_loop_wheel(loop), &guard.timer);
}
