/* shared.h - dictionaries that all threads of the process share, by name.
 *
 * A dictionary maps keys to a string, a number or a boolean, each with an optional expiry. It is
 * divided into shards with a lock each; LIMITS COUNT FOR THE WHOLE, over all shards. When a new
 * value finds no room, expired entries go first; then, as in nginx's shared dictionaries, the
 * least recently used entries of the key's own shard (of the others, when that one is empty), or,
 * with `evict` off, the write fails with ZNL_E_NOMEM.
 *
 * A dictionary once opened stays until znl_shared_free_all(), so that data outlives the version of
 * the code that wrote it. Every operation is atomic. Times are monotonic milliseconds, passed in.
 *
 * Any thread. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_SHARED_H
#define ZNL_BASE_SHARED_H

#include "base/bytes.h"

typedef struct znl_shared znl_shared;

typedef struct znl_shared_limits {
    size_t max_entries;
    size_t max_bytes; /* keys, values, and ZNL_SHARED_ENTRY_BYTES for each entry */
    int evict;        /* make room by removing what was not used for longest */
} znl_shared_limits;

typedef enum znl_shared_type {
    ZNL_SHARED_STRING,
    ZNL_SHARED_NUMBER,
    ZNL_SHARED_BOOLEAN
} znl_shared_type;

typedef struct znl_shared_value {
    znl_shared_type type;
    double number;  /* of a number; 0 or 1 of a boolean */
    znl_frame text; /* of a string: borrowed from the caller */
} znl_shared_value;

typedef enum znl_shared_rule {
    ZNL_SHARED_SET,    /* whether it is there or not */
    ZNL_SHARED_ADD,    /* ZNL_E_EXISTS when it is there */
    ZNL_SHARED_REPLACE /* ZNL_E_NOT_FOUND when it is not */
} znl_shared_rule;

typedef struct znl_shared_stats {
    size_t entries; /* expired ones that were not removed yet count */
    size_t bytes;
    uint64_t evicted, expired; /* removed so far to make room; for their age */
} znl_shared_stats;

/* Finds the dictionary `name`, or makes it with `limits` (NULL: the defaults of limits.h). It is
 * the same for everyone and is never freed before the end. 0; ZNL_E_EXISTS when it is there with
 * other limits than those given; ZNL_E_LIMIT past ZNL_SHARED_DICTS_MAX of them; ZNL_E_NOMEM. */
int znl_shared_open(znl_shared **out, znl_frame name, const znl_shared_limits *limits);

/* Frees every dictionary, when no other thread is left that knows one. */
void znl_shared_free_all(void);

/* The limits in force. */
znl_shared_limits znl_shared_limits_of(const znl_shared *shared);

/* Reads. A string is copied to `buffer` when it fits, and out->text borrows from there. 0,
 * ZNL_E_NOT_FOUND, or ZNL_E_TOO_BIG: then out->text.size says what is needed now. */
int znl_shared_get(znl_shared *shared, znl_frame key, uint64_t now_ms, uint8_t *buffer,
        size_t capacity, znl_shared_value *out);

/* Writes; ttl_ms 0 means for ever. 0, what `rule` says, ZNL_E_TOO_BIG (larger than the whole
 * dictionary may be) or ZNL_E_NOMEM. Sets *evicted to the number of entries that had to go, which
 * had not expired; also on failure. */
int znl_shared_put(znl_shared *shared, znl_shared_rule rule, znl_frame key,
        const znl_shared_value *value, uint64_t ttl_ms, uint64_t now_ms, size_t *evicted);

/* Adds `by` to a number, keeping its expiry. An absent key begins at *init with ttl_ms; `init` NULL
 * makes that ZNL_E_NOT_FOUND. Sets *result to the sum. 0, ZNL_E_INVALID (no number there), or as
 * znl_shared_put. */
int znl_shared_incr(znl_shared *shared, znl_frame key, double by, const double *init,
        uint64_t ttl_ms, uint64_t now_ms, double *result, size_t *evicted);

/* Removes. 0 or ZNL_E_NOT_FOUND. */
int znl_shared_delete(znl_shared *shared, znl_frame key, uint64_t now_ms);

/* Removes everything. */
void znl_shared_flush(znl_shared *shared);

/* Entries that have not expired. */
size_t znl_shared_size(znl_shared *shared, uint64_t now_ms);

/* At most `max` keys, in no order, one after the other in a block: u32 length (of this machine),
 * bytes. Sets *block (owned by the caller, znl_free) and *count. 0 or ZNL_E_NOMEM. */
int znl_shared_keys(
        znl_shared *shared, size_t max, uint64_t now_ms, uint8_t **block, size_t *count);

void znl_shared_stats_of(znl_shared *shared, znl_shared_stats *out);

#endif
