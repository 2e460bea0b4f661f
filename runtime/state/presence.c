/* presence.c - see presence.h. SPDX-License-Identifier: MIT */
#include "state/presence.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"

#include <string.h>

struct znl_presence {
    znl_map map;
    size_t max, extra;
    znl_presence_entry *oldest, *newest;
};

#define ALIGN16(size) (((size) + 15u) & ~(size_t)15u)

int znl_presence_new(znl_presence **out, size_t max, size_t extra)
{
    znl_presence *presence = znl_calloc(1, sizeof *presence);
    if (presence == NULL)
        return ZNL_E_NOMEM;
    presence->max = max;
    presence->extra = ALIGN16(extra);
    *out = presence;
    return 0;
}

void znl_presence_free(znl_presence *presence)
{
    if (presence == NULL)
        return;
    while (presence->oldest != NULL) {
        znl_presence_entry *entry = presence->oldest;
        presence->oldest = entry->newer;
        znl_free(entry);
    }
    znl_map_fini(&presence->map);
    znl_free(presence);
}

void *znl_presence_extra(znl_presence_entry *entry)
{
    return (uint8_t *)entry + ALIGN16(sizeof *entry);
}

znl_presence_entry *znl_presence_find(const znl_presence *presence, znl_frame id, uint64_t hash)
{
    return (znl_presence_entry *)(void *)znl_map_find(&presence->map, id, hash);
}

static void unlink_entry(znl_presence *presence, znl_presence_entry *entry)
{
    *(entry->older != NULL ? &entry->older->newer : &presence->oldest) = entry->newer;
    *(entry->newer != NULL ? &entry->newer->older : &presence->newest) = entry->older;
}

static void append(znl_presence *presence, znl_presence_entry *entry)
{
    entry->older = presence->newest;
    entry->newer = NULL;
    *(presence->newest != NULL ? &presence->newest->newer : &presence->oldest) = entry;
    presence->newest = entry;
}

void znl_presence_refresh(znl_presence *presence, znl_presence_entry *entry, uint64_t now_ms)
{
    if (presence->newest != entry) {
        unlink_entry(presence, entry);
        append(presence, entry);
    }
    entry->last_seen_ms = now_ms;
}

int znl_presence_touch(znl_presence *presence, znl_frame id, uint64_t hash, uint64_t now_ms,
        znl_presence_entry **entry, int *is_new)
{
    znl_presence_entry *found = znl_presence_find(presence, id, hash);
    *is_new = found == NULL;
    if (found != NULL) {
        znl_presence_refresh(presence, found, now_ms);
        *entry = found;
        return 0;
    }
    if (id.size > ZNL_ID_BYTES_MAX)
        return ZNL_E_TOO_BIG;
    if (presence->map.count >= presence->max)
        return ZNL_E_LIMIT;
    size_t key_at = ALIGN16(sizeof *found) + presence->extra;
    found = znl_calloc(1, key_at + id.size);
    if (found == NULL)
        return ZNL_E_NOMEM;
    uint8_t *key = (uint8_t *)found + key_at;
    if (id.size > 0)
        memcpy(key, id.data, id.size);
    found->map.key = znl_frame_of(key, id.size);
    found->map.hash = hash;
    found->since_ms = found->last_seen_ms = now_ms;
    if (znl_map_put(&presence->map, &found->map) != 0) {
        znl_free(found);
        return ZNL_E_NOMEM;
    }
    append(presence, found);
    *entry = found;
    return 0;
}

void znl_presence_take(znl_presence *presence, znl_presence_entry *entry)
{
    znl_map_remove(&presence->map, &entry->map);
    unlink_entry(presence, entry);
}

void znl_presence_drop(znl_presence_entry *entry)
{
    znl_free(entry);
}

znl_presence_entry *znl_presence_oldest(const znl_presence *presence)
{
    return presence->oldest;
}

znl_presence_entry *znl_presence_newer(const znl_presence_entry *entry)
{
    return entry->newer;
}

size_t znl_presence_count(const znl_presence *presence)
{
    return presence->map.count;
}
