/* pending.c - see pending.h. SPDX-License-Identifier: MIT */
#include "state/pending.h"

#include "base/alloc.h"
#include "base/err.h"
#include "base/limits.h"
#include "base/random.h"

#include <string.h>

#define CHUNK 256u
#define SLOT_BITS 20u

_Static_assert(ZNL_PENDING_MAX <= 1u << SLOT_BITS, "a slot must fit its field in the id");

struct entry {
    znl_timer timer; /* first */
    znl_pending *table;
    uint64_t peer_hash;
    znl_waiter waiter;
    uint32_t slot;
    uint32_t generation; /* 24 bits, counted up at every use */
    int is_live;
    struct entry *next, *prev; /* ring of live entries; or `next` in the list of free ones */
    char id[ZNL_REQUEST_ID_TEXT];
};

struct znl_pending {
    znl_wheel *wheel;
    znl_pending_expired_fn expired;
    void *user;
    size_t limit, count;
    struct entry **chunks;
    size_t chunk_count;
    struct entry *free;
    struct entry *ring; /* the live entry to look at first; new ones come in behind all */
};

int znl_pending_new(znl_pending **out, znl_wheel *wheel, size_t limit,
        znl_pending_expired_fn expired, void *user)
{
    znl_pending *pending = znl_calloc(1, sizeof *pending);
    if (pending == NULL)
        return ZNL_E_NOMEM;
    pending->wheel = wheel;
    pending->limit = limit == 0 || limit > ZNL_PENDING_MAX ? ZNL_PENDING_MAX : limit;
    pending->expired = expired;
    pending->user = user;
    *out = pending;
    return 0;
}

void znl_pending_free(znl_pending *pending)
{
    if (pending == NULL)
        return;
    struct entry *entry = pending->ring;
    for (size_t i = 0; i < pending->count; i++, entry = entry->next)
        znl_wheel_stop(pending->wheel, &entry->timer);
    for (size_t i = 0; i < pending->chunk_count; i++)
        znl_free(pending->chunks[i]);
    znl_free(pending->chunks);
    znl_free(pending);
}

static int grow(znl_pending *pending)
{
    struct entry **chunks = znl_realloc(
            pending->chunks, (pending->chunk_count + 1) * sizeof *chunks);
    if (chunks == NULL)
        return ZNL_E_NOMEM;
    pending->chunks = chunks;
    struct entry *chunk = znl_calloc(CHUNK, sizeof *chunk);
    if (chunk == NULL)
        return ZNL_E_NOMEM;
    for (uint32_t i = CHUNK; i-- > 0;) {
        chunk[i].slot = (uint32_t)pending->chunk_count * CHUNK + i;
        chunk[i].table = pending;
        chunk[i].next = pending->free;
        pending->free = &chunk[i];
    }
    pending->chunks[pending->chunk_count++] = chunk;
    return 0;
}

static void retire(znl_pending *pending, struct entry *entry)
{
    znl_wheel_stop(pending->wheel, &entry->timer);
    entry->next->prev = entry->prev;
    entry->prev->next = entry->next;
    if (pending->ring == entry)
        pending->ring = entry->next != entry ? entry->next : NULL;
    entry->next = pending->free;
    pending->free = entry;
    entry->is_live = 0;
    pending->count--;
}

static void fire(znl_timer *timer)
{
    struct entry *entry = (struct entry *)(void *)timer;
    znl_pending *pending = entry->table;
    znl_waiter waiter = entry->waiter;
    uint64_t peer_hash = entry->peer_hash;
    retire(pending, entry);
    pending->expired(pending->user, waiter, peer_hash);
}

/* Writes the 8 hex digits of `value`, the lowest first. */
static void write_digits(uint32_t value, char out[8])
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t x = value;
    x = (x | x << 16) & UINT64_C(0x0000ffff0000ffff);
    x = (x | x << 8) & UINT64_C(0x00ff00ff00ff00ff);
    x = (x | x << 4) & (ones * 0x0f);
    uint64_t letters = (x + ones * 6) >> 4 & ones;
    x += ones * '0' + letters * ('a' - '0' - 10);
    if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
        x = __builtin_bswap64(x);
    memcpy(out, &x, sizeof x);
}

/* The digits of the id that carry slot (5) and generation (6) are those at 0-7 and 9-11, so that neither
 * the version nor the variant digit is touched. */
static void write_id(struct entry *entry)
{
    char *id = entry->id;
    char digits[16];
    uint32_t random[3];
    uint64_t value = (uint64_t)entry->generation << SLOT_BITS | entry->slot;
    znl_random_bytes(random, sizeof random);
    write_digits((uint32_t)value, id);
    write_digits((uint32_t)(value >> 32) | random[0] << 12, digits);
    write_digits(random[1], digits + 8);
    id[8] = id[13] = id[18] = id[23] = '-';
    memcpy(id + 9, digits, 4);
    memcpy(id + 14, digits + 4, 4);
    memcpy(id + 19, digits + 8, 4);
    memcpy(id + 24, digits + 12, 4);
    id[14] = '4';
    id[19] = "89ab"[random[1] & 3];
    write_digits(random[2], id + 28);
}

/* Of any text as long as an id; what is none of ours gives a slot that has another id, or is none. */
static uint32_t slot_of(znl_frame id)
{
    uint32_t slot = 0;
    for (size_t i = 0; i < SLOT_BITS / 4; i++) {
        uint32_t c = id.data[i];
        slot |= (((c & 15) + (c >> 6) * 9) & 15) << (4 * i);
    }
    return slot;
}

int znl_pending_add(znl_pending *pending, uint64_t peer_hash, uint64_t deadline_ms,
        znl_waiter waiter, char id[ZNL_REQUEST_ID_TEXT])
{
    if (pending->count >= pending->limit)
        return ZNL_E_LIMIT;
    if (pending->free == NULL) {
        int err = grow(pending);
        if (err != 0)
            return err;
    }
    struct entry *entry = pending->free;
    pending->free = entry->next;
    entry->peer_hash = peer_hash;
    entry->waiter = waiter;
    entry->generation = (entry->generation + 1) & 0xffffff;
    write_id(entry);
    entry->is_live = 1;
    if (pending->ring == NULL) {
        entry->next = entry->prev = pending->ring = entry;
    } else {
        entry->next = pending->ring;
        entry->prev = pending->ring->prev;
        entry->prev->next = entry->next->prev = entry;
    }
    pending->count++;
    znl_wheel_start(pending->wheel, &entry->timer, deadline_ms, fire);
    memcpy(id, entry->id, ZNL_REQUEST_ID_TEXT);
    return 0;
}

int znl_pending_take(znl_pending *pending, znl_frame id, uint64_t peer_hash, znl_waiter *waiter)
{
    if (id.size != ZNL_REQUEST_ID_TEXT)
        return ZNL_E_NOT_FOUND;
    uint32_t slot = slot_of(id);
    if (slot / CHUNK >= pending->chunk_count)
        return ZNL_E_NOT_FOUND;
    struct entry *entry = &pending->chunks[slot / CHUNK][slot % CHUNK];
    if (!entry->is_live || (entry->peer_hash != 0 && entry->peer_hash != peer_hash) ||
            memcmp(entry->id, id.data, ZNL_REQUEST_ID_TEXT) != 0)
        return ZNL_E_NOT_FOUND;
    *waiter = entry->waiter;
    retire(pending, entry);
    return 0;
}

int znl_pending_take_any(znl_pending *pending, uint64_t peer_hash, znl_waiter *waiter)
{
    struct entry *entry = pending->ring;
    for (size_t i = 0; i < pending->count; i++, entry = entry->next) {
        if (peer_hash == 0 || entry->peer_hash == peer_hash) {
            *waiter = entry->waiter;
            pending->ring = entry; /* go on from here */
            retire(pending, entry);
            return 0;
        }
    }
    return ZNL_E_NOT_FOUND;
}

size_t znl_pending_count(const znl_pending *pending)
{
    return pending->count;
}
