/* map.h - hash map from byte strings to objects that carry their own link.
 *
 * The map owns only its bucket array; entries belong to the caller. Hashes are keyed with a random
 * key per process (SipHash), so that a peer cannot choose names that collide.
 *
 * Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_MAP_H
#define ZNL_BASE_MAP_H

#include "base/bytes.h"

typedef struct znl_map_entry {
    struct znl_map_entry *next;
    uint64_t hash;
    znl_frame key; /* borrowed: must live as long as the entry is in the map */
} znl_map_entry;

typedef struct znl_map {
    znl_map_entry **buckets;
    size_t bucket_count; /* a power of two, or 0 */
    size_t count;
} znl_map;

/* The keyed hash of a byte string, the same for the life of the process. Never 0: tables use that
 * for "anyone". */
uint64_t znl_map_hash(znl_frame key);

/* A hash that is the same in every process: SipHash-2-4 with a key of zeros. Not for maps. */
uint64_t znl_map_stable_hash(znl_frame bytes);

/* The entry with that key, or NULL. `hash` is znl_map_hash(key). */
znl_map_entry *znl_map_find(const znl_map *map, znl_frame key, uint64_t hash);

/* Puts `entry` (key and hash set, key not in the map) in. 0 or ZNL_E_NOMEM. */
int znl_map_put(znl_map *map, znl_map_entry *entry);

/* Takes `entry` out; it must be in. */
void znl_map_remove(znl_map *map, znl_map_entry *entry);

/* Walks all entries: pass NULL first, then the last one returned. The map may not change between
 * two calls, except that entries before the last one returned may be removed. */
znl_map_entry *znl_map_next(const znl_map *map, const znl_map_entry *after);

/* Frees the bucket array, not the entries. */
void znl_map_fini(znl_map *map);

#endif
