/* presence.h - who is alive, since when, and who has been silent too long.
 *
 * A map of ids with a list in the order of last sight, so a sweep touches only what expires.
 * Spec, section 10, "Sweep".
 *
 * Layer: state. Monotonic milliseconds are passed in. SPDX-License-Identifier: MIT */
#ifndef ZNL_STATE_PRESENCE_H
#define ZNL_STATE_PRESENCE_H

#include "base/map.h"

typedef struct znl_presence znl_presence;

typedef struct znl_presence_entry {
    znl_map_entry map; /* map.key is the id, map.hash its hash */
    struct znl_presence_entry *older, *newer;
    uint64_t since_ms;     /* came on line */
    uint64_t last_seen_ms; /* last sign of life */
    /* the caller's `extra` bytes follow, zeroed, aligned to 16: see znl_presence_extra() */
} znl_presence_entry;

/* `max` ids at most; each entry carries `extra` bytes for the caller. */
int znl_presence_new(znl_presence **out, size_t max, size_t extra);
void znl_presence_free(znl_presence *presence); /* entries included, no calls made */

void *znl_presence_extra(znl_presence_entry *entry);

znl_presence_entry *znl_presence_find(
        const znl_presence *presence, znl_frame id, uint64_t hash);

/* A sign of life of an entry that was found. */
void znl_presence_refresh(znl_presence *presence, znl_presence_entry *entry, uint64_t now_ms);

/* A sign of life: adds the id (*is_new = 1) or refreshes it. `hash` is znl_map_hash(id); the id is
 * copied. ZNL_E_LIMIT when full, ZNL_E_NOMEM, ZNL_E_TOO_BIG past ZNL_ID_BYTES_MAX. */
int znl_presence_touch(znl_presence *presence, znl_frame id, uint64_t hash, uint64_t now_ms,
        znl_presence_entry **entry, int *is_new);

/* Takes the entry out of the table; the caller frees it with znl_presence_drop() when done. */
void znl_presence_take(znl_presence *presence, znl_presence_entry *entry);
void znl_presence_drop(znl_presence_entry *entry);

/* The entry seen longest ago, or NULL: silent since now_ms - last_seen_ms. */
znl_presence_entry *znl_presence_oldest(const znl_presence *presence);

/* The entry seen next after `entry`, or NULL: walks all, oldest first. */
znl_presence_entry *znl_presence_newer(const znl_presence_entry *entry);

size_t znl_presence_count(const znl_presence *presence);

#endif
