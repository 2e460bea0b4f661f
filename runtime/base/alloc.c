/* alloc.c - see alloc.h. SPDX-License-Identifier: MIT */
#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>

/* Relaxed: the hook is set while one thread runs; the others only must not tear a value. */
atomic_long znl_alloc_limit = -1;
static atomic_long counted;

void znl_alloc_fail_after(long n)
{
    atomic_store_explicit(&counted, 0, memory_order_relaxed);
    atomic_store_explicit(&znl_alloc_limit, n, memory_order_relaxed);
}

long znl_alloc_count(void)
{
    return atomic_load_explicit(&counted, memory_order_relaxed);
}

int znl_alloc_counts_out(void)
{
    long limit = atomic_load_explicit(&znl_alloc_limit, memory_order_relaxed);
    return atomic_fetch_add_explicit(&counted, 1, memory_order_relaxed) >= limit;
}

void *znl_malloc(size_t size)
{
    return znl_alloc_should_fail() ? NULL : malloc(size ? size : 1);
}

void *znl_calloc(size_t count, size_t size)
{
    return znl_alloc_should_fail() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *znl_realloc(void *block, size_t size)
{
    return znl_alloc_should_fail() ? NULL : realloc(block, size ? size : 1);
}

void znl_free(void *block)
{
    free(block);
}
