/* tally.h - how many published messages each of many receivers has had, and when all have had so many.
 *
 * The message number N begins with N, 8 bytes in the order of the machine: what is missing or out of order shows.
 * Header only; used by tests/bench and by nothing else. SPDX-License-Identifier: MIT */
#ifndef ZNL_BENCH_TALLY_H
#define ZNL_BENCH_TALLY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Receivers are less than half of this apart: their sender awaits them every few hundred messages. */
#define TALLY_RING 65536u

typedef struct tally {
    uint32_t receivers;
    uint64_t *counts; /* the last number that each has had */
    uint32_t *passed; /* how many receivers have passed the number, modulo TALLY_RING */
    uint64_t total, disorder;
} tally;

/* 0, or -1 without memory. */
static inline int tally_init(tally *self, uint32_t receivers)
{
    memset(self, 0, sizeof *self);
    self->receivers = receivers;
    self->counts = calloc(receivers, sizeof *self->counts);
    self->passed = calloc(TALLY_RING, sizeof *self->passed);
    return self->counts != NULL && self->passed != NULL ? 0 : -1;
}

static inline void tally_fini(tally *self)
{
    free(self->counts);
    free(self->passed);
}

static inline void tally_add(tally *self, uint32_t receiver, const void *payload, size_t size)
{
    uint64_t number = 0;
    if (size >= sizeof number)
        memcpy(&number, payload, sizeof number);
    self->total++;
    if (number != self->counts[receiver] + 1) {
        self->disorder++; /* and the ones between stay unpassed: nobody awaits them in vain for ever */
        if (number <= self->counts[receiver])
            return;
    }
    self->counts[receiver] = number;
    if (++self->passed[number % TALLY_RING] == 1)
        self->passed[(number + TALLY_RING / 2) % TALLY_RING] = 0;
}

/* True when all have had the message of that number; 0: none is awaited. */
static inline int tally_reached(const tally *self, uint64_t number)
{
    return number == 0 || self->passed[number % TALLY_RING] == self->receivers;
}

#endif
