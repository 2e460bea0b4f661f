/* requests.h - requests that a client of the benchmarks keeps open: ids, payloads, latencies, and the figures.
 *
 * Each request carries other bytes, and each answer is compared with its request.
 * Header only; used by tests/bench and by nothing else. SPDX-License-Identifier: MIT */
#ifndef ZNL_BENCH_REQUESTS_H
#define ZNL_BENCH_REQUESTS_H

#include "measure.h"

#define REQUESTS_PREFIX "__znl_v1__"
#define REQUESTS_ID_BYTES 36u
#define REQUESTS_WARM_UP_NS 300000000u

typedef struct requests_slot {
    uint64_t sent_ns;
    char id[REQUESTS_ID_BYTES + 1];
    uint8_t *payload;
} requests_slot;

typedef struct requests {
    requests_slot *slots;
    uint32_t in_flight;
    double seconds;
    uint64_t warm_ns, starts_ns, ends_ns, total;
    double cpu_s;
    measure_bytes bytes;
    measure_latency latency;
} requests;

static inline void requests_free(requests *self)
{
    for (uint32_t i = 0; self->slots != NULL && i < self->in_flight; i++)
        free(self->slots[i].payload);
    free(self->slots);
    free(self->bytes.pool);
    free(self);
}

/* NULL without memory. */
static inline requests *requests_new(size_t size, uint32_t in_flight, double seconds)
{
    requests *self = calloc(1, sizeof *self);
    if (self == NULL)
        return NULL;
    self->seconds = seconds;
    self->slots = calloc(in_flight, sizeof *self->slots);
    int failed = self->slots == NULL || measure_bytes_init(&self->bytes, size) != 0;
    self->in_flight = failed ? 0 : in_flight;
    for (uint32_t i = 0; i < self->in_flight; i++) {
        self->slots[i].payload = malloc(size + 1);
        failed |= self->slots[i].payload == NULL;
    }
    if (!failed)
        return self;
    requests_free(self);
    return NULL;
}

/* Fills the slot with a request to be sent now. */
static inline requests_slot *requests_next(requests *self, uint32_t slot)
{
    requests_slot *request = &self->slots[slot];
    uint64_t number = measure_bytes_next(&self->bytes, request->payload);
    /* The form of a UUID; the slot and the running number make it unique. */
    snprintf(request->id, sizeof request->id, "%08x-%04x-4%03x-8%03x-%012llx", slot,
            (unsigned)(number >> 48 & 0xffff), (unsigned)(number >> 36 & 0xfff),
            (unsigned)(number >> 24 & 0xfff), (unsigned long long)(number & 0xffffffffffff));
    request->sent_ns = measure_now_ns();
    if (self->warm_ns == 0)
        self->warm_ns = request->sent_ns + REQUESTS_WARM_UP_NS;
    return request;
}

/* The slot whose request this answers; -1 when it is none of ours, or differs from its request. */
static inline int requests_match(
        const requests *self, const void *id, size_t id_size, const void *data, size_t size)
{
    char text[9] = {0};
    if (id_size != REQUESTS_ID_BYTES)
        return -1;
    memcpy(text, id, 8);
    unsigned long slot = strtoul(text, NULL, 16);
    const requests_slot *request = slot < self->in_flight ? &self->slots[slot] : NULL;
    if (request == NULL || memcmp(id, request->id, REQUESTS_ID_BYTES) != 0 ||
            size != self->bytes.size || memcmp(data, request->payload, size) != 0)
        return -1;
    return (int)slot;
}

/* The answer of that slot has come. True when another request is to be sent. */
static inline int requests_answered(requests *self, int slot)
{
    uint64_t now = measure_now_ns();
    self->total++;
    if (self->starts_ns == 0 && now >= self->warm_ns) {
        self->starts_ns = now;
        self->ends_ns = now + (uint64_t)(self->seconds * 1e9);
        self->cpu_s = measure_cpu_s();
    } else if (self->starts_ns != 0 && now < self->ends_ns) {
        measure_add(&self->latency, now - self->slots[slot].sent_ns);
    }
    return self->starts_ns == 0 || now < self->ends_ns;
}

/* The figures, as one line of key=value. */
static inline void requests_print(const requests *self)
{
    printf("requests=%llu total=%llu seconds=%.3f rate=%.0f p50_us=%.2f p99_us=%.2f cpu_s=%.3f "
           "errors=0\n",
            (unsigned long long)self->latency.count, (unsigned long long)self->total,
            self->seconds, (double)self->latency.count / self->seconds,
            measure_percentile_us(&self->latency, 0.5),
            measure_percentile_us(&self->latency, 0.99), measure_cpu_s() - self->cpu_s);
    fflush(stdout);
}

#endif
