/* scenario.h - a script run as the only task of a new state while allocations fail.
 * SPDX-License-Identifier: MIT */
#ifndef ZNL_TESTS_SCENARIO_H
#define ZNL_TESTS_SCENARIO_H

#include <stdint.h>

/* Runs `text` with the n-th allocation from its start, ours or Lua's, and all after it failing (-1: none);
 * then closes everything and checks that nothing is left. The script has znl.core.*, fail_after(n) and
 * patience_ms: how long to wait for an answer, long only where nothing fails. One that waits longer than
 * guard_ms is left where it is. Returns 1 when it came to its end. */
int scenario_attempt(const char *text, long n, uint32_t guard_ms);

/* The same for n = 0, 1, 2, … up to the first run that comes to its end; silences the log. */
void scenario_fail_each(const char *text, uint32_t guard_ms);

#endif
