/* ring_test.c - a queue between two threads. SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/err.h"
#include "vm/ring.h"

#include <pthread.h>
#include <sched.h>

static void gives_items_in_order_and_refuses_when_full(void **state)
{
    (void)state;
    znl_ring *ring = NULL;
    int items[64];
    assert_int_equal(znl_ring_new(&ring, 5), 0); /* becomes 8 */
    for (int lap = 0; lap < 5; lap++) {
        assert_true(znl_ring_is_empty(ring));
        assert_null(znl_ring_pop(ring));
        for (int i = 0; i < 8; i++)
            assert_int_equal(znl_ring_push(ring, &items[i]), 0);
        assert_int_equal(znl_ring_push(ring, &items[8]), ZNL_E_BUSY);
        assert_int_equal(znl_ring_room(ring), 0);
        assert_false(znl_ring_is_empty(ring));
        assert_ptr_equal(znl_ring_pop(ring), &items[0]);
        assert_int_equal(znl_ring_room(ring), 1);
        assert_int_equal(znl_ring_push(ring, &items[8]), 0);
        for (int i = 1; i <= 8; i++)
            assert_ptr_equal(znl_ring_pop(ring), &items[i]);
        /* Another start for the next lap. */
        assert_int_equal(znl_ring_push(ring, &items[lap]), 0);
        assert_ptr_equal(znl_ring_pop(ring), &items[lap]);
    }
    znl_ring_free(ring);
}

static void refuses_sizes_and_missing_memory(void **state)
{
    (void)state;
    znl_ring *ring = NULL;
    assert_int_equal(znl_ring_new(&ring, 0), ZNL_E_INVALID);
    assert_int_equal(znl_ring_new(&ring, (1u << 24) + 1), ZNL_E_INVALID);
    znl_alloc_fail_after(0);
    assert_int_equal(znl_ring_new(&ring, 1), ZNL_E_NOMEM);
    znl_alloc_fail_after(-1);
    assert_null(ring);
    assert_int_equal(znl_ring_new(&ring, 1), 0);
    assert_int_equal(znl_ring_push(ring, &ring), 0);
    assert_int_equal(znl_ring_push(ring, &ring), ZNL_E_BUSY);
    znl_ring_free(ring);
    znl_ring_free(NULL);
}

#define COUNT 200000u

struct number {
    uint32_t value;
    uint32_t twice;
};

static struct number numbers[COUNT];

/* What is written before the push must be seen after the pop. */
static void *push_all(void *arg)
{
    znl_ring *ring = arg;
    for (uint32_t i = 0; i < COUNT; i++) {
        numbers[i].value = i + 1;
        numbers[i].twice = 2 * (i + 1);
        while (znl_ring_push(ring, &numbers[i]) != 0)
            sched_yield();
    }
    return NULL;
}

static void passes_everything_between_two_threads(void **state)
{
    (void)state;
    znl_ring *ring = NULL;
    pthread_t thread;
    uint32_t next = 1;
    assert_int_equal(znl_ring_new(&ring, 16), 0);
    assert_int_equal(pthread_create(&thread, NULL, push_all, ring), 0);
    while (next <= COUNT) {
        const struct number *number = znl_ring_pop(ring);
        if (number == NULL) {
            sched_yield();
            continue;
        }
        assert_int_equal(number->value, next);
        assert_int_equal(number->twice, 2 * next);
        next++;
    }
    pthread_join(thread, NULL);
    assert_true(znl_ring_is_empty(ring));
    znl_ring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(gives_items_in_order_and_refuses_when_full),
            cmocka_unit_test(refuses_sizes_and_missing_memory),
            cmocka_unit_test(passes_everything_between_two_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
