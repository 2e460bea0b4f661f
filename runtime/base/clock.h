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

#endif
