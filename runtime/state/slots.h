/* slots.h - objects of one kind that are found again by a small number: their slot.
 *
 * An object begins with a znl_slot. They live in chunks that never move, each twice as large as the one
 * before; nothing is allocated before the first is taken, and large chunks go when the last is given back.
 *
 * Layer: state. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_SLOTS_H
#define ZNL_STATE_SLOTS_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_SLOT_BITS 20u
#define ZNL_SLOTS_MAX (1u << ZNL_SLOT_BITS)
#define ZNL_SLOT_CHUNKS 18u /* 8, 8, 16, 32, … up to ZNL_SLOTS_MAX in sum */

typedef struct znl_slot {
    uint32_t index;
    uint32_t next; /* in the list of free ones, or a mark of those in use */
} znl_slot;

typedef struct znl_slots {
    size_t item_bytes;
    uint32_t limit, count; /* count: objects in use */
    uint32_t free;         /* the first free slot, or UINT32_MAX */
    uint32_t chunk_count;
    void *chunks[ZNL_SLOT_CHUNKS];
} znl_slots;

/* `limit` is cut at ZNL_SLOTS_MAX. An item has at least the size of a znl_slot. */
void znl_slots_init(znl_slots *slots, size_t item_bytes, uint32_t limit);

/* Frees the memory, whatever is still in use. */
void znl_slots_fini(znl_slots *slots);

/* 0 and *item, all zero but its slot. ZNL_E_LIMIT, ZNL_E_NOMEM. */
int znl_slots_take(znl_slots *slots, void **item);

/* Gives one back: it must not be touched any more. */
void znl_slots_give(znl_slots *slots, void *item);

/* The object in use with that number, or NULL. */
void *znl_slots_at(const znl_slots *slots, uint32_t index);

/* The first object in use whose number is at least `index`, or NULL: walks all, also while they are given
 * back. */
void *znl_slots_from(const znl_slots *slots, uint32_t index);

#endif
