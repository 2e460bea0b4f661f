/* turns.h - runs a loop for a while, or until something holds, for tests. SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_TURNS_H
#define ZNL_TESTS_TURNS_H

#include "transport/loop.h"

#include <stdint.h>

#define GUARD_MS 60000 /* a test that waits longer has failed */

/* Runs the loop for `ms`, or until nothing is left to do. */
void run_for(znl_loop *loop, uint64_t ms);

/* Runs the loop until the condition holds, and fails the test when it never does. Needs cmocka.h. */
#define RUN_UNTIL(loop, condition)                                                             \
    do {                                                                                       \
        for (int waited_ms = 0; waited_ms < GUARD_MS && !(condition); waited_ms += 2)          \
            run_for(loop, 2);                                                                  \
        assert_true(condition);                                                                \
    } while (0)

#endif
