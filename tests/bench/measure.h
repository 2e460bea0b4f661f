/* measure.h - what the benchmark programs share: clock, CPU time, latencies, changing bytes.
 *
 * Header only; used by tests/bench and by nothing else. SPDX-License-Identifier: MIT */
#ifndef ZNL_BENCH_MEASURE_H
#define ZNL_BENCH_MEASURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static inline uint64_t measure_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* User and system time of this process, all threads. */
static inline double measure_cpu_s(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
            (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* --- latencies: steps of 0.25 µs up to 262 ms; longer ones count in the last step ------------- */

#define MEASURE_STEP_NS 250u
#define MEASURE_STEPS (1u << 20)

typedef struct measure_latency {
    uint64_t count;
    uint32_t steps[MEASURE_STEPS];
} measure_latency;

static inline void measure_add(measure_latency *latency, uint64_t ns)
{
    uint64_t step = ns / MEASURE_STEP_NS;
    latency->steps[step < MEASURE_STEPS ? step : MEASURE_STEPS - 1]++;
    latency->count++;
}

/* The latency that `share` (0..1) of all samples do not exceed, in µs. 0 without samples. */
static inline double measure_percentile_us(const measure_latency *latency, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)latency->count);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < MEASURE_STEPS; i++) {
        seen += latency->steps[i];
        if (seen > wanted)
            return (double)(i + 1) * MEASURE_STEP_NS / 1000.0;
    }
    return 0;
}

/* --- payloads: no two alike, so that nobody profits from having seen the bytes before ----- */

#define MEASURE_POOL_BYTES (1u << 16)

typedef struct measure_bytes {
    uint8_t *pool; /* MEASURE_POOL_BYTES plus `size` of random bytes */
    size_t size;
    uint64_t count;
} measure_bytes;

static inline int measure_bytes_init(measure_bytes *bytes, size_t size)
{
    uint64_t state = 0x9e3779b97f4a7c15u ^ measure_now_ns();
    bytes->size = size;
    bytes->count = 0;
    bytes->pool = malloc(MEASURE_POOL_BYTES + size);
    if (bytes->pool == NULL)
        return -1;
    for (size_t i = 0; i < MEASURE_POOL_BYTES + size; i++) {
        state ^= state << 13; /* xorshift64 */
        state ^= state >> 7;
        state ^= state << 17;
        bytes->pool[i] = (uint8_t)(state >> 24);
    }
    return 0;
}

/* Writes the next payload: a running number, as far as it fits, then bytes of the pool. */
static inline uint64_t measure_bytes_next(measure_bytes *bytes, uint8_t *out)
{
    uint64_t number = ++bytes->count;
    size_t head = bytes->size < sizeof number ? bytes->size : sizeof number;
    memcpy(out, bytes->pool + number * 61 % MEASURE_POOL_BYTES, bytes->size);
    memcpy(out, &number, head);
    return number;
}

#endif
