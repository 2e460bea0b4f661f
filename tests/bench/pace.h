/* pace.h - flow control of the one-way benchmarks, and the rate they reach.
 *
 * Neither a publish nor a push is acknowledged. So their sender sends a batch and then asks for a sign that it has
 * arrived; PACE_LANES batches overlap. The rate is taken from the first such sign within the measured time to the
 * last: what was sent and has not arrived does not count.
 * Header only; used by tests/bench and by nothing else. SPDX-License-Identifier: MIT */
#ifndef ZNL_BENCH_PACE_H
#define ZNL_BENCH_PACE_H

#include "measure.h"

#define PACE_LANES 4u
#define PACE_WARM_UP_NS 300000000u

typedef struct pace {
    uint32_t batch; /* messages */
    uint64_t warm_ns, ends_ns;
    uint64_t sent, refused;     /* messages */
    uint64_t done;              /* batches that have arrived */
    uint64_t first_ns, last_ns; /* the first and the last of them that were measured */
    uint64_t measured;
    double cpu_first_s, cpu_last_s;
} pace;

/* Of a message to so many receivers. */
static inline uint32_t pace_batch(uint32_t receivers)
{
    return receivers >= 500 ? 16 : 128;
}

static inline void pace_init(pace *self, uint32_t receivers, double seconds)
{
    memset(self, 0, sizeof *self);
    self->batch = pace_batch(receivers);
    self->warm_ns = measure_now_ns() + PACE_WARM_UP_NS;
    self->ends_ns = self->warm_ns + (uint64_t)(seconds * 1e9);
}

/* A batch has arrived. */
static inline void pace_arrived(pace *self)
{
    uint64_t now = measure_now_ns();
    self->done++;
    if (now < self->warm_ns || now > self->ends_ns)
        return;
    self->last_ns = now;
    self->cpu_last_s = measure_cpu_s();
    if (self->first_ns == 0) {
        self->first_ns = now;
        self->cpu_first_s = self->cpu_last_s;
    } else {
        self->measured++;
    }
}

static inline int pace_is_over(const pace *self)
{
    return measure_now_ns() >= self->ends_ns;
}

/* Prints one line of key=value. `arrived` counts messages times receivers; so does rate. */
static inline void pace_print(
        const pace *self, uint32_t receivers, uint64_t arrived, uint64_t disorder)
{
    double took = (double)(self->last_ns - self->first_ns) / 1e9;
    double measured = (double)self->measured * self->batch * receivers;
    printf("sent=%llu rate=%.0f sender_us=%.4f refused=%llu lost=%lld disorder=%llu\n",
            (unsigned long long)self->sent, took > 0 ? measured / took : 0,
            measured > 0 ? (self->cpu_last_s - self->cpu_first_s) / measured * 1e6 : 0,
            (unsigned long long)self->refused,
            (long long)(self->sent * receivers) - (long long)arrived,
            (unsigned long long)disorder);
    fflush(stdout);
}

#endif
