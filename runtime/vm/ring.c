/* ring.c - see ring.h. SPDX-License-Identifier: MIT */
#include "vm/ring.h"

#include "base/alloc.h"
#include "base/err.h"

#include <stdatomic.h>

#define CAPACITY_MAX (1u << 24)
#define LINE 64 /* bytes of a cache line: the two ends must not share one */

/* Positions count up for ever; their low bits are the slot. Each end keeps what it last saw of the
 * other's position, and looks again only when that says full or empty. */
struct znl_ring {
    size_t mask;
    char pad_read[LINE];
    atomic_size_t popped; /* written by the popping thread only */
    size_t seen_pushed;
    char pad_write[LINE];
    atomic_size_t pushed; /* written by the pushing thread only */
    size_t seen_popped;
    char pad_slots[LINE];
    void *slots[];
};

int znl_ring_new(znl_ring **out, uint32_t capacity)
{
    size_t size = 1;
    if (capacity == 0 || capacity > CAPACITY_MAX)
        return ZNL_E_INVALID;
    while (size < capacity)
        size *= 2;
    znl_ring *ring = znl_calloc(1, sizeof *ring + size * sizeof ring->slots[0]);
    if (ring == NULL)
        return ZNL_E_NOMEM;
    ring->mask = size - 1;
    *out = ring;
    return 0;
}

void znl_ring_free(znl_ring *ring)
{
    znl_free(ring);
}

int znl_ring_push(znl_ring *ring, void *item)
{
    size_t at = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    if (at - ring->seen_popped > ring->mask) {
        ring->seen_popped = atomic_load_explicit(&ring->popped, memory_order_acquire);
        if (at - ring->seen_popped > ring->mask)
            return ZNL_E_BUSY;
    }
    ring->slots[at & ring->mask] = item;
    atomic_store_explicit(&ring->pushed, at + 1, memory_order_release);
    return 0;
}

size_t znl_ring_room(znl_ring *ring)
{
    ring->seen_popped = atomic_load_explicit(&ring->popped, memory_order_acquire);
    return ring->mask + 1 -
            (atomic_load_explicit(&ring->pushed, memory_order_relaxed) - ring->seen_popped);
}

void *znl_ring_pop(znl_ring *ring)
{
    size_t at = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    if (at == ring->seen_pushed) {
        ring->seen_pushed = atomic_load_explicit(&ring->pushed, memory_order_acquire);
        if (at == ring->seen_pushed)
            return NULL;
    }
    void *item = ring->slots[at & ring->mask];
    atomic_store_explicit(&ring->popped, at + 1, memory_order_release);
    return item;
}

int znl_ring_is_empty(const znl_ring *ring)
{
    return atomic_load_explicit(&ring->popped, memory_order_relaxed) ==
            atomic_load_explicit(&ring->pushed, memory_order_acquire);
}
