/* replay.c - see replay.h. SPDX-License-Identifier: MIT */
#include "security/replay.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <sodium.h>

#define TABLE_ENTRIES 4096u /* in a table, when the window is full */
#define TABLES_MIN 16u
#define TABLES_MAX 32768u
#define SLOTS_MIN 8u
#define SLICES 64u /* parts of a window in which entries are counted as expired together */
#define GATHER_BYTES 512u

/* 12 bytes; a fingerprint of 0 marks a free slot. */
struct slot {
    uint32_t low, high; /* fingerprint */
    uint32_t offset_ms; /* first seen, after the start of the generation */
};

/* Open addressing, linear probing, at most three quarters full. */
struct table {
    struct slot *slots;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
    uint64_t epoch; /* the generation its content belongs to: another one means empty */
};

struct generation {
    struct table *tables;
    uint64_t epoch;
    uint64_t start_ms;
    size_t count;
    size_t slices[SLICES];
};

struct znl_replay {
    struct generation current, previous;
    size_t old_count; /* entries of the previous generation in slices that are not over */
    size_t old_slice; /* the first of these */
    uint64_t window_ms;
    uint64_t now_ms; /* the latest seen */
    size_t max_nonces;
    size_t table_count; /* a power of two */
    uint8_t key[crypto_shorthash_KEYBYTES];
};

static void generation_trim(struct generation *generation, size_t table_count)
{
    for (size_t i = 0; i < table_count; i++)
        znl_free(generation->tables[i].slots);
    memset(generation->tables, 0, table_count * sizeof(struct table));
}

static void generation_begin(struct generation *generation, uint64_t epoch, uint64_t start_ms)
{
    generation->epoch = epoch;
    generation->start_ms = start_ms;
    generation->count = 0;
    memset(generation->slices, 0, sizeof generation->slices);
}

int znl_replay_new(znl_replay **out, uint64_t window_ms, size_t max_nonces, uint64_t now_ms)
{
    if (window_ms < ZNL_REPLAY_WINDOW_MS_MIN)
        window_ms = ZNL_REPLAY_WINDOW_MS_MIN;
    if (window_ms > ZNL_REPLAY_WINDOW_MS_MAX || max_nonces == 0 ||
            max_nonces > ZNL_REPLAY_NONCES_MAX)
        return ZNL_E_INVALID;
    znl_replay *replay = znl_calloc(1, sizeof *replay);
    if (replay == NULL)
        return ZNL_E_NOMEM;
    replay->window_ms = window_ms;
    replay->max_nonces = max_nonces;
    replay->now_ms = now_ms;
    replay->table_count = TABLES_MIN;
    while (replay->table_count < TABLES_MAX && replay->table_count * TABLE_ENTRIES < max_nonces)
        replay->table_count *= 2;
    replay->current.tables = znl_calloc(replay->table_count, sizeof(struct table));
    replay->previous.tables = znl_calloc(replay->table_count, sizeof(struct table));
    if (replay->current.tables == NULL || replay->previous.tables == NULL) {
        znl_replay_free(replay);
        return ZNL_E_NOMEM;
    }
    znl_random_bytes(replay->key, sizeof replay->key);
    generation_begin(&replay->previous, 1, now_ms);
    generation_begin(&replay->current, 2, now_ms);
    *out = replay;
    return 0;
}

void znl_replay_free(znl_replay *replay)
{
    if (replay == NULL)
        return;
    if (replay->current.tables != NULL)
        generation_trim(&replay->current, replay->table_count);
    if (replay->previous.tables != NULL)
        generation_trim(&replay->previous, replay->table_count);
    znl_free(replay->current.tables);
    znl_free(replay->previous.tables);
    sodium_memzero(replay->key, sizeof replay->key);
    znl_free(replay);
}

void znl_replay_clear(znl_replay *replay, uint64_t now_ms)
{
    uint64_t epoch = replay->current.epoch;
    generation_trim(&replay->current, replay->table_count);
    generation_trim(&replay->previous, replay->table_count);
    generation_begin(&replay->previous, epoch + 1, now_ms);
    generation_begin(&replay->current, epoch + 2, now_ms);
    replay->old_count = replay->old_slice = 0;
    replay->now_ms = now_ms;
}

/* Slices of the previous generation count until their last millisecond is past the window. */
static void forget_slices(znl_replay *replay)
{
    uint64_t gone_ms = replay->now_ms - replay->current.start_ms;
    size_t first = (size_t)(gone_ms * SLICES / replay->window_ms);
    while (replay->old_slice < first && replay->old_slice < SLICES)
        replay->old_count -= replay->previous.slices[replay->old_slice++];
}

/* Moves the time on, and with it the generations. The tables of one that is over are kept for
 * the next but one and emptied one by one when used, unless traffic has gone down. */
static void advance(znl_replay *replay, uint64_t now_ms)
{
    if (now_ms > replay->now_ms)
        replay->now_ms = now_ms;
    uint64_t age_ms = replay->now_ms - replay->current.start_ms;
    if (age_ms < replay->window_ms) {
        forget_slices(replay);
        return;
    }
    if (age_ms >= 2 * replay->window_ms) { /* all entries are past their time */
        znl_replay_clear(replay, replay->now_ms);
        return;
    }
    struct generation retired = replay->previous;
    replay->previous = replay->current;
    if (retired.count / 4 > replay->previous.count)
        generation_trim(&retired, replay->table_count);
    generation_begin(&retired, replay->previous.epoch + 1,
            replay->previous.start_ms + replay->window_ms);
    replay->current = retired;
    replay->old_count = replay->previous.count;
    replay->old_slice = 0;
    forget_slices(replay);
}

static uint64_t siphash(const znl_replay *replay, const uint8_t *bytes, size_t size)
{
    uint64_t hash;
    crypto_shorthash((uint8_t *)&hash, bytes, size, replay->key);
    return hash;
}

/* SipHash of the four lengths and the bytes of the four parts; of long parts, their hashes. */
static uint64_t fingerprint(const znl_replay *replay, const znl_frame parts[4])
{
    uint8_t text[16 + GATHER_BYTES];
    uint8_t *at = text;
    size_t size = 0;
    for (size_t i = 0; i < 4; i++) {
        znl_put_be32(at, (uint32_t)parts[i].size);
        at += 4;
        size = parts[i].size > GATHER_BYTES ? GATHER_BYTES + 1 : size + parts[i].size;
    }
    /* Long inputs are not mistaken for short ones: their lengths say more than what follows. */
    for (size_t i = 0; i < 4; i++) {
        if (size > GATHER_BYTES) {
            uint64_t hash = siphash(replay, parts[i].data, parts[i].size);
            memcpy(at, &hash, sizeof hash);
            at += sizeof hash;
        } else if (parts[i].size > 0) {
            memcpy(at, parts[i].data, parts[i].size);
            at += parts[i].size;
        }
    }
    uint64_t hash = siphash(replay, text, (size_t)(at - text));
    return hash != 0 ? hash : 1;
}

static struct table *table_of(
        const znl_replay *replay, const struct generation *generation, uint64_t print)
{
    return &generation->tables[(print >> 48) & (replay->table_count - 1)];
}

/* The slot that holds `print`, or the free one where it belongs. Some slot is always free. */
static struct slot *probe(const struct table *table, uint64_t print)
{
    uint32_t mask = table->capacity - 1;
    for (uint32_t i = (uint32_t)print & mask;; i = (i + 1) & mask) {
        struct slot *slot = &table->slots[i];
        uint64_t there = (uint64_t)slot->high << 32 | slot->low;
        if (there == print || there == 0)
            return slot;
    }
}

static const struct slot *look(
        const znl_replay *replay, const struct generation *generation, uint64_t print)
{
    const struct table *table = table_of(replay, generation, print);
    if (table->epoch != generation->epoch || table->capacity == 0)
        return NULL;
    const struct slot *slot = probe(table, print);
    return slot->low != 0 || slot->high != 0 ? slot : NULL;
}

static int table_resize(struct table *table, uint32_t capacity)
{
    struct slot *slots = znl_calloc(capacity, sizeof *slots);
    if (slots == NULL)
        return ZNL_E_NOMEM;
    struct table grown = {slots, capacity, table->count, table->epoch};
    for (uint32_t i = 0; i < table->capacity; i++) {
        const struct slot *slot = &table->slots[i];
        if (slot->low != 0 || slot->high != 0)
            *probe(&grown, (uint64_t)slot->high << 32 | slot->low) = *slot;
    }
    znl_free(table->slots);
    *table = grown;
    return 0;
}

static int insert(znl_replay *replay, uint64_t print)
{
    struct generation *generation = &replay->current;
    struct table *table = table_of(replay, generation, print);
    if (table->epoch != generation->epoch) {
        table->epoch = generation->epoch;
        if (table->capacity > SLOTS_MIN && table->count < table->capacity / 4) {
            znl_free(table->slots);
            table->slots = NULL;
            table->capacity = 0;
        } else if (table->capacity > 0) {
            memset(table->slots, 0, table->capacity * sizeof *table->slots);
        }
        table->count = 0;
    }
    if (table->count >= table->capacity / 4 * 3) {
        int err = table_resize(table, table->capacity > 0 ? table->capacity * 2 : SLOTS_MIN);
        if (err != 0)
            return err;
    }
    struct slot *slot = probe(table, print);
    uint64_t offset_ms = replay->now_ms - generation->start_ms;
    slot->low = (uint32_t)print;
    slot->high = (uint32_t)(print >> 32);
    slot->offset_ms = (uint32_t)offset_ms;
    table->count++;
    generation->count++;
    generation->slices[offset_ms * SLICES / replay->window_ms]++;
    return 0;
}

/* Has the memory of the slot fetched where look() or insert() begins. */
static void fetch(const znl_replay *replay, const struct generation *generation, uint64_t print)
{
    const struct table *table = table_of(replay, generation, print);
    if (table->epoch == generation->epoch && table->capacity > 0)
        __builtin_prefetch(&table->slots[(uint32_t)print & (table->capacity - 1)], 1);
}

znl_replay_key znl_replay_prepare(const znl_replay *replay, znl_frame kind, znl_frame node_id,
        znl_frame subject, znl_frame nonce)
{
    const znl_frame parts[4] = {kind, node_id, subject, nonce};
    if (kind.size == 0 && node_id.size == 0 && subject.size == 0 && nonce.size == 0)
        return (znl_replay_key){0};
    uint64_t print = fingerprint(replay, parts);
    fetch(replay, &replay->current, print);
    fetch(replay, &replay->previous, print);
    return (znl_replay_key){print};
}

int znl_replay_admit(znl_replay *replay, znl_replay_key key, uint64_t now_ms)
{
    uint64_t print = key.print;
    if (print == 0)
        return ZNL_E_REPLAY; /* as the reference does */
    advance(replay, now_ms);
    /* What is in the current generation is younger than a window. */
    if (look(replay, &replay->current, print) != NULL)
        return ZNL_E_REPLAY;
    const struct slot *old = look(replay, &replay->previous, print);
    if (old != NULL &&
            replay->now_ms - (replay->previous.start_ms + old->offset_ms) < replay->window_ms)
        return ZNL_E_REPLAY;
    if (znl_replay_count(replay) >= replay->max_nonces)
        return ZNL_E_REPLAY_FULL;
    return insert(replay, print);
}

int znl_replay_check(znl_replay *replay, znl_frame kind, znl_frame node_id, znl_frame subject,
        znl_frame nonce, uint64_t now_ms)
{
    return znl_replay_admit(
            replay, znl_replay_prepare(replay, kind, node_id, subject, nonce), now_ms);
}

size_t znl_replay_count(const znl_replay *replay)
{
    return replay->current.count + replay->old_count;
}
