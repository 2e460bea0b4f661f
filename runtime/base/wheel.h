/* wheel.h - hashed timer wheel: many deadlines, one timer of the loop.
 *
 * G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", scheme 6: a slot per
 * millisecond, doubly linked lists, deadlines more than one turn away stay in their slot. A bitmap
 * of used slots finds the next one, so nothing ticks while nothing is due.
 *
 * Times are monotonic milliseconds, passed in.
 * Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_WHEEL_H
#define ZNL_BASE_WHEEL_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_WHEEL_SLOTS 8192u /* longer than the default request timeout; a power of two */

typedef struct znl_timer znl_timer;
typedef void (*znl_timer_fn)(znl_timer *timer);

/* Lives inside the object it serves. Zeroed memory is a stopped timer. */
struct znl_timer {
    znl_timer *next;
    znl_timer **link; /* what points at this timer; NULL when stopped */
    uint64_t deadline_ms;
    znl_timer_fn fire;
};

typedef struct znl_wheel {
    znl_timer *slots[ZNL_WHEEL_SLOTS];
    uint64_t used[ZNL_WHEEL_SLOTS / 64]; /* bit set: the slot may hold timers */
    uint64_t now_ms;                     /* everything due before this has fired */
    size_t count;                        /* timers running */
} znl_wheel;

void znl_wheel_init(znl_wheel *wheel, uint64_t now_ms);

/* Starts `timer`, or moves it when it runs. A deadline in the past fires at the next advance. */
void znl_wheel_start(
        znl_wheel *wheel, znl_timer *timer, uint64_t deadline_ms, znl_timer_fn fire);

/* Stops `timer`; harmless when it does not run. */
void znl_wheel_stop(znl_wheel *wheel, znl_timer *timer);

/* The object moves: `to`, of any content, takes the place of `from`, which is not to be used any more. */
void znl_timer_move(znl_timer *to, const znl_timer *from);

static inline int znl_timer_running(const znl_timer *timer)
{
    return timer->link != NULL;
}

/* Fires what is due at `now_ms`, earliest first and equals in the order they were started; each
 * timer is stopped before its function runs, which may start, stop and free any timer. What it
 * starts fires at the next advance at the earliest. Returns how many fired. */
size_t znl_wheel_advance(znl_wheel *wheel, uint64_t now_ms);

/* Milliseconds from `now_ms` until the wheel should be advanced again: never later than the next
 * deadline, sometimes earlier, at most one turn of the wheel; UINT64_MAX when it is empty. */
uint64_t znl_wheel_next_ms(const znl_wheel *wheel, uint64_t now_ms);

#endif
