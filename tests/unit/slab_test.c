/* slab_test.c - small blocks: content, reuse, memory given back, no memory. SPDX-License-Identifier: MIT */
#include "base/alloc.h"
#include "base/slab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define RANGE_BYTES ((size_t)64 << 20)
#define BLOCKS_PER_CHUNK(size) (ZNL_SLAB_CHUNK_BYTES / (size))

/* The allocator behind: counts, and fails on demand. */
static struct {
    size_t blocks;
    int is_empty;
} behind;

static void *realloc_behind(void *user, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    assert_ptr_equal(user, &behind);
    if (new_size == 0) {
        behind.blocks -= block != NULL;
        free(block);
        return NULL;
    }
    if (behind.is_empty && new_size > old_size)
        return NULL;
    behind.blocks += block == NULL;
    return realloc(block, new_size);
}

static znl_slab *slab;

static void *take(size_t size)
{
    return znl_slab_realloc(slab, NULL, 0, size);
}

static void give(void *block, size_t size)
{
    assert_null(znl_slab_realloc(slab, block, size, 0));
}

static znl_slab_counters count(void)
{
    znl_slab_counters counters;
    znl_slab_count(slab, &counters);
    return counters;
}

static int setup(void **state)
{
    (void)state;
    memset(&behind, 0, sizeof behind);
    slab = znl_slab_new(realloc_behind, &behind, RANGE_BYTES);
    return slab == NULL;
}

static int teardown(void **state)
{
    (void)state;
    znl_alloc_fail_after(-1);
    znl_slab_free(slab);
    return behind.blocks != 0;
}

static void small_blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    uint8_t *blocks[ZNL_SLAB_BLOCK_MAX + 1];
    for (size_t size = 1; size <= ZNL_SLAB_BLOCK_MAX; size++) {
        blocks[size] = take(size);
        assert_non_null(blocks[size]);
        assert_int_equal((uintptr_t)blocks[size] % 16, 0);
        memset(blocks[size], (int)(size & 0xff), size);
    }
    assert_int_equal(behind.blocks, 0);
    assert_int_equal(count().blocks, ZNL_SLAB_BLOCK_MAX);
    for (size_t size = 1; size <= ZNL_SLAB_BLOCK_MAX; size++)
        for (size_t i = 0; i < size; i++)
            assert_int_equal(blocks[size][i], size & 0xff);
    for (size_t size = 1; size <= ZNL_SLAB_BLOCK_MAX; size++)
        give(blocks[size], size);
    assert_int_equal(count().blocks, 0);
}

static void large_blocks_come_from_behind(void **state)
{
    (void)state;
    void *block = take(ZNL_SLAB_BLOCK_MAX + 1);
    assert_non_null(block);
    assert_int_equal(behind.blocks, 1);
    assert_int_equal(count().blocks, 0);
    block = znl_slab_realloc(slab, block, ZNL_SLAB_BLOCK_MAX + 1, 100000);
    assert_non_null(block);
    assert_int_equal(behind.blocks, 1);
    give(block, 100000);
    assert_null(take(0));
}

static void content_survives_every_change_of_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {
            1, 16, 17, 600, 512, 513, 40, 33, 48, 5000, 70000, 500, 15, 512};
    uint8_t *block = take(1);
    size_t size = 1;
    block[0] = 7;
    for (size_t i = 1; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t kept = sizes[i] < size ? sizes[i] : size;
        block = znl_slab_realloc(slab, block, size, sizes[i]);
        assert_non_null(block);
        for (size_t at = 0; at < kept; at++)
            assert_int_equal(block[at], (uint8_t)(7 + at));
        size = sizes[i];
        for (size_t at = 0; at < size; at++)
            block[at] = (uint8_t)(7 + at);
    }
    give(block, size);
    assert_int_equal(count().blocks, 0);
}

static void freed_blocks_serve_again(void **state)
{
    (void)state;
    enum { MANY = 20000 };
    void **blocks = calloc(MANY, sizeof *blocks);
    for (size_t i = 0; i < MANY; i++)
        blocks[i] = take(48);
    size_t chunks = count().used_chunks;
    assert_int_equal(chunks, (MANY + BLOCKS_PER_CHUNK(48) - 1) / BLOCKS_PER_CHUNK(48));
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < MANY; i += 2)
            give(blocks[i], 48);
        for (size_t i = 0; i < MANY; i += 2)
            blocks[i] = take(48);
        assert_int_equal(count().used_chunks, chunks);
    }
    for (size_t i = 0; i < MANY; i++)
        give(blocks[i], 48);
    assert_int_equal(count().used_chunks, 1); /* the current one */
    free(blocks);
}

/* What is empty serves another size; what is more than is in use gives its memory back. */
static void empty_chunks_serve_any_size_and_go_cold(void **state)
{
    (void)state;
    enum { CHUNKS = 200 };
    size_t many = (size_t)CHUNKS * BLOCKS_PER_CHUNK(512);
    void **blocks = calloc(many, sizeof *blocks);
    for (size_t i = 0; i < many; i++)
        blocks[i] = memset(take(512), 1, 512);
    assert_int_equal(count().used_chunks, CHUNKS);
    for (size_t i = 0; i < many; i++)
        give(blocks[i], 512);
    znl_slab_counters empty = count();
    assert_int_equal(empty.used_chunks + empty.idle_chunks + empty.cold_chunks, CHUNKS);
    assert_true(empty.cold_chunks >= CHUNKS / 4);
    assert_true(empty.idle_chunks >= 16);
    many = (size_t)CHUNKS * BLOCKS_PER_CHUNK(256);
    blocks = realloc(blocks, many * sizeof *blocks);
    for (size_t i = 0; i < many; i++)
        blocks[i] = memset(take(256), 2, 256);
    znl_slab_counters again = count();
    assert_int_equal(again.idle_chunks + again.cold_chunks, 0);
    assert_true(again.used_chunks <= CHUNKS + 1);
    for (size_t i = many; i-- > 0;)
        give(blocks[i], 256);
    free(blocks);
}

static void a_used_up_range_leaves_it_to_the_allocator_behind(void **state)
{
    (void)state;
    size_t fits = RANGE_BYTES / 512;
    void **blocks = calloc(fits + 10, sizeof *blocks);
    for (size_t i = 0; i < fits + 10; i++)
        assert_non_null(blocks[i] = take(512));
    assert_int_equal(count().blocks, fits);
    assert_int_equal(behind.blocks, 10);
    behind.is_empty = 1;
    assert_null(take(16));
    for (size_t i = 0; i < fits + 10; i++)
        give(blocks[i], 512);
    assert_int_equal(behind.blocks, 0);
    void *block = take(16);
    assert_non_null(block);
    give(block, 16);
    free(blocks);
}

static void smaller_always_succeeds(void **state)
{
    (void)state;
    size_t fits = RANGE_BYTES / 512;
    void **blocks = calloc(fits, sizeof *blocks);
    uint8_t *large = take(1000);
    memset(large, 9, 1000);
    for (size_t i = 0; i < fits; i++)
        blocks[i] = take(512);
    behind.is_empty = 1;
    assert_null(znl_slab_realloc(slab, large, 1000, 2000));
    large = znl_slab_realloc(slab, large, 1000, 100);
    assert_non_null(large);
    assert_int_equal(large[99], 9);
    assert_null(znl_slab_realloc(slab, blocks[0], 512, 513));
    assert_ptr_equal(znl_slab_realloc(slab, blocks[0], 512, 20), blocks[0]);
    give(blocks[0], 20);
    for (size_t i = 1; i < fits; i++)
        give(blocks[i], 512);
    give(large, 100);
    assert_int_equal(count().blocks, 0);
    free(blocks);
}

static void without_a_range_all_comes_from_behind(void **state)
{
    (void)state;
    znl_slab *kept = slab;
    slab = znl_slab_new(realloc_behind, &behind, 0);
    void *block = take(16);
    assert_non_null(block);
    assert_int_equal(behind.blocks, 1);
    block = znl_slab_realloc(slab, block, 16, 32);
    assert_int_equal(count().blocks, 0);
    give(block, 32);
    znl_slab_free(slab);
    slab = kept;
    for (long n = 0; n < 1; n++) {
        znl_alloc_fail_after(n);
        assert_null(znl_slab_new(realloc_behind, &behind, RANGE_BYTES));
    }
    znl_slab_free(NULL);
}

/* Any order of operations: no two blocks overlap. */
static void blocks_never_overlap(void **state)
{
    (void)state;
    enum { SLOTS = 3000, ROUNDS = 200000 };
    struct {
        uint8_t *at;
        size_t size;
    } *slots = calloc(SLOTS, sizeof *slots);
    uint32_t dice = 12345;
    for (size_t round = 0; round < ROUNDS; round++) {
        dice = dice * 1664525u + 1013904223u;
        size_t i = (dice >> 8) % SLOTS;
        dice = dice * 1664525u + 1013904223u;
        size_t size = (dice >> 28) == 0 ? 0 : (dice >> 12) % 700;
        uint8_t mark = (uint8_t)(i * 31 + 1);
        size_t kept = size < slots[i].size ? size : slots[i].size;
        slots[i].at = znl_slab_realloc(slab, slots[i].at, slots[i].size, size);
        assert_true((slots[i].at != NULL) == (size > 0));
        for (size_t at = 0; at < kept; at++)
            assert_int_equal(slots[i].at[at], mark);
        if (size > 0)
            memset(slots[i].at, mark, size);
        slots[i].size = size;
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].at != NULL)
            give(slots[i].at, slots[i].size);
    assert_int_equal(count().blocks, 0);
    free(slots);
}

/* Lets this process have so many bytes more; in pages, the first number of statm counts addresses, the sixth what can
 * be written to. */
static struct rlimit limit_more(__rlimit_resource_t what, size_t bytes)
{
    unsigned long pages[6];
    struct rlimit before, limit;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(fscanf(file, "%lu", &pages[i]), 1);
    fclose(file);
    assert_int_equal(getrlimit(what, &before), 0);
    limit = before;
    limit.rlim_cur = pages[what == RLIMIT_AS ? 0 : 5] * (size_t)sysconf(_SC_PAGESIZE) + bytes;
    assert_int_equal(setrlimit(what, &limit), 0);
    return before;
}

/* Where a process may have a GiB, a range of 4 GiB does not take it away from others. */
static void little_is_taken_where_little_is_left(void **state)
{
    (void)state;
    const size_t some = (size_t)1 << 30, most = some / 4 * 3;
    static const struct {
        __rlimit_resource_t what;
        int protection;
    } limits[] = {{RLIMIT_AS, PROT_NONE}, {RLIMIT_DATA, PROT_READ | PROT_WRITE}};
    znl_slab *kept = slab;
    for (size_t i = 0; i < 2; i++) {
        struct rlimit before = limit_more(limits[i].what, some);
        slab = znl_slab_new(realloc_behind, &behind, (size_t)4 << 30);
        void *others = mmap(
                NULL, most, limits[i].protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_int_equal(setrlimit(limits[i].what, &before), 0);
        assert_ptr_not_equal(others, MAP_FAILED);
        munmap(others, most);
        assert_non_null(slab);
        void *block = take(100);
        assert_int_equal(count().blocks, 1); /* there is a range */
        give(block, 100);
        znl_slab_free(slab);
    }
    slab = kept;
}

/* The system gives no memory for small blocks any more: they come from behind. */
static void without_memory_blocks_come_from_behind(void **state)
{
    (void)state;
    enum { BLOCKS = 3 };
    void *blocks[BLOCKS];
    struct rlimit before = limit_more(RLIMIT_DATA, 0);
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = take(512);
    assert_int_equal(setrlimit(RLIMIT_DATA, &before), 0);
    assert_int_equal(count().blocks, 0);
    assert_int_equal(behind.blocks, BLOCKS);
    for (size_t i = 0; i < BLOCKS; i++)
        give(blocks[i], 512);
    void *block = take(512);
    assert_int_equal(count().blocks, 1);
    give(block, 512);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
            CASE(small_blocks_are_aligned_and_apart),
            CASE(large_blocks_come_from_behind),
            CASE(content_survives_every_change_of_size),
            CASE(freed_blocks_serve_again),
            CASE(empty_chunks_serve_any_size_and_go_cold),
            CASE(a_used_up_range_leaves_it_to_the_allocator_behind),
            CASE(smaller_always_succeeds),
            CASE(without_a_range_all_comes_from_behind),
            CASE(blocks_never_overlap),
            CASE(little_is_taken_where_little_is_left),
            CASE(without_memory_blocks_come_from_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
