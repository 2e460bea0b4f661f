/* nats_table.c - objects by number; see nats_parts.h. SPDX-License-Identifier: MIT */
#include "transport/nats_parts.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#define SLOT_BITS 20
#define SLOT_MASK ((1u << SLOT_BITS) - 1)

static int grow(znl_nats_table *table)
{
    uint32_t capacity = table->capacity == 0 ? 16 : table->capacity * 2;
    if (table->capacity >= ZNL_NATS_SUBSCRIPTIONS_MAX)
        return ZNL_E_LIMIT;
    znl_nats_slot *slots = znl_realloc(table->slots, capacity * sizeof *slots);
    if (slots == NULL)
        return ZNL_E_NOMEM;
    table->slots = slots;
    table->capacity = capacity;
    return 0;
}

int znl_nats_table_put(znl_nats_table *table, void *item, uint64_t *number)
{
    uint32_t index = table->free - 1;
    if (table->free == 0) {
        int err = table->used == table->capacity ? grow(table) : 0;
        if (err != 0)
            return err;
        index = table->used++;
        table->slots[index] = (znl_nats_slot){.generation = 1};
    } else {
        table->free = table->slots[index].next_free;
    }
    table->slots[index].item = item;
    table->count++;
    *number = (uint64_t)table->slots[index].generation << SLOT_BITS | index;
    return 0;
}

static znl_nats_slot *find(const znl_nats_table *table, uint64_t number)
{
    uint64_t index = number & SLOT_MASK;
    if (index >= table->used || table->slots[index].item == NULL ||
            table->slots[index].generation != number >> SLOT_BITS)
        return NULL;
    return &table->slots[index];
}

void *znl_nats_table_get(const znl_nats_table *table, uint64_t number)
{
    znl_nats_slot *slot = find(table, number);
    return slot != NULL ? slot->item : NULL;
}

void znl_nats_table_drop(znl_nats_table *table, uint64_t number)
{
    znl_nats_slot *slot = find(table, number);
    if (slot == NULL)
        return;
    slot->item = NULL;
    slot->generation++;
    slot->next_free = table->free;
    table->free = (uint32_t)(slot - table->slots) + 1;
    table->count--;
}

void *znl_nats_table_next(const znl_nats_table *table, uint32_t *at)
{
    while (*at < table->used) {
        void *item = table->slots[(*at)++].item;
        if (item != NULL)
            return item;
    }
    return NULL;
}

void znl_nats_table_fini(znl_nats_table *table)
{
    znl_free(table->slots);
    *table = (znl_nats_table){0};
}
