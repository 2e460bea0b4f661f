/* alloc.h - memory with overflow checks, and allocations that fail on demand in tests.
 *
 * Any thread. Layer: base. SPDX-License-Identifier: MIT */
#ifndef ZNL_BASE_ALLOC_H
#define ZNL_BASE_ALLOC_H

#include <stdatomic.h>
#include <stddef.h>

void *znl_malloc(size_t size);
void *znl_calloc(size_t count, size_t size);
void *znl_realloc(void *block, size_t size);
void znl_free(void *block);

/* Test hook: the n-th allocation from now (0 = the next) and all after it fail; negative turns
 * the hook off. It also counts for lua_Alloc, see vm.h, and for all threads together. */
void znl_alloc_fail_after(long n);

/* The n of the hook, negative while it is off; and one more allocation while it is on: must it fail? */
extern atomic_long znl_alloc_limit;
int znl_alloc_counts_out(void);

/* True when the hook says this allocation must fail; counts it. */
static inline int znl_alloc_should_fail(void)
{
    return __builtin_expect(
                   atomic_load_explicit(&znl_alloc_limit, memory_order_relaxed) >= 0, 0) &&
            znl_alloc_counts_out();
}

/* Allocations counted since the hook was last set. */
long znl_alloc_count(void);

#endif
