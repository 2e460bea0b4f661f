/* wheel.c - see wheel.h. SPDX-License-Identifier: MIT */
#include "base/wheel.h"

#include <string.h>

#define MASK (ZNL_WHEEL_SLOTS - 1)

void znl_wheel_init(znl_wheel *wheel, uint64_t now_ms)
{
    memset(wheel, 0, sizeof *wheel);
    wheel->now_ms = now_ms;
}

void znl_wheel_start(
        znl_wheel *wheel, znl_timer *timer, uint64_t deadline_ms, znl_timer_fn fire)
{
    znl_wheel_stop(wheel, timer);
    /* now_ms itself has not been fired yet; anything earlier has. */
    uint64_t at = deadline_ms < wheel->now_ms ? wheel->now_ms : deadline_ms;
    size_t slot = (size_t)(at & MASK);
    timer->deadline_ms = at;
    timer->fire = fire;
    timer->next = wheel->slots[slot];
    if (timer->next != NULL)
        timer->next->link = &timer->next;
    wheel->slots[slot] = timer;
    timer->link = &wheel->slots[slot];
    wheel->used[slot / 64] |= 1ull << (slot % 64);
    wheel->count++;
}

void znl_wheel_stop(znl_wheel *wheel, znl_timer *timer)
{
    if (timer->link == NULL)
        return;
    *timer->link = timer->next;
    if (timer->next != NULL)
        timer->next->link = timer->link;
    timer->link = NULL;
    timer->next = NULL;
    wheel->count--; /* the bit stays: clearing it is left to the scan that finds the slot empty */
}

void znl_timer_move(znl_timer *to, const znl_timer *from)
{
    *to = *from;
    if (to->link == NULL)
        return;
    *to->link = to;
    if (to->next != NULL)
        to->next->link = &to->next;
}

/* Moves what is due in `slot` to a list of its own, so that functions may change the wheel. */
static void take_due(znl_wheel *wheel, size_t slot, uint64_t now_ms, znl_timer **due)
{
    znl_timer *timer = wheel->slots[slot];
    while (timer != NULL) {
        znl_timer *next = timer->next;
        if (timer->deadline_ms <= now_ms) {
            *timer->link = next;
            if (next != NULL)
                next->link = timer->link;
            timer->next = *due;
            if (timer->next != NULL)
                timer->next->link = &timer->next;
            *due = timer;
            timer->link = due;
        }
        timer = next;
    }
    if (wheel->slots[slot] == NULL)
        wheel->used[slot / 64] &= ~(1ull << (slot % 64));
}

/* Merges two lists of due timers by deadline; of equals, those of `a` come first. */
static znl_timer *merge(znl_timer *a, znl_timer *b)
{
    znl_timer *head = NULL, **at = &head;
    while (a != NULL && b != NULL) {
        znl_timer **first = b->deadline_ms < a->deadline_ms ? &b : &a;
        *at = *first;
        at = &(*at)->next;
        *first = *at;
    }
    *at = a != NULL ? a : b;
    return head;
}

/* Sorts by deadline, keeping the order of equals: lists of 1, 2, 4, … timers, as in a binary
 * counter. Only `next` is kept up; `link` is the caller's to mend. */
static znl_timer *sort(znl_timer *list)
{
    znl_timer *runs[64] = {0};
    size_t used = 0;
    while (list != NULL) {
        znl_timer *run = list;
        list = list->next;
        run->next = NULL;
        size_t i = 0;
        for (; i < used && runs[i] != NULL; i++) {
            run = merge(runs[i], run);
            runs[i] = NULL;
        }
        runs[i] = run;
        if (i == used)
            used++;
    }
    znl_timer *sorted = NULL;
    for (size_t i = 0; i < used; i++)
        sorted = merge(runs[i], sorted);
    return sorted;
}

size_t znl_wheel_advance(znl_wheel *wheel, uint64_t now_ms)
{
    size_t fired = 0;
    znl_timer *due = NULL;
    if (now_ms < wheel->now_ms)
        return 0;
    uint64_t span = now_ms - wheel->now_ms;
    span = span < ZNL_WHEEL_SLOTS ? span + 1 : ZNL_WHEEL_SLOTS;
    if (wheel->count > 0) {
        /* Latest slot first: take_due puts each in front, so the earliest fires first. */
        for (uint64_t i = span; i-- > 0;) {
            size_t slot = (size_t)((wheel->now_ms + i) & MASK);
            if (wheel->used[slot / 64] == 0) {
                i -= i < slot % 64 ? i : slot % 64; /* a whole empty word */
                continue;
            }
            if (wheel->used[slot / 64] >> (slot % 64) & 1)
                take_due(wheel, slot, now_ms, &due);
        }
        /* After a stall of more than one turn a slot mixes turns. */
        if (now_ms - wheel->now_ms >= ZNL_WHEEL_SLOTS) {
            due = sort(due);
            for (znl_timer **link = &due; *link != NULL; link = &(*link)->next)
                (*link)->link = link;
        }
    }
    wheel->now_ms = now_ms;
    while (due != NULL) {
        znl_timer *timer = due;
        znl_wheel_stop(wheel, timer);
        fired++;
        timer->fire(timer);
    }
    return fired;
}

/* True when a timer in the slot of now_ms is due, and not one of a later turn. */
static int is_due_now(const znl_wheel *wheel)
{
    const znl_timer *timer = wheel->slots[wheel->now_ms & MASK];
    while (timer != NULL && timer->deadline_ms > wheel->now_ms)
        timer = timer->next;
    return timer != NULL;
}

uint64_t znl_wheel_next_ms(const znl_wheel *wheel, uint64_t now_ms)
{
    if (wheel->count == 0)
        return UINT64_MAX;
    /* The slot of now_ms has been scanned: what it holds is due at once or a turn away. A bit set
     * for nothing, or for a timer of a later turn, costs one early advance. */
    uint64_t offset = is_due_now(wheel) ? 0 : 1;
    while (offset > 0 && offset < ZNL_WHEEL_SLOTS) {
        size_t slot = (size_t)((wheel->now_ms + offset) & MASK);
        uint64_t word = wheel->used[slot / 64] >> (slot % 64);
        if (word != 0) {
            offset += (uint64_t)__builtin_ctzll(word);
            break;
        }
        offset += 64 - slot % 64;
    }
    uint64_t at = wheel->now_ms + (offset < ZNL_WHEEL_SLOTS ? offset : ZNL_WHEEL_SLOTS);
    return at > now_ms ? at - now_ms : 0;
}
