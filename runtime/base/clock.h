/* clock.h - the two clocks. Code below the transport layer is given the time instead.
 *
 * Any thread. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_CLOCK_H
#define ZNL_BASE_CLOCK_H

#include <stdint.h>

/* Milliseconds that never go back: for timeouts, heartbeats and leases. */
uint64_t znl_clock_mono_ms(void);

/* Nanoseconds of the same clock: for measuring. */
uint64_t znl_clock_mono_ns(void);

/* Milliseconds since 1970: only for timestamps that a peer checks, and for logs. */
int64_t znl_clock_unix_ms(void);

/* --- for tests: time that stands still ---------------------------------------------------------
 *
 * Of the whole process, every thread. What reads the system's clock by itself does not follow:
 * os.time(), the timers of libuv. */

/* Stops both clocks; the wall clock at `unix_ms`, unless that is negative. Again: sets it anew. */
void znl_clock_freeze(int64_t unix_ms);

/* Moves both on. Only while frozen. */
void znl_clock_advance(uint64_t ms);

/* Lets them run: the monotonic clock from where it stands, the wall clock at the true time. */
void znl_clock_thaw(void);

int znl_clock_is_frozen(void);

#endif
