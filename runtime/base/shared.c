/* shared.c - see shared.h. SPDX-License-Identifier: MIT */
#include "base/shared.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/map.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SHARDS 16u /* a power of two; more than the threads that meet at once */
/* Rounds of making room while other threads take it away again. */
#define ROUNDS_MAX 1000u
/* A full dictionary whose entries expire all the time must not be looked through at every write. */
#define SWEEP_PAUSE_MS 50u

struct entry {
    znl_map_entry
            link; /* first; its key lies behind the entry, a string value behind the key */
    struct entry *newer, *older; /* order of use within the shard */
    uint64_t expires_ms;         /* 0: never */
    double number;
    size_t value_size;
    znl_shared_type type;
    uint8_t bytes[];
};

struct shard {
    pthread_mutex_t lock;
    znl_map map;
    struct entry *newest, *oldest;
    uint64_t earliest_ms; /* nothing expires before; UINT64_MAX: nothing expires */
    uint64_t swept_ms;    /* when all entries were looked at last */
} __attribute__((aligned(64)));

struct znl_shared {
    struct shard shards[SHARDS];
    znl_map_entry link; /* among the dictionaries; its key lies behind */
    znl_shared_limits limits;
    atomic_size_t entries, bytes; /* reserved: never above the limits */
    atomic_ullong evicted, expired;
    uint8_t name[];
};

static pthread_mutex_t dictionaries_lock = PTHREAD_MUTEX_INITIALIZER;
static znl_map dictionaries;

/* --- the dictionaries ------------------------------------------------------------------------- */

static int shared_new(
        znl_shared **out, znl_frame name, uint64_t hash, const znl_shared_limits *limits)
{
    void *block = NULL;
    size_t size = sizeof(znl_shared) + name.size;
    /* The shards are aligned to cache lines, which plain malloc does not do. */
    if (znl_alloc_should_fail() || posix_memalign(&block, _Alignof(znl_shared), size) != 0)
        return ZNL_E_NOMEM;
    znl_shared *shared = block;
    memset(shared, 0, sizeof *shared);
    memcpy(shared->name, name.data, name.size);
    shared->limits = *limits;
    shared->link.key = znl_frame_of(shared->name, name.size);
    shared->link.hash = hash;
    for (size_t i = 0; i < SHARDS; i++) {
        pthread_mutex_init(&shared->shards[i].lock, NULL); /* cannot fail on Linux */
        shared->shards[i].earliest_ms = UINT64_MAX;
    }
    int err = znl_map_put(&dictionaries, &shared->link);
    if (err != 0) {
        free(shared);
        return err;
    }
    *out = shared;
    return 0;
}

static int is_same(const znl_shared_limits *a, const znl_shared_limits *b)
{
    return a->max_entries == b->max_entries && a->max_bytes == b->max_bytes &&
            !a->evict == !b->evict;
}

int znl_shared_open(znl_shared **out, znl_frame name, const znl_shared_limits *limits)
{
    static const znl_shared_limits defaults = {
            ZNL_SHARED_ENTRIES_DEFAULT, ZNL_SHARED_BYTES_DEFAULT, 1};
    uint64_t hash = znl_map_hash(name);
    int err = 0;
    pthread_mutex_lock(&dictionaries_lock);
    znl_map_entry *found = znl_map_find(&dictionaries, name, hash);
    if (found != NULL) {
        znl_shared *shared =
                (znl_shared *)(void *)((uint8_t *)found - offsetof(znl_shared, link));
        if (limits != NULL && !is_same(limits, &shared->limits))
            err = ZNL_E_EXISTS;
        else
            *out = shared;
    } else if (dictionaries.count >= ZNL_SHARED_DICTS_MAX) {
        err = ZNL_E_LIMIT;
    } else {
        err = shared_new(out, name, hash, limits != NULL ? limits : &defaults);
    }
    pthread_mutex_unlock(&dictionaries_lock);
    return err;
}

void znl_shared_free_all(void)
{
    pthread_mutex_lock(&dictionaries_lock);
    znl_map_entry *at;
    while ((at = znl_map_next(&dictionaries, NULL)) != NULL) {
        znl_shared *shared = (znl_shared *)(void *)((uint8_t *)at - offsetof(znl_shared, link));
        znl_shared_flush(shared);
        znl_map_remove(&dictionaries, at);
        for (size_t i = 0; i < SHARDS; i++) {
            znl_map_fini(&shared->shards[i].map);
            pthread_mutex_destroy(&shared->shards[i].lock);
        }
        free(shared);
    }
    znl_map_fini(&dictionaries);
    dictionaries = (znl_map){0};
    pthread_mutex_unlock(&dictionaries_lock);
}

znl_shared_limits znl_shared_limits_of(const znl_shared *shared)
{
    return shared->limits;
}

/* --- room ------------------------------------------------------------------------------------- */

static size_t cost(size_t key_size, size_t value_size)
{
    return ZNL_SHARED_ENTRY_BYTES + key_size + value_size;
}

static size_t cost_of(const struct entry *entry)
{
    return cost(entry->link.key.size, entry->value_size);
}

static void give_back(znl_shared *shared, size_t entries, size_t bytes)
{
    atomic_fetch_sub(&shared->entries, entries);
    atomic_fetch_sub(&shared->bytes, bytes);
}

static int take_one(atomic_size_t *used, size_t more, size_t max)
{
    size_t now = atomic_load(used);
    do {
        if (more > max || now > max - more)
            return 0;
    } while (!atomic_compare_exchange_weak(used, &now, now + more));
    return 1;
}

/* Takes the room at once, or nothing and returns 0. */
static int reserve(znl_shared *shared, size_t entries, size_t bytes)
{
    if (!take_one(&shared->entries, entries, shared->limits.max_entries))
        return 0;
    if (take_one(&shared->bytes, bytes, shared->limits.max_bytes))
        return 1;
    give_back(shared, entries, 0);
    return 0;
}

/* --- entries; the lock of their shard is held ------------------------------------------------- */

static struct shard *shard_of(znl_shared *shared, uint64_t hash)
{
    return &shared->shards[(hash >> 32) & (SHARDS - 1)]; /* the map uses the low bits */
}

static void unlink_use(struct shard *shard, struct entry *entry)
{
    if (entry->newer != NULL)
        entry->newer->older = entry->older;
    else
        shard->newest = entry->older;
    if (entry->older != NULL)
        entry->older->newer = entry->newer;
    else
        shard->oldest = entry->newer;
}

static void link_newest(struct shard *shard, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = shard->newest;
    if (shard->newest != NULL)
        shard->newest->newer = entry;
    else
        shard->oldest = entry;
    shard->newest = entry;
}

static void touch(struct shard *shard, struct entry *entry)
{
    if (shard->newest == entry)
        return;
    unlink_use(shard, entry);
    link_newest(shard, entry);
}

/* Leaves its room taken. */
static void drop_entry(struct shard *shard, struct entry *entry)
{
    znl_map_remove(&shard->map, &entry->link);
    unlink_use(shard, entry);
    znl_free(entry);
}

static void remove_entry(znl_shared *shared, struct shard *shard, struct entry *entry)
{
    give_back(shared, 1, cost_of(entry));
    drop_entry(shard, entry);
}

static int is_expired(const struct entry *entry, uint64_t now_ms)
{
    return entry->expires_ms != 0 && entry->expires_ms <= now_ms;
}

/* The entry of that key; an expired one is removed instead. */
static struct entry *find(
        znl_shared *shared, struct shard *shard, znl_frame key, uint64_t hash, uint64_t now_ms)
{
    struct entry *entry = (struct entry *)(void *)znl_map_find(&shard->map, key, hash);
    if (entry == NULL || !is_expired(entry, now_ms))
        return entry;
    atomic_fetch_add(&shared->expired, 1);
    remove_entry(shared, shard, entry);
    return NULL;
}

static void set_expiry(
        struct shard *shard, struct entry *entry, uint64_t ttl_ms, uint64_t now_ms)
{
    entry->expires_ms = ttl_ms == 0 ? 0 : now_ms + ttl_ms;
    if (ttl_ms != 0 && entry->expires_ms < shard->earliest_ms)
        shard->earliest_ms = entry->expires_ms;
}

/* Removes what has expired; costs nothing when nothing can have. Returns how many. */
static size_t sweep(znl_shared *shared, struct shard *shard, uint64_t now_ms)
{
    size_t removed = 0;
    if (shard->earliest_ms > now_ms)
        return 0;
    shard->swept_ms = now_ms;
    shard->earliest_ms = UINT64_MAX;
    for (struct entry *entry = shard->oldest; entry != NULL;) {
        struct entry *newer = entry->newer;
        if (is_expired(entry, now_ms)) {
            remove_entry(shared, shard, entry);
            removed++;
        } else if (entry->expires_ms != 0 && entry->expires_ms < shard->earliest_ms) {
            shard->earliest_ms = entry->expires_ms;
        }
        entry = newer;
    }
    atomic_fetch_add(&shared->expired, removed);
    return removed;
}

/* --- making room; no lock is held ------------------------------------------------------------- */

/* Leaves out shards that were looked through less than `pause_ms` ago. */
static size_t sweep_all(znl_shared *shared, uint64_t now_ms, uint64_t pause_ms)
{
    size_t removed = 0;
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &shared->shards[i];
        pthread_mutex_lock(&shard->lock);
        if (pause_ms == 0 || now_ms - shard->swept_ms >= pause_ms)
            removed += sweep(shared, shard, now_ms);
        pthread_mutex_unlock(&shard->lock);
    }
    return removed;
}

/* Removes one entry, if possible of the shard of `hash`, but never the one of `key` itself: its
 * room is counted on. */
static int evict_one(znl_shared *shared, znl_frame key, uint64_t hash)
{
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = shard_of(shared, hash + ((uint64_t)i << 32));
        pthread_mutex_lock(&shard->lock);
        struct entry *victim = shard->oldest;
        if (victim != NULL && victim->link.hash == hash &&
                znl_frame_equal(victim->link.key, key))
            victim = victim->newer;
        if (victim != NULL)
            remove_entry(shared, shard, victim);
        pthread_mutex_unlock(&shard->lock);
        if (victim != NULL) {
            atomic_fetch_add(&shared->evicted, 1);
            return 1;
        }
    }
    return 0;
}

static int make_room(
        znl_shared *shared, znl_frame key, uint64_t hash, uint64_t now_ms, size_t *evicted)
{
    if (sweep_all(shared, now_ms, SWEEP_PAUSE_MS) > 0)
        return 0;
    if (!shared->limits.evict || !evict_one(shared, key, hash))
        return ZNL_E_NOMEM;
    ++*evicted;
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------- */

static struct entry *entry_new(znl_frame key, uint64_t hash, const znl_shared_value *value)
{
    size_t value_size = value->type == ZNL_SHARED_STRING ? value->text.size : 0;
    struct entry *entry = znl_malloc(sizeof *entry + key.size + value_size);
    if (entry == NULL)
        return NULL;
    memcpy(entry->bytes, key.data, key.size);
    if (value_size > 0)
        memcpy(entry->bytes + key.size, value->text.data, value_size);
    entry->link.hash = hash;
    entry->link.key = znl_frame_of(entry->bytes, key.size);
    entry->expires_ms = 0;
    entry->number = value->number;
    entry->value_size = value_size;
    entry->type = value->type;
    return entry;
}

/* Puts `entry` in the place of `old` (NULL: none). 0; ZNL_E_BUSY without room for it, ZNL_E_NOMEM
 * (never when there was an old one: the map need not grow): then `entry` is the caller's still. */
static int store(
        znl_shared *shared, struct shard *shard, struct entry *old, struct entry *entry)
{
    size_t more = cost_of(entry);
    size_t less = old != NULL ? cost_of(old) : 0;
    size_t entries = old != NULL ? 0 : 1;
    size_t bytes = more > less ? more - less : 0;
    if (!reserve(shared, entries, bytes))
        return ZNL_E_BUSY;
    if (old != NULL)
        drop_entry(shard, old);
    if (less > more)
        give_back(shared, 0, less - more);
    int err = znl_map_put(&shard->map, &entry->link);
    if (err != 0) {
        give_back(shared, 1, more);
        return err;
    }
    link_newest(shard, entry);
    return 0;
}

int znl_shared_put(znl_shared *shared, znl_shared_rule rule, znl_frame key,
        const znl_shared_value *value, uint64_t ttl_ms, uint64_t now_ms, size_t *evicted)
{
    uint64_t hash = znl_map_hash(key);
    struct shard *shard = shard_of(shared, hash);
    int err = ZNL_E_NOMEM;
    *evicted = 0;
    struct entry *entry = entry_new(key, hash, value);
    if (entry == NULL)
        return ZNL_E_NOMEM;
    if (cost_of(entry) > shared->limits.max_bytes) {
        znl_free(entry);
        return ZNL_E_TOO_BIG;
    }
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        pthread_mutex_lock(&shard->lock);
        struct entry *old = find(shared, shard, key, hash, now_ms);
        if (rule == ZNL_SHARED_ADD && old != NULL)
            err = ZNL_E_EXISTS;
        else if (rule == ZNL_SHARED_REPLACE && old == NULL)
            err = ZNL_E_NOT_FOUND;
        else if ((err = store(shared, shard, old, entry)) == 0)
            set_expiry(shard, entry, ttl_ms, now_ms);
        pthread_mutex_unlock(&shard->lock);
        if (err == 0)
            return 0;
        if (err != ZNL_E_BUSY)
            break;
        err = make_room(shared, key, hash, now_ms, evicted);
        if (err != 0)
            break;
        err = ZNL_E_NOMEM; /* should this have been the last round */
    }
    znl_free(entry);
    return err;
}

int znl_shared_incr(znl_shared *shared, znl_frame key, double by, const double *init,
        uint64_t ttl_ms, uint64_t now_ms, double *result, size_t *evicted)
{
    uint64_t hash = znl_map_hash(key);
    struct shard *shard = shard_of(shared, hash);
    *evicted = 0;
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        int err = 0;
        pthread_mutex_lock(&shard->lock);
        struct entry *entry = find(shared, shard, key, hash, now_ms);
        if (entry == NULL)
            err = ZNL_E_NOT_FOUND;
        else if (entry->type != ZNL_SHARED_NUMBER)
            err = ZNL_E_INVALID;
        if (err == 0) {
            *result = entry->number += by;
            touch(shard, entry);
        }
        pthread_mutex_unlock(&shard->lock);
        if (err != ZNL_E_NOT_FOUND || init == NULL)
            return err;
        /* Another thread may add it first; then that one counts, and this one adds to it. */
        znl_shared_value value = {.type = ZNL_SHARED_NUMBER, .number = *init + by};
        size_t more = 0;
        err = znl_shared_put(shared, ZNL_SHARED_ADD, key, &value, ttl_ms, now_ms, &more);
        *evicted += more;
        if (err == 0)
            *result = value.number;
        if (err != ZNL_E_EXISTS)
            return err;
    }
    return ZNL_E_NOMEM;
}

/* --- reading and removing --------------------------------------------------------------------- */

int znl_shared_get(znl_shared *shared, znl_frame key, uint64_t now_ms, uint8_t *buffer,
        size_t capacity, znl_shared_value *out)
{
    uint64_t hash = znl_map_hash(key);
    struct shard *shard = shard_of(shared, hash);
    int err = 0;
    pthread_mutex_lock(&shard->lock);
    struct entry *entry = find(shared, shard, key, hash, now_ms);
    if (entry == NULL) {
        err = ZNL_E_NOT_FOUND;
    } else {
        touch(shard, entry);
        out->type = entry->type;
        out->number = entry->number;
        out->text = znl_frame_of(buffer, entry->value_size);
        if (entry->value_size > capacity)
            err = ZNL_E_TOO_BIG;
        else if (entry->value_size > 0)
            memcpy(buffer, entry->bytes + entry->link.key.size, entry->value_size);
    }
    pthread_mutex_unlock(&shard->lock);
    return err;
}

int znl_shared_delete(znl_shared *shared, znl_frame key, uint64_t now_ms)
{
    uint64_t hash = znl_map_hash(key);
    struct shard *shard = shard_of(shared, hash);
    pthread_mutex_lock(&shard->lock);
    struct entry *entry = find(shared, shard, key, hash, now_ms);
    if (entry != NULL)
        remove_entry(shared, shard, entry);
    pthread_mutex_unlock(&shard->lock);
    return entry != NULL ? 0 : ZNL_E_NOT_FOUND;
}

void znl_shared_flush(znl_shared *shared)
{
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *shard = &shared->shards[i];
        pthread_mutex_lock(&shard->lock);
        while (shard->oldest != NULL)
            remove_entry(shared, shard, shard->oldest);
        shard->earliest_ms = UINT64_MAX;
        pthread_mutex_unlock(&shard->lock);
    }
}

size_t znl_shared_size(znl_shared *shared, uint64_t now_ms)
{
    sweep_all(shared, now_ms, 0);
    return atomic_load(&shared->entries);
}

/* Appends the keys of one shard, its lock held. */
static int list_shard(struct shard *shard, size_t max, size_t *count, uint8_t **block,
        size_t *used, size_t *capacity)
{
    for (struct entry *entry = shard->newest; entry != NULL && *count < max;
            entry = entry->older) {
        uint32_t size = (uint32_t)entry->link.key.size;
        size_t need = *used + sizeof size + size;
        if (need > *capacity) {
            uint8_t *more = znl_realloc(*block, need * 2);
            if (more == NULL)
                return ZNL_E_NOMEM;
            *block = more;
            *capacity = need * 2;
        }
        memcpy(*block + *used, &size, sizeof size);
        memcpy(*block + *used + sizeof size, entry->link.key.data, size);
        *used = need;
        ++*count;
    }
    return 0;
}

int znl_shared_keys(
        znl_shared *shared, size_t max, uint64_t now_ms, uint8_t **block, size_t *count)
{
    size_t used = 0, capacity = 0;
    int err = 0;
    *block = NULL;
    *count = 0;
    for (size_t i = 0; i < SHARDS && err == 0; i++) {
        struct shard *shard = &shared->shards[i];
        pthread_mutex_lock(&shard->lock);
        sweep(shared, shard, now_ms);
        err = list_shard(shard, max, count, block, &used, &capacity);
        pthread_mutex_unlock(&shard->lock);
    }
    if (err != 0) {
        znl_free(*block);
        *block = NULL;
        *count = 0;
    }
    return err;
}

void znl_shared_stats_of(znl_shared *shared, znl_shared_stats *out)
{
    out->entries = atomic_load(&shared->entries);
    out->bytes = atomic_load(&shared->bytes);
    out->evicted = atomic_load(&shared->evicted);
    out->expired = atomic_load(&shared->expired);
}
