/* map.c - see map.h. SPDX-License-Identifier: MIT */
#include "base/map.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/random.h"

#include <pthread.h>
#include <sodium.h>

static uint8_t hash_key[crypto_shorthash_KEYBYTES];
static pthread_once_t hash_key_once = PTHREAD_ONCE_INIT;

static void make_hash_key(void)
{
    randombytes_buf(hash_key, sizeof hash_key);
}

static uint64_t hash_of(znl_frame key)
{
    uint8_t out[crypto_shorthash_BYTES];
    uint64_t hash;
    pthread_once(&hash_key_once, make_hash_key);
    crypto_shorthash(out, key.data, key.size, hash_key);
    memcpy(&hash, out, sizeof hash);
    return hash != 0 ? hash : 1;
}

/* What was hashed last, by a few bits of the bytes: names of peers come again and again, and to compare
 * one costs a tenth of hashing it. A peer that chooses names for it can but make others hash anew. */
#define RECENT 64u
#define RECENT_BYTES_MIN 8u
#define RECENT_BYTES_MAX 40u

_Static_assert(RECENT == 1u << (64 - 58), "the bits that choose one");

static _Thread_local struct recent {
    uint64_t hash;
    size_t size; /* 0: nothing yet */
    uint8_t bytes[RECENT_BYTES_MAX];
} recent[RECENT];

static uint64_t word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Of keys of 8 bytes or more. */
static inline int is_same(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint64_t differs = word_at(a + size - 8) ^ word_at(b + size - 8);
    for (size_t i = 0; i + 8 < size; i += 8)
        differs |= word_at(a + i) ^ word_at(b + i);
    return differs == 0;
}

uint64_t znl_map_hash(znl_frame key)
{
    if (key.size < RECENT_BYTES_MIN || key.size > RECENT_BYTES_MAX)
        return hash_of(key);
    uint64_t mix = word_at(key.data) ^ word_at(key.data + key.size - 8) * 3;
    struct recent *at = &recent[mix * UINT64_C(0x9e3779b97f4a7c15) >> 58];
    if (at->size == key.size && is_same(at->bytes, key.data, key.size))
        return at->hash;
    at->hash = hash_of(key);
    at->size = key.size;
    memcpy(at->bytes, key.data, key.size);
    return at->hash;
}

uint64_t znl_map_stable_hash(znl_frame bytes)
{
    static const uint8_t zeros[crypto_shorthash_KEYBYTES];
    uint8_t out[crypto_shorthash_BYTES];
    crypto_shorthash(out, bytes.data, bytes.size, zeros);
    uint64_t hash = 0; /* little-endian, as SipHash defines it */
    for (unsigned i = 0; i < sizeof out; i++)
        hash |= (uint64_t)out[i] << (8 * i);
    return hash;
}

znl_map_entry *znl_map_find(const znl_map *map, znl_frame key, uint64_t hash)
{
    if (map->bucket_count == 0)
        return NULL;
    znl_map_entry *entry = map->buckets[hash & (map->bucket_count - 1)];
    while (entry != NULL && (entry->hash != hash || !znl_frame_equal(entry->key, key)))
        entry = entry->next;
    return entry;
}

static int grow(znl_map *map)
{
    size_t bucket_count = map->bucket_count ? map->bucket_count * 2 : 16;
    znl_map_entry **buckets = znl_calloc(bucket_count, sizeof *buckets);
    if (buckets == NULL)
        return ZNL_E_NOMEM;
    for (size_t i = 0; i < map->bucket_count; i++) {
        znl_map_entry *entry = map->buckets[i];
        while (entry != NULL) {
            znl_map_entry *next = entry->next;
            znl_map_entry **bucket = &buckets[entry->hash & (bucket_count - 1)];
            entry->next = *bucket;
            *bucket = entry;
            entry = next;
        }
    }
    znl_free(map->buckets);
    map->buckets = buckets;
    map->bucket_count = bucket_count;
    return 0;
}

int znl_map_put(znl_map *map, znl_map_entry *entry)
{
    if (map->count >= map->bucket_count) {
        int err = grow(map);
        if (err != 0 && map->bucket_count == 0)
            return err; /* a full map only gets slower */
    }
    znl_map_entry **bucket = &map->buckets[entry->hash & (map->bucket_count - 1)];
    entry->next = *bucket;
    *bucket = entry;
    map->count++;
    return 0;
}

void znl_map_remove(znl_map *map, znl_map_entry *entry)
{
    znl_map_entry **at = &map->buckets[entry->hash & (map->bucket_count - 1)];
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    map->count--;
}

znl_map_entry *znl_map_next(const znl_map *map, const znl_map_entry *after)
{
    size_t bucket = 0;
    if (after != NULL) {
        if (after->next != NULL)
            return after->next;
        bucket = (size_t)(after->hash & (map->bucket_count - 1)) + 1;
    }
    for (; bucket < map->bucket_count; bucket++)
        if (map->buckets[bucket] != NULL)
            return map->buckets[bucket];
    return NULL;
}

void znl_map_fini(znl_map *map)
{
    znl_free(map->buckets);
    *map = (znl_map){0};
}
