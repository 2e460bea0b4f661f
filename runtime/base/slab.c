/* slab.c - see slab.h. SPDX-License-Identifier: MIT */
#include "base/slab.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STEP_BYTES 16u
#define CLASSES (ZNL_SLAB_BLOCK_MAX / STEP_BYTES)
#define RANGE_BYTES_MIN ((size_t)16 << 20)
#define RANGE_PARTS 16u     /* of all addresses that are left, the range is one at most */
#define OPEN_CHUNKS 64u     /* can be written to from then on */
#define IDLE_CHUNKS_MIN 16u /* kept in any case; beyond, as many as are in use */
/* LuaJIT has 47 bits for an address. */
#define ADDRESS_END ((uintptr_t)1 << 47)

/* What is known of a chunk lies apart from it, in a cache line of its own. */
typedef struct chunk {
    _Alignas(64) void *free; /* freed blocks, each pointing to the next */
    uint32_t used_count;
    uint32_t
            turning_count; /* when so many are left after one was freed, the chunk changes lists */
    uint8_t *fresh;        /* blocks never used begin here */
    uint32_t fresh_count;      /* of them */
    uint32_t block_class;      /* blocks are (class + 1) * 16 bytes */
    struct chunk *next, *prev; /* in the list it is in */
} chunk;

/* turning_count of a chunk that is current: never. */
#define NEVER UINT32_MAX

struct znl_slab {
    uint8_t *range;
    size_t range_bytes;
    znl_slab_behind behind;
    void *user;
    chunk *current[CLASSES]; /* where the next block of the class comes from */
    chunk *partial[CLASSES];
    chunk *chunks;
    size_t chunk_count, open_count,
            begun_count; /* all there may be, that can be used, that ever were */
    chunk *idle, *cold;
    size_t idle_count, cold_count;
    chunk none; /* current where there is no chunk: always used up */
};

static uint8_t *bytes_of(const znl_slab *slab, const chunk *c)
{
    return slab->range + (size_t)(c - slab->chunks) * ZNL_SLAB_CHUNK_BYTES;
}

static size_t used_chunks(const znl_slab *slab)
{
    return slab->begun_count - slab->idle_count - slab->cold_count;
}

/* --- life -------------------------------------------------------------------------------------- */

/* NULL: the system refuses. MAP_NORESERVE: it costs addresses, and memory only where it is touched. */
static void *map(size_t bytes, int protection)
{
    void *range = mmap(
            NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return range != MAP_FAILED ? range : NULL;
}

/* What cannot be written to does not count as memory, where that is limited or must not be promised twice. Addresses
 * may be limited too: the range is a small part of those that are left. No huge pages: of those, a few small blocks
 * would make 2 MiB. */
static void reserve(znl_slab *slab, size_t bytes)
{
    for (; bytes >= RANGE_BYTES_MIN; bytes /= 2) {
        uint8_t *range = map(bytes * RANGE_PARTS, PROT_NONE);
        if (range == NULL)
            continue;
        munmap(range + bytes, bytes * (RANGE_PARTS - 1));
        madvise(range, bytes, MADV_NOHUGEPAGE);
        if ((uintptr_t)range > ADDRESS_END - bytes) {
            munmap(range, bytes);
            return;
        }
        slab->range = range;
        slab->range_bytes = bytes;
        return;
    }
}

znl_slab *znl_slab_new(znl_slab_behind behind, void *user, size_t range_bytes)
{
    znl_slab *slab = znl_alloc_should_fail() ? NULL : aligned_alloc(64, sizeof *slab);
    if (slab == NULL)
        return NULL;
    memset(slab, 0, sizeof *slab);
    slab->behind = behind;
    slab->user = user;
    for (size_t i = 0; i < CLASSES; i++)
        slab->current[i] = &slab->none;
    reserve(slab, range_bytes);
    slab->chunk_count = slab->range_bytes / ZNL_SLAB_CHUNK_BYTES;
    if (slab->chunk_count > 0)
        slab->chunks = map(slab->chunk_count * sizeof *slab->chunks, PROT_READ | PROT_WRITE);
    if (slab->chunk_count > 0 && slab->chunks == NULL) {
        znl_slab_free(slab);
        return NULL;
    }
    return slab;
}

void znl_slab_free(znl_slab *slab)
{
    if (slab == NULL)
        return;
    if (slab->range != NULL)
        munmap(slab->range, slab->range_bytes);
    if (slab->chunks != NULL)
        munmap(slab->chunks, slab->chunk_count * sizeof *slab->chunks);
    free(slab);
}

void znl_slab_range(const znl_slab *slab, const void **begin, const void **last)
{
    *begin = slab->range;
    *last = slab->range != NULL ? slab->range + slab->range_bytes - 1 : NULL;
}

/* --- lists ------------------------------------------------------------------------------------- */

static void push(chunk **list, chunk *c)
{
    c->prev = NULL;
    c->next = *list;
    if (c->next != NULL)
        c->next->prev = c;
    *list = c;
}

static void take_out(chunk **list, chunk *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        *list = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
}

/* The chunk has no block in use and is in no list. */
static void retire(znl_slab *slab, chunk *c)
{
    if (slab->idle_count < IDLE_CHUNKS_MIN || slab->idle_count < used_chunks(slab)) {
        push(&slab->idle, c);
        slab->idle_count++;
        return;
    }
    madvise(bytes_of(slab, c), ZNL_SLAB_CHUNK_BYTES, MADV_DONTNEED);
    push(&slab->cold, c);
    slab->cold_count++;
}

/* Some more of the range can be written to. True when that is so. */
static int open_more(znl_slab *slab)
{
    size_t count = slab->chunk_count - slab->open_count;
    if (count > OPEN_CHUNKS)
        count = OPEN_CHUNKS;
    if (count == 0 ||
            mprotect(slab->range + slab->open_count * ZNL_SLAB_CHUNK_BYTES,
                    count * ZNL_SLAB_CHUNK_BYTES, PROT_READ | PROT_WRITE) != 0)
        return 0;
    slab->open_count += count;
    return 1;
}

/* An empty chunk, NULL when the range is used up, or no memory is left. */
static chunk *take_empty(znl_slab *slab)
{
    chunk *c = slab->idle;
    if (c != NULL) {
        take_out(&slab->idle, c);
        slab->idle_count--;
    } else if (slab->cold != NULL) {
        c = slab->cold;
        take_out(&slab->cold, c);
        slab->cold_count--;
    } else if (slab->begun_count < slab->open_count || open_more(slab)) {
        c = &slab->chunks[slab->begun_count++];
    }
    return c;
}

/* --- blocks ------------------------------------------------------------------------------------ */

static size_t class_of(size_t size)
{
    return (size - 1) / STEP_BYTES;
}

/* Makes a chunk with room the current one of the class. NULL: there is none. */
static chunk *refill(znl_slab *slab, size_t block_class)
{
    uint32_t fitting = ZNL_SLAB_CHUNK_BYTES / (uint32_t)((block_class + 1) * STEP_BYTES);
    chunk *full = slab->current[block_class];
    chunk *c = slab->partial[block_class];
    if (c != NULL) {
        take_out(&slab->partial[block_class], c);
    } else {
        c = take_empty(slab);
        if (c == NULL)
            return NULL;
        c->free = NULL;
        c->fresh = bytes_of(slab, c);
        c->fresh_count = fitting;
        c->block_class = (uint32_t)block_class;
    }
    full->turning_count = fitting - 1;
    c->turning_count = NEVER;
    slab->current[block_class] = c;
    return c;
}

/* The class has no freed block at hand. NULL when the range is used up. */
static __attribute__((noinline)) void *allocate_slowly(znl_slab *slab, size_t block_class)
{
    chunk *c = slab->current[block_class];
    if (c->fresh_count == 0)
        c = refill(slab, block_class);
    if (c == NULL)
        return NULL;
    c->used_count++;
    void *block = c->free;
    if (block != NULL) {
        memcpy(&c->free, block, sizeof c->free);
        return block;
    }
    block = c->fresh;
    c->fresh += (block_class + 1) * STEP_BYTES;
    c->fresh_count--;
    return block;
}

static inline void *allocate(znl_slab *slab, size_t block_class)
{
    chunk *c = slab->current[block_class];
    void *block = c->free;
    if (__builtin_expect(block == NULL, 0))
        return allocate_slowly(slab, block_class);
    memcpy(&c->free, block, sizeof c->free);
    c->used_count++;
    return block;
}

/* A full chunk has room again, or a partial one is empty. */
static __attribute__((noinline)) void turn(znl_slab *slab, chunk *c)
{
    if (c->used_count > 0) {
        push(&slab->partial[c->block_class], c);
        c->turning_count = 0;
        return;
    }
    take_out(&slab->partial[c->block_class], c); /* chunks hold many blocks: it was not full */
    retire(slab, c);
}

static inline void give_back(znl_slab *slab, chunk *c, void *block)
{
    memcpy(block, &c->free, sizeof c->free);
    c->free = block;
    if (__builtin_expect(--c->used_count == c->turning_count, 0))
        turn(slab, c);
}

/* The chunk of a block; NULL when the block is of the allocator behind. */
static chunk *chunk_of(const znl_slab *slab, const void *block)
{
    uintptr_t offset = (uintptr_t)block - (uintptr_t)slab->range;
    return offset < slab->range_bytes ? &slab->chunks[offset / ZNL_SLAB_CHUNK_BYTES] : NULL;
}

/* A block of another size with the same content. */
static __attribute__((noinline)) void *move(
        znl_slab *slab, chunk *from, void *block, size_t old_size, size_t new_size)
{
    int is_small = new_size <= ZNL_SLAB_BLOCK_MAX;
    if (from == NULL && !is_small)
        return slab->behind(slab->user, block, old_size, new_size);
    if (from != NULL && is_small && from->block_class == class_of(new_size))
        return block;
    void *other = is_small ? allocate(slab, class_of(new_size)) : NULL;
    if (other == NULL && from != NULL)
        other = slab->behind(slab->user, NULL, 0, new_size);
    if (other == NULL && from == NULL) /* it stays where it is, smaller */
        return slab->behind(slab->user, block, old_size, new_size);
    if (other == NULL)
        return new_size <= old_size ? block : NULL;
    memcpy(other, block, old_size < new_size ? old_size : new_size);
    if (from != NULL)
        give_back(slab, from, block);
    else
        slab->behind(slab->user, block, old_size, 0);
    return other;
}

/* Of the allocator behind, or none. */
static __attribute__((noinline)) void *allocate_behind(znl_slab *slab, size_t size)
{
    return size > 0 ? slab->behind(slab->user, NULL, 0, size) : NULL;
}

void *znl_slab_realloc(znl_slab *slab, void *block, size_t old_size, size_t new_size)
{
    if (block == NULL) {
        /* A size of 0 has no class either. */
        void *made = new_size - 1 < ZNL_SLAB_BLOCK_MAX ? allocate(slab, class_of(new_size))
                                                       : NULL;
        return __builtin_expect(made != NULL, 1) ? made : allocate_behind(slab, new_size);
    }
    chunk *c = chunk_of(slab, block);
    if (new_size > 0)
        return move(slab, c, block, old_size, new_size);
    if (__builtin_expect(c != NULL, 1))
        give_back(slab, c, block);
    else
        slab->behind(slab->user, block, old_size, 0);
    return NULL;
}

void znl_slab_count(const znl_slab *slab, znl_slab_counters *out)
{
    out->used_chunks = used_chunks(slab);
    out->idle_chunks = slab->idle_count;
    out->cold_chunks = slab->cold_count;
    out->blocks = 0;
    for (size_t i = 0; i < slab->begun_count; i++)
        out->blocks += slab->chunks[i].used_count;
}
