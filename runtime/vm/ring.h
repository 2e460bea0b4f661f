/* ring.h - a bounded queue of pointers from one thread to another, without locks.
 *
 * One thread pushes, one thread pops. What was written before a push is seen after the pop that
 * returns it. The ring does not own what is in it.
 *
 * Layer: vm. Each function names its thread. SPDX-License-Identifier: MIT */
#ifndef ZNL_VM_RING_H
#define ZNL_VM_RING_H

#include <stddef.h>
#include <stdint.h>

typedef struct znl_ring znl_ring;

/* A ring for at least `capacity` items, at most twice as many. 0, ZNL_E_INVALID (0, or more than
 * 2^24) or ZNL_E_NOMEM. */
int znl_ring_new(znl_ring **out, uint32_t capacity);

/* When both threads are done with it. Accepts NULL. */
void znl_ring_free(znl_ring *ring);

/* The pushing thread: 0, or ZNL_E_BUSY when it is full. `item` must not be NULL. */
int znl_ring_push(znl_ring *ring, void *item);

/* The pushing thread: how many more it takes, at least. */
size_t znl_ring_room(znl_ring *ring);

/* The popping thread: the oldest item, or NULL. */
void *znl_ring_pop(znl_ring *ring);

/* The popping thread: true when there is nothing to pop. */
int znl_ring_is_empty(const znl_ring *ring);

#endif
