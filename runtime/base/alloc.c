/* alloc.c - see alloc.h. SPDX-License-Identifier: MIT */
#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>

static long fail_after = -1;
static long counted;

void znl_alloc_fail_after(long n)
{
    fail_after = n;
    counted = 0;
}

long znl_alloc_count(void)
{
    return counted;
}

int znl_alloc_should_fail(void)
{
    if (__builtin_expect(fail_after < 0, 1))
        return 0;
    return counted++ >= fail_after;
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
