/* clock.c - see clock.h. SPDX-License-Identifier: MIT */
#include "base/clock.h"

#include <stdatomic.h>
#include <time.h>

/* Other threads read the clock as well. A thread that reads just while a test changes it may see one
 * value of before and one of after; the monotonic clock goes forward in any case. */
static atomic_int is_frozen;
static _Atomic uint64_t frozen_ns;
static _Atomic int64_t frozen_unix_ms;
static _Atomic int64_t lead_ns; /* of our monotonic clock over that of the system */

static uint64_t running_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t system_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return system_ns + (uint64_t)atomic_load_explicit(&lead_ns, memory_order_relaxed);
}

int znl_clock_is_frozen(void)
{
    return atomic_load_explicit(&is_frozen, memory_order_relaxed);
}

uint64_t znl_clock_mono_ns(void)
{
    if (__builtin_expect(znl_clock_is_frozen(), 0))
        return atomic_load(&frozen_ns);
    return running_ns();
}

uint64_t znl_clock_mono_ms(void)
{
    return znl_clock_mono_ns() / 1000000u;
}

int64_t znl_clock_unix_ms(void)
{
    struct timespec now;
    if (__builtin_expect(znl_clock_is_frozen(), 0))
        return atomic_load(&frozen_unix_ms);
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void znl_clock_freeze(int64_t unix_ms)
{
    atomic_store(&frozen_unix_ms, unix_ms >= 0 ? unix_ms : znl_clock_unix_ms());
    if (!znl_clock_is_frozen())
        atomic_store(&frozen_ns, running_ns());
    atomic_store(&is_frozen, 1);
}

void znl_clock_advance(uint64_t ms)
{
    if (!znl_clock_is_frozen())
        return;
    atomic_fetch_add(&frozen_ns, ms * 1000000u);
    atomic_fetch_add(&frozen_unix_ms, (int64_t)ms);
}

void znl_clock_thaw(void)
{
    if (!znl_clock_is_frozen())
        return;
    atomic_fetch_add(&lead_ns, (int64_t)(atomic_load(&frozen_ns) - running_ns()));
    atomic_store(&is_frozen, 0);
}
