/* slots.c - see slots.h. SPDX-License-Identifier: MIT */
#include "state/slots.h"

#include "base/alloc.h"
#include "base/err.h"

#include <string.h>

#define FIRST 8u /* items of the first chunk; the second has as many, then they double */
#define NONE UINT32_MAX
#define LIVE (UINT32_MAX - 1)
#define KEPT_CHUNKS 4u /* 64 items, kept when the last one is given back */

_Static_assert(FIRST << (ZNL_SLOT_CHUNKS - 1) == ZNL_SLOTS_MAX, "the chunks hold every slot");

static uint32_t chunk_of(uint32_t index)
{
    return index < FIRST ? 0 : 29u - (uint32_t)__builtin_clz(index);
}

static uint32_t chunk_begin(uint32_t chunk)
{
    return chunk == 0 ? 0 : FIRST << (chunk - 1);
}

static uint32_t chunk_size(uint32_t chunk)
{
    return chunk == 0 ? FIRST : FIRST << (chunk - 1);
}

static znl_slot *item_in(const znl_slots *slots, uint32_t chunk, uint32_t at)
{
    return (znl_slot *)(void *)((char *)slots->chunks[chunk] + at * slots->item_bytes);
}

/* Puts all of a chunk in front of the free list, its first item foremost. */
static void free_chunk_items(znl_slots *slots, uint32_t chunk)
{
    uint32_t begin = chunk_begin(chunk);
    for (uint32_t i = chunk_size(chunk); i-- > 0;) {
        znl_slot *item = item_in(slots, chunk, i);
        item->index = begin + i;
        item->next = slots->free;
        slots->free = begin + i;
    }
}

void znl_slots_init(znl_slots *slots, size_t item_bytes, uint32_t limit)
{
    memset(slots, 0, sizeof *slots);
    slots->item_bytes = item_bytes;
    slots->limit = limit < ZNL_SLOTS_MAX ? limit : ZNL_SLOTS_MAX;
    slots->free = NONE;
}

static void drop_chunks(znl_slots *slots, uint32_t kept)
{
    while (slots->chunk_count > kept)
        znl_free(slots->chunks[--slots->chunk_count]);
}

void znl_slots_fini(znl_slots *slots)
{
    drop_chunks(slots, 0);
    slots->count = 0;
    slots->free = NONE;
}

static int grow(znl_slots *slots)
{
    uint32_t chunk = slots->chunk_count;
    void *block = znl_calloc(chunk_size(chunk), slots->item_bytes);
    if (block == NULL)
        return ZNL_E_NOMEM;
    slots->chunks[chunk] = block;
    slots->chunk_count++;
    free_chunk_items(slots, chunk);
    return 0;
}

int znl_slots_take(znl_slots *slots, void **item)
{
    if (slots->count >= slots->limit)
        return ZNL_E_LIMIT;
    if (slots->free == NONE) {
        int err = grow(slots);
        if (err != 0)
            return err;
    }
    uint32_t index = slots->free, chunk = chunk_of(index);
    znl_slot *slot = item_in(slots, chunk, index - chunk_begin(chunk));
    slots->free = slot->next;
    slots->count++;
    memset(slot, 0, slots->item_bytes);
    slot->index = index;
    slot->next = LIVE;
    *item = slot;
    return 0;
}

void znl_slots_give(znl_slots *slots, void *item)
{
    znl_slot *slot = item;
    slot->next = slots->free;
    slots->free = slot->index;
    slots->count--;
    if (slots->count == 0 && slots->chunk_count > KEPT_CHUNKS) {
        drop_chunks(slots, KEPT_CHUNKS);
        slots->free = NONE;
        for (uint32_t chunk = KEPT_CHUNKS; chunk-- > 0;)
            free_chunk_items(slots, chunk);
    }
}

void *znl_slots_at(const znl_slots *slots, uint32_t index)
{
    if (index >= ZNL_SLOTS_MAX)
        return NULL;
    uint32_t chunk = chunk_of(index);
    if (chunk >= slots->chunk_count)
        return NULL;
    znl_slot *slot = item_in(slots, chunk, index - chunk_begin(chunk));
    return slot->next == LIVE ? slot : NULL;
}

void *znl_slots_from(const znl_slots *slots, uint32_t index)
{
    for (; index < ZNL_SLOTS_MAX; index++) {
        if (slots->count == 0 || chunk_of(index) >= slots->chunk_count)
            return NULL;
        void *item = znl_slots_at(slots, index);
        if (item != NULL)
            return item;
    }
    return NULL;
}
