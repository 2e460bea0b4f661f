/* slab.h - small blocks for one owner, fast; what is larger goes on to the allocator behind it.
 *
 * A range of addresses is reserved once and cut into chunks of 64 KiB, each for blocks of one size:
 * 16, 32, … 512 bytes. A block's address says which chunk it is of, so nothing is written beside
 * blocks, and whoever frees need not know who allocated. Chunks that become empty serve any size; those
 * past an allowance give their memory back to the system.
 *
 *   idle --taken for a size--> current --its blocks are used up--> full --a block is freed--> partial
 *    ^----------------------------- its last block is freed ---------------------------------'
 *
 * Without a range (the system refuses it, or it is used up) all blocks come from the allocator behind.
 *
 * One thread at a time. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_SLAB_H
#define ZNL_BASE_SLAB_H

#include <stddef.h>
#include <stdint.h>

#define ZNL_SLAB_BLOCK_MAX 512u
#define ZNL_SLAB_CHUNK_BYTES 65536u

/* Shaped as realloc(3) with the old size, and as lua_Alloc: block NULL allocates, new_size 0 frees. */
typedef void *(*znl_slab_behind)(void *user, void *block, size_t old_size, size_t new_size);

typedef struct znl_slab znl_slab;

/* `behind` outlives the slab; `range_bytes` is the most that small blocks may take, tried with less
 * where the system refuses. NULL: no memory. */
znl_slab *znl_slab_new(znl_slab_behind behind, void *user, size_t range_bytes);

/* Frees every small block at once; those behind are their owner's. Accepts NULL. */
void znl_slab_free(znl_slab *slab);

/* Allocates, resizes and frees. A block of `behind` may be given too: it goes back there. Making a block
 * smaller never fails. NULL: no memory, or new_size is 0. */
void *znl_slab_realloc(znl_slab *slab, void *block, size_t old_size, size_t new_size);

/* Where small blocks may lie: from *begin up to and with *last. Both NULL: behind only. */
void znl_slab_range(const znl_slab *slab, const void **begin, const void **last);

typedef struct znl_slab_counters {
    size_t used_chunks; /* that hold a block */
    size_t idle_chunks; /* empty, with their memory */
    size_t cold_chunks; /* empty, their memory given back */
    size_t blocks;      /* small ones in use */
} znl_slab_counters;
void znl_slab_count(const znl_slab *slab, znl_slab_counters *out);

#endif
